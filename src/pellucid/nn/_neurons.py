"""Spiking neurons: how a membrane gathers current, when it fires, and what a mean over time is for it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor


@final
@dataclass(frozen=True)
class IF:
    """Integrate and fire: the membrane keeps all current; it fires at the threshold, which is then subtracted.

    Args:
        threshold: what the membrane must reach.

    Example:
        >>> IF(threshold=2.0).total(10)
        10.0
    """

    threshold: float = 2.0

    def __post_init__(self) -> None:
        _check_threshold(self.threshold)

    @property
    def leak(self) -> float:
        """The share of the membrane that stays from step to step: all."""
        return 1.0

    def total(self, steps: int) -> float:
        """Return what the weights of `steps` steps add up to; rates are divided by it."""
        return float(steps)


@final
@dataclass(frozen=True)
class LIF:
    """Leaky integrate and fire: `leak` of the membrane stays from step to step, after the reset.

    Rates are weighted means in which a spike counts `leak` times less for every step since.

    Args:
        leak: share that stays, above 0 and below 1.
        threshold: what the membrane must reach.

    Example:
        >>> round(LIF(leak=0.5).total(3), 3)
        1.75
    """

    leak: float = 0.95
    threshold: float = 2.0

    def __post_init__(self) -> None:
        _check_threshold(self.threshold)
        if not 0 < self.leak <= 1:
            raise ValueError(f"leak must lie above 0 and at most at 1, got {self.leak}")

    def total(self, steps: int) -> float:
        """Return what the weights of `steps` steps add up to; rates are divided by it."""
        # Near 1 the quotient loses its digits, and the sum is the number of steps.
        if 1 - self.leak < 1e-6:
            return float(steps)
        return -math.expm1(steps * math.log(self.leak)) / (1 - self.leak)


Neuron = IF | LIF


def clipped(current: Tensor, neuron: Neuron) -> Tensor:
    """Return the rate that a constant current settles at: current over threshold, between 0 and 1."""
    # hardtanh and not clamp: at the ends its gradient is 0, as that of a neuron that never or always fires.
    return torch.nn.functional.hardtanh(current / neuron.threshold, 0.0, 1.0)


class Fired(torch.autograd.Function):
    """A spike where the membrane reaches the threshold; a triangle stands in for its gradient."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, membrane: Tensor, threshold: float, width: float) -> Tensor:
        """Return 1 where the membrane fires, else 0."""
        ctx.save_for_backward(membrane)
        ctx.threshold, ctx.width = threshold, width  # type: ignore[attr-defined]
        return (membrane >= threshold).to(membrane.dtype)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient times the triangle, whose area is 1."""
        (membrane,) = ctx.saved_tensors  # type: ignore[attr-defined]
        half = ctx.width * ctx.threshold  # type: ignore[attr-defined]
        distance = (membrane - ctx.threshold).abs() / half  # type: ignore[attr-defined]
        return grad * (1 - distance).clamp_min(0) / half, None, None


@final
@dataclass(frozen=True)
class Surrogate:
    """Backpropagation through every time step, with a triangle in place of the gradient of a spike.

    The usual way to train spiking networks, here with the same weights and the same spikes, to compare with. Its memory
    grows with the number of steps.

    Args:
        width: half the triangle's base, in thresholds.
    """

    width: float = 1.0

    def __post_init__(self) -> None:
        if not self.width > 0:
            raise ValueError(f"width must be positive, got {self.width}")


def _check_threshold(threshold: float) -> None:
    if not (math.isfinite(threshold) and threshold > 0):
        raise ValueError(f"threshold must be a positive number, got {threshold}")
