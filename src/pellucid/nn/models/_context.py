"""What mixes the positions of feature maps, in networks that compare such layers; each has 2 channels^2 weights."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from .._backwards import OneStep
from .._hamburger import Hamburger, Norm, normalization, pointwise
from .._matrix_decomposition import MatrixDecomposition, Unrolled

Context = Literal["none", "attention", "nmf", "vq", "cd"]
"""Each position by itself, attention to all, or a matrix decomposition of all."""
Gradient = Literal["one-step", "unrolled"]
"""Of a decomposition: `nn.OneStep()` or `nn.Unrolled()`."""


def context(
    kind: Context, channels: int, *, rank: int = 16, steps: int = 6, gradient: Gradient = "one-step", norm: Norm
) -> nn.Module:
    """Return a residual block on (B, channels, H, W), drawn from torch's global random state.

    "none" has the same two linear maps as a `Hamburger` and a ReLU between them; "attention" has four maps to and from
    half as many channels.
    """
    if kind == "none":
        return Pointwise(channels, norm)
    if kind == "attention":
        return Attention(channels, norm)
    backward = OneStep() if gradient == "one-step" else Unrolled()
    ham = MatrixDecomposition(channels, min(rank, channels), kind=kind, steps=steps, backward=backward)
    return Hamburger(channels, ham, norm=norm)


class Pointwise(nn.Module):
    """A residual block that looks at each position alone: a Hamburger without its middle."""

    def __init__(self, channels: int, norm: Norm) -> None:
        super().__init__()
        self.lower, self.upper = pointwise(channels, channels), pointwise(channels, channels, bias=False)
        self.norm = normalization(norm, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the same shape."""
        found = self.norm(self.upper(F.relu(self.lower(x.flatten(2)))))
        return F.relu(x + found.reshape(x.shape))


class Attention(nn.Module):
    """A residual block of attention with one head of half the channels, as in non-local networks (Wang et al. 2018)."""

    def __init__(self, channels: int, norm: Norm) -> None:
        super().__init__()
        if channels % 2:
            raise ValueError(f"attention needs an even number of channels, got {channels}")
        self.maps = nn.Conv1d(channels, 3 * (channels // 2), 1)
        self.upper = pointwise(channels // 2, channels, bias=False)
        self.norm = normalization(norm, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the same shape."""
        # Contiguous, one head as an axis: otherwise torch forms the whole table of weights.
        parts = (part.mT.contiguous()[:, None] for part in self.maps(x.flatten(2)).chunk(3, dim=1))
        found = self.norm(self.upper(F.scaled_dot_product_attention(*parts)[:, 0].mT))
        return F.relu(x + found.reshape(x.shape))
