"""Which few patterns carry a game? Greedy pruning of AND and OR terms with its exact error at every step.

A term w_T acts on the coalitions that its 0/1 column c_T holds: those that contain T (AND) or that meet T (OR).
Leaving out a set of terms makes the error rho = sum of w_R c_R over the removed R, and U = sum of rho(S)**2 over all
coalitions. Taking out one more term T changes U by 2 w_T q(T) + w_T**2 <c_T, c_T> with q(T) = <c_T, rho>. The columns
are never built; with P(X) = 2**(n - |X|), the number of coalitions that contain X,

    <and_T, and_R> = P(T u R)
    <and_T, or_R>  = P(T) - [T and R share nobody] P(T u R)
    <or_T, or_R>   = 2**n - P(T) - P(R) + P(T u R)

(arXiv:2111.06206; the closed forms spare the 2**n x 2**n products of the authors' code.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ._transforms import players_of, sizes

MAX_PRUNE = 16


@dataclass(frozen=True, eq=False)
class PrunePath:
    """The patterns in the order of their removal and how well the rest explains the game after each removal.

    Args:
        order: int64 `(L,)`, table rows of the patterns, first removed first; the row of an OR pattern is counted from
            2**n on. L = 2**n - 1 for AND patterns alone, the OR patterns of two players and more beside them.
        error: float64 `(L+1,)`, U with the first k patterns removed: the squared error summed over all coalitions.
        ratio: float64 `(L+1,)`, R_Omega = A / (A + |what the kept effects miss of v(N)|), A the sum of kept |effects|.
            It looks at one coalition, where leftovers cancel: read `explained` first.
        variance: sum over all coalitions of (v - mean v)**2.
    """

    order: Int[Tensor, " patterns"]
    error: Float[Tensor, " steps"]
    ratio: Float[Tensor, " steps"]
    variance: float

    @property
    def explained(self) -> Float[Tensor, " steps"]:
        """Explained variance over all coalitions, 1 - U / variance, after each removal; 1 for a constant game."""
        if self.variance == 0:
            return torch.ones_like(self.error)
        return 1 - self.error / self.variance

    def kept(self, size: int) -> Int[Tensor, " patterns"]:
        """Return the rows of the `size` patterns that are left at that point of the path."""
        if not 0 <= size <= len(self.order):
            raise ValueError(f"size must lie between 0 and {len(self.order)}, got {size}")
        return self.order[len(self.order) - size :]

    def smallest(self, explained: float) -> int:
        """Return the least number of patterns on the path that explains this share of the variance.

        The error is not monotone along the path, so all of it is searched.
        """
        enough = (self.explained >= explained).nonzero()[:, 0]
        return len(self.order) - int(enough.max()) if len(enough) else len(self.order)


def prune(
    dividends: Float[Tensor, " rows"],
    values: Float[Tensor, " rows"],
    *,
    or_terms: Float[Tensor, " rows"] | None = None,
    window: int = 20,
) -> PrunePath:
    """Remove patterns one by one, of the `window` weakest the one that harms least; the constant always stays.

    Args:
        dividends: float64 `(2**n,)`, from `harsanyi` or `mobius`; the AND terms of an AND-OR split.
        values: float64 `(2**n,)`, the game's table.
        or_terms: float64 `(2**n,)`, the OR terms of an AND-OR split, zero below two players.
        window: how many of the weakest remaining patterns are candidates; 2**(n+1) makes it a full greedy search.

    Raises:
        ValueError: more than 16 players (the work grows as 4**n), or window below 1.

    Example:
        >>> import torch
        >>> from pellucid.games import mobius
        >>> values = torch.tensor([0.0, 1.0, 0.0, 4.0])  # 1 for player 0, and 3 more for both
        >>> path = prune(mobius(values), values)
        >>> path.order.tolist(), path.smallest(1.0)
        ([2, 1, 3], 2)
    """
    n = players_of(dividends)
    if n > MAX_PRUNE:
        raise ValueError(f"pruning {n} players needs about 4**{n} additions; join players into at most {MAX_PRUNE}")
    if window < 1 or dividends.shape != values.shape:
        raise ValueError(f"need window >= 1 and tables of one shape, got {window}, {dividends.shape}, {values.shape}")
    w = dividends.detach().cpu().to(torch.float64).numpy()
    patterns = np.arange(1, len(w))
    if or_terms is not None:
        if or_terms.shape != dividends.shape or bool((or_terms[sizes(n) < 2] != 0).any()):
            raise ValueError("or_terms must have one row per coalition, zero for those of less than two players")
        w = np.concatenate([w, or_terms.detach().cpu().to(torch.float64).numpy()])
        patterns = np.concatenate([patterns, len(dividends) + np.flatnonzero(sizes(n).numpy() >= 2)])
    order, changes = _greedy(w, patterns, n, window)
    v = values.detach().cpu().to(torch.float64)
    error = np.maximum(np.concatenate([[0.0], np.cumsum(changes)]), 0.0)
    ratio = _ratio(w, order)
    variance = float((v - v.mean()).square().sum())
    # Rounding must not make variance out of a constant game.
    scale = float(v.square().sum())
    variance = variance if variance > 1e-24 * scale else 0.0
    return PrunePath(torch.from_numpy(order), torch.from_numpy(error), torch.from_numpy(ratio), variance)


class _Columns:
    """Inner products of the 0/1 columns of AND rows (below 2**n) and OR rows (from 2**n on)."""

    def __init__(self, n: int, *, mixed: bool) -> None:
        self.mixed, self.bit, self.players = mixed, 1 << n, (1 << n) - 1
        self.supersets = 2.0 ** (n - sizes(n).numpy())  # P by row

    def norm(self, rows: np.ndarray) -> np.ndarray:
        """Return <c_T, c_T>."""
        within: np.ndarray = self.supersets[rows & self.players]
        if self.mixed:
            within = np.where((rows & self.bit) != 0, self.bit - within, within)
        return within

    def inner(self, rows: np.ndarray, one: int) -> np.ndarray:
        """Return <c_T, c_one> for each T of `rows`."""
        joined: np.ndarray = self.supersets[(rows | one) & self.players]
        if not self.mixed:
            return joined
        apart, either = (rows & one & self.players) == 0, (rows & self.bit) != 0
        within, own = self.supersets[rows & self.players], self.supersets[one & self.players]
        if one & self.bit:
            joined = np.where(either, self.bit - within - own + joined, within - apart * joined)
        else:
            joined = np.where(either, own - apart * joined, joined)
        return joined


def _greedy(w: np.ndarray, patterns: np.ndarray, n: int, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the order of removal and the change of U at each."""
    columns = _Columns(n, mixed=len(w) > 1 << n)
    # Terms that are zero harm nothing, so they go first; an AND-OR split has very many.
    nothing, patterns = patterns[w[patterns] == 0], patterns[w[patterns] != 0]
    queue = patterns[np.argsort(np.abs(w[patterns]), kind="stable")]
    total, width = len(queue), min(window, len(queue))
    removed = np.empty(total, dtype=np.int64)
    removed_w = np.empty(total)
    changes = np.empty(total)
    rows = queue[:width].copy()  # the window: weakest patterns not yet removed, weakest first
    norm, q = columns.norm(rows), np.zeros(width)
    for step in range(total):
        own = w[rows]
        change = own * (2 * q + own * norm)
        best = int(change.argmin())
        taken = int(rows[best])
        removed[step], removed_w[step], changes[step] = taken, w[taken], change[best]
        for entries in (rows, norm, q):
            entries[best:-1] = entries[best + 1 :]
        if step + width < total:
            new = int(queue[step + width])
            rows[-1], norm[-1] = new, columns.norm(queue[step + width : step + width + 1])[0]
            q[:-1] += w[taken] * columns.inner(rows[:-1], taken)
            q[-1] = removed_w[: step + 1] @ columns.inner(removed[: step + 1], new)
        else:
            rows, norm, q = rows[:-1], norm[:-1], q[:-1]
            q += w[taken] * columns.inner(rows, taken)
    return np.concatenate([nothing, removed]), np.concatenate([np.zeros(len(nothing)), changes])


def _ratio(w: np.ndarray, order: np.ndarray) -> np.ndarray:
    taken = np.concatenate([[0.0], w[order]])
    left = np.abs(taken).sum() - np.cumsum(np.abs(taken))
    left[-1] = 0.0
    left = np.maximum(left, 0.0)
    missed = np.abs(np.cumsum(taken))
    whole = left + missed
    ratio: np.ndarray = np.divide(left, whole, out=np.ones_like(left), where=whole > 0)
    return ratio


def concept_jaccard(a: Float[Tensor, " rows"], b: Float[Tensor, " rows"]) -> float:
    """How much do two games use the same patterns? sum of min(|a|, |b|) / sum of max(|a|, |b|), the constant left out.

    1 means the same strengths everywhere, 0 no pattern in common. Two games without any effect give NaN.

    Args:
        a: dividends `(2**n,)` of one game.
        b: dividends of another game of the same players.
    """
    if a.shape != b.shape:
        raise ValueError(f"both games need the same players, got {len(a)} and {len(b)} dividends")
    first, second = a[1:].abs().to(torch.float64), b[1:].abs().to(torch.float64)
    most = torch.maximum(first, second).sum()
    return float(torch.minimum(first, second).sum() / most) if float(most) > 0 else float("nan")
