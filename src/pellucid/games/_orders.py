"""Interactions of pairs in contexts of each size, exactly, from a table.

All of them follow from three kinds of sums over the coalitions U of each size s (arXiv:2009.11729 for the index):
F_s = sum of v(U), Q_s(i) = sum over U with i, P_s(i,j) = sum over U with i and j. Summing
D(i,j,S) = v(S+i+j) - v(S+i) - v(S+j) + v(S) over the S of size m without i and j gives
P_{m+2} + 2 P_{m+1} + P_m - Q_{m+1}(i) - Q_{m+1}(j) - Q_m(i) - Q_m(j) + F_m. One small matrix product per size makes
the sums, so all pairs and orders cost about as much as reading the table n times.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import comb, lgamma

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.core import Estimate, Game, OnStep, silent

from ._games import MAX_EXACT, table_of
from ._transforms import players_of, sizes


@dataclass(frozen=True, eq=False)
class PairInteractions:
    """Interactions of all pairs at all orders.

    Args:
        values: float64 `(P, n-1, *b)`; entry [p, m] is the mean of D(i,j,S) over the S of m other players.
        pairs: int64 `(P, 2)`, i < j.
        evaluations: model evaluations spent.
    """

    values: Float[Tensor, "pairs orders *b"]
    pairs: Int[Tensor, "pairs 2"]
    evaluations: int = 0


@lru_cache(maxsize=2)
def _rows_by_size(n: int) -> tuple[Tensor, ...]:
    rows = sizes(n).argsort(dim=-1, stable=True)
    return torch.split(rows, [comb(n, s) for s in range(n + 1)])


def _each_size(table: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield size s, membership X `(C(n, s), n)` of the coalitions of that size, and their values `(C(n, s), width)`."""
    n = players_of(table)
    flat = table.reshape(len(table), -1)
    bits = torch.arange(n, device=table.device)
    for s, rows in enumerate(_rows_by_size(n)):
        rows = rows.to(table.device)
        yield s, ((rows[:, None] >> bits) & 1).to(torch.float64), flat[rows]


def _sums(table: Tensor) -> tuple[Tensor, Tensor]:
    """Return F `(n+1, *b)` and P `(n+1, n, n, *b)`, whose diagonal is Q."""
    n, b = players_of(table), table.shape[1:]
    F = table.new_zeros(n + 1, b.numel())
    P = table.new_zeros(n + 1, n, n, b.numel())
    for s, X, v in _each_size(table):
        F[s] = v.sum(0)
        for column in range(v.shape[1]):
            P[s, :, :, column] = X.T @ (X * v[:, column, None])
    return F.view(n + 1, *b), P.view(n + 1, n, n, *b)


def _centered(table: Tensor) -> Tensor:
    """Interactions ignore a constant; without it less is lost to rounding."""
    return table - table.mean(0)


def pair_interactions(game: Game | Tensor, *, max_exact: int = MAX_EXACT, on_step: OnStep = silent) -> PairInteractions:
    """How does each pair interact in contexts of each size? I^m(i,j) for all pairs and m = 0..n-2, exactly.

    Args:
        game: a game of at least two players, or its table `(2**n, *b)`.
        max_exact: most players for which the whole table is evaluated.
        on_step: progress in evaluations.

    Raises:
        ValueError: fewer than two players.
    """
    table, evaluations = table_of(game, max_exact=max_exact, on_step=on_step)
    n = players_of(table)
    if n < 2:
        raise ValueError(f"a game of {n} players has no pairs; give it at least two")
    F, P = _sums(_centered(table))
    Q = P.diagonal(dim1=1, dim2=2).movedim(-1, 1)
    pairs = torch.combinations(torch.arange(n)).to(table.device)
    i, j = pairs.T
    above, at, below = P[2:, i, j], P[1:-1, i, j], P[:-2, i, j]
    singles = Q[1:-1, i] + Q[1:-1, j] + Q[:-2, i] + Q[:-2, j]
    total = above + 2 * at + below - singles + F[:-2, None]
    counts = torch.tensor([comb(n - 2, m) for m in range(n - 1)], dtype=torch.float64, device=table.device)
    values = total / counts.view(-1, *[1] * (total.ndim - 1))
    return PairInteractions(values.movedim(0, 1).contiguous(), pairs, evaluations)


def marginal_contributions(table: Float[Tensor, "rows *b"]) -> Float[Tensor, "n orders *b"]:
    """Return phi^m(i), the mean of v(S+i) - v(S) over the S of m other players, `(n, n, *b)`; last axis but b is m."""
    n, b = players_of(table), table.shape[1:]
    F = table.new_zeros(n + 1, b.numel(), dtype=torch.float64)
    Q = table.new_zeros(n + 1, n, b.numel(), dtype=torch.float64)
    for s, X, v in _each_size(_centered(table.detach().to(torch.float64))):
        F[s] = v.sum(0)
        Q[s] = X.T @ v
    counts = torch.tensor([comb(n - 1, m) for m in range(n)], dtype=torch.float64, device=table.device)
    values = (Q[1:] + Q[:-1] - F[:-1, None]) / counts.view(-1, 1, 1)
    return values.movedim(0, 1).reshape(n, n, *b)


def shapley_table(table: Float[Tensor, "rows *b"]) -> Float[Tensor, "n *b"]:
    """Return the Shapley values of a table: the mean of phi^m(i) over m."""
    return marginal_contributions(table).mean(1)


def exact(values: Tensor, evaluations: int) -> Estimate:
    """Return an estimate without error."""
    return Estimate(values, torch.zeros_like(values), evaluations)


def learning_strength(n_players: int, orders: Int[Tensor, " orders"]) -> Float[Tensor, " orders"]:
    """How strongly would each order be learned if all contexts pulled independently? The theory curve F^(m).

    F^(m) is proportional to (n-1-m) / (n (n-1)) / sqrt(C(n-2, m)), normalised to F(0) = 1 (arXiv:2111.06236). It rests
    on an idealisation (gradients of different contexts uncorrelated, with mean zero) and is no measurement.

    Args:
        n_players: n, at least 2.
        orders: int64, from 0 to n-2.
    """
    n, m = n_players, orders.to(torch.float64)
    if n < 2 or bool((m < 0).any()) or bool((m > n - 2).any()):
        raise ValueError(f"orders must lie between 0 and n-2 = {n - 2}, got {orders.tolist()}")
    log_choose = lgamma(n - 1) - torch.lgamma(m + 1) - torch.lgamma(n - 1 - m)
    return (n - 1 - m) / (n - 1) * torch.exp(-0.5 * log_choose)
