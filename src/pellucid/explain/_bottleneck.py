"""Which interaction complexities has a network learned? The order spectrum of arXiv:2111.06236 and its cheap fallback.

The strength of order m is S^m = mean over samples and pairs of |I^m(i,j)|, with I^m(i,j) the mean of
v(S+i+j) - v(S+i) - v(S+j) + v(S) over the contexts S of m other players. J^m is S^m divided by its mean over the
measured orders.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.core import Masker, Model, OnStep, Players, Stream, bootstrap, silent
from pellucid.games import (
    ModelGame,
    PairOrders,
    ValueOf,
    bin_sizes,
    cost_pair_orders,
    cost_size_curve,
    log_odds,
    neighbor_blocks,
    pair_orders,
    size_curve,
)

DEFAULT_RATIOS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
"""The paper's orders as shares of n - 2: denser at the ends."""


@dataclass(frozen=True)
class SpectrumSettings:
    """How much of a spectrum to sample.

    Args:
        samples: inputs.
        blocks: groups of 3 x 3 neighboring cells per input; each has 36 pairs.
        contexts: contexts per pair and order.
    """

    samples: int
    blocks: int
    contexts: int


QUICK = SpectrumSettings(16, 1, 20)
FULL = SpectrumSettings(32, 2, 24)
_LADDER = (
    QUICK,
    SpectrumSettings(20, 1, 20),
    SpectrumSettings(24, 1, 20),
    SpectrumSettings(32, 1, 20),
    SpectrumSettings(32, 1, 24),
    SpectrumSettings(24, 2, 20),
    SpectrumSettings(32, 2, 20),
    FULL,
)


def orders_of(n_players: int, ratios: Sequence[float] = DEFAULT_RATIOS) -> tuple[int, ...]:
    """Return the orders m = floor((n-2) r), each once.

    Raises:
        ValueError: fewer than two players, or a ratio outside [0, 1].
    """
    if n_players < 2:
        raise ValueError(f"a game of {n_players} players has no pairs; use a finer grid or more features")
    if not ratios or min(ratios) < 0 or max(ratios) > 1:
        raise ValueError(f"ratios must lie between 0 and 1, got {list(ratios)}")
    return tuple(sorted({floor((n_players - 2) * r + 1e-9) for r in ratios}))


def _groups(players: Players, blocks: int) -> list[int]:
    return [len(group) for group in neighbor_blocks(players, blocks=blocks, rng=Stream(0))]


def cost_bottleneck(
    players: Players, settings: SpectrumSettings = FULL, *, ratios: Sequence[float] = DEFAULT_RATIOS
) -> int:
    """Return the exact number of evaluations that `bottleneck` spends with these settings; nothing is evaluated.

    Args:
        players: what the masker makes of one input.
        settings: samples, blocks and contexts.
        ratios: orders as shares of n - 2.
    """
    orders = orders_of(players.count, ratios)
    sizes = _groups(players, settings.blocks)
    return settings.samples * cost_pair_orders(players.count, sizes, orders, contexts=settings.contexts)


def fit_bottleneck(
    players: Players,
    budget: int,
    *,
    samples: int | None = None,
    most: SpectrumSettings = FULL,
    ratios: Sequence[float] = DEFAULT_RATIOS,
) -> SpectrumSettings | None:
    """Return the richest settings that the budget pays, or None if it does not pay the quick ones.

    Args:
        players: what the masker makes of one input.
        budget: most evaluations to spend.
        samples: how many inputs there are; no settings ask for more.
        most: settings beyond which more is not wanted, such as `QUICK`.
        ratios: orders as shares of n - 2.
    """
    best, best_cost = None, -1
    for rung in _LADDER:
        settings = SpectrumSettings(
            min(rung.samples, most.samples, samples or rung.samples),
            min(rung.blocks, most.blocks),
            min(rung.contexts, most.contexts),
        )
        cost = cost_bottleneck(players, settings, ratios=ratios)
        if best_cost < cost <= budget:
            best, best_cost = settings, cost
    return best


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
        relative: `(M,)`, J^m = S^m / mean over measured orders of S^m; NaN if the model uses no interactions at all.
        relative_low, relative_high: `(M,)`, its bootstrap interval.
        per_sample: `(N, M)`.
        floor_per_sample: `(N, M)`.
        pairs: int64 `(N, P, 2)`.
        interactions: `(N, P, M)`, estimates of I^m(i,j).
        grid: rows and columns of the players, None without a grid.
        n_players: n.
        evaluations: model evaluations spent.
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

    @property
    def note(self) -> str:
        """What a reader must be told before the numbers; empty if nothing."""
        if not bool(self.strength.any()):
            return "The model uses no pair interactions at the measured orders, so relative strengths are undefined."
        return ""

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


def check_samples(x: Tensor, y: Tensor, rng: Stream) -> Tensor:
    """Return the ids of the samples, after checking that inputs, labels and stream belong together."""
    if len(x) == 0 or y.shape != (len(x),):
        raise ValueError(f"need one label per input and at least one input, got {len(x)} inputs, labels {y.shape}")
    ids = torch.arange(len(x)) if rng.ids is None else rng.ids
    if len(ids) != len(x):
        raise ValueError(f"rng is bound to {len(ids)} samples but there are {len(x)} inputs")
    return ids


def _from(on_step: OnStep, start: int, total: int) -> OnStep:
    """Count the steps of one part of the work as steps of the whole."""
    return lambda done, _: on_step(start + done, total)


def _relative(per_sample: Tensor) -> Tensor:
    strength = per_sample.mean(0)
    return strength / strength.mean()


def bottleneck(
    model: Model,
    x: Float[Tensor, "samples *input"],
    y: Int[Tensor, " samples"],
    masker: Masker,
    *,
    ratios: Sequence[float] = DEFAULT_RATIOS,
    value: ValueOf = log_odds,
    blocks: int = FULL.blocks,
    contexts: int = FULL.contexts,
    rng: Stream,
    on_step: OnStep = silent,
) -> BottleneckSpectrum:
    """How strongly does the model use interactions of each order?

    S^m is the mean over samples and neighboring pairs of |I^m(i,j)|, the interaction of two input parts in contexts of
    m others. Many networks are strong at few and at nearly all players and weak between: the bottleneck of
    arXiv:2111.06236. A sample's numbers depend on its id, not on its company or the batch size.

    Args:
        model: maps a batch to logits.
        x: inputs.
        y: the class whose score is explained, per input; usually the label.
        masker: cuts an input into players, such as `Patches(8, background=x)`.
        ratios: orders as shares of n - 2.
        value: makes the value function of a class.
        blocks: groups of 3 x 3 neighboring cells (or 9 features) per input; all 36 pairs of each are measured.
        contexts: contexts per pair and order.
        rng: bound to the samples' ids, else row numbers are the ids.
        on_step: progress in evaluations.

    Returns:
        The spectrum; `cost_bottleneck` gives its price beforehand.
    """
    ids = check_samples(x, y, rng)
    first = masker(x[0])
    total = cost_bottleneck(first, SpectrumSettings(len(x), blocks, contexts), ratios=ratios)
    orders = orders_of(first.count, ratios)
    done, found = 0, []
    for sample, label, name in zip(x, y.tolist(), ids.tolist(), strict=True):
        bound = rng.at([name]).child("bottleneck")
        game = ModelGame(model, sample, masker, value(label))
        groups = neighbor_blocks(game.players, blocks=blocks, rng=bound)
        step = _from(on_step, done, total)
        result = pair_orders(game, groups, orders, contexts=contexts, rng=bound, on_step=step)
        done += result.evaluations
        found.append(result)
    return _spectrum(found, first, rng, done)


def _spectrum(found: Sequence[PairOrders], players: Players, rng: Stream, evaluations: int) -> BottleneckSpectrum:
    per_sample = torch.stack([result.abs_mean for result in found])
    floors = torch.stack([result.floor.mean(0) for result in found])
    orders = torch.tensor(found[0].orders)
    chance = Stream(rng.seed).child("bottleneck", "bootstrap")
    strength = bootstrap(per_sample, rng=chance)
    relative = bootstrap(per_sample, rng=chance, statistic=_relative)
    deviation = per_sample.std(0, correction=1) if len(found) > 1 else torch.full_like(strength.value, torch.nan)
    return BottleneckSpectrum(
        orders=orders,
        ratios=orders.to(torch.float64) / max(1, players.count - 2),
        strength=strength.value,
        stderr=deviation / len(found) ** 0.5,
        low=strength.low,
        high=strength.high,
        floor=floors.mean(0),
        relative=relative.value,
        relative_low=relative.low,
        relative_high=relative.high,
        per_sample=per_sample,
        floor_per_sample=floors,
        pairs=torch.stack([result.pairs for result in found]),
        interactions=torch.stack([result.values for result in found]),
        grid=players.grid,
        n_players=players.count,
        evaluations=evaluations,
    )


# -- the cheap fallback ---------------------------------------------------------------------------------------------


def signed_edges(n_players: int, bins: int) -> list[int]:
    """Return the edges that cut the orders 0..n-2 into at most `bins` bins of about equal width."""
    if n_players < 2 or bins < 1:
        raise ValueError(f"need at least two players and one bin, got {n_players} and {bins}")
    return sorted({round(k * (n_players - 1) / bins) for k in range(bins + 1)})


def cost_signed_order_curve(n_players: int, *, samples: int, permutations: int, bins: int = 10) -> int:
    """Return the exact number of evaluations of `signed_order_curve`."""
    sizes = bin_sizes(signed_edges(n_players, bins), n_players)
    return samples * cost_size_curve(n_players, sizes=sizes, permutations=permutations)


@dataclass(frozen=True, eq=False)
class SignedCurve:
    """What each range of orders adds to the score, with its sign; weak and strong pairs may cancel in it.

    Args:
        edges: `(B+1,)` orders; bin k holds the orders edges[k] .. edges[k+1]-1.
        first_order: `(N,)`, what players add alone, per sample.
        utilities: `(N, B)`, what the pair interactions of each bin add; with `first_order` they sum to `total`.
        total: `(N,)`, v(N) - v(empty).
        mean, stderr, low, high: `(B,)`, over samples; the interval is a 95 % bootstrap.
        noise: `(B,)`, standard error that sampling chains leaves in `mean`.
        n_players: n.
        evaluations: model evaluations spent.
    """

    edges: Int[Tensor, " edges"]
    first_order: Float[Tensor, " samples"]
    utilities: Float[Tensor, "samples bins"]
    total: Float[Tensor, " samples"]
    mean: Float[Tensor, " bins"]
    stderr: Float[Tensor, " bins"]
    low: Float[Tensor, " bins"]
    high: Float[Tensor, " bins"]
    noise: Float[Tensor, " bins"]
    n_players: int
    evaluations: int


def signed_order_curve(
    model: Model,
    x: Float[Tensor, "samples *input"],
    y: Int[Tensor, " samples"],
    masker: Masker,
    *,
    value: ValueOf = log_odds,
    permutations: int = 16,
    bins: int = 10,
    rng: Stream,
    on_step: OnStep = silent,
) -> SignedCurve:
    """What does each range of interaction orders add to the score? A signed curve for a few thousand evaluations.

    The mean interaction of all pairs at order m is f(m+2) - 2 f(m+1) + f(m), f(k) being the mean worth of k players, so
    that no pairs need evaluating. Unlike a spectrum it shows sums, in which signs cancel.

    Args:
        model: maps a batch to logits.
        x: inputs.
        y: the class whose score is explained, per input.
        masker: cuts an input into players.
        value: makes the value function of a class.
        permutations: chains of nested coalitions per input.
        bins: ranges of orders.
        rng: bound to the samples' ids, else row numbers are the ids.
        on_step: progress in evaluations.
    """
    ids = check_samples(x, y, rng)
    n = masker(x[0]).count
    edges = signed_edges(n, bins)
    total = cost_signed_order_curve(n, samples=len(x), permutations=permutations, bins=bins)
    done, shares, errors, alone, gains = 0, [], [], [], []
    for sample, label, name in zip(x, y.tolist(), ids.tolist(), strict=True):
        game = ModelGame(model, sample, masker, value(label))
        bound = rng.at([name]).child("signed-order-curve")
        curve = size_curve(game, sizes=bin_sizes(edges, n), permutations=permutations, rng=bound)
        binned = curve.bins(edges)
        shares.append(binned.values)
        errors.append(binned.stderr)
        alone.append(curve.first_order().values)
        gains.append(curve.f[-1] - curve.f[0])
        done += curve.evaluations
        on_step(done, total)
    utilities = torch.stack(shares)
    chance = Stream(rng.seed).child("signed-order-curve", "bootstrap")
    interval = bootstrap(utilities, rng=chance)
    deviation = utilities.std(0, correction=1) if len(x) > 1 else torch.full_like(interval.value, torch.nan)
    return SignedCurve(
        edges=torch.tensor(edges),
        first_order=torch.stack(alone),
        utilities=utilities,
        total=torch.stack(gains),
        mean=interval.value,
        stderr=deviation / len(x) ** 0.5,
        low=interval.low,
        high=interval.high,
        noise=torch.stack(errors).square().mean(0).sqrt() / len(x) ** 0.5,
        n_players=n,
        evaluations=done,
    )
