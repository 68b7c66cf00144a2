"""Robustness curves: exact on linear models, monotone by construction, every error replayable."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from pellucid.attacks import L2, PGD, Linf, RandomSearch
from pellucid.core import DataError, ModelError, Stream, wilson
from pellucid.metrics import robustness_curve, robustness_evaluations

RADII = [0.01, 0.02, 0.05, 0.1, 0.2]


@pytest.fixture
def net(rng: Stream) -> nn.Module:
    with rng.child("net").forked():
        return nn.Sequential(nn.Linear(20, 40), nn.Tanh(), nn.Dropout(0.5), nn.Linear(40, 3))


@pytest.fixture
def x(rng: Stream) -> Tensor:
    return rng.child("x").uniform((60, 20))


@pytest.fixture
def y(net: nn.Module, x: Tensor) -> Tensor:
    """What the model says, but wrong for the first five."""
    with torch.no_grad():
        y = net.eval()(x).argmax(1)
    y[:5] = (y[:5] + 1) % 3
    return y


def linf(eps: float) -> PGD:
    return PGD(Linf(eps), steps=8)


@pytest.mark.parametrize(("space", "dual", "tolerance"), [(Linf, 1, 2e-3), (L2, 2, 5e-3)])
def test_smallest_radius_of_a_linear_model_is_margin_over_norm(
    space: Any, dual: int, tolerance: float, rng: Stream
) -> None:
    w, x = rng.child("w").normal((1, 12))[0], rng.child("x").normal((40, 12))
    margin = x @ w + 0.3
    y = (margin < 0).long()  # logits (m, 0): class 0 where the margin is positive

    def model(x: Tensor) -> Tensor:
        m = x @ w + 0.3
        return torch.stack([m, torch.zeros_like(m)], dim=1)

    exact = (margin.abs() / w.norm(dual)).double()
    radii = torch.linspace(0.1, 1.0, 7) * float(exact.max()) * 1.1
    curve = robustness_curve(
        model, x, y, lambda r: PGD(space(r, bounds=None), step_size=0.5), radii.tolist(), rng=rng, bisections=14
    )
    assert_close(curve.smallest, exact, rtol=tolerance, atol=1e-3)
    assert (curve.smallest >= exact * (1 - 1e-4)).all()  # never smaller than possible
    assert_close(curve.accuracy.value, (exact > curve.radii[:, None]).double().mean(1), atol=0.03, rtol=0)


def test_the_smallest_distortions_do_fool_the_model(net: nn.Module, x: Tensor, y: Tensor, rng: Stream) -> None:
    curve = robustness_curve(net, x, y, linf, RADII, rng=rng)
    space = Linf(RADII[-1])
    fooled = curve.smallest.isfinite()
    assert fooled.sum() > 30
    assert (~fooled).any()
    with torch.no_grad():
        wrong = net.eval()(space.render(x, curve.params)).argmax(1) != y
    assert torch.equal(wrong, fooled)
    assert_close(space.size(x, curve.params)[fooled].double(), curve.smallest[fooled], atol=1e-7, rtol=0)
    assert torch.equal(curve.params[~fooled], torch.zeros_like(curve.params[~fooled]))


def test_clean_errors_have_radius_zero(net: nn.Module, x: Tensor, y: Tensor, rng: Stream) -> None:
    curve = robustness_curve(net, x, y, linf, [0.0, 0.05], rng=rng)
    assert curve.smallest[:5].tolist() == [0.0] * 5
    assert not curve.correct[:5].any()
    assert curve.correct[5:].all()
    assert curve.attacked.tolist() == [0] * 5 + [1] * 55
    assert curve.accuracy.value[0] == 55 / 60
    assert torch.equal(curve.params[:5], torch.zeros(5, 20))


def test_accuracy_counts_the_samples_whose_radius_is_larger(net: nn.Module, x: Tensor, y: Tensor, rng: Stream) -> None:
    curve = robustness_curve(net, x, y, linf, RADII, rng=rng)
    for k, radius in enumerate(RADII):
        held = int((~curve.fooled(radius)).sum())
        assert curve.accuracy.value[k] == held / 60
        interval = wilson(held, 60)
        assert (float(curve.accuracy.low[k]), float(curve.accuracy.high[k])) == (interval.low, interval.high)
    assert (curve.accuracy.value.diff() <= 0).all()


def test_a_radius_that_rounds_up_in_float32_still_counts(rng: Stream) -> None:
    """0.1 is 0.100000001 in float32; the attack that used all of it was within the radius."""

    def model(x: Tensor) -> Tensor:
        return torch.cat([x - 0.4000001, 0.4000001 - x], dim=1)

    curve = robustness_curve(
        model, torch.tensor([[0.5]]), torch.tensor([0]), lambda r: PGD(Linf(r)), [0.1], rng=rng, bisections=0
    )
    assert curve.accuracy.value.tolist() == [0.0]


def test_bisection_only_shrinks(net: nn.Module, x: Tensor, y: Tensor, rng: Stream) -> None:
    rough = robustness_curve(net, x, y, linf, [0.4], rng=rng, bisections=0)
    fine = robustness_curve(net, x, y, linf, [0.4], rng=rng, bisections=10)
    assert (fine.smallest <= rough.smallest).all()
    assert fine.smallest[fine.smallest.isfinite()].mean() < 0.7 * rough.smallest[rough.smallest.isfinite()].mean()


@pytest.mark.parametrize("size", [1, 7])
def test_batch_size_and_company_do_not_matter(net: nn.Module, x: Tensor, y: Tensor, size: int, rng: Stream) -> None:
    net, x, y = net.double(), x[:20].double(), y[:20]
    whole = robustness_curve(net, x, y, linf, RADII, rng=rng)
    batches = robustness_curve(net, x, y, linf, RADII, rng=rng, batch_size=size)
    assert_close(batches.smallest, whole.smallest, atol=1e-9, rtol=0)
    assert batches.evaluations == whole.evaluations
    rows = torch.tensor([15, 8, 2])
    few = robustness_curve(net, x[rows], y[rows], linf, RADII, rng=rng.at(rows))
    assert_close(few.smallest, whole.smallest[rows], atol=1e-9, rtol=0)


def test_evaluations_stay_below_the_plan(net: nn.Module, x: Tensor, y: Tensor, rng: Stream) -> None:
    curve = robustness_curve(net, x, y, linf, [0.0, *RADII], rng=rng)
    most = robustness_evaluations(60, linf, [0.0, *RADII])
    assert most == 60 * (1 + 5 * 19 + 8)
    assert 60 < curve.evaluations < most


def test_a_model_that_cannot_be_fooled_costs_the_plan_less_the_confirmations(x: Tensor, rng: Stream) -> None:
    def stubborn(x: Tensor) -> Tensor:
        return torch.cat([x.sum(1, keepdim=True) * 1e-3 + 5, x.sum(1, keepdim=True) * 0], dim=1)

    y = torch.zeros(60, dtype=torch.int64)
    curve = robustness_curve(stubborn, x, y, linf, RADII, rng=rng, bisections=0)
    plan = robustness_evaluations(60, linf, RADII, bisections=0)
    assert curve.evaluations == plan - 60 * len(RADII)
    assert curve.smallest.isinf().all()
    assert (curve.accuracy.value == 1).all()


def test_zero_gradients_are_passed_on(x: Tensor, rng: Stream) -> None:
    def flat(x: Tensor) -> Tensor:
        return torch.cat([(x - x.detach()).sum(1, keepdim=True) * 0 + 1, x[:, :1] * 0], dim=1)

    curve = robustness_curve(flat, x, torch.zeros(60, dtype=torch.int64), linf, [0.1, 0.2], rng=rng)
    assert curve.zero_gradients.tolist() == [16] * 60


def test_random_search_draws_a_curve_too(net: nn.Module, x: Tensor, y: Tensor, rng: Stream) -> None:
    drawn = robustness_curve(net, x, y, lambda r: RandomSearch(Linf(r), draws=5), RADII, rng=rng)
    climbed = robustness_curve(net, x, y, linf, RADII, rng=rng)
    assert (drawn.accuracy.value >= climbed.accuracy.value).all()


def test_progress_reaches_the_end(net: nn.Module, x: Tensor, y: Tensor, rng: Stream) -> None:
    seen: list[tuple[int, int]] = []
    robustness_curve(net, x, y, linf, [0.05, 0.1], rng=rng, batch_size=16, on_step=lambda *at: seen.append(at))
    assert seen == sorted(seen)
    assert seen[-1] == (120, 120)


def test_the_model_comes_back_as_it_was(net: nn.Module, x: Tensor, y: Tensor, rng: Stream) -> None:
    net.train()
    before, state = {k: v.clone() for k, v in net.state_dict().items()}, torch.get_rng_state()
    robustness_curve(net, x, y, linf, [0.1], rng=rng)
    assert all(module.training for module in net.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in net.parameters())
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("radii", [[], [0.1, 0.1], [0.2, 0.1], [-0.1, 0.1], [float("nan")]])
def test_radii_must_ascend(radii: list[float], rng: Stream) -> None:
    with pytest.raises(ValueError, match="radii must be ascending numbers of at least 0"):
        robustness_curve(lambda x: x, torch.rand(2, 2), torch.tensor([0, 1]), linf, radii, rng=rng)


def test_bad_input(rng: Stream) -> None:
    x, y = torch.full((3, 2), 0.5), torch.zeros(3, dtype=torch.int64)
    with pytest.raises(DataError, match="at least one sample"):
        robustness_curve(lambda x: x, x[:0], y[:0], linf, [0.1], rng=rng)
    with pytest.raises(DataError, match=r"y must be int64 of shape \(3,\)"):
        robustness_curve(lambda x: x, x, y[:2], linf, [0.1], rng=rng)
    with pytest.raises(ValueError, match="bisections must be >= 0 and batch_size >= 1, got -1 and 256"):
        robustness_curve(lambda x: x, x, y, linf, [0.1], rng=rng, bisections=-1)
    with pytest.raises(ValueError, match="rng is bound to 2 samples but x holds 3"):
        robustness_curve(lambda x: x, x, y, linf, [0.1], rng=rng.at([0, 1]))
    with pytest.raises(ModelError, match=r"must return logits of shape \(3, K\)"):
        robustness_curve(lambda x: x[:, 0], x, y, linf, [0.1], rng=rng)
    with pytest.raises(ModelError, match="NaN or infinity for sample 7;"):
        robustness_curve(lambda x: x * torch.nan, x, y, linf, [0.1], rng=rng.at([7, 8, 9]))
