"""Solvers of h = F(h): damped iteration, Anderson's and Broyden's methods."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypedDict, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from ._iterate import Call, Found, Grain, Stop, exact, iterate


@runtime_checkable
class Solver(Protocol):
    """Finds h = F(h) for each row of a matrix by itself."""

    @property
    def max_iter(self) -> int:
        """Steps at most."""
        ...

    def solve(self, call: Call, x: Float[Tensor, "b d"], *, drop: bool = False, grain: Grain = exact) -> Found:
        """Return where the rows of `x` end; `call(x, rows)` is F on the samples `rows` (None: all of them).

        Args:
            call: the cell.
            x: the start, one row per sample.
            drop: cut finished rows out of the batch.
            grain: gives the least relative difference that the cell's numbers can express, once it has been called;
                a tolerance below it is raised.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Picard:
    """Damped fixed-point iteration: h <- (1 - damping) h + damping F(h).

    A plain step can cycle where the Jacobian has an eigenvalue near -1; averaging with h removes that. It converges
    where (1 - damping) + damping * eigenvalue lies inside the unit circle for every eigenvalue.

    Args:
        max_iter: steps at most; each is one evaluation of the cell. The start costs one more.
        tol: a sample is done when its residual is below.
        stop: "relative": |F(h) - h| / |F(h)|; "absolute": |F(h) - h|.
        damping: share of the new value, in (0, 1].

    Example:
        >>> from pellucid.nn import fixed_point
        >>> solution = fixed_point(torch.cos, torch.zeros(1, 1), Picard(max_iter=100, tol=1e-6))
        >>> round(solution.value.item(), 4)
        0.7391
    """

    max_iter: int = 50
    tol: float = 1e-3
    stop: Stop = "relative"
    damping: float = 1.0

    def __post_init__(self) -> None:
        check_solver(self)
        if not 0 < self.damping <= 1:
            raise ValueError(f"damping must be in (0, 1], got {self.damping}")

    def solve(self, call: Call, x: Float[Tensor, "b d"], *, drop: bool = False, grain: Grain = exact) -> Found:
        """Return where the rows of `x` end; see `Solver`."""
        return iterate(call, x, _Damped(self.damping), **limits(self), drop=drop, grain=grain)


@dataclass(frozen=True, kw_only=True)
class Anderson:
    """Anderson acceleration: the next point mixes the last ones so that their residuals cancel.

    With residuals r_i = F(h_i) - h_i of the last `memory` points: alpha minimizes |sum alpha_i r_i|^2 +
    ridge sum alpha_i^2 |r_i|^2 under sum alpha_i = 1, and the next point is sum alpha_i (h_i + mixing r_i). Measuring
    the ridge by each residual's own length keeps it working when residuals get small.

    Args:
        max_iter: steps at most; each is one evaluation of the cell. The start costs one more.
        tol: a sample is done when its residual is below.
        stop: "relative": |F(h) - h| / |F(h)|; "absolute": |F(h) - h|.
        memory: points that are mixed.
        ridge: how much mixing weights are held back; 0 is exact on small linear problems and rough in float32.
        mixing: share of the residual that is added, in (0, 1].

    Example:
        >>> from pellucid.nn import fixed_point
        >>> solution = fixed_point(torch.cos, torch.zeros(1, 1), Anderson(tol=1e-6))
        >>> round(solution.value.item(), 4), bool(solution.converged)
        (0.7391, True)
    """

    max_iter: int = 30
    tol: float = 1e-3
    stop: Stop = "relative"
    memory: int = 6
    ridge: float = 1e-6
    mixing: float = 1.0

    def __post_init__(self) -> None:
        check_solver(self)
        if self.memory < 1:
            raise ValueError(f"memory must be at least 1, got {self.memory}")
        if not self.ridge >= 0:
            raise ValueError(f"ridge must not be negative, got {self.ridge}")
        if not 0 < self.mixing <= 1:
            raise ValueError(f"mixing must be in (0, 1], got {self.mixing}")

    def solve(self, call: Call, x: Float[Tensor, "b d"], *, drop: bool = False, grain: Grain = exact) -> Found:
        """Return where the rows of `x` end; see `Solver`."""
        method = _Mixing(x, min(self.memory, self.max_iter), self.ridge, self.mixing)
        return iterate(call, x, method, **limits(self), drop=drop, grain=grain)


@dataclass(frozen=True, kw_only=True)
class Broyden:
    """Broyden's good method: a quasi-Newton step with an estimate of the inverse Jacobian of F(h) - h.

    The estimate starts at -1 (so the first step is a plain one) and gets one rank-one term per step; the oldest term
    goes when `memory` is full.

    Args:
        max_iter: steps at most; each is one evaluation of the cell. The start costs one more.
        tol: a sample is done when its residual is below.
        stop: "relative": |F(h) - h| / |F(h)|; "absolute": |F(h) - h|.
        memory: rank-one terms that are kept, two vectors each.

    Example:
        >>> from pellucid.nn import fixed_point
        >>> solution = fixed_point(torch.cos, torch.zeros(1, 1), Broyden(tol=1e-6))
        >>> round(solution.value.item(), 4), bool(solution.converged)
        (0.7391, True)
    """

    max_iter: int = 30
    tol: float = 1e-3
    stop: Stop = "relative"
    memory: int = 30

    def __post_init__(self) -> None:
        check_solver(self)
        if self.memory < 1:
            raise ValueError(f"memory must be at least 1, got {self.memory}")

    def solve(self, call: Call, x: Float[Tensor, "b d"], *, drop: bool = False, grain: Grain = exact) -> Found:
        """Return where the rows of `x` end; see `Solver`."""
        method = _QuasiNewton(x, min(self.memory, self.max_iter))
        return iterate(call, x, method, **limits(self), drop=drop, grain=grain)


def check_solver(solver: Limited) -> None:
    """Raise unless what all solvers share is in range."""
    if solver.max_iter < 1:
        raise ValueError(f"max_iter must be at least 1, got {solver.max_iter}")
    if not solver.tol > 0:
        raise ValueError(f"tol must be positive, got {solver.tol}")
    if solver.stop not in ("relative", "absolute"):
        raise ValueError(f"stop must be 'relative' or 'absolute', got {solver.stop!r}")


def dots(rows: Tensor, y: Tensor) -> Tensor:
    """Return the products of the rows (b, n, d) with the vectors (b, d): (b, n)."""
    # As a row times a transposed matrix: on a CPU ten times as fast as the matrix times a column.
    return torch.bmm(y[:, None], rows.transpose(1, 2))[:, 0]


@runtime_checkable
class Limited(Protocol):
    """The settings that all solvers share."""

    @property
    def max_iter(self) -> int: ...
    @property
    def tol(self) -> float: ...
    @property
    def stop(self) -> Stop: ...


class Limits(TypedDict):
    """The same, as arguments."""

    max_iter: int
    tol: float
    stop: Stop


def limits(solver: Limited) -> Limits:
    """Return the settings that all solvers share."""
    return {"max_iter": solver.max_iter, "tol": solver.tol, "stop": solver.stop}


class _Damped:
    def __init__(self, damping: float) -> None:
        self.damping = damping

    def propose(self, x: Tensor, fx: Tensor, rows: Tensor | None) -> Tensor:
        return fx if self.damping == 1 else torch.lerp(x, fx, self.damping)

    def keep(self, chosen: Tensor) -> None:
        pass


class _Mixing:
    """Anderson's memory: values F(h_i) and residuals, `(b, memory, d)`, and the products of the residuals."""

    def __init__(self, x: Tensor, memory: int, ridge: float, mixing: float) -> None:
        b, d = x.shape
        self.values, self.residuals = x.new_empty(b, memory, d), x.new_empty(b, memory, d)
        self.products = x.new_zeros(b, memory, memory)
        self.memory, self.ridge, self.mixing, self.count = memory, ridge, mixing, 0

    def propose(self, x: Tensor, fx: Tensor, rows: Tensor | None) -> Tensor:
        place, self.count = self.count % self.memory, self.count + 1
        n = min(self.count, self.memory)
        residual = fx - x
        self.values[:, place], self.residuals[:, place] = fx, residual
        product = dots(self.residuals[:, :n], residual)
        self.products[:, place, :n] = self.products[:, :n, place] = product
        if n == 1:
            return fx if self.mixing == 1 else torch.lerp(x, fx, self.mixing)
        alpha = self._weights(n, place).to(x.dtype)[:, None]
        mixed = torch.bmm(alpha, self.values[:, :n])[:, 0]
        if self.mixing != 1:
            mixed = mixed - (1 - self.mixing) * torch.bmm(alpha, self.residuals[:, :n])[:, 0]
        return mixed

    def _weights(self, n: int, place: int) -> Tensor:
        """Return mixing weights (b, n); where the system has no solution, those of a plain step from the last point."""
        products = self.products[:, :n, :n].to(torch.float64)
        size = products.diagonal(dim1=1, dim2=2).sqrt().clamp_min(torch.finfo(torch.float64).tiny)
        # In units of each residual's length the diagonal is 1, whatever the scale of the problem.
        system = products / size[:, :, None] / size[:, None, :]
        # Products of residuals are known to rounding only: a smaller ridge would find weights in the noise.
        system.diagonal(dim1=1, dim2=2).add_(max(self.ridge, 4 * torch.finfo(self.products.dtype).eps))
        weight = size.amin(1, keepdim=True) / size
        factor, failed = torch.linalg.cholesky_ex(system)
        solved = torch.cholesky_solve(weight[:, :, None], factor)[:, :, 0] * weight
        alpha = solved / solved.sum(1, keepdim=True)
        usable = (failed == 0) & (alpha.abs().sum(1) < torch.inf)
        if usable.device.type == "cpu" and bool(usable.all()):
            return alpha
        plain = torch.zeros_like(alpha[:1])
        plain[:, place] = 1
        return torch.where(usable[:, None], alpha, plain)

    def keep(self, chosen: Tensor) -> None:
        self.values, self.residuals = self.values.index_select(0, chosen), self.residuals.index_select(0, chosen)
        self.products = self.products.index_select(0, chosen)


class _QuasiNewton:
    """Broyden's memory: the inverse Jacobian is -1 + sum_i u_i v_i^T, with u and v `(b, memory, d)`."""

    def __init__(self, x: Tensor, memory: int) -> None:
        b, d = x.shape
        self.u, self.v = x.new_empty(b, memory, d), x.new_empty(b, memory, d)
        self.memory, self.count = memory, 0
        self.before: tuple[Tensor, Tensor] | None = None

    def propose(self, x: Tensor, fx: Tensor, rows: Tensor | None) -> Tensor:
        gap = fx - x
        full = self.count >= self.memory
        if full:  # the oldest term goes first, so that the new one fits what is left
            self.u[:, self.count % self.memory] = 0
        ahead = self._times(self.u, self.v, gap)
        if self.before is not None:
            moved, changed = x - self.before[0], gap - self.before[1]
            # The last step was minus the estimate times the last gap: where no term has gone since, the new term's
            # moved - estimate * changed is what is known already. A sample that stands still gets no term.
            short = moved - self._times(self.u, self.v, changed) if full else -ahead
            ahead = self._update(moved, changed, short, gap, ahead)
        self.before = x, gap
        return x - ahead

    def _times(self, left: Tensor, right: Tensor, y: Tensor) -> Tensor:
        """Return -y + sum_i left_i (right_i . y)."""
        n = min(self.count, self.memory)
        if n == 0:
            return -y
        return torch.baddbmm(y[:, None], dots(right[:, :n], y)[:, None], left[:, :n], beta=-1)[:, 0]

    def _update(self, moved: Tensor, changed: Tensor, short: Tensor, gap: Tensor, ahead: Tensor) -> Tensor:
        """Add a term that makes the estimate map `changed` to `moved`; return its new product with `gap`."""
        place = self.count % self.memory
        v = self._times(self.v, self.u, moved)
        inner = (v * changed).sum(1)
        u = short / inner[:, None]
        size = torch.linalg.vector_norm(v, dim=1)
        tiny = torch.finfo(u.dtype).eps * size * torch.linalg.vector_norm(changed, dim=1)
        # A term that is not finite, or of a sample that stands still, is left out.
        usable = (inner.abs() > tiny) & torch.isfinite(size) & torch.isfinite(torch.linalg.vector_norm(u, dim=1))
        if not (usable.device.type == "cpu" and bool(usable.all())):
            u, v = (torch.where(usable[:, None], part, 0.0) for part in (u, v))
        self.u[:, place], self.v[:, place] = u, v
        self.count += 1
        return torch.addcmul(ahead, u, (v * gap).sum(1, keepdim=True))

    def keep(self, chosen: Tensor) -> None:
        self.u, self.v = self.u.index_select(0, chosen), self.v.index_select(0, chosen)
        if self.before is not None:
            self.before = self.before[0].index_select(0, chosen), self.before[1].index_select(0, chosen)
