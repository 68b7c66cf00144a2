"""The curves of arXiv:2111.03536: how an attack changes the interactions of neighboring pairs, order by order.

I^m is the mean over samples and pairs of the SIGNED interaction in contexts of m players. Neighboring pairs do not add
up to the drop of the score; `attack_orders` does that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.core import ALONE, Interval, Masker, Model, OnStep, Players, Stream, Work, bootstrap, silent
from pellucid.games import (
    Aggregate,
    ModelGame,
    ValueOf,
    cost_disentanglement,
    disentanglement,
    log_probability,
    neighbor_pairs,
)

from ._attacked import check_attacked
from ._bottleneck import orders_of

_RATIOS = (0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 0.95)
_OFFICIAL_RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0)


@dataclass(frozen=True)
class AttackPairs:
    """Which pairs to measure, and how well.

    Args:
        count: pairs per sample.
        contexts: contexts per pair and order.
        ratios: orders as shares of n - 2.
        radius: how many cells of a grid two players are apart at most; any two where there is no grid.
    """

    count: int = 24
    contexts: int = 32
    ratios: tuple[float, ...] = field(default=_RATIOS, kw_only=True)
    radius: int = field(default=1, kw_only=True)

    def __post_init__(self) -> None:
        if self.count < 1 or self.contexts < 2 or self.radius < 1:
            raise ValueError(
                "need at least 1 pair, 2 contexts and a radius of 1, "
                f"got {self.count}, {self.contexts} and {self.radius}"
            )


OFFICIAL_PAIRS = AttackPairs(200, 100, ratios=_OFFICIAL_RATIOS)
"""The settings of the authors' code: 200 pairs among the 8 neighbors, 100 contexts; their grid is 16 x 16."""


@dataclass(frozen=True, eq=False)
class PairAttackOrders:
    """Interactions of pairs at some orders, at normal and at attacked inputs, in the same contexts.

    Args:
        orders: `(M,)`, context sizes m.
        interactions: `(N, P, M, 2)`, the mean over contexts of D: normal, attacked.
        sizes: `(N, P, M, 2)`, the mean over contexts of |D|; 0 where a pair does not interact at all.
        presence: `(N, M, n, 2)`, who is present when the tenth of the pairs that interacts most does so with its own
            sign, more often than contexts of that size hold a player.
        floor: `(M,)`, the disentanglement of contexts that do not agree at all, 1 / sqrt(contexts).
        n_players: n.
        grid: rows and columns of the players, None without a grid.
        evaluations: model evaluations spent.
    """

    orders: Int[Tensor, " orders"]
    interactions: Float[Tensor, "samples pairs orders 2"]
    sizes: Float[Tensor, "samples pairs orders 2"]
    presence: Float[Tensor, "samples orders n 2"]
    floor: Float[Tensor, " orders"]
    n_players: int
    grid: tuple[int, int] | None
    evaluations: int

    @property
    def ratios(self) -> Float[Tensor, " orders"]:
        """Orders as shares of n - 2."""
        return self.orders.to(torch.float64) / max(1, self.n_players - 2)

    def order_curve(self, side: Literal["normal", "attacked"]) -> Interval[Tensor]:
        """Return I^m, `(M,)`, the mean over samples and pairs, of the normal or the attacked inputs."""
        return bootstrap(self.interactions.mean(1)[:, :, int(side == "attacked")], rng=_chance("curve"))

    @property
    def _change(self) -> Tensor:
        mean = self.interactions.mean(1)
        return mean[:, :, 0] - mean[:, :, 1]

    @property
    def delta(self) -> Interval[Tensor]:
        """dI^m, normal minus attacked, `(M,)`."""
        return bootstrap(self._change, rng=_chance("delta"))

    @property
    def weighted_delta(self) -> Interval[Tensor]:
        """dJ^m = (n-1-m) / (n (n-1)) dI^m, what an ordered pair adds to the drop at each order, `(M,)`."""
        n = self.n_players
        return bootstrap(self._change * (n - 1 - self.orders) / (n * (n - 1)), rng=_chance("delta"))

    @property
    def share(self) -> Interval[Tensor]:
        """|dI^m| over the sum of all measured orders, `(M,)`; NaN where nothing changes."""

        def shares(change: Tensor) -> Tensor:
            size = change.mean(0).abs()
            return size / size.sum()

        return bootstrap(self._change, rng=_chance("share"), statistic=shares)

    def disentanglement(self, aggregate: Aggregate = "mean_of_ratios") -> Interval[Tensor]:
        """Return D^m, `(M, 2)` in [0, 1]: whether contexts agree on how pairs interact, normal and attacked.

        Pairs that do not interact at all are left out; `left_out` counts them. At orders with one context (0 and n-2)
        it is 1 and says nothing.
        """

        def agreement(parts: Tensor) -> Tensor:
            mean, size = parts.unbind(-1)
            if aggregate == "ratio_of_means":
                return mean.sum((0, 1)) / size.sum((0, 1))
            known = size > 0
            ratio = torch.where(known, mean / size.clamp_min(1e-300), 0.0)
            return ratio.sum((0, 1)) / known.sum((0, 1))

        parts = torch.stack([self.interactions.abs(), self.sizes], dim=-1)
        return bootstrap(parts, rng=_chance("disentanglement"), statistic=agreement)

    @property
    def left_out(self) -> Int[Tensor, "orders 2"]:
        """Pairs of all samples that do not interact at all, beyond rounding."""
        return (self.sizes == 0).sum((0, 1))

    def context_map(self, order: int, side: Literal["normal", "attacked"], *, sample: int | None = None) -> Tensor:
        """Return who is present when strong pairs interact, above what contexts of that size hold, `(n,)`.

        Args:
            order: one of `orders`.
            side: the normal or the attacked inputs.
            sample: row of one input, or None for the mean over all.
        """
        found = (self.orders == order).nonzero()
        if not len(found):
            raise ValueError(f"order {order} was not measured; measured orders are {self.orders.tolist()}")
        chosen = self.presence[:, int(found[0, 0]), :, int(side == "attacked")]
        return chosen.mean(0) if sample is None else chosen[sample]


def _chance(purpose: str) -> Stream:
    return Stream(0).child("pair-attack-orders", purpose)


def cost_pairs(n_players: int, settings: AttackPairs | None) -> int:
    """Return the coalitions that the pairs of one sample need, at most."""
    if settings is None:
        return 0
    orders = orders_of(n_players, settings.ratios)
    count = min(settings.count, n_players * (n_players - 1) // 2)
    return cost_disentanglement(n_players, count, orders, contexts=settings.contexts)


def measure_pairs(game: ModelGame, settings: AttackPairs, rng: Stream, on_step: OnStep = silent) -> dict[str, Tensor]:
    """Return what the pairs of one sample show; the game holds its normal and its attacked input."""
    n = game.n_players
    pairs = neighbor_pairs(game.players, settings.count, radius=settings.radius, rng=rng)
    found = disentanglement(
        game, pairs, orders_of(n, settings.ratios), contexts=settings.contexts, rng=rng, on_step=on_step
    )
    strongest = max(1, round(len(pairs) / 10))
    size = found.mean.abs()
    limit = size.topk(strongest, dim=0).values[-1]
    chosen = ((size >= limit) & (size > 0)).to(torch.float64)
    presence = (found.presence * chosen[:, :, None]).sum(0) / strongest
    floor = torch.as_tensor(found.estimate.floor)[:, 0]
    return {
        "pair_means": found.mean,
        "pair_sizes": found.size,
        "presence": presence,
        "pair_floor": floor,
        "pair_evaluations": torch.tensor(found.estimate.evaluations),
    }


def pairs_result(found: Mapping[str, Tensor], settings: AttackPairs, players: Players) -> PairAttackOrders:
    """Return the result of all samples."""
    return PairAttackOrders(
        orders=torch.tensor(orders_of(players.count, settings.ratios)),
        interactions=found["pair_means"],
        sizes=found["pair_sizes"],
        presence=found["presence"],
        floor=found["pair_floor"][0],
        n_players=players.count,
        grid=players.grid,
        evaluations=int(found["pair_evaluations"].sum()),
    )


def pair_attack_orders(
    model: Model,
    x: Float[Tensor, "samples *input"],
    x_adv: Float[Tensor, "samples *input"],
    y: Int[Tensor, " samples"],
    masker: Masker,
    *,
    settings: AttackPairs = AttackPairs(),
    value: ValueOf = log_probability,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    rng: Stream,
    work: Work = ALONE,
) -> PairAttackOrders:
    """How does an attack change the interactions of neighboring pairs at each order? The curves of the paper.

    The same pairs and contexts serve the normal and the attacked input. These curves do not add up to the drop of the
    score: `attack_orders` does.

    Args:
        model, x, x_adv, y, masker, value, bounds, rng, work: see `attack_orders`.
        settings: pairs, contexts and orders; `OFFICIAL_PAIRS` are the authors'.

    Raises:
        DataError: an attacked input is not finite, outside `bounds`, or unlike its normal one in shape or type.
        ValueError: labels or the stream do not fit, or an order is out of range.
    """
    ids = check_attacked(x, x_adv, y, bounds, rng)

    def compute(rows: Tensor, on_step: OnStep) -> dict[str, Tensor]:
        k = int(rows)  # one sample is one chunk
        game = ModelGame(model, torch.stack([x[k], x_adv[k]]), masker, value(int(y[k])), batched=True)
        found = measure_pairs(game, settings, rng.at(ids[k : k + 1]).child("attack-orders"), on_step)
        return {name: tensor[None] for name, tensor in found.items()}

    key = f"{settings}|{getattr(value, '__name__', value)}|{rng.seed}"
    return pairs_result(work.map("pair-attack-orders", ids, compute, chunk=1, key=key), settings, masker(x[0]))
