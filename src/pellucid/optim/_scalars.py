"""Numbers and truths that control a descent: plain ones on the CPU, tensors of one element on other devices.

The same formulas serve both. On a GPU nothing here waits for the device; on a CPU nothing pays for tensors of one
element.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

Scalar = Any
"""A float, or a float64 tensor of one element."""

Truth = Any
"""A bool, or a bool tensor of one element."""


def scalar(value: float, device: torch.device) -> Scalar:
    """Return a number as control sees it on `device`."""
    return float(value) if device.type == "cpu" else torch.full((), value, dtype=torch.float64, device=device)


def truth(value: bool, device: torch.device) -> Truth:
    """Return a truth as control sees it on `device`."""
    return bool(value) if device.type == "cpu" else torch.full((), value, dtype=torch.bool, device=device)


def taken(value: Tensor, device: torch.device) -> Scalar:
    """Return a tensor of one element as a number."""
    return float(value) if device.type == "cpu" else value.to(device, torch.float64)


def pick(condition: Truth, yes: Any, no: Any) -> Any:
    """Return one of two numbers or tensors."""
    if not isinstance(condition, Tensor):
        return yes if condition else no
    if not isinstance(yes, Tensor):
        yes = torch.full((), yes, dtype=torch.float64, device=condition.device)
    if not isinstance(no, Tensor):
        no = torch.full((), no, dtype=torch.float64, device=condition.device)
    return torch.where(condition, yes, no)


def root(value: Scalar) -> Scalar:
    """Return the square root."""
    return value.sqrt() if isinstance(value, Tensor) else math.sqrt(value)


def finite(value: Scalar) -> Truth:
    """Return whether a number is neither infinite nor NaN."""
    return value.isfinite() if isinstance(value, Tensor) else math.isfinite(value)


def opposite(value: Truth) -> Truth:
    """Return the negation."""
    return ~value if isinstance(value, Tensor) else not value


def larger(a: Scalar, b: Scalar) -> Scalar:
    """Return the larger of two numbers."""
    return torch.maximum(a, b) if isinstance(a, Tensor) else max(a, b)
