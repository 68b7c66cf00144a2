"""Interactions of chosen pairs at chosen orders, sampled with contexts that many pairs share.

Take a group G of g players. Below half of the players, a context S of m players is drawn and every pair of G outside S
is inserted into it; above, a set T of m+2 players is drawn and every pair of G inside T is deleted from it. With h
usable players one draw gives h(h-1)/2 differences D(i,j,S) = v(S+i+j) - v(S+i) - v(S+j) + v(S) for
1 + h + h(h-1)/2 evaluations. For one pair, h follows the hypergeometric weights w_h; draws are stratified by h with
fixed numbers R_h, so that the cost is known beforehand, and weighted by w_h / R_h, so that the mean is unbiased.

Letters: n players, m order, g group size, h usable players, R draws, K contexts per pair, P pairs, M orders.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from math import comb, pi, sqrt
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.core import Game, OnStep, Players, Stream, silent

from ._games import cost_of, mean_size
from ._size_curve import one_sample

Sharing = Literal["shared", "independent"]


@dataclass(frozen=True)
class Stratum:
    """The draws of one order that have h usable players: how many, and the weight of each one's differences.

    For a pair the expected sum of weights over all draws is one.
    """

    usable: int
    draws: int
    weight: float


@dataclass(frozen=True)
class Design:
    """How one order is measured within a group.

    Args:
        order: context size m.
        insertion: pairs are added to small contexts; else taken away from large ones.
        exact: the strata list every context there is.
        strata: the draws.
    """

    order: int
    insertion: bool
    exact: bool
    strata: tuple[Stratum, ...]

    @property
    def evaluations(self) -> int:
        """Evaluations of this order within one group."""
        return sum(s.draws * _cost(s.usable) for s in self.strata)


def _cost(h: int) -> int:
    return 1 + h + h * (h - 1) // 2


def _member(h: int, g: int) -> float:
    """The chance that two given players of the group are both among the h usable ones."""
    return h * (h - 1) / (g * (g - 1))


@lru_cache(maxsize=4096)
def design(n_players: int, group: int, order: int, contexts: int) -> Design:
    """Plan the draws of one order: at least `contexts` effective contexts per pair, or all where there are no more.

    Args:
        n_players: n.
        group: players g of the group.
        order: context size m, 0..n-2.
        contexts: contexts K wanted per pair.
    """
    n, g, m = n_players, group, order
    insertion = 2 * m < n
    drawn = m if insertion else m + 2  # size of the set that is drawn
    # Of the drawn set, g-h (insertion) or h (deletion) players lie in G, the others outside.
    outside = {h: drawn - ((g - h) if insertion else h) for h in range(2, g + 1)}
    ways = {h: comb(n - g, k) for h, k in outside.items() if 0 <= k <= n - g}
    if comb(n - 2, m) <= contexts:
        weight = 1 / comb(n - 2, m)
        return Design(m, insertion, True, tuple(Stratum(h, comb(g, h) * c, weight) for h, c in ways.items()))
    share = {h: comb(g - 2, h - 2) * c / comb(n - 2, m) for h, c in ways.items()}
    member = {h: _member(h, g) for h in ways}
    # R_h in proportion to the probability of h when the set is drawn at random; at least one draw per stratum.
    draws = {h: max(1, round(contexts * share[h] / member[h])) for h in ways}
    return Design(m, insertion, False, tuple(Stratum(h, r, share[h] / (r * member[h])) for h, r in draws.items()))


def cost_pair_orders(
    n_players: int, group_sizes: Sequence[int], orders: Sequence[int], *, contexts: int, sharing: Sharing = "shared"
) -> int:
    """Return the exact number of evaluations of `pair_orders`, without evaluating anything."""
    _check_orders(orders, n_players)
    if sharing == "independent":
        pairs = sum(comb(g, 2) for g in group_sizes)
        return sum(
            1 + n_players + pairs
            if _joint_end(n_players, m, pairs)
            else pairs * design(n_players, 2, m, contexts).evaluations
            for m in orders
        )
    return sum(design(n_players, g, m, contexts).evaluations for g in group_sizes for m in orders)


def _joint_end(n: int, m: int, pairs: int) -> bool:
    """Whether an end order, which has one context, is cheaper for all pairs together: its players are asked once."""
    return m in (0, n - 2) and 1 + n + pairs < 4 * pairs


@dataclass(frozen=True, eq=False)
class PairOrders:
    """Interactions of pairs at orders, with their sampling error.

    Args:
        values: float64 `(P, M, *b)`, estimates of I^m(i,j).
        stderr: standard error, same shape; zero where all contexts were used.
        floor: what |value| would be on average if the interaction were zero: sqrt(2/pi) times the standard error,
            corrected for few contexts, or times what rounding in the model's precision leaves where all were used.
        pairs: int64 `(P, 2)`, i < j, group by group.
        orders: the context sizes m.
        evaluations: model evaluations spent.
    """

    values: Float[Tensor, "pairs orders *b"]
    stderr: Float[Tensor, "pairs orders *b"]
    floor: Float[Tensor, "pairs orders *b"]
    pairs: Int[Tensor, "pairs 2"]
    orders: tuple[int, ...]
    evaluations: int

    @property
    def abs_mean(self) -> Float[Tensor, "orders *b"]:
        """The mean of |value| over pairs: the strength of each order, inflated by noise up to the floor."""
        return self.values.abs().mean(0)

    @property
    def square(self) -> Float[Tensor, "pairs orders *b"]:
        """Estimates of the squared interactions, value**2 - stderr**2; may be negative.

        Unbiased where each pair has contexts of its own; nearly so where pairs share them, from about 20 contexts on.
        """
        return self.values.square() - self.stderr.square()


def _check_orders(orders: Sequence[int], n_players: int) -> None:
    for m in orders:
        if not 0 <= m <= n_players - 2:
            raise ValueError(f"orders must lie between 0 and n-2 = {n_players - 2}, got {m}")


def _check_groups(groups: Sequence[Tensor], n_players: int) -> list[Tensor]:
    checked = [torch.as_tensor(group, dtype=torch.int64).cpu() for group in groups]
    if not checked:
        raise ValueError("groups is empty; give at least one group of two players")
    for group in checked:
        if group.ndim != 1 or len(group) < 2 or len(set(group.tolist())) != len(group):
            raise ValueError(f"a group needs at least two different players, got {group.tolist()}")
        if int(group.min()) < 0 or int(group.max()) >= n_players:
            raise ValueError(f"players must be numbers from 0 to {n_players - 1}, got {group.tolist()}")
    return [group.sort().values for group in checked]


def _subsets(keys: Tensor, count: int) -> Tensor:
    """Return uniform subsets of `count` columns, one per row of random keys, as a bool mask."""
    ranks: Tensor = keys.argsort(dim=1, stable=True).argsort(dim=1)
    return ranks < count


def _all_subsets(size: int, count: int) -> Tensor:
    """Return every subset of `count` of `size` columns, as a bool mask."""
    chosen = torch.tensor(list(combinations(range(size), count)), dtype=torch.int64)
    return torch.zeros(len(chosen), size, dtype=torch.bool).scatter_(1, chosen, True)


def _bases(plan: Design, stratum: Stratum, group: Tensor, n: int, rng: Stream) -> tuple[Tensor, Tensor]:
    """Return the drawn sets `(R, n)` and the usable players `(R, h)` of one stratum."""
    g, h = len(group), stratum.usable
    outside = (plan.order - (g - h)) if plan.insertion else (plan.order + 2 - h)
    rest = torch.ones(n, dtype=torch.bool)
    rest[group] = False
    if plan.exact:
        inner, outer = _all_subsets(g, h), _all_subsets(n - g, outside)
        usable = inner.repeat_interleave(len(outer), 0)
        others = outer.repeat(len(inner), 1)
    else:
        keys = rng.child(h).bits((1, stratum.draws, n))[0]
        usable, others = _subsets(keys[:, :g], h), _subsets(keys[:, g:], outside)
    base = torch.zeros(len(usable), n, dtype=torch.bool)
    base[:, group] = ~usable if plan.insertion else usable
    base[:, rest] = others
    return base, group[usable.nonzero()[:, 1].view(len(usable), h)]


def _flips(h: int) -> Tensor:
    """Return which usable players change in each evaluation of one draw: none, one each, then two each."""
    single = torch.eye(h, dtype=torch.bool)
    i, j = torch.combinations(torch.arange(h)).T
    return torch.cat([torch.zeros(1, h, dtype=torch.bool), single, single[i] | single[j]])


def _rows(base: Tensor, usable: Tensor) -> Tensor:
    """Return the coalitions `(R, 1 + h + h(h-1)/2, n)` of each draw."""
    pattern = _flips(usable.shape[1])
    change = torch.zeros(len(base), len(pattern), base.shape[1], dtype=torch.bool)
    change.scatter_(2, usable[:, None, :].expand(-1, len(pattern), -1), pattern.expand(len(base), -1, -1))
    return base[:, None, :] ^ change


def _differences(values: Tensor, h: int) -> Tensor:
    """Return D(i,j,S) of each draw, `(R, h(h-1)/2, *b)`."""
    i, j = torch.combinations(torch.arange(h, device=values.device)).T
    return values[:, :1] - values[:, 1 + i] - values[:, 1 + j] + values[:, 1 + h :]


def _pair_numbers(usable: Tensor, group: Tensor) -> Tensor:
    """Return which pair of the group each difference of a draw belongs to, `(R, h(h-1)/2)`."""
    g = len(group)
    i, j = torch.combinations(torch.arange(usable.shape[1])).T
    place = torch.searchsorted(group, usable)
    a, b = place[:, i], place[:, j]
    return a * (2 * g - a - 1) // 2 + b - a - 1


def _combine(plan: Design, parts: Sequence[tuple[Tensor, Tensor]], g: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the estimates, standard errors and floors of a group's pairs, `(P, *b)`.

    Weighted sums alone would let the random number of contexts per pair add noise of the size of the interaction. So
    each draw is centred at the mean of the pair's OTHER draws; being independent of the draw, that keeps the estimate
    unbiased: sum of [a (D - c) + w p c] with a = w if the draw uses the pair, else 0, and p the chance that it does.
    """
    P = g * (g - 1) // 2
    b = parts[0][0].shape[2:]
    one = [1] * len(b)
    # Weight of each draw times the chance that it uses a pair.
    share = [torch.full((s.draws,), s.weight * _member(s.usable, g), dtype=torch.float64) for s in plan.strata]
    total = sum(s.draws for s in plan.strata)
    a = torch.zeros(total, P, dtype=torch.float64)
    D = torch.zeros(total, P, *b, dtype=torch.float64)
    start = 0
    for (difference, pair), stratum in zip(parts, plan.strata, strict=True):
        rows = torch.arange(start, start + stratum.draws)[:, None]
        a[rows, pair] = stratum.weight
        D[rows, pair] = difference.cpu()
        start += stratum.draws
    A = a.view(*a.shape, *one)
    mass, moment = A.sum(0), (A * D).sum(0)
    if plan.exact:
        return moment / mass, torch.zeros_like(moment), torch.zeros_like(moment)
    others = mass - A
    center = torch.where(others > 0, (moment - A * D) / others.clamp_min(1e-300), 0.0)
    expected = torch.cat(share).view(-1, 1, *one)
    values = (A * (D - center) + expected * center).sum(0)
    # D varies over contexts with one deviation per pair; K_eff contexts carry it, by the planned weights.
    spread = (A * (D - moment / mass.clamp_min(1e-300)).square()).sum(0)
    # A pair that got one context only (its freedom is zero) borrows the deviation of the others.
    freedom = mass - A.square().sum(0) / mass.clamp_min(1e-300)
    known = freedom > 1e-9 * mass
    pooled = torch.where(known, spread, 0.0).sum(0) / torch.where(known, freedom, 0.0).sum(0)
    variance = torch.where(known, spread / freedom.clamp_min(1e-300), pooled)
    effective = sum(s.draws * s.weight**2 * _member(s.usable, g) for s in plan.strata)
    stderr = (variance * effective).sqrt()
    # K draws of a pair, counted by their weights, leave K - 1 degrees of freedom; a borrowed deviation has all of them.
    own = mass.square() / A.square().sum(0).clamp_min(1e-300) - 1
    degrees = torch.where(known, own, torch.where(known, own, 0.0).sum(0))
    return values, stderr, mean_size(stderr, degrees.expand_as(stderr))


def pair_orders(
    game: Game,
    groups: Sequence[Tensor] | Tensor,
    orders: Sequence[int],
    *,
    contexts: int = 100,
    sharing: Sharing = "shared",
    rng: Stream,
    on_step: OnStep = silent,
) -> PairOrders:
    """How do chosen pairs interact in contexts of m other players? Unbiased estimates of I^m(i,j).

    Args:
        game: a game of at least two players.
        groups: players whose pairs are measured together, `(G, g)` or a list of vectors; pairs `(P, 2)` are groups of
            two. Larger groups share contexts: nine neighbors cost 1.3 to 1.6 evaluations per difference instead of 4.
        orders: context sizes m, from 0 to n-2.
        contexts: contexts per pair and order; where there are no more than that, all are used and the value is exact.
        sharing: "independent" gives each pair of each group contexts of its own, for 4 evaluations per difference; the
            end orders, which have one context, then cost 1 + n + P for all P pairs together.
        rng: where contexts come from, bound to at most one sample.
        on_step: progress in evaluations.
    """
    n = game.n_players
    if contexts < 2:
        raise ValueError(f"contexts must be at least 2, a standard error needs them; got {contexts}")
    _check_orders(orders, n)
    checked = _check_groups(list(groups), n)
    total = cost_pair_orders(n, [len(group) for group in checked], orders, contexts=contexts, sharing=sharing)
    pairs = torch.cat([torch.combinations(group) for group in checked])
    if sharing == "independent":
        checked = list(pairs)
    stream, done = one_sample(rng).child("pair-orders"), 0
    values, errors, floors, roundings = [], [], [], []
    for m in orders:
        if sharing == "independent" and _joint_end(n, m, len(pairs)):
            keep = _end_rows(pairs, n, full=m > 0)
            worth = game(keep).to(torch.float64)
            done += len(keep)
            on_step(done, total)
            i, j = pairs.T.to(worth.device)
            values.append((worth[:1] - worth[1 + i] - worth[1 + j] + worth[1 + n :]).cpu())
            errors.append(torch.zeros_like(values[-1]))
            floors.append(errors[-1])
            roundings.append(2 * rounding_of(game, worth))
            continue
        # One call per order fills the batches across groups.
        drawn = []
        for number, group in enumerate(checked):
            plan = design(n, len(group), m, contexts)
            bases = [_bases(plan, s, group, n, stream.child(number, m)) for s in plan.strata]
            drawn.append((plan, group, bases))
        keep = torch.cat([_rows(*base).flatten(0, 1) for _, _, bases in drawn for base in bases])
        worth = game(keep).to(torch.float64)
        done += len(keep)
        on_step(done, total)
        lengths = [len(b) * _cost(u.shape[1]) for _, _, bases in drawn for b, u in bases]
        pieces = iter(torch.split(worth, lengths))
        of_groups = []
        for plan, group, bases in drawn:
            parts = []
            for base, usable in bases:
                h = usable.shape[1]
                piece = next(pieces).view(len(base), _cost(h), *worth.shape[1:])
                parts.append((_differences(piece, h), _pair_numbers(usable, group)))
            of_groups.append(_combine(plan, parts, len(group)))
        values.append(torch.cat([v for v, _, _ in of_groups]))
        errors.append(torch.cat([e for _, e, _ in of_groups]))
        floors.append(torch.cat([f for _, _, f in of_groups]))
        roundings.append(2 * rounding_of(game, worth))
    stderr = torch.stack(errors, dim=1)
    least = torch.tensor(roundings, dtype=torch.float64).view(1, -1, *[1] * (stderr.ndim - 2))
    floor = torch.maximum(torch.stack(floors, dim=1), sqrt(2 / pi) * least)
    spent = total * cost_of(game)
    return PairOrders(torch.stack(values, dim=1), stderr, floor, pairs, tuple(orders), spent)


def _end_rows(pairs: Tensor, n: int, *, full: bool) -> Tensor:
    """Return the coalitions of an end order: none (or all), one changed player each, then two: `(1 + n + P, n)`."""
    change = torch.zeros(1 + n + len(pairs), n, dtype=torch.bool)
    change[1 : 1 + n] = torch.eye(n, dtype=torch.bool)
    change[1 + n :].scatter_(1, pairs, True)
    return ~change if full else change


def rounding_of(game: Game, worth: Tensor) -> float:
    """Return half a unit in the last place of a game's precision at the size of its values: the least noise."""
    inner: object = game
    while not hasattr(inner, "dtype") and hasattr(inner, "game"):
        inner = inner.game
    eps = torch.finfo(getattr(inner, "dtype", torch.float64)).eps
    return eps / 2 * float(worth.abs().max())


# -- which pairs --------------------------------------------------------------------------------------------------


def neighbor_blocks(players: Players, *, blocks: int, side: int = 3, rng: Stream) -> Int[Tensor, "blocks g"]:
    """Draw groups of neighboring players: blocks of side x side cells of a grid, else random groups of side**2 players.

    All pairs of a 3 x 3 block lie at most two cells apart. No group is drawn twice, so fewer come back where there are
    no more of them.
    """
    stream = one_sample(rng).child("neighbor-blocks")
    if players.grid is None:
        return _random_groups(players.count, min(side * side, players.count), blocks, stream)
    rows, columns = players.grid
    height, width = min(side, rows), min(side, columns)
    places = (rows - height + 1) * (columns - width + 1)
    chosen = stream.bits((1, places))[0].argsort(dim=-1, stable=True)[:blocks]
    top, left = chosen // (columns - width + 1), chosen % (columns - width + 1)
    r = top[:, None, None] + torch.arange(height)[None, :, None]
    c = left[:, None, None] + torch.arange(width)[None, None, :]
    cells: Tensor = r * columns + c
    return cells.flatten(1)


def _random_groups(n: int, size: int, count: int, rng: Stream) -> Tensor:
    """Return different groups of `size` of n players, `count` of them or all there are."""
    count = min(count, comb(n, size))
    groups: dict[tuple[int, ...], None] = {}
    for attempt in range(1 << 20):
        stream = rng if attempt == 0 else rng.child(attempt)
        drawn = stream.bits((1, count, n))[0].argsort(dim=1, stable=True)[:, :size].sort(1).values
        for group in drawn.tolist():
            if len(groups) < count:
                groups.setdefault(tuple(group))
        if len(groups) == count:
            break
    return torch.tensor(list(groups), dtype=torch.int64).view(-1, size)


def neighbor_pairs(players: Players, count: int, *, radius: int = 2, rng: Stream) -> Int[Tensor, "pairs 2"]:
    """Draw pairs of neighboring players: cells of a grid at most `radius` rows and columns apart, else any two players.

    Uniform over all such pairs and without replacement; fewer come back where there are no more.
    """
    n = players.count
    i, j = torch.combinations(torch.arange(n)).T
    if players.grid is not None:
        columns = players.grid[1]
        apart = torch.maximum((i // columns - j // columns).abs(), (i % columns - j % columns).abs())
        i, j = i[apart <= radius], j[apart <= radius]
    chosen = one_sample(rng).child("neighbor-pairs").bits((1, len(i)))[0].argsort(dim=-1, stable=True)[:count]
    return torch.stack([i[chosen], j[chosen]], dim=1)
