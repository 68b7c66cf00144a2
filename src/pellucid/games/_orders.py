"""Interactions of pairs in contexts of each size, exactly, from a table.

All of them follow from three kinds of sums over the coalitions U of each size s (arXiv:2009.11729 for the index):
F_s = sum of v(U), Q_s(i) = sum over U with i, P_s(i,j) = sum over U with i and j. Summing
D(i,j,S) = v(S+i+j) - v(S+i) - v(S+j) + v(S) over the S of size m without i and j gives
P_{m+2} + 2 P_{m+1} + P_m - Q_{m+1}(i) - Q_{m+1}(j) - Q_m(i) - Q_m(j) + F_m. Two matrix products make
all sums; P is kept for i < j only.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.core import Estimate, Game, OnStep, silent

from ._games import MAX_EXACT, table_of
from ._transforms import coalitions, players_of, sizes


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


def _features(k: int, device: torch.device) -> Tensor:
    """Return which sums each coalition of k players goes into, 0/1 float64 `(2**k, (k+1) (1 + k + k(k-1)/2))`.

    A block of columns per size; within a block: always, one per player present, one per pair present.
    """
    keep = coalitions(k, device=device).to(torch.float64)
    i, j = torch.combinations(torch.arange(k, device=device)).T
    present = torch.cat([keep.new_ones(len(keep), 1), keep, keep[:, i] * keep[:, j]], dim=1)
    size = torch.nn.functional.one_hot(sizes(k, device=device), k + 1).to(torch.float64)
    return (size[:, :, None] * present[:, None, :]).flatten(1)


def _sums(table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return F `(n+1, *b)`, Q `(n+1, n, *b)` and P `(n+1, n, n, *b)`.

    The low and the high half of the players make rows and columns of a matrix; two products with 0/1 matrices do it.
    """
    n, b = players_of(table), table.shape[1:]
    low, high = n // 2, n - n // 2
    L, H = _features(low, table.device), _features(high, table.device)
    V = table.reshape(1 << high, 1 << low, -1)
    M = torch.stack([H.T @ (V[:, :, column] @ L) for column in range(V.shape[2])], dim=-1)
    blocks = M.view(high + 1, -1, low + 1, L.shape[1] // (low + 1), V.shape[2])
    S = table.new_zeros(n + 1, blocks.shape[1], blocks.shape[3], V.shape[2])
    for size in range(high + 1):
        S[size : size + low + 1] += blocks[size].movedim(1, 0)
    F, Q = S[:, 0, 0], torch.cat([S[:, 0, 1 : low + 1], S[:, 1 : high + 1, 0]], dim=1)
    P = table.new_zeros(n + 1, n, n, V.shape[2])
    i, j = torch.combinations(torch.arange(low, device=table.device)).T
    P[:, i, j] = S[:, 0, low + 1 :]
    i, j = torch.combinations(torch.arange(high, device=table.device)).T
    P[:, low + i, low + j] = S[:, high + 1 :, 0]
    P[:, :low, low:] = S[:, 1 : high + 1, 1 : low + 1].movedim(1, 2)
    return F.reshape(n + 1, *b), Q.reshape(n + 1, n, *b), P.view(n + 1, n, n, *b)


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
    F, Q, P = _sums(_centered(table))
    pairs = torch.combinations(torch.arange(n)).to(table.device)
    i, j = pairs.T
    above, at, below = P[2:, i, j], P[1:-1, i, j], P[:-2, i, j]
    singles = Q[1:-1, i] + Q[1:-1, j] + Q[:-2, i] + Q[:-2, j]
    total = above + 2 * at + below - singles + F[:-2, None]
    counts = torch.tensor([comb(n - 2, m) for m in range(n - 1)], dtype=torch.float64, device=table.device)
    values = total / counts.view(-1, *[1] * (total.ndim - 1))
    return PairInteractions(values.movedim(0, 1).contiguous(), pairs, evaluations)


def shapley_table(table: Float[Tensor, "rows *b"]) -> Float[Tensor, "n *b"]:
    """Return the Shapley values of a table, by the weights of each coalition size.

    phi(i) = sum over S with i of v(S) (s-1)! (n-s)! / n!  -  sum over S without i of v(S) s! (n-s-1)! / n!.
    """
    n = players_of(table)
    v = _centered(table.detach().to(torch.float64))
    one = [1] * (v.ndim - 1)
    # 1 / (n C(n-1, k)) is the weight of a step from size k to size k+1.
    step = torch.tensor([1 / (n * comb(n - 1, k)) for k in range(n)] + [0.0], dtype=torch.float64, device=v.device)
    size = sizes(n, device=v.device)
    out_of = step[size].view(-1, *one) * v
    gain = step.roll(1)[size].view(-1, *one) * v + out_of
    halves = [gain.view(1 << (n - 1 - p), 2, 1 << p, *v.shape[1:])[:, 1].sum((0, 1)) for p in range(n)]
    return torch.stack(halves) - out_of.sum(0)


def exact(values: Tensor, evaluations: int) -> Estimate:
    """Return an estimate without error."""
    return Estimate(values, torch.zeros_like(values), evaluations)


def learning_strength(
    n_players: int, orders: Int[Tensor, " orders"] | Float[Tensor, " orders"]
) -> Float[Tensor, " orders"]:
    """How strongly would each order be learned if all contexts pulled independently? The theory curve F^(m).

    F^(m) is proportional to (n-1-m) / (n (n-1)) / sqrt(C(n-2, m)), normalized to F(0) = 1 (arXiv:2111.06236). It rests
    on an idealization (gradients of different contexts uncorrelated, with mean zero) and is no measurement.

    Args:
        n_players: n, at least 2.
        orders: from 0 to n-2; orders between whole ones are interpolated by the gamma function.
    """
    n, m = n_players, orders.to(torch.float64)
    if n < 2 or bool((m < 0).any()) or bool((m > n - 2).any()):
        raise ValueError(f"orders must lie between 0 and n-2 = {n - 2}, got {orders.tolist()}")
    log_choose = torch.lgamma(torch.full_like(m, n - 1)) - torch.lgamma(m + 1) - torch.lgamma(n - 1 - m)
    return (n - 1 - m) / (n - 1) * torch.exp(-0.5 * log_choose)
