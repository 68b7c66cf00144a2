"""Checks that samples, labels and streams belong together."""

from __future__ import annotations

import torch
from torch import Tensor

from pellucid.core import Model, Stream, device_of, evaluating


def check_samples(x: Tensor, y: Tensor, rng: Stream) -> Tensor:
    """Return the ids of the samples, after checking that inputs, labels and stream belong together."""
    if len(x) == 0 or y.shape != (len(x),):
        raise ValueError(f"need one label per input and at least one input, got {len(x)} inputs, labels {y.shape}")
    ids = torch.arange(len(x)) if rng.ids is None else rng.ids
    if len(ids) != len(x):
        raise ValueError(f"rng is bound to {len(ids)} samples but there are {len(x)} inputs")
    return ids


def predicted(model: Model, x: Tensor, *, batch_size: int = 256) -> Tensor:
    """Return the class that the model gives each input, `(N,)` on the CPU; one logit is read as two classes."""
    device, parts = device_of(model), []
    with evaluating(model), torch.no_grad():
        for part in torch.split(x, batch_size):
            z = model(part.to(device))
            parts.append((z.argmax(1) if z.shape[1] > 1 else (z[:, 0] > 0).long()).cpu())
    return torch.cat(parts)
