"""When an epoch of accelerated descent ends: constants from theory, or a test of the value that adapts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple


class TheoryParameters(NamedTuple):
    """What the analysis prescribes for a loss with known constants.

    Args:
        lr: the step, 1 / (4 L).
        theta: one minus the momentum, 2 (eps rho / L^2)^(1/4).
        radius: an epoch ends beyond it, sqrt(eps / rho).
        steps: an epoch of so many steps without a restart is the last one, floor(1 / theta).
    """

    lr: float
    theta: float
    radius: float
    steps: int


def theory_parameters(lipschitz: float, hessian_lipschitz: float, eps: float) -> TheoryParameters:
    """Which step, momentum, radius and epoch reach a gradient norm of 82 eps for certain?

    Args:
        lipschitz: L, of the gradient; positive.
        hessian_lipschitz: rho, of the Hessian; positive.
        eps: the accuracy; below L^2 / (16 rho), where the momentum is positive.

    Raises:
        ValueError: a constant that is not positive, or an `eps` too large for momentum.

    Example:
        >>> theory_parameters(1.0, 1.0, 1e-4)
        TheoryParameters(lr=0.25, theta=0.2, radius=0.01, steps=5)

    Source: arXiv:2201.11411, Theorem 2.2.
    """
    for name, value in (("lipschitz", lipschitz), ("hessian_lipschitz", hessian_lipschitz), ("eps", eps)):
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be positive and finite, got {value}")
    theta = 2 * (eps * hessian_lipschitz / lipschitz**2) ** 0.25
    if theta >= 1:
        limit = lipschitz**2 / (16 * hessian_lipschitz)
        raise ValueError(
            f"eps must be below L^2 / (16 rho) = {limit:g}, got {eps}; plain gradient descent serves there"
        )
    # 1 / theta may lie a rounding below the whole number that it is.
    steps = max(1, math.floor(1 / theta * (1 + 1e-12)))
    return TheoryParameters(1 / (4 * lipschitz), theta, math.sqrt(eps / hessian_lipschitz), steps)


@dataclass(frozen=True, kw_only=True)
class FixedRestart:
    """Restart whenever an epoch has moved too far; nothing is ever undone. Algorithm 1 of arXiv:2201.11411.

    After k steps of an epoch with moves d_1 .. d_k it restarts, momentum and sum cleared, if k * sum |d|^2 > radius^2.
    The first epoch of `steps` steps without a restart is the last.

    Args:
        theta: one minus the momentum, in (0, 1]; 1 is plain gradient descent.
        radius: positive; `math.inf` never restarts.
        steps: length of the last epoch; None goes on for ever.

    Raises:
        ValueError: a setting out of range.
    """

    theta: float
    radius: float
    steps: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.theta <= 1:
            raise ValueError(f"theta must be in (0, 1], got {self.theta}; the momentum is 1 - theta")
        if not self.radius > 0:
            raise ValueError(f"radius must be positive, got {self.radius}")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")


@dataclass(frozen=True, kw_only=True)
class AdaptiveRestart:
    """Restart from where the loss has fallen; else go back, halve the step and shrink the radius.

    An epoch ends when k * sum |d|^2 > max(B, B0)^2 with B = sqrt(eps / rho), or after more than K = floor(1 / theta)
    steps. The loss is then measured. If it fell by accept_tol * eps^1.5 / sqrt(rho) the epoch is kept; otherwise, or
    where something became infinite or NaN, all is put back to where the epoch began, rho becomes 4 rho, the step half
    and B0 a tenth. Both leave theta = theta_scale * (eps * rho * lr^2)^(1/4) as it was.

    Args:
        eps: accuracy, about the gradient norm that is wanted.
        rho: guess at the Hessian's Lipschitz constant.
        theta_scale: momentum is 1 - theta. The analysis has 4, the authors' experiments 0.005; it depends on the
            problem.
        max_radius: B0, a length in the space of the parameters; max(10 B, |x| + 1) of the start if not given.
        accept_tol: how much of the promised fall is asked for.

    Raises:
        ValueError: a setting out of range.

    Source: arXiv:2201.11411, the adaptive variant (Ada-RAGD-NC) of the authors' code.
    """

    eps: float = 1e-4
    rho: float = 1.0
    theta_scale: float = 0.5
    max_radius: float | None = None
    accept_tol: float = 1e-5

    def __post_init__(self) -> None:
        for name in ("eps", "rho", "theta_scale", "max_radius"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be positive and finite, got {value}")
        if not self.accept_tol >= 0:
            raise ValueError(f"accept_tol must not be negative, got {self.accept_tol}")

    @classmethod
    def paper(cls, *, eps: float = 1e-4) -> AdaptiveRestart:
        """Return the constants of the authors' experiments, which have millions of rows and steps of 50 and more."""
        return cls(eps=eps, rho=1.0, theta_scale=0.005, max_radius=100.0)

    def theta(self, lr: float) -> float:
        """Return one minus the momentum for a step of `lr`, at most 1."""
        return min(1.0, self.theta_scale * math.sqrt(math.sqrt(self.eps * self.rho * lr**2)))


Restart = FixedRestart | AdaptiveRestart
