"""Attack orders: parts that add up exactly, known tables, symmetries, pairs, and bad input."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from pellucid.core import DataError, Stream
from pellucid.explain import (
    OFFICIAL_PAIRS,
    AttackOrders,
    AttackPairs,
    attack_orders,
    cost_attack_orders,
    pair_attack_orders,
    usable_pairs,
)
from pellucid.explain._signed_orders import signed_edges
from pellucid.games import Features, Patches, logit

KNOWN = torch.tensor([0, 1, 2, 5, 1, 1, 4, 9, -1, 0, 3, 2, 2, 6, 1, 7], dtype=torch.float64)


class Tables(nn.Module):
    """A model whose answer to a masked input of 0s and 1s (or 2s) is looked up in a table (or another)."""

    def __init__(self, *tables):
        super().__init__()
        self.tables = torch.stack(tables)

    def forward(self, x):
        n = x.shape[1] - 1
        which = (x[:, :n] > 1.5).any(1).long()
        row = ((x[:, :n] > 0.5).long() << torch.arange(n)).sum(1)
        worth = self.tables[which * (len(self.tables) - 1), row]
        return torch.stack([worth, torch.zeros_like(worth)], dim=1)


def players(n):
    """Inputs of n players: the normal one is all 1, the attacked one all 2; one more column is always there."""
    x = torch.ones(1, n + 1, dtype=torch.float64)
    x_adv = x.clone()
    x_adv[:, :n] = 2
    return x, x_adv, Features(fill="zero", groups=[[p] for p in range(n)])


def measured(first, second, **more):
    """Attack orders of two tables; an input without any player belongs to the first one, so both agree there."""
    n = len(first).bit_length() - 1
    second = second.clone()
    second[0] = first[0]
    x, x_adv, masker = players(n)
    given = {"value": logit, "beside": None, "bins": n - 1, "bounds": None, "rng": Stream(0)} | more
    return attack_orders(Tables(first, second), x, x_adv, torch.zeros(1, dtype=torch.int64), masker, **given)


def noise(n, seed):
    return Stream(seed).child("table").normal((1 << n,), dtype=torch.float64)


def images(samples=3, size=8, seed=0):
    with Stream(seed).child("net").forked():
        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * (size - 2) ** 2, 3)).double()
    x = Stream(seed).child("x").uniform((samples, 1, size, size), dtype=torch.float64)
    x_adv = (x + 0.2 * Stream(seed).child("a").uniform(x.shape, low=-1, dtype=torch.float64)).clamp(0, 1)
    return model, x, x_adv, model(x).argmax(1)


def test_the_known_table_against_nothing_gives_the_known_parts():
    found = measured(KNOWN, torch.zeros(16, dtype=torch.float64))
    as64 = {"dtype": torch.float64}
    assert_close(found.utilities[0], torch.tensor([3, 0.5, 0.5], **as64))
    assert_close(found.means[0, :, 0], torch.tensor([1, 0.25, 0.5], **as64))
    assert (float(found.first_order), float(found.total), float(found.baseline_change)) == pytest.approx((3, 7, 0))
    assert found.chains.tolist() == [0]


@settings(max_examples=20)
@given(n=st.integers(2, 6), seed=st.integers(0, 2**31), bins=st.integers(1, 7), sampled=st.booleans())
def test_the_parts_add_up_whatever_the_tables_and_the_bins(n, seed, bins, sampled):
    found = measured(noise(n, seed), noise(n, seed + 1), bins=bins, chains=2 if sampled else 200)
    assert found.closure_error < 1e-12
    assert found.edges.tolist()[0] == 0
    assert found.edges.tolist()[-1] == n - 1


def test_swapping_the_inputs_flips_every_sign():
    model, x, x_adv, y = images()
    masker = Patches(4, fill="zero")
    one, other = (
        attack_orders(model, a, b, y, masker, chains=6, pairs=AttackPairs(5, 4), rng=Stream(3))
        for a, b in ((x, x_adv), (x_adv, x))
    )
    for name in ("total", "first_order", "utilities", "baseline_change"):
        assert_close(getattr(one, name), -getattr(other, name))
        assert_close(getattr(one.beside, name), -getattr(other.beside, name))
    assert_close(one.errors, other.errors)
    assert_close(one.pairs.interactions, other.pairs.interactions.flip(-1))
    assert one.closure_error < 1e-12


def test_an_input_that_is_not_changed_gives_zeros_and_curves_that_coincide():
    model, x, _, y = images()
    found = attack_orders(
        model, x, x.clone(), y, Patches(4, fill="blur"), chains=4, pairs=AttackPairs(6, 5), rng=Stream(0)
    )
    for part in (found.total, found.first_order, found.utilities, found.errors, found.baseline_change):
        assert not bool(part.any())
    assert not bool(found.delta.value.any())
    assert_close(found.disentanglement.value[:, 0], found.disentanglement.value[:, 1])
    assert_close(found.order_curve("normal").value, found.order_curve("attacked").value)


def test_a_baseline_made_of_the_input_has_a_part_of_its_own():
    model, x, x_adv, y = images()
    blurred = attack_orders(model, x, x_adv, y, Patches(4, fill="blur"), chains=4, rng=Stream(0))
    assert bool((blurred.baseline_change.abs() > 1e-6).all())
    assert blurred.closure_error < 1e-12
    plain = attack_orders(model, x, x_adv, y, Patches(4, fill="zero"), chains=4, rng=Stream(0))
    assert not bool(plain.baseline_change.any())


def test_chains_agree_with_the_whole_table():
    model, x, x_adv, y = images(samples=1)
    masker = Patches((3, 4), fill="zero")
    exact = attack_orders(model, x, x_adv, y, masker, chains=2000, bins=4, rng=Stream(0))
    assert exact.chains.tolist() == [0]
    assert not bool(exact.errors.any())
    sampled = attack_orders(model, x, x_adv, y, masker, chains=150, bins=4, rng=Stream(0))
    assert sampled.chains.tolist() == [150]
    assert bool(((sampled.utilities - exact.utilities).abs() <= 4 * sampled.errors).all())
    assert_close(sampled.total, exact.total)


def test_a_target_draws_chains_until_it_is_reached():
    model, x, x_adv, y = images(samples=2)
    masker = Patches(6, fill="zero")
    few = attack_orders(model, x, x_adv, y, masker, chains=16, rng=Stream(0))
    target = float(few.errors.max()) / 2
    more = attack_orders(model, x, x_adv, y, masker, chains=16, target=target, rng=Stream(0))
    assert int(more.chains.max()) > 16
    assert float(more.errors.max()) < 1.4 * target
    most = attack_orders(model, x, x_adv, y, masker, chains=16, target=1e-9, rng=Stream(0))
    assert most.chains.tolist() == [160, 160]
    assert few.evaluations == cost_attack_orders(36, samples=2, chains=16)
    assert most.closure_error < 1e-12


def test_a_sample_does_not_depend_on_its_company():
    model, x, x_adv, y = images()
    masker, given = Patches(4, fill="zero"), {"chains": 4, "pairs": AttackPairs(3, 4)}
    rng = Stream(0).at([5, 7, 9])
    whole = attack_orders(model, x, x_adv, y, masker, rng=rng, **given)
    one = attack_orders(model, x[1:2], x_adv[1:2], y[1:2], masker, rng=Stream(0).at([7]), **given)
    assert_close(whole.utilities[1:2], one.utilities)
    assert_close(whole.pairs.interactions[1:2], one.pairs.interactions)


def test_with_two_classes_the_scores_of_both_are_opposite():
    model, x, x_adv, _ = images()
    two = nn.Sequential(*model, nn.Linear(3, 2).double())
    masker = Patches(3, fill="zero")
    first, second = (
        attack_orders(two, x, x_adv, torch.full((3,), k), masker, chains=4, rng=Stream(0)).beside for k in (0, 1)
    )
    assert_close(first.utilities, -second.utilities)
    assert_close(first.means, -second.means)


def test_shares_sum_to_one_and_high_orders_are_those_from_the_ratio_on():
    model, x, x_adv, y = images()
    found = attack_orders(model, x, x_adv, y, Patches(4, fill="zero"), bins=5, chains=4, rng=Stream(0))
    assert_close(found.share.value.sum(), torch.tensor(1.0, dtype=torch.float64))
    assert found.above(0.6).tolist() == [False, False, False, True, True]
    assert_close(found.share_above(0.6).value, found.share.value[3:].sum())
    assert_close(found.bins.utility, found.utilities.mean(0))
    assert found.disentanglement is found.floor is None


@pytest.mark.parametrize(("players", "first"), [(4, 2), (6, 3), (16, 10), (36, 24), (64, 44)])
def test_high_orders_hold_seven_tenths_of_the_other_players(players, first):
    # m of n - 2 others: with six players three of four are 75 %, and belong to the high orders.
    edges = torch.tensor(signed_edges(players, 10))
    zeros = torch.zeros(1, len(edges) - 1, dtype=torch.float64)
    none, chains, means = zeros[:, 0], torch.zeros(1, dtype=torch.int64), torch.stack([zeros, zeros], dim=2)
    found = AttackOrders(edges, none, none, none, zeros, zeros, means, chains, players, 0)
    assert int(edges[:-1][found.above(0.7)].min()) == first


def test_pairs_do_not_add_up_and_are_the_same_alone():
    model, x, x_adv, y = images()
    wish = AttackPairs(7, 6, ratios=(0.0, 0.5, 1.0))
    masker = Patches(4, fill="zero")
    alone = pair_attack_orders(model, x, x_adv, y, masker, settings=wish, rng=Stream(0))
    beside = attack_orders(model, x, x_adv, y, masker, chains=4, pairs=wish, rng=Stream(0)).pairs
    assert_close(alone.interactions, beside.interactions)
    assert alone.orders.tolist() == [0, 7, 14]
    assert alone.evaluations == 3 * 2 * 4 * 7 * (1 + 6 + 1)
    agreement = alone.disentanglement()
    assert_close(agreement.value[[0, 2]], torch.ones(2, 2, dtype=torch.float64))
    assert bool(((agreement.value > 0) & (agreement.value <= 1)).all())
    assert_close(alone.floor, torch.tensor([1, 6**-0.5, 1], dtype=torch.float64))
    n, m = 16, alone.orders
    assert_close(alone.weighted_delta.value, alone.delta.value * (n - 1 - m) / (n * (n - 1)))
    assert alone.context_map(7, "attacked").shape == (16,)
    assert not alone.left_out.any()
    with pytest.raises(ValueError, match="order 3 was not measured"):
        alone.context_map(3, "normal")
    assert OFFICIAL_PAIRS.count == 200


def test_pairs_of_a_model_without_interactions_are_left_out():
    _, x, x_adv, y = images()
    linear = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).double()
    found = pair_attack_orders(
        linear, x, x_adv, y, Patches(4, fill="zero"), settings=AttackPairs(4, 4), value=logit, rng=Stream(0)
    )
    assert bool((found.left_out == 12).all())
    assert bool(found.disentanglement().value.isnan().all())


def test_usable_pairs_are_right_before_and_wrong_after():
    model, x, x_adv, _ = images(samples=12)
    y, after = model(x).argmax(1), model(x_adv).argmax(1)
    y[0] = (y[0] + 1) % 3
    found = usable_pairs(model, x, x_adv, y)
    assert found.wrong.tolist() == [True] + [False] * 11
    assert found.rows.tolist() == [k for k in range(1, 12) if int(after[k]) != int(y[k])]
    assert int(found.resisted.sum()) + len(found.rows) == 11
    assert found.evaluations == 24


def broken(x_adv, kind):
    if kind == "nan":
        x_adv[1, 0, 0, 0] = torch.nan
    if kind == "outside":
        x_adv[2, 0, 0, 0] = 1.5
    return {"shape": x_adv[:, :, :7], "type": x_adv.float()}.get(kind, x_adv)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("nan", "x_adv holds NaN or infinity in sample 1"),
        ("outside", r"x_adv lies in \[.*1.5\] in sample 2, outside the bounds \[0, 1\]"),
        ("shape", "one attacked input per row"),
        ("type", "x_adv is torch.float32 but x torch.float64"),
    ],
)
def test_attacked_inputs_that_do_not_fit_are_refused(kind, message):
    model, x, x_adv, y = images()
    masker = Patches(4, fill="zero")
    with pytest.raises((DataError, TypeError), match=message if kind != "shape" else "x_adv"):
        attack_orders(model, x, broken(x_adv.clone(), kind), y, masker, rng=Stream(0))
    with pytest.raises((DataError, TypeError), match=message if kind != "shape" else "x_adv"):
        pair_attack_orders(model, x, broken(x_adv.clone(), kind), y, masker, rng=Stream(0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"chains": 1}, "at least 2 chains"), ({"target": 0.0}, "target above 0"), ({"bins": 0}, "one bin")],
)
def test_settings_out_of_range_are_refused(changes, message):
    model, x, x_adv, y = images()
    with pytest.raises(ValueError, match=message):
        attack_orders(model, x, x_adv, y, Patches(4, fill="zero"), rng=Stream(0), **changes)
    with pytest.raises(ValueError, match="2 contexts"):
        AttackPairs(4, 1)


def test_the_parts_show_themselves():
    found = measured(KNOWN, torch.zeros(16, dtype=torch.float64))
    text = str(found)
    assert "What an attack takes from the score, by order" in text
    assert "alone" in text
    assert "total" in found._repr_html_()
