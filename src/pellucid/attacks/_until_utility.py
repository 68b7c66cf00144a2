"""Attacks of controlled strength: as strong as asked for, neither weaker nor stronger (arXiv:2111.03536).

Interactions of attacked inputs grow with the attack, so that models are compared under attacks of one utility: the drop
of the class's logit, z_y(x) - z_y(x'), or the rise of z_t - z_y of an attack towards a class t.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pellucid.core import Model, ModelError, Perturbed, Stream, logit, margin

from ._candidates import attackable, borrowed
from ._pgd import PGD

Utility = Callable[[Float[Tensor, "b k"], Int[Tensor, " b"]], Float[Tensor, " b"]]
"""The utility wanted of each sample, from its clean logits and its label."""

_START = 0.01
"""Random part of the ball in which an ascent begins, so that it does not begin on a flat spot."""

_SMALLEST = 1e-6
"""Least step, as a fraction of the budget; a sample that would need a smaller one is given up."""


def half_margin(z: Float[Tensor, "b k"], y: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
    """Half of the clean margin: a strength that fits each sample, and that robust models reach too."""
    return margin(z, y).clamp_min(0) / 2


@dataclass(frozen=True)
class Controlled:
    """What an attack of controlled strength found.

    Args:
        found: the attacked inputs; of a sample that was given up, the last one below the window.
        landed: `(b,)` bool, the utility lies in the window; use only these samples.
        utility: `(b,)`, reached.
        wanted: `(b,)`, the lower end of the window.
        clean: `(b,)` bool, the model is right without any attack.
        masked: whether no sample moved at all although some were asked to: a sign of masked gradients.
    """

    found: Perturbed
    landed: Bool[Tensor, " b"]
    utility: Float[Tensor, " b"]
    wanted: Float[Tensor, " b"]
    clean: Bool[Tensor, " b"]
    masked: bool

    @property
    def inputs(self) -> Tensor:
        """The attacked inputs of all samples."""
        return self.found.inputs

    @property
    def note(self) -> str:
        """What to know before using the samples."""
        n, landed = len(self.landed), int(self.landed.sum())
        said = f"{landed} of {n} samples landed in the window of utility."
        if self.masked:
            said += " No sample moved: the gradients are zero, and the strength cannot be controlled by them."
        return said


@final
@dataclass(frozen=True)
class UntilUtility:
    """An attack that stops at a utility; see `until_utility`.

    Args:
        attack: space, steps, step size and loss of the ascent.
        utility: wanted: a number, or a function of the clean logits and labels.
        window: how far above `utility` a sample may land.
        flipped: whether an untargeted sample must be misclassified before its utility counts.
    """

    attack: PGD
    utility: float | Utility = half_margin
    window: float = field(default=0.5, kw_only=True)
    flipped: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        if not self.window > 0:
            raise ValueError(f"window must be above 0, got {self.window}")
        if not callable(self.utility) and not self.utility > 0:
            raise ValueError(f"utility must be above 0, got {self.utility}")
        if self.attack.steps < 1:
            raise ValueError("the attack must have at least one step")

    def __call__(self, model: Model, x: Tensor, y: Tensor, *, rng: Stream, target: Tensor | None = None) -> Controlled:
        """Attack a batch; a sample's result does not depend on the others.

        Args:
            model: maps `(b, ...)` to logits `(b, k)`.
            x: inputs `(b, ...)` inside the space's bounds.
            y: true labels `(b,)` int64.
            rng: where starts come from, bound to the samples' ids.
            target: classes `(b,)` int64 to raise against the label; None for any wrong answer.

        Raises:
            ModelError: logits or a gradient are NaN or infinite.
        """
        with borrowed(model):
            x, y = attackable(x, y)
            target = None if target is None else target.to(x.device)
            return _Climb(self, model, x, y, target).run(rng)


def until_utility(
    attack: PGD, utility: float | Utility = half_margin, *, window: float = 0.5, flipped: bool = True
) -> UntilUtility:
    """Attack just as strongly as asked for: stop where the class's logit has dropped by `utility`.

    The ascent of `attack` runs until the model is wrong and z_y(x) - z_y(x') lies above `utility` by at most `window`.
    A step that would pass the window is not taken; the sample's step is halved for good, down to a millionth of the
    budget, where it is given up. Of an attack towards a target the utility is the rise of z_t - z_y, and no flip is
    needed. Samples that never land are reported, not dropped.

    Args:
        attack: space, steps, step size and loss; its restarts and start are not looked at. The paper: `PGD(Linf(32 /
            255), steps=100, step_size=1 / 16)`.
        utility: a number (the paper's 8 is rarely reached at small radii, or on robust models), or a function of clean
            logits and labels; half of the clean margin if not given.
        window: how far above `utility` a sample may land.
        flipped: whether the model must be wrong before the utility counts, as in the paper.

    Example:
        >>> import torch
        >>> from pellucid.attacks import PGD, Linf, until_utility
        >>> attack = until_utility(PGD(Linf(0.4), steps=50), 0.2, window=0.05)
        >>> found = attack(lambda x: x, torch.tensor([[0.6, 0.4]]), torch.tensor([0]), rng=Stream(0))
        >>> found.landed.tolist(), 0.2 < float(found.utility) <= 0.25
        ([True], True)
    """
    return UntilUtility(attack, utility, window=window, flipped=flipped)


class _Climb:
    """The ascent of a batch: each sample with its own step, until it lands or is given up."""

    def __init__(self, wish: UntilUtility, model: Model, x: Tensor, y: Tensor, target: Tensor | None) -> None:
        self.wish, self.model, self.x, self.y, self.target = wish, model, x, y, target
        self.space = wish.attack.space
        self.evaluations = 0

    def logits(self, inputs: Tensor) -> Tensor:
        z = self.model(inputs)
        if not isinstance(z, Tensor) or z.ndim != 2 or len(z) != len(inputs) or z.shape[1] < 2:
            found = tuple(z.shape) if isinstance(z, Tensor) else type(z).__name__
            raise ModelError(f"the model must return logits of shape ({len(inputs)}, K) with K >= 2, got {found}")
        if not bool(z.detach().isfinite().all()):
            raise ModelError("the model gives NaN or infinity under attack; repair the weights or what divides by zero")
        self.evaluations += len(inputs)
        return z if z.dtype == torch.float64 else z.float()

    def score(self, z: Tensor, rows: Tensor) -> Tensor:
        """Return what the attack lowers: the class's logit, or its lead over the target."""
        own = logit(z, self.y[rows])
        return own if self.target is None else own - logit(z, self.target[rows])

    def slope(self, params: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits, loss and the gradient of what is raised, at the samples `rows`."""
        params = params.detach().requires_grad_()
        z = self.logits(self.space.render(self.x[rows], params))
        loss = self.wish.attack.loss(z, self.y[rows]) if self.target is None else -self.score(z, rows)
        if not loss.requires_grad:
            raise ModelError("the model's output does not depend on its input by any gradient; use a random search")
        (grad,) = torch.autograd.grad(loss.sum(), params)
        if not bool(grad.isfinite().all()):
            raise ModelError("the model's gradient is NaN or infinite under attack")
        self.evaluations += len(rows)
        return z.detach(), loss.detach(), grad

    def run(self, rng: Stream) -> Controlled:
        wish, x, n = self.wish, self.x, len(self.x)
        everyone = torch.arange(n, device=x.device)
        with torch.no_grad():
            clean = self.logits(x)
        if self.target is not None and not 0 <= int(self.target.min()) <= int(self.target.max()) < clean.shape[1]:
            raise ValueError(f"target must hold classes from 0 to {clean.shape[1] - 1}, got {self.target.tolist()}")
        before = self.score(clean, everyone)
        asked = wish.utility
        wanted = asked(clean, self.y).detach() if callable(asked) else torch.full_like(before, asked)
        if wanted.shape != before.shape:
            raise ValueError(f"the utility must be one number per sample, got shape {tuple(wanted.shape)}")
        params = self.space.project(x, _START * self.space.sample(x, rng.child("start")))
        z, loss, grad = self.slope(params, everyone)
        utility, answer = before - self.score(z, everyone), z.argmax(1)
        flat = (grad.flatten(1).abs().amax(1) == 0).long()
        first = 2.5 / wish.attack.steps if wish.attack.step_size is None else wish.attack.step_size
        size = torch.full_like(before, first)
        taken = torch.zeros_like(flat)
        landed = self._inside(utility, wanted, answer != self.y)
        # Nothing lies between a start that is already above its window and the window: such a sample is given up.
        open_ = ~landed & ~self._above(utility, wanted, answer != self.y)
        while bool(open_.any()):
            rows = open_.nonzero()[:, 0]
            step = self.space.ascent(x[rows], grad[rows], 1.0) * size[rows].view(-1, *[1] * (params.ndim - 1))
            tried = self.space.project(x[rows], params[rows] + step)
            z, there, slope = self.slope(tried, rows)
            gained, now = before[rows] - self.score(z, rows), z.argmax(1)
            fooled = now != self.y[rows]
            over = self._above(gained, wanted[rows], fooled)
            size[rows[over]] /= 2
            kept = ~over
            good = rows[kept]
            params[good], grad[good], utility[good] = tried[kept], slope[kept], gained[kept]
            answer[good], loss[good] = now[kept], there[kept]
            taken[good] += 1
            flat[good] += (slope[kept].flatten(1).abs().amax(1) == 0).long()
            landed[good] = self._inside(gained[kept], wanted[good], fooled[kept])
            open_ = ~landed & (taken < wish.attack.steps) & (size >= _SMALLEST) & open_
        with torch.no_grad():
            inputs = self.space.render(x, params)
        success = answer != self.y if self.target is None else answer == self.target
        found = Perturbed(
            inputs=inputs,
            params=params,
            success=success,
            loss=loss,
            evaluations=self.evaluations,
            zero_gradients=flat,
            space=self.space,
        )
        stuck = bool((flat > taken).all()) and n > 0
        return Controlled(found, landed, utility, wanted, clean.argmax(1) == self.y, stuck)

    def _counts(self, wrong: Tensor) -> Tensor:
        return wrong | (self.target is not None) | (not self.wish.flipped)

    def _inside(self, utility: Tensor, wanted: Tensor, wrong: Tensor) -> Tensor:
        inside = (utility > wanted) & (utility <= wanted + self.wish.window)
        return inside & self._counts(wrong)

    def _above(self, utility: Tensor, wanted: Tensor, wrong: Tensor) -> Tensor:
        return (utility > wanted + self.wish.window) & self._counts(wrong)
