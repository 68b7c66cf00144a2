from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from pellucid.core import Stream
from pellucid.nn import jacobian_norm, jacobian_penalty, spectral_radius


def maps(a: Tensor) -> object:
    return lambda z: z @ a.T


def draw(*shape: int, seed: int = 0) -> Tensor:
    return Stream(seed).child("draw").normal(shape, dtype=torch.float64)


@pytest.mark.parametrize("angle", [0.3, math.pi / 2, 2.0, math.pi])
def test_radius_is_right_for_complex_pairs(angle: float, rng: Stream) -> None:
    c, s = 0.9 * math.cos(angle), 0.9 * math.sin(angle)
    a = torch.zeros(30, 30, dtype=torch.float64)
    a[:2, :2] = torch.tensor([[c, -s], [s, c]])
    a[2:, 2:] = torch.diag(torch.linspace(-0.5, 0.5, 28, dtype=torch.float64))
    basis = torch.linalg.qr(draw(30, 30))[0]
    found = spectral_radius(maps(basis @ a @ basis.T), torch.zeros(3, 30).double(), rng=rng)
    assert_close(found, torch.full((3,), 0.9, dtype=torch.float64), atol=1e-4, rtol=0)


@pytest.mark.parametrize("d", [1, 2, 7, 20])
def test_small_states_are_exact(d: int, rng: Stream) -> None:
    a = draw(d, d, seed=d)
    z = torch.zeros(2, d, dtype=torch.float64)
    radius = torch.linalg.eigvals(a).abs().max().expand(2)
    assert_close(spectral_radius(maps(a), z, rng=rng), radius, atol=1e-8, rtol=0)
    assert_close(jacobian_norm(maps(a), z, rng=rng), torch.linalg.matrix_norm(a, 2).expand(2), atol=1e-6, rtol=0)


def test_each_sample_has_its_own_jacobian(rng: Stream) -> None:
    a, x = draw(6, 6), draw(4, 6, seed=2)
    z = draw(4, 6, seed=3)
    f = lambda z, x: torch.tanh(z @ a.T + x)  # noqa: E731
    jacobians = (1 - f(z, x) ** 2)[:, :, None] * a
    radius, norm = torch.linalg.eigvals(jacobians).abs().amax(1), torch.linalg.matrix_norm(jacobians, 2)
    assert_close(spectral_radius(f, z, inputs=(x,), rng=rng), radius, atol=1e-8, rtol=0)
    assert_close(jacobian_norm(f, z, inputs=(x,), rng=rng), norm, atol=1e-7, rtol=0)
    one = spectral_radius(f, z[2:3], inputs=(x[2:3],), rng=rng.at([2]))
    assert_close(one, radius[2:3], atol=1e-8, rtol=0)


def test_a_nilpotent_jacobian_has_radius_zero_and_a_norm(rng: Stream) -> None:
    a = torch.tensor([[0.0, 5.0], [0.0, 0.0]], dtype=torch.float64)
    assert spectral_radius(maps(a), torch.zeros(1, 2).double(), rng=rng).item() < 1e-6
    assert_close(jacobian_norm(maps(a), torch.zeros(1, 2).double(), rng=rng).item(), 5.0)


def test_constant_maps_have_no_jacobian(rng: Stream) -> None:
    constant = lambda z: torch.ones_like(z)  # noqa: E731
    z = torch.zeros(2, 3)
    assert (spectral_radius(constant, z, rng=rng) == 0).all()
    assert (jacobian_norm(constant, z, rng=rng) == 0).all()


def test_several_scales_and_modules_left_as_they_were(rng: Stream) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.drop = nn.Linear(3, 2, bias=False), nn.Dropout(0.5)

        def forward(self, z: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            return self.drop(z[1] @ self.a.weight), self.drop(self.a(z[0]))

    cell = Two()
    z = (torch.zeros(2, 3), torch.zeros(2, 2))
    norm = torch.linalg.matrix_norm(cell.a.weight.detach(), 2)
    assert_close(spectral_radius(cell, z, rng=rng), norm.expand(2), atol=1e-5, rtol=0)
    assert_close(jacobian_norm(cell, z, rng=rng), norm.expand(2), atol=1e-4, rtol=0)
    assert cell.training
    assert cell.a.weight.requires_grad
    assert cell.a.weight.grad is None


def test_penalty_is_the_mean_square_and_has_gradients(rng: Stream) -> None:
    a = draw(5, 5).requires_grad_()
    z = torch.zeros(3000, 5, dtype=torch.float64)
    penalty = jacobian_penalty(maps(a), z, probes=4, rng=rng)
    wanted = a.square().sum() / 5
    assert abs(penalty.item() / wanted.item() - 1) < 0.05
    (found,) = torch.autograd.grad(penalty, a)
    assert_close(found, 2 * a.detach() / 5, atol=0.05, rtol=0.1)
    assert jacobian_penalty(torch.ones_like, z, rng=rng).item() == 0


def test_bad_counts_are_refused(rng: Stream) -> None:
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        spectral_radius(torch.tanh, torch.zeros(1, 1), steps=0, rng=rng)
    with pytest.raises(ValueError, match="probes must be at least 1, got 0"):
        jacobian_penalty(torch.tanh, torch.zeros(1, 1), probes=0, rng=rng)


def test_a_point_that_is_not_finite_has_an_unknown_radius(rng: Stream) -> None:
    z = torch.tensor([[float("nan"), 0.0], [0.0, 0.0]])
    for found in (spectral_radius(torch.tanh, z, rng=rng), jacobian_norm(torch.tanh, z, rng=rng)):
        assert found[0].isnan()
        assert_close(found[1].item(), 1.0)
