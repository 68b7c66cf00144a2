"""Weights from a file into a model: never unpickled freely, every tensor fits, what was unwrapped is said."""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pellucid.core import DataError, ModelError, described, first_line, read_tensors, sniff

_MOST = 4 * 2**30  # bytes
_NESTS = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "params")  # in order of preference
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "backbone.")
_PICKLED = (".pt", ".pth", ".bin")  # how files of torch.save end
_NAMED = 3  # how many names an error lists before "..."


def read_weights(path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the tensors of a weights file, on the CPU, and what to note about it.

    Pickled state dicts (`.pt`, `.pth`, `.bin`) are read by torch's reader of weights alone, which knows tensors and
    plain containers and runs nothing.

    Raises:
        ModelError: missing, damaged, more than weights in it, or no weights in it.
    """
    try:
        kind = sniff(path)
        if kind not in ("pickle", "torch-zip", "safetensors") and path.suffix in _PICKLED:
            raise ModelError(f"{path} is no state dict but {kind}, or is damaged; copy it again")
        if kind not in ("pickle", "torch-zip"):
            return read_tensors(path), ()
    except DataError as error:
        raise ModelError(str(error)) from error
    return _unwrapped(_read_pickled(path), path)


def _read_pickled(path: Path) -> Any:
    _check_archive(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about unusual pickle protocols, which are refused or read anyway
            return torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # damaged files reach every corner of the reader
        raise ModelError(_why_not(path, error)) from None


def _check_archive(path: Path) -> None:
    """Refuse what torch would unpack beyond its size, and programs that look like weights."""
    if path.stat().st_size > _MOST:
        raise ModelError(f"{path} has {path.stat().st_size:,} bytes, more than the {_MOST:,} allowed")
    if sniff(path) != "torch-zip":
        return
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    names = {member.filename.partition("/")[2] for member in members}
    if any(name.startswith("code/") for name in names):
        raise ModelError(
            f"{path} is a TorchScript program, which can run code when opened, and is refused; export the model with "
            "torch.export.save, or save its state_dict as safetensors"
        )
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise ModelError(f"{path} is compressed, which torch.save never does; save it again")


def _why_not(path: Path, error: Exception) -> str:
    text = str(error)
    found = re.search(r"GLOBAL ([\w.]+)", text)
    if "weights_only" in text.lower() or "WeightsUnpickler" in text or "Unsupported" in text:
        what = f" ({found[1]})" if found else ""
        return (
            f"{path} is a pickle, which can run code when opened, and is refused: it holds more than weights{what}; "
            "save only these: torch.save(model.state_dict(), PATH), or as safetensors"
        )
    return f"{path} is a damaged weights file: {first_line(error)}"


def _unwrapped(content: Any, path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the state dict in what a training saved, which may hold an optimizer and more beside it."""
    if _is_state(content):
        return {str(key): value for key, value in content.items() if isinstance(value, Tensor)}, ()
    if isinstance(content, Mapping):
        for key in _NESTS:
            if key in content and _is_state(content[key]):
                others = [str(other) for other in content if other != key]
                beside = f"; beside it the file has {some(others)}" if others else ""
                tensors = {str(name): value for name, value in content[key].items() if isinstance(value, Tensor)}
                return tensors, (f"The weights are the entry {key!r} of {path.name}{beside}.",)
        keys = f"; it holds {some([str(key) for key in content])}"
    else:
        keys = f"; it holds {type(content).__name__}"
    raise ModelError(f"{path} holds no state dict{keys}; save model.state_dict()")


def _is_state(content: Any) -> bool:
    """Whether something is a state dict: tensors by name, and at most a few plain entries among them."""
    if not isinstance(content, Mapping) or not content:
        return False
    tensors = sum(isinstance(value, Tensor) for value in content.values())
    return 2 * tensors > len(content) and all(isinstance(key, str) for key in content)


def fill(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> tuple[str, ...]:
    """Load weights into a model; every tensor must fit. Return what to note about it.

    A key may be missing when its tensor is tied to one that is there: safetensors stores tied weights once. A prefix
    that wrappers of training put before every key is taken off.

    Raises:
        ModelError: keys are missing, unexpected or of another shape; the first few are named.
    """
    tensors, prefix = _without_prefix(tensors, set(model.state_dict()))
    state = {key: value for key, value in model.state_dict().items() if isinstance(value, Tensor)}
    wanted = {key: value for key, value in state.items() if not is_lazy(value)}  # lazy layers take any shape
    filled = {(value.data_ptr(), value.shape) for key, value in wanted.items() if key in tensors and value.numel()}
    missing = [
        key
        for key, value in state.items()
        if key not in tensors and (is_lazy(value) or (value.data_ptr(), value.shape) not in filled)
    ]
    unexpected = [key for key in tensors if key not in state]
    reshaped = [
        f"{key} is {tuple(tensors[key].shape)}, not {tuple(value.shape)}"
        for key, value in wanted.items()
        if key in tensors and tensors[key].shape != value.shape
    ]
    parts = [
        f"{what} {some(keys)}"
        for what, keys in (("lacks", missing), ("has the unexpected", unexpected), ("has other shapes:", reshaped))
        if keys
    ]
    if parts:
        raise ModelError(f"{path} does not fit the model: it {' and '.join(parts)}")
    try:
        model.load_state_dict(dict(tensors), strict=False)
    except RuntimeError as error:  # a module's own loading hook refused
        raise ModelError(f"{path} does not fit the model: {described(error)}") from error
    return (f"The prefix {prefix!r} of all weights in {path.name} was taken off.",) if prefix else ()


def _without_prefix(tensors: Mapping[str, Tensor], wanted: set[str]) -> tuple[Mapping[str, Tensor], str]:
    taken = ""
    while tensors and not wanted.intersection(tensors):
        prefix = next((known for known in _PREFIXES if all(key.startswith(known) for key in tensors)), None)
        if prefix is None:
            break
        tensors, taken = {key.removeprefix(prefix): value for key, value in tensors.items()}, taken + prefix
    return tensors, taken


def some(names: list[str]) -> str:
    shown = ", ".join(names[:_NAMED])
    return f"{shown}, ... ({len(names)} in all)" if len(names) > _NAMED else shown
