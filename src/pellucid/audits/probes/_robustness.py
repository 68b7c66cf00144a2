"""How small a change of the input fools the model, and can that number be trusted?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from pellucid.attacks import PGD, RandomSearch
from pellucid.core import (
    ALONE,
    Advice,
    Axis,
    Curve,
    DataError,
    Effort,
    Exhibit,
    Finding,
    Line,
    Measure,
    Need,
    OnStep,
    Provenance,
    Stream,
    Subject,
    Table,
    Work,
    bootstrap,
    number,
    numbers,
    wilson,
)
from pellucid.metrics import RobustnessCurve, robustness_curve, robustness_evaluations

from .. import _levels
from .._advice import recipe
from .._batches import MEMORY, kept
from .._players import feature_names, is_large, spread, usual_in_words
from .._samples import draw, ids_of
from .._wording import brief, count, in_percent, listed, percent
from ._accuracy import NO_LABELS
from ._balls import CHECKED, DRAWS, FEW_STEPS, STEPS, Ball, Check, sanity
from ._victims import EACH, VICTIMS, victims

WANTED = {"quick": 64, "full": 200}
LEAST = 20
LARGE_WANTED, LARGE_LEAST = {"quick": 8, "full": 64}, 4
"""Samples to attack, and for large images, whose every evaluation costs a hundred times as much."""

LINF_SHARES = (2 / 255, 4 / 255, 8 / 255, 16 / 255, 0.1, 0.2)
L2_SHARES = (0.005, 0.01, 0.02, 0.04, 0.06, 0.1)
"""Radii for images in known bounds: shares of the range, for l2 of the range times the root of the input's size."""

REFERENCE = {"linf": 8 / 255, "l2": 0.01}
UNBOUNDED_SHARES = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
UNBOUNDED_REFERENCE = 0.1
"""For images without bounds the unit is the median of their elements' standard deviations."""

DEVIATIONS = {"linf": (0.05, 0.1, 0.2, 0.3, 0.5, 1.0), "l2": (0.1, 0.25, 0.5, 1.0, 2.0, 4.0)}
DEVIATIONS_REFERENCE = {"linf": 0.1, "l2": 0.25}
"""Radii for tables, in standard deviations of each feature."""

UNEVEN = 0.05
"""Difference between a class's share of the attacked samples and of all samples that is worth a word."""

NORMS = ("linf", "l2")


@final
@dataclass(frozen=True)
class Robustness:
    """Accuracy under PGD in both norms, the smallest radius per sample, and the checks that PGD numbers need.

    Args:
        radii: more radii to attack beside the usual ones, by norm ("linf", "l2"), in the unit of the inputs; for tables
            in standard deviations. Each is a measure of its own: `robust_accuracy[linf,0.1]`.
        norms: norms to attack in.

    Raises:
        ValueError: an unknown norm, no norm, or a radius that is not a positive number.
    """

    name: str = field(default="robustness", repr=False)
    question: str = field(default="How small a change of the input fools the model?", repr=False)
    radii: Mapping[str, tuple[float, ...]] = field(default_factory=dict, kw_only=True, hash=False)
    norms: tuple[str, ...] = field(default=NORMS, kw_only=True)

    def __post_init__(self) -> None:
        for norm in (*self.norms, *self.radii):
            if norm not in NORMS:
                raise ValueError(f"norms are {listed(NORMS)}, got {norm!r}")
        if not self.norms:
            raise ValueError(f"norms must name at least one of {listed(NORMS)}")
        for norm, radii in self.radii.items():
            if norm not in self.norms:
                raise ValueError(f"radii are given for {norm}, which norms leaves out; add it to norms")
            for radius in radii:
                if not (math.isfinite(radius) and radius > 0):
                    raise ValueError(f"a radius must be a positive number, got {radius!r} for {norm}")

    def need(self, subject: Subject, *, effort: Effort) -> Need:
        """Two norms, six radii, twenty steps, and the sanity checks."""
        if subject.labels is None:
            return Need(0, 0, skip=NO_LABELS)
        if subject.modality == "text":
            return Need(0, 0, skip="attacks change numbers a little, and words are no numbers")
        if not subject.differentiable:
            return Need(0, 0, skip=f"needs gradients, and {subject.name} gives none")
        plans, total = self._plans(subject), len(subject)
        if not plans:
            return Need(0, 0, skip="all inputs are the same: there is no scale to choose a radius from")
        large = is_large(subject)
        most = min(total, (LARGE_WANTED if large else WANTED)[effort])
        least, wanted = (_cost(n, subject, plans) for n in (min(most, LARGE_LEAST if large else LEAST), most))
        width = subject.inputs[0].numel()
        return Need(
            least,
            wanted,
            memory=min(MEMORY, 64 * 4 * width * min(256, total)),
            remark=f"attacks fewer than {most} samples: wider intervals",
        )

    def __call__(self, subject: Subject, budget: int, rng: Stream, *, work: Work = ALONE) -> list[Finding]:
        """Answer in one finding per norm."""
        plans = self._plans(subject)
        n = _affordable(budget, subject, plans)
        part = subject.take(draw(subject, n, rng=rng.child("samples")))
        batch = kept(subject)
        curves = _curves(part, plans, batch, rng, work.part(0.0, 0.9))
        drawn = _drawn(subject, part)
        found = [
            # The first one bears the evaluation that told how many samples a batch can hold.
            self._finding(part, made, curve, drawn, batch, int(position == 0), rng.child(made.norm))
            for position, (made, curve) in enumerate(zip(plans, curves, strict=True))
        ]
        work.on_step(1, 1)
        return found

    def _plans(self, subject: Subject) -> list[Ball]:
        return [ball.with_radii(self.radii.get(ball.norm, ())) for ball in _balls(subject) if ball.norm in self.norms]

    def _finding(
        self,
        subject: Subject,
        made: Ball,
        curve: RobustnessCurve,
        drawn: str,
        batch: int,
        spent: int,
        rng: Stream,
    ) -> Finding:
        checks, checking = sanity(subject, made, curve, rng.child("checks"), batch_size=batch)
        failed = [check for check in checks if not check.holds]
        at = made.radii.index(made.reference)
        clean = float(curve.correct.double().mean())
        robust, low, high = (float(v[at]) for v in (curve.accuracy.value, curve.accuracy.low, curve.accuracy.high))
        correct = int(curve.correct.sum())
        judged = _levels.robustness(
            wilson(correct, len(subject)),
            wilson(int((curve.smallest > made.reference).sum()), correct) if correct else None,
            f"{made.norm} radius {made.size(made.reference)}",
            n=correct,
            floor=_floor(subject),
            trusted=not failed,
        )
        shown, looking = victims(subject, made, curve)
        return Finding(
            probe=self.name,
            name=f"robustness-{made.norm}",
            question=f"How small a change of the input fools the model ({_norm_name(made)})?",
            answer=_answer(subject, made, curve, clean, robust, (low, high), failed),
            measure=_robust_accuracy(made, made.reference, curve),
            level=judged.level,
            reason=judged.reason,
            advice=_advice(subject, judged.level, failed) if correct else _FIRST,
            measures=(
                Measure(
                    name=f"attacked_sample_accuracy[{made.norm}]",
                    label=f"accuracy without attack on the samples attacked in {made.norm}",
                    value=in_percent(clean),
                    unit="%",
                    better="higher",
                    samples=numbers(curve.correct.double()),
                ),
                *(_robust_accuracy(made, r, curve) for r in made.radii if r != made.reference),
                _smallest(made, curve, rng.child("interval")),
            ),
            exhibits=(*_exhibits(subject, made, curve, clean, checks), *shown),
            provenance=Provenance(
                seed=0,
                evaluations=curve.evaluations + checking + looking + spent,
                sample_ids=ids_of(subject),
                settings={
                    "attack": "PGD",
                    "norm": made.norm,
                    "radii": ", ".join(brief(r) for r in made.radii),
                    "unit of the radii": _unit_in_words(subject, made),
                    "steps": STEPS,
                    "step size": f"{2.5 / STEPS:g} of the radius",
                    "loss": "cross-entropy",
                    "start": "random, then the best of the radius before",
                    "bounds": "none" if made.bounds is None else f"{made.bounds[0]:g} to {made.bounds[1]:g}",
                    "random search": f"{DRAWS} draws",
                },
            ),
            references=("arXiv:1706.06083", "arXiv:1802.00420"),
            cautions=_cautions(subject, made, failed, drawn),
        )


# -- the attacks --------------------------------------------------------------------------------------------------

TOGETHER = 50
"""Most samples attacked at once, so that several processes find a share each."""


def _curves(subject: Subject, plans: list[Ball], batch: int, rng: Stream, work: Work) -> list[RobustnessCurve]:
    """Return the curve of each norm; all norms of a sample are one piece of work."""
    assert subject.labels is not None
    labels = subject.labels

    def compute(rows: Tensor, on_step: OnStep) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for position, made in enumerate(plans):

            def step(done: int, total: int, position: int = position) -> None:
                on_step(round(1000 * (position + done / max(1, total))), 1000 * len(plans))

            curve = robustness_curve(
                subject.model,
                subject.inputs[rows],
                labels[rows],
                made.attack,
                made.radii,
                rng=rng.child(made.norm).child("curve").at(subject.ids[rows]),
                batch_size=batch,
                on_step=step,
            )
            spent = torch.zeros(len(rows), dtype=torch.int64)
            spent[0] = curve.evaluations  # only their sum means anything
            found |= {
                f"{made.norm}.smallest": curve.smallest,
                f"{made.norm}.params": curve.params,
                f"{made.norm}.attacked": curve.attacked,
                f"{made.norm}.zero_gradients": curve.zero_gradients,
                f"{made.norm}.evaluations": spent,
            }
        return found

    key = f"{[(made.norm, made.radii) for made in plans]}|{rng.seed}"
    done = work.map("robustness", subject.ids, compute, chunk=min(batch, TOGETHER), key=key)
    return [
        RobustnessCurve.of(
            made.radii,
            smallest=done[f"{made.norm}.smallest"],
            params=done[f"{made.norm}.params"],
            attacked=done[f"{made.norm}.attacked"],
            zero_gradients=done[f"{made.norm}.zero_gradients"],
            evaluations=int(done[f"{made.norm}.evaluations"].sum()),
        )
        for made in plans
    ]


# -- what it costs ------------------------------------------------------------------------------------------------


def _balls(subject: Subject) -> list[Ball]:
    """Return the usual radii in each norm, in the unit that fits the inputs; none where nothing varies."""
    bounds, width = subject.bounds, subject.inputs[0].numel()
    if subject.modality == "tabular":
        scale = spread(subject)
        if not bool((scale > 0).any()):
            return []
        return [Ball(norm, DEVIATIONS[norm], DEVIATIONS_REFERENCE[norm], bounds, scale) for norm in NORMS]
    if bounds is not None:
        span = bounds[1] - bounds[0]
        shares = {"linf": LINF_SHARES, "l2": L2_SHARES}
        reference = REFERENCE
    else:
        deviations = subject.usual.flatten(1).double().std(0, correction=0)
        moving = deviations[deviations > 0]
        if not len(moving):
            return []
        span = float(moving.median())
        shares = dict.fromkeys(NORMS, UNBOUNDED_SHARES)
        reference = dict.fromkeys(NORMS, UNBOUNDED_REFERENCE)
    units = {"linf": span, "l2": span * width**0.5}
    return [
        Ball(norm, tuple(units[norm] * share for share in shares[norm]), units[norm] * reference[norm], bounds)
        for norm in NORMS
    ]


def _cost(n: int, subject: Subject, plans: list[Ball]) -> int:
    """Return the most evaluations that `n` samples can cost, checks included."""
    curves = sum(
        robustness_evaluations(n, made.attack, made.radii) + min(n, VICTIMS) * EACH[subject.modality] for made in plans
    )
    made = plans[0]
    full, few = made.attack(made.reference).cost, PGD(made.space(made.reference), steps=FEW_STEPS).cost
    search = RandomSearch(made.space(made.reference), draws=DRAWS).cost
    checks = full + search + few + full + len(subject.surrogates) * (full + 1)
    return 1 + curves + len(plans) * min(n, CHECKED) * checks


def _affordable(budget: int, subject: Subject, plans: list[Ball]) -> int:
    most = min(len(subject), WANTED["full"])
    n = max((n for n in range(1, most + 1) if _cost(n, subject, plans) <= budget), default=0)
    if not n:
        raise DataError("no sample can be attacked within the budget")  # `need` asked for more
    return n


# -- words --------------------------------------------------------------------------------------------------------


def _norm_name(made: Ball) -> str:
    element = "element" if made.scale is None else "feature"
    return {"linf": f"each {element} a little", "l2": "Euclidean length"}[made.norm]


def _change_in_words(made: Ball) -> str:
    size = brief(made.reference)
    if made.scale is None:
        where = {"linf": "Changes of at most {} per input element", "l2": "Changes of Euclidean length at most {}"}
        return where[made.norm].format(size) + _range(made)
    return {
        "linf": f"Changes of at most {size} standard deviations in each feature",
        "l2": f"Changes of Euclidean length at most {size}, each feature measured in its standard deviations,",
    }[made.norm]


def _unit_in_words(subject: Subject, made: Ball) -> str:
    if made.scale is not None:
        return f"standard deviation of each feature in {usual_in_words(subject)}"
    return "that of the inputs" + ("" if made.bounds is not None else "; shares of their median standard deviation")


def _answer(
    subject: Subject,
    made: Ball,
    curve: RobustnessCurve,
    clean: float,
    robust: float,
    interval: tuple[float, float],
    failed: list[Check],
) -> str:
    if clean == 0:
        return "The model is wrong on every sample without any attack, so there is nothing to attack."
    before, after = percent(clean), percent(robust)
    change = f"leave the accuracy at {before}" if before == after else f"lower the accuracy from {before} to {after}"
    answer = (
        f"{_change_in_words(made)} {change}. The attack is PGD with {STEPS} "
        f"steps on {count(len(subject), 'sample')}; the 95% interval is {percent(interval[0])} to "
        f"{percent(interval[1])}."
    )
    half = _half_fooled(curve)
    if half is None:
        answer += f" Most samples it gets right withstand even {made.norm} radius {made.size(made.radii[-1])}."
    else:
        answer += f" Half of the samples it gets right are fooled by a change of {made.norm} size {made.size(half)}."
    if failed:
        answer += f" But do not trust this number: {listed(check.trouble for check in failed)}."
    return answer


def _floor(subject: Subject) -> float:
    """Return the accuracy of always answering the most frequent class."""
    assert subject.labels is not None
    return float(subject.labels.bincount().max()) / len(subject)


def _range(made: Ball) -> str:
    return "" if made.bounds is None else f" (inputs lie between {made.bounds[0]:g} and {made.bounds[1]:g})"


def _half_fooled(curve: RobustnessCurve) -> float | None:
    """Return the radius within which half of the correctly classified samples were fooled, None beyond the last."""
    found = curve.smallest[curve.correct].sort().values
    middle = float(found[(len(found) - 1) // 2])
    return middle if middle < float("inf") else None


_FIRST = Advice(text="See to the accuracy first: a model that is right on none of these samples has nothing to lose.")


def _advice(subject: Subject, level: str, failed: list[Check]) -> Advice | None:
    if failed:
        return Advice(
            text="Check the model for steps without useful gradients (rounding, saturated or hard activations, "
            "randomness), and judge it by attacks made on a similar model.",
            command="pellucid audit MODEL DATA --probe robustness --surrogate SIMILAR_MODEL",
        )
    if level == "fine":
        return None
    text = "If inputs can be tampered with, train against attacks; this usually costs some clean accuracy."
    if subject.modality == "tabular":
        return Advice(
            text="If inputs can be tampered with or are measured with errors of this size, train with such changes of "
            "the rows, or prefer a smoother model; this usually costs some clean accuracy. Then audit both models on "
            "these rows and compare.",
            command="pellucid compare RUN_A RUN_B",
        )
    return recipe(subject, text, "pellucid train fashion-robust --out runs/robust")


def _drawn(subject: Subject, part: Subject) -> str:
    """Return what must be said about the attacked samples where their classes have other shares than in the data."""
    assert subject.labels is not None
    assert part.labels is not None
    whole, some = (
        labels.bincount(minlength=subject.n_classes) / len(labels) for labels in (subject.labels, part.labels)
    )
    if float((whole - some).abs().max()) <= UNEVEN:
        return ""
    return (
        "The attacked samples are drawn evenly over the classes, whose sizes in the data differ: these accuracies are "
        "not those of all samples."
    )


def _cautions(subject: Subject, made: Ball, failed: list[Check], drawn: str) -> tuple[str, ...]:
    cautions = [
        "Accuracy under PGD is an upper bound of the robust accuracy: a stronger attack may find more.",
    ]
    if drawn:
        cautions.append(drawn)
    if failed:
        cautions.append(
            f"A sanity check failed ({listed(check.trouble for check in failed)}): the robust accuracy cannot be "
            "trusted."
        )
    if not subject.surrogates:
        cautions.append("Transfer from another model was not tested; name one with --surrogate.")
    if made.scale is not None:
        cautions.append(
            "Features move freely and each by itself: rows that cannot occur, such as half a category, count too."
        )
        fixed = [name for name, s in zip(feature_names(subject), made.scale.tolist(), strict=True) if s == 0]
        if fixed:
            cautions.append(f"Constant in {usual_in_words(subject)} and therefore never changed: {listed(fixed)}.")
    elif made.bounds is None:
        cautions.append(
            "The inputs have no known bounds: one radius for all elements, a share of the median of their standard "
            "deviations."
        )
    return tuple(cautions)


# -- numbers and pictures -----------------------------------------------------------------------------------------


def _robust_accuracy(made: Ball, radius: float, curve: RobustnessCurve) -> Measure:
    at = made.radii.index(radius)
    return Measure(
        name=f"robust_accuracy[{made.norm},{radius:g}]",
        label=f"accuracy under PGD, {made.norm} radius {made.size(radius)}",
        value=in_percent(curve.accuracy.value[at]),
        low=in_percent(curve.accuracy.low[at]),
        high=in_percent(curve.accuracy.high[at]),
        unit="%",
        usual=""
        if made.scale is not None
        else "far below the clean accuracy, unless the model was trained against attacks",
        better="higher",
        samples=numbers((curve.smallest > radius).double()),
    )


def _smallest(made: Ball, curve: RobustnessCurve, rng: Stream) -> Measure:
    most = made.radii[-1]
    capped = curve.smallest.clamp(max=most)
    interval = bootstrap(capped, rng=rng)
    return Measure(
        name=f"smallest_radius[{made.norm}]",
        label=f"mean smallest fooling {made.norm} radius (0 if wrong anyway, at most {made.size(most)})",
        value=number(interval.value),
        low=number(interval.low),
        high=number(interval.high),
        unit=made.unit,
        better="higher",
        samples=numbers(capped),
    )


def _exhibits(subject: Subject, made: Ball, curve: RobustnessCurve, clean: float, checks: list[Check]) -> list[Exhibit]:
    floor = _floor(subject)
    radii = (0.0, *made.radii)
    return [
        Curve(
            title=f"Accuracy under attack ({made.norm})",
            x=Axis(f"{made.norm} radius", made.unit),
            y=Axis("accuracy", "%"),
            lines=(
                Line(
                    name="under PGD",
                    x=numbers(radii),
                    y=numbers((clean, *curve.accuracy.value)),
                    low=numbers((clean, *curve.accuracy.low)),
                    high=numbers((clean, *curve.accuracy.high)),
                ),
                Line(
                    name="always the most frequent class",
                    x=(0.0, number(radii[-1])),
                    y=(floor, floor),
                    role="reference",
                ),
            ),
            caption=f"Share of {count(len(subject), 'sample')} that PGD with {STEPS} steps does not fool within each "
            "radius, with 95% intervals. A sample fooled at a small radius counts as fooled at every larger one."
            + (f" The unit is the {_unit_in_words(subject, made)}." if made.scale is not None else ""),
        ),
        Table(
            title="Sanity checks of the attack",
            columns=("check", "found", "verdict"),
            rows=tuple((check.name, check.found, "holds" if check.holds else "FAILS") for check in checks),
            caption=f"At {made.norm} radius {made.size(made.reference)}, on samples the model gets right. Where a "
            "check fails, gradients mislead the attack and robustness is overestimated.",
        ),
    ]
