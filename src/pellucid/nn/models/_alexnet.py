"""The AlexNet-like network for 32 x 32 images of arXiv:2111.06236."""

from __future__ import annotations

from typing import Annotated

import msgspec
import torch
from jaxtyping import Float
from msgspec import Meta
from torch import Tensor, nn

from ._head import Head, check_head, head

Positive = Annotated[int, Meta(ge=1)]
Deviation = Annotated[float, Meta(gt=0)]


class AlexNetSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="alexnet-cifar"
):
    """Settings of `AlexNet`.

    Args:
        in_channels: channels of an input image.
        image_size: height and width in pixels, a multiple of eight.
        channels: filters of the five convolutions.
        hidden: width of the two hidden fully connected layers.
        dropout: share of units left out before each hidden layer in training.
        classes: number of logits.
        head: "linear" is learned; "etf" has fixed prototypes at the corners of a simplex, `nn.ETFHead`.
        mean, std: of the training pixels, one per channel or one for all; inputs in [0, 1] are normalized inside the
            model. The defaults are CIFAR-10's.
    """

    in_channels: Positive = 3
    image_size: Annotated[int, Meta(ge=8, multiple_of=8)] = 32
    channels: tuple[Positive, Positive, Positive, Positive, Positive] = (64, 192, 384, 256, 256)
    hidden: Positive = 512
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.5
    classes: Annotated[int, Meta(ge=2)] = 10
    head: Head = "linear"
    mean: tuple[float, ...] = (0.4914, 0.4822, 0.4465)
    std: tuple[Deviation, ...] = (0.2471, 0.2435, 0.2616)

    def __post_init__(self) -> None:
        check_head(self.head, self.hidden, self.classes)
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, self.in_channels):
                raise ValueError(f"{name} has {len(values)} numbers but images have {self.in_channels} channels")

    def build(self) -> AlexNet:
        """Return the network with fresh weights, drawn from torch's global random state."""
        return AlexNet(self)


class AlexNet(nn.Module):
    """Five convolutions, the first with a 7 x 7 kernel, and a classifier with dropout; 4,821,322 parameters.

    Args:
        settings: sizes and normalization; the defaults fit CIFAR-10.

    Example:
        >>> model = AlexNet(AlexNetSettings(image_size=16, channels=(2, 2, 2, 2, 2), hidden=4))
        >>> tuple(model(torch.rand(2, 3, 16, 16)).shape)
        (2, 10)
    """

    mean: Tensor
    std: Tensor

    def __init__(self, settings: AlexNetSettings | None = None) -> None:
        super().__init__()
        self.settings = settings = settings or AlexNetSettings()
        a, b, c, d, e = settings.channels
        side = settings.image_size // 8
        # Settings, not weights: they stay out of the weights file but follow the model's device.
        self.register_buffer("mean", torch.tensor(settings.mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(settings.std).view(-1, 1, 1), persistent=False)
        self.features = nn.Sequential(
            nn.Conv2d(settings.in_channels, a, 7, padding=3),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, padding=1),
            nn.Conv2d(a, b, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, padding=1),
            nn.Conv2d(b, c, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(c, d, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(d, e, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, padding=1),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Dropout(settings.dropout),
            nn.Linear(e * side * side, settings.hidden),
            nn.ReLU(),
            nn.Dropout(settings.dropout),
            nn.Linear(settings.hidden, settings.hidden),
            nn.ReLU(),
            head(settings.head, settings.hidden, settings.classes),
        )
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """Return logits for images in [0, 1]."""
        return self.classifier(self.features((x - self.mean) / self.std))  # type: ignore[no-any-return]
