"""From what a user types to a model: a shipped name, a training, or a Python file with a factory and weights."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType, ModuleType

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pellucid.core import DataError, ModelError, Stream, described, first_line, nearest, read_json, read_tensors, sniff
from pellucid.nn.models import build

from ._card import Card
from ._loaded import Loaded

_WEIGHTS = Path(__file__).parent / "weights"

_FILE_SPEC = re.compile(r"(?P<file>.+\.py):(?P<factory>[^@:]+)(@(?P<weights>.+))?", re.DOTALL)
_NAMED = 3  # how many names an error lists before "..."


def load(spec: str, *, device: torch.device | str = "cpu", trust: bool = False) -> Loaded:
    """Load the model that `spec` names.

    Args:
        spec: a shipped name such as `fashion-standard`; a folder that `pellucid train` filled, or the `.safetensors`
            file it exported with its card beside it; `file.py:factory`, where `factory` is a function or class that
            is called without arguments and returns the network; or `file.py:factory@weights.safetensors`. The Python
            file is run: name only files you trust. Weights are never unpickled.
        device: where to put it.
        trust: open what may run code when opened.

    Raises:
        ModelError: in one sentence, what is missing or does not fit.

    Example:
        >>> from pellucid import models
        >>> for name in models.SHIPPED:
        ...     model = models.load(name).model
    """
    place = _device(device)
    match = _FILE_SPEC.fullmatch(spec)
    try:
        if match is None:
            trained = None if spec in SHIPPED else _trained(spec)
            return _load_shipped(spec, place) if trained is None else _load_trained(trained, place)
        return _load_file(Path(match["file"]), match["factory"], match["weights"], place)
    except DataError as error:
        raise ModelError(str(error)) from error


# -- shipped models -----------------------------------------------------------------------------------------------


def _read_cards(folder: Path) -> Mapping[str, Card]:
    """Return the cards of all models in a folder of weights, by name."""
    cards: list[Card] = [read_json(path, Card) for path in sorted(folder.glob("*.json"))]
    return MappingProxyType({card.name: card for card in cards})


SHIPPED: Mapping[str, Card] = _read_cards(_WEIGHTS)
"""Cards of the models that ship with Pellucid, by name."""


def _load_shipped(name: str, device: torch.device) -> Loaded:
    card = SHIPPED.get(name)
    if card is None:
        raise ModelError(_unknown(name))
    return _load_carded(card, _WEIGHTS / f"{name}.safetensors", "install Pellucid again", device)


def _trained(spec: str) -> Path | None:
    """Return the weights that `pellucid train` wrote: in a run folder, or exported with the card beside them."""
    path = Path(spec)
    weights = path / "model.safetensors" if path.is_dir() else path
    carded = weights.suffix == ".safetensors" and weights.is_file() and weights.with_suffix(".json").is_file()
    return weights if carded else None


def _load_trained(weights: Path, device: torch.device) -> Loaded:
    card: Card = read_json(weights.with_suffix(".json"), Card)
    return _load_carded(card, weights, "export them again", device)


def _load_carded(card: Card, path: Path, remedy: str, device: torch.device) -> Loaded:
    tensors = read_tensors(path)
    if hashlib.sha256(path.read_bytes()).hexdigest() != card.sha256:
        raise ModelError(f"{path} is not the file its card describes (SHA-256 differs); {remedy}")
    settings = {key: value for key, value in card.architecture.items() if key != "kind"}
    with Stream(0).child("models", card.name).forked():
        model = build(str(card.architecture.get("kind")), settings)
    _fill(model, tensors, path)
    return Loaded(model.to(device), card.name, card, card.bounds, card.input_shape, card.class_names)


def _unknown(spec: str) -> str:
    """Say what is wrong with a spec that is neither a shipped name nor `file.py:factory`."""
    path = Path(spec)
    if path.suffix == ".py":
        return f"{spec} lacks the factory; write {spec}:NAME, a function without arguments that returns a model"
    if path.is_file():
        if sniff(path) in ("pickle", "torch-zip"):
            return (
                f"{spec} is a pickle, which can run code when opened, and is refused; save the weights as safetensors "
                "and give file.py:factory@weights.safetensors"
            )
        return f"{spec} holds no architecture; give file.py:factory@weights.safetensors"
    ways = f"give one of {', '.join(SHIPPED)}, or file.py:factory, or a training's folder"
    return f"there is no model {spec!r}; {nearest(spec, SHIPPED)}{ways}"


# -- a user's file ------------------------------------------------------------------------------------------------


def _load_file(path: Path, factory: str, weights: str | None, device: torch.device) -> Loaded:
    if not path.is_file():
        raise ModelError(f"{path} does not exist")
    tensors = None if weights is None else read_tensors(weights)  # before any code of the user runs
    with _imports_from(path.resolve().parent), Stream(0).child("models").forked(device):
        module = _run_file(path)
        model = _call(getattr(module, factory, None), f"{path}:{factory}", module)
    name = f"{path.name}:{factory}"
    if tensors is not None and weights is not None:
        _fill(model, tensors, Path(weights))
        name += f"@{Path(weights).name}"
    return Loaded(model.to(device), name)


@contextmanager
def _imports_from(folder: Path) -> Iterator[None]:
    """Let a file import its neighbors, and forget them afterwards: another model may have neighbors of equal name."""
    before, path, silent = set(sys.modules), list(sys.path), sys.dont_write_bytecode
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.path[:], sys.dont_write_bytecode = path, silent
        for name in set(sys.modules) - before:
            file = getattr(sys.modules[name], "__file__", None)
            if file and Path(file).resolve().parent == folder:
                del sys.modules[name]


def _run_file(path: Path) -> ModuleType:
    name = f"pellucid_user_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # noqa: PT018 - a path that ends in .py always has a loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up while the file runs
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise ModelError(f"{path} raises {described(error)} when run") from error
    return module


def _call(factory: object, name: str, module: ModuleType) -> nn.Module:
    if factory is None:
        raise ModelError(_no_factory(name, module))
    if isinstance(factory, nn.Module):
        return factory
    if not callable(factory):
        raise ModelError(f"{name} is {type(factory).__name__}, not a function or class that makes a model")
    try:
        model = factory()
    except (Exception, SystemExit) as error:
        raise ModelError(f"{name}() raises {described(error)}; it is called without arguments") from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"{name}() returns {type(model).__name__}, not a torch.nn.Module")
    return model


def _no_factory(name: str, module: ModuleType) -> str:
    path, _, factory = name.rpartition(":")
    own = [
        key
        for key, value in vars(module).items()
        if not key.startswith("_") and getattr(value, "__module__", None) == module.__name__ and callable(value)
    ]
    if not own:
        return f"{path} defines no function or class"
    return f"{path} has no {factory}; {nearest(factory, own)}it defines {_some(own)}"


def _fill(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Load weights into a model; every tensor must fit.

    A key may be missing when its tensor is tied to one that is there: safetensors stores tied weights once.

    Raises:
        ModelError: keys are missing, unexpected or of another shape; the first few are named.
    """
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
        f"{what} {_some(keys)}"
        for what, keys in (("lacks", missing), ("has the unexpected", unexpected), ("has other shapes:", reshaped))
        if keys
    ]
    if parts:
        raise ModelError(f"{path} does not fit the model: it {' and '.join(parts)}")
    try:
        model.load_state_dict(dict(tensors), strict=False)
    except RuntimeError as error:  # a module's own loading hook refused
        raise ModelError(f"{path} does not fit the model: {described(error)}") from error


# -- shared -------------------------------------------------------------------------------------------------------


def _device(name: torch.device | str) -> torch.device:
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # a "meta" device can be made but holds no numbers
    except (RuntimeError, AssertionError) as error:  # torch without CUDA raises an AssertionError
        reason = first_line(error).partition(". ")[0]  # torch goes on with a list of all backends
        raise ModelError(f"device {str(name)!r} cannot be used: {reason}") from None
    return device


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:_NAMED])
    return f"{shown}, ... ({len(names)} in all)" if len(names) > _NAMED else shown
