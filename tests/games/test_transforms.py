"""Transforms: round trips, brute force, adjoints, known games."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from pellucid.core import Stream
from pellucid.games import (
    by_size,
    coalitions,
    inverse_or,
    mobius,
    or_transform,
    sizes,
    superset_mobius,
    superset_zeta,
    zeta,
)

NEAR = {"atol": 1e-10, "rtol": 0.0}
tables = st.tuples(st.integers(0, 8), st.integers(0, 10_000))


def random_table(n: int, seed: int = 0, width: int = 1) -> torch.Tensor:
    drawn = Stream(seed).child("table", n).normal((1 << n, width), dtype=torch.float64)
    return drawn if width > 1 else drawn[:, 0]


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@given(tables)
@settings(deadline=None, max_examples=40)
def test_round_trips(case):
    v = random_table(*case)
    assert_close(zeta(mobius(v)), v, **NEAR)
    assert_close(mobius(zeta(v)), v, **NEAR)
    assert_close(superset_mobius(superset_zeta(v)), v, **NEAR)
    assert_close(inverse_or(or_transform(v)), v, **NEAR)


@given(tables, st.integers(0, 10_000))
@settings(deadline=None, max_examples=25)
def test_superset_transforms_are_the_adjoints(case, seed):
    a, b = random_table(*case), random_table(case[0], seed + 20_000)
    assert float(superset_zeta(a) @ b) == pytest.approx(float(a @ zeta(b)), abs=1e-9)
    assert float(superset_mobius(a) @ b) == pytest.approx(float(a @ mobius(b)), abs=1e-9)


def test_brute_force():
    n, v = 6, random_table(6)
    dividends, ors = mobius(v), or_transform(v)
    full = (1 << n) - 1
    for S in range(1 << n):
        subsets = [T for T in range(1 << n) if T & S == T]
        sign = {T: (-1) ** ((S).bit_count() - (T).bit_count()) for T in subsets}
        assert float(dividends[S]) == pytest.approx(sum(sign[T] * float(v[T]) for T in subsets), abs=1e-10)
        if S:
            expected = -sum(sign[T] * float(v[full ^ T]) for T in subsets)
            assert float(ors[S]) == pytest.approx(expected, abs=1e-10)
    assert float(ors[0]) == float(v[0])


def test_known_games():
    assert_close(mobius(tensor(0, 0, 0, 1)), tensor(0, 0, 0, 1))
    assert_close(or_transform(tensor(0, 0, 0, 1)), tensor(0, 1, 1, -1))
    assert_close(mobius(tensor(0, 1, 1, 1)), tensor(0, 1, 1, -1))
    assert_close(or_transform(tensor(0, 1, 1, 1)), tensor(0, 0, 0, 1))
    xor = (sizes(3) % 2).double()
    expected = tensor(0, 1, -2, 4)[sizes(3)]
    assert_close(mobius(xor), expected)
    assert_close(or_transform(xor), expected)
    majority = (sizes(3) >= 2).double()
    assert_close(mobius(majority), tensor(0, 0, 1, -2)[sizes(3)])


def test_several_columns_are_transformed_alike():
    v = random_table(5, width=6)
    for transform in (zeta, mobius, superset_zeta, superset_mobius, or_transform, inverse_or, by_size):
        looped = torch.stack([transform(v[:, k]) for k in range(6)], dim=1)
        assert_close(transform(v), looped, **NEAR)
        assert transform(v.view(32, 2, 3)).shape[1:] == (2, 3)


def test_the_argument_is_left_alone_and_float32_is_raised_to_float64():
    v = random_table(4).float()
    before = v.clone()
    assert mobius(v).dtype == torch.float64
    assert torch.equal(v, before)


def test_by_size_is_the_mean_over_each_size():
    v = random_table(6)
    assert_close(by_size(v), torch.stack([v[sizes(6) == k].mean() for k in range(7)]))


def test_coalitions_are_the_bits_of_the_rows():
    keep = coalitions(4)
    assert torch.equal(keep.sum(1), sizes(4))
    assert keep[5].tolist() == [True, False, True, False]
    assert coalitions(0).shape == (1, 0)


@pytest.mark.parametrize("rows", [0, 3, 12])
def test_a_table_needs_a_power_of_two_rows(rows):
    with pytest.raises(ValueError, match=r"2\*\*n rows.*got"):
        mobius(torch.zeros(rows))
