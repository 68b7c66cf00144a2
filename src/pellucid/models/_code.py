"""A user's own code: a Python file or an importable module with a factory that makes the model."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from pellucid.core import ModelError, Stream, described, nearest, path_kind

from ._adopt import adopt, is_estimator
from ._loaded import Loaded
from ._weights import some


def from_file(path: Path, factory: str, device: torch.device) -> Loaded:
    """Run a Python file and return what its factory makes."""
    if path_kind(path) != "file":
        raise ModelError(f"{path} does not exist" if path_kind(path) is None else f"{path} is not a regular file")
    with _imports_from(path.resolve().parent), Stream(0).child("models").forked(device):
        module = _run_file(path)
        return _made(_member(module, factory, str(path)), f"{path}:{factory}", f"{path.name}:{factory}")


def from_module(name: str, factory: str, device: torch.device) -> Loaded:
    """Import a module as Python does, installed or in the working folder, and return what its factory makes."""
    with Stream(0).child("models").forked(device):
        module = _import(name)
        return _made(_member(module, factory, name), f"{name}:{factory}", f"{name}:{factory}")


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


def _import(name: str) -> ModuleType:
    path = list(sys.path)
    sys.path.append(str(Path.cwd()))  # last: a file here never hides an installed module
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise ModelError(
                f"there is no module {error.name}; install it, run where it can be imported, or give a file: "
                "path/to/file.py:factory"
            ) from error
        raise ModelError(f"importing {name} raises {described(error)}") from error
    except (Exception, SystemExit) as error:
        raise ModelError(f"importing {name} raises {described(error)}") from error
    finally:
        sys.path[:] = path


def _member(module: ModuleType, factory: str, where: str) -> object:
    found: object = module
    for part in factory.split("."):
        found = getattr(found, part, None)
        if found is None:
            raise ModelError(_no_factory(where, factory, module))
    return found


def _made(factory: object, spec: str, name: str) -> Loaded:
    """Return the model that a factory makes, or that is ready already."""
    if isinstance(factory, Loaded):
        return factory
    if isinstance(factory, nn.Module) or is_estimator(factory):
        return adopt(factory, name=name)
    if not callable(factory):
        raise ModelError(f"{spec} is {type(factory).__name__}, not a function or class that makes a model")
    try:
        model = factory()
    except (Exception, SystemExit) as error:
        raise ModelError(f"{spec}() raises {described(error)}; it is called without arguments") from error
    if isinstance(model, type) or not (
        isinstance(model, (Loaded, nn.Module)) or callable(model) or is_estimator(model)
    ):
        raise ModelError(
            f"{spec}() returns {type(model).__name__}, not a torch.nn.Module, scikit-learn estimator, function of "
            "a batch or a models.Loaded"
        )
    return adopt(model, name=name)


def _no_factory(where: str, factory: str, module: ModuleType) -> str:
    own = [
        key
        for key, value in vars(module).items()
        if not key.startswith("_") and getattr(value, "__module__", None) == module.__name__ and callable(value)
    ]
    if not own:
        return f"{where} defines no function or class"
    return f"{where} has no {factory}; {nearest(factory, own)}it defines {some(own)}"
