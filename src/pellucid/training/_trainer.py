"""The training loop. It knows no method by name: a recipe's objective, weighting and optimizer do the work.

Every draw is a pure function of the seed, the step and the sample. So a training that was killed goes on from its last
checkpoint bit for bit on one CPU, whatever happened in between.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

import msgspec
import torch
from torch import Tensor, nn

from pellucid.core import (
    Batch,
    Dataset,
    NotConverged,
    Objective,
    RecipeError,
    RunError,
    RunFolder,
    Stream,
    evaluating,
    read_json,
    write_atomic,
    write_json,
    write_tensors,
)
from pellucid.data import unit

from . import _checkpoint as checkpoint
from . import _temperature as temperature
from ._checkpoint import Position
from ._dense import check_dense
from ._events import Event, OnEvent, unheard
from ._final_test import final_test
from ._parallel import Parallel
from ._recipe import Recipe
from ._recording import DiversityRecording, Recorder
from ._run import CARD, CHECKPOINTS, KIND, LOG, RECIPE, WEIGHTS, Run, fresh_model, write_card
from ._samples import class_counts, parted, training_samples
from ._start import warm_start
from ._text import TOKENIZER, fitted_tokenizer, tokenized


def train(
    recipe: Recipe,
    out: str | Path,
    *,
    device: str = "cpu",
    record: DiversityRecording | None = None,
    on_event: OnEvent = unheard,
) -> Run:
    """Train what the recipe says and keep everything in the folder `out`.

    If `out` holds a checkpoint of the same recipe, training goes on from there; if it holds the finished training,
    that is returned. Under `torchrun` all processes train together and the first one writes; they share the folder.

    Args:
        recipe: from `Recipe.load` or built in Python.
        out: a new or empty folder, or that of an earlier run.
        device: "cpu", "cuda" or one card such as "cuda:1".
        record: what is recorded on the way, in place of what the recipe says.
        on_event: told about every step, checkpoint and the final test, in the process that writes.

    Raises:
        RecipeError: batch size, model or weighting do not fit the data or the objective.
        RunError: `out` belongs to something else, to another recipe, or to a process at work.
        NotConverged: the loss became NaN or infinite; the last checkpoint is kept.
        DataMissing: the data are not on this machine.
    """
    recipe = recipe if record is None else msgspec.structs.replace(recipe, record=record)
    with Parallel(device) as parallel:
        if (Path(out) / CARD).is_file():
            _check_same(Path(out), recipe)
            return Run.open(out)
        training = _Training(recipe, parallel, Path(out), on_event)
        parallel.wait()  # everyone has looked at the folder before the first one writes into it
        if parallel.leads:
            folder = RunFolder.create(out, kind=KIND, resume=True)
            _check_same(folder.path, recipe)
            with folder:
                write_json(folder.file(RECIPE), recipe.to_dict())
                if training.tokenizer is not None:
                    training.tokenizer.save(folder.file(TOKENIZER))
                if training.started:
                    folder.update(start=training.started)
                training.go(folder)
        else:
            training.go(None)
        parallel.wait()
    return Run.open(out)


class _Training:
    """What the steps of one training share."""

    def __init__(self, recipe: Recipe, parallel: Parallel, out: Path, on_event: OnEvent) -> None:
        self.recipe, self.parallel, self.out = recipe, parallel, out
        self.on_event = on_event if parallel.leads else unheard
        data = training_samples(recipe)
        self.tokenizer = fitted_tokenizer(recipe, data, out)
        data, held = parted(recipe, tokenized(data, self.tokenizer))
        self.data = _on(data, parallel.device)
        self.held = None if held is None else _on(held, parallel.device)
        self.test = _on(tokenized(recipe.data.load("test"), self.tokenizer), parallel.device)
        self.rng = Stream(recipe.seed).child("train")
        model = fresh_model(recipe)
        # Once there is a checkpoint nothing of the start is needed, not even its file.
        warm = recipe.start and not any((out / CHECKPOINTS).glob("epoch-*"))
        self.started = warm_start(model, recipe) if warm else {}
        self.model: nn.Module = model.to(parallel.device).train()
        _check_fit(recipe, self.model, self.data, parallel)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = recipe.optimizer.build(self.parameters)
        # An objective may name terms that no weighting can take the weight from.
        self.weighting = recipe.weighting.build(anchored=getattr(recipe.objective, "anchored", ()))
        self.objective = parallel.step(self.model, _fitted(recipe, self.data))
        self.steps_per_epoch = len(self.data) // recipe.batch_size
        self.steps = self.steps_per_epoch * recipe.epochs
        self.recorder = self._recorder()

    def _recorder(self) -> Recorder | None:
        """Return what records the training, in the process that writes."""
        if self.recipe.record is None or not self.parallel.leads:
            return None
        return self.recipe.record.build(self.model, self.data, self.out, on_notice=self._notice)

    def go(self, folder: RunFolder | None) -> None:
        """Train from the last checkpoint to the end; `folder` is None in processes that do not write."""
        position = checkpoint.restore(self.out / CHECKPOINTS, self.model, self.optimizer, self.weighting) or Position()
        self.parallel.wait()  # nobody may read a checkpoint that the first one already replaces
        self._tell("start", position.step, self.steps, position.epoch)
        begun = time.perf_counter() - position.seconds
        self.position = position
        if self.recorder is not None:
            self.recorder.start(position.step)
        with _log(folder, position.step) as log:
            for epoch in range(position.epoch, self.recipe.epochs):
                self._epoch(epoch, log)
                position = Position(epoch + 1, (epoch + 1) * self.steps_per_epoch, time.perf_counter() - begun)
                if folder is not None and log is not None:
                    log.flush()  # a checkpoint must never be ahead of the log, nor of a record
                    if self.recorder is not None:
                        self.recorder.flush()
                    checkpoint.save(
                        folder.path / CHECKPOINTS,
                        position,
                        self.model,
                        self.optimizer,
                        self.weighting,
                        keep=self.recipe.keep,
                    )
                self._tell("checkpoint", position.step, self.steps, epoch)
        self._finish(folder, position)

    def _epoch(self, epoch: int, log: TextIO | None) -> None:
        order = self.rng.child("order", epoch).permutations(len(self.data), 1)[0]
        for row in range(self.steps_per_epoch):
            step = epoch * self.steps_per_epoch + row
            rows = order[row * self.recipe.batch_size : (row + 1) * self.recipe.batch_size]
            values = self._step(step, rows)
            if log is not None:
                log.write(msgspec.json.encode({"step": step, "epoch": epoch, **values}).decode() + "\n")
            self._tell("step", step + 1, self.steps, epoch, values)
            self.position = Position(epoch, step + 1)
            if self.recorder is not None:
                self.recorder.step(values["loss"], rate=values["rate"])

    def _step(self, step: int, rows: Tensor) -> dict[str, float]:
        """Take one step on the rows of a batch, of which this process has its share, and return what is logged."""
        rate = self.recipe.optimizer.lr * self.recipe.schedule.factor((step + 1) / self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        rng = self.rng.child("step", step)
        terms, loss = self._forward(rows, rng)
        values = self.parallel.mean({"loss": loss, **terms})
        if not math.isfinite(values["loss"]):
            raise NotConverged(
                f"the loss is {values['loss']} at step {step} (epoch {step // self.steps_per_epoch}); "
                'the last checkpoint is kept; lower optimizer.lr, or use precision = "fp32"'
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        weights = getattr(self.weighting, "weights", {})
        return {"rate": rate, **values, **{f"weight_{name}": weight for name, weight in weights.items()}}

    def _forward(self, rows: Tensor, rng: Stream) -> tuple[Mapping[str, Tensor], Tensor]:
        device = self.parallel.device
        batch, ids = self._batch(self.parallel.share(rows), rng), self.data.ids[self.parallel.share(rows)]
        if self.recipe.augment.mixup:
            batch = self._mixed(batch, rows, rng)
        half = torch.autocast(device.type, torch.bfloat16) if self.recipe.precision == "bf16" else nullcontext()
        # Dropout layers take torch's global randomness: it is forked, and seeded by the step and the process.
        with rng.child("layers", self.parallel.rank).forked(device):
            with half:
                terms = self.objective(batch, rng.child("objective").at(ids))
            return terms, self.weighting(terms, parameters=self.parameters)

    def _batch(self, rows: Tensor, rng: Stream) -> Batch:
        """Return samples as they go through this step, images moved."""
        ids, here = self.data.ids[rows], rows.to(self.parallel.device)  # ids stay on the CPU, where streams want them
        inputs = unit(self.data.inputs[here])
        labels = self.data.labels[here]
        if self.recipe.augment:
            stream = rng.child("augment").at(ids)
            if self.data.dense:
                inputs, labels = self.recipe.augment.both(inputs, labels, rng=stream)
            else:
                inputs = self.recipe.augment(inputs, rng=stream)
        return Batch(inputs, labels, ids)

    def _mixed(self, batch: Batch, rows: Tensor, rng: Stream) -> Batch:
        """Mix each sample with one of the whole batch's rows, whichever process has it."""
        draws = rng.child("mixup").at(batch.ids)
        partners = rows[draws.child("partner").integers(len(rows), (len(batch.ids), 1))[:, 0]]
        other = self._batch(partners, rng)
        shares = self.recipe.augment.shares(len(batch.ids), rng=draws.child("share"), device=batch.inputs.device)
        part = shares.view(-1, *[1] * (batch.inputs.ndim - 1))
        inputs = part * batch.inputs + (1 - part) * other.inputs
        return replace(batch, inputs=inputs, others=other.labels, shares=shares)

    def _finish(self, folder: RunFolder | None, position: Position) -> None:
        def on_step(done: int, total: int) -> None:
            self._tell("test", done, total, self.recipe.epochs - 1)

        said = temperature.fit(self.model, self.held, batch_size=self.recipe.test.batch_size)
        rng = Stream(self.recipe.seed).child("test")
        counts = [] if self.data.dense else class_counts(self.data).tolist()
        figures = final_test(
            self.model,
            self.test,
            self.recipe.test,
            class_counts=counts,
            parallel=self.parallel,
            rng=rng,
            on_step=on_step,
        )
        if folder is not None:
            write_tensors(folder.file(WEIGHTS), self.model.state_dict())
            folder.update(durations={**folder.manifest["durations"], "train": round(position.seconds, 3)})
            device = str(self.parallel.device)
            more = {"notes": [said] if said else [], "class_counts": counts}
            count = sum(parameter.numel() for parameter in self.model.parameters())  # running averages are none
            seconds = position.seconds
            write_card(
                folder, self.recipe, self.data, figures, device=device, seconds=seconds, parameters=count, more=more
            )
        values = {figure["name"]: figure["value"] for figure in figures}
        self._tell("end", self.steps, self.steps, self.recipe.epochs - 1, values)

    def _notice(self, text: str) -> None:
        at = self.position
        self.on_event(Event("notice", at.step, self.steps, at.epoch, self.recipe.epochs, text=text))

    def _tell(self, kind: Any, done: int, total: int, epoch: int, values: Mapping[str, float] | None = None) -> None:
        self.on_event(Event(kind, done, total, epoch, self.recipe.epochs, values or {}))


def _fitted(recipe: Recipe, data: Dataset) -> Objective:
    """Return the objective, with what it takes from the training data."""
    fitted = getattr(recipe.objective, "fitted", None)
    if fitted is None:
        return recipe.objective
    try:
        objective: Objective = fitted(data)
        return objective
    except ValueError as error:
        raise RecipeError(f"objective: {error}") from error


def _on(dataset: Dataset, device: torch.device) -> Dataset:
    return replace(dataset, inputs=dataset.inputs.to(device), labels=dataset.labels.to(device))


def _log(folder: RunFolder | None, steps: int) -> Any:
    """Open the log for appending after its first `steps` lines: those of a killed epoch are written again."""
    if folder is None:
        return nullcontext(None)
    path = folder.file(LOG)
    kept: list[str] = []
    if path.exists():
        with path.open(encoding="utf-8") as old:
            kept = list(itertools.islice(old, steps))
    write_atomic(path, "".join(kept))
    return path.open("a", encoding="utf-8")


def _check_fit(recipe: Recipe, model: nn.Module, data: Dataset, parallel: Parallel) -> None:
    """Refuse what would fail in the first step, before anything is written."""
    if recipe.batch_size > len(data):
        raise RecipeError(f"batch_size is {recipe.batch_size} but {data.name} has {len(data)} training samples")
    if recipe.batch_size % parallel.world:
        raise RecipeError(
            f"batch_size is {recipe.batch_size}, which {parallel.world} processes cannot share equally; "
            f"use {recipe.batch_size // parallel.world * parallel.world or parallel.world}"
        )
    if any(epoch > recipe.epochs for epoch in recipe.keep):
        raise RecipeError(f"keep names epoch {max(recipe.keep)}, but there are only {recipe.epochs} epochs")
    if recipe.augment and data.inputs.ndim != 4:
        raise RecipeError(f"augment changes images, but {data.name} has inputs of shape {tuple(data.inputs.shape[1:])}")
    if recipe.augment.crop and recipe.augment.crop >= min(data.inputs.shape[2:]):
        size = " x ".join(map(str, data.inputs.shape[2:]))
        raise RecipeError(
            f"augment.crop is {recipe.augment.crop}, and images of {size} pixels could be shifted out of sight; use a "
            "few pixels"
        )
    if data.dense:
        check_dense(recipe, data)
    if recipe.augment.mixup:
        _check_mixing(recipe, data)
    if recipe.held_out:
        temperature.check(model)
    if data.class_names and int(data.labels.max()) >= len(data.class_names):
        raise RecipeError(f"{data.name} has the label {int(data.labels.max())} but {len(data.class_names)} classes")
    check = getattr(recipe.objective, "check", None)
    if check is not None:
        try:
            check(model)
        except ValueError as error:
            raise RecipeError(f"objective: {error}") from None
    try:
        with evaluating(model), torch.no_grad():  # in train mode it would move the running statistics
            logits = model(unit(data.inputs[:2]))
    except RuntimeError as error:
        shape = tuple(data.inputs.shape[1:])
        raise RecipeError(f"the model cannot read inputs of shape {shape}: {str(error).splitlines()[0]}") from error
    few = len(data.inputs[:2])
    if (logits.ndim == 4) != data.dense or (data.dense and logits.shape[2:] != data.labels.shape[1:]):
        asked = "every pixel has a class" if data.dense else "each image has one class"
        kind = recipe.to_dict()["model"]["kind"]
        hint = 'use model.kind = "segmenter"' if data.dense else "use a classifier"
        raise RecipeError(
            f'{asked} in {data.name}, but model.kind = "{kind}" gives logits of shape {tuple(logits.shape)}; {hint}'
        )
    if logits.shape[:2] != (few, len(data.class_names)):
        raise RecipeError(
            f"the model gives {logits.shape[1]} logits but {data.name} has {len(data.class_names)} classes"
        )


def _check_mixing(recipe: Recipe, data: Dataset) -> None:
    if not getattr(recipe.objective, "mixes", False):
        kind = recipe.to_dict()["objective"]["kind"]
        raise RecipeError(
            f'augment.mixup mixes two classes in one sample, which objective.kind = "{kind}" cannot learn from; use '
            '"standard" or "dot-regression", or leave mixup out'
        )
    if data.inputs.dtype != torch.uint8 and not data.inputs.is_floating_point():
        raise RecipeError(f"augment.mixup mixes numbers, but {data.name} holds texts; leave it out")


def _check_same(folder: Path, recipe: Recipe) -> None:
    """Refuse to continue a folder that was begun with another recipe, once there is something to lose."""
    if not (folder / RECIPE).is_file() or not any((folder / CHECKPOINTS).glob("epoch-*")):
        return
    before, now = _flat(Recipe.parse(read_json(folder / RECIPE)).to_dict()), _flat(recipe.to_dict())
    changed = sorted(key for key in before | now if before.get(key) != now.get(key) and key != "license")
    if changed:
        key = changed[0]
        raise RunError(
            f"{folder} was begun with {key} = {before.get(key)!r}, the recipe now has {now.get(key)!r}; "
            "use another folder, or the recipe as it was"
        )


def _flat(tree: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {path.rstrip("."): tree}
    return {key: value for name, branch in tree.items() for key, value in _flat(branch, f"{path}{name}.").items()}
