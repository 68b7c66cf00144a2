from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.testing import assert_close

from pellucid.core import ModelError, Stream
from pellucid.nn import (
    Anderson,
    Backward,
    Equilibrium,
    Implicit,
    Neumann,
    OneStep,
    Phantom,
    Picard,
    VariationalDropout,
)

BACKWARDS: list[Backward] = [Phantom(), Neumann(), Implicit(), OneStep()]
name = repr


class Cell(nn.Module):
    """tanh(0.5 drop(W z) + x), with W of norm 1 or what `linear` gives."""

    def __init__(self, linear: nn.Module | None = None, drop: nn.Module | None = None) -> None:
        super().__init__()
        self.linear, self.drop = linear or nn.Linear(6, 6, dtype=torch.float64), drop or nn.Identity()
        self.calls = 0

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        self.calls += 1
        return torch.tanh(0.5 * self.drop(self.linear(z)) + x)


class Counting(nn.Module):
    """A parametrization that counts how often the weight is made."""

    def __init__(self) -> None:
        super().__init__()
        self.made = 0

    def forward(self, weight: Tensor) -> Tensor:
        self.made += 1
        return weight / torch.linalg.matrix_norm(weight, 2)


@pytest.fixture
def x() -> Tensor:
    return Stream(0).child("x").normal((5, 6), dtype=torch.float64)


@pytest.mark.parametrize("backward", BACKWARDS, ids=name)
def test_output_is_the_fixed_point_and_training_reaches_every_parameter(x: Tensor, backward: Backward) -> None:
    layer = Equilibrium(Cell(), Anderson(tol=1e-10), backward)
    x.requires_grad_()
    z = layer(torch.zeros_like(x), x)
    assert_close(z, layer.cell(z, x), atol=1e-8, rtol=0)
    z.square().sum().backward()
    assert all((p.grad != 0).any() for p in [*layer.parameters(), x])
    assert layer.last is not None
    assert torch.equal(layer.last.value, z.detach())
    assert not layer.last.value.requires_grad


@pytest.mark.parametrize("backward", BACKWARDS, ids=name)
def test_gradients_in_eval_mode_are_those_in_training(x: Tensor, backward: Backward) -> None:
    layer = Equilibrium(Cell(), Anderson(tol=1e-2), backward)
    x.requires_grad_()
    trained = layer(torch.zeros_like(x), x)
    wanted = torch.autograd.grad(trained.sin().sum(), x)[0]
    layer.eval()
    z = layer(torch.zeros_like(x), x)
    assert torch.equal(z, trained)
    assert torch.equal(torch.autograd.grad(z.sin().sum(), x)[0], wanted)
    with torch.no_grad():
        assert_close(layer(torch.zeros_like(x), x), trained, atol=1e-14, rtol=0)


def test_eval_without_the_steps_of_training_gives_the_solvers_point(x: Tensor) -> None:
    torch.manual_seed(0)
    layer = Equilibrium(Cell(), Picard(max_iter=2, tol=1e-9), Phantom(), consistent_eval=False)
    trained = layer(torch.zeros_like(x), x)
    layer.eval()
    x.requires_grad_()
    z = layer(torch.zeros_like(x), x)
    cell = layer.cell
    assert torch.equal(z, cell(cell(torch.zeros_like(x), x), x))
    assert not torch.allclose(z, trained)
    assert (torch.autograd.grad(z.sum(), x)[0] != 0).all()


def test_the_last_solution_is_a_warm_start(x: Tensor) -> None:
    layer = Equilibrium(Cell(), Anderson(tol=1e-6))
    layer(torch.zeros_like(x), x)
    cold = layer.last.steps
    layer(layer.last.value, x + 1e-4)
    assert (layer.last.steps < cold).all()


def test_weights_that_are_made_are_made_once_and_get_gradients(x: Tensor) -> None:
    linear, counting = nn.Linear(6, 6, dtype=torch.float64), Counting()
    parametrize.register_parametrization(linear, "weight", counting)
    layer = Equilibrium(Cell(linear), Anderson(tol=1e-10), Phantom())
    counting.made = 0
    layer(torch.zeros_like(x), x).sum().backward()
    assert counting.made == 1
    assert (linear.parametrizations.weight.original.grad != 0).any()
    with torch.no_grad():
        layer(torch.zeros_like(x), x)
    assert counting.made == 2


def test_spectral_normalization_in_training_does_not_move_during_a_solve(x: Tensor) -> None:
    linear = parametrizations.spectral_norm(nn.Linear(6, 6, dtype=torch.float64), n_power_iterations=1)
    layer = Equilibrium(Cell(linear), Anderson(tol=1e-12, max_iter=60), Implicit(Anderson(max_iter=60, tol=1e-12)))
    layer(torch.zeros_like(x), x).sum().backward()
    assert layer.last.converged.all()


@pytest.mark.parametrize("drop_converged", [True, False])
@pytest.mark.parametrize("backward", BACKWARDS, ids=name)
def test_one_dropout_mask_lasts_a_solve(x: Tensor, backward: Backward, drop_converged: bool) -> None:
    drop = VariationalDropout(0.4)
    layer = Equilibrium(Cell(drop=drop), Anderson(tol=1e-9), backward, drop_converged=drop_converged)
    start = x * torch.linspace(0, 3, 5)[:, None]  # samples that stop at different steps
    torch.manual_seed(1)
    first = layer(start, x)
    assert layer.last.converged.all()
    first.sum().backward()
    torch.manual_seed(1)
    again = Equilibrium(layer.cell, Anderson(tol=1e-9), backward, drop_converged=not drop_converged)(start, x)
    assert_close(again, first, atol=1e-12, rtol=0)
    assert not torch.allclose(layer(start, x), first), "the next solve draws another mask"
    layer.eval()
    assert torch.equal(layer(start, x), layer(start, x))
    assert torch.equal(drop(x), x)


def test_dropout_keeps_the_mean_and_shares_masks() -> None:
    drop = VariationalDropout(0.25, shared=(2, 3))
    drop._solving = True
    torch.manual_seed(0)
    out = drop(torch.ones(500, 8, 2, 2))
    assert_close(out.unique(), torch.tensor([0.0, 1 / 0.75]))
    assert (out == out[:, :, :1, :1]).all()
    assert abs(out.mean().item() - 1) < 0.05
    with pytest.raises(ValueError, match=r"p must be in \[0, 1\), got 1"):
        VariationalDropout(1.0)


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (nn.Dropout(0.1), r"drop is dropout with a new mask at every call.*nn\.VariationalDropout\(0\.1\)"),
        (nn.BatchNorm1d(6, dtype=torch.float64), "drop is BatchNorm in training mode.*GroupNorm"),
    ],
)
def test_cells_that_cannot_settle_are_refused_in_training_and_allowed_in_eval(
    x: Tensor, part: nn.Module, said: str
) -> None:
    layer = Equilibrium(Cell(drop=part))
    with pytest.raises(ModelError, match=said):
        layer(torch.zeros_like(x), x)
    layer.eval()
    layer(torch.zeros_like(x), x)
    assert layer.last.converged.all()


def test_layers_can_be_copied_saved_and_trained(x: Tensor) -> None:
    torch.manual_seed(0)
    layer = Equilibrium(Cell())
    layer(torch.zeros_like(x), x)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(torch.zeros_like(x), x), layer(torch.zeros_like(x), x))
    assert "Phantom(steps=5" in repr(layer)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.05)
    losses = []
    for _ in range(15):
        loss = (layer(torch.zeros_like(x), x) - 0.2).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("backward", [Implicit(), Phantom(steps=2)], ids=name)
def test_compiled_cells_see_one_shape_and_give_equal_results(x: Tensor, backward: Backward) -> None:
    torch.manual_seed(0)
    layer = Equilibrium(Cell(), Anderson(tol=1e-8), backward)
    shapes: set[tuple[int, ...]] = set()

    def note(module: torch.fx.GraphModule, examples: list[Tensor]) -> object:
        shapes.update(tuple(e.shape) for e in examples if isinstance(e, Tensor) and e.shape[-1:] == (6,))
        return module

    torch._dynamo.reset()
    compiled = Equilibrium(torch.compile(layer.cell, backend=note, dynamic=False), Anderson(tol=1e-8), backward)
    gradients = []
    for one in (layer, compiled):
        z = one(torch.zeros_like(x), x)
        gradients.append((z, *torch.autograd.grad(z.sin().sum(), list(layer.parameters()))))
    for a, b in zip(*gradients, strict=True):
        assert_close(a, b, atol=1e-12, rtol=0)
    assert {shape[0] for shape in shapes} <= {5, 6}
    assert torch.equal(layer.last.steps, compiled.last.steps)


def test_a_cell_compiled_in_place_sees_one_shape(x: Tensor) -> None:
    cell = Cell()
    cell.compile(backend="eager")
    layer = Equilibrium(cell, Anderson(tol=1e-8))
    lengths = set()
    cell.register_forward_pre_hook(lambda _, arguments: lengths.add(len(arguments[0])))
    layer(torch.zeros_like(x), x * torch.linspace(0, 1, 5, dtype=torch.float64)[:, None])
    assert len(set(layer.last.steps.tolist())) > 1
    assert lengths == {5}


def test_a_compiled_model_leaves_the_layer_out_and_gives_equal_results(x: Tensor) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6, dtype=torch.float64), Settled(), nn.Linear(6, 2, dtype=torch.float64))
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about tensors that pass from graph to graph
        found = compiled(x)
    assert_close(found, model(x), atol=1e-14, rtol=0)
    gradients = [torch.autograd.grad(out.sin().sum(), list(model.parameters())) for out in (found, model(x))]
    for a, b in zip(*gradients, strict=True):
        assert_close(a, b, atol=1e-12, rtol=0)


class Settled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = Equilibrium(Cell(), Anderson(tol=1e-8), Implicit())

    def forward(self, x: Tensor) -> Tensor:
        out = self.layer(torch.zeros_like(x), x)
        assert isinstance(out, Tensor)
        return out


@pytest.mark.parametrize("backward", [Implicit(), Neumann(), OneStep(), Phantom()], ids=name)
def test_memory_does_not_grow_with_the_steps_of_the_solver(x: Tensor, backward: Backward) -> None:
    def kept(steps: int) -> int:
        sizes = []
        layer = Equilibrium(Cell(), Picard(max_iter=steps, tol=1e-14), backward)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            layer(torch.zeros_like(x), x)
        assert (layer.last.steps == steps).all()
        return sum(sizes)

    assert kept(2) == kept(12) > 0
