"""The integrated spatial attack: local and global deformations at once (arXiv:2111.01996)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from pellucid.core import DataError, Model, Padding, Perturbed, Stream

from ._candidates import Candidates, attackable, borrowed
from ._losses import Loss, cross_entropy
from ._spatial import First, Flow, RotateTranslate, Spatial

FLOW_STEP = 1 / 3
"""Length of a step of the flow as a share of its budget: 0.1 px of 0.3."""

RIGID_STEP = 1 / 8
"""Length of the first step of angle and shifts as a share of their budgets; it falls linearly to 0."""


@final
@dataclass(frozen=True)
class IntegratedSpatial:
    """Do bending, turning and shifting together make the model err? Climb the loss in all of them at once.

    In one resampling, see `Spatial`. Candidates, ranked by (misclassified, loss): the picture itself, given starts,
    `starts` random turns with shifts, the iterates of an ascent of the flow alone, and the iterates of an ascent of
    everything from the best of these. So it is never weaker than its parts, and given the winners of other attacks as
    starts, never weaker than those.

    The loss has many valleys in the angle: gradients alone are weak there, hence the random starts.

    Args:
        flow_px: the greatest displacement of a pixel beyond turn and shift, in pixels.
        max_deg: the greatest angle, in degrees.
        max_px: the greatest shift in each direction, in pixels.
        padding: what lies outside the picture.
        share: the share of all three limits that may be used.
        first: whether the limit of the shift is of one after the turn, before it, or of either: `RotateTranslate`.
        steps: gradient steps of each of the two ascents.
        starts: random turns with shifts.
        loss: what to raise, per sample.
        early_stop: leave a sample alone once it is fooled.

    Raises:
        ValueError: a setting is out of range.

    Example:
        >>> x, y = torch.rand(2, 1, 8, 8), torch.tensor([0, 1])
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
        >>> IntegratedSpatial(steps=2, starts=3)(model, x, y, rng=Stream(0)).params.shape
        torch.Size([2, 131])
    """

    flow_px: float = 0.3
    max_deg: float = 30.0
    max_px: float = 3.0
    padding: Padding = field(default="zeros", kw_only=True)
    share: float = field(default=1.0, kw_only=True)
    first: First = field(default="either", kw_only=True)
    steps: int = field(default=10, kw_only=True)
    starts: int = field(default=10, kw_only=True)
    loss: Loss = field(default=cross_entropy, kw_only=True)
    early_stop: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ValueError(f"steps must be at least 0, got {self.steps}")
        if self.starts < 0:
            raise ValueError(f"starts must be at least 0, got {self.starts}")
        _ = self.space

    @property
    def space(self) -> Spatial:
        """The distortions it searches."""
        return Spatial(
            self.flow_px, self.max_deg, self.max_px, padding=self.padding, share=self.share, first=self.first
        )

    @property
    def parts(self) -> tuple[RotateTranslate, Flow]:
        """The spaces whose params it takes as starts beside its own."""
        return self.space.rigid, self.space.flow

    @property
    def cost(self) -> int:
        """Most evaluations per sample, a gradient counted as two and one given start included."""
        return 1 if self._idle else 3 + self.starts + 2 * (2 * self.steps + 1)

    @property
    def _idle(self) -> bool:
        return self.space == self.space.scaled(0.0)

    def __call__(
        self,
        model: Model,
        x: Tensor,
        y: Tensor,
        *,
        rng: Stream,
        start: Tensor | None = None,
        starts: Sequence[Tensor] = (),
        target: Tensor | None = None,
    ) -> Perturbed:
        """Attack a batch; arguments and errors as for `PGD`.

        Args:
            model: maps `(b, ...)` to logits `(b, k)`.
            x: pictures `(b, C, H, W)`.
            y: true labels `(b,)` int64.
            rng: where random starts come from, bound to the samples' ids.
            start: one more candidate: params of this space, of its `RotateTranslate` `(b, 3)` or of its `Flow`
                `(b, 2, H, W)`; projected into the budget.
            starts: more of them, such as the winners of other attacks; each costs one evaluation.
            target: classes `(b,)` int64 that the model shall answer; None for any wrong answer.
        """
        with borrowed(model):
            x, y = attackable(x, y)
            space = self.space
            zeros = space.zeros(x)
            found = Candidates(model, space, self.loss, x, y, rng, target=target, early_stop=self.early_stop)
            if self._idle:
                return found.result(zeros)
            given = [lifted(space, params, x) for params in (*(() if start is None else (start,)), *starts)]
            found.offer(zeros)
            for params in given:
                found.drop()
                if not len(found):
                    break
                found.offer(space.project(found.x, found.rows_of(params)))
            for draw in range(self.starts):
                found.drop()
                if not len(found):
                    break
                rigid = space.rigid.sample(found.x, found.stream("rigid", draw))
                found.offer(space.join(rigid, None, found.x))
            found.drop()
            if len(found):
                bent = space.flow.sample(found.x, found.stream("flow"))
                self._climb(found, space.join(None, bent, found.x), rigid=False)
            found.drop()
            if len(found):
                # A flow of exactly 0 lies on a kink of the bilinear mixing: begin beside it.
                bent = space.flow.sample(found.x, found.stream("both"))
                self._climb(found, space.project(found.x, found.best + space.join(None, bent, found.x)), rigid=True)
            return found.result()

    def _climb(self, found: Candidates, params: Tensor, *, rigid: bool) -> None:
        """Offer the iterates of one ascent, of everything or of the flow alone."""
        for step in range(self.steps):
            grad = found.slope(params, trace=rigid)
            params, grad = found.drop(params, grad)
            if not len(found):
                return
            factor = torch.full_like(grad[0], FLOW_STEP)
            factor[:3] = RIGID_STEP * (1 - step / self.steps) if rigid else 0.0
            params = self.space.project(found.x, params + self.space.ascent(found.x, grad, 1.0) * factor)
        found.offer(params, trace=rigid)


def lifted(space: Spatial, params: Tensor, x: Tensor) -> Tensor:
    """Return the params of `space` that do what those of the space itself or of one of its two parts do."""
    shape, (height, width) = params.shape, x.shape[-2:]
    zeros = space.zeros(x)
    given = params.detach().to(zeros)
    if shape == zeros.shape:
        return given
    if shape == (len(x), 3):
        return space.join(given, None, x)
    if shape == (len(x), 2, height, width):
        return space.join(None, given, x)
    raise DataError(
        f"a start must hold params of RotateTranslate {(len(x), 3)}, of Flow {(len(x), 2, height, width)} or of "
        f"Spatial {tuple(zeros.shape)}, got {tuple(shape)}"
    )
