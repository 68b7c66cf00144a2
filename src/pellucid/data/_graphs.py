"""Graphs as tensors: adjacency and node features side by side, filled up with absent nodes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.core import DataError


def pack_graphs(
    adjacency: Sequence[Tensor], features: Sequence[Tensor], *, nodes: int | None = None
) -> Float[Tensor, "N n nf"]:
    """Return graphs as inputs of a model, `(N, n, n + f)`: row i holds what node i is tied to, then its features.

    Every node of a graph is there, so that no row of features is all zero; smaller graphs are filled up with absent
    nodes, whose rows and columns are all zero.

    Args:
        adjacency: of each graph `(m, m)`, weights of its edges, 0 where there is none; an edge without a direction
            stands in both places.
        features: of each graph `(m, f)`, one row per node.
        nodes: n; that of the largest graph if not given.

    Raises:
        DataError: no graph, shapes that do not fit, a node without features, or more than `nodes` nodes.

    Example:
        >>> pair, alone = torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.zeros(1, 1)
        >>> pack_graphs([pair, alone], [torch.ones(2, 1), torch.ones(1, 1)])[1].tolist()
        [[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    """
    if not adjacency or len(adjacency) != len(features):
        raise DataError(f"there are {len(adjacency)} adjacency matrices but {len(features)} tables of node features")
    width = features[0].shape[-1]
    for k, (edges, rows) in enumerate(zip(adjacency, features, strict=True)):
        if edges.ndim != 2 or edges.shape[0] != edges.shape[1] or rows.shape != (len(edges), width) or not len(edges):
            raise DataError(
                f"graph {k} has an adjacency of shape {tuple(edges.shape)} and node features of shape "
                f"{tuple(rows.shape)}; they must be (m, m) and (m, {width})"
            )
        if not bool((rows != 0).any(1).all()):
            raise DataError(
                f"graph {k} has a node whose features are all zero, which means that it is absent; add a column of ones"
            )
    most = max(map(len, adjacency))
    n = most if nodes is None else nodes
    if most > n:
        raise DataError(f"a graph has {most} nodes, more than the {n} there is room for")
    packed = torch.zeros(len(adjacency), n, n + width)
    for k, (edges, rows) in enumerate(zip(adjacency, features, strict=True)):
        packed[k, : len(edges), : len(edges)] = edges
        packed[k, : len(rows), n:] = rows
    return packed
