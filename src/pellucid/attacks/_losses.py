"""What an attack raises: losses per sample, from logits `(b, k)` and labels `(b,)`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from pellucid import core

_TINY = 1e-12  # keeps the ratio finite where all of the leading logits are equal

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


def dlr_loss(z: Float[Tensor, "b k"], y: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
    """Return the largest other logit minus z_y, over the lead of the first logit on the third; positive where wrong.

    Neither a shift nor a rescaling of the logits changes it, so a model cannot hide by loud logits (Croce and Hein
    2020, arXiv:2003.01690, "difference of logits ratio"). Needs three classes; with two, `margin_loss` does the same
    service, because an attack uses its direction only.

    Raises:
        ValueError: fewer than three classes.
    """
    if z.shape[1] < 3:
        raise ValueError(f"the DLR loss needs at least 3 classes, got {z.shape[1]}; use the margin loss")
    top = z.topk(3, dim=1).values
    return -core.margin(z, y) / (top[:, 0] - top[:, 2] + _TINY)


def targeted_dlr_loss(z: Float[Tensor, "b k"], y: Int[Tensor, " b"], target: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
    """Return z_target - z_y, over the first logit's lead on the mean of the third and the fourth.

    The scale is free of the target, so that the attack raises the target's logit and lowers the true one's
    (Croce and Hein 2020, arXiv:2003.01690).

    Raises:
        ValueError: fewer than four classes.
    """
    if z.shape[1] < 4:
        raise ValueError(f"the targeted DLR loss needs at least 4 classes, got {z.shape[1]}; use the DLR loss")
    top = z.topk(4, dim=1).values
    return (core.logit(z, target) - core.logit(z, y)) / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + _TINY)


LOSSES: Mapping[str, Loss] = MappingProxyType(
    {"cross_entropy": cross_entropy, "dlr": dlr_loss, "log_odds": log_odds_loss, "margin": margin_loss}
)
"""Every loss of logits and labels by the name that recipes and the command line use; "dlr" needs three classes."""
