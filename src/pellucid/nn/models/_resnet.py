"""The ResNet-18 for 32 x 32 images that robustness papers compare on."""

from __future__ import annotations

from typing import Annotated

import msgspec
import torch
from jaxtyping import Float
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from ._head import Head, check_head, head

Positive = Annotated[int, Meta(ge=1)]
Deviation = Annotated[float, Meta(gt=0)]


class ResNetSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="resnet18-cifar"
):
    """Settings of `ResNet`.

    Args:
        in_channels: channels of an input image.
        width: filters of the first stage; each of the three others has twice as many.
        blocks: residual blocks of the four stages; (2, 2, 2, 2) is ResNet-18.
        classes: number of logits.
        head: "linear" is learned; "etf" has fixed prototypes at the corners of a simplex, `nn.ETFHead`.
        mean, std: of the training pixels, one per channel or one for all; inputs in [0, 1] are normalized inside the
            model. The defaults are CIFAR-10's.
    """

    in_channels: Positive = 3
    width: Positive = 64
    blocks: tuple[Positive, Positive, Positive, Positive] = (2, 2, 2, 2)
    classes: Annotated[int, Meta(ge=2)] = 10
    head: Head = "linear"
    mean: tuple[float, ...] = (0.4914, 0.4822, 0.4465)
    std: tuple[Deviation, ...] = (0.2471, 0.2435, 0.2616)

    def __post_init__(self) -> None:
        check_head(self.head, 8 * self.width, self.classes)
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, self.in_channels):
                raise ValueError(f"{name} has {len(values)} numbers but images have {self.in_channels} channels")

    def build(self) -> ResNet:
        """Return the network with fresh weights, drawn from torch's global random state."""
        return ResNet(self)


class ResNet(nn.Module):
    """A 3 x 3 convolution, four stages of residual blocks and the mean over the picture; 11,173,962 parameters.

    The variant for small pictures of He et al. 2016: no stride and no pooling before the first stage. Batch
    normalization mixes the samples of a batch in training.

    Args:
        settings: sizes and normalization; the defaults fit CIFAR-10.

    Example:
        >>> model = ResNet(ResNetSettings(width=2, blocks=(1, 1, 1, 1)))
        >>> tuple(model(torch.rand(2, 3, 32, 32)).shape)
        (2, 10)
    """

    mean: Tensor
    std: Tensor

    def __init__(self, settings: ResNetSettings | None = None) -> None:
        super().__init__()
        self.settings = settings = settings or ResNetSettings()
        # Settings, not weights: they stay out of the weights file but follow the model's device.
        self.register_buffer("mean", torch.tensor(settings.mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(settings.std).view(-1, 1, 1), persistent=False)
        width = settings.width
        self.conv1 = nn.Conv2d(settings.in_channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        stages, channels = [], width
        for k, count in enumerate(settings.blocks):
            wide = width * 2**k
            strides = [1 if k == 0 else 2, *[1] * (count - 1)]
            blocks = [_Block(channels if place == 0 else wide, wide, stride) for place, stride in enumerate(strides)]
            stages.append(nn.Sequential(*blocks))
            channels = wide
        self.stages = nn.Sequential(*stages)
        self.linear = head(settings.head, channels, settings.classes)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """Return logits for images in [0, 1]."""
        x = F.relu(self.bn1(self.conv1((x - self.mean) / self.std)))
        return self.linear(self.stages(x).mean((2, 3)))  # type: ignore[no-any-return]


class _Block(nn.Module):
    """Two convolutions beside a shortcut, which has a convolution of its own where the shape changes."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.shortcut = nn.Sequential()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride=stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + self.shortcut(x))
