"""Interaction indices: definitions by brute force, axioms as properties, known games, the peer's numbers, noise."""

from __future__ import annotations

import json
import math
import warnings
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from pellucid.core import Stream
from pellucid.games import (
    INDICES,
    Counted,
    Features,
    Interactions,
    ModelGame,
    TableGame,
    coalitions,
    harsanyi,
    index,
    log_odds,
    pair_interactions,
    restrict,
    shapley,
    sizes,
    table,
    zeta,
)
from pellucid.games._interactions import rows_up_to

EFFICIENT = ("SV", "STII", "FSII", "k-SII", "Moebius")


def drawn(n: int, seed: int = 0, *b: int) -> torch.Tensor:
    return Stream(seed).child("table", n).normal((1, 1 << n, *b), dtype=torch.float64)[0]


def order_of(name: str, n: int, order: int) -> int:
    if name == "Moebius":
        return n  # efficient only with all orders
    return 1 if INDICES[name].value else min(order, n)


cases = st.tuples(st.sampled_from(sorted(INDICES)), st.integers(1, 6), st.integers(1, 4), st.integers(0, 10_000))


# -- definitions ----------------------------------------------------------------------------------------------------


def delta(v: torch.Tensor, players: tuple[int, ...], context: int) -> float:
    """The discrete derivative of v along the players in a context (a row number)."""
    total = 0.0
    for size in range(len(players) + 1):
        for part in combinations(players, size):
            total += (-1) ** (len(players) - size) * float(v[context | sum(1 << p for p in part)])
    return total


def contexts(n: int, players: tuple[int, ...]) -> list[int]:
    taken = sum(1 << p for p in players)
    return [row for row in range(1 << n) if not row & taken]


@pytest.mark.parametrize("name", ["SII", "BII", "CHII", "Co-Moebius", "STII"])
def test_equals_the_mean_of_derivatives_over_contexts(name):
    n, k = 5, 3
    v = drawn(n)
    found = index(v, name, order=k)
    for players in found.players[1:]:
        s = len(players)
        if name == "STII" and s < k:
            expected = delta(v, players, 0)
        else:
            expected = 0.0
            for row in contexts(n, players):
                t = row.bit_count()
                weight = {
                    "SII": 1 / ((n - s + 1) * math.comb(n - s, t)),
                    "BII": 1 / 2 ** (n - s),
                    "CHII": s / (s + t) / math.comb(n, s + t),
                    "Co-Moebius": float(t == n - s),
                    "STII": k / n / math.comb(n - 1, t),
                }[name]
                expected += weight * delta(v, players, row)
        assert float(found[players]) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "order"), [("FSII", 1), ("FSII", 2), ("FSII", 3), ("FBII", 1), ("FBII", 2), ("FBII", 3)]
)
def test_faithful_indices_are_the_best_fit(name, order):
    """Weighted least squares: Shapley weights with both ends exact for FSII, all coalitions alike for FBII."""
    n = 5
    v = drawn(n)
    found = index(v, name, order=order)
    keep, size = coalitions(n), sizes(n)
    inside = torch.stack([keep[:, list(players)].all(1) for players in found.players], 1).double()
    residual = v - found.predict(keep)
    if name == "FBII":
        weight = torch.ones(1 << n, dtype=torch.float64)
        assert_close((inside * (weight * residual)[:, None]).sum(0), torch.zeros(len(found.players)).double())
        return
    share = [0.0 if s in (0, n) else 1 / (math.comb(n, s) * s * (n - s)) for s in size.tolist()]
    weight = torch.tensor(share, dtype=torch.float64)
    assert residual[[0, -1]].abs().max() < 1e-12
    # At the least of a constrained fit the gradient is a multiple of the constraint's, which is 1 for every coalition.
    gradient = (inside * (weight * residual)[:, None]).sum(0)[1:]
    assert_close(gradient, gradient[:1].expand_as(gradient), atol=1e-12, rtol=0)


def test_shapley_interaction_is_the_mean_over_orders():
    v = drawn(6)
    pairs = pair_interactions(v)
    found = index(v, "SII", order=2)
    for row, (i, j) in enumerate(pairs.pairs.tolist()):
        assert float(found[i, j]) == pytest.approx(float(pairs.values[row].mean()), abs=1e-12)


def test_values_are_the_shapley_and_banzhaf_values():
    v = drawn(5, 1, 2)
    assert_close(index(v, "SV").order(1)[1], shapley(v).values)
    for name in ("SII", "CHII", "STII", "FSII", "k-SII"):
        assert_close(index(v, name, order=1).order(1)[1], shapley(v).values)
    assert_close(index(v, "BV").values[1:], index(v, "FBII", order=1).values[1:])


def test_every_index_of_the_whole_order_that_adds_up_is_the_dividends():
    v = drawn(4)
    for name in ("STII", "FSII", "FBII", "Moebius"):
        assert_close(index(v, name, order=4).to_dict()["values"], index(v, "Moebius", order=4).to_dict()["values"])
    by_size = index(v, "Moebius", order=4)
    dividends = harsanyi(v)
    assert all(float(by_size[players]) == float(dividends[players]) for players in by_size.players)


# -- axioms ---------------------------------------------------------------------------------------------------------


@given(st.sampled_from(EFFICIENT), st.integers(1, 7), st.integers(1, 4), st.integers(0, 10_000))
def test_efficiency(name, n, order, seed):
    v = drawn(n, seed)
    assert_close(index(v, name, order=order_of(name, n, order)).total(), v[-1])


@given(cases, st.floats(-3, 3))
def test_linearity(case, factor):
    name, n, order, seed = case
    v, w, k = drawn(n, seed), drawn(n, seed + 1), order_of(name, n, order)
    together = index(v + factor * w, name, order=k).values
    assert_close(together, index(v, name, order=k).values + factor * index(w, name, order=k).values)


@given(cases)
def test_a_dummy_interacts_with_nobody(case):
    name, n, order, seed = case
    without = drawn(n, seed)
    v = torch.cat([without, without + 2.5])  # player n adds 2.5 to every coalition
    found = index(v, name, order=order_of(name, n + 1, order))
    for players, value in found:
        if n in players:
            assert float(value) == pytest.approx(2.5 if len(players) == 1 else 0.0, abs=1e-9)


@given(cases)
def test_equal_players_get_equal_numbers(case):
    name, n, order, seed = case
    n = max(n, 2)
    v = drawn(n, seed)
    swap = torch.tensor([(row & ~3) | (row & 1) << 1 | row >> 1 & 1 for row in range(1 << n)])
    found = index(v + v[swap], name, order=order_of(name, n, order))
    for players, value in found:
        if (0 in players) != (1 in players):
            other = tuple(sorted({0: 1, 1: 0}.get(p, p) for p in players))
            assert float(value) == pytest.approx(float(found[other]), abs=1e-9)


@given(cases)
def test_relabelling_players_relabels_the_numbers(case):
    name, n, order, seed = case
    v, k = drawn(n, seed), order_of(name, n, order)
    new = drawn(n, seed)[:n].argsort().tolist()
    rows = torch.tensor([sum(1 << new[p] for p in range(n) if row >> p & 1) for row in range(1 << n)])
    moved = torch.empty_like(v)
    moved[rows] = v
    found, after = index(v, name, order=k), index(moved, name, order=k)
    for players, value in found:
        assert float(value) == pytest.approx(float(after[tuple(new[p] for p in players)]), abs=1e-9)


# -- known games ----------------------------------------------------------------------------------------------------


def test_known_indices_of_unanimity():
    v = torch.zeros(16, dtype=torch.float64)
    v[7] = v[15] = 1.0  # worth 1 when players 0, 1 and 2 are all there
    assert float(index(v, "SII", order=2)[0, 1]) == pytest.approx(1 / 2)
    assert float(index(v, "BII", order=2)[0, 1]) == pytest.approx(1 / 2)
    assert float(index(v, "CHII", order=2)[0, 1]) == pytest.approx(2 / 3)
    assert float(index(v, "Co-Moebius", order=2)[0, 1]) == 1.0
    assert float(index(v, "STII", order=2)[0, 1]) == pytest.approx(1 / 3)
    assert float(index(v, "STII", order=2)[(0,)]) == 0.0
    assert float(index(v, "k-SII", order=2)[(0,)]) == pytest.approx(1 / 3 - 1 / 2)
    for name in INDICES:
        assert float(index(v, name)[(3,)]) == pytest.approx(0.0, abs=1e-12)


def test_the_empty_coalition_holds_the_worth_of_nobody_except_in_fbii():
    v = drawn(4) + 3
    for name in INDICES:
        constant = float(index(v, name)[()])
        assert (constant == pytest.approx(float(v[0]))) == (name != "FBII")
    assert float(index(v, "FBII", order=1)[()]) == pytest.approx(float(v.mean() - index(v, "BV").values[1:].sum() / 2))


# -- the peer -------------------------------------------------------------------------------------------------------


@pytest.mark.peers
@pytest.mark.parametrize("n", [3, 7])
def test_equals_shapiq(n):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exact = pytest.importorskip("shapiq.game_theory.exact", reason="needs the peers extra")
        v, bits = drawn(n, 4), 1 << np.arange(n)
        computer = exact.ExactComputer(lambda keep: v.numpy()[keep.astype(np.int64) @ bits], n)
        for name in INDICES:
            for order in (1,) if INDICES[name].value else (1, 2, 3):
                theirs = computer(name, order=order)
                ours = index(v, name, order=order)
                tolerance = 1e-8 if name == "FSII" else 1e-10  # its FSII fits with a penalty of 1e8
                for players, value in ours:
                    if players or name == "FBII":
                        assert float(value) == pytest.approx(float(theirs[players]), abs=tolerance), (name, players)


# -- use ------------------------------------------------------------------------------------------------------------


def test_dividends_tables_and_games_give_the_same_and_say_what_they_cost():
    v = drawn(4)
    game = Counted(TableGame(v))
    found = index(game, "stii")
    assert (found.index, found.max_order, found.n_players, found.evaluations) == ("STII", 2, 4, 16)
    assert torch.equal(found.values, index(v, "STII").values)
    assert torch.equal(found.values, index(harsanyi(v), "STII", order=2).values)
    assert game.evaluations == 16


def test_results_of_an_order_are_read_like_a_table():
    v = drawn(4)
    found = index(v, "SII", order=2)
    assert found.players[:6] == ((), (0,), (1,), (2,), (3,), (0, 1))
    pairs, values = found.order(2)
    assert [float(found[tuple(pair)]) for pair in pairs.tolist()] == values.tolist()
    best, strength = found.top(1)[0]
    assert best
    assert abs(strength) == max(abs(float(value)) for players, value in found if players)
    assert float(found[1, 0]) == float(found[0, 1])
    assert len(found.top(100)) == 10
    with pytest.raises(KeyError, match="only numbers for at most 2 players"):
        found[0, 1, 2]
    with pytest.raises(ValueError, match="size must be from 0 to 2, got 3"):
        found.order(3)


def test_prediction_sums_the_numbers_inside_each_coalition():
    v = drawn(5, 2, 3)
    keep = coalitions(5)
    for name in ("STII", "FSII", "FBII", "k-SII"):
        found = index(v, name, order=2)
        dense = torch.zeros(32, 3, dtype=torch.float64)
        for players, value in found:
            dense[sum(1 << p for p in players)] = value
        assert_close(found.predict(keep), zeta(dense))
    assert_close(index(v, "Moebius", order=5).predict(keep), v)
    assert_close(index(v, "SII", order=1).predict(keep[-1:]), v[-1:])
    for name in ("SII", "BII", "CHII", "Co-Moebius", "BV"):
        with pytest.raises(ValueError, match=f"{name} does not add up to the worth"):
            index(v, name, order=1 if name == "BV" else 2).predict(keep)


@given(cases)
def test_json_round_trip(case):
    name, n, order, seed = case
    found = index(drawn(n, seed), name, order=order_of(name, n, order), floor=0.1)
    again = Interactions.from_dict(json.loads(json.dumps(found.to_dict())))
    assert torch.equal(again.values, found.values)
    assert torch.equal(again.noise, found.noise)
    assert again.players == found.players
    assert (again.index, again.max_order, again.floor) == (found.index, found.max_order, 0.1)


def test_listed_coalitions_are_all_there_is():
    found = Interactions(
        torch.tensor([1.0, 2.0, -4.0], dtype=torch.float64),
        names=tuple("abcdefgh") * 10,
        index="k-SII",
        n_players=80,
        max_order=2,
        sets=((), (3,), (3, 70)),
    )
    assert found.top(5) == [((3, 70), -4.0), ((3,), 2.0)]
    assert (float(found[70, 3]), float(found[5, 6]), float(found.total())) == (-4.0, 0.0, -1.0)
    assert found.order(2)[0].tolist() == [[3, 70]]
    assert found.order(1)[1].tolist() == [2.0]
    keep = torch.zeros(3, 80, dtype=torch.bool)
    keep[1, 3] = keep[2, 3] = keep[2, 70] = True
    assert found.predict(keep).tolist() == [1.0, 3.0, -1.0]
    assert (found.label((3, 70)), found.label(())) == ("d + g", "nobody")
    assert Interactions.from_dict(json.loads(json.dumps(found.to_dict()))).players == found.players
    with pytest.raises(ValueError, match="3 values do not fit 1 coalitions"):
        Interactions(torch.zeros(3, dtype=torch.float64), n_players=4, sets=((),))


def test_names_pass_through_restricted_games():
    model = torch.nn.Linear(4, 2)
    game = ModelGame(model, torch.ones(4), Features(fill="zero", names=("a", "b", "c", "d")), log_odds(0))
    some = restrict(game, present=[1], absent=[3])
    assert (some.n_players, some.playing) == (2, (0, 2))
    assert index(some, "SV").names == harsanyi(Counted(some)).names == ("a", "c")
    rows = [sum(1 << p for p, in_it in ((0, row & 1), (1, 1), (2, row >> 1)) if in_it) for row in range(4)]
    assert torch.equal(table(some), table(game)[rows])


@given(st.integers(2, 6), st.integers(0, 10_000))
def test_fixed_players_lend_their_dividends_or_lose_them(n, seed):
    """Present players join every coalition, so their dividends pass to the others; those of absent ones vanish."""
    v = drawn(n, seed)
    present, absent = [0] if n > 2 else [], [n - 1]
    game = restrict(TableGame(v), present=present, absent=absent)
    a = harsanyi(v)
    for players, value in harsanyi(game):
        before = tuple(game.playing[p] for p in players)
        expected = a[before] + (a[(0, *before)] if present else 0)
        assert float(value) == pytest.approx(float(expected), abs=1e-10)
    if game.n_players > 1:
        pairs = pair_interactions(game)
        sii = index(game, "SII", order=2)
        assert all(
            float(sii[tuple(pair)]) == pytest.approx(float(pairs.values[row].mean()), abs=1e-10)
            for row, pair in enumerate(pairs.pairs.tolist())
        )


def test_requests_that_have_no_answer():
    v = drawn(3)
    with pytest.raises(ValueError, match="no index 'k-SI'; did you mean k-SII"):
        index(v, "k-SI")
    with pytest.raises(ValueError, match="the order of SII must be from 1 to 3 for 3 players, got 4"):
        index(v, "SII", order=4)
    with pytest.raises(ValueError, match="the order of SV must be from 1 to 1"):
        index(v, "SV", order=2)
    with pytest.raises(ValueError, match="for 0 players, got 0"):
        index(v[:1], "SII")
    with pytest.raises(ValueError, match="indices follow from all dividends, not from SII"):
        index(index(v, "SII"), "STII")


@pytest.mark.parametrize(
    ("present", "absent", "message"),
    [([0], [0], "must be different players"), ([3], [], "from 0 to 2"), ([0, 1], [2], "all 3 players are fixed")],
)
def test_restrict_refuses(present, absent, message):
    with pytest.raises(ValueError, match=message):
        restrict(TableGame(drawn(3)), present=present, absent=absent)


# -- noise ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", INDICES)
@pytest.mark.parametrize("order", [1, 3])
def test_the_gain_of_noise_is_exact(name, order):
    """Applied to the unit tables, an index gives the weight of every evaluation: their squares must sum to gain**2."""
    n, k = 5, order_of(name, 5, order)
    weights = index(torch.eye(1 << n, dtype=torch.float64), name, order=k)
    for players, row in weights:
        assert float(row.norm()) == pytest.approx(INDICES[name].noise_gain(len(players), n, k), rel=1e-12)


def test_up_to_an_order_many_players_have_few_coalitions():
    n = 100
    singles = Interactions(torch.arange(101.0).double(), n_players=n, max_order=1)
    assert singles.players[:3] == ((), (0,), (1,))
    assert float(singles[99,]) == 100
    assert singles.order(1)[0].flatten().tolist() == list(range(n))
    assert singles.predict(torch.ones(1, n, dtype=torch.bool)).tolist() == [5050]
    pairs = Interactions(torch.zeros(1 + n + n * (n - 1) // 2, dtype=torch.float64), n_players=n, max_order=2)
    assert pairs.players[n + 1 : n + 5] == ((0, 1), (0, 2), (1, 2), (0, 3))
    assert pairs.order(2)[0][-1].tolist() == [98, 99]


@pytest.mark.parametrize("order", [1, 3, 7])
def test_coalitions_up_to_an_order_are_listed_as_in_a_table(order):
    found = index(drawn(7), "SII", order=order)
    rows = rows_up_to(7, order).tolist()
    assert [sum(1 << p for p in players) for players in found.players] == rows


def test_dividends_below_the_noise_are_marked():
    n, floor = 9, 1e-3
    signal = torch.zeros(1 << n, dtype=torch.float64)
    signal[[1, 6, 448]] = torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64)
    v = zeta(signal) + floor * drawn(n)
    found = harsanyi(v, floor=floor)
    assert (~found.noise).sum() <= 3 + 0.01 * (1 << n)  # 0.3% of normal draws lie beyond three deviations
    assert not found.noise[[1, 6, 448]].any()
    assert harsanyi(v).noise is None
    marked = index(found, "SII", order=3)  # the floor passes on
    assert marked.floor == floor
    kept = [players for (players, _), noise in zip(marked, marked.noise, strict=True) if not noise]
    assert (0,) in kept
    assert (6, 7, 8) in kept
    assert (0, 1) not in kept
    several = harsanyi(v[:, None].expand(-1, 2), floor=floor)
    assert torch.equal(several.noise[:, 1], found.noise)


def test_a_table_of_many_players_is_made_in_pieces_and_by_choice_alone():
    class Size:
        n_players = 21
        most = 0

        def __call__(self, keep):
            self.most = max(self.most, len(keep))
            return keep.sum(1, dtype=torch.float64)

    game = Size()
    with pytest.raises(ValueError, match="21 players needs 2,097,152 evaluations"):
        table(game)
    values = table(game, max_exact=21)
    assert torch.equal(values, sizes(21).double())
    assert game.most == 8192
