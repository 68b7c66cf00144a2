"""All attacks side by side: the ensemble beside PGD, the worst case per sample, and what to train against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.attacks import Ensemble, Linf, standard_ensemble
from pellucid.core import (
    Advice,
    Axis,
    Curve,
    Finding,
    Interval,
    Line,
    OnStep,
    Provenance,
    Stream,
    Subject,
    Table,
    Work,
    numbers,
    wilson,
)
from pellucid.metrics import RobustnessCurve, RobustnessProfile, attacked

from .. import _levels
from .._advice import recipe
from .._samples import ids_of
from .._wording import count, listed, percent
from ._balls import TOLERATED, Ball, Check
from ._move_findings import ADVICE, RECIPES, robust_accuracy

ENSEMBLE_STEPS, ENSEMBLE_QUERIES = 30, 500

NAMES = {
    "linf": "pixel noise, each pixel a little (linf)",
    "l2": "pixel noise, Euclidean length (l2)",
    "ensemble": "pixel noise, worst of four attacks (ensemble)",
    "flow": "local deformation (flow)",
    "rt": "rotation and translation (rt)",
    "spatial": "all deformations at once (spatial)",
}


@dataclass(frozen=True)
class Row:
    """One attack of the profile: its budget in words, what it fooled, and whether that can be trusted."""

    name: str
    budget: str
    smallest: Tensor
    trusted: bool


# -- the ensemble -------------------------------------------------------------------------------------------------


def cost_ensemble(n: int, made: Ball, classes: int) -> int:
    """Return the most evaluations that the ensemble can cost."""
    return n * (1 + _ensemble(made, classes).cost)


def _ensemble(made: Ball, classes: int) -> Ensemble:
    space = made.space(made.reference)
    assert isinstance(space, Linf)
    return standard_ensemble(space, classes, steps=ENSEMBLE_STEPS, queries=ENSEMBLE_QUERIES)


def found_ensemble(
    subject: Subject, made: Ball, batch: int, rng: Stream, work: Work, *, chunk: int
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return whether the ensemble fools each sample and by which attack, and the names of its attacks."""
    assert subject.labels is not None
    labels, attack = subject.labels, _ensemble(made, subject.n_classes)

    def compute(rows: Tensor, on_step: OnStep) -> dict[str, Tensor]:
        ids = subject.ids[rows]
        found = attacked(
            subject.model,
            subject.inputs[rows],
            labels[rows],
            attack,
            rng=rng.child("ensemble").at(ids),
            batch_size=batch,
        )
        assert found.found_by is not None
        spent = torch.zeros(len(rows), dtype=torch.int64)
        spent[0] = found.evaluations
        return {"fooled": found.success, "by": found.found_by, "evaluations": spent}

    key = f"{made.reference}|{ENSEMBLE_STEPS}|{ENSEMBLE_QUERIES}|{rng.seed}"
    return work.map("ensemble", subject.ids, compute, chunk=chunk, key=key), tuple(attack.names)


def ensemble_check(made: Ball, curve: RobustnessCurve, fooled: Tensor) -> Check:
    """Return whether PGD is about as strong as the ensemble at the reference radius."""
    mine = curve.smallest <= made.reference
    beaten = int((fooled & ~mine).sum())
    return Check(
        "an ensemble of four attacks is not better",
        f"{made.short} fools {percent(float(mine.double().mean()))} of all samples, the ensemble "
        f"{percent(float(fooled.double().mean()))}; {count(beaten, 'sample')} by the ensemble alone",
        beaten <= TOLERATED * len(fooled),
        f"an ensemble of four attacks fools {count(beaten, 'sample')} that {made.short} does not",
    )


def ensemble_finding(
    subject: Subject,
    made: Ball,
    curve: RobustnessCurve,
    done: Mapping[str, Tensor],
    names: tuple[str, ...],
    floor: float,
) -> Finding:
    """Return the finding of the ensemble: the robust accuracy that rests on no single attack."""
    fooled, by = done["fooled"] | ~curve.correct, done["by"]
    correct, n = int(curve.correct.sum()), len(subject)
    held = ~fooled
    check = ensemble_check(made, curve, fooled)
    kept = wilson(int(held.sum()), correct) if correct else None
    judged = _levels.robustness(
        wilson(correct, n),
        kept,
        f"{made.norm} radius {made.size(made.reference)}",
        n=correct,
        floor=floor,
        trusted=True,
    )
    share = wilson(int(held.sum()), n)
    pgd = float((curve.smallest > made.reference).double().mean())
    rows = [("wrong without attack", int((~curve.correct).sum()))]
    rows += [(name, int(((by == number) & curve.correct).sum())) for number, name in enumerate(names)]
    return Finding(
        probe="robustness",
        name="robustness-ensemble",
        question="Does the accuracy under pixel noise rest on one attack?",
        answer=f"Under the worst of {len(names)} different attacks in {made.norm} radius {made.size(made.reference)}, "
        f"{percent(share.value)} of {count(n, 'sample')} stay right (95% interval {percent(share.low)} to "
        f"{percent(share.high)}); PGD alone leaves {percent(pgd)}. "
        + ("PGD alone is about as strong." if check.holds else "Take this number: PGD alone overestimates robustness."),
        measure=robust_accuracy("ensemble", f"accuracy under the worst of {len(names)} attacks, {made.norm}", held),
        level=judged.level,
        reason=judged.reason,
        exhibits=(
            Table(
                title="Which attack of the ensemble fools first",
                columns=("attack", "samples"),
                rows=(*rows, ("none: still right", int(held.sum()))),
                caption="Each attack gets the samples that those before it left standing.",
            ),
        ),
        provenance=Provenance(
            seed=0,
            evaluations=int(done["evaluations"].sum()),
            sample_ids=ids_of(subject),
            settings={
                "attacks": ", ".join(names),
                "norm": made.norm,
                "radius": made.size(made.reference),
                "steps": ENSEMBLE_STEPS,
                "queries of Square": ENSEMBLE_QUERIES,
            },
        ),
        references=("arXiv:2003.01690",),
        cautions=(
            f"The parts are shorter here than usual ({ENSEMBLE_STEPS} steps, {ENSEMBLE_QUERIES} queries): "
            "`attacks.standard_ensemble` or the adaptor `attacks.AutoAttack` run them in full.",
        ),
    )


# -- the profile --------------------------------------------------------------------------------------------------


def profile_finding(
    subject: Subject, correct: Tensor, rows: list[Row], *, floor: float, left_out: Mapping[str, str]
) -> Finding:
    """Return the table of all attacks on the same samples, the joint worst case, and what would help most."""
    profile = RobustnessProfile.of(correct, {row.name: row.smallest for row in rows})
    n, right = len(subject), int(correct.sum())
    held = (~profile.fooled).all(0)
    weakest = _weakest(profile)
    trusted = all(row.trusted for row in rows)
    kept = wilson(int(held.sum()), right) if right else None
    judged = _levels.robustness(
        profile.clean, kept, "these limits, the worst of all for each sample,", n=right, floor=floor, trusted=trusted
    )
    answer = "The model is wrong on every sample without any attack, so there is nothing to attack."
    if right:
        shares = listed(
            (f"{percent(float(profile.accuracy.value[k]))} under {row.name}" for k, row in enumerate(rows)), most=9
        )
        answer = (
            f"Of {percent(profile.clean.value)} without attack, {shares} remain; {percent(profile.worst.value)} "
            f"survive all (95% interval {percent(profile.worst.low)} to {percent(profile.worst.high)}, "
            f"{count(n, 'sample')}). {_verdict(profile, weakest)}"
        )
        if not trusted:
            answer += f" Do not trust the numbers of {listed(row.name for row in rows if not row.trusted)}."
    return Finding(
        probe="robustness",
        name="robustness-profile",
        question="How does the model break, under all attacks side by side?",
        answer=answer,
        measure=robust_accuracy(
            "worst", f"accuracy under the worst of {listed((row.name for row in rows), most=9)}", held
        ),
        level=judged.level,
        reason=judged.reason,
        advice=None if judged.level == "fine" or not right else _advice(subject, profile, weakest),
        exhibits=(_table(profile, rows), _bars(profile, rows)),
        provenance=Provenance(
            seed=0,
            evaluations=1,
            sample_ids=ids_of(subject),
            settings={
                "attacks": ", ".join(row.name for row in rows),
                **{f"{row.name}, within": row.budget for row in rows},
            },
        ),
        references=("arXiv:2111.01996",),
        cautions=(
            "Each budget is a choice: compare models under the same budgets, not one attack with another.",
            *(f"Left out: {name}, because {why}." for name, why in left_out.items()),
        ),
    )


def _weakest(profile: RobustnessProfile) -> str:
    """Return the attack that fools most among those that are no union of others."""
    plain = [name for name in profile.order() if name not in ("spatial", "ensemble")]
    return plain[0] if plain else profile.order()[0]


def _broken(profile: RobustnessProfile) -> list[str]:
    """Return the kinds of attack that take more than half of the clean accuracy."""
    kinds = {"linf": "pixels", "l2": "pixels", "ensemble": "pixels", "flow": "flow", "rt": "rt"}
    half = 0.5 * profile.clean.value
    broken = [
        kinds[name] for name, v in zip(profile.names, profile.accuracy.value, strict=True) if name in kinds and v < half
    ]
    return sorted(set(broken))


def _verdict(profile: RobustnessProfile, weakest: str) -> str:
    broken = _broken(profile)
    what = NAMES[weakest].partition(" (")[0].partition(",")[0]
    if not broken:
        return f"No attack takes more than half of the accuracy; {what} takes most."
    if len(broken) == 1:
        return f"Its weak side is {what}."
    return f"It breaks in {len(broken)} ways, most under {what}."


def _advice(subject: Subject, profile: RobustnessProfile, weakest: str) -> Advice:
    if len(_broken(profile)) > 1:
        return recipe(subject, ADVICE["spatial"], "pellucid train pareto-fashion-mnist --out runs/pareto")
    if weakest in ("flow", "rt", "spatial"):
        return recipe(subject, ADVICE[weakest], f"pellucid train {RECIPES[weakest]} --out runs/{weakest}")
    text = "Train against PGD on the pixels, within the radius that matters."
    return recipe(subject, text, "pellucid train pgd-fashion-mnist --out runs/pgd")


def _table(profile: RobustnessProfile, rows: list[Row]) -> Table:
    at = profile.accuracy
    shown: list[tuple[str | int | float | None, ...]] = [("no attack", "", *_ends(profile.clean), None, "")]
    for k, row in enumerate(rows):
        shares = Interval(float(at.value[k]), float(at.low[k]), float(at.high[k]))
        shown.append((row.name, row.budget, *_ends(shares), int(profile.alone[k]), "yes" if row.trusted else "NO"))
    shown.append(("worst of all", "for each sample by itself", *_ends(profile.worst), None, ""))
    return Table(
        title="Accuracy under each attack",
        columns=("attack", "within", "accuracy", "low", "high", "fooled by it alone", "trusted"),
        units=("", "", "%", "%", "%", "", ""),
        rows=tuple(shown),
        caption='All attacks on the same samples, with 95% intervals (Wilson). "Trusted": every sanity check of that '
        "attack holds; see its own finding.",
    )


def _ends(share: Interval[float]) -> tuple[float, float, float]:
    return float(share.value), float(share.low), float(share.high)


def _bars(profile: RobustnessProfile, rows: list[Row]) -> Curve:
    at = profile.accuracy
    names = ("no attack", *(row.name for row in rows), "worst of all")

    def whole(first: float, middle: Tensor, last: float) -> tuple[float | None, ...]:
        return numbers((first, *middle, last))

    return Curve(
        title="Accuracy under each attack",
        x=Axis("attack"),
        y=Axis("accuracy", "%"),
        lines=(
            Line(
                name="accuracy",
                x=numbers(range(len(names))),
                y=whole(profile.clean.value, at.value, profile.worst.value),
                low=whole(profile.clean.low, at.low, profile.worst.low),
                high=whole(profile.clean.high, at.high, profile.worst.high),
            ),
        ),
        bars=True,
        categories=names,
        caption="With 95% intervals. The worst of all counts a sample as right only if no attack fools it.",
    )
