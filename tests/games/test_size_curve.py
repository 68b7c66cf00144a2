"""The size curve: bins close exactly, means come out right, only the sizes wanted are paid."""

from __future__ import annotations

from itertools import combinations, permutations

import pytest
import torch
from torch.testing import assert_close

from pellucid.core import Stream
from pellucid.games import (
    Counted,
    SizeCurve,
    TableGame,
    bin_sizes,
    by_size,
    cost_size_curve,
    pair_interactions,
    size_curve,
    sizes,
)


def random_table(n: int, seed: int = 0) -> torch.Tensor:
    return Stream(seed).child("table", n).normal((1 << n, 1), dtype=torch.float64)[:, 0]


def exact_curve(v: torch.Tensor, n: int) -> SizeCurve:
    """A curve whose chains are all the exact means."""
    return SizeCurve(torch.arange(n + 1), by_size(v)[None].expand(2, -1), n, 0)


@pytest.mark.parametrize("n", range(2, 9))
def test_order_means_are_the_mean_over_all_pairs(n):
    v = random_table(n)
    curve = exact_curve(v, n)
    assert_close(curve.order_means().values, pair_interactions(v).values.mean(0), atol=1e-10, rtol=0)
    U, orders = curve.utilities().values, torch.arange(n - 1)
    assert_close(U, (n - 1 - orders) * curve.order_means().values, atol=1e-12, rtol=0)
    assert_close(curve.first_order().values + U.sum(), v[-1] - v[0], atol=1e-10, rtol=0)
    for a, b in combinations(range(n), 2):
        assert_close(curve.bins([a, b]).values, U[a:b].sum()[None], atol=1e-10, rtol=0)


def test_bins_close_whatever_the_noise(rng):
    n, v = 9, random_table(9)
    edges = [0, 2, 3, 7, 8]
    curve = size_curve(TableGame(v), sizes=bin_sizes(edges, n), permutations=3, rng=rng)
    total = curve.first_order().values + curve.bins(edges).values.sum()
    assert_close(total, v[-1] - v[0], atol=1e-12, rtol=0)
    full = size_curve(TableGame(v), permutations=3, rng=rng)
    assert_close(full.first_order().values + full.utilities().values.sum(), v[-1] - v[0], atol=1e-12, rtol=0)


def test_within_four_standard_errors(rng):
    v = random_table(8)
    curve = size_curve(TableGame(v), permutations=400, rng=rng)
    assert bool(((curve.f - by_size(v)).abs() <= 4 * curve.stderr + 1e-12).all())
    means = curve.order_means()
    exact = pair_interactions(v).values.mean(0)
    assert bool(((means.values - exact).abs() <= 4 * means.stderr + 1e-12).all())
    assert float(curve.stderr[0]) == float(curve.stderr[-1]) == 0


def test_linear_game_has_a_straight_curve(rng):
    curve = size_curve(TableGame(3 * sizes(6).double() + 1), permutations=5, rng=rng)
    assert_close(curve.f, 1 + 3 * torch.arange(7, dtype=torch.float64))
    assert_close(curve.order_means().values, torch.zeros(5, dtype=torch.float64))


def test_cost_is_known_beforehand(rng):
    for wanted in (None, [0, 1, 4], []):
        game = Counted(TableGame(random_table(8)))
        curve = size_curve(game, sizes=wanted, permutations=50, rng=rng)
        assert game.evaluations == curve.evaluations == cost_size_curve(8, sizes=wanted, permutations=50)
    # Sizes 1 and 63 are exact with 64 evaluations each; with few chains for many players they are drawn too.
    assert cost_size_curve(64, sizes=bin_sizes([0, 10, 20, 63], 64), permutations=200) == 200 * 4 + 2 * 64 + 2
    assert cost_size_curve(256, sizes=[1, 255, 9], permutations=20) == 3 * 20 + 2
    assert curve.sizes.tolist() == [0, 8]


def test_chains_are_nested(rng):
    seen = []

    class Watching:
        n_players = 6

        def __call__(self, keep):
            seen.append(keep)
            return keep.sum(1).double()

    size_curve(Watching(), permutations=4, rng=rng)
    assert seen[0].sum(1).tolist() == [0, *[1] * 6, *[5] * 6, 6]
    chains = seen[1].view(4, 3, 6)
    assert bool((chains[:, 1:] >= chains[:, :-1]).all())
    assert torch.equal(chains.sum(2), torch.arange(2, 5).expand(4, 3))


def test_what_players_add_alone_is_exact(rng):
    v = random_table(7)
    curve = size_curve(TableGame(v), permutations=4, rng=rng)
    exact = by_size(v)
    assert_close(curve.f[[0, 1, 6, 7]], exact[[0, 1, 6, 7]], atol=1e-12, rtol=0)
    assert not bool(curve.stderr[[0, 1, 6, 7]].any())
    assert bool((curve.stderr[2:6] > 0).all())
    alone = curve.first_order()
    assert float(alone.values) == pytest.approx(7 * float(exact[1] - exact[0]))
    assert float(alone.stderr) == 0


def test_every_listed_size_stays_unbiased_over_all_chains():
    """Sizes drawn with chains: the mean over all 5! orders of arrival is the exact curve."""
    v = random_table(5)
    f = torch.zeros(6, dtype=torch.float64)
    for order in permutations(range(5)):
        f += torch.stack([v[sum(1 << p for p in order[:k])] for k in range(6)]) / 120
    assert_close(f, by_size(v), atol=1e-12, rtol=0)


def test_vector_values(rng):
    v = torch.stack([random_table(5, s) for s in range(2)], dim=1)
    curve = size_curve(TableGame(v), permutations=6, rng=rng)
    alone = size_curve(TableGame(v[:, 1]), permutations=6, rng=rng)
    assert_close(curve.f[:, 1], alone.f)
    assert_close(curve.utilities().values[:, 1], alone.utilities().values)
    assert_close(curve.bins([0, 2, 4]).values[:, 1], alone.bins([0, 2, 4]).values)


def test_refusals(rng):
    game = TableGame(random_table(4))
    with pytest.raises(ValueError, match="needs a player and 2 permutations"):
        size_curve(game, permutations=1, rng=rng)
    with pytest.raises(ValueError, match="sizes must lie between 0 and n = 4"):
        size_curve(game, sizes=[5], rng=rng)
    curve = size_curve(game, sizes=[1, 2], permutations=2, rng=rng)
    with pytest.raises(ValueError, match="every order needs all sizes"):
        curve.order_means()
    with pytest.raises(ValueError, match="size 3 was not measured; measured sizes are"):
        curve.bins([0, 2])
    with pytest.raises(ValueError, match="edges must increase from 0 to at most n-1 = 3"):
        curve.bins([2, 1])
