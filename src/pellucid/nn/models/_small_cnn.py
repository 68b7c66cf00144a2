"""A small convolutional classifier that trains in minutes on a CPU."""

from __future__ import annotations

from typing import Annotated

import msgspec
import torch
from jaxtyping import Float
from msgspec import Meta
from torch import Tensor, nn

from ._head import Head, check_head, head

Positive = Annotated[int, Meta(ge=1)]


class SmallCNNSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="small-cnn"
):
    """Settings of `SmallCNN`.

    Args:
        in_channels: channels of an input image.
        image_size: height and width in pixels, a multiple of four.
        channels: filters of the two convolutions.
        hidden: width of the hidden fully connected layer.
        pooling: 3 x 3 convolutions with max pooling, which learn more, in place of strided 4 x 4 ones, which take half
            the time.
        classes: number of logits.
        head: "linear" is learned; "etf" has fixed prototypes at the corners of a simplex, `nn.ETFHead`.
        mean, std: of the training pixels; inputs in [0, 1] are normalized inside the model. The defaults are
            Fashion-MNIST's.
    """

    in_channels: Positive = 1
    image_size: Annotated[int, Meta(ge=4, multiple_of=4)] = 28
    channels: tuple[Positive, Positive] = (32, 64)
    hidden: Positive = 100
    pooling: bool = False
    classes: Annotated[int, Meta(ge=2)] = 10
    head: Head = "linear"
    mean: float = 0.286
    std: Annotated[float, Meta(gt=0)] = 0.353

    def __post_init__(self) -> None:
        check_head(self.head, self.hidden, self.classes)

    def build(self) -> SmallCNN:
        """Return the network with fresh weights, drawn from torch's global random state."""
        return SmallCNN(self)


class SmallCNN(nn.Module):
    """Two convolutions, each halving the image, and one hidden layer; 348,086 parameters as it comes.

    There is no batch normalization: a sample's logits depend on that sample alone, so training on several devices
    equals training on one, and masked or attacked inputs do not disturb each other.

    Args:
        settings: sizes and normalization; the defaults fit Fashion-MNIST.

    Example:
        >>> logits = SmallCNN()(torch.rand(2, 1, 28, 28))
        >>> tuple(logits.shape)
        (2, 10)
    """

    def __init__(self, settings: SmallCNNSettings | None = None) -> None:
        super().__init__()
        self.settings = settings = settings or SmallCNNSettings()
        first, second = settings.channels
        side = settings.image_size // 4
        kernel, stride = (3, 1) if settings.pooling else (4, 2)
        self.conv1 = nn.Conv2d(settings.in_channels, first, kernel, stride, padding=1)
        self.pool1 = nn.MaxPool2d(2) if settings.pooling else nn.Identity()
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(first, second, kernel, stride, padding=1)
        self.pool2 = nn.MaxPool2d(2) if settings.pooling else nn.Identity()
        self.relu2 = nn.ReLU()
        self.fc1 = nn.Linear(second * side * side, settings.hidden)
        self.relu3 = nn.ReLU()
        self.fc2 = head(settings.head, settings.hidden, settings.classes)
        # Channels-last convolutions take half the time on CPUs and use tensor cores on GPUs; the values are the same.
        # The weights decide the format: a one-channel input has no format of its own.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """Return logits for images in [0, 1]."""
        x = (x - self.settings.mean) / self.settings.std
        # Pooling before the ReLU gives the same numbers with a quarter of the work for the ReLU.
        x = self.relu1(self.pool1(self.conv1(x)))
        x = self.relu2(self.pool2(self.conv2(x)))
        return self.fc2(self.relu3(self.fc1(x.flatten(1))))  # type: ignore[no-any-return]
