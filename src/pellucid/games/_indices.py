"""Interaction indices from Harsanyi dividends: each is a weighted sum of the dividends above a coalition.

Every index here gives a coalition S of s players the number I(S) = sum over T >= S of w(s, t) a(T), where a are
the dividends, t is the size of T and w is all that tells one index from another. So each size takes one superset sum,
n 2**(n-1) additions, whatever the index (Grabisch and Roubens 1999 and the sources at each weight).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import comb, sqrt

import torch
from torch import Tensor

from pellucid.core import Game, OnStep, nearest, silent

from ._games import MAX_EXACT, names_of, table_of
from ._interactions import Interactions, rows_up_to
from ._transforms import butterfly_, mobius, players_of, sizes

Weight = Callable[[int, int, int], Fraction]
"""w(s, t, k): the weight of a dividend of t players in the number of s of them, for an index of order k."""


def _sii(s: int, t: int, k: int) -> Fraction:
    """Grabisch and Roubens 1999."""
    return Fraction(1, t - s + 1)


def _bii(s: int, t: int, k: int) -> Fraction:
    """Grabisch and Roubens 1999."""
    return Fraction(1, 2 ** (t - s))


def _chii(s: int, t: int, k: int) -> Fraction:
    """Marichal and Roubens 1999."""
    return Fraction(s, t)


def _co_moebius(s: int, t: int, k: int) -> Fraction:
    return Fraction(1)


def _moebius(s: int, t: int, k: int) -> Fraction:
    """Harsanyi 1963."""
    return Fraction(s == t)


def _stii(s: int, t: int, k: int) -> Fraction:
    """Sundararajan, Dhamdhere and Agarwal 2020."""
    return Fraction(s == t) if s < k else Fraction(1, comb(t, k))


def _fsii(s: int, t: int, k: int) -> Fraction:
    """Tsai, Yeh and Ravikumar 2023."""
    if t <= k:
        return Fraction(s == t)
    return Fraction((-1) ** (k - s) * s * comb(k, s) * comb(t - 1, k), (k + s) * comb(t + k - 1, k + s))


def _fbii(s: int, t: int, k: int) -> Fraction:
    """Tsai, Yeh and Ravikumar 2023."""
    if t <= k:
        return Fraction(s == t)
    return Fraction((-1) ** (k - s) * comb(t - s - 1, k - s), 2 ** (t - s))


@lru_cache
def _bernoulli(m: int) -> Fraction:
    """Bernoulli numbers 1, -1/2, 1/6, 0, -1/30, ..."""
    if m == 0:
        return Fraction(1)
    return -sum((comb(m + 1, j) * _bernoulli(j) for j in range(m)), Fraction(0)) / (m + 1)


def _k_sii(s: int, t: int, k: int) -> Fraction:
    """Bordt and von Luxburg 2023: SII of larger coalitions, handed down with Bernoulli numbers.

    The SII of S and R together takes a(T) with weight 1/(t-s-r+1), and there are C(t-s, r) such R inside T.
    """
    steps = range(min(k - s, t - s) + 1)
    return sum((_bernoulli(r) * comb(t - s, r) * Fraction(1, t - s - r + 1) for r in steps), Fraction(0))


@lru_cache(maxsize=4096)
def _weights(weight: Weight, size: int, n_players: int, order: int) -> tuple[Fraction, ...]:
    return tuple(Fraction(0) if t < size else weight(size, t, order) for t in range(n_players + 1))


@dataclass(frozen=True)
class Index:
    """An interaction index.

    Args:
        name: what it is called in print and in `index`.
        question: what its numbers answer.
        weight: w(s, t, k), what tells it from the others.
        value: whether it is a value, one number per player.
        own_constant: whether the empty coalition's number follows the weight, else it is v(empty).
    """

    name: str
    question: str
    weight: Weight
    value: bool = False
    own_constant: bool = False

    def weights(self, size: int, n_players: int, order: int) -> tuple[Fraction, ...]:
        """Return w(s, t) for t = 0..n."""
        if not size and not self.own_constant:
            return (Fraction(1), *[Fraction(0)] * n_players)
        return _weights(self.weight, size, n_players, order)

    def noise_gain(self, size: int, n_players: int, order: int) -> float:
        """Return the deviation of a number of `size` players when every evaluation has independent noise of 1.

        2**(s/2) for dividends. Seen as a sum over coalitions U + V with U in S and V in the rest, the worth of each
        enters with the alternating sum of w(s, s + |V| + j) over j, up to its sign.
        """
        w = self.weights(size, n_players, order)
        rest = n_players - size
        total = Fraction(0)
        for v in range(rest + 1):
            part = sum(((-1) ** j * comb(rest - v, j) * w[size + v + j] for j in range(rest - v + 1)), Fraction(0))
            total += comb(rest, v) * part**2
        return sqrt(2**size * total)


INDICES: Mapping[str, Index] = {
    entry.name: entry
    for entry in (
        Index("SV", "What is each player's fair share of the worth?", _sii, value=True),
        Index("BV", "What does each player add to a random coalition?", _bii, value=True),
        Index("SII", "What do players add together, averaged over arrival orders?", _sii),
        Index("BII", "What do players add together in a random coalition?", _bii),
        Index("CHII", "What do players add together, if the last to arrive counts?", _chii),
        Index("Co-Moebius", "What do players add together when all others are present?", _co_moebius),
        Index("Moebius", "What do players add together when all others are absent (Harsanyi dividends)?", _moebius),
        Index("STII", "How does the worth split so that larger coalitions go to their parts of order k?", _stii),
        Index("FSII", "Which numbers up to order k fit the game best, by Shapley weights?", _fsii),
        Index("FBII", "Which numbers up to order k fit the game best over all coalitions?", _fbii, own_constant=True),
        Index("k-SII", "How does the worth split if Shapley interactions are made to add up?", _k_sii),
    )
}
"""Interaction indices by name."""


def find_index(name: str) -> Index:
    """Return the index of this name, in capitals or not.

    Raises:
        ValueError: there is none.
    """
    for known, entry in INDICES.items():
        if known.lower() == name.lower():
            return entry
    raise ValueError(f"no index {name!r}; {nearest(name, INDICES)}known are {', '.join(INDICES)}")


def index(
    game: Game | Tensor | Interactions,
    name: str,
    *,
    order: int | None = None,
    floor: float | None = None,
    max_exact: int = MAX_EXACT,
    on_step: OnStep = silent,
) -> Interactions:
    """How much do players add together, by the index of your choice? Exact, from the whole table.

    `INDICES` lists the names with the question each answers: SV and BV (Shapley and Banzhaf values), SII, BII, CHII,
    Co-Moebius, Moebius (Harsanyi dividends), STII, FSII, FBII and k-SII. Shapley values, STII, FSII and k-SII sum to
    v(N), the constant v(empty) included; SII, BII and CHII do not.

    Args:
        game: a game, its table `(2**n, *b)`, or its dividends as `harsanyi` returns them.
        name: the index, one of `INDICES`.
        order: most players of a coalition; 2 if not given, always 1 for values.
        floor: deviation of one evaluation, from `noise_floor`; marks numbers that cannot be told from rounding.
        max_exact: most players for which the whole table is evaluated.
        on_step: progress in evaluations.

    Returns:
        Numbers of the coalitions of at most `order` players. The empty one has v(empty), for FBII the fit's constant.

    Raises:
        ValueError: an unknown index, or an order outside 1 to n.

    Example:
        >>> import torch
        >>> xor = torch.tensor([0.0, 1.0, 1.0, 0.0])
        >>> index(xor, "SII", order=2).values.tolist()
        [0.0, 0.0, 0.0, -2.0]
        >>> index(xor, "FSII", order=1).values.tolist()
        [0.0, 0.0, 0.0]
    """
    chosen = find_index(name)
    if isinstance(game, Interactions):
        if not game.whole or game.index != "Moebius":
            raise ValueError(f"indices follow from all dividends, not from {game.index} of order {game.max_order}")
        dividends, evaluations, names = game.values, game.evaluations, game.names
        floor = game.floor if floor is None else floor
    else:
        values, evaluations = table_of(game, max_exact=max_exact, on_step=on_step)
        dividends, names = mobius(values), names_of(game)
    n = players_of(dividends)
    if order is None:
        order = 1 if chosen.value else min(2, n)
    if not 1 <= order <= n or (chosen.value and order != 1):
        most = 1 if chosen.value else n
        raise ValueError(f"the order of {chosen.name} must be from 1 to {most} for {n} players, got {order}")
    numbers = _from_dividends(dividends, chosen, order)
    return Interactions(
        numbers,
        evaluations,
        names,
        index=chosen.name,
        n_players=n,
        max_order=order,
        floor=floor,
        noise=None if floor is None else _noise(numbers, chosen, n, order, floor),
    )


def _from_dividends(dividends: Tensor, chosen: Index, order: int) -> Tensor:
    """Return the numbers up to an order, by size and then by row."""
    n, device = players_of(dividends), dividends.device
    rows, size = rows_up_to(n, order).to(device), sizes(n, device=device)
    out = dividends[rows]
    start = 0
    for s in range(order + 1):
        stop = start + comb(n, s)
        weights = chosen.weights(s, n, order)
        if any(weights[s + 1 :]) or weights[s] != 1:  # else the dividends themselves
            weight = torch.tensor([float(w) for w in weights], dtype=torch.float64, device=device)
            sums = butterfly_(weight[size].view(-1, *[1] * (dividends.ndim - 1)) * dividends, source=1, sign=1)
            out[start:stop] = sums[rows[start:stop]]
        start = stop
    return out


def noise_limits(name: str, n_players: int, order: int, floor: float) -> tuple[float, ...]:
    """Return the sizes below which numbers of 0 to `order` players cannot be told from noise of `floor`.

    Three times what the index makes of independent noise in every evaluation, and at least 3 floor 2**(s/2), which is
    right for dividends; the values SV and BV are means of differences and never gain more.

    Args:
        name: the index, one of `INDICES`.
        n_players: number of players.
        order: most players of a coalition that has a number.
        floor: deviation of one evaluation, from `noise_floor`.

    Raises:
        ValueError: an unknown index.

    Example:
        >>> noise_limits("Moebius", 4, 2, 0.5)
        (1.5, 2.121320343559643, 3.0)
    """
    chosen = find_index(name)
    own = [0.0 if chosen.value else chosen.noise_gain(s, n_players, order) for s in range(order + 1)]
    return tuple(3 * floor * max(2 ** (s / 2), gain) for s, gain in enumerate(own))


def _noise(numbers: Tensor, chosen: Index, n: int, order: int, floor: float) -> Tensor:
    """Return which numbers cannot be told from noise."""
    limits = noise_limits(chosen.name, n, order, floor)
    least = torch.cat([torch.full((comb(n, s),), limit) for s, limit in enumerate(limits)]).to(numbers)
    return numbers.abs() < least.view(-1, *[1] * (numbers.ndim - 1))
