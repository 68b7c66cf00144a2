"""Every turn and shift of a grid: exhaustive up to its spacing, where gradients are lost in the angle."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pellucid.core import Model, Perturbed, Stream, warp

from ._candidates import Candidates, attackable, borrowed
from ._losses import Loss, cross_entropy
from ._spatial import RotateTranslate, after

ELEMENTS = {"cpu": 2**18}
"""Elements of one batch for the model, elsewhere 2**20: many candidates of small pictures, few of large ones.

On a CPU a batch of 2**20 took twice the time per picture: what lies between two layers no longer fits into the cache.
"""


@dataclass(frozen=True)
class GridSweep:
    """What the model answers at every candidate of a grid.

    Args:
        params: candidates `(c, 3)`: degrees, pixels down, pixels right.
        success: `(c, b)`, the candidate fools the model.
        loss: `(c, b)` at the candidate.
        evaluations: model evaluations spent.
    """

    params: Float[Tensor, "c 3"]
    success: Bool[Tensor, "c b"]
    loss: Float[Tensor, "c b"]
    evaluations: int


@final
@dataclass(frozen=True)
class GridSearch:
    """Does any turn and shift of a grid make the model err? Try them all, keep each sample's worst.

    Candidates are ranked by (misclassified, loss), per sample; staying in place is always among them. Where this beats
    PGD in the same space, the loss has too many valleys for gradients, as it usually does in the angle. In a space
    where either move may come first, the default, every turn with a shift is tried in both orders: 1,495 candidates
    instead of 775, and no sample is missed that a search in the other order fools at the same angles and shifts.

    Args:
        space: the turns and shifts.
        grid: how many angles, shifts down and shifts right, evenly spaced over the budget, in each order.
        loss: ranks the candidates that do not differ in being misclassified.
        early_stop: leave a sample alone once it is fooled: the same samples are fooled, by fewer evaluations, but each
            by its first candidate instead of its worst.
        order: candidates in the order in which they are tried, as a permutation of their numbers; far ones first if
            not given. `ordered_by` makes one of past success.

    Raises:
        ValueError: a grid without a candidate, or an order that is no permutation.
    """

    space: RotateTranslate = field(default_factory=RotateTranslate)
    grid: tuple[int, int, int] = field(default=(31, 5, 5), kw_only=True)
    loss: Loss = field(default=cross_entropy, kw_only=True)
    early_stop: bool = field(default=False, kw_only=True)
    order: tuple[int, ...] | None = field(default=None, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        if len(self.grid) != 3 or min(self.grid) < 1:
            raise ValueError(f"grid must be three counts of at least 1: angles, shifts down and right; got {self.grid}")
        if self.order is not None and sorted(self.order) != list(range(len(self._grid()))):
            raise ValueError(f"order must be a permutation of the {len(self._grid())} candidates")

    @property
    def cost(self) -> int:
        """Most evaluations per sample, a given start included."""
        return 1 if self._idle else len(self._grid()) + 2

    @property
    def _idle(self) -> bool:
        return self.space == self.space.scaled(0.0)

    def candidates(self) -> Float[Tensor, "c 3"]:
        """Return all candidates in the order in which they are tried; the first one stays in place unless ordered."""
        grid = self._grid()
        if self.order is not None:
            return grid[list(self.order)]
        # In place first, which costs one evaluation and settles the errors; then the farthest, which fool most.
        size = (grid / replace(self.space, share=1.0).most(grid).clamp(min=1e-12)).abs().sum(1)
        return grid[torch.where(size == 0, torch.inf, size).argsort(descending=True, stable=True)]

    def _grid(self) -> Float[Tensor, "c 3"]:
        most = self.space.most(torch.empty(0, dtype=torch.float64)).tolist()
        axes = [
            torch.linspace(-edge, edge, count, dtype=torch.float64) if count > 1 and edge > 0 else torch.zeros(1)
            for edge, count in zip(most, self.grid, strict=True)
        ]
        grid = torch.cartesian_prod(*(axis.double() for axis in axes))
        if self.space.first != "turn":
            # Without a turn or without a shift both orders are one.
            swapped = after(grid[(grid[:, 0] != 0) & (grid[:, 1:] != 0).any(1)])
            same = grid if self.space.first == "either" else grid[(grid[:, 0] == 0) | (grid[:, 1:] == 0).all(1)]
            grid = torch.cat([same, swapped])
        return grid if bool((grid == 0).all(1).any()) else torch.cat([grid.new_zeros(1, 3), grid])

    def ordered_by(self, sweep: GridSweep) -> GridSearch:
        """Return the same search with the candidates ordered by how many samples each fooled in a sweep."""
        grid = self._grid()
        numbers = {tuple(row): number for number, row in enumerate(grid.float().tolist())}
        hits = sweep.success.sum(1).cpu()
        if len(sweep.params) != len(grid):
            raise ValueError(f"the sweep is of {len(sweep.params)} candidates but the grid has {len(grid)}")
        ranked = sweep.params.float().cpu()[hits.argsort(descending=True, stable=True)].tolist()
        if any(tuple(row) not in numbers for row in ranked):
            raise ValueError("the sweep is of another grid")
        return replace(self, order=tuple(numbers[tuple(row)] for row in ranked))

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
        """Attack a batch; arguments and errors as for `PGD`. `start` is one more candidate, tried first.

        Nothing here is random; `rng` holds the samples' ids.
        """
        with borrowed(model), torch.no_grad():
            x, y = attackable(x, y)
            zeros = self.space.zeros(x)
            found = Candidates(model, self.space, self.loss, x, y, rng, target=target, early_stop=self.early_stop)
            if self._idle:
                return found.result(zeros)
            if start is not None:
                found.offer(self.space.project(x, start.detach().to(zeros)))
                found.drop()
            for _ in self._tried(found, self.candidates().to(zeros)):
                pass
            return found.result()

    def sweep(self, model: Model, x: Tensor, y: Tensor, *, rng: Stream, target: Tensor | None = None) -> GridSweep:
        """Return what happens at every candidate, such as for a map of accuracy against angle and shift.

        Costs one evaluation per candidate and sample; arguments and errors as for a call.
        """
        with borrowed(model), torch.no_grad():
            x, y = attackable(x, y)
            grid = self._grid().to(self.space.zeros(x))
            found = Candidates(model, self.space, self.loss, x, y, rng, target=target)
            tried = list(self._tried(found, grid))
            found.check()
        return GridSweep(
            params=grid,
            success=torch.stack([success for success, _ in tried]),
            loss=torch.stack([loss for _, loss in tried]),
            evaluations=found.evaluations,
        )

    def _tried(self, found: Candidates, grid: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Try the candidates, many in one batch; gives success and loss of each for the samples still there."""
        done = 0
        while done < len(grid) and len(found):
            count = max(1, ELEMENTS.get(found.x.device.type, 2**20) // found.x.numel())
            if self.early_stop:  # a look now and then, rarer as those left hold out
                count = min(count, max(4, done))
            some = grid[done : done + count]
            done += len(some)
            # One number for all samples: the positions to look at are computed once per candidate.
            turned = [
                warp(found.x, deg=float(p[0]), shift=(float(p[1]), float(p[2])), padding=self.space.padding)
                for p in some.tolist()
            ]
            answers = found.answer(torch.cat(turned)).chunk(len(some))
            for p, logits in zip(some, answers, strict=True):
                success, loss, close = found.judge(logits)
                found.keep(p.expand(len(found), 3), success, loss, close)
                yield success, loss
            found.drop()
