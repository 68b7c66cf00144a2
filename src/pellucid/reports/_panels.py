"""What reports and comparisons show of themselves in a notebook and in a terminal."""

from __future__ import annotations

import re

from pellucid.core import Cell, Level, Mood, Panel, measured, mood, plain, spark

from ._report import Comparison, Difference, Report

LEVELS: tuple[Level, ...] = ("weak", "watch", "fine", "noted")

_MOODS: dict[str, Mood] = {"worse": "bad", "better": "good", "changed": "care"}


def of_report(report: Report) -> Panel:
    """Return the panel of an audit: its findings, the weak ones first, each with its number and its curve."""
    subject = report.subject
    findings = sorted(report.findings, key=lambda finding: LEVELS.index(finding.level))
    tally = [f"{n} {level}" for level in LEVELS if (n := sum(f.level == level for f in findings))]
    rows: list[tuple[Cell, ...]] = [
        (f.level, _first_sentence(f.answer), f"{f.measure.label}: {measured(f.measure)}", spark(f.exhibits))
        for f in findings
    ]
    notes = [*subject.notes]
    if not report.complete:
        notes.append("This audit is not complete.")
    notes += [f"Failed: {entry.probe}, {entry.error}" for entry in report.failed]
    notes += [f"Skipped: {entry.probe}, {entry.reason}" for entry in report.skipped]
    return Panel(
        f"Audit of {subject.model} on {subject.data}",
        ", ".join(tally) if tally else "No question was answered.",
        facts=(("samples", subject.n_samples), ("classes", subject.n_classes), ("parameters", subject.parameters)),
        columns=("level", "finding", "measured", "curve"),
        rows=tuple(rows),
        moods=tuple(mood(f.level) for f in findings),
        notes=tuple(notes),
    )


def of_comparison(comparison: Comparison) -> Panel:
    """Return the panel of a comparison: its differences, the clear ones first."""
    before, after = comparison.before.subject.model, comparison.after.subject.model
    order = ("worse", "better", "changed", "no clear difference", "not tested")
    differences = sorted(comparison.differences, key=lambda d: order.index(d.verdict))
    return Panel(
        f"{after} compared with {before} on {comparison.after.subject.data}",
        comparison.answer,
        columns=("verdict", "number", "before", "after", "difference", "p"),
        rows=tuple(
            (d.verdict, d.label, measured(d.before), measured(d.after), _difference(d), d.p_value) for d in differences
        ),
        moods=tuple(_MOODS.get(d.verdict, "none") for d in differences),
        notes=comparison.cautions,
    )


def _difference(d: Difference) -> str:
    unit = {"": "", "%": " points"}.get(d.before.unit, f" {d.before.unit}")
    if d.difference is None:
        return plain(None)
    text = f"{'+' if d.difference > 0 else ''}{plain(d.difference)}{unit}"
    return text if d.low is None or d.high is None else f"{text} ({plain(d.low)} to {plain(d.high)})"


def _first_sentence(answer: str) -> str:
    return re.split(r"(?<=[.!?])\s+(?=[A-Z])", answer, maxsplit=1)[0]
