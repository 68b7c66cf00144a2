"""When does the loss begin to fall? The flat first phase of training, found from the losses alone."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

FIRST = 20  # steps whose mean is the loss at the start
HOLD = 20  # steps in a row below the mark that end the phase
DROP = 0.02  # of the loss at the start
SMOOTHING = 0.98


@dataclass(frozen=True)
class FirstPhase:
    """The first phase of a training, in which the loss stands still.

    Args:
        steps: training steps looked at.
        start: mean loss of the first 20 steps; NaN before there are so many.
        end: the first of the 20 steps in a row whose smoothed loss lay 2% below the start; None while it lasts.
        smoothed: the smoothed loss at the last step.
    """

    steps: int
    start: float
    end: int | None
    smoothed: float

    @property
    def lasted(self) -> int:
        """Steps the phase has lasted, so far if it has not ended."""
        return self.steps if self.end is None else self.end


@final
class LossWatch:
    """Follows the losses of a training and tells when its first phase is over.

    The smoothed loss begins as the mean of the first 20 losses and then is 0.98 of itself and 0.02 of the new one.
    Losses that are None or not finite are passed over: they are of steps that could not change anything, such as those
    of a warm-up at learning rate 0.

    Example:
        >>> watch = LossWatch()
        >>> for _ in range(30):
        ...     watch.add(2.3)
        >>> watch.phase.end is None
        True
    """

    def __init__(self) -> None:
        self.steps = 0
        self._first: list[float] = []
        self._start = self._smoothed = math.nan
        self._below: int | None = None
        self._held = 0
        self._end: int | None = None

    @property
    def phase(self) -> FirstPhase:
        """What is known so far."""
        return FirstPhase(self.steps, self._start, self._end, self._smoothed)

    def add(self, loss: float | None) -> None:
        """Take in the loss of the next step."""
        step = self.steps
        self.steps += 1
        if loss is None or not math.isfinite(loss):
            return
        if len(self._first) < FIRST:
            self._first.append(loss)
            if len(self._first) == FIRST:
                self._start = self._smoothed = sum(self._first) / FIRST
            return
        self._smoothed = SMOOTHING * self._smoothed + (1 - SMOOTHING) * loss
        if self._end is not None:
            return
        # Written for losses of any sign: 2% below a negative loss is further from zero.
        if self._smoothed > self._start - DROP * abs(self._start):
            self._held, self._below = 0, None
            return
        self._below = step if self._below is None else self._below
        self._held += 1
        if self._held == HOLD:
            self._end = self._below


def first_phase(losses: Iterable[float | None]) -> FirstPhase:
    """How long did the loss stand still at the start of a training?

    The phase lasts while the smoothed loss is above 0.98 of the mean of the first 20 losses, and ends at the first
    step from which on it is below for 20 steps in a row. The mark comes from the data, so any loss will do.

    Args:
        losses: one per training step; None where a step changed nothing (learning rate 0): these are left out.

    Example:
        >>> first_phase([2.0] * 100 + [1.0] * 50).end
        102
    """
    watch = LossWatch()
    for loss in losses:
        watch.add(loss)
    return watch.phase
