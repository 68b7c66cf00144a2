"""A model and what is known about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from pellucid.core import Tokenizer

from ._card import Card


@dataclass(frozen=True)
class Loaded:
    """A model and what is known about it.

    Args:
        model: the network, on the device asked for; its train/eval flags are as its maker left them.
        name: what to call it; a file's folder is not part of the name.
        card: its model card, for shipped models.
        bounds: least and greatest value that the model wants its inputs to have, None if unknown; images in [0, 1] are
            scaled to it.
        input_shape: shape of one input, None if unknown.
        class_names: one per logit, empty if unknown.
        notes: what a report on the model must say.
        tokenizer: what makes the ids of texts that the model reads; None for models of other inputs.
        records: files of the training that made the model, by kind: its recipe, and what it recorded.
        number: what the model's one number is, for a model that measures and does not tell classes apart.
    """

    model: nn.Module
    name: str
    card: Card | None = None
    bounds: tuple[float, float] | None = None
    input_shape: tuple[int, ...] | None = None
    class_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    tokenizer: Tokenizer | None = None
    records: Mapping[str, Path] = field(default_factory=dict)
    number: str = ""
