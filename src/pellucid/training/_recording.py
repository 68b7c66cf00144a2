"""What can be recorded while a training runs, as a recipe names it; the trainer knows only the form."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal, Protocol, runtime_checkable

import msgspec
from msgspec import Meta
from torch import nn

from pellucid.core import Dataset, RecipeError, Stream
from pellucid.data import sample, unit

from ._diversity_recorder import FILE, DiversityRecorder, OnNotice

Positive = Annotated[int, Meta(ge=1)]


@runtime_checkable
class Recorder(Protocol):
    """Watches a training step by step and keeps what it sees in the folder of the run."""

    def start(self, step: int) -> None:
        """Begin, or go on with what was recorded up to `step`."""

    def step(self, loss: float, *, rate: float) -> None:
        """Take in one finished step."""

    def flush(self) -> None:
        """Write everything: a checkpoint follows."""


class DiversityRecording(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="feature-diversity"
):
    """Record how alike features and gradients of different samples are, layer by layer, and warn of a flat start.

    Args:
        every, gradients_every: steps between two measurements of the features, and of the gradients.
        layers: names of the layers to watch; the activation modules if not given.
        reduce: "flatten" compares whole feature maps, "mean" their means over places; if not given, "mean" for texts.
        samples: training samples to measure on, balanced over the classes; the same ones whatever the seed.
        patience: steps for which the loss may stand still before there is a warning.
    """

    every: Positive = 50
    gradients_every: Positive = 200
    layers: tuple[str, ...] | None = None
    reduce: Literal["flatten", "mean"] | None = None
    samples: Annotated[int, Meta(ge=2)] = 256
    patience: Positive = 200

    def build(self, model: nn.Module, data: Dataset, folder: Path, *, on_notice: OnNotice) -> DiversityRecorder:
        """Return the recorder of a training on `data` in the folder of its run.

        Raises:
            RecipeError: the settings do not fit the model.
        """
        if self.gradients_every % self.every:
            raise RecipeError(
                f"record.gradients_every is {self.gradients_every}, no multiple of record.every = {self.every}"
            )
        probe = sample(data, min(self.samples, len(data)), rng=Stream(0).child("record"))
        try:
            return DiversityRecorder(
                model,
                (unit(probe.inputs), probe.labels),
                every=self.every,
                gradients_every=self.gradients_every,
                layers=self.layers,
                reduce=self.reduce or ("mean" if probe.modality == "text" else "flatten"),
                patience=self.patience,
                ids=probe.ids,
                file=folder / FILE,
                on_notice=on_notice,
            )
        except ValueError as error:
            raise RecipeError(f"record.layers: {error}") from error


RECORDS: Mapping[str, type[DiversityRecording]] = MappingProxyType({"feature-diversity": DiversityRecording})
"""What a recipe's table `record` can name."""
