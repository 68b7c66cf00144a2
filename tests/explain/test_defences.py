"""Defences explained: detection, recovery, reduced rank, frequencies, dropped pixels, and the dropout identity."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from pellucid.attacks import PGD, Linf
from pellucid.core import DataError, Stream
from pellucid.explain import (
    auroc,
    correction_rate,
    cost_order_detector,
    cutout,
    dropout_weights,
    fisher_ratio,
    fourier_rings,
    input_dropout,
    order_detector,
    rank_reduced,
    recoverability,
)
from pellucid.explain._defences import _attributions, _cost_of_order
from pellucid.games import Counted, Patches, TableGame, by_size, coalitions, logit, pair_interactions


def pictures(samples=6, size=8, channels=1, seed=0):
    return Stream(seed).child("x").uniform((samples, channels, size, size), dtype=torch.float64)


def network(size=8, seed=0):
    with Stream(seed).child("net").forked():
        return nn.Sequential(nn.Flatten(), nn.Linear(size * size, 12), nn.ReLU(), nn.Linear(12, 3)).double()


def noise(n, seed):
    return Stream(seed).child("table").normal((1 << n,), dtype=torch.float64)


# -- attributions of one order ----------------------------------------------------------------------------------------


@settings(max_examples=12)
@given(n=st.integers(2, 7), seed=st.integers(0, 2**31))
def test_leaving_one_out_is_alone_plus_the_interactions_of_all_orders(n, seed):
    table = noise(n, seed)
    game, found = TableGame(table), pair_interactions(table)
    alone = _attributions(game, 0, 1, Stream(0))
    assert_close(alone, table[1 << torch.arange(n)] - table[0])
    whole = torch.zeros(n, n, dtype=torch.float64)
    i, j = found.pairs.T
    whole[i, j] = whole[j, i] = found.values.sum(1)
    assert_close(_attributions(game, n - 1, 1, Stream(0)), alone + whole.sum(1) / (n - 1))


@pytest.mark.parametrize("order", [1, 3, 5])
def test_attributions_of_middle_orders_are_unbiased_and_cost_what_is_said(order):
    n, table = 7, noise(7, 1)
    keep = coalitions(n)
    exact = torch.stack(
        [
            (table[(~keep[:, i] & (keep.sum(1) == order)).nonzero()[:, 0] + (1 << i)]).mean()
            - table[~keep[:, i] & (keep.sum(1) == order)].mean()
            for i in range(n)
        ]
    )
    game = Counted(TableGame(table))
    found = _attributions(game, order, 1500, Stream(0))
    assert game.evaluations == _cost_of_order(n, order, 1500)
    assert_close(found, exact, atol=0.15, rtol=0)


def test_auroc_counts_ties_half():
    low, high = torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0])
    assert auroc(low, high) == 0.875
    assert auroc(high, low) == 0.125
    assert auroc(low, low) == 0.5


def test_a_detector_sees_inputs_whose_attributions_spread_wider():
    x = pictures(12) * 0.2
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).double()
    with torch.no_grad():
        model[1].weight.copy_(5 * Stream(0).child("w").normal((3, 64), dtype=torch.float64))
    found = order_detector(model, x, x * 5, Patches(2, fill="zero"), ratios=(0.0, 0.5, 1.0), value=logit, rng=Stream(0))
    assert found.orders.tolist() == [0, 1, 3]
    assert found.spread["deviation"].shape == (12, 3, 2)
    assert float(found.auroc["deviation"].value[0]) > 0.8
    assert bool((found.auroc["deviation"].low <= found.auroc["deviation"].high).all())
    assert found.evaluations == cost_order_detector(4, samples=12, ratios=(0.0, 0.5, 1.0))
    same = order_detector(model, x, x.clone(), Patches(2, fill="zero"), rng=Stream(0))
    assert_close(same.auroc["interquartile"].value, torch.full((4,), 0.5, dtype=torch.float64))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"x": pictures(3)}, ValueError, "at least 4 samples"),
        ({"ratios": (1.5,)}, ValueError, "between 0 and 1"),
        ({"masker": Patches(1, fill="zero")}, ValueError, "no spread"),
        ({"x": pictures(4) + 3}, DataError, "outside the bounds"),
    ],
)
def test_a_detector_refuses_what_it_cannot_use(changes, error, message):
    given_ = {"x": pictures(4), "masker": Patches(2, fill="zero"), "ratios": (0.5,)} | changes
    x = given_["x"]
    with pytest.raises(error, match=message):
        order_detector(network(), x, x, given_["masker"], ratios=given_["ratios"], rng=Stream(0))


# -- recovery ---------------------------------------------------------------------------------------------------------


def test_an_attack_back_recovers_the_class():
    model, x = network(), pictures(10)
    y = model(x).argmax(1)
    attack = PGD(Linf(0.2), steps=20)
    x_adv = attack(model, x, y, rng=Stream(0)).inputs
    found = recoverability(model, x, x_adv, y, attack, rng=Stream(0))
    assert found.restored.value == float((model(found.inputs).argmax(1) == y).double().mean())
    assert float((found.inputs - x_adv).abs().max()) <= 0.2 + 1e-12
    assert_close(found.attack_distance, (x_adv - x).flatten(1).norm(dim=1))
    assert found.near.value == float((found.recovered_distance <= found.attack_distance).double().mean())
    still = recoverability(model, x, x.clone(), y, PGD(Linf(0.2), steps=0), rng=Stream(0))
    assert still.near.value == 1.0
    assert still.restored.value == 1.0


# -- rank and frequencies ---------------------------------------------------------------------------------------------


def test_an_image_of_rank_one_is_its_own_truncation():
    rows, columns = Stream(0).uniform((2, 3, 8, 1)), Stream(1).uniform((2, 3, 1, 6))
    x = rows * columns
    assert_close(rank_reduced(x, 1 / 16), x)
    full = pictures(2, channels=3)
    assert_close(rank_reduced(full, 1.0), full)
    assert torch.linalg.matrix_rank(rank_reduced(full, 1 / 4)).unique().tolist() == [2]
    with pytest.raises(ValueError, match="at most 1"):
        rank_reduced(full, 0.0)


def test_rings_hold_all_of_an_image_and_a_constant_one_lies_at_zero():
    for shape in ((3, 2, 8, 8), (2, 1, 7, 10)):
        x = Stream(0).normal(shape, dtype=torch.float64)
        assert_close(fourier_rings(x).square().sum(1), x.square().sum((1, 2, 3)))
    constant = torch.full((1, 1, 8, 8), 0.3, dtype=torch.float64)
    rings = fourier_rings(constant)
    assert_close(rings[0, 0], torch.tensor(0.3 * 8, dtype=torch.float64))
    assert float(rings[0, 1:].max()) < 1e-12


def test_the_fisher_ratio_of_known_groups():
    first, second = torch.tensor([[0.0], [2.0]]), torch.tensor([[4.0], [6.0]])
    assert_close(fisher_ratio(first, second), torch.tensor([2.0]))


# -- dropped pixels ---------------------------------------------------------------------------------------------------


@settings(max_examples=15)
@given(n=st.integers(2, 8), seed=st.integers(0, 2**31))
def test_the_dropout_identity_holds_for_every_number_of_kept_players(n, seed):
    table = noise(n, seed)
    f, means = by_size(table), pair_interactions(table).values.mean(0)
    for kept in range(n + 1):
        first, weights = dropout_weights(n, kept)
        assert_close(f[n] - f[kept], first * n * (f[1] - f[0]) + (weights * means).sum())


def test_dropping_counts_whole_players():
    first, _ = dropout_weights(4, int((1 - 0.4) * 4))
    assert first * 4 == 2.0
    with pytest.raises(ValueError, match="0 to n of them kept"):
        dropout_weights(4, 5)


def test_a_dropped_pixel_shows_the_mean_of_kept_ones_around_it():
    x = torch.arange(9, dtype=torch.float64).view(1, 1, 3, 3)
    shown = input_dropout(x, 1 / 9, rng=Stream(0))
    (row, column) = (shown != x)[0, 0].nonzero()[0].tolist()
    around = [
        float(x[0, 0, r, c])
        for r in range(max(0, row - 1), min(3, row + 2))
        for c in range(max(0, column - 1), min(3, column + 2))
        if (r, c) != (row, column)
    ]
    assert float(shown[0, 0, row, column]) == pytest.approx(sum(around) / len(around))


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.99])
def test_the_share_of_dropped_pixels_is_exact_and_the_same_in_all_channels(alpha):
    x = pictures(5, channels=3)
    shown = input_dropout(x, alpha, rng=Stream(0))
    changed = (shown != x).flatten(2)
    assert bool((changed == changed[:, :1]).all())
    assert changed.sum(2).unique().tolist() == [min(round(alpha * 64), 63)]
    assert bool(((shown >= x.min()) & (shown <= x.max())).all())
    one = input_dropout(x[2:3], alpha, rng=Stream(0).at([2]))
    assert_close(one, shown[2:3])
    with pytest.raises(ValueError, match="below 1"):
        input_dropout(x, 1.0, rng=Stream(0))


def test_a_constant_image_stays_as_it_is():
    x = torch.full((2, 1, 8, 8), 0.7)
    assert_close(input_dropout(x, 0.9, rng=Stream(0)), x)
    assert_close(cutout(x, rng=Stream(0)), x)


def test_cutout_takes_a_quarter_and_shows_the_mean_of_the_rest():
    x = pictures(4, channels=2)
    shown = cutout(x, rng=Stream(0))
    gone = shown != x
    assert gone.flatten(2).sum(2).unique().tolist() == [16]
    for k in range(4):
        rest = x[k, 0][~gone[k, 0]].mean()
        assert_close(shown[k, 0][gone[k, 0]], rest.expand(16))


def test_correction_counts_classes_that_come_back():
    x, y = pictures(8), torch.tensor([0, 1] * 4)

    class Corner(nn.Module):
        def forward(self, x):
            bright = x.flatten(1).std(1)
            return torch.stack([torch.zeros_like(bright), bright - 0.01], dim=1)

    flat = torch.full_like(x, 0.5)
    found = correction_rate(Corner(), flat, y, alpha=0.2, x=x, rng=Stream(0))
    assert found.rate.value == 0.5
    assert found.kept.value == 0.5
    assert found.evaluations == 16
    assert found.treatment == "20% of the pixels dropped"
    alone = correction_rate(Corner(), flat, y, rng=Stream(0))
    assert alone.kept is None
    assert alone.evaluations == 8
    assert "half the side" in alone.treatment
