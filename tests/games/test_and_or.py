"""The AND-OR split: known optima, the dual bound, and the first-order method against the linear program."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from pellucid.core import Stream
from pellucid.games import Counted, TableGame, and_or, coalitions, inverse_or, mobius, or_transform, zeta


def game(n: int, ands=(), ors=()) -> torch.Tensor:
    a = torch.zeros(1 << n, dtype=torch.float64)
    o = torch.zeros_like(a)
    for part, terms in ((a, ands), (o, ors)):
        for players, value in terms:
            part[sum(1 << p for p in players)] += value
    return zeta(a) + inverse_or(o)


def random_table(n: int, seed: int = 0) -> torch.Tensor:
    return Stream(seed).child("and-or", n).normal((1 << n, 1), dtype=torch.float64)[:, 0]


MIXED = game(5, [((0, 1), 2.0), ((0, 1, 2), 0.5)], [((2, 3, 4), -1.5)])


@pytest.mark.parametrize("exact", [True, False])
def test_an_and_and_an_or_are_found(exact):
    found = and_or(game(4, [((0, 1), 1.0)], [((2, 3), 1.0)]), max_linear=10 if exact else 0)
    assert found.l1 == pytest.approx(2, abs=1e-5)
    assert (found.l1_and_only, found.l1_or_only) == pytest.approx((4, 4))
    assert [(kind, players) for kind, players, _ in sorted(found.top(2))] == [("and", (0, 1)), ("or", (2, 3))]


@pytest.mark.parametrize("exact", [True, False])
def test_three_terms_of_five_players_are_found(exact):
    found = and_or(MIXED, max_linear=10 if exact else 0)
    assert found.l1 == pytest.approx(4, abs=1e-4)
    assert (found.l1_and_only, found.l1_or_only) == pytest.approx((13, 11))
    terms = {(kind, players): value for kind, players, value in found.top(3)}
    expected = {("and", (0, 1)): 2.0, ("or", (2, 3, 4)): -1.5, ("and", (0, 1, 2)): 0.5}
    assert terms == pytest.approx(expected, abs=1e-4)
    assert found.steps == 0 if exact else found.steps > 0
    assert found.gap < 1e-4


@pytest.mark.parametrize("n", [0, 1, 2, 3, 5, 7])
def test_the_terms_make_the_game_again(n):
    v = random_table(n)
    found = and_or(v)
    assert_close(found.predict(coalitions(n)), v, atol=1e-9, rtol=0)
    assert_close(mobius(v / 2 + found.split), found.and_, atol=1e-9, rtol=0)
    halves = or_transform(v / 2 - found.split)
    assert_close(halves, found.or_, atol=1e-9, rtol=0)
    assert found.l1 <= min(found.l1_and_only, found.l1_or_only) + 1e-9
    assert found.gap < 1e-8
    small = torch.tensor([row.bit_count() < 2 for row in range(1 << n)])
    assert not bool(found.or_[small].any())


def test_no_other_split_of_the_formula_is_cheaper():
    """The objective of the papers, over p, at random steps away from the optimum: convex, so this is the minimum."""
    v = random_table(5)
    found = and_or(v)

    def objective(p: torch.Tensor) -> float:
        return float(mobius(v / 2 + p).abs().sum() + or_transform(v / 2 - p).abs().sum())

    assert objective(found.split) == pytest.approx(found.l1)
    for seed in range(50):
        step = random_table(5, seed + 1)
        for length in (1e-3, 0.1):
            assert objective(found.split + length * step) >= found.l1 - 1e-9


@pytest.mark.parametrize("tolerance", [0.0, 0.03])
def test_the_first_order_method_ends_between_its_bound_and_the_optimum(tolerance):
    v = random_table(6)
    best = and_or(v, tolerance=tolerance)
    found = and_or(v, tolerance=tolerance, max_linear=0)
    assert found.l1 - found.gap - 1e-9 <= best.l1 <= found.l1 + 1e-9
    assert found.l1 <= 1.01 * best.l1
    assert_close(found.predict(coalitions(6)), v + found.change, atol=1e-9, rtol=0)


def test_a_tolerance_changes_no_value_by_more():
    v = random_table(5)
    exact, loose = and_or(v), and_or(v, tolerance=0.05)
    most = 0.05 * float((v[-1] - v[0]).abs())
    assert loose.l1 < exact.l1
    assert float(loose.change.abs().max()) <= most + 1e-12
    assert not bool(exact.change.any())


def test_a_game_of_nothing_has_no_terms():
    found = and_or(torch.zeros(16))
    assert found.l1 == 0
    assert found.top(5) == []
    assert and_or(torch.zeros(16), max_linear=0).l1 == 0


@pytest.mark.parametrize("scale", [1e-7, 1e6])
def test_the_optimum_does_not_depend_on_the_unit_of_the_values(scale):
    v = random_table(6)
    one, other = and_or(v, tolerance=0.03), and_or(scale * v, tolerance=0.03)
    assert other.l1 / scale == pytest.approx(one.l1, rel=1e-8)
    assert other.gap <= 1e-8 * other.l1


def test_evaluations_are_counted():
    counted = Counted(TableGame(MIXED))
    assert and_or(counted).evaluations == counted.evaluations == 32


def test_refusals():
    with pytest.raises(ValueError, match="needs one value per coalition"):
        and_or(torch.zeros(8, 2))
    with pytest.raises(ValueError, match=r"tolerance must not be negative, got -0\.1"):
        and_or(torch.zeros(8), tolerance=-0.1)
