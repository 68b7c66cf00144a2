"""The law whose concentration grows with length: closed forms, expansions, simulation."""

from __future__ import annotations

import math

import pytest
import torch

from pellucid.core import Stream
from pellucid.explain import vmf_kappa, vmf_log_prob, vmf_mean_length, vmf_posterior

KNOWN = {0.0: 0.0, 0.5: 0.81206, 1.0: 1.71545, 2.0: 4.33887, 3.0: 9.04516, 5.0: 25.0, 10.0: 100.0}


def test_known_values_in_three_dimensions():
    lengths = torch.tensor(list(KNOWN), dtype=torch.float64)
    torch.testing.assert_close(vmf_kappa(lengths), torch.tensor(list(KNOWN.values())).double(), atol=1e-4, rtol=0)


def test_the_concentration_has_the_mean_length_that_the_noise_leaves():
    lengths = torch.linspace(0.02, 30, 500, dtype=torch.float64)
    seen = math.sqrt(2 / math.pi) * torch.exp(-(lengths**2) / 2) / lengths
    seen = seen + (1 - 1 / lengths**2) * torch.erf(lengths / math.sqrt(2))
    kappa = vmf_kappa(lengths)
    torch.testing.assert_close(1 / torch.tanh(kappa) - 1 / kappa, seen, atol=1e-9, rtol=0)
    torch.testing.assert_close(vmf_mean_length(kappa), seen, atol=1e-9, rtol=0)


@pytest.mark.parametrize("dim", [2, 3, 4, 16])
def test_directions_of_noisy_vectors_agree(dim):
    length = 1.7
    noisy = Stream(3).normal((100_000, dim), dtype=torch.float64)
    noisy[:, 0] += length
    seen = float((noisy[:, 0] / noisy.norm(dim=1)).mean())
    kappa = vmf_kappa(torch.tensor([length], dtype=torch.float64), dim=dim)
    assert float(vmf_mean_length(kappa, dim=dim)) == pytest.approx(seen, abs=6e-3)


@pytest.mark.parametrize("dim", [2, 3, 8, 64])
def test_float32_is_finite_and_increasing_up_to_ten_thousand(dim):
    lengths = torch.cat([torch.zeros(1), torch.logspace(-6, 4, 4000)])
    kappa = vmf_kappa(lengths, dim=dim)
    assert bool(kappa.isfinite().all())
    assert bool((kappa[1:] >= kappa[:-1]).all())
    assert float(kappa[0]) == 0
    slope = math.sqrt(2) * dim * math.exp(math.lgamma((dim + 1) / 2) - math.lgamma(dim / 2 + 1)) / 2
    torch.testing.assert_close(kappa[1:500], slope * lengths[1:500], rtol=1e-2, atol=1e-7)
    torch.testing.assert_close(kappa[-300:], lengths[-300:] ** 2 + (dim - 3) / 2, rtol=1e-4, atol=0)


def test_sigma_is_the_unit_of_lengths():
    lengths = torch.tensor([0.3, 2.0, 5.0])
    torch.testing.assert_close(vmf_kappa(2 * lengths, sigma=2.0), vmf_kappa(lengths))


def test_gradients_of_kappa():
    lengths = torch.tensor([1e-3, 0.4, 1.9, 12.0, 80.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(vmf_kappa, (lengths,))


def test_log_density_integrates_to_one():
    up = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    cosines = torch.linspace(-1, 1, 20_001, dtype=torch.float64)
    ring = torch.stack([(1 - cosines**2).sqrt(), torch.zeros_like(cosines), cosines], 1)
    for kappa in (0.0, 0.7, 9.0, 300.0):
        density = vmf_log_prob(ring, up, torch.full_like(cosines, kappa)).exp()
        assert float(2 * math.pi * torch.trapezoid(density, cosines)) == pytest.approx(1, abs=1e-4)


def test_posterior_on_three_axes():
    axes = torch.eye(3, dtype=torch.float64)
    found = vmf_posterior(axes[:1], axes)[0]
    assert float(found[0]) == pytest.approx(math.exp(1.71545) / (math.exp(1.71545) + 2), abs=1e-5)
    assert float(found.sum()) == pytest.approx(1)
    prior = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    torch.testing.assert_close(vmf_posterior(torch.zeros(1, 3).double(), axes, prior)[0], prior)
    # At this length the class it points to has exactly 0.4 among three.
    assert float(vmf_posterior(0.17987 * axes[0], axes)[0]) == pytest.approx(0.4, abs=1e-5)


def test_posterior_does_not_change_when_all_is_turned(rng):
    turn, _ = torch.linalg.qr(rng.normal((3, 3), dtype=torch.float64))
    g, mu = rng.child(1).normal((20, 3), dtype=torch.float64), torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(vmf_posterior(g @ turn, mu @ turn), vmf_posterior(g, mu))


@pytest.mark.parametrize(
    ("how", "text"), [({"dim": 1}, "from 2 to 64"), ({"dim": 65}, "from 2 to 64"), ({"sigma": 0.0}, "above 0")]
)
def test_settings_out_of_range(how, text):
    with pytest.raises(ValueError, match=text):
        vmf_kappa(torch.ones(2), **how)
