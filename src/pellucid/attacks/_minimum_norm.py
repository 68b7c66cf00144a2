"""Smallest distortions that fool, by Fast Minimum-Norm search (Pintor et al. 2021, arXiv:2102.12827).

Ours differs from the paper in four places. The step is a fraction of the current radius, along the norm's own steepest
direction. The radius after a success aims at the boundary's linear estimate, not only a fixed share lower. How fast
the radius changes fits the number of steps. And the best distortion is shortened along its own ray at the end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pellucid.core import Model, ModelError, Perturbed, Stream, logit

from ._balls import L2, Bounds, Linf, _room
from ._candidates import Candidates, attackable, borrowed
from ._losses import margin_loss

_CLOSER = 0.02  # how far beside the interpolated boundary the ray is tried, as a share of the bracket


@final
@dataclass(frozen=True)
class Nearest:
    """The smallest distortion found for each sample.

    Args:
        norm: `(b,)` its size, in units of the scale if there is one; 0 where the undistorted input already fools,
            infinity where no distortion was found.
        params: `(b, ...)` the distortion; where none was found, the tried one of the highest loss.
        inputs: `(b, ...)` the distorted inputs.
        success: `(b,)` whether the distorted input fools the model.
        loss: `(b,)` the margin at the distorted input, positive where it fools.
        evaluations: model evaluations spent, a gradient counted as two.
        zero_gradients: `(b,)` steps at which a sample's gradient was exactly zero.
    """

    norm: Float[Tensor, " b"]
    params: Tensor
    inputs: Tensor
    success: Bool[Tensor, " b"]
    loss: Float[Tensor, " b"]
    evaluations: int
    zero_gradients: Int[Tensor, " b"]


@final
@dataclass(frozen=True)
class MinimumNorm:
    """How small a distortion makes the model err? The radius shrinks where it fools and grows where it does not.

    Samples walk in lock-step; each one's result is independent of its batch.

    Args:
        norm: "linf" or "l2".
        steps: gradient steps of one search.
        bounds: least and greatest legal input value, None for unbounded features.
        scale: how far each element of one input usually spreads, broadcastable to one input; norms are in its units.
        restarts: searches. The first climbs to the nearest boundary; each later one to that of one wrong class,
            likeliest first. With a target, or out of classes, they start at random distortions instead.
        refine: forward passes after each search that shorten the best distortion along its own ray.

    Raises:
        ValueError: a setting is out of range.

    Example:
        >>> from pellucid.attacks import MinimumNorm
        >>> identity = lambda x: x
        >>> x, y = torch.tensor([[0.6, 0.4]]), torch.tensor([0])
        >>> MinimumNorm("linf", steps=10)(identity, x, y, rng=Stream(0)).norm
        tensor([0.1000])
    """

    norm: Literal["linf", "l2"]
    steps: int = field(default=100, kw_only=True)
    bounds: Bounds = field(default=(0.0, 1.0), kw_only=True)
    scale: Tensor | None = field(default=None, kw_only=True)
    restarts: int = field(default=1, kw_only=True)
    refine: int = field(default=6, kw_only=True)

    def __post_init__(self) -> None:
        if self.norm not in ("linf", "l2"):
            raise ValueError(f"norm must be 'linf' or 'l2', got {self.norm!r}")
        if self.steps < 0:
            raise ValueError(f"steps must be at least 0, got {self.steps}")
        if self.restarts < 1:
            raise ValueError(f"restarts must be at least 1, got {self.restarts}")
        if self.refine < 0:
            raise ValueError(f"refine must be at least 0 forward passes, got {self.refine}")
        Linf(0.0, bounds=self.bounds, scale=self.scale)

    @property
    def cost(self) -> int:
        """Evaluations per sample, a gradient counted as two."""
        return 2 + self.restarts * (2 * self.steps + 1 + self.refine)

    def __call__(
        self,
        model: Model,
        x: Tensor,
        y: Tensor,
        *,
        rng: Stream,
        start: Tensor | None = None,
        target: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Nearest:
        """Search a batch.

        Args:
            model: maps `(b, ...)` to logits `(b, k)`.
            x: inputs `(b, ...)` inside the bounds.
            y: true labels `(b,)` int64; a sample is fooled when the answer is another class.
            rng: where later restarts come from, bound to the samples' ids.
            start: distortions `(b, ...)` at which the first search begins; what lies outside mask and bounds is cut
                off. Where the rest fools, the result is never larger than it.
            target: `(b,)` int64; then a sample is fooled when the answer is its target.
            mask: 0 or 1 per element, broadcastable to `x`: where a distortion may live.

        Raises:
            ModelError: logits or a gradient are NaN or infinite (the sample is named), or the output is no `(b, K)`.
            DataError: inputs lie outside the bounds.
            ValueError: `start`, `target` or `mask` do not fit the inputs.
        """
        with borrowed(model):
            x, y = attackable(x, y)
            box = Linf(0.0, bounds=self.bounds, scale=self.scale)
            walk = _Walk(self, Candidates(model, box, margin_loss, x, y, rng, target=target), mask)
            others = walk.others()
            walk.search(walk.begin(start))
            for restart in range(1, self.restarts):
                if restart <= len(others):
                    walk.search(walk.zeros, others[restart - 1])
                else:
                    walk.search(walk.drawn(rng.child("restart", restart)))
            return walk.result()


class _Walk:
    """One batch on its way: distortions in units of the scale, each sample's best so far."""

    def __init__(self, how: MinimumNorm, asked: Candidates, mask: Tensor | None) -> None:
        self.how, self.asked, self.x = how, asked, asked.x
        self.zeros = asked.space.zeros(self.x)
        free = _mask(mask, self.zeros)
        self.units: Tensor | None = None
        if how.scale is not None:
            self.units = how.scale.to(self.zeros).expand(self.x.shape[1:])
            free = (free if free is not None else torch.ones_like(self.zeros)) * (self.units > 0)
        self.free = free
        self.low, self.high = self._room()
        self.widest = self.size(torch.maximum(-self.low, self.high)) if how.bounds is not None else None
        self.best = self.far = self.zeros
        self.norm = self.zeros.new_full((len(self.x),), math.inf)
        self.loss = self.highest = self.norm.neg()
        self.clean = self.loss

    def _room(self) -> tuple[Tensor, Tensor]:
        low, high = _room(self.x, self.how.bounds)
        if self.units is not None:
            low, high = (torch.where(self.units > 0, edge / self.units, 0) for edge in (low, high))
        if self.free is not None and self.how.bounds is not None:
            low, high = low * self.free, high * self.free
        return low, high

    # -- measures --------------------------------------------------------------------------------------------------

    def size(self, delta: Tensor) -> Tensor:
        """Return each row's norm."""
        flat = delta.flatten(1)
        if self.how.norm == "linf":
            return flat.abs().amax(1)
        length: Tensor = torch.linalg.vector_norm(flat, dim=1, dtype=torch.float64)
        return length.to(delta.dtype)

    def _dual(self, grad: Tensor) -> Tensor:
        order = 1 if self.how.norm == "linf" else 2
        dual: Tensor = torch.linalg.vector_norm(grad.flatten(1), ord=order, dim=1, dtype=torch.float64)
        return dual.to(grad.dtype)

    def render(self, delta: Tensor) -> Tensor:
        """Return the distorted inputs."""
        return self.asked.space.render(self.x, delta if self.units is None else delta * self.units)

    def _answer(self, delta: Tensor) -> tuple[Tensor, Tensor]:
        """Return whether the model is fooled at `delta` and by how much; one evaluation per sample."""
        return self._judged(self.asked.answer(self.render(delta)))

    def _judged(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        success, loss, _ = self.asked.judge(logits)
        return success, loss.to(self.zeros.dtype)

    def _keep(self, delta: Tensor, fooled: Tensor, loss: Tensor) -> Tensor:
        """Note `delta` where it is the smallest that fools, or the nearest to fooling; return its size."""
        size = self.size(delta)
        better = fooled & (size < self.norm)
        self.norm, self.loss = torch.where(better, size, self.norm), torch.where(better, loss, self.loss)
        self.best = torch.where(_rows(better, delta), delta, self.best)
        higher = loss > self.highest
        self.highest = torch.where(higher, loss, self.highest)
        self.far = torch.where(_rows(higher, delta), delta, self.far)
        return size

    def look(self, delta: Tensor) -> None:
        """Measure `delta` without a gradient."""
        with torch.no_grad():
            fooled, loss = self._answer(delta)
            self._keep(delta, fooled, loss)

    def others(self) -> tuple[Tensor, ...]:
        """Measure the undistorted input; return the wrong classes in order, likeliest first, if none is the target."""
        with torch.no_grad():
            logits = self.asked.answer(self.render(self.zeros))
            fooled, self.clean = self._judged(logits)
            self._keep(self.zeros, fooled, self.clean)
            if self.asked.target is not None:
                return ()
            return logits.scatter(1, self.asked.y[:, None], -torch.inf).argsort(1, descending=True)[:, :-1].unbind(1)

    # -- the search ------------------------------------------------------------------------------------------------

    def begin(self, start: Tensor | None) -> Tensor:
        """Return the given start inside mask and bounds, or no distortion."""
        if start is None:
            return self.zeros
        if start.shape != self.x.shape:
            raise ValueError(f"start must be of the inputs' shape {tuple(self.x.shape)}, got {tuple(start.shape)}")
        delta = start.detach().to(self.zeros)
        if self.units is not None:
            delta = torch.where(self.units > 0, delta / self.units, 0)
        return self._inside(delta)

    def drawn(self, rng: Stream) -> Tensor:
        """Return random distortions as long as each sample's best, or a tenth of all there is where none was found."""
        delta = rng.normal(self.x.shape, device=self.x.device, dtype=self.zeros.dtype)
        if self.how.norm == "linf":
            delta = delta.sign()
        delta = self._inside(delta) if self.how.bounds is None else (delta if self.free is None else delta * self.free)
        rest = torch.ones_like(self.norm) if self.widest is None else self.widest / 10
        length = torch.where(self.norm.isfinite(), self.norm, rest)
        return self._inside(delta * _rows(_ratio(length, self.size(delta)), delta))

    def search(self, delta: Tensor, goal: Tensor | None = None) -> None:
        """Walk from `delta`: into the gradient by a share of the radius, back into the ball; the radius adapts.

        The gradient is that of the margin, or of the lead of the class `goal` on the true one.
        """
        steps = self.how.steps
        eps, own = torch.zeros_like(self.norm), torch.full_like(self.norm, math.inf)
        for step in range(steps):
            turn = (1 + math.cos(math.pi * step / steps)) / 2
            rate, length = _SLOWEST + (_fastest(steps) - _SLOWEST) * turn, 0.01 + 0.99 * turn
            fooled, margin, loss, grad = self.slope(delta, goal)
            with torch.no_grad():
                size = self._keep(delta, fooled, margin)
                # Where the linear model of the loss puts the boundary: so far away.
                reach = _ratio(loss.abs(), self._steepness(grad))
                own = torch.where(fooled, torch.minimum(own, size), own)
                eps = self._radius(eps, size, own, fooled, reach, rate)
                least = torch.where(own.isfinite(), 0, reach)
                delta = self._stepped(delta, grad, eps, torch.maximum(length * eps, least))
        self.look(delta)
        self._shorten()

    def slope(self, delta: Tensor, goal: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return, at `delta`, who is fooled, the margin, and the loss whose gradient comes last, by free parameters.

        The loss is the margin, or the lead of the class `goal` on the true one.

        Raises:
            ModelError: there is no gradient.
        """
        leaf = delta.detach().requires_grad_()
        logits = self.asked.answer(self.render(leaf))
        fooled, margin = self._judged(logits)
        loss = margin if goal is None else (logit(logits, goal) - logit(logits, self.asked.y)).to(margin)
        if not loss.requires_grad:
            raise ModelError("the model's output does not depend on its input by any gradient; use a random search")
        (grad,) = torch.autograd.grad(loss.sum(), leaf)
        self.asked.evaluations += len(self.x)
        return fooled, margin.detach(), loss.detach(), grad if self.free is None else grad * self.free

    def _steepness(self, grad: Tensor) -> Tensor:
        dual = self._dual(grad)
        self.asked.note(dual)
        return dual

    def _radius(self, eps: Tensor, size: Tensor, own: Tensor, fooled: Tensor, reach: Tensor, rate: float) -> Tensor:
        """Return each sample's next radius, a hair beyond the boundary `reach` away, so that a plane is crossed.

        `own` is the smallest size at which this search fooled so far; no radius beyond the best of all is of use.
        """
        # It also grows where that does not help: steps between two such points could go around for ever.
        first = torch.maximum(size + 1.001 * reach, eps * (1 + rate))
        grown = torch.where(own.isfinite(), eps * (1 + rate), first)
        shrunk = torch.where(fooled, (size - 0.999 * reach).clamp((1 - 4 * rate) * own, (1 - rate) * own), 0)
        # A hair below the best: at the very same size, rounding would choose between two directions.
        eps = torch.minimum(torch.where(fooled, shrunk, grown), 0.999 * self.norm)
        return eps if self.widest is None else torch.minimum(eps, self.widest)

    def _stepped(self, delta: Tensor, grad: Tensor, eps: Tensor, length: Tensor) -> Tensor:
        """Return the next distortion: a step of `length` uphill, then back into ball and bounds."""
        if self.how.norm == "linf":
            radius = _rows(eps, delta)
            moved = delta + _rows(length, delta) * grad.sign()
            return self._inside(torch.minimum(torch.maximum(moved, -radius), radius))
        norm = torch.linalg.vector_norm(grad.flatten(1), dim=1, dtype=torch.float64)
        # In two halves: the factor for a gradient of 1e-40, from a very sure model, is too large for a float32.
        root = _rows(_ratio(length.double(), norm).sqrt().to(delta.dtype), delta)
        moved = delta + (grad * root) * root
        shrink = _ratio(eps, self.size(moved)).clamp(max=1)
        return self._inside(moved * _rows(shrink, moved))

    def _inside(self, delta: Tensor) -> Tensor:
        if self.how.bounds is not None:
            return torch.minimum(torch.maximum(delta, self.low), self.high)
        return delta if self.free is None else delta * self.free

    def _shorten(self) -> None:
        """Look for the boundary between the input and the best distortion, on the straight line.

        Each pair of looks lies a little above and a little below the linear estimate, which leaves a bracket of 4 %
        where the loss is nearly straight.
        """
        best = self.best
        low, high = torch.zeros_like(self.norm), torch.ones_like(self.norm)
        below, above = self.clean, self.loss
        for look in range(self.how.refine):
            aim = _ratio(-below, above - below) + (_CLOSER if look % 2 == 0 else -_CLOSER)
            share = low + (high - low) * aim.clamp(_CLOSER, 1 - _CLOSER)
            delta = best * _rows(share, best)
            with torch.no_grad():
                fooled, loss = self._answer(delta)
            self._keep(delta, fooled, loss)
            high, above = torch.where(fooled, share, high), torch.where(fooled, loss, above)
            low, below = torch.where(fooled, low, share), torch.where(fooled, below, loss)

    # -- the end ---------------------------------------------------------------------------------------------------

    def result(self) -> Nearest:
        """Return the best; success and loss are measured once more on the inputs that are handed out."""
        found = self.norm.isfinite()
        delta = torch.where(_rows(found, self.best), self.best, self.far)
        with torch.no_grad():
            success, loss = self._answer(delta)
            inputs = self.render(delta)
        self.asked.check()
        return Nearest(
            norm=torch.where(success, self.size(delta), math.inf),
            params=delta if self.units is None else delta * self.units,
            inputs=inputs,
            success=success,
            loss=loss,
            evaluations=self.asked.evaluations,
            zero_gradients=self.asked.zero_gradients,
        )


@final
@dataclass(frozen=True)
class MinimumNormWithin:
    """Does a distortion smaller than the radius make the model err? `MinimumNorm` as an attack within a ball.

    A sample counts as fooled where the smallest distortion that was found fits into the radius. `FAB` also
    looks for the smallest distortion, at ten times the cost, and finds more where gradients are small or mislead.

    Args:
        space: a `Linf` or `L2` ball.
        steps: gradient steps of one search; 0 gives the inputs back.
        restarts: searches, as for `MinimumNorm`.

    Raises:
        TypeError: the space is neither `Linf` nor `L2`.
        ValueError: a setting is out of range.
    """

    space: Linf | L2
    steps: int = field(default=100, kw_only=True)
    restarts: int = field(default=1, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.space, Linf | L2):
            raise TypeError(f"space must be a Linf or L2 ball, got {type(self.space).__name__}")
        self._search()

    def _search(self) -> MinimumNorm:
        norm: Literal["linf", "l2"] = "linf" if isinstance(self.space, Linf) else "l2"
        bounds, scale = self.space.bounds, self.space.scale
        return MinimumNorm(norm, steps=self.steps, bounds=bounds, scale=scale, restarts=self.restarts)

    @property
    def cost(self) -> int:
        """Most evaluations per sample, a gradient counted as two."""
        return 1 if self._idle else self._search().cost + 3

    @property
    def _idle(self) -> bool:
        return self.steps == 0 or self.space.eps == 0

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
        """Attack a batch; arguments and errors as for `PGD`. Distortions that are too large are cut to size."""
        with borrowed(model):
            x, y = attackable(x, y)
            found = Candidates(model, self.space, margin_loss, x, y, rng, target=target)
            if self._idle:
                return found.result(self.space.zeros(x))
            smallest = self._search()(model, x, y, rng=rng, start=start, target=target)
            found.offer(self.space.project(x, smallest.params))
            found.evaluations += smallest.evaluations
            found.zero_gradients += smallest.zero_gradients
            found.try_inputs()
            return found.result()


_SLOWEST = 1e-3  # change of the radius per step at the end of a search


def _fastest(steps: int) -> float:
    """Return the radius's first rate of change: enough for a factor of 12 over a search, at least the paper's 5 %."""
    return min(0.2, max(0.05, 5 / max(1, steps)))


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """Return a / b, 0 where b is 0."""
    return torch.where(b == 0, 0, a / b)


def _rows(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.ndim - 1))


def _mask(mask: Tensor | None, like: Tensor) -> Tensor | None:
    if mask is None:
        return None
    try:
        free = mask.detach().to(like).expand_as(like)
    except RuntimeError:
        raise ValueError(
            f"mask must be broadcastable to the inputs' shape {tuple(like.shape)}, got {tuple(mask.shape)}"
        ) from None
    if not bool(((free == 0) | (free == 1)).all()):
        raise ValueError("mask must hold 0 and 1 only: 1 where a distortion may live")
    return free
