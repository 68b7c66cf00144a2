"""The narrow ResNet for 32 x 32 images that long-tailed papers compare on."""

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
Even = Annotated[int, Meta(ge=2, multiple_of=2)]
Deviation = Annotated[float, Meta(gt=0)]


class ResNet32Settings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="resnet32-cifar"
):
    """Settings of `ResNet32`.

    Args:
        in_channels: channels of an input image.
        width: filters of the first stage, an even number; the second has twice and the third four times as many. 16 is
            usual for ten classes, 32 for a hundred.
        blocks: residual blocks per stage; 5 is ResNet-32, 9 ResNet-56.
        classes: number of logits.
        head: "linear" is learned; "etf" has fixed prototypes at the corners of a simplex, `nn.ETFHead`.
        mean, std: of the training pixels, one per channel or one for all; inputs in [0, 1] are normalized inside the
            model. The defaults are CIFAR-10's.
    """

    in_channels: Positive = 3
    width: Even = 16
    blocks: Positive = 5
    classes: Annotated[int, Meta(ge=2)] = 10
    head: Head = "linear"
    mean: tuple[float, ...] = (0.4914, 0.4822, 0.4465)
    std: tuple[Deviation, ...] = (0.2471, 0.2435, 0.2616)

    def __post_init__(self) -> None:
        check_head(self.head, 4 * self.width, self.classes)
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, self.in_channels):
                raise ValueError(f"{name} has {len(values)} numbers but images have {self.in_channels} channels")

    def build(self) -> ResNet32:
        """Return the network with fresh weights, drawn from torch's global random state."""
        return ResNet32(self)


class ResNet32(nn.Module):
    """A 3 x 3 convolution, three stages of residual blocks and the mean over the picture; 464,154 parameters.

    The variant for small pictures of He et al. 2016 (arXiv:1512.03385, section 4.2): shortcuts have no weights; where
    the shape changes they take every other pixel and fill the new channels with zeros. Batch normalization mixes the
    samples of a batch in training.

    Args:
        settings: sizes and normalization; the defaults fit CIFAR-10.

    Example:
        >>> model = ResNet32(ResNet32Settings(width=2, blocks=1))
        >>> tuple(model(torch.rand(2, 3, 32, 32)).shape)
        (2, 10)
    """

    mean: Tensor
    std: Tensor

    def __init__(self, settings: ResNet32Settings | None = None) -> None:
        super().__init__()
        self.settings = settings = settings or ResNet32Settings()
        # Settings, not weights: they stay out of the weights file but follow the model's device.
        self.register_buffer("mean", torch.tensor(settings.mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(settings.std).view(-1, 1, 1), persistent=False)
        width = settings.width
        self.conv1 = nn.Conv2d(settings.in_channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        stages = []
        for k in range(3):
            wide, before = width * 2**k, width * 2 ** max(k - 1, 0)
            blocks = [_Block(before if place == 0 else wide, wide) for place in range(settings.blocks)]
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
        self.linear = head(settings.head, 4 * width, settings.classes)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """Return logits for images in [0, 1]."""
        x = F.relu(self.bn1(self.conv1((x - self.mean) / self.std)))
        return self.linear(self.stages(x).mean((2, 3)))  # type: ignore[no-any-return]


class _Block(nn.Module):
    """Two convolutions beside a shortcut without weights; where channels double, the picture halves."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.grown = after - before
        self.conv1 = nn.Conv2d(before, after, 3, stride=2 if self.grown else 1, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.grown:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.grown // 2, self.grown // 2))
        return F.relu(out + x)
