"""How small a change of the input fools the model, and can that number be trusted?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import torch

from pellucid.attacks import PGD, SPACES, RandomSearch
from pellucid.core import (
    Advice,
    Axis,
    Curve,
    DataError,
    Effort,
    Exhibit,
    Finding,
    Gallery,
    Line,
    Measure,
    Need,
    OnStep,
    Provenance,
    Space,
    Stream,
    Subject,
    Table,
    bootstrap,
    number,
    numbers,
    silent,
)
from pellucid.metrics import (
    RobustnessCurve,
    attacked,
    more_steps,
    random_search_beats,
    robustness_curve,
    robustness_evaluations,
    transfer_accuracy,
)

from .. import _levels
from .._samples import draw, ids_of, picture
from .._wording import brief, count, in_percent, listed, percent
from ._accuracy import NO_LABELS

STEPS, FEW_STEPS, DRAWS = 20, 5, 20
WANTED = {"quick": 64, "full": 200}
LEAST = 20
CHECKED = 64
"""Most samples on which the sanity checks run."""

LINF_SHARES = (2 / 255, 4 / 255, 8 / 255, 16 / 255, 0.1, 0.2)
L2_SHARES = (0.005, 0.01, 0.02, 0.04, 0.06, 0.1)
"""Radii for inputs in known bounds: shares of the range, for l2 of the range times the root of the input's size."""

REFERENCE = {"linf": 8 / 255, "l2": 0.01}
UNBOUNDED_SHARES = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
UNBOUNDED_REFERENCE = 0.1
"""For unbounded features the unit is the median of their standard deviations."""

TOLERATED = 0.02
"""Share of samples by which a check may fail through chance."""

ZERO_GRADIENTS = 0.05
"""Share of gradient steps that may be exactly zero before the attack counts as blind."""

UNEVEN = 0.05
"""Difference between a class's share of the attacked samples and of all samples that is worth a word."""

CHANGES = {"linf": "Changes of at most {} per input element", "l2": "Changes of Euclidean length at most {}"}


@dataclass(frozen=True)
class _Plan:
    """One norm's attack: radii in the unit of the inputs, and which of them the level is about."""

    norm: str
    radii: tuple[float, ...]
    reference: float
    bounds: tuple[float, float] | None

    def space(self, radius: float) -> Space:
        return SPACES[self.norm](radius, bounds=self.bounds)

    def attack(self, radius: float) -> PGD:
        return PGD(self.space(radius), steps=STEPS)


@dataclass(frozen=True)
class _Check:
    """One sanity check of the attack: what was compared, the two numbers, and whether it holds."""

    name: str
    found: str
    holds: bool
    trouble: str


@final
@dataclass(frozen=True)
class Robustness:
    """Accuracy under PGD in both norms, the smallest radius per sample, and the checks that PGD numbers need."""

    name: str = "robustness"
    question: str = "How small a change of the input fools the model?"

    def need(self, subject: Subject, *, effort: Effort) -> Need:
        """Two norms, six radii, twenty steps, and the sanity checks."""
        if subject.labels is None:
            return Need(0, 0, skip=NO_LABELS)
        plans, total = _plans(subject), len(subject)
        if not plans:
            return Need(0, 0, skip="all inputs are the same: there is no scale to choose a radius from")
        least, wanted = (_cost(min(n, total), subject, plans) for n in (LEAST, WANTED[effort]))
        width = subject.inputs[0].numel()
        return Need(
            least,
            wanted,
            memory=4 * width * min(256, total) * 8,
            remark=f"attacks fewer than {min(WANTED[effort], total)} samples: wider intervals",
        )

    def __call__(self, subject: Subject, budget: int, rng: Stream, *, on_step: OnStep = silent) -> list[Finding]:
        """Answer in one finding per norm."""
        plans = _plans(subject)
        n = _affordable(budget, subject, plans)
        part = subject.take(draw(subject, n, rng=rng.child("samples")))
        shares = len(plans) + 0.0

        def step(base: int) -> OnStep:
            return lambda done, total: on_step(int(1000 * (base + done / max(1, total)) / shares), 1000)

        drawn = _drawn(subject, part)
        return [
            self._finding(part, made, drawn, rng.child(made.norm), step(position))
            for position, made in enumerate(plans)
        ]

    def _finding(self, subject: Subject, made: _Plan, drawn: str, rng: Stream, on_step: OnStep) -> Finding:
        assert subject.labels is not None
        curve = robustness_curve(
            subject.model,
            subject.inputs,
            subject.labels,
            made.attack,
            made.radii,
            rng=rng.child("curve").at(subject.ids),
            on_step=on_step,
        )
        checks, spent = _sanity(subject, made, curve, rng.child("checks"))
        failed = [check for check in checks if not check.holds]
        at = made.radii.index(made.reference)
        clean = float(curve.correct.double().mean())
        robust, low, high = (float(v[at]) for v in (curve.accuracy.value, curve.accuracy.low, curve.accuracy.high))
        radius = _radius_in_words(made)
        judged = _levels.robustness(clean, robust, radius, floor=_floor(subject), trusted=not failed)
        return Finding(
            probe=self.name,
            name=f"robustness-{made.norm}",
            question=f"How small a change of the input fools the model ({_norm_name(made.norm)})?",
            answer=_answer(subject, made, curve, clean, robust, (low, high), failed),
            measure=_robust_accuracy(made, made.reference, curve),
            level=judged.level,
            reason=judged.reason,
            advice=_advice(judged.level, failed),
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
            exhibits=tuple(_exhibits(subject, made, curve, clean, checks)),
            provenance=Provenance(
                seed=0,
                evaluations=curve.evaluations + spent,
                sample_ids=ids_of(subject),
                settings={
                    "attack": "PGD",
                    "norm": made.norm,
                    "radii": ", ".join(brief(r) for r in made.radii),
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


# -- what it costs ------------------------------------------------------------------------------------------------


def _plans(subject: Subject) -> list[_Plan]:
    bounds, width = subject.bounds, subject.inputs[0].numel()
    if bounds is not None:
        span = bounds[1] - bounds[0]
        shares: dict[str, Sequence[float]] = {"linf": LINF_SHARES, "l2": L2_SHARES}
        reference = REFERENCE
    else:
        deviations = subject.inputs.flatten(1).double().std(0, correction=0)
        moving = deviations[deviations > 0]
        if not len(moving):
            return []
        span = float(moving.median())
        shares = dict.fromkeys(("linf", "l2"), UNBOUNDED_SHARES)
        reference = dict.fromkeys(("linf", "l2"), UNBOUNDED_REFERENCE)
    units = {"linf": span, "l2": span * width**0.5}
    return [
        _Plan(
            norm,
            tuple(units[norm] * share for share in shares[norm]),
            units[norm] * reference[norm],
            bounds,
        )
        for norm in ("linf", "l2")
    ]


def _cost(n: int, subject: Subject, plans: list[_Plan]) -> int:
    """Return the most evaluations that `n` samples can cost, checks included."""
    curves = sum(robustness_evaluations(n, made.attack, made.radii) for made in plans)
    made = plans[0]
    full, few = made.attack(made.reference).cost, PGD(made.space(made.reference), steps=FEW_STEPS).cost
    search = RandomSearch(made.space(made.reference), draws=DRAWS).cost
    checks = full + search + few + full + len(subject.surrogates) * (full + 1)
    return curves + len(plans) * min(n, CHECKED) * checks


def _affordable(budget: int, subject: Subject, plans: list[_Plan]) -> int:
    most = min(len(subject), WANTED["full"])
    n = max((n for n in range(1, most + 1) if _cost(n, subject, plans) <= budget), default=0)
    if not n:
        raise DataError("no sample can be attacked within the budget")  # `need` keeps it from coming to this
    return n


# -- can it be trusted --------------------------------------------------------------------------------------------


def _sanity(subject: Subject, made: _Plan, curve: RobustnessCurve, rng: Stream) -> tuple[list[_Check], int]:
    """Return the checks at the reference radius and what they cost."""
    assert subject.labels is not None
    rows = draw(subject, CHECKED, rng=rng.child("samples"), among=curve.correct.nonzero()[:, 0])
    checks = [_gradients(curve)]
    if not len(rows):
        return checks, 0
    part = subject.take(rows)
    assert part.labels is not None
    x, y, bound = part.inputs, part.labels, rng.at(part.ids)
    attack, search = made.attack(made.reference), RandomSearch(made.space(made.reference), draws=DRAWS)
    beside = random_search_beats(subject.model, x, y, attack, search, rng=bound.child("search"))
    beaten = int(beside.beaten.sum())
    checks.append(
        _Check(
            "random search is not better",
            f"PGD fools {percent(beside.attack.value)}, random search {percent(beside.search.value)}; "
            f"{count(beaten, 'sample')} by random search alone",
            beaten <= TOLERATED * len(rows),
            "random search fools samples that PGD does not",
        )
    )

    def with_steps(steps: int) -> PGD:
        return PGD(made.space(made.reference), steps=steps)

    effort = more_steps(subject.model, x, y, with_steps, (FEW_STEPS, STEPS), rng=bound.child("steps"))
    few, many = (float(v) for v in effort.loss)
    checks.append(
        _Check(
            "more steps find a higher loss",
            f"mean loss {brief(few)} with {FEW_STEPS} steps, {brief(many)} with {STEPS}",
            many >= few - 1e-3 * max(1.0, abs(few)),
            "more steps give a lower loss",
        )
    )
    spent = beside.evaluations + effort.evaluations
    for name, surrogate in subject.surrogates.items():
        crafted = attacked(surrogate, x, y, attack, rng=bound.child("transfer", name))
        fooled = 1 - transfer_accuracy(subject.model, crafted.inputs, y).value
        spent += crafted.evaluations + len(rows)
        checks.append(
            _Check(
                f"attacks made on {name} are not better",
                f"PGD on the model fools {percent(beside.attack.value)}, PGD on {name} {percent(fooled)}",
                fooled <= beside.attack.value + TOLERATED,
                f"attacks made on {name} fool the model more often than its own",
            )
        )
    return checks, spent


def _gradients(curve: RobustnessCurve) -> _Check:
    steps = int(curve.attacked.sum()) * STEPS
    share = int(curve.zero_gradients.sum()) / steps if steps else 0.0
    return _Check(
        "gradients are not zero",
        f"{percent(share)} of {count(steps, 'gradient step')} had a gradient of exactly zero",
        share <= ZERO_GRADIENTS,
        f"{percent(share)} of the gradients are exactly zero, so that the attack is blind",
    )


# -- words --------------------------------------------------------------------------------------------------------


def _norm_name(norm: str) -> str:
    return {"linf": "each element a little", "l2": "Euclidean length"}[norm]


def _radius_in_words(made: _Plan) -> str:
    return f"{made.norm} radius {brief(made.reference)}"


def _answer(
    subject: Subject,
    made: _Plan,
    curve: RobustnessCurve,
    clean: float,
    robust: float,
    interval: tuple[float, float],
    failed: list[_Check],
) -> str:
    if clean == 0:
        return "The model is wrong on every sample without any attack, so there is nothing to attack."
    before, after = percent(clean), percent(robust)
    change = f"leave the accuracy at {before}" if before == after else f"lower the accuracy from {before} to {after}"
    answer = (
        f"{CHANGES[made.norm].format(brief(made.reference))}{_scale(made)} {change}. The attack is PGD with {STEPS} "
        f"steps on {count(len(subject), 'sample')}; the 95% interval is {percent(interval[0])} to "
        f"{percent(interval[1])}."
    )
    half = _half_fooled(curve)
    if half is None:
        answer += f" Most samples it gets right withstand even {made.norm} radius {brief(made.radii[-1])}."
    else:
        answer += f" Half of the samples it gets right are fooled by a change of {made.norm} size {brief(half)}."
    if failed:
        answer += f" But do not trust this number: {listed(check.trouble for check in failed)}."
    return answer


def _floor(subject: Subject) -> float:
    """Return the accuracy of always answering the most frequent class."""
    assert subject.labels is not None
    return float(subject.labels.bincount().max()) / len(subject)


def _scale(made: _Plan) -> str:
    return "" if made.bounds is None else f" (inputs lie between {made.bounds[0]:g} and {made.bounds[1]:g})"


def _half_fooled(curve: RobustnessCurve) -> float | None:
    """Return the radius within which half of the correctly classified samples were fooled, None beyond the last."""
    found = curve.smallest[curve.correct].sort().values
    middle = float(found[(len(found) - 1) // 2])
    return middle if middle < float("inf") else None


def _advice(level: str, failed: list[_Check]) -> Advice | None:
    if failed:
        return Advice(
            text="Check the model for steps without useful gradients (rounding, saturated or hard activations, "
            "randomness), and judge it by attacks made on a similar model.",
            command="pellucid audit MODEL DATA --probe robustness --surrogate SIMILAR_MODEL",
        )
    if level == "fine":
        return None
    return Advice(
        text="If inputs can be tampered with, train against attacks; this usually costs some clean accuracy. "
        "The recipe is a start: change its data and network to yours.",
        command="pellucid train fashion-robust --out runs/robust",
    )


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


def _cautions(subject: Subject, made: _Plan, failed: list[_Check], drawn: str) -> tuple[str, ...]:
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
    if made.bounds is None:
        cautions.append(
            "One radius for all features, measured in the median of their standard deviations: scale features alike."
        )
    return tuple(cautions)


# -- numbers and pictures -----------------------------------------------------------------------------------------


def _robust_accuracy(made: _Plan, radius: float, curve: RobustnessCurve) -> Measure:
    at = made.radii.index(radius)
    return Measure(
        name=f"robust_accuracy[{made.norm},{brief(radius)}]",
        label=f"accuracy under PGD, {made.norm} radius {brief(radius)}",
        value=in_percent(curve.accuracy.value[at]),
        low=in_percent(curve.accuracy.low[at]),
        high=in_percent(curve.accuracy.high[at]),
        unit="%",
        usual="far below the clean accuracy, unless the model was trained against attacks",
        better="higher",
        samples=numbers((curve.smallest > radius).double()),
    )


def _smallest(made: _Plan, curve: RobustnessCurve, rng: Stream) -> Measure:
    most = made.radii[-1]
    capped = curve.smallest.clamp(max=most)
    interval = bootstrap(capped, rng=rng)
    return Measure(
        name=f"smallest_radius[{made.norm}]",
        label=f"mean smallest fooling {made.norm} radius (0 if wrong anyway, at most {brief(most)})",
        value=number(interval.value),
        low=number(interval.low),
        high=number(interval.high),
        better="higher",
        samples=numbers(capped),
    )


def _exhibits(
    subject: Subject, made: _Plan, curve: RobustnessCurve, clean: float, checks: list[_Check]
) -> list[Exhibit]:
    floor = _floor(subject)
    radii = (0.0, *made.radii)
    exhibits: list[Exhibit] = [
        Curve(
            title=f"Accuracy under attack ({made.norm})",
            x=Axis(f"{made.norm} radius"),
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
            "radius, with 95% intervals. A sample fooled at a small radius counts as fooled at every larger one.",
        ),
        Table(
            title="Sanity checks of the attack",
            columns=("check", "found", "verdict"),
            rows=tuple((check.name, check.found, "holds" if check.holds else "FAILS") for check in checks),
            caption=f"At {made.norm} radius {brief(made.reference)}, on samples the model gets right. Where a check "
            "fails, gradients mislead the attack and robustness is overestimated.",
        ),
    ]
    if subject.modality == "image" and subject.inputs.ndim == 4:
        gallery = _gallery(subject, made, curve)
        if gallery.pictures:
            exhibits.append(gallery)
    return exhibits


def _gallery(subject: Subject, made: _Plan, curve: RobustnessCurve, *, shown: int = 4) -> Gallery:
    """Show the easiest and middling victims: original beside what fools the model."""
    assert subject.labels is not None
    fooled = (curve.correct & curve.smallest.isfinite()).nonzero()[:, 0]
    order = fooled[curve.smallest[fooled].argsort(stable=True)]
    rows = order[torch.linspace(0, max(0, len(order) - 1), min(shown, len(order))).long()]
    if not len(rows):
        return Gallery(title="", pictures=())
    part = subject.take(rows)
    changed = made.space(made.radii[-1]).render(part.inputs, curve.params[rows].to(part.inputs))
    answers = replace(part, inputs=changed).logits().argmax(1)
    pictures = []
    for k, row in enumerate(rows.tolist()):
        true = subject.class_names[int(subject.labels[row])]
        pictures.append(
            picture(part.inputs[k], title=true, caption=f"sample {int(subject.ids[row])}", bounds=subject.bounds)
        )
        pictures.append(
            picture(
                changed[k],
                title=f"taken for {subject.class_names[int(answers[k])]}",
                caption=f"{made.norm} size {brief(float(curve.smallest[row]))}",
                bounds=subject.bounds,
            )
        )
    return Gallery(
        title=f"Smallest changes found that fool the model ({made.norm})",
        pictures=tuple(pictures),
        caption="Pairs of an image and its changed version, from the sample easiest to fool to the hardest one fooled.",
    )
