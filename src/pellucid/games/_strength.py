"""How strongly a game uses pair interactions of each order."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

import torch
from torch import Tensor

from pellucid.core import BudgetError, Estimate, Game, OnStep, Players, Stream, silent

from ._games import cost_of
from ._pair_orders import PairOrders, cost_pair_orders, neighbor_blocks, pair_orders


def strength_of(orders: PairOrders, *, group_sizes: Sequence[int] | None = None) -> Estimate:
    """Return S^m = mean over pairs of |I^m(i,j)|, `(M, *b)`, with its standard error over the choice of pairs.

    Args:
        orders: what was measured.
        group_sizes: players of each group that `pair_orders` was given. Pairs of a group share players and contexts, so
            the error is the larger of that among pairs and that among groups; without it pairs count as independent.
    """
    strength = orders.values.abs()
    pairs, mean = len(strength), strength.mean(0)
    error = strength.std(0, correction=1) / pairs**0.5 if pairs > 1 else orders.stderr[0]
    if group_sizes is not None and len(group_sizes) > 1:
        lengths = torch.tensor([comb(size, 2) for size in group_sizes])
        member = torch.arange(len(lengths)).repeat_interleave(lengths).to(strength.device)
        sums = torch.zeros(len(lengths), *mean.shape, dtype=strength.dtype, device=strength.device)
        sums.index_add_(0, member, strength - mean)
        among = (sums.square().sum(0) * len(lengths) / (len(lengths) - 1)).sqrt() / pairs
        error = torch.maximum(error, among)
    return Estimate(mean, error, orders.evaluations, orders.floor.mean(0))


def interaction_strength(
    game: Game,
    orders: Sequence[int],
    *,
    budget: int,
    groups: Sequence[Tensor] | Tensor | None = None,
    rng: Stream,
    on_step: OnStep = silent,
) -> Estimate:
    """How strongly does the game use pair interactions of each order? S^m = mean over pairs of |I^m(i,j)|.

    Takes as many contexts per pair as the budget allows and never more evaluations than `budget`.

    Args:
        game: a game of at least two players.
        orders: context sizes m, from 0 to n-2.
        budget: most model evaluations to spend.
        groups: players whose pairs are measured together; two 3 x 3 blocks of a grid (72 pairs) if not given.
        rng: where pairs and contexts come from, bound to at most one sample.
        on_step: progress in evaluations.

    Returns:
        Values `(M, *b)`, with `floor` the strength that sampling noise alone would show. One group says nothing about
        other groups: its error counts pairs as independent and is too small for pairs elsewhere.

    Raises:
        BudgetError: the budget does not pay two contexts per pair.
    """
    if groups is None:
        players = getattr(game, "players", None) or Players(
            torch.arange(game.n_players), torch.zeros(1), game.n_players
        )
        groups = neighbor_blocks(players, blocks=2, rng=rng)
    sizes = [len(group) for group in groups]

    def cost(contexts: int) -> int:
        return cost_pair_orders(game.n_players, sizes, orders, contexts=contexts) * cost_of(game)

    if cost(2) > budget:
        raise BudgetError(f"interaction strengths need at least {cost(2):,} evaluations, the budget is {budget:,}")
    low, high = 2, 4
    while cost(high) <= budget and high < 1 << 20:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if cost(middle) <= budget else (low, middle)
    # Enumerating replaces drawing when contexts pass the number there is, so the cost is not quite monotone.
    while cost(low) > budget:
        low -= 1
    found = pair_orders(game, groups, orders, contexts=low, rng=rng, on_step=on_step)
    return strength_of(found, group_sizes=sizes)
