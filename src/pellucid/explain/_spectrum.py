"""The order spectrum of a model: its numbers, and what follows from them without asking the model again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.core import Interval, Players, Stream, bootstrap
from pellucid.games import learning_strength

Normalize = Literal["measured", "uniform"]
EFFECTIVE = (4, 64)
"""Least and greatest number of effective players that is tried."""


@dataclass(frozen=True, eq=False)
class BottleneckSpectrum:
    """How strongly a model uses pair interactions in contexts of each size.

    Args:
        orders: int64 `(M,)`, context sizes m.
        ratios: `(M,)`, m / (n - 2).
        strength: `(M,)`, S^m, the mean over samples and pairs of |I^m(i,j)|, in units of the value.
        stderr: `(M,)`, standard error over samples.
        low, high: `(M,)`, ends of the 95 % bootstrap interval over samples.
        floor: `(M,)`, the strength that sampling noise alone would show; below twice that nothing is certain.
        relative: `(M,)`, J^m = S^m / mean over orders of S^m; NaN if the model uses no interactions at all.
        relative_low, relative_high: `(M,)`, its bootstrap interval.
        per_sample: `(N, M)`.
        floor_per_sample: `(N, M)`.
        pairs: int64 `(N, P, 2)`.
        interactions: `(N, P, M)`, estimates of I^m(i,j).
        grid: rows and columns of the players, None without a grid.
        n_players: n.
        evaluations: model evaluations spent.
        normalize: how the mean over orders is taken, see `weights`.
        dropped: samples left out because the model classifies them wrongly.
    """

    orders: Int[Tensor, " orders"]
    ratios: Float[Tensor, " orders"]
    strength: Float[Tensor, " orders"]
    stderr: Float[Tensor, " orders"]
    low: Float[Tensor, " orders"]
    high: Float[Tensor, " orders"]
    floor: Float[Tensor, " orders"]
    relative: Float[Tensor, " orders"]
    relative_low: Float[Tensor, " orders"]
    relative_high: Float[Tensor, " orders"]
    per_sample: Float[Tensor, "samples orders"]
    floor_per_sample: Float[Tensor, "samples orders"]
    pairs: Int[Tensor, "samples pairs 2"]
    interactions: Float[Tensor, "samples pairs orders"]
    grid: tuple[int, int] | None
    n_players: int
    evaluations: int
    normalize: Normalize = "measured"
    dropped: int = 0

    @property
    def note(self) -> str:
        """What a reader must be told before the numbers; empty if nothing."""
        if not bool(self.strength.any()):
            return "The model uses no pair interactions at the measured orders, so relative strengths are undefined."
        return ""

    @property
    def weights(self) -> Float[Tensor, " orders"]:
        """The weight of each order in the mean that `relative` divides by; they sum to one.

        "measured": all measured orders alike, as in the paper; "uniform": by the trapezoid rule over the ratios, so
        that a list with more orders at the ends gives the same curve.
        """
        return order_weighting(self.ratios, self.normalize)

    @property
    def theory(self) -> Float[Tensor, " orders"]:
        """F^m, how strongly each order would be learned in theory, F^0 = 1; see `games.learning_strength`."""
        return learning_strength(self.n_players, self.orders)

    @property
    def center(self) -> Interval[Tensor]:
        """The center of mass of the strength over the ratios, by the trapezoid rule; 95 % bootstrap over samples."""
        weights = order_weighting(self.ratios, "uniform")

        def center(rows: Tensor) -> Tensor:
            strength = rows.mean(0) * weights
            return (strength * self.ratios).sum() / strength.sum()

        return bootstrap(self.per_sample, rng=Stream(0).child("bottleneck", "center"), statistic=center)

    def effective_players(self) -> int | None:
        """Return the number of players n' for which the theory curve follows the measured one best; descriptive only.

        Least squares of log S^m against log F^m at the same ratios, n' from 4 to 64, up to a constant factor. The
        theory is an idealization and far too sharp at the real n: n' counts nothing.

        Returns:
            n', or None where fewer than three orders lie above twice the noise floor.
        """
        known = (self.strength > 2 * self.floor) & (self.strength > 0)
        if int(known.sum()) < 3:
            return None
        measured, ratios = self.strength[known].log(), self.ratios[known]

        def misfit(n: int) -> float:
            gap = measured - learning_strength(n, ratios * (n - 2)).log()
            return float((gap - gap.mean()).square().sum())

        return min(range(EFFECTIVE[0], EFFECTIVE[1] + 1), key=misfit)

    def pairs_heatmap(self, order: int, *, sample: int | None = None) -> Float[Tensor, "rows columns"]:
        """Return the mean |I^m(i,j)| of the measured pairs that each cell is part of; NaN where none was measured.

        Args:
            order: one of `orders`.
            sample: row of one input, or None for the mean over all.
        """
        if self.grid is None:
            raise ValueError("only players on a grid have a heat map")
        found = (self.orders == order).nonzero()
        if not len(found):
            raise ValueError(f"order {order} was not measured; measured orders are {self.orders.tolist()}")
        rows = slice(None) if sample is None else slice(sample, sample + 1)
        strength = self.interactions[rows, :, int(found[0, 0])].abs().reshape(-1, 1).expand(-1, 2)
        cells = self.pairs[rows].reshape(-1, 2)
        total = torch.zeros(self.n_players, dtype=torch.float64)
        total.index_add_(0, cells.flatten(), strength.flatten())
        count = torch.bincount(cells.flatten(), minlength=self.n_players)
        return torch.where(count > 0, total / count.clamp_min(1), torch.nan).view(self.grid)

    def strongest_pairs(self, order: int, *, sample: int, k: int = 5) -> list[tuple[int, int, float]]:
        """Return the k pairs (i, j, signed interaction) of one input that interact most at an order."""
        found = (self.orders == order).nonzero()
        if not len(found):
            raise ValueError(f"order {order} was not measured; measured orders are {self.orders.tolist()}")
        values = self.interactions[sample, :, int(found[0, 0])]
        best = values.abs().argsort(dim=0, descending=True, stable=True)[:k]
        return [(*map(int, self.pairs[sample, p]), float(values[p])) for p in best]  # type: ignore[misc]


def order_weighting(ratios: Tensor, normalize: Normalize) -> Tensor:
    """Return the weights `(M,)` of orders in a mean over them."""
    if normalize not in ("measured", "uniform"):
        raise ValueError(f'normalize must be "measured" or "uniform", got {normalize!r}')
    if normalize == "measured" or len(ratios) == 1:
        return torch.full_like(ratios, 1 / len(ratios))
    gaps = torch.cat([ratios.new_zeros(1), ratios.diff(), ratios.new_zeros(1)])
    return (gaps[1:] + gaps[:-1]) / (2 * (ratios[-1] - ratios[0]))


@dataclass(frozen=True, eq=False)
class Measured:
    """What was measured of N samples: `(N, P, M)` interactions, their `(N, M)` floors, and `(N, P, 2)` pairs."""

    interactions: Tensor
    floors: Tensor
    pairs: Tensor
    orders: Sequence[int]
    evaluations: int
    dropped: int = 0


def spectrum_of(found: Measured, players: Players, *, normalize: Normalize, rng: Stream) -> BottleneckSpectrum:
    """Return the spectrum of what was measured."""
    per_sample, orders = found.interactions.abs().mean(1), torch.tensor(found.orders)
    ratios = orders.to(torch.float64) / max(1, players.count - 2)
    weights = order_weighting(ratios, normalize)

    def relative_of(rows: Tensor) -> Tensor:
        strength = rows.mean(0)
        return strength / (strength * weights).sum()

    chance = Stream(rng.seed).child("bottleneck", "bootstrap")
    strength = bootstrap(per_sample, rng=chance)
    relative = bootstrap(per_sample, rng=chance, statistic=relative_of)
    samples = len(per_sample)
    deviation = per_sample.std(0, correction=1) if samples > 1 else torch.full_like(strength.value, torch.nan)
    return BottleneckSpectrum(
        orders=orders,
        ratios=ratios,
        strength=strength.value,
        stderr=deviation / samples**0.5,
        low=strength.low,
        high=strength.high,
        floor=found.floors.mean(0),
        relative=relative.value,
        relative_low=relative.low,
        relative_high=relative.high,
        per_sample=per_sample,
        floor_per_sample=found.floors,
        pairs=found.pairs,
        interactions=found.interactions,
        grid=players.grid,
        n_players=players.count,
        evaluations=found.evaluations,
        normalize=normalize,
        dropped=found.dropped,
    )
