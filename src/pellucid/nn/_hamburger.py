"""Global context by matrix decomposition: a block of two linear maps around it, and a decoder for segmentation."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from ._matrix_decomposition import MatrixDecomposition, flatten, kept, unflatten

RANK = 64
VARIANTS = ("v1", "v2", "v2+")
Norm = str | Callable[[int], nn.Module]
"""A name, or what makes a normalization of (B, C, N) features from their number."""
NORMS = ("batch", "group", "layer", "none")
GROUPS = 32
MIXING = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm, nn.GroupNorm)
"""Normalizations whose numbers are found over positions."""


class ChannelNorm(nn.LayerNorm):
    """Layer normalization over the channels of (B, C, N)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalized features."""
        return super().forward(x.mT).mT


def normalization(kind: Norm, channels: int) -> nn.Module:
    """Return a normalization of (B, C, N) features.

    Raises:
        ValueError: an unknown name, or channels that 32 groups do not divide.
    """
    if not isinstance(kind, str):
        return kind(channels)
    if kind not in NORMS:
        raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {kind!r}")
    if kind == "group" and channels % GROUPS:
        raise ValueError(f'norm="group" makes {GROUPS} groups of channels, which do not divide {channels}')
    if kind == "group":
        return nn.GroupNorm(GROUPS, channels)
    makers: dict[str, Callable[[int], nn.Module]] = {"batch": nn.BatchNorm1d, "layer": ChannelNorm, "none": nn.Identity}
    return makers[kind](channels)


class Hamburger(nn.Module):
    """What does each position learn from all others? A residual block whose middle is a matrix decomposition.

    A 1 x 1 convolution, the decomposition (features through a ReLU before "nmf"), and a 1 x 1 convolution back; then

    - "v1": ReLU(x + norm(...));
    - "v2": one more convolution with normalization and ReLU, the cheese, after the decomposition; ReLU(x + ...);
    - "v2+": as "v2", with ReLU(beta x + alpha (...)): alpha and beta are learned, from 0 and 1.

    Args:
        channels: of the input and of the answer.
        ham: the decomposition, whose `channels` are the inner width; nmf with at most 64 atoms of `channels`, if not
            given. The `relu` of an "nmf" is switched on.
        variant: "v1", "v2" or "v2+".
        norm: "batch", "group" (32 groups), "layer" (the channels of each position) or "none". With a padding mask it
            must not mix positions: "layer" or "none". Or what makes one from a number of channels.
        post_relu: end with a ReLU, as the authors' code does; the paper writes none.

    Raises:
        ValueError: an unknown variant or normalization.

    Example:
        >>> block = Hamburger(64, MatrixDecomposition(32, rank=8))
        >>> tuple(block(torch.randn(2, 64, 14, 14)).shape)
        (2, 64, 14, 14)

    Source: Geng et al. 2021 (arXiv:2109.04553).
    """

    def __init__(
        self,
        channels: int,
        ham: MatrixDecomposition | None = None,
        *,
        variant: str = "v1",
        norm: Norm = "batch",
        post_relu: bool = True,
    ) -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, got {variant!r}")
        self.channels, self.variant, self.post_relu = channels, variant, post_relu
        ham = ham or MatrixDecomposition(channels, min(RANK, channels))
        ham.relu = ham.relu or ham.kind == "nmf"
        inner = ham.channels
        self.lower = pointwise(channels, inner)
        self.ham = ham
        cheese = variant != "v1"
        self.cheese: nn.Module = nn.Identity()
        if cheese:
            self.cheese = nn.Sequential(pointwise(inner, inner, bias=False), normalization(norm, inner), nn.ReLU())
        self.upper = pointwise(inner, channels, bias=norm == "none" and not cheese)
        self.norm = nn.Identity() if cheese else normalization(norm, channels)
        if variant == "v2+":
            self.alpha, self.beta = nn.Parameter(torch.zeros(())), nn.Parameter(torch.ones(()))

    def forward(
        self, x: Float[Tensor, "b _ *rest"], padding_mask: Bool[Tensor, "b *positions"] | None = None
    ) -> Float[Tensor, "b _ *rest"]:
        """Return features with context.

        Args:
            x: (B, N, C), (B, C, H, W) or (B, C, D, H, W).
            padding_mask: True where a position is padding, (B, N) or (B, H, W) and so on; the answer is 0 there.

        Raises:
            ValueError: a shape that does not fit, or a padding mask where the normalization mixes positions.
        """
        flat = flatten(x, self.channels)
        keep = kept(padding_mask, x)
        if keep is not None:
            for part in (*self.cheese.modules(), *self.norm.modules()):
                if isinstance(part, MIXING):
                    raise ValueError(
                        f'a padding mask needs norm="layer" or "none": {type(part).__name__} mixes positions'
                    )
            flat = flat.masked_fill(keep[:, None] == 0, 0)  # whatever is there, NaN included
        inner = self.ham(unflatten(self.lower(flat), x), padding_mask)
        inner = flatten(inner, self.ham.channels)
        found = self.norm(self.upper(self.cheese(inner)))
        mixed = self.beta * flat + self.alpha * found if self.variant == "v2+" else flat + found
        mixed = F.relu(mixed) if self.post_relu else mixed
        return unflatten(mixed if keep is None else mixed * keep[:, None], x)


def pointwise(inputs: int, outputs: int, *, bias: bool = True) -> nn.Conv1d:
    """Return a linear map of the channels of (B, C, N), with the authors' first weights."""
    conv = nn.Conv1d(inputs, outputs, 1, bias=bias)
    nn.init.normal_(conv.weight, std=math.sqrt(2 / outputs))
    return conv
