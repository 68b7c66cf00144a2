"""Sampled pair orders: exactly unbiased, priced beforehand, independent of batches and company."""

from __future__ import annotations

from itertools import combinations
from math import comb, pi, sqrt

import pytest
import torch
from torch.testing import assert_close

from pellucid.core import BudgetError, Players, Stream
from pellucid.games import (
    Counted,
    PairOrders,
    TableGame,
    cost_pair_orders,
    interaction_strength,
    neighbor_blocks,
    neighbor_pairs,
    pair_interactions,
    pair_orders,
    strength_of,
    zeta,
)
from pellucid.games._games import mean_size
from pellucid.games._pair_orders import _combine, _cost, _differences, _pair_numbers, _rows, design


def random_table(n: int, seed: int = 0) -> torch.Tensor:
    return Stream(seed).child("table", n).normal((1 << n, 1), dtype=torch.float64)[:, 0]


def exact_orders(v: torch.Tensor, group: list[int]) -> torch.Tensor:
    found = pair_interactions(v)
    rows = [p for p, (i, j) in enumerate(found.pairs.tolist()) if i in group and j in group]
    return found.values[rows]


@pytest.mark.parametrize("order", range(1, 7))
def test_the_design_is_unbiased_over_all_its_draws(order):
    """Enumerate every draw of every stratum, n = 9 and g = 4: the weighted mean is I^m to 1e-12."""
    n, group = 9, torch.tensor([1, 2, 5, 8])
    v = random_table(n)
    plan = design(n, 4, order, 2)
    assert not plan.exact
    others = [p for p in range(n) if p not in group.tolist()]
    expected = torch.zeros(6, dtype=torch.float64)
    for stratum in plan.strata:
        h = stratum.usable
        outside = order - (4 - h) if plan.insertion else order + 2 - h
        bases, usable = [], []
        for chosen in combinations(group.tolist(), h):
            fixed = [p for p in group.tolist() if p not in chosen] if plan.insertion else list(chosen)
            for rest in combinations(others, outside):
                base = torch.zeros(n, dtype=torch.bool)
                base[[*fixed, *rest]] = True
                bases.append(base)
                usable.append(torch.tensor(chosen))
        base, free = torch.stack(bases), torch.stack(usable)
        values = TableGame(v)(_rows(base, free).flatten(0, 1)).view(len(base), _cost(h))
        D, pair = _differences(values, h), _pair_numbers(free, group)
        # One draw contributes weight * D to each of its pairs; R_h draws, each uniform over the enumeration.
        share = stratum.draws * stratum.weight / len(base)
        expected.index_add_(0, pair.flatten(), share * D.flatten())
    assert_close(expected, exact_orders(v, group.tolist())[:, order], atol=1e-12, rtol=0)


def test_centering_keeps_the_estimate_unbiased():
    """All pairs of two independent draws of one stratum, enumerated: the mean of the estimator is the exact value."""
    n, group, order = 5, torch.tensor([0, 1, 2]), 1
    v = random_table(n, 3)
    plan = design(n, 3, order, 2)
    # Every draw of each stratum with its differences; then every combination of draws the design could make.
    pools = []
    for stratum in plan.strata:
        h, outside = stratum.usable, order - (3 - stratum.usable)
        pool = []
        for chosen in combinations(range(3), h):
            for rest in combinations((3, 4), outside):
                base = torch.zeros(1, n, dtype=torch.bool)
                base[0, [p for p in range(3) if p not in chosen] + list(rest)] = True
                free = torch.tensor([chosen])
                values = TableGame(v)(_rows(base, free).flatten(0, 1)).view(1, _cost(h))
                pool.append((_differences(values, h), _pair_numbers(free, group)))
        pools.append(pool)

    def every(index: int):
        if index == len(pools):
            yield []
            return
        stratum, pool = plan.strata[index], pools[index]
        picks = [[]]
        for _ in range(stratum.draws):
            picks = [[*pick, draw] for pick in picks for draw in range(len(pool))]
        for pick in picks:
            D = torch.cat([pool[k][0] for k in pick])
            pair = torch.cat([pool[k][1] for k in pick])
            for rest in every(index + 1):
                yield [(D, pair), *rest]

    total, count = torch.zeros(3, dtype=torch.float64), 0
    for parts in every(0):
        total += _combine(plan, parts, 3)[0]
        count += 1
    assert count > 10
    assert_close(total / count, exact_orders(v, [0, 1, 2])[:, order], atol=1e-12, rtol=0)


def test_weights_sum_to_one_and_strata_cover():
    for n, g, contexts in ((12, 9, 10), (64, 9, 24), (64, 2, 24), (30, 5, 3)):
        for m in range(n - 1):
            plan = design(n, g, m, contexts)
            chance = [s.draws * s.weight * s.usable * (s.usable - 1) / (g * (g - 1)) for s in plan.strata]
            assert sum(chance) == pytest.approx(1, abs=1e-12)
            assert plan.exact == (comb(n - 2, m) <= contexts)


def test_enough_contexts_make_it_exact(rng):
    v = random_table(7)
    found = pair_orders(TableGame(v), [torch.tensor([0, 2, 3, 6])], range(6), contexts=10, rng=rng)
    assert_close(found.values, exact_orders(v, [0, 2, 3, 6]), atol=1e-10, rtol=0)
    assert not bool(found.stderr.any())
    assert float(found.floor.max()) < 1e-14  # what rounding leaves


def test_end_orders_are_exact_and_cheap(rng):
    v = random_table(9)
    game = Counted(TableGame(v))
    found = pair_orders(game, [torch.arange(9)], (0, 7), contexts=2, rng=rng)
    assert game.evaluations == found.evaluations == 2 * (1 + 9 + 36)
    assert_close(found.values, exact_orders(v, list(range(9)))[:, [0, 7]], atol=1e-10, rtol=0)


def test_within_four_standard_errors_of_exact(rng):
    v = random_table(10)
    exact = exact_orders(v, list(range(5)))[:, 1:8]
    inside = []
    for seed in range(100):
        found = pair_orders(TableGame(v), [torch.arange(5)], range(1, 8), contexts=20, rng=rng.child(seed))
        inside.append((found.values - exact).abs() <= 4 * found.stderr + 1e-9)
    share = torch.stack(inside).double().mean()
    assert float(share) > 0.99


def test_standard_errors_match_the_spread_over_seeds(rng):
    v = random_table(10)
    runs = [pair_orders(TableGame(v), [torch.arange(6)], (2, 4, 6), contexts=30, rng=rng.child(s)) for s in range(60)]
    spread = torch.stack([run.values for run in runs]).std(0).mean(0)
    claimed = torch.stack([run.stderr for run in runs]).mean((0, 1))
    assert_close(claimed, spread, rtol=0.1, atol=0)


def test_the_interaction_itself_adds_no_noise(rng):
    """A game of pair weights has no spread over contexts, so the estimate is exact though contexts are drawn."""
    dividends = torch.zeros(1 << 10, dtype=torch.float64)
    for i, j in combinations(range(10), 2):
        dividends[1 << i | 1 << j] = i + 2 * j
    found = pair_orders(TableGame(zeta(dividends)), [torch.arange(6)], range(9), contexts=12, rng=rng)
    expected = (found.pairs @ torch.tensor([1, 2])).double()[:, None].expand(-1, 9)
    assert_close(found.values, expected, atol=1e-9, rtol=0)


def test_cost_is_known_beforehand_and_near_the_promise(rng):
    v = random_table(11)
    for groups in ([torch.arange(9)], [torch.tensor([0, 5]), torch.tensor([2, 3, 4])]):
        game = Counted(TableGame(v))
        found = pair_orders(game, groups, range(10), contexts=13, rng=rng)
        planned = cost_pair_orders(11, [len(g) for g in groups], range(10), contexts=13)
        assert game.evaluations == found.evaluations == planned
    differences = 36 * 100
    for order, most in ((3, 1.4), (31, 1.75), (58, 1.4)):
        assert cost_pair_orders(64, [9], [order], contexts=100) / differences < most


@pytest.mark.parametrize("order", range(1, 7))
def test_independent_contexts_are_unbiased_over_all_their_draws(order):
    """Enumerate every context of a pair, n = 9: the mean of D is I^m to 1e-12, for all pairs of four players."""
    n, group = 9, [1, 2, 5, 8]
    v = random_table(n)
    expected = []
    for i, j in combinations(group, 2):
        others = [p for p in range(n) if p not in (i, j)]
        bases = torch.zeros(comb(n - 2, order), n, dtype=torch.bool)
        for row, context in enumerate(combinations(others, order)):
            bases[row, list(context)] = True
        plan = design(n, 2, order, 2)
        drawn = (
            bases
            if plan.insertion
            else bases | torch.zeros(n, dtype=torch.bool).index_fill(0, torch.tensor([i, j]), True)
        )
        rows = _rows(drawn, torch.tensor([[i, j]]).expand(len(drawn), 2))
        values = TableGame(v)(rows.flatten(0, 1)).view(len(drawn), 4)
        expected.append(_differences(values, 2).mean())
    assert_close(torch.stack(expected), exact_orders(v, group)[:, order], atol=1e-12, rtol=0)


def test_independent_pairs_cost_four_per_difference_and_once_at_the_ends(rng):
    v = random_table(9)
    pairs = torch.combinations(torch.arange(9))
    game = Counted(TableGame(v))
    found = pair_orders(game, pairs, (0, 3, 7), contexts=5, sharing="independent", rng=rng)
    planned = cost_pair_orders(9, [2] * 36, (0, 3, 7), contexts=5, sharing="independent")
    assert game.evaluations == found.evaluations == planned == 2 * (1 + 9 + 36) + 36 * 5 * 4
    exact = pair_interactions(v).values
    assert_close(found.values[:, [0, 2]], exact[:, [0, 7]], atol=1e-12, rtol=0)
    assert not bool(found.stderr[:, [0, 2]].any())
    assert bool(((found.values[:, 1] - exact[:, 3]).abs() <= 8 * found.stderr[:, 1]).all())
    few = cost_pair_orders(9, [2, 2], (0,), contexts=5, sharing="independent")
    assert few == 8  # two pairs alone are cheaper one by one
    of_groups = pair_orders(TableGame(v), [torch.arange(4)], (0, 3), contexts=5, sharing="independent", rng=rng)
    assert of_groups.pairs.tolist() == torch.combinations(torch.arange(4)).tolist()


@pytest.mark.parametrize("sharing", ["shared", "independent"])
def test_few_seeds_leave_four_standard_errors(rng, sharing):
    v = random_table(10, 5)
    exact, game, group = exact_orders(v, [0, 1])[:, 3], TableGame(v), [torch.arange(2)]
    outside = 0
    for seed in range(100):
        found = pair_orders(game, group, (3,), contexts=20, sharing=sharing, rng=rng.child(sharing, seed))
        outside += int(((found.values[:, 0] - exact).abs() > 4 * found.stderr[:, 0]).any())
    assert outside <= 1


def test_pure_noise_shows_the_floor():
    class Noise:
        n_players = 40

        def __call__(self, keep):
            return Stream(int(keep.sum())).child("noise").normal((len(keep), 1), dtype=torch.float64)[:, 0]

    pairs = torch.combinations(torch.arange(30))
    found = pair_orders(Noise(), pairs, (19,), contexts=100, rng=Stream(1))
    deviation = 2.0  # four independent unit normals
    assert float(found.abs_mean) == pytest.approx(sqrt(2 / pi) * deviation / 10, rel=0.1)
    assert float(found.floor.mean()) == pytest.approx(sqrt(2 / pi) * deviation / 10, rel=0.05)
    assert abs(float(found.square.mean())) < 0.01


@pytest.mark.parametrize("contexts", [2, 3, 5, 8])
@pytest.mark.parametrize("sharing", ["independent", "shared"])
def test_the_floor_of_few_contexts_is_that_of_pure_noise(rng, contexts, sharing):
    """The deviation of K draws is too small by c4, 0.80 for two: uncorrected the floor would be."""

    class Noise:
        n_players = 63

        def __call__(self, keep):
            return rng.child("noise", contexts).normal((len(keep), 1), dtype=torch.float64)[:, 0]

    groups = torch.combinations(torch.arange(63)) if sharing == "independent" else torch.arange(63).view(7, 9)
    sizes = {"independent": 0.06, "shared": 0.2}
    runs = [
        pair_orders(Noise(), groups, (20,), contexts=contexts, sharing=sharing, rng=rng.child(seed))
        for seed in range(1 if sharing == "independent" else 8)
    ]
    floor = float(torch.cat([found.floor for found in runs]).mean())
    shown = float(torch.cat([found.values for found in runs]).abs().mean())
    assert floor == pytest.approx(shown, rel=sizes[sharing])
    if sharing == "independent":  # four independent unit normals
        assert floor == pytest.approx(sqrt(2 / pi) * 2 / sqrt(contexts), rel=0.05)


def test_the_mean_size_of_normal_draws_is_exact_for_any_number(rng):
    for count in (2, 3, 5, 8):
        draws = rng.child("draws", count).normal((200_000, count), dtype=torch.float64)
        stderr = draws.std(1) / sqrt(count)
        guess = mean_size(stderr, torch.full_like(stderr, count - 1)).mean()
        assert float(guess) == pytest.approx(float(draws.mean(1).abs().mean()), rel=0.01)
        assert float(guess) == pytest.approx(sqrt(2 / pi / count), rel=0.01)


def test_a_sample_gets_its_own_contexts(rng):
    game = TableGame(random_table(8))

    def values(stream: Stream) -> torch.Tensor:
        return pair_orders(game, [torch.arange(5)], (2, 3), contexts=5, rng=stream).values

    assert torch.equal(values(rng.at([7])), values(rng.at([7])))
    assert not torch.equal(values(rng.at([7])), values(rng.at([8])))
    assert torch.equal(values(rng), values(rng.at([0])))


def test_vector_values(rng):
    v = torch.stack([random_table(8, s) for s in range(3)], dim=1)
    found = pair_orders(TableGame(v), [torch.arange(4)], (1, 3), contexts=6, rng=rng)
    for k in range(3):
        alone = pair_orders(TableGame(v[:, k]), [torch.arange(4)], (1, 3), contexts=6, rng=rng)
        assert_close(found.values[..., k], alone.values, atol=1e-12, rtol=0)
        assert_close(found.stderr[..., k], alone.stderr, atol=1e-12, rtol=0)


def test_refusals(rng):
    game = TableGame(random_table(5))
    with pytest.raises(ValueError, match="orders must lie between 0 and n-2 = 3, got 4"):
        pair_orders(game, [torch.arange(3)], (4,), rng=rng)
    with pytest.raises(ValueError, match="at least two different players"):
        pair_orders(game, [torch.tensor([1, 1])], (1,), rng=rng)
    with pytest.raises(ValueError, match="players must be numbers from 0 to 4"):
        pair_orders(game, [torch.tensor([1, 5])], (1,), rng=rng)
    with pytest.raises(ValueError, match="groups is empty"):
        pair_orders(game, [], (1,), rng=rng)
    with pytest.raises(ValueError, match="contexts must be at least 2"):
        pair_orders(game, [torch.arange(3)], (1,), contexts=1, rng=rng)
    with pytest.raises(ValueError, match="bound to 3"):
        pair_orders(game, [torch.arange(3)], (1,), rng=rng.at([1, 2, 3]))


# -- which pairs, and strengths -------------------------------------------------------------------------------------


def test_blocks_are_neighbors_and_never_repeat(rng):
    players = Players(torch.zeros(1, dtype=torch.int64), torch.zeros(1), 30, grid=(5, 6))
    blocks = neighbor_blocks(players, blocks=100, rng=rng)
    assert blocks.shape == (12, 9)  # every place there is
    assert len({tuple(block) for block in blocks.tolist()}) == 12
    for block in blocks:
        r, c = block // 6, block % 6
        assert int(r.max() - r.min()) == int(c.max() - c.min()) == 2


def test_blocks_of_small_grids_and_of_features(rng):
    flat = Players(torch.zeros(1, dtype=torch.int64), torch.zeros(1), 8, grid=(2, 4))
    assert neighbor_blocks(flat, blocks=9, rng=rng).shape == (2, 6)
    features = Players(torch.arange(5), torch.zeros(1), 5)
    assert neighbor_blocks(features, blocks=2, rng=rng).tolist() == [[0, 1, 2, 3, 4]]  # there is no other


def test_groups_of_features_never_repeat(rng):
    ten = Players(torch.arange(10), torch.zeros(1), 10)
    for seed in range(20):
        groups = neighbor_blocks(ten, blocks=20, rng=rng.child(seed)).tolist()
        assert len(groups) == len({tuple(group) for group in groups}) == 10  # all that leave one feature out
        assert len(neighbor_blocks(ten, blocks=3, rng=rng.child(seed))) == 3


def test_neighbor_pairs_are_near_and_all_there(rng):
    players = Players(torch.zeros(1, dtype=torch.int64), torch.zeros(1), 30, grid=(5, 6))
    expected = {
        (a, b) for a in range(30) for b in range(a + 1, 30) if abs(a // 6 - b // 6) <= 2 and abs(a % 6 - b % 6) <= 2
    }
    assert {tuple(p) for p in neighbor_pairs(players, 1000, rng=rng).tolist()} == expected
    few = neighbor_pairs(players, 7, rng=rng).tolist()
    assert len(few) == len({tuple(p) for p in few}) == 7
    features = Players(torch.arange(5), torch.zeros(1), 5)
    assert len(neighbor_pairs(features, 99, rng=rng)) == 10


def test_strength_keeps_its_budget(rng):
    v = random_table(12)
    for budget in (400, 1000, 20_000):
        game = Counted(TableGame(v), limit=budget)
        found = interaction_strength(game, (0, 2, 5, 8, 10), budget=budget, groups=[torch.arange(4)], rng=rng)
        assert found.evaluations == game.evaluations <= budget
        assert found.values.shape == found.floor.shape == (5,)
    exact = exact_orders(v, [0, 1, 2, 3]).abs().mean(0)[[0, 2, 5, 8, 10]]
    assert_close(found.values, exact, atol=1e-9, rtol=0)  # 20,000 evaluations list every context


def test_strength_says_the_least_budget(rng):
    with pytest.raises(BudgetError, match=r"at least .* evaluations, the budget is 10"):
        interaction_strength(TableGame(random_table(10)), (4,), budget=10, rng=rng)


def test_strength_of_majority_of_five(rng):
    keep = torch.tensor([[r >> p & 1 for p in range(5)] for r in range(32)])
    game = TableGame((keep.sum(1) >= 3).double())
    strength = strength_of(pair_orders(game, [torch.arange(5)], range(4), contexts=3, rng=rng)).values
    assert_close(strength, torch.tensor([0.0, 1, 1, 0], dtype=torch.float64))
    assert_close(strength / strength.mean(), torch.tensor([0.0, 2, 2, 0], dtype=torch.float64))


def test_the_error_of_a_strength_counts_groups_where_pairs_of_a_group_are_alike(rng):
    pairs = torch.cat([torch.combinations(4 * k + torch.arange(4)) for k in range(10)])
    level = rng.child("groups").normal((10, 2), dtype=torch.float64).repeat_interleave(6, 0)
    values = 5 + level + 0.1 * rng.child("pairs").normal((60, 2), dtype=torch.float64)
    found = PairOrders(values, 0 * values, 0 * values, pairs, (0, 1), 0)
    grouped = strength_of(found, group_sizes=[4] * 10).stderr
    assert_close(grouped, values.view(10, 6, 2).mean(1).std(0) / sqrt(10))
    assert bool((grouped > 2 * strength_of(found).stderr).all())
    single = strength_of(found, group_sizes=[2] * 60).stderr  # pairs by themselves are independent
    assert_close(single, strength_of(found).stderr)
