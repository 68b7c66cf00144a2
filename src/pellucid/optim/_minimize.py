"""Find a point where the gradient nearly vanishes, by whichever descent suits, and count every gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pellucid.core import Panel, Spark, Stream, showing

from ._restarted_agd import RestartedAGD
from ._rules import AdaptiveRestart, Restart

Point = Tensor | Sequence[Tensor] | Mapping[str, Tensor]

METHODS: tuple[str, ...] = ("auto", "ragd", "heavy-ball", "gd", "agd", "cg", "l-bfgs")


@dataclass(frozen=True)
class Trace:
    """Every evaluation in order: the loss and the gradient's norm where it was taken."""

    loss: tuple[float, ...]
    grad_norm: tuple[float, ...]


def _panel(found: OptimizeResult) -> Panel:
    scale = [math.log10(norm) if 0 < norm < math.inf else None for norm in found.trace.grad_norm]
    counts = (("restarts", found.restarts), ("undone epochs", found.rejections))
    return Panel(
        f"Minimum by {_NAMES.get(found.method, found.method)}",
        found.message,
        facts=(
            ("loss", found.fun),
            ("gradient norm", found.grad_norm),
            ("gradients", found.n_gradients),
            *(counts if found.method in ("ragd", "heavy-ball") else ()),
            *((("step", found.lr),) if found.lr is not None else ()),
        ),
        curve=Spark((scale,), label="logarithm of the gradient norm, gradient by gradient"),
    )


@showing(_panel)
@dataclass(frozen=True)
class OptimizeResult:
    """A point, and what is known about it.

    Args:
        x: in the form of the start.
        fun: loss at x.
        grad_norm: measured at x.
        n_gradients: evaluations of loss and gradient, those that picked the step and those of a lost trial included.
        restarts, rejections: of a restarted descent, 0 for others.
        success: the gradient's norm at x is at most `tol`.
        method: what ran in the end.
        lr: step in the end; None for methods that search along lines.
        message: one or two sentences: why it stopped, and which method would serve better.
        trace: loss and gradient norm of every evaluation.
    """

    x: Any
    fun: float
    grad_norm: float
    n_gradients: int
    restarts: int
    rejections: int
    success: bool
    method: str
    lr: float | None
    message: str
    trace: Trace


class _Enough(Exception):
    """The tolerance is reached, or the evaluations are spent."""


class _Counted:
    """A loss over one flat vector that remembers what it has seen."""

    def __init__(self, fun: Callable[[Any], Tensor], x0: Point, tol: float, limit: int) -> None:
        self.fun, self.tol, self.limit = fun, tol, limit
        self.parts = _parts(x0)
        self.build = _builder(x0)
        self.shapes = [part.shape for part in self.parts]
        self.losses: list[float] = []
        self.norms: list[float] = []
        self.best: tuple[float, float, Tensor] | None = None
        self.reached: tuple[float, float, Tensor] | None = None

    def start(self) -> Tensor:
        return torch.cat([part.detach().reshape(-1) for part in self.parts])

    def unflat(self, flat: Tensor) -> Any:
        pieces = torch.split(flat, [math.prod(shape) for shape in self.shapes])
        return self.build([piece.view(shape) for piece, shape in zip(pieces, self.shapes, strict=True)])

    def __call__(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        """Return loss and gradient at `flat`; end the search where they are good enough."""
        if len(self.losses) >= self.limit:
            raise _Enough
        with torch.enable_grad():
            point = flat.detach().clone().requires_grad_()
            loss = self.fun(self.unflat(point))
            if not isinstance(loss, Tensor) or loss.numel() != 1:
                raise ValueError("fun must return a tensor with one number that depends on x by differentiable steps")
            if not loss.requires_grad:
                raise ValueError("fun returned a number that does not depend on x by differentiable steps")
            (gradient,) = torch.autograd.grad(loss.reshape(()), point)
        value, norm = float(loss.detach()), float(gradient.to(torch.float64).norm())
        if not self.losses and not (math.isfinite(value) and math.isfinite(norm)):
            raise ValueError(f"fun or its gradient is not finite at x0: {value}; start elsewhere")
        self.losses.append(value)
        self.norms.append(norm)
        if math.isfinite(value) and math.isfinite(norm):
            if self.best is None or value < self.best[0]:
                self.best = (value, norm, point.detach())
            if norm <= self.tol:
                self.reached = (value, norm, point.detach())
                raise _Enough
        return loss.detach().reshape(()), gradient


def minimize(
    fun: Callable[[Any], Tensor],
    x0: Point,
    *,
    method: str = "auto",
    tol: float = 1e-5,
    max_gradients: int = 10_000,
    lr: float | None = None,
    restart: Restart | None = None,
    on_step: Callable[[int, float, float], None] | None = None,
) -> OptimizeResult:
    """Where is the gradient of a smooth loss nearly zero?

    For deterministic losses. The search ends at the first point whose gradient norm is at most `tol`; otherwise the
    point of least loss is returned.

    Args:
        fun: maps what `x0` looks like to one number, differentiably.
        x0: a tensor, or a sequence or mapping of tensors.
        method: "ragd" and "heavy-ball" are `RestartedAGD`; "gd" plain descent; "agd" Nesterov's with momentum cleared
            where the loss rises; "cg" and "l-bfgs" are SciPy's, which search along lines and compute on the CPU in
            float64. "auto" first gives L-BFGS and "ragd" a tenth of `max_gradients` each, at most 100, and goes on with
            the one that has the lower loss.
        tol: for the Euclidean norm of the whole gradient.
        max_gradients: evaluations of loss and gradient in all.
        lr: step of the methods that search no lines. If not given, the inverse of the curvature along the steepest
            directions around `x0`, found by power iteration in at most 11 evaluations.
        restart: of "ragd" and "heavy-ball"; if not given an `AdaptiveRestart` whose constants follow the
            scale of the loss: rho is 1 / (lr (1 + |x0|)), and the momentum that of a tolerance of 1e-4 of the first
            gradient's norm.
        on_step: called with the evaluations so far, the loss and the gradient norm of the last.

    Raises:
        ValueError: an unknown method, a setting out of range, or a `fun` that is not finite at `x0` or gives
            no gradient.

    Example:
        >>> found = minimize(lambda x: ((x - 2) ** 4).sum() + (x**2).sum(), torch.zeros(3))
        >>> found.success, found.grad_norm <= 1e-5
        (True, True)

    Source: arXiv:2201.11411; function restart from O'Donoghue and Candes, arXiv:1204.3982.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if not tol > 0:
        raise ValueError(f"tol must be positive, got {tol}")
    if max_gradients < 1:
        raise ValueError(f"max_gradients must be at least 1, got {max_gradients}")
    if lr is not None and not (lr > 0 and math.isfinite(lr)):
        raise ValueError(f"lr must be positive and finite, got {lr}")
    counted = _Counted(fun, x0, tol, max_gradients)
    if on_step is not None:
        counted = _watched(counted, on_step)
    search = _Search(counted, lr, restart)
    lead = ""
    if method == "auto":
        method, lead = search.trial(min(100, max(1, max_gradients // 10)))
    if method:
        search.run(method)
    return search.result(lead)


def _watched(counted: _Counted, on_step: Callable[[int, float, float], None]) -> _Counted:
    inner = counted.fun

    def heard(x: Any) -> Tensor:
        if counted.losses:
            on_step(len(counted.losses), counted.losses[-1], counted.norms[-1])
        return inner(x)

    counted.fun = heard
    return counted


class _Search:
    """Methods over one counted loss."""

    def __init__(self, counted: _Counted, lr: float | None, restart: Restart | None) -> None:
        self.counted, self.lr, self.restart = counted, lr, restart
        self.ran, self.used_lr = "", lr
        self.restarts = self.rejections = 0
        self.ended = ""

    def trial(self, share: int) -> tuple[Any, str]:
        """Let L-BFGS and restarted descent try; return the better one and a sentence about both."""
        whole = self.counted.limit
        best: dict[str, tuple[float, float, Tensor] | None] = {}
        for method in ("l-bfgs", "ragd"):
            if len(self.counted.losses) >= whole:
                break
            begun = len(self.counted.losses)
            self.counted.limit = min(whole, begun + share)
            self.counted.best = None
            self.run(method)
            best[method] = self.counted.best
            if self.counted.reached is not None:
                return "", f"{_NAMES[method]} reached the tolerance in {len(self.counted.losses) - begun} gradients."
        self.counted.limit = whole
        found = {name: value for name, value in best.items() if value is not None}
        winner = min(found, key=lambda name: found[name][0])
        values = ", ".join(f"{_NAMES[name]} {value[0]:.6g}" for name, value in found.items())
        self.counted.parts = [found[winner][2]]
        self.counted.best = found[winner]
        return winner, f"Losses after a trial of {share} gradients each: {values}; went on with {_NAMES[winner]}."

    def run(self, method: str) -> None:
        self.ran = method
        try:
            if method in ("cg", "l-bfgs"):
                self._scipy(method)
            elif method in ("ragd", "heavy-ball"):
                self._restarted(method)
            elif method == "gd":
                self._plain(method, momentum=False)
            else:
                self._plain(method, momentum=True)
        except _Enough:
            self.ended = ""

    def _step_size(self, x: Tensor) -> float:
        if self.lr is None:
            self.lr = 1 / _curvature(self.counted, x)
        self.used_lr = self.lr
        return self.lr

    def _scaled(self, start: Tensor, lr: float) -> AdaptiveRestart:
        """Return a rule that means the same whatever the units of the loss and of x.

        The Hessian is taken to change by its own size 1 / lr over the length of x. With constants in fixed units the
        momentum would depend on how the loss is scaled.
        """
        if not self.counted.norms:
            self.counted(start)
        tol, rho = self.counted.tol, 1 / (lr * (1 + float(start.norm())))
        # The momentum of a tolerance of 1e-4 of the first gradient; with a sharper one it would hardly be damped.
        coarse = max(tol, 1e-4 * self.counted.norms[0])
        return AdaptiveRestart(eps=tol, rho=rho, theta_scale=0.5 * (coarse / tol) ** 0.25)

    def _restarted(self, method: str) -> None:
        start = self.counted.start()
        x = torch.nn.Parameter(start.clone())
        kind = "nesterov" if method == "ragd" else "heavy-ball"
        lr = self._step_size(start)
        optimizer = RestartedAGD([x], lr=lr, restart=self.restart or self._scaled(start, lr), momentum=kind)

        def closure() -> Tensor:
            loss, x.grad = self.counted(x)
            return loss

        status = None
        try:
            while True:
                optimizer.step(closure)
                status = optimizer.status
                if status.stalled:
                    self.ended = "the step was halved 60 times without the loss falling"
                    return
        finally:
            if status is not None:
                self.restarts, self.rejections, self.used_lr = status.restarts, status.rejections, status.lr

    def _plain(self, method: str, *, momentum: bool) -> None:
        """Descend with a constant step; with momentum (r - 1) / (r + 2), cleared where the loss rises."""
        self.used_lr = None
        x = self.counted.start()
        lr = self._step_size(x)
        ahead, previous, last, age = x, x, math.inf, 1
        while True:
            loss, gradient = self.counted(ahead)
            if not (bool(loss.isfinite()) and bool(gradient.isfinite().all())):
                self.ended = f"the loss became infinite: the step {lr:.3g} is too large"
                return
            previous, x = x, ahead - lr * gradient
            age = 1 if not momentum or float(loss) > last else age + 1
            last = float(loss)
            ahead = x if age == 1 else x + (age - 1) / (age + 2) * (x - previous)

    def _scipy(self, method: str) -> None:
        from scipy import optimize

        start = self.counted.start()
        self.used_lr = None

        def both(flat: Any) -> tuple[float, Any]:
            loss, gradient = self.counted(torch.as_tensor(flat).to(start))
            return float(loss), gradient.cpu().double().numpy()

        options: Any = {"maxiter": 10**9, "gtol": 0.0}
        if method == "l-bfgs":
            options |= {"maxfun": 10**9, "ftol": 0.0}
        name: Any = {"cg": "CG", "l-bfgs": "L-BFGS-B"}[method]
        search: Any = optimize.minimize
        found = search(both, start.cpu().double().numpy(), jac=True, method=name, options=options)
        self.ended = "its line search found no lower loss, as happens at the rounding of the loss" if found.nit else ""

    def result(self, lead: str) -> OptimizeResult:
        counted = self.counted
        chosen = counted.reached or counted.best
        assert chosen is not None  # the start was finite
        loss, norm, x = chosen
        reason = (
            f"The gradient norm {norm:.3g} is within the tolerance {counted.tol:.3g} after {len(counted.losses)} "
            "gradients."
            if counted.reached
            else f"Stopped after {len(counted.losses)} gradients at a gradient norm of {norm:.3g}, above the tolerance "
            f"{counted.tol:.3g}: {self.ended or 'all of max_gradients is spent'}."
        )
        return OptimizeResult(
            x=counted.unflat(x),
            fun=loss,
            grad_norm=norm,
            n_gradients=len(counted.losses),
            restarts=self.restarts,
            rejections=self.rejections,
            success=counted.reached is not None,
            method=self.ran,
            lr=self.used_lr,
            message=" ".join(part for part in (reason, lead) if part),
            trace=Trace(tuple(counted.losses), tuple(counted.norms)),
        )


_NAMES = {"l-bfgs": "L-BFGS", "ragd": "restarted descent"}


def _curvature(counted: _Counted, x: Tensor, rounds: int = 10) -> float:
    """Return about the largest curvature around `x`: power iteration on differences of gradients."""
    _, base = counted(x)
    norm = float(base.norm())
    direction = base / norm if norm > 0 else Stream(0).child("curvature").normal((x.numel(),)).to(x)
    length = (1 + float(x.norm())) * float(torch.finfo(x.dtype).eps) ** 0.5 * 10
    largest = 0.0
    for _ in range(rounds):
        _, moved = counted(x + length * direction)
        change = (moved - base) / length
        size = float(change.norm())
        if not math.isfinite(size) or size == 0:
            break
        settled = abs(size - largest) <= 0.05 * size
        largest, direction = max(largest, size), change / size
        if settled:
            break
    return largest if largest > 0 else max(norm, 1e-12)


def _parts(x0: Point) -> list[Tensor]:
    parts = [x0] if isinstance(x0, Tensor) else list(x0.values() if isinstance(x0, Mapping) else x0)
    if not parts or not all(isinstance(part, Tensor) and part.is_floating_point() for part in parts):
        raise ValueError("x0 must be a floating-point tensor, or a sequence or mapping of such tensors")
    if len({(part.dtype, part.device) for part in parts}) > 1:
        raise ValueError("all tensors of x0 must have one dtype and one device")
    return parts


def _builder(x0: Point) -> Callable[[list[Tensor]], Any]:
    if isinstance(x0, Tensor):
        return lambda parts: parts[0]
    if isinstance(x0, Mapping):
        return lambda parts: dict(zip(x0, parts, strict=True))
    return lambda parts: tuple(parts)
