"""The loop that all solvers share: residuals, stopping each sample by itself, dropping samples, the best iterate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Stop = Literal["relative", "absolute"]

Call = Callable[[Tensor, Tensor | None], Tensor]
"""A cell as solvers see it: matrix `(b, d)` and the rows it belongs to (None: all) to matrix `(b, d)`."""

Grain = Callable[[], float]
"""Gives the least relative difference that a cell's numbers can express, once it has been called."""


def exact() -> float:
    """Return 0: a cell whose numbers limit no tolerance."""
    return 0.0


_WORTH_DROPPING = 0.75  # the share of a batch that is still at work below which the finished rows are cut out


@runtime_checkable
class Method(Protocol):
    """What tells solvers apart: where to look next."""

    def propose(self, x: Tensor, fx: Tensor, rows: Tensor | None) -> Tensor:
        """Return the next point `(b, d)`, from the last one and the cell's value there."""
        ...

    def keep(self, chosen: Tensor) -> None:
        """Forget all rows of the memory but `chosen`."""
        ...


@dataclass(frozen=True)
class Found:
    """Where a solver ended, all samples in their order: `(b, d)` or `(b,)`."""

    x: Float[Tensor, "b d"]
    fx: Float[Tensor, "b d"]
    residual: Float[Tensor, " b"]
    steps: Int[Tensor, " b"]
    converged: Bool[Tensor, " b"]
    diverged: Bool[Tensor, " b"]
    history: Float[Tensor, "t b"]


def gaps(x: Tensor, fx: Tensor) -> tuple[Tensor, Tensor]:
    """Return the lengths of F(x) - x and of F(x), per row."""
    return torch.linalg.vector_norm(fx - x, dim=1), torch.linalg.vector_norm(fx, dim=1)


def iterate(
    call: Call, x: Tensor, method: Method, *, max_iter: int, tol: float, stop: Stop, drop: bool, grain: Grain
) -> Found:
    """Run a method until each sample has converged, has become non-finite, or has made `max_iter` steps.

    A sample that is done stays where it is. Of a sample that does not converge, the point with the least residual is
    kept. Every operation here works on rows by themselves, so that a sample's result does not depend on its company.
    """
    every = 1 if x.device.type == "cpu" else 3  # asking a GPU whether all are done makes it wait
    n = len(x)
    rows: Tensor | None = None
    whole: _Rows | None = None
    fx = call(x, None)
    # An absolute tolerance is the user's to choose: only they know the scale.
    state = _Rows.start(x, fx, tol=max(tol, grain()) if stop == "relative" else tol, stop=stop)
    history, first = [state.residual], state.gap
    for k in range(1, max_iter + 1):
        if (k - 1) % every == 0:
            left = n if not n else int(state.active.sum())
            if not left:
                break
            if drop and left <= _WORTH_DROPPING * state.x.shape[0]:
                chosen = state.active.nonzero()[:, 0]
                whole = state if whole is None else whole.put(rows, state)
                rows = chosen if rows is None else rows[chosen]
                state = state.at(chosen)
                method.keep(chosen)
        proposed = method.propose(state.x, state.fx, rows)
        x = proposed if _all(state.active) else torch.where(state.active[:, None], proposed, state.x)
        state.advance(x, call(x, rows))
        history.append(state.residual if rows is None else history[-1].index_copy(0, rows, state.residual))
    if whole is not None:
        state = whole.put(rows, state)
    broken = ~(state.active | state.converged)  # became non-finite
    diverged = broken | (state.active & (state.gap >= first) & (state.steps > 1))
    # Between two questions to a GPU a few steps too many are made, in which nothing moves.
    made = history[: int(state.steps.max()) + 1 if n else 1]
    return Found(
        state.best_x, state.best_fx, state.best_residual, state.steps, state.converged, diverged, torch.stack(made)
    )


@dataclass
class _Rows:
    """What is known of the samples at work."""

    x: Tensor
    fx: Tensor
    gap: Tensor  # |F(x) - x|
    floor: Tensor  # what is added to |F(x)|, so that a solution of 0 can be reached
    residual: Tensor  # gap, or gap / (|F(x)| + floor); of samples that are done, their last
    best_x: Tensor
    best_fx: Tensor
    best_gap: Tensor
    best_residual: Tensor
    steps: Tensor
    active: Tensor  # neither converged nor non-finite
    converged: Tensor
    tol: float
    stop: Stop

    @staticmethod
    def start(x: Tensor, fx: Tensor, *, tol: float, stop: Stop) -> _Rows:
        gap, size = gaps(x, fx)
        # Small beside the start: a fixed number would call all small states solved, such as gradients of a small loss.
        floor = (1e-9 * (gap + size).clamp_max(1)).clamp_min(torch.finfo(gap.dtype).tiny)
        residual = gap / (size + floor) if stop == "relative" else gap
        finite = gap + size < torch.inf
        converged = finite & (residual < tol)
        steps = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        active = finite & ~converged
        return _Rows(x, fx, gap, floor, residual, x, fx, gap, residual, steps, active, converged, tol, stop)

    def advance(self, x: Tensor, fx: Tensor) -> None:
        """Take the next points of the samples that are at work."""
        gap, size = gaps(x, fx)
        residual = gap / (size + self.floor) if self.stop == "relative" else gap
        finite = self.active & (gap + size < torch.inf)
        converged = finite & (residual < self.tol)
        # A length, not a relative residual, says which point is best: far out the relative one is small by itself.
        better = converged | (finite & (gap <= self.best_gap))
        self.x, self.fx, self.gap = x, fx, gap
        self.residual = torch.where(self.active, residual, self.residual)
        if _all(better):
            self.best_x, self.best_fx, self.best_gap, self.best_residual = x, fx, gap, residual
        else:
            self.best_x = torch.where(better[:, None], x, self.best_x)
            self.best_fx = torch.where(better[:, None], fx, self.best_fx)
            self.best_gap = torch.where(better, gap, self.best_gap)
            self.best_residual = torch.where(better, residual, self.best_residual)
        self.steps = self.steps + self.active
        self.converged = self.converged | converged
        self.active = finite & ~converged

    def _tensors(self) -> dict[str, Tensor]:
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    def at(self, chosen: Tensor) -> _Rows:
        parts: dict[str, Any] = {name: value.index_select(0, chosen) for name, value in self._tensors().items()}
        return replace(self, **parts)

    def put(self, rows: Tensor | None, part: _Rows) -> _Rows:
        """Return all samples, those at `rows` from `part`."""
        if rows is None:
            return part
        now = part._tensors()
        parts: dict[str, Any] = {name: value.index_copy(0, rows, now[name]) for name, value in self._tensors().items()}
        return replace(self, **parts)


def _all(mask: Tensor) -> bool:
    """Return whether a mask is known to be true everywhere; a GPU is not asked, it would make us wait."""
    return mask.device.type == "cpu" and bool(mask.all())
