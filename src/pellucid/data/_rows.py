"""Choosing rows so that all classes are served alike."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

Labels = Int[Tensor, " n"] | Int[Tensor, "n h w"]


def turns(labels: Labels) -> Int[Tensor, " n"]:
    """Return how many samples of its own class stand before each sample; of masks, how many samples."""
    if labels.ndim == 3:  # an image holds several classes, so none is its own
        return torch.arange(len(labels))
    by_class = labels.argsort(stable=True)
    grouped = labels[by_class].contiguous()
    turn = torch.empty_like(by_class)
    turn[by_class] = torch.arange(len(labels)) - torch.searchsorted(grouped, grouped)
    return turn


def spread(labels: Labels, limit: int | None) -> Int[Tensor, " m"]:
    """Return the first rows, class by class in turn, at most `limit` of them, in ascending order."""
    if limit is None or limit >= len(labels):
        return torch.arange(len(labels))
    return turns(labels).argsort(stable=True)[: max(1, limit)].sort().values
