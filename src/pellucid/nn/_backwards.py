"""How a gradient passes through a fixed point h = F(h): exactly, by phantom steps, or in one step."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from ._solvers import Anderson, Solver
from ._state import Cell, full_precision


class ConvergenceWarning(RuntimeWarning):
    """A fixed point was not reached; what comes out is finite, but no solution."""


@runtime_checkable
class Backward(Protocol):
    """Gives the fixed point a value and a gradient."""

    def value(self, cell: Cell, h: Float[Tensor, "b d"], fh: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        """Return the layer's value without a graph, from the solver's point and the cell's value there."""
        ...

    def attach(self, cell: Cell, h: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        """Return the same value with a graph that leads to the cell's parameters and inputs, through one cell call
        at `h` first."""
        ...


@dataclass(frozen=True)
class Implicit:
    """The exact gradient, by the implicit function theorem.

    With J the Jacobian of F at h and v the gradient that arrives, u solves u = J^T u + v; the gradient of a parameter
    is (dF/dtheta)^T u. One graph of F and a product with J^T per step of the solver; memory does not grow with steps.

    Args:
        solver: of the linear equation.

    Example:
        >>> from pellucid.nn import fixed_point
        >>> a = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
        >>> z = fixed_point(lambda z: a * z + 1, torch.zeros(1, 1, dtype=torch.float64), backward=Implicit()).value
        >>> z.sum().backward()
        >>> round(a.grad.item(), 3)  # h = 1 / (1 - a), so dh/da = 1 / (1 - a)^2
        4.0
    """

    solver: Solver = field(default_factory=lambda: Anderson(max_iter=50, tol=1e-5))

    def value(self, cell: Cell, h: Float[Tensor, "b d"], fh: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        """Return F(h)."""
        return fh

    def attach(self, cell: Cell, h: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        """Return F(h), whose gradient is exact."""

        def solved(pull: Callable[[Tensor], Tensor], v: Tensor) -> Tensor:
            found = self.solver.solve(lambda u, rows: pull(u) + v, v, grain=lambda: cell.grain)
            if not bool(found.converged.all()):
                missed = ~found.converged
                warnings.warn(
                    f"the exact gradient of {int(missed.sum())} of {len(v)} samples stopped at a residual of up to "
                    f"{float(found.residual[missed].max()):.1e} after {int(found.steps.max())} steps; give "
                    "Implicit(...) a solver with more steps or a larger tol, or use Phantom()",
                    ConvergenceWarning,
                    stacklevel=2,
                )
            return found.x

        return _corrected(cell, h, solved)


@dataclass(frozen=True, kw_only=True)
class Phantom:
    """The phantom gradient by unrolling: `steps` damped steps from the solver's point, differentiated.

    h_{t+1} = (1 - damping) h_t + damping F(h_t), starting at the solver's point without gradient; the layer's value is
    the last h. One step without damping is `OneStep`; many steps of a contraction give the exact gradient. It stays
    sound where the solver did not converge; `Neumann` needs less memory.

    Args:
        steps: damped steps k; memory grows with them.
        damping: share of the new value, in (0, 1].

    Source: Geng et al. 2021 (arXiv:2111.05177), "unrolling-based phantom gradient".
    """

    steps: int = 5
    damping: float = 0.5

    def __post_init__(self) -> None:
        _check(self.steps, self.damping)

    def value(self, cell: Cell, h: Float[Tensor, "b d"], fh: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        """Return the point after the damped steps."""
        h = torch.lerp(h, fh, self.damping)
        for _ in range(self.steps - 1):
            h = torch.lerp(h, cell(h), self.damping)
        return h

    def attach(self, cell: Cell, h: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        """Return the point after the damped steps, whose gradient is theirs."""
        for _ in range(self.steps):
            h = torch.lerp(h, cell(h), self.damping)
        return h


@dataclass(frozen=True, kw_only=True)
class Neumann:
    """The phantom gradient by a cut Neumann series: `Implicit`, with its equation solved by `steps` damped steps.

    With B = damping J + (1 - damping): u = damping sum_{t < steps} (B^T)^t v. One graph of F at h, whatever the number
    of steps: the phantom gradient that needs the least memory. At an exact fixed point it equals `Phantom`.

    Args:
        steps: terms of the series k.
        damping: share of the new value, in (0, 1].

    Source: Geng et al. 2021 (arXiv:2111.05177), "Neumann-series-based phantom gradient".
    """

    steps: int = 5
    damping: float = 0.5

    def __post_init__(self) -> None:
        _check(self.steps, self.damping)

    def value(self, cell: Cell, h: Float[Tensor, "b d"], fh: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        """Return F(h)."""
        return fh

    def attach(self, cell: Cell, h: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        """Return F(h), whose gradient is the cut series."""

        def summed(pull: Callable[[Tensor], Tensor], v: Tensor) -> Tensor:
            u = self.damping * v
            for _ in range(self.steps - 1):
                u = torch.lerp(u, pull(u) + v, self.damping)
            return u

        return _corrected(cell, h, summed)


@dataclass(frozen=True)
class OneStep:
    """The gradient of the last evaluation of F alone, as if h were a constant ("Jacobian-free").

    The cheapest: (dF/dtheta)^T v. Equal to `Phantom(steps=1, damping=1)`.
    """

    def value(self, cell: Cell, h: Float[Tensor, "b d"], fh: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        """Return F(h)."""
        return fh

    def attach(self, cell: Cell, h: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        """Return F(h) with its own gradient."""
        return cell(h)


def _check(steps: int, damping: float) -> None:
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if not 0 < damping <= 1:
        raise ValueError(f"damping must be in (0, 1], got {damping}")


Pull = Callable[[Tensor], Tensor]


def _corrected(cell: Cell, h: Tensor, correct: Callable[[Pull, Tensor], Tensor]) -> Tensor:
    """Return F(h); a gradient v that arrives goes on as `correct(pull, v)`, where pull(u) is J^T u."""
    h = h.detach().requires_grad_()
    out = cell(h)
    if not _leads_elsewhere(out, h):  # all is frozen: as in other layers, the value has no graph then
        return out.detach()

    def pull(u: Tensor) -> Tensor:
        (found,) = torch.autograd.grad(out, h, u, retain_graph=True, allow_unused=True)
        return torch.zeros_like(u) if found is None else found

    return _Corrected.apply(out, lambda v: correct(pull, v))  # type: ignore[no-any-return, no-untyped-call]


def _leads_elsewhere(out: Tensor, h: Tensor) -> bool:
    """Return whether the graph of `out` has a leaf beside `h`, or may: functions written in Python can hide some."""
    ahead = [out.grad_fn]
    seen = set()
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if issubclass(type(node), torch.autograd.function.BackwardCFunction) or getattr(node, "variable", h) is not h:
            return True
        ahead += [following for following, _ in node.next_functions]
    return False


class _Corrected(torch.autograd.Function):
    """The identity, with another gradient.

    Not a hook on the tensor: products with the Jacobian run through the same tensor, and would call the hook again.
    """

    @staticmethod
    def forward(ctx: Any, out: Tensor, correct: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.correct = correct
        return out.clone()  # so that the user may change the value in place: products with the Jacobian need `out`

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor, None]:
        if torch.is_grad_enabled():  # create_graph=True: the correction would silently count as a constant
            raise RuntimeError(
                "Implicit and Neumann give first derivatives only; for derivatives of a gradient (create_graph=True) "
                "use backward=Phantom(...), which is unrolled"
            )
        with full_precision(v.device):
            return ctx.correct(v), None


BACKWARDS: Mapping[str, type[Implicit | Phantom | Neumann | OneStep]] = MappingProxyType(
    {"implicit": Implicit, "neumann": Neumann, "one-step": OneStep, "phantom": Phantom}
)
"""Backward passes by name, as settings write them; `BACKWARDS[name](...)` makes one."""
