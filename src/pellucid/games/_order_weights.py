"""Which orders of interaction the difference of two nested coalitions holds: the weights omega of arXiv:2111.06236.

With S1 inside S2, both the first players of one random permutation, |S1| = k1 and |S2| = k2,
du = v(S2) - (k2/k1) v(S1) + (k2/k1 - 1) v(empty), and du = v(S2) - v(empty) if k1 = 0. Its mean over permutations is
the sum over orders m of omega_m times the mean interaction of all pairs at order m: a tent with its peak k2 - k1 at
m = k1 - 1. If k1 = 0 the players' own effects k2 (f(1) - f(0)) come on top, f(k) being the mean worth of k players;
else they cancel.
"""

from __future__ import annotations

from math import floor

import torch
from jaxtyping import Float
from torch import Tensor


def nested_sizes(n_players: int, low: float, high: float) -> tuple[int, int]:
    """Return the sizes k1 = floor(low n) and k2 = floor(high n) of the two nested coalitions of an order range.

    Args:
        n_players: n, at least 2.
        low, high: ends of the range as shares of the players, 0 <= low < high <= 1.

    Raises:
        ValueError: the range is empty, lies outside [0, 1], or is narrower than one player.

    Example:
        >>> nested_sizes(64, 0.7, 1.0)
        (44, 64)
    """
    if not 0 <= low < high <= 1:
        raise ValueError(f"an order range needs 0 <= low < high <= 1, got low={low:g}, high={high:g}")
    if n_players < 2:
        raise ValueError(f"a game of {n_players} players has no pairs; use a finer grid or more features")
    k1, k2 = (floor(r * n_players + 1e-9) for r in (low, high))
    if k1 == k2:
        raise ValueError(
            f"the orders {low:g} to {high:g} of {n_players} players are one size of coalitions, {k1}; "
            "use a wider range or more players"
        )
    return k1, k2


def order_weights(n_players: int, low: float, high: float) -> Float[Tensor, " orders"]:
    """How much does the order loss of a range weigh each order? omega_m, m = 0..n-2.

    omega_m = (k2/k1 - 1) (m+1) for m <= k1-2, k2-1-m for k1-1 <= m <= k2-2, and 0 above: a range holds lower orders
    too.

    Args:
        n_players: n, at least 2.
        low, high: ends of the range as shares of the players, 0 <= low < high <= 1.

    Returns:
        float64 `(n-1,)`.

    Raises:
        ValueError: see `nested_sizes`.

    Example:
        >>> order_weights(6, 0.5, 1.0).tolist()
        [1.0, 2.0, 3.0, 2.0, 1.0]
    """
    k1, k2 = nested_sizes(n_players, low, high)
    m = torch.arange(n_players - 1, dtype=torch.float64)
    falling = (k2 - 1 - m).clamp_min(0)
    return falling if k1 == 0 else torch.where(m <= k1 - 2, (k2 / k1 - 1) * (m + 1), falling)
