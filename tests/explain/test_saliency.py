"""SmoothGrad: exact on linear models, a mean over noise elsewhere, the same in every batch."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from pellucid.core import DataError, ModelError
from pellucid.explain import cost_smooth_grad, smooth_grad


def linear(rng, channels=2):
    with rng.child("linear").forked():
        return nn.Sequential(nn.Flatten(), nn.Linear(channels * 20, 3)).double()


def test_a_linear_model_shows_its_weights(rng):
    model = linear(rng)
    x = rng.uniform((3, 2, 4, 5)).double()
    y = torch.tensor([0, 2, 1])
    expected = model[1].weight[y].reshape(3, 2, 4, 5).abs().sum(1)
    assert_close(smooth_grad(model, x, y, samples=4, rng=rng), expected.detach())
    assert model[1].weight.grad is None


def test_without_noise_it_is_the_gradient(rng):
    x = rng.uniform((2, 1, 4, 4)).double()

    def square(x):
        return torch.stack((x.flatten(1).square().sum(1), x.flatten(1).sum(1)), 1)

    assert_close(smooth_grad(square, x, torch.zeros(2, dtype=torch.int64), samples=2, noise=0, rng=rng), 2 * x[:, 0])


def test_the_noise_is_averaged_over_its_samples(rng):
    """The slope of a steep step is a spike; its mean over noise of deviation 0.5 is about the normal density there."""
    x = torch.zeros(1, 1, 1, 2, dtype=torch.float64)
    x[..., 1] = 1  # a range of 1, so that the noise has deviation 0.5

    def steep(x):
        z = torch.sigmoid(20 * x[:, 0, 0, 0])
        return torch.stack((z, -z), 1)

    found = smooth_grad(steep, x, torch.tensor([0]), samples=400, noise=0.5, rng=rng)
    assert float(found[0, 0, 0]) == pytest.approx(0.785, rel=0.25)
    assert float(found[0, 0, 1]) == 0


def test_a_map_does_not_depend_on_its_batch(rng):
    with rng.child("net").forked():
        model = nn.Sequential(nn.Flatten(), nn.Linear(20, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    x, y = rng.uniform((5, 1, 4, 5)).double(), torch.tensor([0, 1, 2, 0, 1])
    ids = torch.tensor([4, 9, 1, 7, 3])
    whole = smooth_grad(model, x, y, samples=5, rng=rng.at(ids))
    assert_close(smooth_grad(model, x, y, samples=5, rng=rng.at(ids), batch_size=2), whole)
    assert_close(smooth_grad(model, x[3:4], y[3:4], samples=5, rng=rng.at(ids[3:4])), whole[3:4])
    assert cost_smooth_grad(5, samples=5) == 50


def test_bad_input_is_told(rng):
    model, x, y = linear(rng), rng.uniform((2, 2, 4, 5)).double(), torch.tensor([0, 1])
    with pytest.raises(DataError, match="pictures"):
        smooth_grad(model, x.flatten(1)[..., None], y, rng=rng)
    with pytest.raises(DataError, match="int64 of shape"):
        smooth_grad(model, x, y[:1], rng=rng)
    with pytest.raises(DataError, match="classes 0 to 2, got 0 to 3"):
        smooth_grad(model, x, torch.tensor([0, 3]), rng=rng)
    with pytest.raises(ValueError, match="samples must be at least 1"):
        smooth_grad(model, x, y, samples=0, rng=rng)
    with pytest.raises(ValueError, match="noise must be a share"):
        smooth_grad(model, x, y, noise=float("nan"), rng=rng)
    with pytest.raises(ValueError, match="bound to 1 samples"):
        smooth_grad(model, x, y, rng=rng.at([5]))
    with pytest.raises(ModelError, match="do not follow the inputs"):
        smooth_grad(lambda x: model(x.detach()).detach(), x, y, rng=rng)
    with pytest.raises(ModelError, match="logits of shape"):
        smooth_grad(lambda x: x.sum((1, 2, 3)), x, y, rng=rng)
    with pytest.raises(ModelError, match="gradient for sample 0 holds NaN"):
        smooth_grad(lambda x: torch.stack((x.mean((1, 2, 3)), -x.mean((1, 2, 3))), 1) * torch.nan, x, y, rng=rng)
