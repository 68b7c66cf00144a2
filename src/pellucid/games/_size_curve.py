"""The mean worth of coalitions of each size, and the signed interactions that follow from it.

With f(k) the mean of v over the coalitions of k players, the mean interaction of ALL pairs in contexts of m players is
f(m+2) - 2 f(m+1) + f(m), so signed order curves need no pairs at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.core import Estimate, Game, OnStep, Stream, silent

from ._games import cost_of


def one_sample(rng: Stream) -> Stream:
    """Return a stream that draws for exactly one sample: the one it is bound to, or sample 0.

    Raises:
        ValueError: the stream is bound to several samples.
    """
    if rng.ids is None:
        return rng.at([0])
    if len(rng.ids) != 1:
        raise ValueError(f"a game belongs to one sample but rng is bound to {len(rng.ids)}; use rng.at([id])")
    return rng


@dataclass(frozen=True, eq=False)
class SizeCurve:
    """Mean worth by coalition size, from chains of nested coalitions.

    Args:
        sizes: int64 `(M,)`, increasing, always with 0 and n.
        chains: float64 `(R, M, *b)`, the worth along each chain; exact means, the ends among them, are the same in all.
        n_players: n.
        evaluations: model evaluations spent.
    """

    sizes: Int[Tensor, " sizes"]
    chains: Float[Tensor, "chains sizes *b"]
    n_players: int
    evaluations: int

    @property
    def f(self) -> Float[Tensor, "sizes *b"]:
        """f(k), the mean worth of coalitions of each size."""
        return self.chains.mean(0)

    @property
    def stderr(self) -> Float[Tensor, "sizes *b"]:
        """Standard error of f; zero where it is exact, such as at sizes 0 and n."""
        return _stderr(self.chains)

    def order_means(self) -> Estimate:
        """Return the mean interaction of all pairs at orders 0..n-2, `(n-1, *b)`; needs all sizes."""
        second = self._complete().diff(n=2, dim=1)
        return Estimate(second.mean(0), _stderr(second), self.evaluations)

    def utilities(self) -> Estimate:
        """Return what each order adds to v(N) - v(empty): (n-1-m) times its mean interaction, `(n-1, *b)`.

        Together with `first_order` they sum to v(N) - v(empty) exactly, whatever the sampling noise.
        """
        second = self._complete().diff(n=2, dim=1)
        weights = torch.arange(self.n_players - 1, 0, -1, device=second.device).to(torch.float64)
        share = second * weights.view(-1, *[1] * (second.ndim - 2))
        return Estimate(share.mean(0), _stderr(share), self.evaluations)

    def first_order(self) -> Estimate:
        """Return what the players add alone: n (f(1) - f(0)), `(*b)`; needs size 1."""
        alone = self.n_players * (self._at(1) - self._at(0))
        return Estimate(alone.mean(0), _stderr(alone), self.evaluations)

    def bins(self, edges: Sequence[int]) -> Estimate:
        """Return the summed utilities of the orders [edges[k], edges[k+1]), `(len(edges) - 1, *b)`.

        Each bin [a, b) needs the sizes a, a+1, b and b+1 only; bins from 0 to n-1 close exactly with `first_order`.
        """
        _check_edges(edges, self.n_players)
        n, parts = self.n_players, []
        for a, b in pairwise(edges):
            upper = (n - b) * (self._at(b + 1) - self._at(b)) + self._at(b)
            lower = (n - 1 - a) * (self._at(a + 1) - self._at(a)) + self._at(a + 1)
            parts.append(upper - lower)
        shares = torch.stack(parts, dim=1)
        return Estimate(shares.mean(0), _stderr(shares), self.evaluations)

    def _at(self, size: int) -> Tensor:
        found = (self.sizes == size).nonzero()
        if not len(found):
            raise ValueError(f"size {size} was not measured; measured sizes are {self.sizes.tolist()}")
        return self.chains[:, int(found[0, 0])]

    def _complete(self) -> Tensor:
        if len(self.sizes) != self.n_players + 1:
            raise ValueError("every order needs all sizes; leave sizes out of size_curve, or use bins(edges)")
        return self.chains


def _stderr(chains: Tensor) -> Tensor:
    deviation: Tensor = chains.std(dim=0, correction=1)
    return deviation / sqrt(len(chains))


def _check_edges(edges: Sequence[int], n_players: int) -> None:
    if len(edges) < 2 or list(edges) != sorted(set(edges)) or edges[0] < 0 or edges[-1] > n_players - 1:
        raise ValueError(f"edges must increase from 0 to at most n-1 = {n_players - 1}, got {list(edges)}")


def bin_sizes(edges: Sequence[int], n_players: int) -> list[int]:
    """Return the coalition sizes that `SizeCurve.bins(edges)` and `first_order` need."""
    _check_edges(edges, n_players)
    return sorted({0, 1, n_players, *edges, *(edge + 1 for edge in edges)})


def cost_size_curve(n_players: int, *, sizes: Sequence[int] | None = None, permutations: int) -> int:
    """Return the exact number of evaluations of `size_curve`, without evaluating anything."""
    inner = set(range(1, n_players) if sizes is None else [k for k in sizes if 0 < k < n_players])
    listed = _listed(n_players, inner, permutations)
    return permutations * (len(inner) - len(listed)) + n_players * len(listed) + 2


def _listed(n: int, sizes: Iterable[int], permutations: int) -> list[int]:
    """Return the sizes next to the ends whose n coalitions are all evaluated, since drawing them saves little.

    What players add alone is n times a difference with f(1), so an error there counts n times.
    """
    return [k for k in sorted({1, n - 1} & set(sizes)) if n <= 4 * permutations]


def size_curve(
    game: Game,
    *,
    sizes: Sequence[int] | None = None,
    permutations: int = 200,
    rng: Stream,
    on_step: OnStep = silent,
) -> SizeCurve:
    """What is a coalition of k players worth on average? f(k) from chains of nested random coalitions.

    A chain lets the players arrive in random order and looks at the sizes wanted, so that differences between sizes
    have little noise. Sizes 1 and n-1 are exact, all their n coalitions evaluated, where n is at most four times
    `permutations`. `cost_size_curve` gives the price.

    Args:
        game: a game of at least one player.
        sizes: coalition sizes to measure, 0 and n always among them; all if not given.
        permutations: number of chains, at least 2.
        rng: where the orders of arrival come from, bound to at most one sample.
        on_step: progress in evaluations.
    """
    n = game.n_players
    if n < 1 or permutations < 2:
        raise ValueError(f"size_curve needs a player and 2 permutations, got {n} players, {permutations} permutations")
    wanted = sorted({0, n, *(range(n + 1) if sizes is None else sizes)})
    if wanted[0] < 0 or wanted[-1] > n:
        raise ValueError(f"sizes must lie between 0 and n = {n}, got {wanted}")
    listed = _listed(n, wanted[1:-1], permutations)
    inner = torch.tensor([k for k in wanted[1:-1] if k not in listed], dtype=torch.int64)
    arrival = one_sample(rng).child("size-curve").bits((1, permutations, n))[0].argsort(dim=1, stable=True).argsort(1)
    single = torch.eye(n, dtype=torch.bool)
    fixed = [torch.zeros(1, n, dtype=torch.bool), *(single if k == 1 else ~single for k in listed)]
    known = game(torch.cat([*fixed, torch.ones(1, n, dtype=torch.bool)]))
    means = [part.mean(0, keepdim=True) for part in torch.split(known, [1, *[n] * len(listed), 1])]
    ends = known[:1]
    b, total = ends.shape[1:], cost_size_curve(n, sizes=wanted, permutations=permutations)
    parts, done = [], len(known)
    on_step(done, total)
    rows_per_step = max(1, 4096 // max(1, len(inner)))
    for ranks in torch.split(arrival, rows_per_step) if len(inner) else ():
        keep = (ranks[:, None, :] < inner[None, :, None]).flatten(0, 1)
        parts.append(game(keep).view(len(ranks), len(inner), *b))
        done += len(keep)
        on_step(done, total)
    middle = torch.cat(parts) if parts else ends.new_zeros(permutations, 0, *b)
    exact = dict(zip([0, *listed, n], means, strict=True))
    drawn = dict(zip(inner.tolist(), middle.unbind(1), strict=True))
    chains = [exact[k].expand(permutations, *b) if k in exact else drawn[k] for k in wanted]
    return SizeCurve(torch.tensor(wanted), torch.stack(chains, dim=1), n, total * cost_of(game))
