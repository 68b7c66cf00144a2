"""What an attack found, as one file that renders the same inputs again."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import msgspec
from torch import Tensor

from pellucid.core import DataError, Perturbed, Space, described, read_tensors, write_tensors

from ._chain import Chain
from ._spaces import SPACES

KEY = "pellucid perturbed"
"""The one key of the file's metadata; its value is JSON of the number of evaluations and the space's settings."""

_TENSORS = ("inputs", "params", "success", "loss", "zero_gradients")
_OPTIONAL = ("trace", "found_by")


def save_perturbed(path: str | os.PathLike[str], found: Perturbed) -> None:
    """Write what an attack found as safetensors, with the settings of its space; replaces the file in one step.

    Args:
        path: file to write.
        found: what an attack in one of `SPACES` returned.

    Raises:
        DataError: the attack has no space, or one that is not in `SPACES`.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from pellucid.attacks import PGD, Linf
        >>> from pellucid.core import Stream
        >>> model, x, y = torch.nn.Linear(4, 2), torch.rand(3, 4), torch.tensor([0, 1, 0])
        >>> found = PGD(Linf(0.1))(model, x, y, rng=Stream(0))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_perturbed(Path(folder) / "found.safetensors", found)
        ...     again = load_perturbed(Path(folder) / "found.safetensors")
        >>> bool((again.replay(x) == found.inputs).all()), again.space
        (True, Linf(eps=0.1, bounds=(0.0, 1.0), scale=None))
    """
    if found.space is None:
        raise DataError("this result has no space to be written; keep its inputs instead")
    tensors = {name: getattr(found, name) for name in _TENSORS}
    tensors |= {name: getattr(found, name) for name in _OPTIONAL if getattr(found, name) is not None}
    settings = {"evaluations": found.evaluations, "space": _settings(found.space, "space", tensors)}
    write_tensors(path, tensors, {KEY: msgspec.json.encode(settings).decode()})


def load_perturbed(path: str | os.PathLike[str]) -> Perturbed:
    """Read what `save_perturbed` wrote; tensors lie on the CPU.

    Raises:
        DataError: no such file, not one of these, or damaged.
    """
    tensors = read_tensors(path)
    text = _metadata(Path(path)).get(KEY)
    missing = [name for name in _TENSORS if name not in tensors]
    if text is None or missing:
        raise DataError(f"{path} holds no result of an attack; write one by save_perturbed")
    try:
        settings = msgspec.json.decode(text)
        evaluations, space = int(settings["evaluations"]), _space(settings["space"], "space", tensors)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} holds a result of an attack in an unknown space: {described(error)}") from None
    held = {name: tensors.get(name) for name in (*_TENSORS, *_OPTIONAL)}
    return Perturbed(**held, evaluations=evaluations, space=space)  # type: ignore[arg-type] # required ones are there


def _settings(space: Space, name: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Return a space's settings as plain values; tensors among them join those of the file."""
    kind = next((kind for kind, made in SPACES.items() if type(space) is made), None)
    if kind is None:
        raise DataError(f"only spaces of SPACES can be written, got {type(space).__name__}")
    settings: dict[str, Any] = {"kind": kind}
    if isinstance(space, Chain):
        parts = [_settings(part, f"{name}.{number}", tensors) for number, part in enumerate(space.spaces)]
        return settings | {"share": space.share, "spaces": parts}
    for each in fields(space):  # type: ignore[arg-type] # the spaces of the table are dataclasses
        value = getattr(space, each.name)
        if isinstance(value, Tensor):
            tensors[f"{name}.{each.name}"] = value
        else:
            settings[each.name] = value
    return settings


def _space(settings: Mapping[str, Any], name: str, tensors: Mapping[str, Tensor]) -> Space:
    values = dict(settings)
    kind = values.pop("kind")
    if kind == "chain":
        parts = [_space(part, f"{name}.{number}", tensors) for number, part in enumerate(values["spaces"])]
        return Chain(*parts, share=values["share"])
    made = SPACES[kind]
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    for each in fields(made):  # type: ignore[arg-type]
        if f"{name}.{each.name}" in tensors:
            values[each.name] = tensors[f"{name}.{each.name}"]
    return made(**values)


def _metadata(path: Path) -> Mapping[str, str]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})
