"""What was recorded of a training's features and gradients: lines of JSON, and what they say about its first phase."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from pellucid.core import DataError, Number, Panel, plain, read_text, showing

from ._diversity import initial_similarity
from ._diversity_meter import FEATURE_COLUMNS, GRADIENT_COLUMNS
from ._first_phase import FirstPhase, first_phase

FILE = "feature-diversity.jsonl"
"""Name of the record in the folder of a training."""

PATIENCE = 200
ROSE = 0.02
ALIKE = 0.95
MOST_BYTES = 2**30


class DiversityHead(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The first line of a record: what was watched.

    Args:
        layers, kinds: the layers whose features are compared, in the order of the forward pass, and their classes.
        gradient_layers: the layers by whose outputs gradients are taken.
        sample_ids: ids of the probe's samples.
        input_similarity: mean cosine of what the first linear layer is given.
        every, gradients_every: steps between two measurements.
        reduce: what is compared of feature maps.
        biases: whether a linear or convolutional layer has a bias.
        patience: steps for which the loss may stand still.
        schema: version of this file.
    """

    layers: tuple[str, ...]
    kinds: tuple[str, ...]
    gradient_layers: tuple[str, ...]
    sample_ids: tuple[int, ...]
    input_similarity: Number
    every: int
    gradients_every: int
    reduce: str
    biases: bool = True
    patience: int = PATIENCE
    schema: int = 1


class DiversityRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One line of a record: where the training stood after `step` steps.

    Args:
        step: steps done.
        losses: of the steps since the line before; None for steps at learning rate 0.
        features: per layer the numbers of `DiversityMeter.features`; empty if they were not measured here.
        gradients: per gradient layer the numbers of `DiversityMeter.both`; empty if not measured here.
    """

    step: int
    losses: tuple[Number, ...] = ()
    features: tuple[tuple[Number, ...], ...] = ()
    gradients: tuple[tuple[Number, ...], ...] = ()


@dataclass(frozen=True)
class LayerPhase:
    """The similarity of one layer's features during the first phase: at its start, its highest, and at its end."""

    layer: str
    start: float
    highest: float
    end: float

    @property
    def rose(self) -> float:
        """How much more alike the features became."""
        return self.highest - self.start


def _panel(report: PhaseReport) -> Panel:
    facts = [("lasted", f"{report.phase.lasted:,} steps" + ("" if report.phase.end is not None else " so far"))]
    facts.append(("trapped", "yes" if report.trapped else "no"))
    rows = tuple((one.layer, plain(one.start), plain(one.highest), plain(one.end)) for one in report.layers)
    return Panel(
        "The first phase of training",
        "The loss stands still while features of different samples are alike."
        if report.trapped
        else "No trap: the loss began to fall soon, or the features did not grow alike."
        if report.phase.end is not None
        else "The loss has not begun to fall in the steps recorded.",
        facts=tuple(facts),
        columns=("layer", "similarity at the start", "highest", "at the end of the phase"),
        rows=rows,
    )


@showing(_panel)
@dataclass(frozen=True)
class PhaseReport:
    """Was the training caught in a flat first phase?

    Args:
        phase: how long the loss stood still.
        layers: the similarity of each layer's features during that time.
        trapped: the phase lasted longer than the patience, and in some layer the similarity rose by more than 0.02 or
            passed 0.95.
    """

    phase: FirstPhase
    layers: tuple[LayerPhase, ...]
    trapped: bool

    @property
    def worst(self) -> LayerPhase | None:
        """The layer whose features grew alike most, or are most alike where none grew; None without measurements."""
        known = [one for one in self.layers if math.isfinite(one.highest)]
        rising = [one for one in known if one.rose > ROSE]
        if rising:
            return max(rising, key=lambda one: one.rose)
        return max(known, key=lambda one: one.highest, default=None)


@dataclass(frozen=True)
class DiversityHistory:
    """A record of a training's features and gradients.

    Args:
        head: what was watched.
        rows: what was measured, in the order of the steps.
    """

    head: DiversityHead
    rows: tuple[DiversityRow, ...]

    @classmethod
    def read(cls, path: str | Path) -> DiversityHistory:
        """Read the record in a file, or in the folder of a training; a last line that is cut off is left out.

        Raises:
            DataError: there is no record, or it cannot be read.
        """
        file = Path(path) / FILE if Path(path).is_dir() else Path(path)
        if not file.is_file():
            raise DataError(f"there is no record of features in {path}; train with a [record] table in the recipe")
        lines = read_text(file, max_bytes=MOST_BYTES).splitlines(keepends=True)
        whole = [line for line in lines if line.endswith("\n")]
        try:
            head = msgspec.json.decode(whole[0], type=DiversityHead)
            rows = [msgspec.json.decode(line, type=DiversityRow) for line in whole[1:]]
        except (IndexError, msgspec.DecodeError) as error:
            raise DataError(f"{file} is no record of features: {error}") from None
        shapes = {(len(row.features), *map(len, row.features)) for row in rows if row.features}
        shapes |= {(len(row.gradients), *map(len, row.gradients)) for row in rows if row.gradients}
        wanted = {
            (len(head.layers), *[len(FEATURE_COLUMNS)] * len(head.layers)),
            (len(head.gradient_layers), *[len(GRADIENT_COLUMNS)] * len(head.gradient_layers)),
        }
        if not shapes <= wanted or any(b.step < a.step for a, b in pairwise(rows)):
            raise DataError(f"{file} is no record of features: its lines do not fit the first one")
        return cls(head, tuple(rows))

    def write(self, path: str | Path) -> None:
        """Write the record as lines of JSON."""
        with Path(path).open("w", encoding="utf-8") as file:
            file.writelines(msgspec.json.encode(line).decode() + "\n" for line in (self.head, *self.rows))

    @property
    def steps(self) -> int:
        """Training steps recorded."""
        return self.rows[-1].step if self.rows else 0

    @cached_property
    def losses(self) -> tuple[Number, ...]:
        """The loss of each step; None where the learning rate was 0 or the loss is unknown."""
        return tuple(loss for row in self.rows for loss in row.losses)

    @cached_property
    def measured(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Steps at which features, and at which gradients were measured."""
        return tuple(r.step for r in self.rows if r.features), tuple(r.step for r in self.rows if r.gradients)

    def features(self, column: str) -> Tensor:
        """Return one number of the features over time: `(measurements, layers)`, NaN where it is undefined.

        Args:
            column: similarity, intra, inter, dead or size; see `DiversityMeter.features`.
        """
        return _column([row.features for row in self.rows if row.features], FEATURE_COLUMNS, column)

    def gradients(self, column: str) -> Tensor:
        """Return one number of the gradients over time: `(measurements, gradient_layers)`.

        Args:
            column: similarity, intra, dead, size, tiny, strength, dominance or self_enhancement; see
                `DiversityMeter.both`.
        """
        return _column([row.gradients for row in self.rows if row.gradients], GRADIENT_COLUMNS, column)

    @property
    def reference(self) -> tuple[float, ...]:
        """The similarity in a wide random ReLU network without biases, by layer; NaN from another kind of layer on."""
        relus = next((k for k, kind in enumerate(self.head.kinds) if kind != "ReLU"), len(self.head.kinds))
        start = _nan(self.head.input_similarity)
        if not math.isfinite(start):
            return (math.nan,) * len(self.head.kinds)
        return initial_similarity(relus, start=start) + (math.nan,) * (len(self.head.kinds) - relus)

    def phase(self, *, patience: int | None = None) -> PhaseReport:
        """Was the training caught in a flat first phase?

        Args:
            patience: steps for which a loss may stand still; what the recorder was given if None.
        """
        return phase_report(self, first_phase(self.losses), patience=patience)


def phase_report(history: DiversityHistory, phase: FirstPhase, *, patience: int | None = None) -> PhaseReport:
    """Return what the features did in a first phase that is known."""
    patience = history.head.patience if patience is None else patience
    steps = history.measured[0]
    inside = [k for k, step in enumerate(steps) if step <= phase.lasted]
    layers: tuple[LayerPhase, ...] = ()
    if inside:
        seen = history.features("similarity")[inside].double()
        highest = seen.nan_to_num(nan=-math.inf).amax(0)
        highest = torch.where(highest.isfinite(), highest, math.nan)
        layers = tuple(
            LayerPhase(*entry)
            for entry in zip(history.head.layers, seen[0].tolist(), highest.tolist(), seen[-1].tolist(), strict=True)
        )
    alike = any(one.rose > ROSE or one.highest > ALIKE for one in layers)
    return PhaseReport(phase, layers, trapped=phase.lasted > patience and alike)


def history_row(
    step: int, losses: Iterable[float | None], features: Sequence[Any] = (), gradients: Sequence[Any] = ()
) -> DiversityRow:
    """Return a line of a record from plain numbers, rounded to six digits; what is not finite becomes None."""
    return DiversityRow(
        step=step,
        losses=_rounded(losses),
        features=tuple(_rounded(row) for row in features),
        gradients=tuple(_rounded(row) for row in gradients),
    )


def _rounded(values: Iterable[float | None]) -> tuple[Number, ...]:
    return tuple(None if v is None or not math.isfinite(v) else float(f"{v:.6g}") for v in values)


def _column(rows: Sequence[Sequence[Sequence[Number]]], columns: Sequence[str], column: str) -> Tensor:
    if column not in columns:
        raise ValueError(f"column must be one of {', '.join(columns)}, got {column!r}")
    place = columns.index(column)
    return torch.tensor([[_nan(layer[place]) for layer in row] for row in rows])


def _nan(value: Number) -> float:
    return math.nan if value is None else value
