"""How the networks that solve for an equilibrium are told to solve it, and how their gradient passes through."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from .._backwards import Backward, Implicit, Neumann, OneStep, Phantom
from .._newton_krylov import NewtonKrylov
from .._solvers import Anderson, Broyden, Picard, Solver

Positive = Annotated[int, Meta(ge=1)]
Tolerance = Annotated[float, Meta(gt=0, lt=1)]
Damping = Annotated[float, Meta(gt=0, le=1)]

METHODS: dict[str, Callable[..., Solver]] = {
    "anderson": Anderson,
    "broyden": Broyden,
    "newton-krylov": NewtonKrylov,
    "picard": Picard,
}


class SolverSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the forward pass finds the equilibrium.

    Args:
        method: "anderson", "broyden", "newton-krylov" or "picard", which repeats the cell.
        max_iter: steps at most.
        tol: a sample is done when |F(h) - h| / |F(h)| is below.
    """

    method: Literal["anderson", "broyden", "newton-krylov", "picard"] = "anderson"
    max_iter: Positive = 40
    tol: Tolerance = 1e-3

    def build(self) -> Solver:
        """Return the solver."""
        return METHODS[self.method](max_iter=self.max_iter, tol=self.tol)


class BackwardSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the gradient passes through the equilibrium.

    Args:
        mode: "upg", the phantom gradient by unrolling; "npg", by a Neumann series, which needs the least memory;
            "exact", by the implicit function theorem; "one-step".
        steps: of the phantom gradient; 5 if not given.
        damping: of the phantom gradient, share of the new value in each step; 0.5 if not given.
        tol: of the exact gradient's linear equation; 1e-5 if not given.
        max_iter: steps of the exact gradient at most; 50 if not given.
    """

    mode: Literal["upg", "npg", "exact", "one-step"] = "upg"
    steps: Positive | None = None
    damping: Damping | None = None
    tol: Tolerance | None = None
    max_iter: Positive | None = None

    def __post_init__(self) -> None:
        phantom = self.mode in ("upg", "npg")
        for name, used in (("steps", phantom), ("damping", phantom), ("tol", self.mode == "exact")):
            if getattr(self, name) is not None and not used:
                raise ValueError(f"{name} does nothing in the mode {self.mode!r}; leave it out")
        if self.max_iter is not None and self.mode != "exact":
            raise ValueError(f"max_iter does nothing in the mode {self.mode!r}; leave it out")

    def build(self) -> Backward:
        """Return the backward pass."""
        steps, damping = self.steps or 5, self.damping or 0.5
        if self.mode == "upg":
            return Phantom(steps=steps, damping=damping)
        if self.mode == "npg":
            return Neumann(steps=steps, damping=damping)
        if self.mode == "one-step":
            return OneStep()
        return Implicit(Anderson(max_iter=self.max_iter or 50, tol=self.tol or 1e-5))
