"""What does an attack change inside a model, order by order? The exact decomposition behind arXiv:2111.03536.

With f(k) the mean worth of k players and d(.) the value at the normal input minus that at the attacked one,
d v(N) = d f(0) + n d(f(1) - f(0)) + sum over orders m of (n-1-m) d I^m, where I^m = f(m+2) - 2 f(m+1) + f(m) is the
mean interaction of all pairs in contexts of m players. Both inputs share every coalition.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.core import ALONE, Interval, Masker, Model, OnStep, Stream, Value, Work, bootstrap
from pellucid.games import (
    ModelGame,
    SizeCurve,
    ValueOf,
    bin_sizes,
    by_size,
    cost_size_curve,
    log_odds,
    log_probability,
    size_curve,
    table,
)

from ._attacked import check_attacked
from ._pair_attack_orders import AttackPairs, PairAttackOrders, cost_pairs, measure_pairs, pairs_result
from ._signed_orders import signed_edges

Side = Literal["normal", "attacked"]

MOST = 10
"""How many times the chains asked for are drawn at most to reach a target."""


@dataclass(frozen=True, eq=False)
class OrderBins:
    """What the interactions of each range of orders lose to the attack, averaged over samples.

    Args:
        edges: `(B+1,)` orders; bin k holds the orders edges[k] .. edges[k+1]-1.
        utility: `(B,)`, what the bins add to the drop of the score.
        stderr: `(B,)`, standard error over samples.
        low, high: `(B,)`, 95 % bootstrap interval over samples.
        noise: `(B,)`, standard error that sampling chains leaves in `utility`.
    """

    edges: Int[Tensor, " edges"]
    utility: Float[Tensor, " bins"]
    stderr: Float[Tensor, " bins"]
    low: Float[Tensor, " bins"]
    high: Float[Tensor, " bins"]
    noise: Float[Tensor, " bins"]


@dataclass(frozen=True, eq=False)
class AttackOrders:
    """The drop of a score under attack, taken apart: `baseline_change + first_order + utilities.sum(1) = total`.

    Args:
        edges: `(B+1,)` orders; bin k holds the orders edges[k] .. edges[k+1]-1.
        total: `(N,)`, v(N) at the normal input minus v(N) at the attacked one.
        baseline_change: `(N,)`, d f(0): 0 unless what absent players show depends on the input.
        first_order: `(N,)`, what the players lose alone, n d(f(1) - f(0)).
        utilities: `(N, B)`, what the pair interactions of each bin lose.
        errors: `(N, B)`, standard error that sampling chains leaves in `utilities`; 0 where they are exact.
        means: `(N, B, 2)`, mean interaction of all pairs in each bin, weighted like the utilities: normal, attacked.
        chains: `(N,)`, chains of nested coalitions drawn; 0 where every coalition was evaluated.
        n_players: n.
        evaluations: model evaluations spent.
        beside: the same drop in another score, from the same evaluations; None if none was asked for.
        pairs: what pairs of players show, where that was asked for.
    """

    edges: Int[Tensor, " edges"]
    total: Float[Tensor, " samples"]
    baseline_change: Float[Tensor, " samples"]
    first_order: Float[Tensor, " samples"]
    utilities: Float[Tensor, "samples bins"]
    errors: Float[Tensor, "samples bins"]
    means: Float[Tensor, "samples bins 2"]
    chains: Int[Tensor, " samples"]
    n_players: int
    evaluations: int
    beside: AttackOrders | None = None
    pairs: PairAttackOrders | None = None

    @property
    def closure_error(self) -> float:
        """How far the parts of a sample miss its total: the largest difference over samples."""
        parts = self.baseline_change + self.first_order + self.utilities.sum(1)
        return float((parts - self.total).abs().max())

    @property
    def bins(self) -> OrderBins:
        """What each range of orders adds to the drop, averaged over samples."""
        interval, n = bootstrap(self.utilities, rng=_chance("bins")), len(self.total)
        noise = self.errors.square().mean(0).sqrt() / n**0.5
        return OrderBins(self.edges, interval.value, _stderr(self.utilities), interval.low, interval.high, noise)

    @property
    def ratios(self) -> Float[Tensor, " bins"]:
        """The middle of each bin as a share of n - 2: how many of the other players are present."""
        middle = (self.edges[:-1] + self.edges[1:] - 1).to(torch.float64) / 2
        return middle / max(1, self.n_players - 2)

    def order_curve(self, side: Side) -> Interval[Tensor]:
        """Return the mean interaction of all pairs by bin, `(B,)`, of the normal or the attacked inputs."""
        return bootstrap(self.means[:, :, _column(side)], rng=_chance("curve"))

    @property
    def delta(self) -> Interval[Tensor]:
        """The change of the mean interaction by bin, normal minus attacked, `(B,)`."""
        return bootstrap(self.means[:, :, 0] - self.means[:, :, 1], rng=_chance("delta"))

    @property
    def share(self) -> Interval[Tensor]:
        """|change of the mean interaction| of each bin over the sum of all bins, `(B,)`; NaN where nothing changes."""
        return bootstrap(self.means[:, :, 0] - self.means[:, :, 1], rng=_chance("share"), statistic=shares)

    def share_above(self, ratio: float) -> Interval[Tensor]:
        """Return the part of `share` in bins of contexts of at least this share of the other players."""
        high = self.above(ratio)
        return bootstrap(
            self.means[:, :, 0] - self.means[:, :, 1], rng=_chance("share"), statistic=lambda d: shares(d)[high].sum()
        )

    def above(self, ratio: float) -> Tensor:
        """Return whose middle is a context of at least this share of the other players, `(B,)` bool."""
        high: Tensor = self.ratios >= ratio - 1e-9
        return high

    @property
    def disentanglement(self) -> Interval[Tensor] | None:
        """Whether contexts agree on how pairs interact, `(M, 2)`: normal, attacked; None without pairs."""
        return None if self.pairs is None else self.pairs.disentanglement()

    @property
    def floor(self) -> Float[Tensor, " orders"] | None:
        """The disentanglement of contexts that do not agree at all, 1 / sqrt(contexts); None without pairs."""
        return None if self.pairs is None else self.pairs.floor


def shares(change: Float[Tensor, "samples bins"]) -> Float[Tensor, " bins"]:
    """Return |mean over samples| over the sum of all bins; NaN where nothing changes."""
    size: Tensor = change.mean(0).abs()
    return size / size.sum()


def _column(side: Side) -> int:
    if side not in ("normal", "attacked"):
        raise ValueError(f'side must be "normal" or "attacked", got {side!r}')
    return int(side == "attacked")


def _chance(purpose: str) -> Stream:
    return Stream(0).child("attack-orders", purpose)


def _stderr(values: Tensor) -> Tensor:
    if len(values) < 2:
        return torch.full_like(values[0], torch.nan)
    error: Tensor = values.std(0, correction=1) / len(values) ** 0.5
    return error


def cost_attack_orders(
    n_players: int, *, samples: int, bins: int = 10, chains: int = 200, pairs: AttackPairs | None = None
) -> int:
    """Return the number of evaluations of `attack_orders` without a target; with one it is up to ten times as many.

    Args:
        n_players: n.
        samples: pairs of a normal and an attacked input.
        bins: ranges of orders.
        chains: chains of nested coalitions per sample.
        pairs: pairs of players to measure too.
    """
    return 2 * samples * (_plan(n_players, bins, chains)[1] + cost_pairs(n_players, pairs))


def _plan(n_players: int, bins: int, chains: int) -> tuple[bool, int]:
    """Return whether the whole table is cheaper than chains, and the coalitions to evaluate."""
    sampled = cost_size_curve(n_players, sizes=bin_sizes(signed_edges(n_players, bins), n_players), permutations=chains)
    exact = n_players < 20 and (1 << n_players) <= sampled
    return exact, (1 << n_players) if exact else sampled


def attack_orders(
    model: Model,
    x: Float[Tensor, "samples *input"],
    x_adv: Float[Tensor, "samples *input"],
    y: Int[Tensor, " samples"],
    masker: Masker,
    *,
    value: ValueOf = log_probability,
    beside: ValueOf | None = log_odds,
    bins: int = 10,
    chains: int = 200,
    target: float | None = None,
    pairs: AttackPairs | None = None,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    rng: Stream,
    work: Work = ALONE,
) -> AttackOrders:
    """Through interactions of how many players does an attack act? The drop of a score, taken apart exactly.

    total = baseline_change + first_order + the utilities of all bins, whatever the sampling noise in them: 22 coalition
    sizes for 10 bins, `chains` chains of nested coalitions, shared by the normal and the attacked input. Where all
    coalitions are no dearer, all are evaluated and nothing is sampled.

    Args:
        model: maps a batch to logits.
        x: normal inputs.
        x_adv: attacked inputs, one per normal one.
        y: the class whose score is explained, per sample; usually the label.
        masker: cuts an input into players, such as `Patches(8, background=x)`; the attacked input is cut alike.
        value: makes the score of a class. The log probability saturates at 0 for sure answers and has no lower end, so
            part of any change at high orders is its curvature alone: look at `beside` too.
        beside: a second score, measured in the same evaluations.
        bins: ranges of orders, of about equal width.
        chains: chains per sample; the standard errors are in `errors`.
        target: standard error wanted of every bin of each sample, in units of the score; chains are added until it is
            reached, ten times `chains` at most.
        pairs: neighboring pairs to measure too, as in the paper; they do not add up to the total.
        bounds: least and greatest legal input value; None for inputs without bounds.
        rng: bound to the samples' ids, else row numbers are the ids.
        work: how the computation is watched, kept and shared out.

    Returns:
        The parts of the drop with their errors. `usable_pairs` finds the samples on which an attack succeeded.

    Raises:
        DataError: an attacked input is not finite, outside `bounds`, or unlike its normal one in shape or type.
        ValueError: labels or the stream do not fit, or a setting is out of range.
    """
    ids = check_attacked(x, x_adv, y, bounds, rng)
    if chains < 2 or (target is not None and not target > 0):
        raise ValueError(f"need at least 2 chains and a target above 0, got {chains} and {target}")
    n = masker(x[0]).count
    edges = signed_edges(n, bins)
    values = (value,) if beside is None else (value, beside)
    exact, _ = _plan(n, bins, chains)

    def compute(rows: Tensor, on_step: OnStep) -> dict[str, Tensor]:
        k = int(rows)  # one sample is one chunk
        label = int(y[k])
        score = _Scores(tuple(make(label) for make in values))
        game = ModelGame(model, torch.stack([x[k], x_adv[k]]), masker, score, batched=True)
        bound = rng.at(ids[k : k + 1]).child("attack-orders")
        curve = _whole(game) if exact else _sampled(game, edges, chains, target, bound, on_step)
        found = _parts(curve, edges, chains=0 if exact else len(curve.chains))
        if pairs is not None:
            single = ModelGame(model, torch.stack([x[k], x_adv[k]]), masker, value(label), batched=True)
            found |= measure_pairs(single, pairs, bound, on_step)
        return {name: tensor[None] for name, tensor in found.items()}

    key = f"{bins}|{chains}|{target}|{pairs}|{[getattr(v, '__name__', v) for v in values]}|{rng.seed}"
    found = work.map("attack-orders", ids, compute, chunk=1, key=key)
    evaluations = int(found["evaluations"].sum())
    columns = [_result(found, column, edges, n, evaluations) for column in range(len(values))]
    of_pairs = None
    if pairs is not None:
        of_pairs = pairs_result(found, pairs, masker(x[0]))
        evaluations += of_pairs.evaluations
    first = columns[0]
    return AttackOrders(
        edges=first.edges,
        total=first.total,
        baseline_change=first.baseline_change,
        first_order=first.first_order,
        utilities=first.utilities,
        errors=first.errors,
        means=first.means,
        chains=first.chains,
        n_players=n,
        evaluations=evaluations,
        beside=None if beside is None else columns[1],
        pairs=of_pairs,
    )


@dataclass(frozen=True)
class _Scores:
    """Several scores of the same logits, as the last axis of a game's values."""

    scores: tuple[Value, ...]

    def __call__(self, z: Float[Tensor, "c k"]) -> Float[Tensor, "c scores"]:
        return torch.stack([score(z) for score in self.scores], dim=-1)


def _whole(game: ModelGame) -> SizeCurve:
    f = by_size(table(game))
    spent = (1 << game.n_players) * game.cost
    return SizeCurve(torch.arange(game.n_players + 1), f.expand(2, *f.shape), game.n_players, spent)


def _sampled(
    game: ModelGame, edges: list[int], chains: int, target: float | None, rng: Stream, on_step: OnStep
) -> SizeCurve:
    """Return the curve of enough chains for the target: a first round says how many that are."""
    sizes = bin_sizes(edges, game.n_players)
    curve = size_curve(game, sizes=sizes, permutations=chains, rng=rng, on_step=on_step)
    if target is None:
        return curve
    worst = float(_drop(curve).bins(edges).stderr[:, 0].max())
    wanted = min(MOST * chains, ceil(chains * (worst / target) ** 2))
    if wanted - chains < 2:
        return curve
    more = size_curve(game, sizes=sizes, permutations=wanted - chains, rng=rng.child("more"), on_step=on_step)
    both = torch.cat([curve.chains, more.chains])
    return SizeCurve(curve.sizes, both, curve.n_players, curve.evaluations + more.evaluations)


def _drop(curve: SizeCurve) -> SizeCurve:
    """Return the curve of the difference, normal minus attacked."""
    return SizeCurve(curve.sizes, curve.chains[:, :, 0] - curve.chains[:, :, 1], curve.n_players, curve.evaluations)


def _parts(curve: SizeCurve, edges: list[int], *, chains: int) -> dict[str, Tensor]:
    n, drop = curve.n_players, _drop(curve)
    binned, f = drop.bins(edges), drop.f
    weights = torch.tensor([sum(n - 1 - m for m in range(a, b)) for a, b in pairwise(edges)])
    return {
        "total": f[-1],
        "baseline": f[0],
        "alone": drop.first_order().values,
        "utilities": binned.values,
        "errors": binned.stderr,
        "means": (curve.bins(edges).values / weights[:, None, None]).movedim(1, 2),
        "chains": torch.tensor(chains),
        "evaluations": torch.tensor(curve.evaluations),
    }


def _result(found: dict[str, Tensor], column: int, edges: list[int], n: int, evaluations: int) -> AttackOrders:
    return AttackOrders(
        edges=torch.tensor(edges),
        total=found["total"][:, column],
        baseline_change=found["baseline"][:, column],
        first_order=found["alone"][:, column],
        utilities=found["utilities"][:, :, column],
        errors=found["errors"][:, :, column],
        means=found["means"][:, :, column],
        chains=found["chains"],
        n_players=n,
        evaluations=evaluations,
    )
