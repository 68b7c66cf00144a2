"""What all adaptors of other libraries share."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pellucid.core import DataError, MissingExtra, ModelError, Stream, described, read_json, sniff

_MOST_CLASSES = 100_000


def library(name: str, extra: str) -> Any:
    """Return a module of another library, or say how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        if error.name is not None and error.name.partition(".")[0] != package:
            raise ModelError(f"{package} is installed but cannot be imported: {described(error)}") from error
        raise MissingExtra(f"{package} is not installed; pip install 'pellucid[{extra}]'") from None


def made(spec: str, device: torch.device, make: Any) -> nn.Module:
    """Return the network that a library makes, from random numbers of our own."""
    try:
        with Stream(0).child("models", spec).forked(device):
            network: nn.Module = make()
    except (MemoryError, ModelError):
        raise
    except Exception as error:  # a library's own trouble: no network, a damaged cache, an unknown kind
        raise ModelError(f"{spec} cannot be made: {described(error)}") from error
    return network


def settings_of(path: Path, *, required: bool) -> dict[str, Any]:
    """Return a JSON file of a folder in Hugging Face's layout; nothing if it may be absent and is."""
    if not path.is_file():
        if required:
            raise ModelError(f"{path.parent} has no {path.name}; give a folder that save_pretrained wrote")
        return {}
    try:
        found: dict[str, Any] = read_json(path, dict[str, Any])
    except DataError as error:
        raise ModelError(str(error)) from error
    return found


def checked_config(folder: Path) -> dict[str, Any]:
    """Return `config.json` of a folder that needs no code of its own and holds safetensors.

    Raises:
        ModelError: it does not.
    """
    config = settings_of(folder / "config.json", required=True)
    others = [settings_of(folder / name, required=False) for name in ("tokenizer_config.json",)]
    if any(one.get("auto_map") for one in (config, *others)):
        raise ModelError(f"hf:{folder} needs Python code of its own (auto_map in its settings), which is never run")
    return config


def check_weights(folder: Path) -> None:
    """Refuse a folder whose weights are no safetensors."""
    found = sorted(folder.glob("*.safetensors"))
    if not found:
        raise ModelError(
            f"{folder} holds no model.safetensors; weights in another form may run code when opened and never are: "
            "save the model again with save_pretrained"
        )
    for path in found:
        if (kind := sniff(path)) != "safetensors":
            raise ModelError(f"{path} is no safetensors file but {kind}, and is not opened")


def names_of(names: Sequence[str]) -> tuple[str, ...]:
    """Return class names, all different: a name that several classes share gets its number."""
    texts = [str(name) for name in names][:_MOST_CLASSES]
    twice = {text for text in texts if texts.count(text) > 1} if len(set(texts)) < len(texts) else set()
    named = tuple(f"{text} ({index})" if text in twice else text for index, text in enumerate(texts))
    return named if all(texts) else ()
