"""An attack as a recipe writes it down."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from pellucid.attacks import LOSSES, PGD, SPACES


class AttackSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Projected gradient ascent in a ball around each sample.

    Args:
        space: the ball's norm.
        eps: its radius, in the unit of the inputs.
        steps: gradient steps.
        step_size: length of a step as a share of `eps`; `2.5 / steps` if not given.
        loss: what the attack raises.
        restarts: how often it starts anew; the worst result counts.
        start: from a random point of the ball or from the sample itself.
        bounds: least and greatest legal input value; leave out for [0, 1].
    """

    eps: Annotated[float, Meta(gt=0)]
    space: Literal["linf", "l2"] = "linf"
    steps: Annotated[int, Meta(ge=1)] = 20
    step_size: Annotated[float, Meta(gt=0, le=2)] | None = None
    loss: Literal["cross_entropy", "margin"] = "cross_entropy"
    restarts: Annotated[int, Meta(ge=1)] = 1
    start: Literal["random", "zero"] = "random"
    bounds: tuple[float, float] | None = (0.0, 1.0)

    def build(self) -> PGD:
        """Return the attack."""
        return PGD(
            SPACES[self.space](self.eps, bounds=self.bounds),
            steps=self.steps,
            step_size=self.step_size,
            loss=LOSSES[self.loss],
            restarts=self.restarts,
            start=self.start,
        )

    def __str__(self) -> str:
        more = f", {self.restarts} restarts" if self.restarts > 1 else ""
        return f"PGD-{self.steps}, {self.space} eps {self.eps:g}{more}"
