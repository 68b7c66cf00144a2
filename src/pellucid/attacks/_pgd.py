"""Projected gradient ascent (Madry et al. 2018, arXiv:1706.06083) in any space."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, final

from torch import Tensor

from pellucid.core import Model, Perturbed, Space, Stream

from ._candidates import Candidates, attackable, borrowed
from ._losses import Loss, cross_entropy


@final
@dataclass(frozen=True)
class PGD:
    """Can small distortions make the model err? Climb the loss by projected steps, keep each sample's best iterate.

    Iterates are ranked by (misclassified, loss). Samples that none of them fools are tried as they are: accuracy under
    attack is never above accuracy. The model is borrowed in eval mode and given back as it was.

    Args:
        space: the distortions to search, such as `Linf(8 / 255)`.
        steps: gradient steps; 0 gives the inputs back.
        step_size: length of one step as a fraction of the space's budget; 2.5 / steps if not given, so that an
            attack can cross the whole ball and turn around.
        loss: what to raise, per sample.
        restarts: independent starts; the best iterate of all is kept.
        start: "random" draws a start inside the budget, "zero" starts at the input itself.
        early_stop: leave a sample alone once it is fooled: fewer evaluations, the same samples fooled.

    Raises:
        ValueError: a setting is out of range.

    Example:
        >>> import torch
        >>> from pellucid.attacks import PGD, Linf
        >>> identity = lambda x: x
        >>> found = PGD(Linf(0.2))(identity, torch.tensor([[0.6, 0.4]]), torch.tensor([0]), rng=Stream(0))
        >>> found.inputs, found.success
        (tensor([[0.4000, 0.6000]]), tensor([True]))
    """

    space: Space
    steps: int = field(default=20, kw_only=True)
    step_size: float | None = field(default=None, kw_only=True)
    loss: Loss = field(default=cross_entropy, kw_only=True)
    restarts: int = field(default=1, kw_only=True)
    start: Literal["random", "zero"] = field(default="random", kw_only=True)
    early_stop: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ValueError(f"steps must be at least 0, got {self.steps}")
        if self.restarts < 1:
            raise ValueError(f"restarts must be at least 1, got {self.restarts}")
        if self.step_size is not None and not (math.isfinite(self.step_size) and self.step_size > 0):
            raise ValueError(f"step_size must be a positive fraction of the budget, got {self.step_size}")
        if self.start not in ("random", "zero"):
            raise ValueError(f"start must be 'random' or 'zero', got {self.start!r}")

    @property
    def cost(self) -> int:
        """Most evaluations per sample, a gradient counted as two."""
        return 1 if self._idle else self.restarts * (2 * self.steps + 1) + 2

    @property
    def _idle(self) -> bool:
        return self.steps == 0 or self.space == self.space.scaled(0.0)

    def __call__(
        self,
        model: Model,
        x: Tensor,
        y: Tensor,
        *,
        rng: Stream,
        start: Tensor | None = None,
        target: Tensor | None = None,
    ) -> Perturbed:
        """Attack a batch.

        Args:
            model: maps `(b, ...)` to logits `(b, k)`.
            x: inputs `(b, ...)` inside the space's bounds.
            y: true labels `(b,)` int64.
            rng: where random starts come from, bound to the samples' ids.
            start: parameters at which the first ascent begins instead; projected into the budget.
            target: classes `(b,)` int64 that the model shall answer; None for any wrong answer.

        Raises:
            ModelError: logits or a gradient are NaN or infinite (the sample is named), or the output is no `(b, K)`.
            DataError: inputs lie outside the space's bounds.
        """
        with borrowed(model):
            x, y = attackable(x, y)
            zeros = self.space.zeros(x)
            found = Candidates(model, self.space, self.loss, x, y, rng, target=target, early_stop=self.early_stop)
            if self._idle:
                return found.result(zeros)
            for restart in range(self.restarts):
                if restart == 0 and start is not None:
                    params = self.space.project(x, start.detach().to(zeros))
                elif self.start == "random":
                    params = self.space.sample(found.x, found.stream("start", restart))
                else:
                    params = self.space.zeros(found.x)
                self._climb(found, params, trace=restart == 0)
                found.drop()
                if not len(found):
                    break
            if self.start == "random" or start is not None:
                found.try_inputs()
            return found.result()

    def _climb(self, found: Candidates, params: Tensor, *, trace: bool) -> None:
        """Offer the iterates of one ascent."""
        size = 2.5 / self.steps if self.step_size is None else self.step_size
        for _ in range(self.steps):
            grad = found.slope(params, trace=trace)
            params, grad = found.drop(params, grad)
            if not len(found):
                return
            params = self.space.project(found.x, params + self.space.ascent(found.x, grad, size))
        found.offer(params, trace=trace)
