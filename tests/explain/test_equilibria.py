"""Implicit layers watched on inputs: against closed forms, and without a trace."""

import math

import pytest
import torch
from torch import nn

from pellucid.core import ModelError, Stream
from pellucid.explain import cost_equilibria, equilibria, implicit_layers
from pellucid.nn import Anderson, Broyden, Equilibrium, Implicit, Neumann, OneStep, Phantom, Picard


class Linear(nn.Module):
    """The state solves z = a z + x, with its own factor a per number."""

    def __init__(self, factors):
        super().__init__()
        self.factors = nn.Parameter(torch.tensor(factors, dtype=torch.float64))

    def forward(self, z, x):
        return self.factors * z + x


class Model(nn.Module):
    def __init__(self, factors=(0.5, 0.3), solver=None, backward=None):
        super().__init__()
        self.layer = Equilibrium(Linear(factors), solver or Picard(max_iter=60, tol=1e-9), backward or Phantom())

    def forward(self, x):
        return self.layer(torch.zeros_like(x), x)


X = Stream(3).normal((6, 2)).double()
Y = torch.tensor([0, 1, 0, 1, 0, 1])


def view(model, **settings):
    (found,) = equilibria(model, X, Y, few=3, rng=Stream(0), **settings)
    return found


def test_jacobian_and_gradients_are_those_of_the_closed_form():
    found = view(Model())
    assert found.layer == "layer"
    assert found.size == 2
    assert bool(found.converged.all())
    torch.testing.assert_close(found.radius, torch.full((3,), 0.5, dtype=torch.float64))
    torch.testing.assert_close(found.norm, torch.full((3,), 0.5, dtype=torch.float64))
    upg, npg, one, exact = found.modes
    assert upg.own
    assert [mode.name for mode in (npg, one, exact)] == ["Neumann series, 5 steps, damping 0.5", "one step", "exact"]
    torch.testing.assert_close(exact.cosine, torch.ones(3, dtype=torch.float64))
    # u_k = (1 - b^k) / (1 - a) v with b = 1 - (1 - a) / 2, and 1 / (1 - a) v for the exact gradient, per number.
    shares = torch.tensor([1 - 0.75**5, 1 - 0.65**5], dtype=torch.float64)
    assert shares.min() <= npg.ratio.min() <= npg.ratio.max() <= shares.max()
    torch.testing.assert_close(upg.ratio, npg.ratio, rtol=1e-6, atol=1e-6)
    assert 0.5 <= one.ratio.min() <= one.ratio.max() <= 0.7  # 1 - a
    assert (upg.evaluations, npg.evaluations, one.evaluations) == (15, 11, 3)
    assert upg.kept > npg.kept == one.kept == exact.kept


def test_the_certificate_holds_where_the_state_is_small():
    certificate = view(Model(backward=Neumann(steps=30, damping=1.0))).certificate
    assert bool(certificate.certified.all())
    assert view(Model(backward=Neumann(steps=1, damping=0.01))).own.cosine.min() > 0


def test_steps_that_are_missing_are_counted():
    model = Model((0.9, 0.2), Picard(max_iter=20, tol=1e-3))
    found = view(model)
    assert not bool(found.converged.any())
    assert bool((found.steps == 20).all())
    assert bool(((found.needed > 20) & (found.needed <= 80)).all())
    again = view(Model((0.9, 0.2), Picard(max_iter=int(found.needed.max()), tol=1e-3)))
    assert bool(again.converged.all())
    assert torch.equal(again.steps, found.needed)


def test_a_cell_that_pushes_apart_is_told():
    found = view(Model((1.5, 0.2), Picard(max_iter=10)))
    assert found.radius.min() > 1.4
    assert not bool(found.converged.any())
    assert bool((found.needed == -1).all())


def test_nothing_is_left_behind():
    model = Model(solver=Anderson(), backward=OneStep()).train()
    before = model.layer.last, model.layer.solver, model.layer.backward
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    view(model)
    assert (model.layer.last, model.layer.solver, model.layer.backward) == before
    assert model.training
    assert not model.layer._forward_hooks
    assert not model.layer.cell._forward_hooks
    assert model.layer.cell.factors.grad is None
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())


def test_a_sample_is_seen_alike_whatever_the_batch():
    one, two = view(Model(), batch_size=1), view(Model(), batch_size=6)
    assert torch.equal(one.steps, two.steps)
    torch.testing.assert_close(one.residual, two.residual)
    torch.testing.assert_close(one.history, two.history)
    torch.testing.assert_close(one.radius, two.radius)


def test_every_way_is_timed_and_its_own_way_is_named():
    seen = []

    class Clock:
        def __init__(self, name):
            seen.append(name)

        def __enter__(self): ...

        def __exit__(self, *_): ...

    found = view(Model(backward=Phantom(steps=2, damping=1.0)), clock=Clock)
    assert found.own.name == "unrolled, 2 steps, damping 1"
    assert seen.count("layer, exact") == 3
    assert view(Model(backward=Implicit())).own.name == "exact"


def test_frozen_cells_and_several_layers_are_looked_at():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = Model(), Model(solver=Broyden(max_iter=20, tol=1e-6))
            self.first.layer.cell.factors.requires_grad_(False)

        def forward(self, x):
            return self.second(self.first(x))

    model = Two()
    assert list(implicit_layers(model)) == ["first.layer", "second.layer"]
    first, second = equilibria(model, X, None, few=2, rng=Stream(0))
    assert (first.solver, second.solver) == ("plain iteration", "Broyden")
    assert math.isfinite(first.own.together)
    assert not model.first.layer.cell.factors.requires_grad
    assert cost_equilibria(2, 6, 2) == first.evaluations + second.evaluations


def test_models_without_a_layer_or_with_an_idle_one_are_refused():
    with pytest.raises(ModelError, match="no implicit layer"):
        equilibria(nn.Linear(2, 2), X, Y, rng=Stream(0))

    class Idle(Model):
        def forward(self, x):
            return x

    with pytest.raises(ModelError, match="layer is not called once"):
        view(Idle())
