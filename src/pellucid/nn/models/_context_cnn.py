"""A small convolutional classifier with one layer, in its middle, that may mix all positions."""

from __future__ import annotations

from typing import Annotated

import msgspec
import torch
from jaxtyping import Float
from msgspec import Meta
from torch import Tensor, nn

from ._context import Context, Gradient, context

Positive = Annotated[int, Meta(ge=1)]
_GROUPS = 8


class ContextCNNSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="context-cnn"
):
    """Settings of `ContextCNN`.

    Args:
        in_channels: channels of an input image.
        image_size: height and width in pixels, a multiple of four.
        channels: filters after the first pooling, a multiple of eight; half as many before it.
        context: what mixes the positions after the first pooling: "nmf", "vq" or "cd" (`nn.Hamburger`), "attention", or
            "none", which looks at each position alone; all have as many weights.
        rank, steps: of the decomposition.
        gradient: of the decomposition, "one-step" or "unrolled".
        classes: number of logits.
        mean, std: of the training pixels; inputs in [0, 1] are normalized inside the model. The defaults are
            Fashion-MNIST's.
    """

    in_channels: Positive = 1
    image_size: Annotated[int, Meta(ge=4, multiple_of=4)] = 28
    channels: Annotated[int, Meta(ge=16, multiple_of=16)] = 48
    context: Context = "nmf"
    rank: Positive = 16
    steps: Annotated[int, Meta(ge=0)] = 6
    gradient: Gradient = "one-step"
    classes: Annotated[int, Meta(ge=2)] = 10
    mean: float = 0.286
    std: Annotated[float, Meta(gt=0)] = 0.353

    def build(self) -> ContextCNN:
        """Return the network with fresh weights, drawn from torch's global random state."""
        return ContextCNN(self)


class ContextCNN(nn.Module):
    """Three convolutions, with a layer between them that may mix all positions; 36,802 parameters as it comes.

    Normalization is in groups of channels of one image, so an image's logits depend on that image alone.

    Args:
        settings: sizes and the layer; the defaults fit Fashion-MNIST.

    Example:
        >>> logits = ContextCNN()(torch.rand(2, 1, 28, 28))
        >>> tuple(logits.shape)
        (2, 10)
    """

    def __init__(self, settings: ContextCNNSettings | None = None) -> None:
        super().__init__()
        self.settings = settings = settings or ContextCNNSettings()
        wide = settings.channels
        self.before = nn.Sequential(*_layer(settings.in_channels, wide // 2), nn.MaxPool2d(2), *_layer(wide // 2, wide))
        self.context = context(
            settings.context,
            wide,
            rank=settings.rank,
            steps=settings.steps,
            gradient=settings.gradient,
            norm=_norm,
        )
        self.after = nn.Sequential(*_layer(wide, wide, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classes = nn.Linear(wide, settings.classes)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # half the time on CPUs

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """Return logits for images in [0, 1]."""
        x = (x - self.settings.mean) / self.settings.std
        return self.classes(self.after(self.context(self.before(x))))  # type: ignore[no-any-return]


def _norm(channels: int) -> nn.Module:
    return nn.GroupNorm(_GROUPS, channels)


def _layer(inputs: int, outputs: int, *, stride: int = 1) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), _norm(outputs), nn.ReLU()
