"""Disentanglement: known answers, its range, what chance alone gives, and bad input."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from pellucid.core import Stream
from pellucid.games import (
    Counted,
    TableGame,
    coalitions,
    cost_disentanglement,
    disentanglement,
    pair_interactions,
    sizes,
)

KNOWN = torch.tensor([0, 1, 2, 5, 1, 1, 4, 9, -1, 0, 3, 2, 2, 6, 1, 7], dtype=torch.float64)


def all_pairs(n):
    return torch.combinations(torch.arange(n))


def noise(n, seed, *trailing):
    return Stream(seed).child("noise").normal((1 << n, *trailing), dtype=torch.float64)


def test_the_known_table_gives_the_known_numbers():
    found = disentanglement(TableGame(KNOWN), all_pairs(4), [0, 1, 2], rng=Stream(0))
    assert_close(found.estimate.values, torch.tensor([1, 0.456614, 1], dtype=torch.float64), atol=1e-6, rtol=0)
    assert found.left_out.tolist() == [1, 0, 0]
    other = disentanglement(TableGame(KNOWN), all_pairs(4), [1], aggregate="ratio_of_means", rng=Stream(0))
    assert_close(other.estimate.values, torch.tensor([0.377778], dtype=torch.float64), atol=1e-6, rtol=0)


@given(seed=st.integers(0, 2**31), n=st.integers(2, 6))
def test_it_lies_between_0_and_1_and_agrees_with_the_exact_interactions(seed, n):
    game, pairs, orders = TableGame(noise(n, seed, 2)), all_pairs(n), range(n - 1)
    for aggregate in ("mean_of_ratios", "ratio_of_means"):
        found = disentanglement(game, pairs, orders, contexts=64, aggregate=aggregate, rng=Stream(0))
        assert bool(((found.estimate.values >= 0) & (found.estimate.values <= 1)).all())
        assert_close(found.mean, pair_interactions(game).values, atol=1e-10, rtol=1e-10)
        assert_close(found.estimate.values[[0, n - 2]], torch.ones(2, 2, dtype=torch.float64))


@pytest.mark.parametrize("power", [2, 3])
def test_a_convex_game_agrees_in_every_context(power):
    game = TableGame(sizes(9).double() ** power)
    found = disentanglement(game, all_pairs(9), [1, 3, 6], contexts=12, rng=Stream(1))
    assert_close(found.estimate.values, torch.ones(3, dtype=torch.float64))
    assert_close(found.estimate.stderr, torch.zeros(3, dtype=torch.float64))


def test_chance_alone_gives_one_over_the_root_of_the_contexts():
    found = disentanglement(TableGame(noise(12, 0, 8)), all_pairs(12), [4, 5, 6], contexts=100, rng=Stream(2))
    tenth = torch.full((3,), 0.1, dtype=torch.float64)
    assert_close(found.estimate.values.mean(1), tenth, atol=0.02, rtol=0)
    assert_close(found.estimate.floor[:, 0], tenth)


def test_sampled_contexts_are_uniform():
    game, pairs = TableGame(noise(8, 3)), torch.tensor([[1, 4], [7, 2]])
    exact = disentanglement(game, pairs, [3], contexts=20, rng=Stream(0))
    drawn = [disentanglement(game, pairs, [3], contexts=19, rng=Stream(seed)) for seed in range(100)]
    assert_close(torch.stack([found.mean for found in drawn]).mean(0), exact.mean, atol=0.15, rtol=0)


def test_presence_shows_who_must_be_there_for_an_interaction():
    # Players 0 and 1 interact only where player 4 is there.
    keep = coalitions(6)
    game = TableGame((keep[:, 0] & keep[:, 1] & keep[:, 4]).double())
    found = disentanglement(game, torch.tensor([[0, 1]]), [2], rng=Stream(0))
    # Half of the contexts of two of four players hold 4; with it, each other one of three is there once in three times.
    expected = torch.tensor([0, 0, 1 / 6 - 1 / 4, 1 / 6 - 1 / 4, 1 / 2 - 1 / 4, 1 / 6 - 1 / 4], dtype=torch.float64)
    assert_close(found.presence[0, 0], expected)
    assert_close(found.presence.sum(2), torch.zeros(1, 1, dtype=torch.float64))


def test_a_game_without_interactions_leaves_every_pair_out():
    game = TableGame(sizes(5).double() * 0.1)
    found = disentanglement(game, all_pairs(5), [0, 1, 2], rng=Stream(0))
    assert found.left_out.tolist() == [10, 10, 10]
    assert bool(found.estimate.values.isnan().all())


def test_the_price_is_known_beforehand_and_progress_ends_at_it():
    counted, steps = Counted(TableGame(noise(7, 0))), []
    pairs, orders = all_pairs(7)[:5], [0, 2, 5]
    found = disentanglement(
        counted, pairs, orders, contexts=8, rng=Stream(0), on_step=lambda done, total: steps.append((done, total))
    )
    price = cost_disentanglement(7, len(pairs), orders, contexts=8)
    assert counted.evaluations == found.estimate.evaluations == price == 4 * 5 * (1 + 8 + 1)
    assert steps[-1] == (price, price)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pairs": torch.tensor([[1, 1]])}, "two different players from 0 to 3"),
        ({"pairs": torch.tensor([[0, 4]])}, "two different players from 0 to 3"),
        ({"pairs": torch.zeros(0, 2, dtype=torch.int64)}, r"got torch.int64 \(0, 2\)"),
        ({"orders": [3]}, "between 0 and n-2 = 2, got 3"),
        ({"contexts": 0}, "contexts must be at least 1, got 0"),
        ({"aggregate": "median"}, "median"),
    ],
)
def test_bad_input_is_told(changes, message):
    given = {"pairs": all_pairs(4), "orders": [1], "contexts": 4, "aggregate": "mean_of_ratios"} | changes
    pairs, orders = given.pop("pairs"), given.pop("orders")
    with pytest.raises((ValueError, TypeError), match=message):
        disentanglement(TableGame(KNOWN), pairs, orders, rng=Stream(0), **given)
