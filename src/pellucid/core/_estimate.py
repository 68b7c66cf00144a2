"""A number with its uncertainty and its cost."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Estimate:
    """What an estimator returns: no number without its standard error and its price.

    Args:
        values: the estimates, any shape.
        stderr: standard error of each value, same shape; zero where the value is exact.
        evaluations: model evaluations spent (one forward of one sample is one, one gradient is two).
        floor: size that pure sampling noise would reach, same shape, where that is meaningful.
    """

    values: Tensor
    stderr: Tensor
    evaluations: int
    floor: Tensor | None = None
