"""Networks of timm, torchvision and transformers, with the sizes, scales and class names that they declare."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pellucid.core import ModelError, nearest

from ._adopt import Normalized
from ._library import checked_config, library, made, names_of, settings_of
from ._loaded import Loaded
from ._texts import is_text_folder, text_classifier

PRETRAINED = "pretrained"


def from_timm(name: str, weights: str | None, device: torch.device) -> tuple[Loaded, nn.Module]:
    """Return a network of timm and the module that weights go into.

    Its configuration tells size, scale and, for ImageNet, the class names.
    """
    timm = library("timm", "timm")
    if not timm.is_model(name):
        raise ModelError(f"timm has no model {name!r}; {nearest(name, timm.list_models())}timm.list_models() names all")
    network = made(f"timm:{name}", device, lambda: timm.create_model(name, pretrained=weights == PRETRAINED))
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
        return names_of(names)
    try:
        data = importlib.import_module("timm.data")
        subset = data.infer_imagenet_subset(network)
        info = data.ImageNetInfo(subset) if subset else None
        if info is None:
            return ()
        return names_of([info.index_to_description(index) for index in range(info.num_classes())])
    except (ImportError, AttributeError, AssertionError):  # versions differ in what they carry
        return ()


def from_torchvision(name: str, weights: str | None, device: torch.device) -> tuple[Loaded, nn.Module]:
    """Return a network of torchvision and the module that weights go into; its weights tell the rest."""
    models = library("torchvision.models", "torchvision")
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
    network = made(f"torchvision:{name}", device, lambda: models.get_model(name, weights=member if asked else None))
    facts = None if member is None else member.transforms()
    crop = getattr(facts, "crop_size", None)
    loaded = Loaded(
        _normalized(network, getattr(facts, "mean", None), getattr(facts, "std", None)),
        f"torchvision:{name}",
        bounds=(0.0, 1.0),
        input_shape=None if not crop else (3, int(crop[0]), int(crop[-1])),
        class_names=names_of(member.meta.get("categories", ())) if asked else (),
    )
    return loaded, network


def torchvision_weights(name: str) -> tuple[str, ...]:
    """Return the names of the published weights of a torchvision network."""
    models = library("torchvision.models", "torchvision")
    try:
        return tuple(models.get_model_weights(name).__members__)
    except (ValueError, AttributeError):
        return ()


def from_transformers(folder: Path, device: torch.device) -> Loaded:
    """Return an image or text classifier from a folder in Hugging Face's layout.

    Only `model.safetensors` is read as weights, no code of the folder runs, and nothing is downloaded.
    """
    if not folder.is_dir():
        raise ModelError(f"hf:{folder} must be a folder on this machine, and there is none; download the model first")
    if is_text_folder(folder):
        return text_classifier(folder, device)
    transformers = library("transformers", "hf")
    config = checked_config(folder)
    processor = settings_of(folder / "preprocessor_config.json", required=False)

    def make() -> nn.Module:
        network: nn.Module = transformers.AutoModelForImageClassification.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False, use_safetensors=True
        )
        return network

    network = made(f"hf:{folder.name}", device, make)
    names = config.get("id2label") or {}
    mean, std = _scale(processor, folder)
    return Loaded(
        _normalized(network, mean, std),
        f"hf:{folder.resolve().name}",
        bounds=(0.0, 1.0),
        input_shape=_image_shape(processor, config),
        class_names=names_of([names.get(str(index), "") for index in range(len(names))]),
    )


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


def _normalized(network: nn.Module, mean: Any, std: Any) -> nn.Module:
    if mean is None or std is None:
        return network
    return Normalized(network, [float(m) for m in mean], [float(s) for s in std])
