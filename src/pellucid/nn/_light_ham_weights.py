"""Weights of released Light-Ham decoders (SegNeXt, MMSegmentation) for `LightHamHead`."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from pellucid.core import ModelError

from ._hamburger import Hamburger, Norm
from ._light_ham import LightHamHead
from ._matrix_decomposition import MatrixDecomposition, Unrolled

NAMES = {
    "squeeze.conv": "squeeze.conv",
    "squeeze.NORM": "squeeze.norm",
    "hamburger.ham_in.conv": "context.lower",
    "hamburger.ham_out.conv": "context.upper",
    "hamburger.ham_out.NORM": "context.norm",
    "align.conv": "align.conv",
    "align.NORM": "align.norm",
    "conv_seg": "classes",
    "hamburger.ham.bases": "context.ham.start",
}
"""Their names of layers, and ours; NORM is "gn" or "bn"."""


def light_ham_from_mmseg(checkpoint: Mapping[str, Any], config: str | Mapping[str, Any] | None = None) -> LightHamHead:
    """Return the decoder of a released checkpoint: the same formula, with the norm, rank and steps it was trained with.

    These come from the checkpoint's configuration, none is guessed; what the configuration does not name has the value
    that the released code gives it. One thing differs: the released decoder draws new start atoms for each call, so its
    answers are random; ours are the same each time. The gradient is unrolled, as theirs; set
    `head.context.ham.backward = OneStep()` for the cheap one.

    Args:
        checkpoint: `torch.load(path, weights_only=True)`, or its "state_dict" alone; other weights than the decoder's
            may be in it.
        config: the text of the configuration file with its base files joined, or the mapping `decode_head` of it; if
            not given, what the checkpoint's "meta" holds.

    Raises:
        ModelError: no configuration, another decoder than Light-Ham, or weights that do not fit it.

    Example:
        >>> import torch
        >>> config = {"type": "LightHamHead", "in_channels": [32, 64], "channels": 32, "ham_channels": 32,
        ...     "num_classes": 3, "ham_kwargs": {"MD_R": 16}, "norm_cfg": {"type": "GN", "num_groups": 32}}
        >>> shapes = {"squeeze.conv.weight": (32, 96, 1, 1), "squeeze.gn.weight": (32,), "squeeze.gn.bias": (32,),
        ...     "hamburger.ham_in.conv.weight": (32, 32, 1, 1), "hamburger.ham_in.conv.bias": (32,),
        ...     "hamburger.ham_out.conv.weight": (32, 32, 1, 1), "hamburger.ham_out.gn.weight": (32,),
        ...     "hamburger.ham_out.gn.bias": (32,), "align.conv.weight": (32, 32, 1, 1), "align.gn.weight": (32,),
        ...     "align.gn.bias": (32,), "conv_seg.weight": (3, 32, 1, 1), "conv_seg.bias": (3,)}
        >>> weights = {f"decode_head.{name}": torch.zeros(shape) for name, shape in shapes.items()}
        >>> light_ham_from_mmseg(weights, config).context.ham.rank
        16
    """
    settings = _decode_head(config if config is not None else _own_config(checkpoint))
    state = checkpoint.get("state_dict", checkpoint)
    ends = [name for name in state if name.endswith("hamburger.ham_in.conv.weight")]
    if len(ends) != 1:
        raise ModelError("the checkpoint holds no decoder with hamburger.ham_in.conv.weight among its names")
    prefix = ends[0].removesuffix("hamburger.ham_in.conv.weight")
    head = _head(settings)
    wanted = head.state_dict()
    found = _renamed({name.removeprefix(prefix): state[name] for name in state if name.startswith(prefix)})
    found.setdefault("context.ham.start", wanted["context.ham.start"])
    for name in sorted({*wanted, *found}):
        if name not in wanted or name not in found:
            what = "the configuration has no place for it" if name in found else "the checkpoint lacks it"
            raise ModelError(f"the decoder's weights and its configuration differ at {name}: {what}")
        found[name] = _squeezed(found[name], wanted[name])
        if found[name].shape != wanted[name].shape:
            raise ModelError(
                f"the decoder's weights and its configuration differ at {name}: {tuple(found[name].shape)} and "
                f"{tuple(wanted[name].shape)}"
            )
    head.load_state_dict(found)
    return head.eval()


def _head(settings: Mapping[str, Any]) -> LightHamHead:
    try:
        ham = settings.get("ham_kwargs") or {}
        width = settings.get("ham_channels", 512)
        random = bool(ham.get("RAND_INIT", True))
        norm = _norm(settings.get("norm_cfg"))
        decomposition = MatrixDecomposition(
            width,
            ham.get("MD_R", 64),
            steps=ham.get("TRAIN_STEPS", 6),
            eval_steps=ham.get("EVAL_STEPS", 7),
            heads=ham.get("MD_S", 1),
            axis="spatial" if ham.get("SPATIAL", True) else "channel",
            init="fixed" if random else "ema",
            backward=Unrolled(),
        )
        return LightHamHead(
            settings["in_channels"],
            settings["channels"],
            settings.get("out_channels") or settings["num_classes"],
            width=width,
            context=Hamburger(width, decomposition, norm=norm),
            norm=norm,
            dropout=settings.get("dropout_ratio", 0.1),
            align_corners=settings.get("align_corners", False),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"the configuration of the decoder does not make one: {error!r}") from error


def _norm(config: Mapping[str, Any] | None) -> Norm:
    if not config:
        return "none"
    kind, eps = config["type"], config.get("eps", 1e-5)
    if kind in ("BN", "SyncBN", "BN2d"):
        return partial(nn.BatchNorm1d, eps=eps)
    if kind == "GN":
        return partial(nn.GroupNorm, int(config["num_groups"]), eps=eps)
    raise ValueError(f"its normalization {kind!r} is not BN, SyncBN or GN")


def _renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    names = {theirs.replace("NORM", norm): ours for theirs, ours in NAMES.items() for norm in ("gn", "bn")}
    found = {}
    for name, value in state.items():
        layer, _, last = name.rpartition(".")
        found[names[name] if name in names else f"{names.get(layer, layer)}.{last}"] = value
    return found


def _squeezed(value: Tensor, like: Tensor) -> Tensor:
    """Return the weights of a 1 x 1 convolution of images as those of one over positions."""
    return value[..., 0] if value.ndim == like.ndim + 1 and value.shape[-1] == 1 else value


def _own_config(checkpoint: Mapping[str, Any]) -> str:
    meta = checkpoint.get("meta")
    text = (meta.get("config") or meta.get("cfg")) if isinstance(meta, Mapping) else None
    if not isinstance(text, str):
        raise ModelError(
            "norm, rank and steps of the decoder are not in its weights: pass config=, the text of its configuration "
            "or the mapping decode_head of it"
        )
    return text


def _decode_head(config: str | Mapping[str, Any]) -> Mapping[str, Any]:
    found: Any = _parsed(config) if isinstance(config, str) else config
    for name in ("model", "decode_head"):
        found = found.get(name, found) if isinstance(found, Mapping) else found
    if not isinstance(found, Mapping) or found.get("type") != "LightHamHead":
        kind = found.get("type") if isinstance(found, Mapping) else found
        raise ModelError(f"the configuration must have a decode_head of type LightHamHead, got {kind!r}")
    return found


def _parsed(text: str) -> Mapping[str, Any]:
    """Return `model` of a configuration text, which is read and never run: dict(...) calls, literals and names."""
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        raise ModelError(f"the configuration is not Python text: {error}") from error
    names = {
        target.id: line.value
        for line in tree.body
        if isinstance(line, ast.Assign)
        for target in line.targets
        if isinstance(target, ast.Name)
    }

    def value(node: ast.expr, depth: int = 0) -> Any:
        if depth > 50:
            raise ModelError("the configuration is nested too deeply, or names itself")
        inner = depth + 1
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args:
            return {item.arg: value(item.value, inner) for item in node.keywords if item.arg}
        if isinstance(node, ast.Dict):
            pairs = zip(node.keys, node.values, strict=True)
            return {value(key, inner): value(item, inner) for key, item in pairs if key is not None}
        if isinstance(node, ast.List | ast.Tuple):
            return [value(item, inner) for item in node.elts]
        if isinstance(node, ast.Name) and node.id in names:
            return value(names[node.id], inner)
        try:
            return ast.literal_eval(node)
        except ValueError:
            return None  # a function's name, say: of no use for the decoder

    if "model" not in names:
        raise ModelError("the configuration has no line that begins with model =")
    found = value(names["model"])
    if not isinstance(found, Mapping):
        raise ModelError("model of the configuration is not a dict")
    return found
