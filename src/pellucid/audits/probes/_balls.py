"""The balls a robustness probe attacks in, and the checks that tell whether the attack can be trusted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from torch import Tensor

from pellucid.attacks import BALLS, L2, PGD, Linf, RandomSearch, Square
from pellucid.core import Space, Stream, Subject
from pellucid.metrics import (
    RadiusAttack,
    RobustnessCurve,
    attacked,
    more_steps,
    random_search_beats,
    repeats,
    transfer_accuracy,
)

from .._samples import draw
from .._wording import brief, count, percent

STEPS, FEW_STEPS, DRAWS = 20, 5, 20
QUERIES = 60
"""Queries of the search that needs no gradients."""

CHECKED = 64
"""Most samples on which the sanity checks run."""

TOLERATED = 0.02
"""Share of samples by which a check may fail through chance."""

ZERO_GRADIENTS = 0.05
"""Share of gradient steps that may be exactly zero before the attack counts as blind."""


@dataclass(frozen=True)
class Ball:
    """One norm's attack: ascending radii, which of them the level is about, and the unit of both.

    The unit is that of the inputs, or the elements' `scale`: standard deviations. `blind` models give no gradients.
    """

    norm: str
    radii: tuple[float, ...]
    reference: float
    bounds: tuple[float, float] | None
    scale: Tensor | None = None
    blind: bool = False

    @property
    def who(self) -> str:
        """The attack, in words."""
        return f"Square with {QUERIES} queries" if self.blind else f"PGD with {STEPS} steps"

    @property
    def short(self) -> str:
        """The attack's name."""
        return "Square" if self.blind else "PGD"

    @property
    def unit(self) -> str:
        """Symbol of a radius' unit, empty for that of the inputs."""
        return "" if self.scale is None else "sd"

    def size(self, radius: float) -> str:
        """Return a radius in words, with its unit."""
        return f"{brief(radius)} {self.unit}".rstrip()

    def with_radii(self, more: Iterable[float]) -> Ball:
        """Return the ball with more radii; those that read the same to six digits are one."""
        known = {f"{radius:g}": radius for radius in self.radii}
        known |= {text: radius for radius in more if (text := f"{radius:g}") not in known}
        return replace(self, radii=tuple(sorted(known.values())))

    def space(self, radius: float) -> Space:
        """Return the distortions within a radius."""
        return BALLS[self.norm](radius, bounds=self.bounds, scale=self.scale)

    def attack(self, radius: float) -> RadiusAttack:
        """Return the attack within a radius; one that asks for no gradients where the model has none."""
        if self.blind:
            ball = (Linf if self.norm == "linf" else L2)(radius, bounds=self.bounds, scale=self.scale)
            return Square(ball, queries=QUERIES)
        return PGD(self.space(radius), steps=STEPS)


@dataclass(frozen=True)
class Check:
    """One sanity check of the attack: what was compared, the two numbers, and whether it holds."""

    name: str
    found: str
    holds: bool
    trouble: str


@runtime_checkable
class Climbed(Protocol):
    """What gradient attacks search: a ball, or the flows of a picture."""

    @property
    def norm(self) -> str: ...
    @property
    def reference(self) -> float: ...
    @property
    def short(self) -> str: ...
    def space(self, radius: float, /) -> Space: ...
    def attack(self, radius: float, /) -> RadiusAttack: ...


def sanity(
    subject: Subject, made: Climbed, curve: RobustnessCurve, rng: Stream, *, batch_size: int
) -> tuple[list[Check], int]:
    """Return the checks at the reference radius and what they cost."""
    assert subject.labels is not None
    rows = draw(subject, CHECKED, rng=rng.child("samples"), among=curve.correct.nonzero()[:, 0])
    blind = not subject.differentiable
    checks = [] if blind else [_gradients(curve)]
    if not len(rows):
        return checks, 0
    part = subject.take(rows)
    assert part.labels is not None
    x, y, bound = part.inputs, part.labels, rng.at(part.ids)
    attack, search = made.attack(made.reference), RandomSearch(made.space(made.reference), draws=DRAWS)
    beside = random_search_beats(subject.model, x, y, attack, search, rng=bound.child("search"), batch_size=batch_size)
    beaten = int(beside.beaten.sum())
    checks.append(
        Check(
            "random search is not better",
            f"{made.short} fools {percent(beside.attack.value)}, random search {percent(beside.search.value)}; "
            f"{count(beaten, 'sample')} by random search alone",
            beaten <= TOLERATED * len(rows),
            f"random search fools samples that {made.short} does not",
        )
    )

    again, twice = repeatable(subject, x, batch_size=batch_size)
    checks.append(again)
    spent = beside.evaluations + twice
    if not blind:

        def with_steps(steps: int) -> PGD:
            return PGD(made.space(made.reference), steps=steps)

        effort = more_steps(
            subject.model, x, y, with_steps, (FEW_STEPS, STEPS), rng=bound.child("steps"), batch_size=batch_size
        )
        few, many = (float(v) for v in effort.loss)
        checks.append(
            Check(
                "more steps find a higher loss",
                f"mean loss {brief(few)} with {FEW_STEPS} steps, {brief(many)} with {STEPS}",
                many >= few - 1e-3 * max(1.0, abs(few)),
                "more steps give a lower loss",
            )
        )
        spent += effort.evaluations
    for name, surrogate in subject.surrogates.items():
        climb = PGD(made.space(made.reference), steps=STEPS)
        crafted = attacked(surrogate, x, y, climb, rng=bound.child("transfer", name), batch_size=batch_size)
        fooled = 1 - transfer_accuracy(subject.model, crafted.inputs, y, ids=part.ids, batch_size=batch_size).value
        spent += crafted.evaluations + len(rows)
        checks.append(
            Check(
                f"attacks made on {name} are not better",
                f"{made.short} on the model fools {percent(beside.attack.value)}, PGD on {name} {percent(fooled)}",
                fooled <= beside.attack.value + TOLERATED,
                f"attacks made on {name} fool the model more often than its own",
            )
        )
    return checks, spent


def repeatable(subject: Subject, x: Tensor, *, batch_size: int) -> tuple[Check, int]:
    """Return whether the model answers the same twice to the same inputs, and what asking cost."""
    told = repeats(subject.model, x, batch_size=batch_size)
    changed = int(told.changed.sum())
    return (
        Check(
            "the same input gives the same answer",
            f"{count(changed, 'answer')} of {len(x)} changed when asked twice",
            changed == 0,
            "the model answers at random, so that no single attack is a bound",
        ),
        2 * len(x),
    )


def _gradients(curve: RobustnessCurve) -> Check:
    steps = int(curve.attacked.sum()) * STEPS
    share = int(curve.zero_gradients.sum()) / steps if steps else 0.0
    return Check(
        "gradients are not zero",
        f"{percent(share)} of {count(steps, 'gradient step')} had a gradient of exactly zero",
        share <= ZERO_GRADIENTS,
        f"{percent(share)} of the gradients are exactly zero, so that the attack is blind",
    )
