"""Auto-PGD (Croce and Hein 2020, arXiv:2003.01690): projected gradient ascent that finds its own step sizes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import final

import torch
from jaxtyping import Int
from torch import Tensor

from pellucid.core import Model, Perturbed, Space, Stream, nearest

from ._candidates import Candidates, attackable, borrowed
from ._losses import LOSSES, dlr_loss, margin_loss, targeted_dlr_loss

_MOMENTUM = 0.25  # share of the last move that is made once more
_RISING = 0.75  # of the steps between two looks, so many must have raised the loss
TARGETED = "dlr-targeted"


@final
@dataclass(frozen=True)
class APGD:
    """Can small distortions make the model err, without a step size to tune? PGD that halves its own steps.

    Each sample starts with steps of twice the budget. At a few looks, ever closer together, a sample whose loss rose
    in fewer than three quarters of the steps, or stood still since the last look, goes back to its best point and
    halves its steps. A quarter of each move repeats the one before.

    Args:
        space: the distortions to search, such as `Linf(8 / 255)`; any space works.
        loss: one of `LOSSES`, or "dlr-targeted": one ascent towards each of the classes nearest to the answer.
        steps: gradient steps of one ascent; 0 gives the inputs back.
        restarts: independent random starts (of each target); the best iterate of all is kept.
        targets: how many classes "dlr-targeted" tries, at most all wrong ones; ignored by the other losses.
        early_stop: a sample is no longer attacked once the model is fooled; the success stays the same.

    Raises:
        ValueError: a setting is out of range.

    Example:
        >>> from pellucid.attacks import APGD, Linf
        >>> identity = lambda x: x
        >>> found = APGD(Linf(0.2), steps=10)(identity, torch.tensor([[0.6, 0.4]]), torch.tensor([0]), rng=Stream(0))
        >>> found.inputs, found.success
        (tensor([[0.4000, 0.6000]]), tensor([True]))
    """

    space: Space
    loss: str = "cross_entropy"
    steps: int = field(default=100, kw_only=True)
    restarts: int = field(default=1, kw_only=True)
    targets: int = field(default=9, kw_only=True)
    early_stop: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        known = (*LOSSES, TARGETED)
        if self.loss not in known:
            raise ValueError(f"loss must be one of {', '.join(known)}; {nearest(self.loss, known)}got {self.loss!r}")
        for name, least in (("steps", 0), ("restarts", 1), ("targets", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")

    @property
    def cost(self) -> int:
        """Most evaluations per sample, a gradient counted as two."""
        if self._idle:
            return 1
        ascents = self.restarts * (self.targets if self.loss == TARGETED else 1)
        return ascents * (2 * self.steps + 1) + (3 if self.loss == TARGETED else 2)

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
        """Attack a batch; arguments and errors as for `PGD`.

        With a `target`, "dlr-targeted" makes one ascent, towards it; "dlr" climbs the margin to it, since the DLR loss
        is flat where the target is third.

        Raises:
            ValueError: the model has fewer classes than the loss needs: 3 for "dlr", 4 for "dlr-targeted".
        """
        with borrowed(model):
            x, y = attackable(x, y)
            zeros = self.space.zeros(x)
            rank = dlr_loss if self.loss == TARGETED else LOSSES[self.loss]
            rank = margin_loss if self.loss == "dlr" and target is not None else rank
            found = Candidates(model, self.space, rank, x, y, rng, target=target, early_stop=self.early_stop)
            if self._idle:
                return found.result(zeros)
            turns = [goal for goal in self._goals(found) for _ in range(self.restarts)]
            for turn, goal in enumerate(turns):
                if turn == 0 and start is not None:
                    params = self.space.project(x, start.detach().to(zeros))
                else:
                    params = self.space.sample(found.x, found.stream("start", turn))
                self._ascend(found, params, goal, trace=turn == 0)
                found.drop()
                if not len(found):
                    break
            found.try_inputs()
            return found.result()

    def _goals(self, found: Candidates) -> list[Int[Tensor, " b"] | None]:
        """Return what to climb towards: nothing in particular, or the wrong classes nearest to the answer in turn."""
        if self.loss != TARGETED:
            return [None]
        if found.target is not None:
            return [found.target]
        with torch.no_grad():
            logits = found.answer(self.space.render(found.x, self.space.zeros(found.x))).float()
        others = logits.scatter(1, found.y[:, None], -torch.inf)
        return list(others.topk(min(self.targets, logits.shape[1] - 1), dim=1).indices.unbind(1))

    def _ascend(self, found: Candidates, params: Tensor, goal: Tensor | None, *, trace: bool) -> None:
        """Offer the iterates of one ascent from `params`, which has a row for each sample still under attack."""
        space, by = self.space, None if goal is None else partial(_towards, found, goal)
        loss, grad = found.climb(params, trace=trace, by=by)
        best, best_grad, best_loss = params, grad, loss
        size, rises = torch.full_like(loss, 2.0), torch.zeros_like(loss)
        looked, halved = loss, torch.ones_like(loss, dtype=torch.bool)
        before, looks, since = params, _looks(self.steps), 0
        gap = next(looks)
        for step in range(self.steps):
            (params, grad, loss, before, best, best_grad, best_loss, size, rises, looked, halved) = found.drop(
                params, grad, loss, before, best, best_grad, best_loss, size, rises, looked, halved
            )
            if not len(found):
                return
            moved = space.project(found.x, params + _rows(size, params) * space.ascent(found.x, grad, 1.0))
            if step > 0:
                moved = params + (1 - _MOMENTUM) * (moved - params) + _MOMENTUM * (params - before)
                moved = space.project(found.x, moved)
            before, params = params, moved
            if step == self.steps - 1:
                found.offer(params, trace=trace)
                return
            last = loss
            loss, grad = found.climb(params, trace=trace, by=by)
            rises = rises + (loss > last)
            better = loss > best_loss
            rows = _rows(better, params)
            best, best_grad = torch.where(rows, params, best), torch.where(rows, grad, best_grad)
            best_loss = torch.where(better, loss, best_loss)
            since += 1
            if since == gap:
                stuck = (rises <= _RISING * gap) | (~halved & (looked >= best_loss))
                size, rows = torch.where(stuck, size / 2, size), _rows(stuck, params)
                params, grad = torch.where(rows, best, params), torch.where(rows, best_grad, grad)
                looked, halved, rises = best_loss, stuck, torch.zeros_like(rises)
                gap, since = next(looks), 0


def _towards(found: Candidates, goal: Tensor, logits: Tensor) -> Tensor:
    return targeted_dlr_loss(logits, found.y, found.rows_of(goal))


def _looks(steps: int) -> Iterator[int]:
    """Yield how many steps lie between two looks: 22 % of all, then ever fewer, down to 6 %."""
    gap = max(int(0.22 * steps), 1)
    while True:
        yield gap
        gap = max(gap - max(int(0.03 * steps), 1), int(0.06 * steps), 1)


def _rows(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.ndim - 1)).to(torch.bool if values.dtype == torch.bool else like.dtype)
