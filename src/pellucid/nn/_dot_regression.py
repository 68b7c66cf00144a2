"""The dot-regression loss: pull features to their fixed prototype, and push nothing (arXiv:2203.09081)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

Balance = Literal["none", "batch", "counts"]
"""How classes are weighted against each other; see `class_weights`."""


def dot_regression_loss(
    features: Float[Tensor, "b d"],
    labels: Int[Tensor, " b"],
    prototypes: Float[Tensor, "_ k"],
    *,
    feature_norm: float = 1.0,
    weights: Float[Tensor, " b"] | None = None,
    reduction: Literal["mean", "none"] = "mean",
) -> Tensor:
    """How far are features from the direction of their class? (m_c . h - s)^2 / (2 s), the mean over the batch.

    With unit features at the angle t to their prototype it is (1 - cos t)^2 / 2, and its gradient by h is
    -(1 - cos t) m_c: a pull that dies out on arrival. Only the products with the own prototype are computed, in float32
    at least.

    Args:
        features: h, of length s, as `ETFHead.features` gives them.
        labels: classes.
        prototypes: one column of length 1 per class.
        feature_norm: s; a constant.
        weights: of the samples, as `class_weights` gives them; 1 if not given.
        reduction: "mean" over the samples, or "none" for one number each.

    Raises:
        ValueError: shapes, labels or settings do not fit.

    Example:
        >>> m = torch.tensor([[1.0, -1.0], [0.0, 0.0]])
        >>> dot_regression_loss(m.T, torch.tensor([0, 0]), m, reduction="none").tolist()
        [0.0, 2.0]
    """
    if features.shape[1] != len(prototypes):
        raise ValueError(f"features have {features.shape[1]} columns but prototypes {len(prototypes)} rows")
    if not 0 < feature_norm < math.inf:
        raise ValueError(f"feature_norm must be a positive number, got {feature_norm}")
    if reduction not in ("mean", "none"):
        raise ValueError(f"reduction must be mean or none, got {reduction!r}")
    _check_labels(labels, prototypes.shape[1])
    with torch.autocast(features.device.type, enabled=False):
        wide = features if features.dtype == torch.float64 else features.float()
        products = (wide * prototypes.T[labels].to(wide.dtype)).sum(1)
        losses = (products - feature_norm).square() / (2 * feature_norm)
        losses = losses if weights is None else losses * weights.to(losses.dtype)
    return losses.mean() if reduction == "mean" else losses


def class_weights(
    labels: Int[Tensor, " b"], balance: Balance, *, n_classes: int, counts: Int[Tensor, " k"] | None = None
) -> Float[Tensor, " k"]:
    """How much does a sample of each class count, so that rare classes are not outvoted?

    "batch": B / (P n_c) for the P classes in the batch, so that a mean over the batch is the mean over these classes of
    their own means; 1 for the others. "counts": N / (P n_c) with the numbers of the whole training set. "none": 1.

    Args:
        labels: of the batch, before any mixing.
        balance: see above.
        n_classes: K.
        counts: training samples per class, for "counts".

    Raises:
        ValueError: labels do not fit, or there is not one count per class.

    Example:
        >>> class_weights(torch.tensor([0, 0, 0, 1]), "batch", n_classes=3).tolist()
        [0.6666666865348816, 2.0, 1.0]
    """
    if balance not in ("none", "batch", "counts"):
        raise ValueError(f"class_balance must be batch, counts or none, got {balance!r}")
    _check_labels(labels, n_classes)
    if balance == "none":
        return torch.ones(n_classes, device=labels.device)
    if balance == "batch":
        held = torch.bincount(labels, minlength=n_classes)
    else:
        if counts is None or len(counts) != n_classes:
            found = "none" if counts is None else len(counts)
            raise ValueError(f'class_balance="counts" needs the training samples of {n_classes} classes, got {found}')
        held = counts.to(labels.device)
    present = held > 0
    weights = held.sum() / (present.sum() * held.clamp_min(1)).float()
    return torch.where(present, weights, 1.0)


def _check_labels(labels: Tensor, n_classes: int) -> None:
    # On a GPU the look at the values would wait for it at every step; indexing tells there.
    if labels.device.type == "cpu" and len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < n_classes:
        wrong = int(labels.min()) if int(labels.min()) < 0 else int(labels.max())
        raise ValueError(f"labels must lie in 0 to {n_classes - 1}, got {wrong}")
