"""The verdict of a check, and how it is drawn for terminals, build servers and pull requests."""

from __future__ import annotations

import re
from typing import Literal
from xml.sax.saxutils import escape, quoteattr

import msgspec

from pellucid.core import Mood, Number, Panel, showing

from . import _format
from ._report import Report

Verdict = Literal["passed", "failed", "not measured"]


class Result(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One requirement and how it went.

    Args:
        requirement: the demand, such as `robust_accuracy[linf,0.1] >= 60%`.
        measure: exact name of the measure it was judged by; empty where nothing was measured.
        verdict: "not measured" counts as not met.
        value, low, high: what was measured with its 95% interval, in `unit`.
        unit: the measure's unit; "%" for a share already multiplied by 100.
        bound: the number demanded, in the same unit.
        uncertain: whether the interval holds both numbers that meet the demand and numbers that do not.
        whole: whether the demand is on the whole interval.
        reason: the verdict in one sentence.
        because: why it is demanded, as the one who demands it put it.
    """

    requirement: str
    measure: str = ""
    verdict: Verdict
    value: Number = None
    low: Number = None
    high: Number = None
    unit: str = ""
    bound: float
    uncertain: bool = False
    whole: bool = False
    reason: str
    because: str = ""

    @property
    def passed(self) -> bool:
        """Whether the requirement is met."""
        return self.verdict == "passed"


_MOODS: dict[str, Mood] = {"passed": "good", "failed": "bad", "not measured": "bad"}


def _panel(check: Check) -> Panel:
    return Panel(
        f"Check of {check.title}",
        check.answer,
        columns=("verdict", "requirement", "why"),
        rows=tuple((result.verdict, result.requirement, result.reason) for result in check.results),
        moods=tuple("care" if r.passed and r.uncertain else _MOODS[r.verdict] for r in check.results),
        notes=tuple(f"{result.requirement}: {result.because}" for result in check.results if result.because),
    )


@showing(_panel)
class Check(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Requirements held against a report.

    Args:
        report: the audit that the verdicts rest on.
        results: one per requirement, in their order.
    """

    report: Report
    results: tuple[Result, ...]

    @property
    def passed(self) -> bool:
        """Whether every requirement is met."""
        return all(result.passed for result in self.results)

    @property
    def title(self) -> str:
        """What was checked."""
        return f"{self.report.subject.model} on {self.report.subject.data}"

    @property
    def answer(self) -> str:
        """The verdict on all requirements, in one sentence."""
        total, met = len(self.results), sum(result.passed for result in self.results)
        demands = "the requirement" if total == 1 else f"all {total} requirements"
        if met == total:
            return f"{self.title} meets {demands}."
        return f"{self.title} meets {met} of {total} requirement{'' if total == 1 else 's'}."


def measured(result: Result) -> tuple[str, str]:
    """Return what was measured and its interval as text; a dash for what there is none of."""
    value = _format.with_unit(result.value, result.unit)
    interval = _format.span(result.low, result.high, result.unit)
    return value, interval or _format.MISSING


def junit(check: Check) -> str:
    """Return a check as JUnit XML: one test case per requirement.

    A requirement that is not met is a `failure`, one that was not measured an `error`; build servers stop at both.

    Args:
        check: what was checked.
    """
    results = check.results
    failures = sum(result.verdict == "failed" for result in results)
    errors = sum(result.verdict == "not measured" for result in results)
    counts = f'tests="{len(results)}" failures="{failures}" errors="{errors}"'
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f'<testsuites name="pellucid check" {counts}>',
        f'  <testsuite name={_attribute(check.title)} {counts} skipped="0">',
    ]
    for result in results:
        where = f"    <testcase classname={_attribute(_class_name(check))} name={_attribute(result.requirement)}>"
        lines.append(where)
        if not result.passed:
            kind = "failure" if result.verdict == "failed" else "error"
            lines.append(
                f"      <{kind} type={_attribute(result.verdict)} message={_attribute(result.reason)}>"
                f"{_text(result.because)}</{kind}>"
            )
        lines.append(f"      <system-out>{_text(_told(result))}</system-out>")
        lines.append("    </testcase>")
    return "\n".join([*lines, "  </testsuite>", "</testsuites>", ""])


def markdown(check: Check) -> str:
    """Return a check as a Markdown summary for a pull request: the answer and a table.

    Args:
        check: what was checked.
    """
    lines = [
        f"### {'Passed' if check.passed else 'Not passed'}: {_prose(check.answer)}",
        "",
        "| verdict | requirement | measured | 95% interval | why |",
        "|---|---|---|---|---|",
    ]
    for result in check.results:
        verdict = f"**{result.verdict}**" if not result.passed else result.verdict
        cells = (
            verdict + (" (uncertain)" if result.uncertain else ""),
            _code(result.requirement),
            *map(_prose, measured(result)),
            _prose(" ".join(filter(None, (result.reason, result.because)))),
        )
        lines.append("| " + " | ".join(cells) + " |")
    report = check.report
    settings = ", ".join(f"{name} {value}" for name, value in report.settings.items() if name in _NAMED)
    lines += ["", f"{report.subject.n_samples:,} samples, {_prose(settings)}, Pellucid {report.pellucid_version}."]
    if report.command:
        lines += ["", _code(report.command)]
    return "\n".join([*lines, ""])


_NAMED = ("budget", "effort", "seed")

_UNFIT = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that no XML document may hold, escaped or not."""


def _told(result: Result) -> str:
    value, interval = measured(result)
    return f"measured {value}, 95% interval {interval}. {result.reason}"


def _class_name(check: Check) -> str:
    # Build servers cut class names at dots, to group by package.
    return f"pellucid.{check.title.replace('.', '_')}"


def _text(text: str) -> str:
    return escape(_UNFIT.sub("\N{REPLACEMENT CHARACTER}", text))


def _attribute(text: str) -> str:
    return quoteattr(_UNFIT.sub("\N{REPLACEMENT CHARACTER}", text), {"\n": "&#10;", "\r": "&#13;", "\t": "&#9;"})


def _prose(text: str) -> str:
    """Return text that Markdown shows as it is: nothing in it is markup, a mention, a link or the end of a cell."""
    text = "".join(f"&#{ord(c)};" if c in _MARKUP else c for c in _flat(text))
    return re.sub(r"(?i)(?<=http)(s?):", r"\1&#58;", text).replace("www.", "www&#46;")


def _code(text: str) -> str:
    """Return text as code; as escaped text where a code span could not hold it."""
    text = _flat(text)
    plain = "`" not in text and "|" not in text and text.strip() == text and text
    return f"`{text}`" if plain else f"<code>{_prose(text)}</code>"


_MARKUP = frozenset("\\`*_{}[]()<>#+!|~@&$")


def _flat(text: str) -> str:
    return " ".join(text.split())
