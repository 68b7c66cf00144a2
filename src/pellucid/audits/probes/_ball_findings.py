"""What is said and shown of the balls that a robustness probe attacks in."""

from __future__ import annotations

from pellucid.core import (
    Advice,
    Axis,
    Curve,
    Exhibit,
    Finding,
    Line,
    Measure,
    Provenance,
    Stream,
    Subject,
    Table,
    bootstrap,
    number,
    numbers,
    wilson,
)
from pellucid.metrics import RobustnessCurve

from .. import _levels
from .._advice import recipe
from .._players import feature_names, usual_in_words
from .._samples import ids_of
from .._wording import brief, count, in_percent, listed, percent
from ._balls import DRAWS, QUERIES, STEPS, Ball, Check, sanity
from ._victims import victims

UNEVEN = 0.05
"""Difference between a class's share of the attacked samples and of all samples that is worth a word."""


def ball_finding(
    subject: Subject,
    made: Ball,
    curve: RobustnessCurve,
    rng: Stream,
    *,
    more: list[Check],
    drawn: str,
    batch_size: int,
) -> tuple[Finding, bool]:
    """Return the finding of one norm, and whether its number can be trusted.

    Args:
        subject: the attacked samples.
        made: the ball.
        curve: what the attack found.
        rng: where chance comes from.
        more: checks that were made elsewhere.
        drawn: what must be said of how the samples were drawn.
        batch_size: samples per forward.
    """
    checks, checking = sanity(subject, made, curve, rng.child("checks"), batch_size=batch_size)
    checks += more
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
        floor=majority(subject),
        trusted=not failed,
    )
    shown, looking = victims(subject, made, curve)
    finding = Finding(
        probe="robustness",
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
            evaluations=curve.evaluations + checking + looking,
            sample_ids=ids_of(subject),
            settings={
                "attack": made.short,
                "norm": made.norm,
                "radii": ", ".join(brief(r) for r in made.radii),
                "unit of the radii": _unit_in_words(subject, made),
                **_how(made),
                "bounds": "none" if made.bounds is None else f"{made.bounds[0]:g} to {made.bounds[1]:g}",
                "random search": f"{DRAWS} draws",
            },
        ),
        references=("arXiv:1706.06083", "arXiv:1802.00420"),
        cautions=_cautions(subject, made, failed, drawn),
    )
    return finding, not failed


def _how(made: Ball) -> dict[str, str | int]:
    if made.blind:
        return {"queries": QUERIES, "loss": "margin", "start": "random, then the best of the radius before"}
    return {
        "steps": STEPS,
        "step size": f"{2.5 / STEPS:g} of the radius",
        "loss": "cross-entropy",
        "start": "random, then the best of the radius before",
    }


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
        f"{_change_in_words(made)} {change}. The attack is {made.who} "
        f"on {count(len(subject), 'sample')}; the 95% interval is {percent(interval[0])} to "
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


def majority(subject: Subject) -> float:
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


def unlike(subject: Subject, part: Subject) -> str:
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
        f"Accuracy under {made.short} is an upper bound of the robust accuracy: a stronger attack may find more."
        + (" A search without gradients finds far less than one with them." if made.blind else ""),
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
        label=f"accuracy under {made.short}, {made.norm} radius {made.size(radius)}",
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
    floor = majority(subject)
    radii = (0.0, *made.radii)
    return [
        Curve(
            title=f"Accuracy under attack ({made.norm})",
            x=Axis(f"{made.norm} radius", made.unit),
            y=Axis("accuracy", "%"),
            lines=(
                Line(
                    name=f"under {made.short}",
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
            caption=f"Share of {count(len(subject), 'sample')} that {made.who} does not fool within each "
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
