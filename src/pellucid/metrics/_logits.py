"""Checks that every metric on logits shares."""

from __future__ import annotations

import torch
from torch import Tensor

from pellucid.core import DataError, Model, ModelError, evaluating


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


def answers(model: Model, x: Tensor, ids: Tensor) -> Tensor:
    """Return the predicted class of each input `(b,)`; the model is borrowed, `ids` name the samples in errors."""
    with evaluating(model, precise=False), torch.no_grad():
        logits = model(x)
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(x) or logits.shape[1] < 2:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ModelError(f"the model must return logits of shape ({len(x)}, K) with K >= 2, got {shape}")
    broken = (~logits.isfinite()).any(1).nonzero()
    if len(broken):
        name = int(ids[int(broken[0])])
        raise ModelError(f"the model gives NaN or infinity for sample {name}; repair the weights or the input")
    return logits.argmax(1)
