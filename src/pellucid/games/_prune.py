"""Which few patterns carry a game? Greedy pruning of Harsanyi dividends with its exact error at every step.

Leaving out a set of patterns R makes the error rho(S) = sum of w_T over the T in R with T <= S on coalition S, and
U = sum of rho(S)**2 over all coalitions. Taking out one more pattern T changes U by 2 w_T q(T) + w_T**2 2**(n-t) with
q(T) = sum of rho(S) over S >= T = sum over R in the removed of w_R 2**(n - |T u R|). (arXiv:2111.06206; the closed form
spares the 2**n x 2**n products of the authors' code.)
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
        order: int64 `(L,)`, table rows of the non-empty patterns, first removed first; L = 2**n - 1.
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


def prune(dividends: Float[Tensor, " rows"], values: Float[Tensor, " rows"], *, window: int = 20) -> PrunePath:
    """Remove patterns one by one, of the `window` weakest the one that harms least; the constant always stays.

    Args:
        dividends: float64 `(2**n,)`, from `harsanyi` or `mobius`.
        values: float64 `(2**n,)`, the game's table.
        window: how many of the weakest remaining patterns are candidates; 2**n makes it a full greedy search.

    Raises:
        ValueError: more than 16 players (the work grows as 4**n), or window below 1.
    """
    n = players_of(dividends)
    if n > MAX_PRUNE:
        raise ValueError(f"pruning {n} players needs about 4**{n} additions; join players into at most {MAX_PRUNE}")
    if window < 1 or dividends.shape != values.shape:
        raise ValueError(f"need window >= 1 and tables of one shape, got {window}, {dividends.shape}, {values.shape}")
    w = dividends.detach().cpu().to(torch.float64).numpy()
    order, changes = _greedy(w, n, window)
    v = values.detach().cpu().to(torch.float64)
    error = np.maximum(np.concatenate([[0.0], np.cumsum(changes)]), 0.0)
    ratio = _ratio(w, order)
    variance = float((v - v.mean()).square().sum())
    # Rounding must not make variance out of a constant game.
    scale = float(v.square().sum())
    variance = variance if variance > 1e-24 * scale else 0.0
    return PrunePath(torch.from_numpy(order), torch.from_numpy(error), torch.from_numpy(ratio), variance)


def _greedy(w: np.ndarray, n: int, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the order of removal and the change of U at each."""
    supersets = 2.0 ** (n - sizes(n).numpy())  # 2**(n-|S|) by row
    queue = 1 + np.argsort(np.abs(w[1:]), kind="stable")
    total, width = len(queue), min(window, len(queue))
    removed = np.empty(total, dtype=np.int64)
    removed_w = np.empty(total)
    changes = np.empty(total)
    rows = queue[:width].copy()  # the window: weakest patterns not yet removed, weakest first
    q = np.zeros(width)
    for step in range(total):
        own = w[rows]
        change = own * (2 * q + own * supersets[rows])
        best = int(change.argmin())
        taken = rows[best]
        removed[step], removed_w[step], changes[step] = taken, w[taken], change[best]
        rows[best:-1], q[best:-1] = rows[best + 1 :], q[best + 1 :]
        if step + width < total:
            new = queue[step + width]
            rows[-1] = new
            q[:-1] += w[taken] * supersets[rows[:-1] | taken]
            q[-1] = removed_w[: step + 1] @ supersets[removed[: step + 1] | new]
        else:
            rows, q = rows[:-1], q[:-1]
            q += w[taken] * supersets[rows | taken]
    return removed, changes


def _ratio(w: np.ndarray, order: np.ndarray) -> np.ndarray:
    taken = np.concatenate([[0.0], w[order]])
    left = np.abs(w[1:]).sum() - np.cumsum(np.abs(taken))
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
