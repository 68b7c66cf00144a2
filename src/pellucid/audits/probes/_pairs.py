"""Which features interact: the pairs of a table's players by name."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.core import Exhibit, Heatmap, Table, numbers

PAIRS_SHOWN = 10
MOST_NAMES = 20
"""Players up to which a matrix of all pairs can be read."""


def pair_exhibits(
    names: tuple[str, ...],
    pairs: Int[Tensor, "samples pairs 2"],
    interactions: Float[Tensor, "samples pairs orders"],
    ratios: Float[Tensor, " orders"],
    *,
    unit: str,
) -> tuple[Exhibit, ...]:
    """Return the strongest pairs as a table, and all pairs as a matrix where their names fit.

    Args:
        names: of the players.
        pairs: measured pairs of each sample.
        interactions: their interactions at each order.
        ratios: orders as shares of the other players.
        unit: of the interactions.
    """
    n = len(names)
    i, j = pairs.reshape(-1, 2).sort(1).values.T
    place = i * n + j
    total = torch.zeros(n * n, len(ratios), dtype=torch.float64)
    total.index_add_(0, place, interactions.abs().flatten(0, 1).double())
    measured = torch.bincount(place, minlength=n * n)
    strength = total / measured.clamp(min=1)[:, None]
    mean = torch.where(measured > 0, strength.mean(1), -1.0)
    top = [p for p in mean.argsort(descending=True, stable=True)[:PAIRS_SHOWN].tolist() if mean[p] > 0]
    if not top:
        return ()
    orders = sorted({0, len(ratios) // 2, len(ratios) - 1})
    table = Table(
        title="Features that interact most",
        columns=(
            "first",
            "second",
            "mean strength",
            *(f"{float(ratios[m]):.0%} of the others present" for m in orders),
            "samples",
        ),
        rows=tuple(
            (
                names[p // n],
                names[p % n],
                float(mean[p]),
                *(float(strength[p, m]) for m in orders),
                int(measured[p]),
            )
            for p in top
        ),
        caption=f"Mean |interaction| in {unit} over the samples in which the pair was measured; the mean strength is "
        "over all measured orders.",
    )
    if n > MOST_NAMES:
        return (table,)
    square = torch.where(measured > 0, mean, torch.nan).view(n, n)
    square = torch.where(square.isnan(), square.T, square)
    matrix = Heatmap(
        title="Which features interact",
        rows=names,
        columns=names,
        values=tuple(numbers(row) for row in square),
        unit=unit,
        caption="Mean |interaction| of each pair over samples and orders; empty where no sample measured the pair.",
    )
    return matrix, table
