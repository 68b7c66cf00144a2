"""A decoder for segmentation on the feature maps of any backbone: Light-Ham."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ._hamburger import Hamburger, Norm, normalization, pointwise
from ._matrix_decomposition import MatrixDecomposition

RANK = 16


class LightHamHead(nn.Module):
    """Which class is each pixel? A light decoder on the feature maps of your own backbone.

    Maps of several sizes are brought to the first one's size and joined; a 1 x 1 convolution squeezes them, a Hamburger
    adds what the whole image says, a 1 x 1 convolution aligns, and the last one gives the classes. Squeezing and
    aligning end with normalization and ReLU.

    Args:
        in_channels: of each feature map, the largest map first; a number where there is one map.
        channels: between aligning and classes.
        num_classes: of the answer.
        width: channels of the Hamburger; `channels`, if not given.
        context: what mixes the positions of (B, width, H, W), in place of the Hamburger (nmf, at most 16 atoms).
        norm: "group" (32 groups), "batch", "layer" or "none", or what makes one from a number of channels.
        dropout: share of the maps that are dropped before the classes.
        align_corners: of the bilinear enlargement.

    Raises:
        ValueError: no feature maps, or a setting out of range.

    Example:
        >>> head = LightHamHead([32, 64], 64, num_classes=3)
        >>> maps = [torch.randn(2, 32, 16, 16), torch.randn(2, 64, 8, 8)]
        >>> tuple(head(maps).shape)
        (2, 3, 16, 16)

    Source: the decoder of SegNeXt (Guo et al. 2022, arXiv:2209.08575), after Geng et al. 2021 (arXiv:2109.04553).
    """

    def __init__(
        self,
        in_channels: Sequence[int] | int,
        channels: int,
        num_classes: int,
        *,
        width: int | None = None,
        context: nn.Module | None = None,
        norm: Norm = "group",
        dropout: float = 0.1,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        self.in_channels = (in_channels,) if isinstance(in_channels, int) else tuple(in_channels)
        width = channels if width is None else width
        if not self.in_channels or min(*self.in_channels, channels, num_classes, width) < 1:
            raise ValueError(
                "in_channels, channels, num_classes and width must be at least 1, got "
                f"{self.in_channels}, {channels}, {num_classes} and {width}"
            )
        self.align_corners = align_corners
        self.squeeze = _layer(sum(self.in_channels), width, norm)
        if context is None:  # an empty nn.Sequential is one, and false
            context = Hamburger(width, MatrixDecomposition(width, min(RANK, width)), norm=norm)
        self.context = context
        self.align = _layer(width, channels, norm)
        self.dropout = nn.Dropout1d(dropout)
        self.classes = nn.Conv1d(channels, num_classes, 1)
        nn.init.normal_(self.classes.weight, std=0.01)

    def forward(self, maps: Tensor | Sequence[Tensor]) -> Tensor:
        """Return logits (B, num_classes, H, W) of the size of the first map.

        Args:
            maps: (B, C_i, H_i, W_i) each.

        Raises:
            ValueError: another number of maps or channels than the head is for.
        """
        maps = [maps] if isinstance(maps, Tensor) else list(maps)
        found = tuple(part.shape[1] for part in maps)
        if found != self.in_channels:
            raise ValueError(f"the head is for maps of {self.in_channels} channels, got {found}")
        size = maps[0].shape[2:]
        same = [
            part
            if part.shape[2:] == size
            else F.interpolate(part, size=size, mode="bilinear", align_corners=self.align_corners)
            for part in maps
        ]
        x = self.squeeze(torch.cat(same, 1).flatten(2)).unflatten(2, size)
        x = self.align(self.context(x).flatten(2))
        return self.classes(self.dropout(x)).unflatten(2, size)  # type: ignore[no-any-return]


def _layer(inputs: int, outputs: int, norm: Norm) -> nn.Sequential:
    conv = pointwise(inputs, outputs, bias=norm == "none")
    return nn.Sequential(OrderedDict(conv=conv, norm=normalization(norm, outputs), relu=nn.ReLU()))
