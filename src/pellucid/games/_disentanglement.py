"""Do the contexts of one size agree on how two players interact? The disentanglement of arXiv:2111.03536.

D(i,j,S) = v(S+i+j) - v(S+i) - v(S+j) + v(S), with S any m players other than i and j.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pellucid.core import Estimate, Game, OnStep, Stream, silent

from ._games import cost_of
from ._pair_orders import rounding_of
from ._size_curve import one_sample

Aggregate = Literal["mean_of_ratios", "ratio_of_means"]

_TOGETHER = 4096
"""Coalitions asked at once."""

_LISTED = 4096
"""Contexts that are listed, so that none is drawn twice; of more than these, twice the same is rare."""


@dataclass(frozen=True, eq=False)
class _Differences:
    """D(i,j,S) of some pairs in contexts of one size.

    Args:
        values: float64 `(P, K, *b)`.
        contexts: `(P, K, n)`, who is in S.
        exact: whether these are all contexts there are.
        rounding: how far rounding in the game's precision can move a difference.
        evaluations: model evaluations spent.
    """

    values: Float[Tensor, "pairs contexts *b"]
    contexts: Bool[Tensor, "pairs contexts n"]
    exact: bool
    rounding: float
    evaluations: int


def _used(n_players: int, order: int, contexts: int) -> int:
    """Return how many contexts a pair gets at an order: those asked for, or all where there are no more."""
    return min(contexts, comb(n_players - 2, order))


def cost_disentanglement(n_players: int, pairs: int, orders: Sequence[int], *, contexts: int) -> int:
    """Return the exact number of evaluations of `disentanglement`, without evaluating anything."""
    return sum(4 * pairs * _used(n_players, m, contexts) for m in orders)


def _differences(game: Game, pairs: Int[Tensor, "pairs 2"], order: int, *, contexts: int, rng: Stream) -> _Differences:
    """Return the interactions of pairs in single contexts of `order` other players, four evaluations each.

    Args:
        game: a game of at least two players.
        pairs: i and j of each pair.
        order: context size m, from 0 to n-2.
        contexts: contexts per pair, drawn uniformly; where there are no more, all of them.
        rng: where contexts come from, bound to at most one sample.
    """
    n = game.n_players
    base = _contexts(n, pairs, order, contexts, one_sample(rng).child("disentanglement", order))
    count, used = base.shape[:2]
    i = torch.zeros(count, 1, n, dtype=torch.bool).scatter_(2, pairs[:, None, :1], True)
    j = torch.zeros(count, 1, n, dtype=torch.bool).scatter_(2, pairs[:, None, 1:], True)
    keep = torch.stack([base | i | j, base | i, base | j, base], dim=2).flatten(0, 2)
    worth = torch.cat([game(part).to(torch.float64).cpu() for part in torch.split(keep, _TOGETHER)])
    both, first, second, neither = worth.view(count, used, 4, *worth.shape[1:]).unbind(2)
    exact = used == comb(n - 2, order)
    return _Differences(
        both - first - second + neither, base, exact, 4 * rounding_of(game, worth), len(keep) * cost_of(game)
    )


def _contexts(n: int, pairs: Tensor, order: int, contexts: int, rng: Stream) -> Bool[Tensor, "pairs contexts n"]:
    total, count = comb(n - 2, order), len(pairs)
    if total > max(contexts, _LISTED):
        keys = rng.bits((1, count, contexts, n - 2))[0]
        inner = keys.argsort(dim=2, stable=True).argsort(dim=2) < order
    else:
        chosen = torch.tensor(list(combinations(range(n - 2), order)), dtype=torch.int64).view(total, order)
        every = torch.zeros(total, n - 2, dtype=torch.bool).scatter_(1, chosen, True)
        if total <= contexts:
            inner = every.expand(count, -1, -1)
        else:
            inner = every[rng.bits((1, count, total))[0].argsort(dim=1, stable=True)[:, :contexts]]
    # The others of each pair, in ascending order.
    rest = torch.ones(len(pairs), n, dtype=torch.bool).scatter_(1, pairs, False).nonzero()[:, 1].view(len(pairs), n - 2)
    whole = torch.zeros(len(pairs), inner.shape[1], n, dtype=torch.bool)
    return whole.scatter_(2, rest[:, None, :].expand(-1, inner.shape[1], -1), inner)


@dataclass(frozen=True, eq=False)
class Disentanglement:
    """How far contexts agree, by order.

    Args:
        estimate: values `(M, *b)` in [0, 1], their standard error over pairs, and as floor what contexts without any
            agreement give, 1 / sqrt(contexts).
        mean: `(P, M, *b)`, the mean of D over contexts of each pair: its interaction of that order.
        size: `(P, M, *b)`, mean of |D| over contexts; 0 where a pair does not interact at all, beyond rounding.
        presence: `(P, M, n, *b)`, who is there when a pair interacts as it does on average: the mean over contexts of
            |D| [D has the sign of its mean] ([p is in S] - m / (n-2)), 0 for the pair itself.
        orders: the context sizes m.
    """

    estimate: Estimate
    mean: Float[Tensor, "pairs orders *b"]
    size: Float[Tensor, "pairs orders *b"]
    presence: Float[Tensor, "pairs orders n *b"]
    orders: tuple[int, ...]

    @property
    def left_out(self) -> Int[Tensor, "orders *b"]:
        """Pairs without any interaction, whose ratio is 0/0."""
        return (self.size == 0).sum(0)


def disentanglement(
    game: Game,
    pairs: Int[Tensor, "pairs 2"],
    orders: Sequence[int],
    *,
    contexts: int = 100,
    aggregate: Aggregate = "mean_of_ratios",
    rng: Stream,
    on_step: OnStep = silent,
) -> Disentanglement:
    """Do contexts of m players agree on how a pair interacts? The mean over pairs of |mean of D| / mean of |D|.

    1: the pair interacts with the same sign in every context; near 0: contexts cancel. K contexts whose signs are
    chance give 1 / sqrt(K), which the floor says. Orders 0 and n-2 have one context, where it is 1 and says nothing.
    Pairs that do not interact at all are left out and counted.

    Args:
        game: a game of at least two players.
        pairs: i and j of each pair.
        orders: context sizes m, from 0 to n-2.
        contexts: contexts per pair and order; where there are no more than that, all are used.
        aggregate: "mean_of_ratios", as in the paper, or "ratio_of_means", as in the authors' code: steadier, and ruled
            by the pairs that interact most.
        rng: where contexts come from, bound to at most one sample.
        on_step: progress in evaluations.

    Raises:
        ValueError: a pair, an order or the number of contexts is out of range.

    Example:
        >>> import torch
        >>> from pellucid.games import TableGame, sizes
        >>> convex = TableGame(sizes(4).double() ** 3)
        >>> found = disentanglement(convex, torch.tensor([[0, 1], [2, 3]]), [1], rng=Stream(0))
        >>> found.estimate.values.tolist(), found.left_out.tolist()
        ([1.0], [0])
    """
    n = game.n_players
    _check_pairs(pairs, n)
    _check_orders(orders, n)
    if contexts < 1:
        raise ValueError(f"contexts must be at least 1, got {contexts}")
    if aggregate not in ("mean_of_ratios", "ratio_of_means"):
        raise ValueError(f'aggregate must be "mean_of_ratios" or "ratio_of_means", got {aggregate!r}')
    parts, spent = [], 0
    total = cost_disentanglement(n, len(pairs), orders, contexts=contexts) * cost_of(game)
    for m in orders:
        found = _differences(game, pairs, m, contexts=contexts, rng=rng)
        parts.append(_summary(found, pairs, m))
        spent += found.evaluations
        on_step(spent, total)
    mean, size, presence = (torch.stack(part, dim=1) for part in zip(*parts, strict=True))
    values, stderr = _agreement(mean, size, aggregate=aggregate)
    used = torch.tensor([_used(n, m, contexts) for m in orders], dtype=torch.float64)
    floor = used.rsqrt().view(-1, *[1] * (values.ndim - 1)).expand_as(values)
    return Disentanglement(Estimate(values, stderr, spent, floor), mean, size, presence, tuple(orders))


def _summary(found: _Differences, pairs: Tensor, order: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean of D and of |D| over contexts, and who is present, `(P, *b)` and `(P, n, *b)`.

    All are 0 where rounding explains all there is.
    """
    D, n = found.values, found.contexts.shape[2]
    size = D.abs().mean(1)
    known = size > found.rounding
    mean, size = torch.where(known, D.mean(1), 0.0), torch.where(known, size, 0.0)
    agreeing = torch.where(D * mean[:, None] > 0, D.abs(), 0.0)
    usual = torch.full((len(pairs), n), order / max(1, n - 2), dtype=torch.float64).scatter_(1, pairs, 0.0)
    there = (found.contexts.double() - usual[:, None]).transpose(1, 2)
    presence = there @ agreeing.flatten(2) / D.shape[1] if D.ndim > 2 else there @ agreeing[..., None] / D.shape[1]
    return mean, size, presence.view(len(pairs), n, *D.shape[2:])


def _agreement(mean: Tensor, size: Tensor, *, aggregate: Aggregate) -> tuple[Tensor, Tensor]:
    """Return the ratio |mean| / size over the first axis, and its standard error; NaN where no pair interacts."""
    known = size > 0
    count = known.sum(0)
    if aggregate == "ratio_of_means":
        value = mean.abs().sum(0) / size.sum(0)  # 0/0 pairs add nothing to either sum
        gap = torch.where(known, mean.abs() - value * size, 0.0) / (size.sum(0) / count)
    else:
        ratio = torch.where(known, mean.abs() / size.clamp_min(1e-300), 0.0)
        value = ratio.sum(0) / count
        gap = torch.where(known, ratio - value, 0.0)
    stderr = (gap.square().sum(0) / (count - 1).clamp_min(1) / count).sqrt()
    return value.clamp(max=1.0), torch.where(count > 1, stderr, torch.nan)


def _check_pairs(pairs: Tensor, n_players: int) -> None:
    """Raise a `ValueError` unless these are pairs of different players."""
    if pairs.ndim != 2 or pairs.shape[1] != 2 or not len(pairs) or pairs.dtype != torch.int64:
        raise ValueError(f"pairs must be int64 of shape (pairs, 2), got {pairs.dtype} {tuple(pairs.shape)}")
    if bool((pairs < 0).any()) or bool((pairs >= n_players).any()) or bool((pairs[:, 0] == pairs[:, 1]).any()):
        raise ValueError(f"a pair must name two different players from 0 to {n_players - 1}")


def _check_orders(orders: Sequence[int], n_players: int) -> None:
    """Raise a `ValueError` unless all are orders of pairs."""
    for m in orders:
        if not 0 <= m <= n_players - 2:
            raise ValueError(f"orders must lie between 0 and n-2 = {n_players - 2}, got {m}")
