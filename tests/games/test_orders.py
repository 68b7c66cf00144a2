"""Exact pair interactions of every order: closed forms, identities, brute force."""

from __future__ import annotations

from itertools import combinations
from math import comb

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from pellucid.core import Stream
from pellucid.games import by_size, harsanyi, learning_strength, pair_interactions, shapley, zeta


def random_table(n: int, seed: int = 0) -> torch.Tensor:
    return Stream(seed).child("table", n).normal((1 << n, 1), dtype=torch.float64)[:, 0]


def unanimity(n: int, players: set[int]) -> torch.Tensor:
    dividends = torch.zeros(1 << n, dtype=torch.float64)
    dividends[sum(1 << p for p in players)] = 1
    return zeta(dividends)


def difference(v: torch.Tensor, i: int, j: int, row: int) -> float:
    return float(v[row | 1 << i | 1 << j] - v[row | 1 << i] - v[row | 1 << j] + v[row])


@pytest.mark.parametrize("n", range(2, 8))
def test_equals_the_mean_over_all_contexts(n):
    v = random_table(n)
    found = pair_interactions(v)
    assert found.values.shape == (comb(n, 2), n - 1)
    for p, (i, j) in enumerate(found.pairs.tolist()):
        others = [k for k in range(n) if k not in (i, j)]
        for m in range(n - 1):
            rows = [sum(1 << k for k in S) for S in combinations(others, m)]
            mean = sum(difference(v, i, j, row) for row in rows) / len(rows)
            assert float(found.values[p, m]) == pytest.approx(mean, abs=1e-11)


def test_xor_of_three_and_majority():
    keep = torch.tensor([[r >> p & 1 for p in range(3)] for r in range(8)])
    xor = pair_interactions((keep.sum(1) % 2).double())
    assert_close(xor.values, torch.tensor([[-2.0, 2.0]], dtype=torch.float64).expand(3, 2))
    majority = pair_interactions((keep.sum(1) >= 2).double())
    assert_close(majority.values, torch.tensor([[1.0, -1.0]], dtype=torch.float64).expand(3, 2))


def test_unanimity_game_has_the_closed_form():
    found = pair_interactions(unanimity(6, {0, 1, 2, 3}))
    inside = torch.tensor([0, 0, 1 / 6, 1 / 2, 1], dtype=torch.float64)
    for p, (i, j) in enumerate(found.pairs.tolist()):
        expected = inside if {i, j} <= {0, 1, 2, 3} else torch.zeros(5, dtype=torch.float64)
        assert_close(found.values[p], expected, atol=1e-12, rtol=0)


def test_pairwise_game_is_flat_and_additive_game_is_zero():
    n = 5
    weights = random_table(n)
    dividends = torch.where(torch.tensor([(r).bit_count() == 2 for r in range(1 << n)]), weights, 0.0)
    found = pair_interactions(zeta(dividends))
    for p, (i, j) in enumerate(found.pairs.tolist()):
        assert_close(found.values[p], dividends[1 << i | 1 << j].expand(n - 1), atol=1e-12, rtol=0)
    single = torch.where(torch.tensor([(r).bit_count() == 1 for r in range(1 << n)]), weights, 0.0)
    assert float(pair_interactions(zeta(single)).values.abs().max()) < 1e-12


def test_cube_of_a_sum():
    a = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    keep = torch.tensor([[r >> p & 1 for p in range(4)] for r in range(16)], dtype=torch.float64)
    found = pair_interactions((keep @ a) ** 3)
    assert_close(found.values[0], torch.tensor([18.0, 60.0, 102.0], dtype=torch.float64))
    strength = found.values.abs().mean(0)
    assert_close(strength / strength.mean(), torch.tensor([4 / 7, 1, 10 / 7], dtype=torch.float64))


@given(st.integers(2, 8), st.integers(0, 1000))
@settings(deadline=None, max_examples=25)
def test_orders_recombine(n, seed):
    v = random_table(n, seed)
    found = pair_interactions(v)
    dividends = harsanyi(v).values
    # Shapley interaction index: sum over T with i and j of a(T) / (t - 1), the mean of the orders.
    for p, (i, j) in enumerate(found.pairs.tolist()):
        pair = 1 << i | 1 << j
        rows = [r for r in range(1 << n) if r & pair == pair]
        index = sum(float(dividends[r]) / ((r).bit_count() - 1) for r in rows)
        assert float(found.values[p].mean()) == pytest.approx(index, abs=1e-9)
        # From dividends: A_t = sum over |T| = t of a(T + i + j); I^m = sum over t of C(m,t) / C(n-2,t) A_t.
        A = [sum(float(dividends[r]) for r in rows if (r).bit_count() == t + 2) for t in range(n - 1)]
        for m in range(n - 1):
            expected = sum(comb(m, t) / comb(n - 2, t) * A[t] for t in range(m + 1))
            assert float(found.values[p, m]) == pytest.approx(expected, abs=1e-9)
    # The size curve does the work of all pairs.
    assert_close(found.values.mean(0), by_size(v).diff(n=2), atol=1e-9, rtol=0)
    # Efficiency over ordered pairs.
    first = sum(float(v[1 << i] - v[0]) for i in range(n))
    weights = torch.arange(n - 1, 0, -1, dtype=torch.float64) / (n * (n - 1))
    whole = float(v[0]) + first + 2 * float((found.values * weights).sum())
    assert whole == pytest.approx(float(v[-1]), abs=1e-9)


def test_vector_values_are_columns():
    v = torch.stack([random_table(5, seed) for seed in range(6)], dim=1).view(32, 2, 3)
    found = pair_interactions(v)
    assert found.values.shape == (10, 4, 2, 3)
    assert_close(found.values[:, :, 1, 2], pair_interactions(v[:, 1, 2]).values, atol=1e-12, rtol=0)
    assert_close(shapley(v).values[:, 1, 2], shapley(v[:, 1, 2]).values, atol=1e-12, rtol=0)


def test_one_player_has_no_pairs():
    with pytest.raises(ValueError, match="a game of 1 players has no pairs"):
        pair_interactions(torch.zeros(2))


def test_theory_curve_has_the_known_values():
    found = learning_strength(12, torch.tensor([0, 1, 2, 5, 10]))
    expected = torch.tensor([1, 0.2875, 0.1220, 0.0344, 0.0909], dtype=torch.float64)
    assert_close(found, expected, atol=5e-5, rtol=0)
    many = learning_strength(1000, torch.arange(999))
    assert bool(many.isfinite().all())
    assert float(learning_strength(256, torch.tensor([127]))[0]) == pytest.approx(1.3e-38, rel=0.05)


def test_theory_curve_refuses_orders_outside():
    with pytest.raises(ValueError, match="orders must lie between 0 and n-2 = 10"):
        learning_strength(12, torch.tensor([11]))
