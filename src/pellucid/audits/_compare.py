"""Set two audits side by side: the same numbers joined by name, tested on the samples that both audits used."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

import msgspec
import torch
from torch import Tensor

from pellucid.core import (
    Curve,
    DataError,
    Finding,
    Line,
    Measure,
    Number,
    PairedTest,
    Stream,
    mcnemar,
    number,
    paired_difference,
)
from pellucid.reports import Comparison, Difference, Report

from ._compare_graphs import match_graphs
from ._explain_graph import GraphFile
from ._wording import brief, count, listed

Verdict = Literal["better", "worse", "no clear difference", "changed", "not tested"]

SIGNIFICANT = 0.05
MOST_LINES = 8
"""Lines that one picture can hold; curves with more, such as one per sample, stay in the two reports."""


def compare(
    before: Report,
    after: Report,
    *,
    graphs: tuple[GraphFile, GraphFile] | None = None,
    seed: int = 0,
    command: str = "",
) -> Comparison:
    """What changed from one audit to the other?

    Numbers are joined by name. Those with a value per sample are tested in pairs on the samples that both audits used:
    McNemar's test for right or wrong, a paired bootstrap with a sign-flip test otherwise. Numbers without are compared
    by their intervals. And-Or graphs of the same samples, players and classes are matched pattern by pattern.

    Args:
        before, after: two audits on the same data.
        graphs: what `explain_graph` left of each; if not given, the graphs drawn in both reports are matched.
        seed: root of the bootstrap's chance.
        command: the command that makes the same comparison again.

    Raises:
        DataError: the audits are of different data, share no samples, or answer no common question.
    """
    cautions = [*_same_data(before, after), *_other_settings(before, after)]
    rng = Stream(seed).child("compare")
    differences = tuple(_differences(before, after, rng))
    if not differences:
        raise DataError("the two audits answer no common question; audit both models with the same --probe and --skip")
    pairs = [(old, new) for old in before.findings for new in after.findings if old.name == new.name]
    lonely = sorted({f.name for f in before.findings} ^ {f.name for f in after.findings})
    if lonely:
        cautions.append(f"Only one of the two audits answers: {listed(lonely, most=9)}.")
    cautions += _untold(before, after, pairs)
    tested = sum(d.p_value is not None for d in differences)
    if tested > 10:
        cautions.append(
            f"{count(tested, 'test')} at the {SIGNIFICANT:.0%} level: about {max(1, round(SIGNIFICANT * tested))} "
            "would show a difference by chance alone."
        )
    matched = match_graphs(before, after, graphs, _names(before, after))
    cautions += matched.cautions
    return Comparison(
        before=before,
        after=after,
        differences=differences,
        exhibits=(
            *matched.exhibits,
            *(curve for old, new in pairs for curve in _overlays(old, new, *_names(before, after))),
        ),
        answer=" ".join(filter(None, (_answer(before, after, differences), matched.answer))),
        cautions=tuple(cautions),
        command=command,
    )


def _untold(before: Report, after: Report, pairs: list[tuple[Finding, Finding]]) -> Iterator[str]:
    """Say why one of the audits has no number where the other has one."""
    for pair in pairs:
        for name, own, other in zip(_names(before, after), pair, reversed(pair), strict=True):
            if own.measure.value is None and other.measure.value is not None:
                yield f"{name} has no number for {own.measure.label}. {own.answer}"


def _ids(report: Report) -> set[int]:
    return {i for finding in report.findings for i in finding.provenance.sample_ids}


def _same_data(before: Report, after: Report) -> list[str]:
    """Return cautions about the data, or raise when the two audits cannot be compared."""
    old, new = before.subject, after.subject
    if (old.data, old.input_shape, old.class_names) != (new.data, new.input_shape, new.class_names):
        raise DataError(
            f"the first audit is on {_describe(before)} and the second on {_describe(after)}; "
            "audit both models on the same data to compare them"
        )
    if old.digests.get("data") == new.digests.get("data"):
        return []
    ids_old, ids_new = _ids(before), _ids(after)
    shared = len(ids_old & ids_new)
    if ids_old == ids_new and old.n_samples == new.n_samples:
        raise DataError(
            f"both audits name the same samples of {old.data}, but the samples themselves differ; "
            "audit both models on the same data to compare them"
        )
    if not shared:
        raise DataError(
            f"the two audits share no sample of {old.data}; audit both models with the same --samples and --seed"
        )
    return [
        f"The audits share only {shared} samples (of {len(ids_old)} and {len(ids_new)}); paired tests use the shared "
        "ones, the values shown are each audit's own."
    ]


def _describe(report: Report) -> str:
    shape = " x ".join(map(str, report.subject.input_shape))
    return f"{report.subject.data} ({shape}, {count(report.subject.n_classes, 'class', 'classes')})"


def _other_settings(before: Report, after: Report) -> Iterator[str]:
    for key in ("budget", "effort", "seed"):
        old, new = before.settings.get(key), after.settings.get(key)
        if old != new:
            yield f"The audits were run with another {key} ({old} and {new}): intervals and samples may differ."
    for name, report in (("first", before), ("second", after)):
        if not report.complete:
            yield f"The {name} audit is partial: it was interrupted."


def _names(before: Report, after: Report) -> tuple[str, str]:
    old, new = before.subject.model, after.subject.model
    return (f"{old} (before)", f"{new} (after)") if old == new else (old, new)


# -- numbers ------------------------------------------------------------------------------------------------------


class _Sided(NamedTuple):
    finding: Finding
    measure: Measure


def _measures(report: Report) -> dict[tuple[str, str], _Sided]:
    return {(f.name, m.name): _Sided(f, m) for f in report.findings for m in (f.measure, *f.measures)}


def _differences(before: Report, after: Report, rng: Stream) -> Iterator[Difference]:
    others = _measures(after)
    for key, old in _measures(before).items():
        if key in others:
            yield _difference(old, others[key], rng.child(*key))


def _difference(old: _Sided, new: _Sided, rng: Stream) -> Difference:
    test = _paired(old, new, rng) or _unpaired(old.measure, new.measure)
    plain = _minus(new.measure.value, old.measure.value)
    same = Difference(
        probe=old.finding.probe,
        name=old.measure.name,
        label=old.measure.label,
        before=old.measure,
        after=new.measure,
        difference=plain,
        verdict="not tested",
    )
    if test is None:
        return same
    significant = test.low > 0 or test.high < 0
    if math.isfinite(test.p_value):
        significant = test.p_value < SIGNIFICANT
    scale = 100.0 if old.measure.unit == "%" and test.n else 1.0  # samples are shares, the measure is in percent
    return msgspec.structs.replace(
        same,
        difference=number(test.difference * scale),
        low=number(test.low * scale),
        high=number(test.high * scale),
        p_value=number(test.p_value),
        n=test.n,
        test=test.test,
        verdict=_verdict(test.difference, significant, old.measure.better),
    )


def _minus(a: Number, b: Number) -> Number:
    return None if a is None or b is None else a - b


def _verdict(difference: float, significant: bool, better: str) -> Verdict:
    if not significant:
        return "no clear difference"
    if better == "neither":
        return "changed"
    return "better" if (difference > 0) == (better == "higher") else "worse"


def _paired(old: _Sided, new: _Sided, rng: Stream) -> PairedTest | None:
    first, second = _by_id(old), _by_id(new)
    shared = sorted(first.keys() & second.keys())
    if len(shared) < 2:
        return None
    a = torch.tensor([first[i] for i in shared], dtype=torch.float64)
    b = torch.tensor([second[i] for i in shared], dtype=torch.float64)
    if _binary(a) and _binary(b):
        return mcnemar(a.bool(), b.bool())
    return paired_difference(a, b, rng=rng)


def _by_id(sided: _Sided) -> dict[int, float]:
    ids, values = sided.finding.provenance.sample_ids, sided.measure.samples
    return {i: v for i, v in zip(ids, values, strict=True) if v is not None} if values else {}


def _binary(values: Tensor) -> bool:
    return bool(((values == 0) | (values == 1)).all())


def _unpaired(old: Measure, new: Measure) -> PairedTest | None:
    """Compare two 95 % intervals as if they were normal and independent; wider than a paired test would be."""
    ends = [old.value, old.low, old.high, new.value, new.low, new.high]
    if any(end is None for end in ends):
        return None
    a, a_low, a_high, b, b_low, b_high = (float(end) for end in ends if end is not None)
    half = math.hypot((a_high - a_low) / 2, (b_high - b_low) / 2)
    return PairedTest(b - a, b - a - half, b - a + half, math.nan, 0, "overlap of the two intervals, not paired")


# -- words and pictures -------------------------------------------------------------------------------------------


def _answer(before: Report, after: Report, differences: tuple[Difference, ...]) -> str:
    old, new = _names(before, after)
    heads = {(f.name, f.measure.name) for f in before.findings}
    ranked = sorted(differences, key=lambda d: (_home(before, d), d.name) not in heads)  # headline numbers first
    better = [d for d in ranked if d.verdict == "better"]
    worse = [d for d in ranked if d.verdict == "worse"]
    changed = sum(d.verdict == "changed" for d in differences)
    if not (better or worse or changed):
        return f"Between {old} and {new} no number differs clearly."
    parts = []
    if better:
        parts.append(f"{new} is better than {old} in {_named(better)}.")
    if worse:
        parts.append(f"{'It' if better else new} is worse {'' if better else f'than {old} '}in {_named(worse)}.")
    if changed:
        parts.append(f"{count(changed, 'number')} without a better direction changed.")
    return " ".join(parts)


def _home(report: Report, d: Difference) -> str:
    """Return the finding that a difference's number belongs to."""
    mine = (
        f.name for f in report.findings if f.probe == d.probe and any(m == d.before for m in (f.measure, *f.measures))
    )
    return next(mine, "")


def _named(differences: list[Difference]) -> str:
    return listed((f"{d.label} ({_change(d)})" for d in differences), most=3)


def _change(d: Difference) -> str:
    unit = "%" if d.before.unit == "%" else f" {d.before.unit}" if d.before.unit else ""
    return f"{brief(d.before.value)}{unit} to {brief(d.after.value)}{unit}"


OWN_FLOORS = "Each model has a noise floor of its own: hold a curve against the floor of its model only."


def _overlays(old: Finding, new: Finding, old_name: str, new_name: str) -> Iterator[Curve]:
    """Yield each curve that both findings have, with the lines of both in one picture."""
    others = {e.title: e for e in new.exhibits if isinstance(e, Curve)}
    for curve in old.exhibits:
        other = others.get(curve.title) if isinstance(curve, Curve) else None
        if not isinstance(curve, Curve) or other is None or (curve.categories, curve.x) != (other.categories, other.x):
            continue
        mine = [line for line in curve.lines if line.role in ("main", "points")]
        theirs = [line for line in other.lines if line.role in ("main", "points")]
        if len(mine) + len(theirs) > MOST_LINES:
            continue
        shared = [line for line in curve.lines if line.role == "reference" and line in other.lines]
        noise = [(name, line) for name, c in ((old_name, curve), (new_name, other)) for line in c.lines]
        lines = (
            *(_renamed(line, old_name, alone=len(mine) == 1) for line in mine),
            *(_renamed(line, new_name, alone=len(theirs) == 1) for line in theirs),
            *(_renamed(line, name, alone=False) for name, line in noise if line.role == "noise"),
            *shared,
        )
        yield Curve(
            title=curve.title,
            x=curve.x,
            y=curve.y,
            lines=lines,
            caption=OWN_FLOORS if any(line.role == "noise" for _, line in noise) else "",
            bars=curve.bars,
            categories=curve.categories,
        )


def _renamed(line: Line, model: str, *, alone: bool) -> Line:
    name = model if alone else f"{model}: {line.name}"
    return Line(name=name, x=line.x, y=line.y, low=line.low, high=line.high, role=line.role)
