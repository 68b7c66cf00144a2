"""Where a training stands, as safetensors and JSON in one folder that is there wholly or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.core import RunError, Weighting, read_json, read_tensors, write_json, write_tensors


@dataclass(frozen=True)
class Position:
    """How far a training is: whole epochs and steps done, and the seconds they took."""

    epoch: int = 0
    step: int = 0
    seconds: float = 0.0


def save(
    folder: Path,
    position: Position,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    weighting: Weighting,
    *,
    keep: Collection[int] = (),
) -> None:
    """Write a checkpoint into `folder` and remove the ones before it; of the epochs `keep` the weights stay."""
    tensors, rest = _split(optimizer.state_dict())
    name = f"epoch-{position.epoch:05d}"
    temporary = folder / f".{name}.{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    state = {
        "epoch": position.epoch,
        "step": position.step,
        "seconds": round(position.seconds, 3),
        "optimizer": rest,
        "weighting": weighting.state_dict(),
    }
    try:
        temporary.mkdir(parents=True)
        write_tensors(temporary / "model.safetensors", model.state_dict())
        write_tensors(temporary / "optimizer.safetensors", tensors)
        write_json(temporary / "state.json", state)
        temporary.replace(folder / name)  # a folder appears in one step, so a kill never leaves half a checkpoint
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)  # a full disk has room again
        raise
    for old in folder.iterdir():
        if old.name != name and old.is_dir():
            if old.name in {f"epoch-{epoch:05d}" for epoch in keep}:
                # Nobody goes on from here: a newer one is there.
                (old / "optimizer.safetensors").unlink(missing_ok=True)
            else:
                shutil.rmtree(old, ignore_errors=True)


def restore(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, weighting: Weighting) -> Position | None:
    """Load the newest checkpoint of `folder` in place; None when there is none.

    Raises:
        RunError: the checkpoint does not fit the model or the optimizer.
    """
    found = sorted(folder.glob("epoch-*"))
    if not found:
        return None
    state: Any = read_json(found[-1] / "state.json")
    try:
        model.load_state_dict(read_tensors(found[-1] / "model.safetensors"))
        optimizer.load_state_dict(_joined(read_tensors(found[-1] / "optimizer.safetensors"), state["optimizer"]))
        weighting.load_state_dict(state["weighting"])
        return Position(state["epoch"], state["step"], state["seconds"])
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{found[-1]} does not fit this recipe: {str(error).splitlines()[0]}") from error


def _split(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Part an optimizer's state into tensors by "parameter.name" and what JSON can hold."""
    tensors: dict[str, Tensor] = {}
    plain: dict[str, dict[str, Any]] = {}
    for index, entries in state["state"].items():
        for name, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{name}"] = value
            else:
                plain.setdefault(str(index), {})[name] = value
    return tensors, {"state": plain, "param_groups": state["param_groups"]}


def _joined(tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {int(index): dict(entries) for index, entries in rest["state"].items()}
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = value
    return {"state": state, "param_groups": rest["param_groups"]}
