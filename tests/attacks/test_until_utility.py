"""Attacks of controlled strength: they land in the window, stay in the ball, and tell who does not land."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from pellucid.attacks import L2, PGD, Linf, half_margin, until_utility
from pellucid.core import ModelError, Stream


def linear(width=12, classes=3):
    model = nn.Linear(width, classes).double()
    with torch.no_grad():
        model.weight.copy_(4 * Stream(0).child("w").normal((classes, width), dtype=torch.float64))
    return model


def curved():
    with Stream(1).child("net").forked():
        return nn.Sequential(nn.Linear(12, 24), nn.Tanh(), nn.Linear(24, 3)).double()


def inputs(model, samples=10):
    x = Stream(2).uniform((samples, 12), dtype=torch.float64)
    return x, model(x).argmax(1)


def drop(model, x, found, y):
    return (model(x) - model(found.inputs)).gather(1, y[:, None])[:, 0].detach()


@pytest.mark.parametrize("space", [Linf(0.5), L2(1.5)], ids=["linf", "l2"])
def test_on_a_linear_model_every_sample_lands_in_the_window(space):
    model = linear()
    x, y = inputs(model)
    found = until_utility(PGD(space, steps=200, step_size=0.02), 0.5, window=0.1, flipped=False)(
        model, x, y, rng=Stream(0)
    )
    assert found.landed.all()
    assert found.clean.all()
    assert_close(found.utility, drop(model, x, found, y))
    assert bool(((found.utility > 0.5) & (found.utility <= 0.6)).all())
    assert "10 of 10 samples landed" in found.note
    assert not found.masked


@pytest.mark.parametrize("make", [linear, curved])
def test_no_input_leaves_the_ball_or_the_bounds(make):
    model = make()
    x, y = inputs(model)
    found = until_utility(PGD(Linf(0.05), steps=40), 100.0)(model, x, y, rng=Stream(0))
    assert not found.landed.any()
    assert float((found.inputs - x).abs().max()) <= 0.05 + 1e-12
    assert float(found.inputs.min()) >= 0
    assert float(found.inputs.max()) <= 1
    assert "0 of 10 samples landed" in found.note


def test_a_sample_does_not_depend_on_its_batch():
    model = curved()
    x, y = inputs(model)
    attack = until_utility(PGD(Linf(0.3), steps=60, step_size=0.1), window=0.05)
    whole = attack(model, x, y, rng=Stream(0))
    for k in range(len(x)):
        one = attack(model, x[k : k + 1], y[k : k + 1], rng=Stream(0).at([k]))
        assert_close(one.inputs, whole.inputs[k : k + 1])
        assert one.landed.tolist() == whole.landed[k : k + 1].tolist()
        assert_close(one.utility, whole.utility[k : k + 1])


def test_overshoot_halves_the_step_and_lands_in_a_window_much_finer_than_it():
    model = linear()
    x, y = inputs(model)
    attack = PGD(Linf(0.5), steps=100, step_size=0.2)
    found = until_utility(attack, 1.0, window=1e-3, flipped=False)(model, x, y, rng=Stream(0))
    assert found.landed.all()
    assert bool((found.utility - 1.0 <= 1e-3).all())


def test_the_class_must_have_flipped_before_the_utility_counts():
    model = linear()
    x, y = inputs(model)
    found = until_utility(PGD(Linf(0.9), steps=300, step_size=0.01), 0.01, window=20.0)(model, x, y, rng=Stream(0))
    assert found.landed.any()
    assert_close(found.found.success, model(found.inputs).argmax(1) != y)
    assert bool(found.found.success[found.landed].all())


def test_half_the_clean_margin_is_the_strength_if_none_is_given():
    model = linear()
    x, y = inputs(model)
    z = model(x).detach()
    top = z.sort(1, descending=True).values
    assert_close(half_margin(z, y), (top[:, 0] - top[:, 1]) / 2)
    assert not half_margin(z, (y + 1) % 3).any()
    found = until_utility(PGD(Linf(0.9), steps=100))(model, x, y, rng=Stream(0))
    assert_close(found.wanted, half_margin(z, y))


def test_towards_a_target_the_utility_is_the_rise_of_its_lead():
    model = linear()
    x, y = inputs(model)
    target = (y + 1) % 3
    found = until_utility(PGD(Linf(0.9), steps=300, step_size=0.02), 2.0, window=0.2)(
        model, x, y, rng=Stream(0), target=target
    )

    def lead(z):
        return (z.gather(1, target[:, None]) - z.gather(1, y[:, None]))[:, 0]

    assert found.landed.all()
    assert_close(found.utility, (lead(model(found.inputs)) - lead(model(x))).detach())
    assert_close(found.found.success, model(found.inputs).argmax(1) == target)


def test_a_start_above_its_window_is_given_up_at_once():
    model = linear()
    x, y = inputs(model)
    found = until_utility(PGD(Linf(0.9), steps=50), 1e-9, window=1e-12, flipped=False)(model, x, y, rng=Stream(0))
    assert not found.landed.all()


def test_zero_gradients_are_told():
    class Stairs(nn.Module):
        def forward(self, x):
            return (x * 4).round()[:, :3] + 0 * x[:, :3]

    x = Stream(2).uniform((4, 12), dtype=torch.float64)
    found = until_utility(PGD(Linf(0.01), steps=5))(Stairs(), x, Stairs()(x).argmax(1), rng=Stream(0))
    assert found.masked
    assert "gradients are zero" in found.note


def test_evaluations_are_counted_and_the_model_is_left_as_it_was():
    model = curved().train()
    spent = []
    model.register_forward_hook(lambda m, i, o: spent.append(len(o) * (1 + i[0].requires_grad)))
    x, y = inputs(model)
    spent.clear()
    found = until_utility(PGD(Linf(0.2), steps=20))(model, x, y, rng=Stream(0))
    assert found.found.evaluations == sum(spent)
    assert model.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: until_utility(PGD(Linf(0.1)), 0.0), "utility must be above 0"),
        (lambda: until_utility(PGD(Linf(0.1)), window=0.0), "window must be above 0"),
        (lambda: until_utility(PGD(Linf(0.1), steps=0)), "at least one step"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_model_that_gives_nan_is_named_as_the_cause():
    x = Stream(2).uniform((4, 12))
    with pytest.raises(ModelError, match="NaN or infinity under attack"):
        until_utility(PGD(Linf(0.1)))(lambda x: x[:, :3] / 0, x, torch.zeros(4, dtype=torch.int64), rng=Stream(0))
    with pytest.raises(ModelError, match="must return logits"):
        until_utility(PGD(Linf(0.1)))(lambda x: x[:, 0], x, torch.zeros(4, dtype=torch.int64), rng=Stream(0))
    with pytest.raises(ModelError, match="does not depend on its input"):
        until_utility(PGD(Linf(0.1)))(lambda x: x.detach()[:, :3], x, torch.zeros(4, dtype=torch.int64), rng=Stream(0))
    with pytest.raises(ValueError, match="classes from 0 to 2"):
        until_utility(PGD(Linf(0.1)))(
            lambda x: x[:, :3],
            x,
            torch.zeros(4, dtype=torch.int64),
            rng=Stream(0),
            target=torch.full((4,), 3, dtype=torch.int64),
        )
    with pytest.raises(ValueError, match="one number per sample"):
        until_utility(PGD(Linf(0.1)), lambda z, y: z.sum())(
            lambda x: x[:, :3], x, torch.zeros(4, dtype=torch.int64), rng=Stream(0)
        )
