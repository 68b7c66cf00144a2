from __future__ import annotations

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from pellucid.core import Stream
from pellucid.nn import (
    BACKWARDS,
    SOLVERS,
    Anderson,
    Broyden,
    ConvergenceWarning,
    Neumann,
    NewtonKrylov,
    OneStep,
    Phantom,
    Picard,
    Solver,
    fixed_point,
)

TIGHT: list[Solver] = [
    Picard(max_iter=200, tol=1e-13),
    Picard(max_iter=300, tol=1e-13, damping=0.7),
    Anderson(max_iter=100, tol=1e-13),
    Anderson(max_iter=200, tol=1e-13, mixing=0.5),
    Broyden(max_iter=100, tol=1e-13),
    Broyden(max_iter=100, tol=1e-13, memory=3),
    NewtonKrylov(tol=1e-13),
]
LOOSE: list[Solver] = [Picard(), Anderson(), Broyden(), NewtonKrylov(krylov=3)]
name = repr


def matrix(d: int, norm: float, *, seed: int = 0) -> Tensor:
    """A random matrix of a given spectral norm."""
    a = Stream(seed).child("matrix").normal((d, d), dtype=torch.float64)
    return norm * a / torch.linalg.matrix_norm(a, 2)


def start(n: int, d: int, *, seed: int = 1) -> Tensor:
    return Stream(seed).child("start").normal((n, d), dtype=torch.float64)


def test_the_tables_hold_every_solver_and_backward_pass() -> None:
    assert set(SOLVERS.values()) == {Picard, Anderson, Broyden, NewtonKrylov}
    assert all(isinstance(kind(), Solver) for kind in SOLVERS.values())
    assert len(BACKWARDS) == 4


@pytest.mark.parametrize("solver", TIGHT, ids=name)
def test_linear_contractions_are_solved(solver: Solver) -> None:
    a, z = matrix(6, 0.8), start(5, 6)
    solution = fixed_point(lambda h: h @ a.T + z, torch.zeros_like(z), solver, OneStep())
    assert solution.converged.all()
    assert_close(solution.value, torch.linalg.solve(torch.eye(6, dtype=torch.float64) - a, z.T).T, atol=1e-11, rtol=0)


@pytest.mark.parametrize("solver", TIGHT, ids=name)
def test_residual_is_that_of_the_point_and_history_leads_to_it(solver: Solver) -> None:
    a, z = matrix(6, 0.8), start(5, 6)
    f = lambda h: torch.tanh(h @ a.T + z)  # noqa: E731
    solution = fixed_point(f, torch.zeros_like(z), solver, keep_value=True)
    h = solution.value
    assert_close(solution.residual, (f(h) - h).norm(dim=1) / f(h).norm(dim=1), atol=1e-15, rtol=1e-2)
    assert_close(solution.history[-1], solution.residual)
    assert len(solution.history) == solution.steps.max() + 1


@pytest.mark.parametrize("d", [2, 5, 9])
def test_broyden_solves_a_linear_system_in_twice_its_size(d: int) -> None:
    a, z = matrix(d, 3.0, seed=d), start(4, d)
    solver = Broyden(max_iter=2 * d, tol=1e-9, memory=2 * d)
    solution = fixed_point(lambda h: h @ a.T + z, torch.zeros_like(z), solver, OneStep())
    assert solution.converged.all()


@pytest.mark.parametrize("d", [2, 5])
def test_anderson_solves_a_linear_system_in_its_size_and_two(d: int) -> None:
    a, z = matrix(d, 1.5, seed=d), start(4, d)
    solver = Anderson(max_iter=d + 2, tol=1e-8, memory=d + 2, ridge=0.0)
    solution = fixed_point(lambda h: h @ a.T + z, torch.zeros_like(z), solver, OneStep())
    assert solution.converged.all()


def test_newton_solves_a_linear_system_in_one_step() -> None:
    a, z = matrix(6, 3.0), start(4, 6)
    solution = fixed_point(lambda h: h @ a.T + z, torch.zeros_like(z), NewtonKrylov(tol=1e-10), OneStep())
    assert solution.converged.all()
    assert (solution.steps == 1).all()


@pytest.mark.parametrize("solver", LOOSE, ids=name)
def test_samples_do_not_depend_on_their_company(solver: Solver) -> None:
    a, z = matrix(6, 0.9), start(6, 6)
    scale = torch.tensor([0.1, 1.0, 0.5, 1.05, 0.3, 0.9], dtype=torch.float64)[:, None]  # some are easy, one is hard
    f = lambda h, z, s: torch.tanh(s * (h @ a.T) + z)  # noqa: E731
    z.requires_grad_()
    gradients, solutions = [], []
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    for rows in ([torch.arange(6)], [order], [torch.tensor([k]) for k in range(6)]):
        parts = [fixed_point(f, torch.zeros(len(k), 6).double(), solver, inputs=(z[k], scale[k])) for k in rows]
        back = torch.cat(rows).argsort()
        h = torch.cat([part.value for part in parts])[back]
        solutions.append((h.detach(), torch.cat([part.steps for part in parts])[back]))
        gradients.append(torch.autograd.grad(h.sin().sum(), z)[0])
    assert len(set(solutions[0][1].tolist())) > 1, "a test of samples that stop at different steps"
    for (h, steps), gradient in zip(solutions[1:], gradients[1:], strict=True):
        assert_close(h, solutions[0][0], atol=1e-12, rtol=0)
        assert torch.equal(steps, solutions[0][1])
        assert_close(gradient, gradients[0], atol=1e-12, rtol=0)


@pytest.mark.parametrize("solver", LOOSE, ids=name)
def test_dropping_and_masking_give_equal_results_and_dropping_costs_less(solver: Solver) -> None:
    a = matrix(6, 0.95)
    z, scale = start(24, 6), torch.linspace(0, 1.05, 24, dtype=torch.float64)[:, None]
    seen: list[int] = []

    def f(h: Tensor, z: Tensor, s: Tensor) -> Tensor:
        seen.append(len(h))
        return torch.tanh(s * (h @ a.T) + z)

    dropped, masked = (
        fixed_point(f, torch.zeros_like(z), solver, inputs=(z, scale), drop_converged=drop) for drop in (True, False)
    )
    assert_close(dropped.value, masked.value, atol=1e-12, rtol=0)
    assert_close(dropped.history, masked.history, atol=1e-12, rtol=0)
    assert torch.equal(dropped.steps, masked.steps)
    assert dropped.evaluations < masked.evaluations
    assert sum(seen) == dropped.evaluations + masked.evaluations
    bare = fixed_point(lambda h: f(h, z, scale), torch.zeros_like(z), solver)
    assert torch.equal(bare.value, masked.value)


@pytest.mark.parametrize("solver", LOOSE, ids=name)
def test_one_step_makes_progress(solver: Solver) -> None:
    a, z = matrix(6, 0.5), start(3, 6).requires_grad_()
    once = type(solver)(max_iter=1, tol=1e-9)
    for backward in (kind() for kind in BACKWARDS.values() if kind is not BACKWARDS["implicit"]):
        solution = fixed_point(lambda h: torch.tanh(h @ a.T + z), torch.zeros(3, 6).double(), once, backward)
        assert (solution.steps == 1).all()
        assert (solution.residual < solution.history[0]).all()
        (gradient,) = torch.autograd.grad(solution.value.sum(), z)
        assert (gradient != 0).all()


@pytest.mark.parametrize("solver", LOOSE, ids=name)
def test_a_solution_as_start_takes_no_step(solver: Solver) -> None:
    a, z = matrix(6, 0.5), start(3, 6)
    f = lambda h: torch.tanh(h @ a.T + z)  # noqa: E731
    first = fixed_point(f, torch.zeros(3, 6).double(), solver, Phantom(steps=20))
    again = fixed_point(f, first.value, solver)
    assert (again.steps == 0).all()
    assert again.converged.all()


def test_divergence_is_said_and_finite() -> None:
    a, z = matrix(4, 1.5), start(3, 4)
    a = a @ a.T
    a = 1.5 * a / torch.linalg.matrix_norm(a, 2)
    with pytest.warns(ConvergenceWarning, match="moved away from a solution for 3 of 3 samples"):
        solution = fixed_point(lambda h: h @ a.T + z, torch.zeros_like(z), Picard())
    assert not solution.converged.any()
    assert solution.value.isfinite().all()
    first = fixed_point(lambda h: h @ a.T + z, torch.zeros_like(z), Picard(max_iter=1, tol=1e-9), keep_value=True)
    with pytest.warns(ConvergenceWarning):
        kept = fixed_point(lambda h: h @ a.T + z, torch.zeros_like(z), Picard(), keep_value=True)
    assert (kept.residual.isfinite()).all()
    assert ((kept.value @ a.T + z - kept.value).norm(dim=1) <= (first.value @ a.T + z - first.value).norm(dim=1)).all()


@pytest.mark.parametrize("solver", LOOSE, ids=name)
def test_a_sample_that_overflows_does_not_touch_the_others(solver: Solver) -> None:
    x = torch.tensor([[0.1], [60.0], [0.2]], dtype=torch.float64)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        solution = fixed_point(lambda h, x: torch.exp(x * h) * x, torch.ones(3, 1).double(), solver, inputs=(x,))
    assert all("1 of 3" in str(one.message) for one in said)
    assert said or isinstance(solver, NewtonKrylov), "Newton gets nearer and nearer to a solution there is not"
    assert solution.converged.tolist() == [True, False, True]
    good = fixed_point(lambda h, x: torch.exp(x * h) * x, torch.ones(2, 1).double(), solver, inputs=(x[::2],))
    assert_close(solution.value[::2], good.value, atol=1e-12, rtol=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kept = fixed_point(
            lambda h, x: torch.exp(x * h) * x, torch.ones(3, 1).double(), solver, inputs=(x,), keep_value=True
        )
    assert kept.value.isfinite().all()


def test_a_start_that_is_not_finite_is_not_hidden() -> None:
    with pytest.warns(ConvergenceWarning):
        solution = fixed_point(lambda h: h.log() + 2, torch.tensor([[-1.0], [1.0]]), Picard(max_iter=60))
    assert solution.converged.tolist() == [False, True]
    assert solution.value[0].isnan()
    assert solution.value[1].isfinite()


def test_the_best_point_is_returned_where_the_tolerance_is_not_met() -> None:
    a = torch.tensor([[0.0, 4.0], [0.0, 0.0]], dtype=torch.float64)  # not normal: the residual grows before it falls
    solver = Picard(max_iter=20, stop="absolute", tol=1e-9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        solution = fixed_point(lambda h: h @ a.T - 0.7 * h, torch.tensor([[1.0, 1.0]]).double(), solver)
    assert solution.history.amax() > solution.history[0] > 0
    assert_close(solution.residual, solution.history.amin(0))


def test_a_cycle_is_broken_by_damping() -> None:
    f = lambda h: -h + 2  # noqa: E731
    zero = torch.zeros(1, 1)
    with pytest.warns(ConvergenceWarning):
        assert not fixed_point(f, zero, Picard()).converged.any()
    assert_close(fixed_point(f, zero, Picard(damping=0.5), OneStep()).value, torch.ones(1, 1))


def test_absolute_and_relative_stops_differ() -> None:
    z = torch.full((1, 1), 1e-3, dtype=torch.float64)
    absolute = fixed_point(lambda h: 0.5 * h + z, torch.zeros_like(z), Picard(stop="absolute", tol=1e-3))
    relative = fixed_point(lambda h: 0.5 * h + z, torch.zeros_like(z), Picard(stop="relative", tol=1e-3))
    assert absolute.steps.item() < relative.steps.item()
    assert absolute.residual.item() < 1e-3


@settings(max_examples=12)
@given(
    seed=st.integers(0, 10_000),
    norm=st.floats(0.05, 0.9),
    n=st.integers(1, 5),
    d=st.integers(1, 9),
    kind=st.sampled_from(sorted(SOLVERS)),
)
def test_contractions_are_solved_by_every_solver(seed: int, norm: float, n: int, d: int, kind: str) -> None:
    a, z = matrix(d, norm, seed=seed), start(n, d, seed=seed)
    solver = SOLVERS[kind](max_iter=250, tol=1e-8)
    solution = fixed_point(lambda h: torch.tanh(h @ a.T + z), torch.zeros_like(z), solver, Neumann())
    assert solution.converged.all()
    assert_close(solution.value, torch.tanh(solution.value @ a.T + z), atol=1e-7, rtol=0)


def test_newton_is_refused_where_derivatives_are_off() -> None:
    with torch.inference_mode(), pytest.raises(RuntimeError, match=r"use torch\.no_grad, not"):
        fixed_point(torch.cos, torch.zeros(1, 1), NewtonKrylov())


def test_no_samples_are_no_trouble() -> None:
    for solver in LOOSE:
        solution = fixed_point(torch.tanh, torch.zeros(0, 3), solver, inputs=())
        assert solution.value.shape == (0, 3)
        assert solution.steps.shape == (0,)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Picard(max_iter=0), "max_iter must be at least 1, got 0"),
        (lambda: Anderson(tol=0.0), "tol must be positive"),
        (lambda: Broyden(memory=0), "memory must be at least 1"),
        (lambda: Anderson(memory=0), "memory must be at least 1"),
        (lambda: Anderson(ridge=-1.0), "ridge must not be negative"),
        (lambda: Anderson(mixing=0.0), r"mixing must be in \(0, 1\]"),
        (lambda: Picard(damping=1.5), r"damping must be in \(0, 1\]"),
        (lambda: NewtonKrylov(krylov=0), "krylov must be at least 1"),
        (lambda: Phantom(steps=0), "steps must be at least 1"),
        (lambda: Neumann(damping=0.0), r"damping must be in \(0, 1\]"),
    ],
)
def test_settings_out_of_range_are_refused(make: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()  # type: ignore[operator]
