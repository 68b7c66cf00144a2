"""What a shipped model is, what it was trained on and how good it is: the card beside its weights."""

from __future__ import annotations

from typing import Any

import msgspec

from pellucid.core import Number


class Figure(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One measured number of a model card, on the full test set.

    Args:
        name: stable key, such as `accuracy` or `robust_accuracy[linf,0.1]`.
        label: what was measured and how, for people.
        value: the number, a share in 0..1 unless the label says otherwise.
        low, high: ends of the 95 % interval, None where there is none.
        n: number of samples it rests on.
    """

    name: str
    label: str
    value: Number
    low: Number = None
    high: Number = None
    n: int


class Card(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model card.

    Args:
        name: the shipped name.
        architecture: `kind`, a key of `nn.models.MODELS`, and the keyword arguments of that model.
        parameters: number of trained parameters.
        task: what the model does, one sentence.
        class_names: one per logit.
        bounds: least and greatest legal input value, None for unbounded features.
        input_shape: shape of one input, channels first.
        data: what it was trained on, with the number of samples.
        license: license of the weights and of the data.
        recipe: path of the recipe in the repository.
        command: the command that makes the weights again.
        hardware, date, seed, minutes: where, when, from which seed and how long it was trained.
        figures: measured numbers on the full test set.
        sha256: digest of the weights file.
        notes: limits, one sentence each.
        tokenizer_sha256: digest of the tokenizer beside the weights, for models of texts.
        objective: what the training lowered, as the recipe's table; empty where unknown.
        start: the weights that training began with, as `from` and `sha256`; empty for random ones.
        class_counts: training samples of each class, one number per logit; empty where unknown.
    """

    name: str
    architecture: dict[str, Any]
    parameters: int
    task: str
    class_names: tuple[str, ...]
    bounds: tuple[float, float] | None
    input_shape: tuple[int, ...]
    data: str
    license: str
    recipe: str
    command: str
    hardware: str
    date: str
    seed: int
    minutes: float
    figures: tuple[Figure, ...]
    sha256: str
    notes: tuple[str, ...] = ()
    tokenizer_sha256: str = ""
    objective: dict[str, Any] = {}
    start: dict[str, str] = {}
    class_counts: tuple[int, ...] = ()

    def figure(self, name: str) -> Figure | None:
        """Return the figure of that name, or None."""
        return next((figure for figure in self.figures if figure.name == name), None)
