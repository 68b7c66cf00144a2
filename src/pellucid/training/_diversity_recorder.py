"""One line in any training loop: how alike features and gradients are, and a warning while the loss stands still."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, final

import msgspec
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from pellucid.core import DataError, read_tensors, write_atomic
from pellucid.metrics import (
    DiversityHead,
    DiversityHistory,
    DiversityMeter,
    DiversityRow,
    LossWatch,
    PhaseReport,
    history_row,
    phase_report,
    similarity,
)

FILE = "feature-diversity.jsonl"
OnNotice = Callable[[str], None]


def to_log(text: str) -> None:
    """Tell Python's log, which shows warnings on stderr unless it is set up otherwise."""
    logging.getLogger("pellucid.training").warning(text)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross entropy of each sample."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return F.cross_entropy(wide, labels, reduction="none")


@final
class DiversityRecorder:
    """Records a training's features and gradients from inside any loop.

    ::

        with DiversityRecorder(model, (x, y), optimizer=optimizer, file="run.jsonl") as recorder:
            for batch in batches:
                ...  # forward, backward
                optimizer.step()
                recorder.step(loss)

    Between two measurements a step costs nothing: a loss on a GPU is kept there, and all numbers come over at once. A
    measurement runs the model in eval mode on the probe and leaves no trace: mode, hooks, gradients, buffers and random
    state stay as they are, so the training is the same bit for bit. Under `torch.distributed` the first process alone
    records; of a wrapped model the inner one is watched.

    Args:
        model: the network in training.
        probe: inputs `(N, ...)` and labels `(N,)`, about 256, balanced over the classes; the same for all measurements.
        every: steps between two measurements of the features.
        gradients_every: steps between two measurements of the gradients, a multiple of `every`.
        layers: names of the layers to watch; the activation modules if not given.
        reduce: "flatten" compares whole feature maps, "mean" their means over places.
        loss: one loss per sample from logits and labels.
        optimizer: its learning rate is looked at; steps at rate 0 do not count as standing still.
        patience: steps for which the loss may stand still before there is a warning.
        ids: `(N,)` of the probe's samples; row numbers if not given.
        file: where lines of JSON are written as they come; nowhere if not given.
        on_notice: told the warning, and when the loss has left its plateau; Python's log if not given.

    Raises:
        ValueError: `gradients_every` is no multiple of `every`, or an unknown layer.
        DataError: the probe does not fit.
        ModelError: the model has no layer to watch.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> with DiversityRecorder(model, (torch.rand(20, 4), torch.arange(20) % 2), every=1, gradients_every=2) as r:
        ...     r.step(0.7)
        >>> r.history.measured
        ((0, 1), (0,))
    """

    def __init__(
        self,
        model: nn.Module,
        probe: tuple[Tensor, Tensor],
        *,
        every: int = 50,
        gradients_every: int = 200,
        layers: Sequence[str] | None = None,
        reduce: Literal["flatten", "mean"] = "flatten",
        loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
        optimizer: torch.optim.Optimizer | None = None,
        patience: int = 200,
        ids: Tensor | None = None,
        file: str | Path | None = None,
        on_notice: OnNotice = to_log,
    ) -> None:
        if every < 1 or gradients_every % every or gradients_every < 1:
            raise ValueError(f"gradients_every must be a multiple of every >= 1, got {gradients_every} and {every}")
        x, labels = probe
        inner = model.module if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)) else model
        self.every, self.gradients_every, self.patience = every, gradients_every, patience
        self.optimizer, self.on_notice = optimizer, on_notice
        self.file = None if file is None else Path(file)
        self.active = not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0
        self._rows: list[DiversityRow] = []
        self._losses: list[Any] = []
        self._done = 0
        self._watch = LossWatch()
        self._told: set[str] = set()
        if not self.active:
            return
        self.meter = DiversityMeter(inner, x, labels, layers=layers, reduce=reduce, loss=loss)
        inputs = self.meter.inputs
        start = math.nan if inputs is None else similarity(inputs).all
        self.head = DiversityHead(
            layers=self.meter.layers,
            kinds=self.meter.kinds,
            gradient_layers=self.meter.gradient_layers,
            sample_ids=tuple((torch.arange(len(x)) if ids is None else ids).tolist()),
            input_similarity=start if math.isfinite(start) else None,
            every=every,
            gradients_every=gradients_every,
            reduce=reduce,
            biases=self.meter.biases,
            patience=patience,
        )

    def __enter__(self) -> DiversityRecorder:
        self.start(0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.flush()

    @property
    def history(self) -> DiversityHistory:
        """What is recorded so far.

        Raises:
            DataError: this process does not record.
        """
        if not self.active:
            raise DataError("only the first process of a distributed training records")
        return DiversityHistory(self.head, tuple(self._rows))

    def phase(self) -> PhaseReport:
        """How long has the loss stood still, and what did the features do?"""
        return phase_report(self.history, self._watch.phase, patience=self.patience)

    def start(self, step: int) -> None:
        """Begin before the first step, or go on after `step` steps with what the file holds of them.

        Raises:
            DataError: the file holds no record up to that step, or one of other layers.
        """
        if not self.active:
            return
        self._rows, self._losses, self._done, self._watch = [], [], step, LossWatch()
        if step == 0:
            self._write(None)
            self._measure()
            return
        if self.file is not None:
            before = DiversityHistory.read(self.file)
            rows = list(takewhile(lambda row: row.step <= step, before.rows))
            if before.head != self.head or not rows or rows[-1].step != step:
                raise DataError(f"{self.file} is no record of the first {step} steps of this training; remove the run")
            self._rows = rows
            self._write(self._rows)
        for row in self._rows:
            for loss in row.losses:
                self._watch.add(loss)
        if self._watch.phase.end is not None or self.phase().trapped:
            self._told |= {"trapped"}
        if self._watch.phase.end is not None:
            self._told |= {"ended"}

    def step(self, loss: Tensor | float, *, rate: float | None = None) -> None:
        """Take in one finished training step.

        Args:
            loss: of its batch, a number or a tensor with one element, which may have a graph.
            rate: learning rate of the step; that of `optimizer` if not given.
        """
        if not self.active:
            return
        if rate is None and self.optimizer is not None:
            rate = max(float(group["lr"]) for group in self.optimizer.param_groups)
        value = loss.detach() if isinstance(loss, Tensor) else loss
        self._losses.append(None if rate == 0 else value)
        self._done += 1
        if self._done % self.every == 0:
            self._measure()

    def replayed(self, step: int, losses: Sequence[float | None]) -> None:
        """Measure now, as after `step` steps, of which the last had these losses."""
        self._done, self._losses = step, list(losses)
        self._measure()

    def flush(self) -> None:
        """Write the losses that wait for the next measurement."""
        if self.active and self._losses:
            self._add([None if loss is None else float(loss) for loss in self._losses], (), ())

    def _measure(self) -> None:
        # The one transfer: everything as one vector.
        parts = self.meter.both() if self._done % self.gradients_every == 0 else (self.meter.features(),)
        features = parts[0]
        waiting = [loss.reshape(1).to(features.device) for loss in self._losses if isinstance(loss, Tensor)]
        flat = torch.cat([part.flatten().float() for part in (*parts, *waiting)]).tolist()
        tables = []
        for part in parts:
            values, flat = flat[: part.numel()], flat[part.numel() :]
            tables.append([values[k : k + part.shape[1]] for k in range(0, len(values), part.shape[1])])
        given = iter(flat)
        losses = [next(given) if isinstance(loss, Tensor) else loss for loss in self._losses]
        self._add(losses, tables[0], tables[1] if len(tables) > 1 else ())

    def _add(self, losses: Sequence[float | None], features: Sequence[Any], gradients: Sequence[Any]) -> None:
        self._losses = []
        row = history_row(self._done, losses, features, gradients)
        self._rows.append(row)
        for loss in row.losses:  # rounded as they are written, so that a training that goes on sees the same
            self._watch.add(loss)
        self._write([row], append=True)
        if features:
            self._tell()

    def _write(self, rows: Sequence[DiversityRow] | None, *, append: bool = False) -> None:
        if self.file is None:
            return
        lines = "".join(msgspec.json.encode(row).decode() + "\n" for row in rows or ())
        if append:
            with self.file.open("a", encoding="utf-8") as file:
                file.write(lines)
        else:
            write_atomic(self.file, msgspec.json.encode(self.head).decode() + "\n" + lines)

    def _tell(self) -> None:
        """Say once that the training looks trapped, and once that it no longer does."""
        phase = self._watch.phase
        if phase.end is not None:
            if "trapped" in self._told and "ended" not in self._told:
                self.on_notice(f"step {self._done:,}: the loss has left its plateau, at step {phase.end:,}")
            self._told.add("ended")
            return
        if "underflow" not in self._told and (text := self._underflow()):
            self._told.add("underflow")
            self.on_notice(text)
        if "trapped" in self._told or phase.lasted <= self.patience or not math.isfinite(phase.start):
            return
        report = self.phase()
        worst = report.worst
        if report.trapped and worst is not None:
            self._told.add("trapped")
            alike = "look more and more alike" if worst.rose > _ROSE else "look alike"
            self.on_notice(
                f"step {self._done:,}: the loss has stood at {phase.start:.3f} since the start while features of "
                f"different samples {alike} (layer {worst.layer}: similarity {worst.start:.2f}, now "
                f"{worst.end:.2f}): a flat first phase; normalization, He initialization or momentum usually end it"
            )

    def _underflow(self) -> str:
        """Word what fp16 does to gradients that are too small for it, where the model computes in fp16."""
        half = any(parameter.dtype == torch.float16 for parameter in self.meter.model.parameters())
        rows = [row.gradients for row in self._rows[-1:] if row.gradients]
        if not half or not rows:
            return ""
        lost = max(max(layer[2] or 0.0, layer[4] or 0.0) for layer in rows[0])
        if lost < _LOST:
            return ""
        return (
            f"step {self._done:,}: in some layer {lost:.0%} of the gradients are too small for fp16 and become 0; this "
            "looks like a loss that stands still; scale the loss, or train in bf16 or fp32"
        )


_LOST = 0.5
_ROSE = 0.02


def replay(
    model: nn.Module,
    checkpoints: Mapping[int, str | Path | Mapping[str, Tensor]],
    probe: tuple[Tensor, Tensor],
    *,
    losses: Sequence[float | None] = (),
    layers: Sequence[str] | None = None,
    reduce: Literal["flatten", "mean"] = "flatten",
    loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
) -> DiversityHistory:
    """What would have been recorded? The features and gradients of a training that is over, from its checkpoints.

    Args:
        model: a network of the same architecture; a copy of it is used.
        checkpoints: by the number of steps done, a state dictionary or a `.safetensors` file of one.
        probe: inputs and labels, as for `DiversityRecorder`.
        losses: of all steps, if they were kept; without them there is no first phase to find.
        layers, reduce, loss: as for `DiversityRecorder`.

    Raises:
        DataError: no checkpoints, a file that cannot be read, or weights that do not fit the model.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> replay(model, {0: model.state_dict()}, (torch.rand(20, 4), torch.arange(20) % 2)).measured
        ((0,), (0,))
    """
    if not checkpoints:
        raise DataError("there are no checkpoints to replay")
    own = copy.deepcopy(model)
    recorder = DiversityRecorder(own, probe, every=1, gradients_every=1, layers=layers, reduce=reduce, loss=loss)
    before = 0
    for step in sorted(checkpoints):
        state = checkpoints[step]
        tensors = dict(state) if isinstance(state, Mapping) else read_tensors(Path(state))
        try:
            own.load_state_dict(tensors)
        except RuntimeError as error:
            raise DataError(f"the checkpoint of step {step} does not fit the model: {error}") from error
        recorder.replayed(step, losses[before:step])
        before = step
    return recorder.history
