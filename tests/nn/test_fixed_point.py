from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from pellucid.core import ModelError, Stream
from pellucid.nn import (
    Anderson,
    Backward,
    Broyden,
    ConvergenceWarning,
    Implicit,
    Neumann,
    NewtonKrylov,
    OneStep,
    Phantom,
    Picard,
    Solver,
    attach_gradient,
    fixed_point,
)

EXACT = Implicit(Anderson(max_iter=100, tol=1e-14))
TIGHT = Anderson(max_iter=100, tol=1e-14)
D = 8
name = repr


class Net:
    """F(h) = tanh(W h + U x + b) with |W| = 0.5, its solution and its Jacobian, written out."""

    def __init__(self, n: int = 4) -> None:
        rng = Stream(3)
        draw = lambda what, *shape: rng.child(what).normal(shape, dtype=torch.float64)  # noqa: E731
        w = draw("w", D, D)
        self.w = (0.5 * w / torch.linalg.matrix_norm(w, 2)).requires_grad_()
        self.u, self.b = draw("u", D, D).requires_grad_(), draw("b", 1, D)[0].requires_grad_()
        self.x, self.v = draw("x", n, D).requires_grad_(), draw("v", n, D)
        self.z0 = torch.zeros(n, D, dtype=torch.float64)
        self.parameters = (self.w, self.u, self.b, self.x)

    def __call__(self, h: Tensor, x: Tensor | None = None) -> Tensor:
        return torch.tanh(h @ self.w.T + (self.x if x is None else x) @ self.u.T + self.b)

    def solved(self) -> Tensor:
        with torch.no_grad():
            return fixed_point(self, self.z0, TIGHT, OneStep()).value

    def jacobian(self, h: Tensor) -> Tensor:
        with torch.no_grad():
            return (1 - self(h) ** 2)[:, :, None] * self.w

    def pulled(self, u: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        """(dF/dtheta)^T u at h."""
        return torch.autograd.grad(self(h), self.parameters, u)

    def gradients(self, backward: Backward, h: Tensor | None = None) -> tuple[Tensor, ...]:
        h = self.solved() if h is None else h
        return torch.autograd.grad(attach_gradient(self, h, backward), self.parameters, self.v)


def close(found: tuple[Tensor, ...], wanted: tuple[Tensor, ...], atol: float = 1e-10) -> None:
    for one, other in zip(found, wanted, strict=True):
        assert_close(one, other, atol=atol, rtol=0)


@pytest.fixture
def net() -> Net:
    return Net()


@pytest.mark.parametrize("solver", [TIGHT, Broyden(max_iter=60, tol=1e-14)], ids=name)
def test_exact_gradient_is_that_of_the_implicit_function_theorem(net: Net, solver: Anderson) -> None:
    h = net.solved()
    j = net.jacobian(h)
    u = torch.linalg.solve(torch.eye(D, dtype=torch.float64) - j.mT, net.v[:, :, None])[:, :, 0]
    found = torch.autograd.grad(fixed_point(net, net.z0, solver, Implicit(solver)).value, net.parameters, net.v)
    close(found, net.pulled(u, h))


def test_exact_gradient_passes_gradcheck(net: Net) -> None:
    def layer(w: Tensor, x: Tensor) -> Tensor:
        f = lambda h, x: torch.tanh(h @ w.T + x)  # noqa: E731
        zero = torch.zeros(2, 3, dtype=torch.float64)
        return fixed_point(f, zero, Broyden(tol=1e-14), Implicit(Broyden(tol=1e-14)), inputs=(x,)).value  # type: ignore[return-value]

    w, x = net.w[:3, :3].detach().requires_grad_(), net.x[:2, :3].detach().requires_grad_()
    assert torch.autograd.gradcheck(layer, (w, x), eps=1e-6, atol=1e-7)


@pytest.mark.parametrize(("steps", "damping"), [(1, 1.0), (1, 0.4), (3, 0.5), (5, 0.5), (6, 1.0)])
def test_neumann_is_the_cut_series_and_phantom_equals_it_at_a_solution(net: Net, steps: int, damping: float) -> None:
    h = net.solved()
    b = damping * net.jacobian(h) + (1 - damping) * torch.eye(D, dtype=torch.float64)
    u = damping * sum((torch.linalg.matrix_power(b.mT, t) @ net.v[:, :, None])[:, :, 0] for t in range(steps))
    close(net.gradients(Neumann(steps=steps, damping=damping)), net.pulled(u, h))
    close(net.gradients(Phantom(steps=steps, damping=damping)), net.pulled(u, h))


def test_phantom_away_from_a_solution_is_the_product_of_its_steps(net: Net) -> None:
    steps, damping = 4, 0.6
    points = [net.solved() + 0.1]
    for _ in range(steps - 1):
        points.append(torch.lerp(points[-1], net(points[-1]).detach(), damping))
    eye = torch.eye(D, dtype=torch.float64)
    total: tuple[Tensor, ...] = tuple(torch.zeros_like(p) for p in net.parameters)
    for t in range(steps):
        u = net.v[:, :, None]
        for s in range(steps - 1, t, -1):  # the latest step acts on v first
            u = (damping * net.jacobian(points[s]) + (1 - damping) * eye).mT @ u
        total = tuple(a + damping * g for a, g in zip(total, net.pulled(u[:, :, 0], points[t]), strict=True))
    close(net.gradients(Phantom(steps=steps, damping=damping), points[0]), total)


def test_many_phantom_steps_are_exact_and_one_is_one_step(net: Net) -> None:
    exact = net.gradients(EXACT)
    close(net.gradients(Neumann(steps=200, damping=0.9)), exact)
    close(net.gradients(Phantom(steps=200, damping=0.9)), exact)
    one = net.gradients(OneStep())
    close(net.gradients(Phantom(steps=1, damping=1.0)), one, 0)
    close(net.gradients(Neumann(steps=1, damping=1.0)), one, 0)


@pytest.mark.parametrize(
    ("backward", "wanted"),
    [(Phantom(), 1.525390625), (Neumann(), 1.525390625), (EXACT, 2.0), (OneStep(), 1.0)],
    ids=name,
)
def test_scalar_case_is_the_closed_form(backward: Backward, wanted: float) -> None:
    theta = torch.ones((), dtype=torch.float64, requires_grad=True)
    solution = fixed_point(lambda h: 0.5 * h + theta, torch.zeros(1, 1).double(), TIGHT, backward)
    solution.value.sum().backward()
    assert_close(solution.value.item(), 2.0, atol=1e-12, rtol=0)
    assert_close(theta.grad, torch.tensor(wanted, dtype=torch.float64), atol=1e-12, rtol=0)


@pytest.mark.parametrize("backward", [Phantom(), Neumann(), EXACT, OneStep()], ids=name)
def test_no_gradient_in_gives_none_out(net: Net, backward: Backward) -> None:
    value = fixed_point(net, net.z0, TIGHT, backward).value
    for gradient in torch.autograd.grad(value, net.parameters, torch.zeros_like(net.v)):
        assert (gradient == 0).all()


@pytest.mark.parametrize("backward", [Phantom(), Neumann(), EXACT, OneStep()], ids=name)
def test_values_are_equal_with_and_without_gradients(net: Net, backward: Backward) -> None:
    loose = Anderson(tol=1e-2)
    value = fixed_point(net, net.z0, loose, backward, inputs=(net.x,)).value
    with torch.no_grad():
        assert_close(fixed_point(net, net.z0, loose, backward, inputs=(net.x,)).value, value, atol=1e-14, rtol=0)


def test_gradients_can_be_taken_twice_from_one_graph(net: Net) -> None:
    value = fixed_point(net, net.z0, TIGHT, EXACT).value
    first = torch.autograd.grad(value, net.parameters, net.v, retain_graph=True)
    close(torch.autograd.grad(value, net.parameters, net.v), first, 0)


@pytest.mark.parametrize("kind", [Picard, Anderson, Broyden, NewtonKrylov])
def test_exact_gradient_does_not_depend_on_the_scale_of_the_loss(net: Net, kind: type[Anderson]) -> None:
    """A fixed number in the residual's denominator would call small gradients solved before the first step."""
    value = fixed_point(net, net.z0, TIGHT, Implicit(kind(max_iter=80, tol=1e-8))).value
    grad = lambda scale: torch.autograd.grad(value.sum() * scale, net.w, retain_graph=True)[0] / scale  # noqa: E731
    for scale in (1e-9, 1e-14, 1e-30):
        assert_close(grad(scale), grad(1.0), atol=0, rtol=1e-6)


def test_small_states_are_solved_as_large_ones_are_and_zero_can_be_reached() -> None:
    tiny = torch.full((2, 1), 1e-15, dtype=torch.float64)
    assert_close(fixed_point(lambda h: 0.5 * h + tiny, 0 * tiny, Picard(tol=1e-8)).value, 2 * tiny, atol=0, rtol=1e-6)
    zero = fixed_point(lambda h: 0.1 * h, torch.ones(2, 1), Picard())
    assert zero.converged.all()
    assert zero.value.abs().max() < 1e-9


@pytest.mark.parametrize("backward", [Phantom(), Neumann(), EXACT, OneStep()], ids=name)
def test_a_frozen_layer_has_no_graph(net: Net, backward: Backward) -> None:
    w = net.w.detach()
    f = lambda h, x: torch.tanh(h @ w.T + x)  # noqa: E731
    frozen = net.x.detach()
    assert not fixed_point(f, net.z0, backward=backward, inputs=(frozen,)).value.requires_grad
    assert fixed_point(f, net.z0, backward=backward, inputs=(net.x,)).value.requires_grad
    has_graph = fixed_point(lambda h: Hiding.apply(h), net.z0, backward=backward).value.requires_grad
    assert has_graph == isinstance(backward, Neumann | Implicit)


class Hiding(torch.autograd.Function):
    """tanh(h) / 2, which could hold parameters of its own, as checkpointed parts do."""

    @staticmethod
    def forward(ctx: object, h: Tensor) -> Tensor:
        return torch.tanh(h) / 2

    @staticmethod
    def backward(ctx: object, v: Tensor) -> Tensor:
        return v


@pytest.mark.parametrize("backward", [Phantom(), Neumann(), EXACT], ids=name)
@pytest.mark.parametrize("keep_value", [False, True])
def test_values_may_be_changed_in_place(net: Net, backward: Backward, keep_value: bool) -> None:
    h = net.solved()
    found, wanted = (attach_gradient(net, h, backward, keep_value=keep_value) for _ in range(2))
    found = torch.autograd.grad(torch.relu_(found), net.parameters, net.v)
    close(found, torch.autograd.grad(torch.relu(wanted), net.parameters, net.v), 1e-14)
    with torch.no_grad():
        attach_gradient(net, h, backward, keep_value=keep_value).zero_()
    assert h.abs().min() > 0


@pytest.mark.parametrize("kind", [Picard, Anderson, Broyden, NewtonKrylov])
def test_starts_and_gradients_whose_rows_share_memory(net: Net, kind: type[Anderson]) -> None:
    start, solver = torch.zeros(1, D).double().expand(4, D), kind(max_iter=60, tol=1e-12)
    value = fixed_point(net, start, solver, Implicit(solver)).value
    found = torch.autograd.grad(value.sum(), net.parameters)  # the gradient of a sum is one number, expanded
    value = fixed_point(net, net.z0, solver, EXACT).value
    close(found, torch.autograd.grad(value, net.parameters, torch.ones_like(value)), 1e-9)


def test_second_derivatives_are_phantoms_or_refused(net: Net) -> None:
    value = fixed_point(net, net.z0, TIGHT, EXACT).value
    with pytest.raises(RuntimeError, match=r"first derivatives only.*backward=Phantom"):
        torch.autograd.grad(value.sum(), net.x, create_graph=True)
    x = torch.tensor([[0.3]], dtype=torch.float64, requires_grad=True)
    f = lambda h: torch.tanh(0.5 * h + x)  # noqa: E731
    phantom = fixed_point(f, torch.zeros(1, 1).double(), TIGHT, Phantom(steps=3, damping=1.0), keep_value=False).value
    h = fixed_point(f, torch.zeros(1, 1).double(), TIGHT, OneStep(), keep_value=True).value.detach()
    for value in (phantom, f(f(f(h)))):
        (slope,) = torch.autograd.grad(value.sum(), x, create_graph=True)
        (curve,) = torch.autograd.grad(slope.sum(), x)
        wanted = curve if value is phantom else wanted
        assert_close(curve, wanted, atol=1e-9, rtol=0)


def test_value_kept_has_the_numbers_of_one_and_the_gradient_of_the_other(net: Net) -> None:
    h = net.solved() + 0.1
    kept = attach_gradient(net, h, EXACT, keep_value=True)
    assert torch.equal(kept, h)
    close(torch.autograd.grad(kept, net.parameters, net.v), net.gradients(EXACT, h), 0)
    with torch.no_grad():
        assert torch.equal(attach_gradient(net, h, Phantom(), keep_value=True), h)
        assert_close(attach_gradient(net, h, EXACT), net(h))


@pytest.mark.parametrize("backward", [Phantom(), Neumann(), EXACT, OneStep()], ids=name)
def test_states_of_several_tensors_are_one_state(net: Net, backward: Backward) -> None:
    def f(z: tuple[Tensor, Tensor]) -> list[Tensor]:
        h = torch.cat([z[0], z[1].flatten(1)], 1)
        out = net(h)
        return [out[:, :2], out[:, 2:].reshape(-1, 2, 3)]

    pair = fixed_point(f, (net.z0[:, :2], net.z0[:, 2:].reshape(-1, 2, 3)), TIGHT, backward).value
    assert isinstance(pair, tuple)
    whole = fixed_point(net, net.z0, TIGHT, backward).value
    assert_close(torch.cat([pair[0], pair[1].flatten(1)], 1), whole, atol=1e-13, rtol=0)
    found = torch.autograd.grad(pair, net.parameters, (net.v[:, :2], net.v[:, 2:].reshape(-1, 2, 3)))
    close(found, torch.autograd.grad(whole, net.parameters, net.v), 1e-12)


def test_inputs_may_be_nested_and_shared_numbers_are_passed_on(net: Net) -> None:
    f = lambda h, part, scale: torch.tanh(scale * h + part["x"][0])  # noqa: E731
    found = fixed_point(f, net.z0, TIGHT, EXACT, inputs=({"x": [net.x]}, 0.5)).value
    assert_close(found, torch.tanh(0.5 * found + net.x), atol=1e-12, rtol=0)
    named = fixed_point(lambda h, part: torch.tanh(0.5 * h + part.x), net.z0, TIGHT, EXACT, inputs=(Named(net.x),))
    assert torch.equal(named.value, found)
    assert len(set(named.steps.tolist())) > 1, "samples were cut out"


class Named(NamedTuple):
    x: Tensor


def test_a_cell_that_holds_what_belongs_to_samples_is_told_that_some_were_cut_out(net: Net) -> None:
    scale = torch.linspace(0, 0.9, 4, dtype=torch.float64)[:, None]
    with pytest.raises(RuntimeError) as caught:
        fixed_point(lambda h: torch.tanh(scale * h + net.x), net.z0, Anderson(tol=1e-12), inputs=())
    assert "had cut the" in caught.value.__notes__[0]
    assert "as inputs, or set drop_converged=False" in caught.value.__notes__[0]


def test_half_precision_is_solved_in_single_to_what_it_can_express() -> None:
    f = lambda h: torch.tanh(0.9 * h + 1)  # noqa: E731
    solution = fixed_point(f, torch.zeros(2, 3, dtype=torch.bfloat16), Anderson(tol=1e-9))
    assert solution.value.dtype == torch.bfloat16
    assert solution.residual.dtype == torch.float32
    assert solution.converged.all(), "the tolerance is raised to what bfloat16 can express"


def test_autocast_reaches_the_parameters_and_keeps_residuals_in_single() -> None:
    cell = nn.Linear(6, 6)
    x = torch.randn(3, 6)
    with torch.autocast("cpu", torch.bfloat16):
        solution = fixed_point(lambda h, x: torch.tanh(0.5 * cell(h)) + x, torch.zeros(3, 6), inputs=(x,))
    assert solution.value.dtype == solution.residual.dtype == torch.float32
    assert solution.converged.all()
    solution.value.sum().backward()
    assert cell.weight.grad is not None
    assert (cell.weight.grad != 0).any()


@pytest.mark.parametrize("solver", [Anderson(), Broyden(), NewtonKrylov(krylov=3)], ids=name)
def test_solvers_compute_in_single_under_autocast(solver: Solver) -> None:
    torch.manual_seed(0)
    w, x = 0.3 * torch.randn(6, 6), torch.randn(3, 6)
    seen = set()

    def f(h: Tensor, x: Tensor) -> Tensor:
        seen.add((h @ w).dtype)
        return torch.tanh(h @ w + x).float()

    with torch.autocast("cpu", torch.bfloat16):
        solution = fixed_point(f, torch.zeros(3, 6), solver, Implicit(solver), inputs=(x,))
    assert seen == {torch.bfloat16}, "the cell alone is cast"
    exact = fixed_point(f, torch.zeros(3, 6), solver, Implicit(solver), inputs=(x,))
    assert solution.history.dtype == torch.float32
    assert_close(solution.value, exact.value, atol=0.02, rtol=0)


def test_an_exact_gradient_that_was_not_reached_is_said(net: Net) -> None:
    value = fixed_point(net, net.z0, TIGHT, Implicit(Picard(max_iter=2, tol=1e-9))).value
    with pytest.warns(ConvergenceWarning, match="exact gradient of 4 of 4 samples stopped at a residual"):
        value.sum().backward()


def test_noise_in_the_cell_is_found(net: Net) -> None:
    noisy = lambda h: nn.functional.dropout(torch.tanh(0.1 * h + net.x), 0.05)  # noqa: E731
    with pytest.raises(ModelError, match=r"two evaluations of the cell .*VariationalDropout"):
        fixed_point(noisy, net.z0, Anderson(tol=1.0))


def test_a_state_changed_in_place_is_refused(net: Net) -> None:
    with pytest.raises(ModelError, match="changes its state in place"):
        fixed_point(lambda h: h.mul_(0.5).add_(1), net.z0.clone())
    with torch.inference_mode():
        assert fixed_point(lambda h: 0.5 * h + 1, torch.zeros(2, 2)).converged.all()


@pytest.mark.parametrize(
    ("f", "z0", "said"),
    [
        (torch.tanh, (), "z0 must be a tensor"),
        (torch.tanh, torch.tensor(1.0), "z0 must be a tensor"),
        (torch.tanh, torch.zeros(2, 2, dtype=torch.int64), "floating-point numbers, got torch.int64"),
        (torch.tanh, (torch.zeros(2, 1), torch.zeros(3, 1)), "same number of samples, dtype and device"),
        (lambda z: z[:, :1], torch.zeros(2, 2), r"keep its state's shape \(2, 2\), got \(2, 1\)"),
        (lambda z: z.double(), torch.zeros(2, 2), "keep its state's dtype torch.float32, got torch.float64"),
        (lambda z: z.to("meta"), torch.zeros(2, 2), "keep its state's device cpu, got meta"),
        (
            lambda z: (z, z),
            torch.zeros(2, 2),
            "must return a tensor like .* but it returned a tuple of 2",
        ),
        (lambda z: (z[0],), (torch.zeros(2, 1), torch.zeros(2, 1)), "got 2 tensors as its state but returned 1"),
        (lambda z: None, torch.zeros(2, 2), "but it returned NoneType"),
    ],
)
def test_bad_states_are_refused(f: object, z0: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        fixed_point(f, z0)  # type: ignore[arg-type]


def test_inputs_that_samples_share_are_refused_with_the_way_out(net: Net) -> None:
    f = lambda h, a: torch.tanh(0.5 * h @ a)  # noqa: E731
    with pytest.raises(ValueError, match=r"inputs\[0\] must have one row per sample, 4, .*drop_converged=False"):
        fixed_point(f, net.z0, inputs=(torch.eye(D).double(),))
    assert fixed_point(f, net.z0, inputs=(torch.eye(D).double(),), drop_converged=False).converged.all()
