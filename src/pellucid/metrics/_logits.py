"""Checks that every metric on logits shares."""

from __future__ import annotations

from torch import Tensor

from pellucid.core import DataError, ModelError


def checked(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return float64 logits `(N, K)` and labels `(N,)` on one device, or say what is wrong with them."""
    if logits.ndim != 2 or len(logits) == 0 or logits.shape[1] < 2 or not logits.is_floating_point():
        raise ModelError(
            f"logits must be floating point of shape (N, K) with N >= 1 and K >= 2, "
            f"got {logits.dtype} of shape {tuple(logits.shape)}"
        )
    if labels.shape != (len(logits),) or labels.is_floating_point():
        raise DataError(f"labels must be whole numbers of shape ({len(logits)},), got {tuple(labels.shape)}")
    broken = (~logits.isfinite()).any(1).nonzero()
    if len(broken):
        raise ModelError(f"the logits of sample {int(broken[0])} hold NaN or infinity")
    labels = labels.detach().to(logits.device).long()
    outside = ((labels < 0) | (labels >= logits.shape[1])).nonzero()
    if len(outside):
        row = int(outside[0])
        raise DataError(
            f"sample {row} has label {int(labels[row])} but the logits know classes 0 to {logits.shape[1] - 1}"
        )
    return logits.detach().double(), labels
