"""Random search: no gradients, therefore the check on every attack that uses them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

from torch import Tensor

from pellucid.core import Model, Perturbed, Space, Stream

from ._candidates import Candidates, attackable, borrowed
from ._losses import Loss, cross_entropy


@final
@dataclass(frozen=True)
class RandomSearch:
    """Do random distortions already make the model err? Draw points of the space, keep each sample's best.

    The input itself is always among them, so that accuracy under this search is never above accuracy.
    Where this beats a gradient attack, the gradients mislead it and its robust accuracy is too high.

    Args:
        space: the distortions to search.
        draws: random points per sample, beside the input itself.
        loss: ranks the points that do not differ in being misclassified.
        early_stop: draw no more for a sample once it is fooled.

    Raises:
        ValueError: `draws` is below 1.
    """

    space: Space
    draws: int = field(default=20, kw_only=True)
    loss: Loss = field(default=cross_entropy, kw_only=True)
    early_stop: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise ValueError(f"draws must be at least 1, got {self.draws}")

    @property
    def cost(self) -> int:
        """Most evaluations per sample."""
        return 1 if self._idle else self.draws + 2

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
        target: Tensor | None = None,
    ) -> Perturbed:
        """Attack a batch; arguments and errors as for `PGD`. `start` replaces the first draw."""
        with borrowed(model):
            x, y = attackable(x, y)
            zeros = self.space.zeros(x)
            found = Candidates(model, self.space, self.loss, x, y, rng, target=target, early_stop=self.early_stop)
            if self._idle:
                return found.result(zeros)
            found.offer(zeros)
            for draw in range(self.draws):
                found.drop()
                if not len(found):
                    break
                if draw == 0 and start is not None:
                    found.offer(self.space.project(found.x, found.rows_of(start.detach().to(zeros))))
                else:
                    found.offer(self.space.sample(found.x, found.stream("draw", draw)))
            return found.result()
