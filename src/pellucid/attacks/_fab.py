"""Fast Adaptive Boundary attack (Croce and Hein 2020, arXiv:1907.02044): small distortions by linear boundaries."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.core import Model, Perturbed, Stream

from ._balls import L2, Linf
from ._candidates import Candidates, attackable, borrowed
from ._losses import margin_loss
from ._minimum_norm import MinimumNorm, _ratio, _rows, _Walk

_BEYOND = 1.05  # how far a step goes, as a multiple of the way to the linear boundary
_PULL = 0.1  # most of a step that leads to the linear boundary's point nearest to the input
_BACK = 0.9  # where the walk goes on after a success, as a share of the distortion


@final
@dataclass(frozen=True)
class FAB:
    """Does a small distortion make the model err? Walks along the boundary to one wrong class after another.

    Each step goes a little beyond the point where a linear model of the logits puts the boundary, and is pulled
    towards that boundary's point nearest to the input; a success is followed by a step back. No radius holds the walk,
    so that it leaves places where small gradients mislead ascents in a ball. A sample whose smallest distortion fits
    into the radius is fooled and left alone. Nothing is drawn at random.

    Args:
        space: a `Linf` or `L2` ball.
        steps: of the walk to one class; 0 gives the inputs back.
        targets: how many classes are tried, likeliest first, at most all wrong ones.

    Raises:
        TypeError: the space is neither `Linf` nor `L2`.
        ValueError: a setting is out of range.

    Example:
        >>> from pellucid.attacks import FAB, Linf
        >>> identity = lambda x: x
        >>> found = FAB(Linf(0.2), steps=10)(identity, torch.tensor([[0.6, 0.4]]), torch.tensor([0]), rng=Stream(0))
        >>> found.success
        tensor([True])
    """

    space: Linf | L2
    steps: int = field(default=100, kw_only=True)
    targets: int = field(default=9, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.space, Linf | L2):
            raise TypeError(f"space must be a Linf or L2 ball, got {type(self.space).__name__}")
        for name, least in (("steps", 0), ("targets", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")

    @property
    def cost(self) -> int:
        """Most evaluations per sample, a gradient counted as two."""
        return 1 if self._idle else self.targets * (3 * self.steps + self._how.refine + 3) + 3

    @property
    def _idle(self) -> bool:
        return self.steps == 0 or self.space.eps == 0

    @property
    def _how(self) -> MinimumNorm:
        norm: Literal["linf", "l2"] = "linf" if isinstance(self.space, Linf) else "l2"
        return MinimumNorm(norm, steps=self.steps, bounds=self.space.bounds, scale=self.space.scale)

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
        """Attack a batch; arguments and errors as for `PGD`. With a `target`, the one walk leads to it."""
        with borrowed(model):
            x, y = attackable(x, y)
            found = Candidates(model, self.space, margin_loss, x, y, rng, target=target, early_stop=True)
            zeros = self.space.zeros(x)
            if self._idle:
                return found.result(zeros)
            with torch.no_grad():
                logits = found.answer(self.space.render(x, zeros))
            others = logits.scatter(1, y[:, None], -torch.inf).argsort(1, descending=True)[:, :-1]
            left = torch.arange(len(x), device=x.device)
            for turn in range(1 if target is not None else min(self.targets, others.shape[1])):
                box = Linf(0.0, bounds=self.space.bounds, scale=self.space.scale)
                asked = Candidates(model, box, margin_loss, found.x, found.y, found.stream("walk"), target=found.target)
                walk = _Walk(self._how, asked, None)
                walk.others()
                begin = walk.begin(start[left] if start is not None and turn == 0 else None)
                _follow(walk, begin, None if found.target is not None else others[left, turn])
                nearest = walk.result()
                found.evaluations += nearest.evaluations
                found.zero_gradients[left] += nearest.zero_gradients
                found.offer(self.space.project(found.x, nearest.params))
                (left,) = found.drop(left)
                if not len(found):
                    break
            found.try_inputs()
            return found.result()


def _follow(walk: _Walk, delta: Tensor, goal: Tensor | None) -> None:
    """Walk from `delta` along the boundary to the class `goal`, or to the target if there is one."""
    norm = walk.how.norm
    for _ in range(walk.how.steps):
        fooled, margin, loss, grad = walk.slope(delta, goal)
        with torch.no_grad():
            walk.asked.note(grad.flatten(1).abs().amax(1))
            walk._keep(delta, fooled, margin)
            rise = -loss
            ahead = _shortest(grad, rise, walk.low - delta, walk.high - delta, norm)
            home = _shortest(grad, rise + (grad * delta).flatten(1).sum(1), walk.low, walk.high, norm)
            far, near = walk.size(ahead), walk.size(home)
            pull = _rows(_ratio(far, far + near).clamp(max=_PULL), delta)
            delta = walk._inside((delta + _BEYOND * ahead) * (1 - pull) + _BEYOND * home * pull)
            fooled, margin = walk._judged(walk.asked.answer(walk.render(delta)))
            walk._keep(delta, fooled, margin)
            delta = torch.where(_rows(fooled, delta), _BACK * delta, delta)
    walk._shorten()


def _shortest(grad: Tensor, rise: Float[Tensor, " b"], low: Tensor, high: Tensor, norm: str) -> Tensor:
    """Return the shortest moves between `low` and `high` that raise a linear function of this gradient by `rise`.

    All elements move at one pace in linf, each at the pace of its gradient in l2, until their room is used up. What is
    left of the rise after each such event is a sum over sorted elements, so one sort finds the pace. Where no move
    rises as much, all the room is used.
    """
    slope = grad.flatten(1).double()
    aim, way = rise.double().abs()[:, None], slope.sign() * rise.double().sign()[:, None]
    room = torch.where(way > 0, high.expand_as(grad).flatten(1), -low.expand_as(grad).flatten(1)).double()
    slope, room = slope.abs(), torch.where(way == 0, 0, room).clamp(min=0)
    pace = slope if norm == "l2" else torch.ones_like(slope)
    end, order = torch.where(way == 0, 0, room / pace).sort(dim=1)
    gain, speed = (slope * room).gather(1, order), (slope * pace).gather(1, order)
    used = torch.nn.functional.pad(gain.cumsum(1)[:, :-1], (1, 0))
    moving = speed.flip(1).cumsum(1).flip(1)
    short = used + torch.where(moving > 0, end * moving, 0) < aim
    event = short.sum(1, keepdim=True)
    place = event.clamp(max=slope.shape[1] - 1)
    left = moving.gather(1, place)
    time = torch.where(left > 0, (aim - used.gather(1, place)) / left, 0)
    time = torch.where(event < slope.shape[1], time, torch.finfo(torch.float64).max)
    return (way * torch.minimum(time * pace, room)).to(grad.dtype).view_as(grad)
