"""Solve h = F(h) and give the solution a gradient: the pair of a solver and a backward pass."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ._backwards import Backward, ConvergenceWarning, Phantom
from ._solvers import Anderson, Solver
from ._state import Cell, Packing, State, check_rows, full_precision


@dataclass(frozen=True)
class Solution:
    """Where a solver ended, and what it took; everything but `value` is without gradient and per sample.

    Args:
        value: the layer's output, like z0.
        residual: at the solver's point, before the backward pass adds steps: |F(h) - h| / |F(h)|, or |F(h) - h| if the
            solver stops on that.
        steps: of the solver; 0 where the start was already a solution.
        converged: whether the residual fell below the solver's tolerance.
        history: residual after each step, the first row at the start; of samples that are done, their last.
        evaluations: evaluations of the cell, counted in samples, those for the value included.
    """

    value: State
    residual: Float[Tensor, " b"]
    steps: Int[Tensor, " b"]
    converged: Bool[Tensor, " b"]
    history: Float[Tensor, "t b"]
    evaluations: int


def fixed_point(
    f: Callable[..., Any],
    z0: State,
    solver: Solver | None = None,
    backward: Backward | None = None,
    *,
    inputs: tuple[Any, ...] | None = None,
    drop_converged: bool = True,
    keep_value: bool = False,
) -> Solution:
    """Where does a map settle? Solve z = f(z, *inputs), each sample by itself, with a gradient for training.

    The solution has gradients to the parameters that `f` uses and to `inputs` wherever gradients are enabled, in
    training and in eval mode alike; none to `z0`.

    Args:
        f: maps a state to the next; deterministic, each sample by itself. States may be a tensor or a tuple of
            tensors (scales), the samples first.
        z0: the start, such as zeros or the last solution of a similar problem.
        solver: `Picard`, `Anderson` (the default), `Broyden`, `NewtonKrylov`.
        backward: `Phantom` (the default), `Neumann`, `Implicit`, `OneStep`.
        inputs: what `f` takes beside the state, the samples first in every tensor (numbers and None are passed on).
            None: `f` holds whatever it needs itself.
        drop_converged: whether samples that are done are cut out of the batch, where `inputs` are given (so that the
            rest of them can be cut too; `()` if there are none). Otherwise they stay in it, unchanged: the results are
            equal, and the shapes that `f` sees are too, which compiled cells want.
        keep_value: return the solver's point itself as value, with the gradient of the backward pass.

    Returns:
        value, residual, steps and whether it converged.

    Raises:
        ValueError: a state or an output of `f` of the wrong kind, shape, dtype or device.
        ModelError: two calls of `f` at the same point gave different results.

    A sample whose residual grows is not converged; it gets the point of its least residual, and a warning is given.

    Example:
        >>> w = torch.tensor([[0.0, 0.5], [0.3, 0.0]], requires_grad=True)
        >>> solution = fixed_point(lambda z, x: torch.tanh(z @ w + x), torch.zeros(4, 2), inputs=(torch.ones(4, 2),))
        >>> solution.value.sum().backward()
        >>> tuple(solution.value.shape), bool(solution.converged.all()), w.grad is not None
        ((4, 2), True, True)
    """
    solver, backward = solver or Anderson(), backward or Phantom()
    packing = Packing(z0)
    x0 = packing.pack(z0).detach()
    drop = drop_converged and inputs is not None
    if drop:
        check_rows(inputs, len(x0))
    cell = Cell(f, packing, inputs or (), len(x0))
    with torch.no_grad(), full_precision(x0.device):
        found = solver.solve(cell, x0, drop=drop, grain=lambda: cell.grain)
    if bool(found.diverged.any()):
        _warn_diverged(found.diverged, found.converged)
    value = _value(cell, found.x, found.fx, backward, keep_value=keep_value)
    return Solution(
        packing.unpack(value), found.residual, found.steps, found.converged, found.history, cell.evaluations
    )


def attach_gradient(
    f: Callable[..., Any],
    z: State,
    backward: Backward | None = None,
    *,
    inputs: tuple[Any, ...] = (),
    keep_value: bool = False,
) -> State:
    """Give a solution that was found elsewhere, by a simulation for example, the gradient of a fixed point of f.

    Args:
        f: the map that `z` is a fixed point of, as in `fixed_point`.
        z: the solution; its own graph, if any, is left out.
        backward: `Phantom` (the default), `Neumann`, `Implicit`, `OneStep`.
        inputs: what `f` takes beside the state.
        keep_value: return the numbers of `z`; otherwise what the backward pass makes of them, such as f(z).

    Example:
        >>> from pellucid.nn import OneStep
        >>> w = torch.tensor(0.5, requires_grad=True)
        >>> z = attach_gradient(lambda z: w * z + 1, torch.full((1, 1), 2.0), OneStep(), keep_value=True)
        >>> z.sum().backward()
        >>> w.grad.item()
        2.0
    """
    packing = Packing(z)
    h = packing.pack(z).detach()
    cell = Cell(f, packing, inputs, len(h))
    return packing.unpack(_value(cell, h, None, backward or Phantom(), keep_value=keep_value))


def _value(cell: Cell, h: Tensor, fh: Tensor | None, backward: Backward, *, keep_value: bool) -> Tensor:
    if not torch.is_grad_enabled():
        if keep_value:
            return h.clone()  # not the memory of z0, where the solver made no step
        with full_precision(h.device):
            return backward.value(cell, h, cell(h) if fh is None else fh)
    # Autocast keeps the half-precision copies of weights that the solver made without gradients.
    torch.clear_autocast_cache()
    cell.expected = fh  # the backward pass calls the cell at h first, where the solver was already
    with full_precision(h.device):
        value = backward.attach(cell, h)
    return _Swapped.apply(value, h) if keep_value else value  # type: ignore[no-untyped-call]


class _Swapped(torch.autograd.Function):
    """The numbers of one tensor with the gradient of another; a sum of differences would turn overflow into NaN."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, h: Tensor) -> Tensor:
        return h.clone()

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor, None]:
        return v, None


def _warn_diverged(diverged: Tensor, converged: Tensor) -> None:
    warnings.warn(
        f"the iteration moved away from a solution for {int(diverged.sum())} of {len(converged)} samples; they get the "
        "point of their least residual. Make the cell a contraction (smaller weights, normalization), use a smaller "
        "damping, or another solver: Anderson, Broyden, NewtonKrylov",
        ConvergenceWarning,
        stacklevel=3,
    )
