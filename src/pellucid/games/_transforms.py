"""Fast transforms of a game's table: n * 2**(n-1) additions each instead of 3**n.

A table has shape `(2**n, *b)`: bit p of the row number says whether player p is present, so row 0 is the empty and
the last row the full coalition. All transforms work in float64 and leave their argument alone.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Table = Float[Tensor, "rows *b"]


def players_of(table: Tensor) -> int:
    """Return n for a table of 2**n rows.

    Raises:
        ValueError: the number of rows is no power of two.
    """
    rows = table.shape[0] if table.ndim else 0
    if rows < 1 or rows & (rows - 1):
        raise ValueError(f"a table must have 2**n rows, one per coalition, got {rows}")
    return rows.bit_length() - 1


def coalitions(n_players: int, *, device: torch.device | str | None = None) -> Bool[Tensor, "rows n"]:
    """Return all coalitions, bool `(2**n, n)`, in the order of a table's rows."""
    keep = torch.zeros(1 << n_players, n_players, dtype=torch.bool, device=device)
    for p in range(n_players):
        half = 1 << p
        keep[half : 2 * half, :p] = keep[:half, :p]
        keep[half : 2 * half, p] = True
    return keep


def rows_of(keep: Bool[Tensor, "c n"]) -> Int[Tensor, " c"]:
    """Return each coalition's row in a table, int64; for at most 62 players."""
    weights = torch.ones(keep.shape[1], dtype=torch.int64, device=keep.device).cumsum(0) - 1
    return (keep.to(torch.int64) << weights).sum(1)


@lru_cache(maxsize=8)
def _sizes(n_players: int) -> Tensor:
    sizes = torch.zeros(1, dtype=torch.int64)
    for _ in range(n_players):
        sizes = torch.cat([sizes, sizes + 1])
    return sizes


def sizes(n_players: int, *, device: torch.device | str | None = None) -> Int[Tensor, " rows"]:
    """Return the number of players in each coalition, int64 `(2**n,)`."""
    return _sizes(n_players).to(device=device, copy=True)


def butterfly_(table: Tensor, *, source: int, sign: int) -> Tensor:
    """Add, in place, `sign` times the half without (source 0) or with (source 1) each player to the other half."""
    n = players_of(table)
    for p in range(n):
        halves = table.view(1 << (n - 1 - p), 2, -1)
        halves[:, 1 - source].add_(halves[:, source], alpha=sign)
    return table


def _butterfly(table: Tensor, *, source: int, sign: int) -> Tensor:
    copy = table.detach().to(dtype=torch.float64, copy=True).contiguous()
    return butterfly_(copy, source=source, sign=sign)


def zeta(dividends: Table) -> Table:
    """Return the subset sums v(S) = sum over T <= S of a(T); inverts `mobius`."""
    return _butterfly(dividends, source=0, sign=1)


def mobius(values: Table) -> Table:
    """Return the Harsanyi dividends a(S) = sum over T <= S of (-1)**(s-t) v(T)."""
    return _butterfly(values, source=0, sign=-1)


def superset_zeta(weights: Table) -> Table:
    """Return the superset sums B(S) = sum over T >= S of b(T), the adjoint of `zeta`."""
    return _butterfly(weights, source=1, sign=1)


def superset_mobius(weights: Table) -> Table:
    """Return sum over T >= S of (-1)**(t-s) b(T): the adjoint of `mobius`, the inverse of `superset_zeta`."""
    return _butterfly(weights, source=1, sign=-1)


def or_transform(values: Table) -> Table:
    """Return the OR interactions: o(empty) = v(empty), o(S) = -sum over T <= S of (-1)**(s-t) v(N without T).

    An OR interaction acts where at least one of its players is present (arXiv:2304.13312).
    """
    out = -mobius(values.flip(0))
    out[0] = values[0]
    return out


def inverse_or(interactions: Table) -> Table:
    """Return v(S) = o(empty) + sum of o(T) over all T that meet S; inverts `or_transform`."""
    rest = interactions.detach().to(dtype=torch.float64, copy=True)
    constant = rest[0].clone()
    rest[0] = 0
    sums = zeta(rest)
    return constant + sums[-1] - sums.flip(0)


def by_size(values: Table) -> Float[Tensor, "sizes *b"]:
    """Return f(k), the mean of v over the coalitions of k players, k = 0..n."""
    n = players_of(values)
    size = sizes(n, device=values.device)
    total = torch.zeros(n + 1, *values.shape[1:], dtype=torch.float64, device=values.device)
    total.index_add_(0, size, values.detach().to(torch.float64))
    count = torch.bincount(size, minlength=n + 1).to(torch.float64)
    return total / count.view(-1, *[1] * (values.ndim - 1))
