"""Order spectra: closed forms, price, independence of batches and company, refusals."""

from __future__ import annotations

from dataclasses import replace
from math import comb

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from pellucid.core import Players, Stream, Work
from pellucid.explain import (
    FULL,
    OFFICIAL,
    QUICK,
    SpectrumSettings,
    bottleneck,
    cost_bottleneck,
    cost_signed_order_curve,
    exact_bottleneck,
    fit_bottleneck,
    orders_of,
    signed_order_curve,
)
from pellucid.games import Features, ModelGame, Patches, learning_strength, log_odds, logit, pair_interactions, table


class Scored(nn.Module):
    """A model whose logit 0 is a formula of the input; log odds against a constant 0 are that formula."""

    def __init__(self, score) -> None:
        super().__init__()
        self.score = score

    def forward(self, x):
        z = self.score(x)
        return torch.stack([z, torch.zeros_like(z)], dim=1)


def small_cnn() -> nn.Module:
    with Stream(3).forked():
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4 * 36, 3)
        )


def images(count: int) -> torch.Tensor:
    return Stream(1).child("images").uniform((count, 1, 12, 12))


def ones(count: int, n: int) -> torch.Tensor:
    return torch.ones(count, n, dtype=torch.float64)


def spectrum(score, n: int, rng: Stream, samples: int = 2):
    y = torch.zeros(samples, dtype=torch.int64)
    return bottleneck(
        Scored(score), ones(samples, n), y, Features(fill="zero"), settings=SpectrumSettings(1, 1, 50), rng=rng
    )


def test_pair_weights_give_a_flat_spectrum(rng):
    found = spectrum(lambda x: x[:, 0] * x[:, 1] + x[:, 2] * x[:, 3] + 5 * x[:, 4], 6, rng)
    assert found.orders.tolist() == [0, 1, 2, 3, 4]
    assert_close(found.relative, torch.ones(5, dtype=torch.float64), atol=1e-9, rtol=0)


def test_xor_majority_and_the_cube(rng):
    xor = spectrum(lambda x: x.sum(1) % 2, 5, rng)
    # Each |I^m| is 2**(n-2) times a sign sum: for the parity of n it is 2 at every order.
    assert_close(xor.strength, torch.full((4,), 2.0, dtype=torch.float64))
    majority = spectrum(lambda x: (x.sum(1) >= 3).double(), 5, rng)
    assert_close(majority.strength, torch.tensor([0.0, 1, 1, 0], dtype=torch.float64), atol=1e-12, rtol=0)
    assert_close(majority.relative, torch.tensor([0.0, 2, 2, 0], dtype=torch.float64), atol=1e-12, rtol=0)
    a = torch.tensor([1.0, 2, 3, 4], dtype=torch.float64)
    cube = spectrum(lambda x: (x @ a) ** 3, 4, rng)
    assert_close(cube.relative, torch.tensor([4 / 7, 1, 10 / 7], dtype=torch.float64))


def test_a_product_of_all_lives_at_the_last_order(rng):
    n = 6
    found = spectrum(lambda x: x.prod(1), n, rng)
    expected = torch.tensor([comb(m, n - 2) / comb(n - 2, n - 2) for m in range(n - 1)], dtype=torch.float64)
    assert_close(found.strength, expected, atol=1e-12, rtol=0)


def test_additive_model_says_that_there_is_nothing(rng):
    found = spectrum(lambda x: x.sum(1), 5, rng)
    assert not bool(found.strength.any())
    assert bool(found.relative.isnan().all())
    assert "uses no pair interactions" in found.note
    assert spectrum(lambda x: x.prod(1), 5, rng).note == ""


def test_sampled_agrees_with_the_exact_table(rng):
    model, x = small_cnn(), images(1)
    masker = Patches(3, background=x)
    exact = pair_interactions(table(ModelGame(model, x[0], masker, log_odds(1)))).values
    found = bottleneck(model, x, torch.tensor([1]), masker, settings=SpectrumSettings(1, 1, 12), rng=rng)
    assert found.orders.tolist() == list(range(8))
    error = (found.interactions[0] - exact).abs().mean(0)
    # A mean of |error| near the floor, which is what noise of this size shows on average.
    assert bool((error <= 1.6 * found.floor + 1e-6).all())
    assert_close(found.interactions[0][:, [0, 7]], exact[:, [0, 7]], atol=1e-5, rtol=0)


def test_batch_size_and_company_do_not_matter(rng, monkeypatch):
    model, x, y = small_cnn(), images(4), torch.tensor([0, 1, 2, 0])
    masker = Patches(4, background=x)
    settings = SpectrumSettings(4, 1, 3)
    whole = bottleneck(model, x, y, masker, settings=settings, rng=rng)
    part = bottleneck(model, x[2:], y[2:], masker, settings=settings, rng=rng.at([2, 3]))
    assert_close(part.per_sample, whole.per_sample[2:], atol=1e-6, rtol=0)
    assert torch.equal(part.pairs, whole.pairs[2:])
    from pellucid.games import _model_game

    monkeypatch.setattr(_model_game, "_batch_size", lambda x, device: 13)
    assert_close(
        bottleneck(model, x, y, masker, settings=settings, rng=rng).per_sample, whole.per_sample, atol=1e-6, rtol=0
    )


def test_shapes_intervals_and_heat_map(rng):
    model, x, y = small_cnn(), images(5), torch.tensor([0, 1, 2, 0, 1])
    found = bottleneck(model, x, y, Patches(4, background=x), settings=SpectrumSettings(1, 2, 4), rng=rng)
    M = len(found.orders)
    assert found.per_sample.shape == found.floor_per_sample.shape == (5, M)
    assert found.interactions.shape == (5, 72, M)
    assert bool((found.low <= found.strength).all() and (found.strength <= found.high).all())
    assert bool((found.relative_low <= found.relative).all() and (found.relative <= found.relative_high).all())
    assert float(found.relative.mean()) == pytest.approx(1)
    assert_close(found.stderr, found.per_sample.std(0) / 5**0.5)
    assert float(found.ratios[0]) == 0
    assert float(found.ratios[-1]) == 1
    order = int(found.orders[1])
    heat = found.pairs_heatmap(order)
    assert heat.shape == (4, 4)
    one = found.pairs_heatmap(order, sample=0)
    assert set(one.isnan().flatten().logical_not().nonzero().flatten().tolist()) == set(
        found.pairs[0].flatten().tolist()
    )
    i, j, value = found.strongest_pairs(order, sample=0, k=1)[0]
    assert abs(value) == float(found.interactions[0, :, 1].abs().max())
    assert [i, j] in found.pairs[0].tolist()


def test_one_sample_has_no_interval(rng):
    settings = SpectrumSettings(1, 1, 2)
    found = bottleneck(small_cnn(), images(1), torch.tensor([0]), Patches(4, fill="zero"), settings=settings, rng=rng)
    assert bool(found.stderr.isnan().all())
    assert bool(found.low.isnan().all())


# -- what follows from a spectrum -------------------------------------------------------------------------------------


def test_uniform_normalization_integrates_over_the_ratios(rng):
    model, x, y = small_cnn(), images(3), torch.tensor([0, 1, 2])
    settings = SpectrumSettings(3, 1, 4, ratios=(0.0, 0.05, 0.1, 0.5, 1.0))
    masker = Patches(6, background=x)
    measured = bottleneck(model, x, y, masker, settings=settings, rng=rng)
    uniform = bottleneck(model, x, y, masker, settings=replace(settings, normalize="uniform"), rng=rng)
    assert torch.equal(uniform.strength, measured.strength)
    assert float(uniform.weights.sum()) == pytest.approx(1)
    assert float(torch.trapezoid(uniform.relative, uniform.ratios)) == pytest.approx(1)
    assert_close(
        uniform.relative / measured.relative,
        torch.full((5,), float(uniform.relative[0] / measured.relative[0])).double(),
    )
    center = torch.trapezoid(uniform.strength * uniform.ratios, uniform.ratios) / torch.trapezoid(
        uniform.strength, uniform.ratios
    )
    assert float(uniform.center.value) == pytest.approx(float(center))
    assert float(uniform.center.low) <= float(center) <= float(uniform.center.high)


def test_effective_players_are_found_again(rng):
    """A spectrum that is the theory curve of 11 players, measured with 30, has 11 effective players."""
    flat = spectrum(lambda x: x[:, 0] * x[:, 1], 30, rng)
    curve = learning_strength(11, flat.ratios * 9) * 0.3
    found = replace(flat, strength=curve, floor=torch.zeros_like(curve))
    assert found.effective_players() == 11
    assert replace(found, floor=curve).effective_players() is None
    assert float(found.theory[0]) == 1


def test_wrong_samples_are_left_out_and_counted(rng):
    model, x = small_cnn(), images(6)
    right = model(x).argmax(1)
    y = torch.where(torch.arange(6) % 2 == 0, right, (right + 1) % 3)
    settings, masker = SpectrumSettings(6, 1, 3, only_correct=True), Patches(4, background=x)
    found = bottleneck(model, x, y, masker, settings=settings, rng=rng)
    plain = bottleneck(model, x, y, masker, settings=replace(settings, only_correct=False), rng=rng)
    assert found.dropped == 3
    assert_close(found.per_sample, plain.per_sample[::2], atol=1e-6, rtol=0)
    assert found.evaluations == 6 + plain.evaluations // 2
    assert cost_bottleneck(masker(x[0]), settings) == 6 + plain.evaluations
    with pytest.raises(ValueError, match="classifies none of the 6 samples correctly"):
        bottleneck(model, x, (right + 1) % 3, masker, settings=settings, rng=rng)


def test_the_official_settings_are_the_papers(rng):
    assert (OFFICIAL.samples, OFFICIAL.pairs, OFFICIAL.contexts, OFFICIAL.grid) == (50, 200, 100, 16)
    assert OFFICIAL.only_correct
    # 11 orders of 200 pairs with 100 contexts of 4 evaluations, and two end orders once for all.
    assert cost_bottleneck(players(16, 16), OFFICIAL) == 50 * (11 * 200 * 100 * 4 + 2 * (1 + 256 + 200) + 1)
    x = images(2)
    few = replace(OFFICIAL, pairs=5, contexts=3, only_correct=False, ratios=(0.0, 0.5, 1.0))
    found = bottleneck(small_cnn(), x, torch.tensor([0, 1]), Patches(4, background=x), settings=few, rng=rng)
    assert found.interactions.shape == (2, 5, 3)
    assert found.evaluations == 2 * 5 * (3 + 1 + 1) * 4


def test_the_exact_spectrum_takes_all_pairs_and_orders(rng):
    a = torch.tensor([1.0, 2, 3, 4], dtype=torch.float64)
    steps = []
    found = exact_bottleneck(
        Scored(lambda x: (x @ a) ** 3), ones(3, 4), torch.zeros(3, dtype=torch.int64), Features(fill="zero"),
        rng=rng, on_step=lambda done, total: steps.append((done, total)),
    )  # fmt: skip
    assert found.pairs.shape == (3, 6, 2)
    assert found.orders.tolist() == [0, 1, 2]
    assert_close(found.relative, torch.tensor([4 / 7, 1, 10 / 7], dtype=torch.float64))
    assert_close(found.interactions[0, 0], torch.tensor([18.0, 60, 102], dtype=torch.float64))
    assert found.evaluations == 3 * 16
    assert steps[-1] == (48, 48)
    sums = exact_bottleneck(
        Scored(lambda x: x.sum(1) * 0.1),
        ones(2, 5).float(),
        torch.zeros(2, dtype=torch.int64),
        Features(fill="zero"),
        rng=rng,
    )
    assert bool((sums.strength <= 2 * sums.floor).all())  # rounding is below the floor


def test_kept_samples_are_not_measured_again(rng, tmp_path):
    model, x, y = small_cnn(), images(3), torch.tensor([0, 1, 2])
    settings, work = SpectrumSettings(3, 1, 3), Work(folder=tmp_path)
    first = bottleneck(model, x, y, Patches(4, fill="zero"), settings=settings, rng=rng, work=work)
    again = bottleneck(Scored(lambda x: 1 / 0), x, y, Patches(4, fill="zero"), settings=settings, rng=rng, work=work)
    assert torch.equal(again.per_sample, first.per_sample)
    assert again.evaluations == first.evaluations


# -- price ----------------------------------------------------------------------------------------------------------


def players(rows: int, columns: int) -> Players:
    return Patches((rows, columns), fill="zero")(torch.zeros(1, 64, 64))


def test_the_defaults_cost_what_the_documentation_says():
    assert cost_bottleneck(players(8, 8), FULL) == pytest.approx(850_000, rel=0.05)
    assert cost_bottleneck(players(8, 8), QUICK) == pytest.approx(180_000, rel=0.05)


def test_planned_is_spent(rng):
    x = images(2)
    steps = []
    for grid in (2, (3, 4), 6):
        masker = Patches(grid, background=x)
        settings = SpectrumSettings(2, 2, 3, ratios=(0, 0.3, 0.5, 1))
        planned = cost_bottleneck(masker(x[0]), settings)
        found = bottleneck(
            small_cnn(),
            x,
            torch.tensor([0, 1]),
            masker,
            settings=settings,
            rng=rng,
            on_step=lambda done, total: steps.append((done, total)),
        )
        assert found.evaluations == planned
        assert steps[-1] == (planned, planned)


@pytest.mark.parametrize("budget", [100_000, 181_728, 250_000, 400_000, 700_000, 868_032, 5_000_000])
def test_fitted_settings_stay_within_the_budget(budget):
    cells = players(8, 8)
    fitted = fit_bottleneck(cells, budget)
    if budget < cost_bottleneck(cells, QUICK):
        assert fitted is None
    else:
        assert cost_bottleneck(cells, fitted) <= budget
    if budget >= cost_bottleneck(cells, FULL):
        assert fitted == FULL
    assert fit_bottleneck(cells, budget, most=QUICK) in (None, QUICK)
    few = fit_bottleneck(cells, budget, samples=5)
    assert few is None or few.samples <= 5


def test_orders():
    assert orders_of(64) == (0, 3, 6, 12, 18, 24, 31, 37, 43, 49, 55, 58, 62)
    assert orders_of(12) == tuple(range(11))
    assert orders_of(2) == (0,)
    with pytest.raises(ValueError, match="a game of 1 players has no pairs"):
        orders_of(1)
    with pytest.raises(ValueError, match="ratios must lie between 0 and 1"):
        orders_of(8, (0.5, 1.1))


# -- the signed curve -----------------------------------------------------------------------------------------------


def test_signed_curve_closes_for_every_sample(rng):
    model, x, y = small_cnn(), images(3), torch.tensor([0, 1, 2])
    steps = []
    masker = Patches(6, background=x)
    found = signed_order_curve(
        model, x, y, masker, permutations=4, rng=rng, work=Work(on_step=lambda done, total: steps.append(done / total))
    )
    assert_close(found.first_order + found.utilities.sum(1), found.total, atol=1e-9, rtol=0)
    planned = cost_signed_order_curve(36, samples=3, permutations=4)
    assert found.evaluations == planned
    assert steps == sorted(steps)
    assert steps[-1] == 1
    assert planned < 3 * 4 * 22 + 7
    part = signed_order_curve(model, x[1:], y[1:], masker, permutations=4, rng=rng.at([1, 2]))
    assert_close(part.utilities, found.utilities[1:], atol=1e-6, rtol=0)
    assert bool((found.low <= found.mean).all() and (found.mean <= found.high).all())


def test_signed_curve_of_a_product(rng):
    n = 5
    found = signed_order_curve(
        Scored(lambda x: x.prod(1)),
        ones(1, n),
        torch.tensor([0]),
        Features(fill="zero"),
        permutations=2,
        bins=4,
        rng=rng,
    )
    assert found.edges.tolist() == [0, 1, 2, 3, 4]
    assert_close(found.mean, torch.tensor([0.0, 0, 0, 1], dtype=torch.float64))
    assert_close(found.noise, torch.zeros(4, dtype=torch.float64))


def test_noise_of_the_signed_curve_is_what_the_draw_of_chains_changes(rng):
    """The same input under 64 ids: only the chains differ, so the spread over samples is the noise itself."""
    weights = Stream(3).normal((1, 6))[0]
    found = signed_order_curve(
        Scored(lambda x: (x * weights).sum(1) ** 3),
        ones(64, 6),
        torch.zeros(64, dtype=torch.int64),
        Features(fill="zero"),
        permutations=8,
        bins=2,
        rng=rng,
    )
    assert_close(found.noise, found.stderr, rtol=0.25, atol=0)


# -- refusals -------------------------------------------------------------------------------------------------------


def test_refusals(rng):
    model, x = small_cnn(), images(2)
    masker = Patches(4, fill="zero")
    with pytest.raises(ValueError, match="at least one input, got 0 inputs"):
        bottleneck(model, x[:0], torch.zeros(0, dtype=torch.int64), masker, rng=rng)
    with pytest.raises(ValueError, match="rng is bound to 3 samples but there are 2 inputs"):
        bottleneck(model, x, torch.tensor([0, 1]), masker, rng=rng.at([1, 2, 3]))
    with pytest.raises(ValueError, match="class 7 is outside the model's classes 0 to 2"):
        bottleneck(model, x, torch.tensor([7, 7]), masker, settings=SpectrumSettings(1, 1, 2), rng=rng)
    found = bottleneck(model, x, torch.tensor([0, 1]), masker, value=logit, settings=SpectrumSettings(1, 1, 2), rng=rng)
    with pytest.raises(ValueError, match="order 6 was not measured"):
        found.pairs_heatmap(6)
    with pytest.raises(ValueError, match="order 6 was not measured"):
        found.strongest_pairs(6, sample=0)
    flat = spectrum(lambda x: x.prod(1), 4, rng)
    with pytest.raises(ValueError, match="only players on a grid have a heat map"):
        flat.pairs_heatmap(0)
