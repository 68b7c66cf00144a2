"""How far the regions of two networks lie apart: a student and its teacher, or two checkpoints (arXiv:2111.03505)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.core import DataError

from ._knowledge import KnowledgePoints


@dataclass(frozen=True)
class LayerApart:
    """One layer of two networks, region by region.

    Args:
        names: the layer in the first and in the second network.
        turned: 1 - cos of a region's two places `(N, H, W)`: 0 for the same direction, 1 for unrelated ones.
        lengthened: length in the first network minus that in the second `(N, H, W)`, in units of each layer's mean.
        kept: share of the second network's knowledge points that are points of the same class in the first; NaN
            without any.
    """

    names: tuple[str, str]
    turned: Float[Tensor, "n h w"]
    lengthened: Float[Tensor, "n h w"]
    kept: float


def knowledge_apart(found: KnowledgePoints, beside: KnowledgePoints) -> tuple[LayerApart, ...]:
    """What does a student see as its teacher does, and what not? Layers are paired in their order.

    Args:
        found: of the student, made with `knowledge_points(..., beside=beside)`: only then are directions comparable.
        beside: of the teacher, on the same samples.

    Raises:
        DataError: other samples, another number of layers, or other grids.

    Example:
        >>> from torch import nn
        >>> from pellucid.core import Stream
        >>> from pellucid.explain import knowledge_points
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
        >>> x, y = Stream(0).uniform((12, 1, 8, 8)), torch.arange(12) % 3
        >>> found = knowledge_points(net, x, y, rng=Stream(0))
        >>> float(knowledge_apart(found, found)[0].turned.abs().max()) < 1e-5
        True
    """
    if not torch.equal(found.labels, beside.labels):
        raise DataError("the two networks were asked about other samples; ask both about the same ones")
    grids = [[layer.grid for layer in one.layers] for one in (found, beside)]
    if grids[0] != grids[1]:
        raise DataError(f"layers are paired in their order and need equal grids, got {grids[0]} and {grids[1]}")
    apart = []
    for ours, theirs in zip(found.layers, beside.layers, strict=True):
        a, b = ours.points, theirs.points
        same = a.mask & (a.label == b.label)
        turned = 1 - torch.cosine_similarity(a.vectors, b.vectors, dim=-1)
        neither = (a.vectors == 0).all(-1) & (b.vectors == 0).all(-1)  # without features in both: nothing turned
        apart.append(
            LayerApart(
                names=(ours.name, theirs.name),
                turned=turned.masked_fill(neither, 0.0),
                lengthened=a.vectors.norm(dim=-1) - b.vectors.norm(dim=-1),
                kept=float(same[b.mask].double().mean()) if bool(b.mask.any()) else math.nan,
            )
        )
    return tuple(apart)
