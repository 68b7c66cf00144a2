from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from pellucid.core import Stream
from pellucid.nn import (
    Anderson,
    Backward,
    Equilibrium,
    Implicit,
    Neumann,
    OneStep,
    Phantom,
    ascent_certificate,
    gradient_agreement,
    min_phantom_steps,
)

D = 5
name = repr


class Cell(nn.Module):
    def __init__(self, scale: float = 0.5) -> None:
        super().__init__()
        self.linear = nn.Linear(D, D, dtype=torch.float64)
        weight = Stream(0).child("w").normal((D, D), dtype=torch.float64)
        with torch.no_grad():
            self.linear.weight.copy_(scale * weight / torch.linalg.matrix_norm(weight, 2))

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(self.linear(z) + x)


@pytest.fixture
def x() -> Tensor:
    return Stream(1).child("x").normal((3, D), dtype=torch.float64)


def test_the_condition_means_ascent(rng: Stream) -> None:
    """1000 random (J, G) at the bound: the inner product with the exact gradient is never negative."""
    n, p = 1000, D + 3
    g = rng.child("g").normal((n, p, D), dtype=torch.float64)
    j = rng.child("j").normal((n, D, D), dtype=torch.float64) * 0.3
    left = rng.child("e").normal((n, p, D), dtype=torch.float64)
    least = torch.linalg.svdvals(g)[:, -1]
    error = left * (least / torch.linalg.matrix_norm(left, 2))[:, None, None]  # as large as is allowed
    exact = g @ torch.linalg.inv(torch.eye(D).double() - j.mT)
    approximate = (g + error) @ torch.linalg.inv(torch.eye(D).double() - j.mT)
    v = rng.child("v").normal((n, D, 16), dtype=torch.float64)
    products = ((approximate @ v) * (exact @ v)).sum(1)
    assert (products >= -1e-9).all()
    # The worst direction of the worst error shows that the bound cannot be loosened: there the product is 0.
    u, s, vh = torch.linalg.svd(g[0])
    worst = -s[-1] * torch.outer(u[:, D - 1], vh[-1])
    assert abs(((g[0] + worst) @ vh[-1]) @ (g[0] @ vh[-1])) < 1e-12


@pytest.mark.parametrize(
    "backward", [Neumann(steps=2, damping=1.0), Phantom(steps=12), OneStep(), Implicit()], ids=name
)
def test_certificate_is_that_of_the_dense_matrices(x: Tensor, backward: Backward) -> None:
    cell = Cell()
    z = Equilibrium(cell, Anderson(tol=1e-12, max_iter=60), OneStep())(torch.zeros_like(x), x).detach()
    found = ascent_certificate(cell, z, backward, inputs=(x,))
    for k in range(len(x)):
        slope = torch.diag(1 - cell(z, x)[k].detach() ** 2)
        j = slope @ cell.linear.weight.detach()
        g = torch.cat([torch.kron(slope, z[k][:, None]), slope])  # weights, then biases
        steps, damping = {OneStep: (1, 1.0), Implicit: (400, 0.5)}.get(type(backward)) or (
            backward.steps,
            backward.damping,
        )
        b = damping * j + (1 - damping) * torch.eye(D).double()
        sizes = torch.linalg.svdvals(g)
        assert_close(found.allowed[k], sizes[-1], atol=1e-10, rtol=0)
        assert_close(found.condition[k], sizes[0] / sizes[-1], atol=1e-8, rtol=0)
        assert_close(found.norm[k], torch.linalg.matrix_norm(j, 2), atol=1e-10, rtol=0)
        error = torch.linalg.matrix_norm(g @ torch.linalg.matrix_power(b.mT, steps), 2)
        assert_close(found.error[k], error, atol=1e-10, rtol=0)
        assert bool(found.certified[k]) == bool(error <= sizes[-1])
    assert not found.vacuous.any()
    assert all(p.requires_grad for p in cell.parameters())


def test_enough_steps_are_certified_and_certified_gradients_ascend(x: Tensor) -> None:
    cell = Cell()
    z = Equilibrium(cell, Anderson(tol=1e-12, max_iter=60), OneStep())(torch.zeros_like(x), x).detach()
    first = ascent_certificate(cell, z, OneStep(), inputs=(x,))
    steps = max(min_phantom_steps(float(q), float(c)) for q, c in zip(first.norm, first.condition, strict=True))
    assert ascent_certificate(cell, z, Phantom(steps=steps), inputs=(x,)).certified.all()


def test_a_map_that_is_not_injective_makes_it_vacuous(x: Tensor) -> None:
    theta = torch.zeros(2, dtype=torch.float64, requires_grad=True)  # fewer parameters than numbers in the state
    found = ascent_certificate(lambda z: 0.1 * z + theta.sum(), x, Phantom(), parameters=[theta])
    assert found.vacuous.all()
    assert not found.certified.any()
    assert found.condition.isinf().all()
    dead = Cell()
    dead.linear.bias.data[0] = 500.0  # a saturated unit
    assert ascent_certificate(dead, x, Phantom(), inputs=(x,)).vacuous.all()


def test_what_cannot_be_judged_is_refused(x: Tensor) -> None:
    with pytest.raises(ValueError, match="no parameters to judge"):
        ascent_certificate(torch.tanh, x, Phantom())
    with pytest.raises(ValueError, match=r"2,000 numbers.*gradient_agreement"):
        ascent_certificate(nn.Linear(2000, 2000), torch.zeros(1, 2000), Phantom())


def test_steps_needed() -> None:
    assert min_phantom_steps(0.5, 10, damping=1.0) == 4
    assert min_phantom_steps(0.5, 10, damping=0.5) == 9
    assert min_phantom_steps(0.5, 1.0) == 1
    assert min_phantom_steps(0.0, 1e6, damping=1.0) == 1
    assert min_phantom_steps(0.5, 8.0, damping=1.0) == 3, "2 ** 3 = 8: no step more for rounding"
    for q, kappa, damping in ((0.9, 30.0, 0.5), (0.3, 4.0, 1.0)):
        k = min_phantom_steps(q, kappa, damping=damping)
        rate = 1 - damping * (1 - q)
        assert rate**k <= 1 / kappa < rate ** (k - 1)
    for arguments, said in (((1.0, 2.0), "contraction must be in"), ((0.5, math.inf), "condition must be")):
        with pytest.raises(ValueError, match=said):
            min_phantom_steps(*arguments)
    with pytest.raises(ValueError, match="damping must be in"):
        min_phantom_steps(0.5, 2.0, damping=0.0)


def test_agreement_is_one_for_the_exact_gradient_and_falls_with_fewer_steps(x: Tensor) -> None:
    layer = Equilibrium(Cell(0.9), Anderson(tol=1e-10, max_iter=60), Phantom())
    target = Stream(5).child("t").normal(x.shape, dtype=torch.float64)
    loss = lambda: (layer(torch.zeros_like(x), x) - target).square().sum()  # noqa: E731
    loss()
    last, backward = layer.last, layer.backward
    exact = gradient_agreement(layer, loss, backward=Implicit(Anderson(tol=1e-9, max_iter=100)))
    assert_close(exact.cosine, 1.0, atol=1e-9, rtol=0)
    assert_close(exact.ratio, 1.0, atol=1e-5, rtol=0)
    cosines = [gradient_agreement(layer, loss, backward=Neumann(steps=k, damping=1.0)).cosine for k in (1, 3, 9)]
    assert cosines == sorted(cosines)
    assert cosines[0] < 0.999 < cosines[-1]
    own = gradient_agreement(layer, loss)
    assert 0 < own.ratio < 1
    assert layer.backward is backward
    assert layer.last is last
    assert all(p.grad is None for p in layer.parameters())


def test_agreement_in_training_leaves_and_fixes_the_vectors_of_spectral_normalization(x: Tensor) -> None:
    cell = Cell()
    nn.utils.parametrizations.spectral_norm(cell.linear)
    exact = Implicit(Anderson(tol=1e-12, max_iter=99))
    layer = Equilibrium(cell, Anderson(tol=1e-12, max_iter=99), exact)
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    found = gradient_agreement(layer, lambda: layer(torch.zeros_like(x), x).square().sum(), exact=exact)
    assert_close(found.ratio, 1.0, atol=1e-12, rtol=0)
    assert all(torch.equal(value, before[key]) for key, value in layer.state_dict().items())


def test_agreement_is_not_told_without_a_gradient(x: Tensor) -> None:
    layer = Equilibrium(Cell())
    zero = gradient_agreement(layer, lambda: 0 * layer(torch.zeros_like(x), x).sum())
    assert math.isnan(zero.cosine)
    with pytest.raises(ValueError, match="loss must return one number"):
        gradient_agreement(layer, lambda: torch.zeros(()))
    for p in layer.parameters():
        p.requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter with requires_grad"):
        gradient_agreement(layer, lambda: torch.zeros(()))
