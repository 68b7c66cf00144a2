"""What an attack raises: losses per sample, from logits `(b, k)` and labels `(b,)`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from pellucid import core

Loss = Callable[[Float[Tensor, "b k"], Int[Tensor, " b"]], Float[Tensor, " b"]]


def cross_entropy(z: Float[Tensor, "b k"], y: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
    """Return -log p_y, written as softplus(-log-odds).

    The usual form subtracts a probability from 1; once p_y rounds to 1 (a lead of 17 in float32) its gradient is
    exactly zero and the attack stands still. This form keeps the gradient up to a lead of about 88.
    """
    return F.softplus(-core.log_odds(z, y))


def log_odds_loss(z: Float[Tensor, "b k"], y: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
    """Return -log p_y / (1 - p_y): ranks like the cross-entropy, and its gradient never vanishes by saturation."""
    return -core.log_odds(z, y)


def margin_loss(z: Float[Tensor, "b k"], y: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
    """Return the largest other logit minus z_y; positive where the model is wrong."""
    return -core.margin(z, y)


LOSSES: Mapping[str, Loss] = MappingProxyType(
    {"cross_entropy": cross_entropy, "log_odds": log_odds_loss, "margin": margin_loss}
)
"""Every loss by the name that recipes and the command line use."""
