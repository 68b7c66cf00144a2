"""Harsanyi dividends: the seven axioms, reconstruction, and the Interactions they come in."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from pellucid.core import Stream
from pellucid.games import Interactions, TableGame, coalitions, harsanyi, shapley, sizes, zeta

games = st.tuples(st.integers(1, 8), st.integers(0, 10_000))
NEAR = {"atol": 1e-9, "rtol": 0.0}


def random_table(n: int, seed: int = 0) -> torch.Tensor:
    return Stream(seed).child("table", n).normal((1 << n, 1), dtype=torch.float64)[:, 0]


def relabelled(v: torch.Tensor, order: list[int]) -> torch.Tensor:
    """The table in which old player p is called order[p]."""
    rows = torch.tensor([sum(1 << order[p] for p in range(len(order)) if r >> p & 1) for r in range(len(v))])
    return torch.empty_like(v).scatter_(0, rows, v)


@given(games)
@settings(deadline=None, max_examples=30)
def test_efficiency_and_reconstruction(case):
    v = random_table(*case)
    found = harsanyi(v)
    assert_close(found.total(), v[-1], **NEAR)
    assert_close(found.predict(coalitions(case[0])), v, **NEAR)


@given(games, st.floats(-3, 3), st.integers(0, 1000))
@settings(deadline=None, max_examples=20)
def test_linearity(case, factor, seed):
    u, v = random_table(*case), random_table(case[0], seed + 50_000)
    combined = harsanyi(u + factor * v).values
    assert_close(combined, harsanyi(u).values + factor * harsanyi(v).values, **NEAR)


@given(games)
@settings(deadline=None, max_examples=20)
def test_dummy_player_shares_no_pattern(case):
    n, seed = case
    rest = random_table(n, seed)
    v = torch.cat([rest, rest + 0.75])  # player n adds 0.75 to everything
    dividends = harsanyi(v).values[1 << n :]
    assert float(dividends[0]) == pytest.approx(0.75)
    assert float(dividends[1:].abs().sum()) < 1e-8


@given(games)
@settings(deadline=None, max_examples=20)
def test_symmetry_and_anonymity(case):
    n, seed = case
    v = random_table(n, seed)
    order = [*list(range(1, n)), 0]
    assert_close(harsanyi(relabelled(v, order)).values, relabelled(harsanyi(v).values, order), **NEAR)
    if n >= 2:
        swap = [1, 0, *range(2, n)]
        symmetric = v + relabelled(v, swap)
        dividends = harsanyi(symmetric).values
        assert_close(dividends, relabelled(dividends, swap), **NEAR)


@given(games)
@settings(deadline=None, max_examples=20)
def test_recursion(case):
    n, seed = case
    v = random_table(n, seed)
    half = 1 << (n - 1)  # the last player absent, then present
    dividends = harsanyi(v).values
    assert_close(dividends[half:], harsanyi(v[half:]).values - harsanyi(v[:half]).values, **NEAR)


@given(games, st.integers(0, 1 << 20))
@settings(deadline=None, max_examples=20)
def test_interaction_distribution(case, pick):
    n = case[0]
    row = pick % (1 << n)
    v = torch.tensor([2.5 if r & row == row else 0.0 for r in range(1 << n)], dtype=torch.float64)
    expected = torch.zeros(1 << n, dtype=torch.float64)
    expected[row] = 2.5
    assert_close(harsanyi(v).values, expected, **NEAR)


def test_top_order_and_item():
    dividends = torch.zeros(16, dtype=torch.float64)
    dividends[[0, 0b0011, 0b1000, 0b0111]] = torch.tensor([9.0, -3.0, 1.0, 3.0], dtype=torch.float64)
    found = harsanyi(TableGame(zeta(dividends)))
    assert found.evaluations == 0  # a table costs nothing
    assert [players for players, _ in found.top(3)] == [(0, 1), (0, 1, 2), (3,)]
    assert found.top(3)[0][1] == pytest.approx(-3.0)
    assert float(found[0, 1, 2]) == pytest.approx(3.0)
    assert float(found[()]) == pytest.approx(9.0)
    players, values = found.order(2)
    assert players.shape == (6, 2)
    assert float(values[players.tolist().index([0, 1])]) == pytest.approx(-3.0)
    assert found.order(0)[0].shape == (1, 0)


def test_json_round_trip():
    found = Interactions(random_table(3), 8, ("a", "b", "c"))
    again = Interactions.from_dict(json.loads(json.dumps(found.to_dict())))
    assert torch.equal(again.values, found.values)
    assert (again.evaluations, again.names) == (8, ("a", "b", "c"))
    with pytest.raises(ValueError, match="8 values do not fit 4 players"):
        Interactions.from_dict({**found.to_dict(), "n_players": 4})


def test_bad_requests():
    found = harsanyi(random_table(3))
    with pytest.raises(KeyError, match="different numbers from 0 to 2"):
        found[1, 1]
    with pytest.raises(ValueError, match="size must be from 0 to 3"):
        found.order(4)
    with pytest.raises(ValueError, match="keep has 2 columns but the game has 3 players"):
        found.predict(torch.ones(1, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="top needs one number per coalition"):
        harsanyi(torch.zeros(8, 2)).top(1)


# -- Shapley values -------------------------------------------------------------------------------------------------


def test_right_glove_is_worth_four_times_a_left_one():
    gloves = TableGame(torch.tensor([0.0, 0, 0, 0, 0, 1, 1, 1]))  # players 0, 1: left; player 2: right
    assert_close(shapley(gloves).values, torch.tensor([1.0, 1, 4], dtype=torch.float64) / 6)


@given(games)
@settings(deadline=None, max_examples=30)
def test_shapley_shares_dividends_equally(case):
    v = random_table(*case)
    n = case[0]
    dividends = harsanyi(v).values
    share = dividends / sizes(n).clamp_min(1)
    expected = torch.stack([share[coalitions(n)[:, p]].sum() for p in range(n)])
    found = shapley(v)
    assert_close(found.values, expected, **NEAR)
    assert_close(found.values.sum(), v[-1] - v[0], **NEAR)
    assert not bool(found.stderr.any())


def test_sampled_shapley_is_efficient_and_near(rng):
    v = random_table(6)
    game, exact = TableGame(v), shapley(v).values
    found = shapley(game, permutations=200, rng=rng)
    assert found.evaluations == 200 * 5 + 2
    assert_close(found.values.sum(), v[-1] - v[0], **NEAR)
    assert bool(((found.values - exact).abs() < 4 * found.stderr).all())


def test_antithetic_pairs_average_to_the_exact_values():
    from itertools import permutations

    v = random_table(4)
    total = torch.zeros(4, dtype=torch.float64)
    for order in permutations(range(4)):
        row = 0
        for p in order:
            total[p] += v[row | 1 << p] - v[row]
            row |= 1 << p
    assert_close(total / 24, shapley(v).values, **NEAR)


def test_shapley_of_one_player_and_of_none(rng):
    assert shapley(torch.tensor([1.0, 3.0])).values.tolist() == [2.0]
    found = shapley(TableGame(torch.tensor([1.0, 3.0])), permutations=4, rng=rng)
    vector = TableGame(torch.tensor([[1.0, 2.0], [3.0, 7.0]]))
    assert shapley(vector, permutations=4, rng=rng).values.tolist() == [[2.0, 5.0]]
    assert found.values.tolist() == [2.0]
    with pytest.raises(ValueError, match="a game of 0 players"):
        shapley(torch.tensor([1.0]))


def test_shapley_refuses_half_given_settings(rng):
    game = TableGame(random_table(3))
    with pytest.raises(ValueError, match="an even number of at least 4 permutations, got 3"):
        shapley(game, permutations=3, rng=rng)
    with pytest.raises(ValueError, match="a table gives exact values"):
        shapley(random_table(3), permutations=4, rng=rng)
    with pytest.raises(ValueError, match="bound to 2"):
        shapley(game, permutations=4, rng=rng.at([3, 4]))
