"""Networks of timm, torchvision and transformers, with the sizes, scales and class names that they declare."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pellucid.core import DataError, MissingExtra, ModelError, Stream, described, nearest, read_json

from ._adopt import Normalized
from ._loaded import Loaded

PRETRAINED = "pretrained"
_MOST_CLASSES = 100_000


def from_timm(name: str, weights: str | None, device: torch.device) -> tuple[Loaded, nn.Module]:
    """Return a network of timm and the module that weights go into.

    Its configuration tells size, scale and, for ImageNet, the class names.
    """
    timm = _library("timm", "timm")
    if not timm.is_model(name):
        raise ModelError(f"timm has no model {name!r}; {nearest(name, timm.list_models())}timm.list_models() names all")
    network = _made(f"timm:{name}", device, lambda: timm.create_model(name, pretrained=weights == PRETRAINED))
    facts: Mapping[str, Any] = getattr(network, "pretrained_cfg", None) or {}
    size = facts.get("input_size")
    loaded = Loaded(
        _normalized(network, facts.get("mean"), facts.get("std")),
        f"timm:{name}",
        bounds=(0.0, 1.0),
        input_shape=None if size is None else tuple(map(int, size)),
        class_names=_timm_names(network, facts) if weights == PRETRAINED else (),
    )
    return loaded, network


def _timm_names(network: nn.Module, facts: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names that timm carries for its ImageNet networks."""
    names = facts.get("label_names")
    if names:
        return _names(names)
    try:
        data = importlib.import_module("timm.data")
        subset = data.infer_imagenet_subset(network)
        info = data.ImageNetInfo(subset) if subset else None
        if info is None:
            return ()
        return _names([info.index_to_description(index) for index in range(info.num_classes())])
    except (ImportError, AttributeError, AssertionError):  # versions differ in what they carry
        return ()


def from_torchvision(name: str, weights: str | None, device: torch.device) -> tuple[Loaded, nn.Module]:
    """Return a network of torchvision and the module that weights go into; its weights tell the rest."""
    models = _library("torchvision.models", "torchvision")
    known = models.list_models()
    if name not in known:
        raise ModelError(f"torchvision has no model {name!r}; {nearest(name, known)}list_models() names all")
    try:
        enum: Any = models.get_model_weights(name)
        member = enum.DEFAULT if weights in (None, PRETRAINED) or weights not in enum.__members__ else enum[weights]
    except (ValueError, AttributeError):  # a network without published weights
        enum, member = None, None
    asked = weights == PRETRAINED or (enum is not None and weights in enum.__members__)
    if asked and member is None:
        raise ModelError(f"torchvision publishes no weights for {name}; give torchvision:{name}@weights.safetensors")
    network = _made(f"torchvision:{name}", device, lambda: models.get_model(name, weights=member if asked else None))
    facts = None if member is None else member.transforms()
    crop = getattr(facts, "crop_size", None)
    loaded = Loaded(
        _normalized(network, getattr(facts, "mean", None), getattr(facts, "std", None)),
        f"torchvision:{name}",
        bounds=(0.0, 1.0),
        input_shape=None if not crop else (3, int(crop[0]), int(crop[-1])),
        class_names=_names(member.meta.get("categories", ())) if asked else (),
    )
    return loaded, network


def torchvision_weights(name: str) -> tuple[str, ...]:
    """Return the names of the published weights of a torchvision network."""
    models = _library("torchvision.models", "torchvision")
    try:
        return tuple(models.get_model_weights(name).__members__)
    except (ValueError, AttributeError):
        return ()


def from_transformers(folder: Path, device: torch.device) -> Loaded:
    """Return an image classifier from a folder in Hugging Face's layout.

    Only `model.safetensors` is read as weights, no code of the folder runs, and nothing is downloaded.
    """
    if not folder.is_dir():
        raise ModelError(f"hf:{folder} must be a folder on this machine, and there is none; download the model first")
    transformers = _library("transformers", "hf")
    config = _settings(folder / "config.json", required=True)
    if config.get("auto_map"):
        raise ModelError(f"hf:{folder} needs Python code of its own (auto_map in config.json), which is never run")
    processor = _settings(folder / "preprocessor_config.json", required=False)

    def make() -> nn.Module:
        network: nn.Module = transformers.AutoModelForImageClassification.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False, use_safetensors=True
        )
        return network

    network = _made(f"hf:{folder.name}", device, make)
    names = config.get("id2label") or {}
    mean, std = _scale(processor, folder)
    return Loaded(
        _normalized(network, mean, std),
        f"hf:{folder.resolve().name}",
        bounds=(0.0, 1.0),
        input_shape=_image_shape(processor, config),
        class_names=_names([names.get(str(index), "") for index in range(len(names))]),
    )


def _settings(path: Path, *, required: bool) -> dict[str, Any]:
    if not path.is_file():
        if required:
            raise ModelError(f"{path.parent} has no {path.name}; give a folder that save_pretrained wrote")
        return {}
    try:
        found: dict[str, Any] = read_json(path, dict[str, Any])
    except DataError as error:
        raise ModelError(str(error)) from error
    return found


def _scale(processor: Mapping[str, Any], folder: Path) -> tuple[Sequence[float] | None, Sequence[float] | None]:
    """Return mean and standard deviation as they apply to pixels in [0, 1]."""
    mean, std = processor.get("image_mean"), processor.get("image_std")
    if not processor.get("do_normalize", mean is not None) or mean is None or std is None:
        mean, std = [0.0], [1.0]
    factor = 255 * float(processor.get("rescale_factor", 1 / 255)) if processor.get("do_rescale", True) else 255.0
    if processor.get("offset") or factor <= 0:
        raise ModelError(f"{folder} rescales pixels with an offset; wrap the network in models.Normalized yourself")
    if (mean, std) == ([0.0], [1.0]) and abs(factor - 1) < 1e-6:
        return None, None
    return [float(m) / factor for m in mean], [float(s) / factor for s in std]


def _image_shape(processor: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[int, ...] | None:
    channels = int(config.get("num_channels", 3))
    for size in (processor.get("crop_size") if processor.get("do_center_crop", True) else None, processor.get("size")):
        if isinstance(size, int):
            return channels, size, size
        if isinstance(size, Mapping) and "height" in size and "width" in size:
            return channels, int(size["height"]), int(size["width"])
        if isinstance(size, Mapping) and "shortest_edge" in size:
            return channels, int(size["shortest_edge"]), int(size["shortest_edge"])
    side = config.get("image_size")
    return (channels, side, side) if isinstance(side, int) else None


# -- shared -------------------------------------------------------------------------------------------------------


def _library(name: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        if error.name is not None and error.name.partition(".")[0] != package:
            raise ModelError(f"{package} is installed but cannot be imported: {described(error)}") from error
        raise MissingExtra(f"{package} is not installed; pip install 'pellucid[{extra}]'") from None


def _made(spec: str, device: torch.device, make: Any) -> nn.Module:
    try:
        with Stream(0).child("models", spec).forked(device):
            network: nn.Module = make()
    except (MemoryError, ModelError):
        raise
    except Exception as error:  # a library's own trouble: no network, a damaged cache, an unknown kind
        raise ModelError(f"{spec} cannot be made: {described(error)}") from error
    return network


def _normalized(network: nn.Module, mean: Any, std: Any) -> nn.Module:
    if mean is None or std is None:
        return network
    return Normalized(network, [float(m) for m in mean], [float(s) for s in std])


def _names(names: Sequence[str]) -> tuple[str, ...]:
    """Return class names, all different: a name that several classes share gets its number."""
    texts = [str(name) for name in names][:_MOST_CLASSES]
    twice = {text for text in texts if texts.count(text) > 1} if len(set(texts)) < len(texts) else set()
    named = tuple(f"{text} ({index})" if text in twice else text for index, text in enumerate(texts))
    return named if all(texts) else ()
