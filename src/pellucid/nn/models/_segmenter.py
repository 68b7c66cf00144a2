"""A small network that gives every pixel of an image a class, with a choice of what mixes the whole image."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
import torch
from jaxtyping import Float
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from .._hamburger import Hamburger
from .._light_ham import LightHamHead
from .._matrix_decomposition import MatrixDecomposition
from ._context import Attention

Positive = Annotated[int, Meta(ge=1)]
Width = Annotated[int, Meta(ge=8, multiple_of=8)]

_GROUPS = 8


class SegmenterSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="segmenter"
):
    """Settings of `Segmenter`.

    Args:
        in_channels: channels of an input image.
        channels: filters at a half, a quarter, an eighth and a sixteenth of the image's sides; multiples of eight.
        finest: the head works at this part of the image's sides, 4 for a quarter, 8 for an eighth.
        classes: number of logits of each pixel.
        head: what mixes all places: "light-ham" factorizes the maps (`nn.LightHamHead`), "attention" is one head of
            self-attention, "conv" sees three by three places; all with nearly the same number of parameters.
        width: channels of the head, a multiple of eight.
        ham: the decomposition of "light-ham", "nmf", "vq" or "cd"; see `nn.MatrixDecomposition`.
        rank: its atoms.
        steps: its steps.
        dropout: share of the head's maps that are dropped in training.
        mean, std: of the training pixels; inputs in [0, 1] are normalized inside the model.
    """

    in_channels: Positive = 3
    channels: tuple[Width, Width, Width, Width] = (16, 32, 64, 96)
    finest: Literal[4, 8] = 8
    classes: Annotated[int, Meta(ge=2)] = 3
    head: Literal["light-ham", "attention", "conv"] = "light-ham"
    width: Width = 64
    ham: Literal["nmf", "vq", "cd"] = "nmf"
    rank: Positive = 16
    steps: Positive = 6
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    mean: float = 0.5
    std: Annotated[float, Meta(gt=0)] = 0.25

    def build(self) -> Segmenter:
        """Return the network with fresh weights, drawn from torch's global random state."""
        return Segmenter(self)


class Segmenter(nn.Module):
    """Which class is each pixel? Convolutions to maps of several sizes, and one head on all of them.

    Normalization is in groups of channels of one image, so an image's answer depends on that image alone.

    Args:
        settings: sizes and head; the defaults are for color images and three classes.

    Example:
        >>> logits = Segmenter()(torch.rand(2, 3, 64, 48))
        >>> tuple(logits.shape)
        (2, 3, 64, 48)
    """

    def __init__(self, settings: SegmenterSettings | None = None) -> None:
        super().__init__()
        self.settings = settings = settings or SegmenterSettings()
        inputs = (settings.in_channels, *settings.channels)
        self.stages = nn.ModuleList(
            nn.Sequential(_layer(before, after, stride=2), *([_layer(after, after)] if place else []))
            for place, (before, after) in enumerate(zip(inputs, settings.channels, strict=False))
        )
        self.first = 1 if settings.finest == 4 else 2
        self.head = LightHamHead(
            settings.channels[self.first :],
            settings.width,
            settings.classes,
            context=_context(settings),
            norm=_norm,
            dropout=settings.dropout,
        )
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # half the time on CPUs

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        """Return logits of every pixel for images in [0, 1]; enlarged bilinearly from the head's own grid."""
        maps, size = [], x.shape[2:]
        x = (x - self.settings.mean) / self.settings.std
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        logits = self.head(maps[self.first :])
        return F.interpolate(logits, size, mode="bilinear", align_corners=False)


class LocalContext(nn.Module):
    """Three by three places through a narrow layer, with as many parameters as the two others.

    Args:
        channels: of the maps.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        narrow = max(1, round(channels / 5))  # 10 c c / 5 weights, as many as two maps of c to c channels
        self.lower = nn.Conv2d(channels, narrow, 3, padding=1)
        self.upper = nn.Conv2d(narrow, channels, 1, bias=False)
        self.norm = _norm(channels)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return maps in which each place knows of its neighbors."""
        return F.relu(x + self.norm(self.upper(self.lower(x))))


def _context(settings: SegmenterSettings) -> nn.Module:
    if settings.head == "attention":
        return Attention(settings.width, _norm)
    if settings.head == "conv":
        return LocalContext(settings.width)
    ham = MatrixDecomposition(settings.width, settings.rank, kind=settings.ham, steps=settings.steps)
    return Hamburger(settings.width, ham, norm=_norm)


def _norm(channels: int) -> nn.Module:
    return nn.GroupNorm(_GROUPS, channels)


def _layer(inputs: int, outputs: int, *, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return nn.Sequential(conv, _norm(outputs), nn.ReLU())
