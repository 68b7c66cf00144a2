"""One self-contained page from a report: template, styles, scripts and data in one file, under a strict policy."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import msgspec
from markupsafe import Markup

from pellucid.core import Exhibit, Finding, Level, Measure, Scatter

from . import _figures, _format, _graph, _overlays, _pictures, _scatter
from ._bibliography import bibliography
from ._report import Comparison, Difference, Planned, Report

HERE = Path(__file__).parent
LEVELS: tuple[Level, ...] = ("weak", "watch", "fine", "noted")
WORDS = {
    "fine": "Fine",
    "watch": "Watch",
    "weak": "Weak",
    "noted": "Noted",
    "better": "Better",
    "worse": "Worse",
    "changed": "Changed",
    "no clear difference": "No clear difference",
    "not tested": "Not tested",
}
VERDICTS = ("worse", "better", "changed", "no clear difference", "not tested")
UNCLEAR = ("no clear difference", "not tested")


def write_html(report: Report | Comparison) -> str:
    """Return the page of a report or a comparison; the same report gives the same page."""
    if isinstance(report, Comparison):
        return _render("comparison.html.j2", _comparison(report), _needed(report))
    return _render("audit.html.j2", _audit(report), _needed(report))


def _needed(report: Report | Comparison) -> tuple[str, ...]:
    """Return the names of the scripts that a page needs."""
    parts = [report.before, report.after] if isinstance(report, Comparison) else [report]
    shown = [e for part in parts for finding in part.findings for e in finding.exhibits]
    shown += report.exhibits if isinstance(report, Comparison) else ()
    return tuple(name for name in _SCRIPTS if name != "scatter" or any(isinstance(e, Scatter) for e in shown))


def _audit(report: Report) -> dict[str, Any]:
    findings = report.findings
    return {
        "report": report,
        "cards": sorted(findings, key=lambda finding: LEVELS.index(finding.level)),
        "sections": _sections(findings),
        "counts": [(level, sum(f.level == level for f in findings)) for level in LEVELS],
        "unreached": _unreached(report),
        "anchors": {finding.name: f"finding-{k}" for k, finding in enumerate(findings)},
        "works": bibliography([key for finding in findings for key in finding.references]),
    }


def _unreached(report: Report) -> list[Planned]:
    """Return what was planned but neither answered, skipped nor failed: the audit stopped before."""
    answered = {finding.probe for finding in report.findings}
    reached = answered | {entry.probe for entry in report.skipped} | {entry.probe for entry in report.failed}
    return [row for row in report.plan if not row.skip and row.probe not in reached]


def _comparison(comparison: Comparison) -> dict[str, Any]:
    before = {finding.name: finding for finding in comparison.before.findings}
    after = {finding.name: finding for finding in comparison.after.findings}
    names = list(dict.fromkeys([*before, *after]))
    differences = sorted(comparison.differences, key=lambda d: VERDICTS.index(d.verdict))
    return {
        "comparison": comparison,
        "before": comparison.before,
        "after": comparison.after,
        "pairs": [(before.get(name), after.get(name)) for name in names],
        "clear": [d for d in differences if d.verdict not in UNCLEAR],
        "unclear": [d for d in differences if d.verdict in UNCLEAR],
        "tests": list(dict.fromkeys(d.test for d in differences if d.test)),
        "largest": max((abs(end) for d in differences if d.before.unit == "%" for end in _ends(d)), default=0.0),
        "counts": [(v, sum(d.verdict == v for d in differences)) for v in VERDICTS],
    }


def _ends(difference: Difference) -> list[float]:
    return [end for end in (difference.difference, difference.low, difference.high) if end is not None]


def swing(difference: Difference, largest: float) -> dict[str, float] | None:
    """Return where a difference of percentages lies on a ruler of 100 units with zero in its middle."""
    value = difference.difference
    if difference.before.unit != "%" or value is None or not largest:
        return None
    low = value if difference.low is None else difference.low
    high = value if difference.high is None else difference.high
    scale = 49 / largest
    return {
        "value": round(49.2 + scale * value, 2),
        "low": round(50 + scale * low, 2),
        "width": round(max(0.0, scale * (high - low)), 2),
    }


def _sections(findings: Iterable[Finding]) -> list[tuple[str, Level, list[Finding]]]:
    """Return the findings by probe, each with its worst level."""
    sections: dict[str, list[Finding]] = {}
    for finding in findings:
        sections.setdefault(finding.probe, []).append(finding)
    return [
        (probe, min((finding.level for finding in found), key=LEVELS.index), found) for probe, found in sections.items()
    ]


def _render(template: str, context: dict[str, Any], needed: tuple[str, ...]) -> str:
    styles = [_asset("templates/page.css")]
    scripts = {name: _asset(_SCRIPTS[name]) for name in needed}
    policy = "; ".join(
        (
            "default-src 'none'",
            "script-src " + " ".join(map(_hash, scripts.values())),
            "style-src " + " ".join(map(_hash, styles)),
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    return (
        _environment()
        .get_template(template)
        .render(
            policy=policy,
            style=Markup(styles[0]),  # our own file
            scripts={name: Markup(text) for name, text in scripts.items()},  # our own and vendored files
            charts=_Numbered("chart"),
            commands=_Numbered("command"),
            **context,
        )
    )


_SCRIPTS = {
    "boot": "templates/boot.js",
    "echarts": "vendor/echarts.common.min.js",
    "page": "templates/page.js",
    "scatter": "templates/scatter.js",
}


class _Numbered:
    """Gives ids in the order of the page: chart-0, chart-1, ..."""

    def __init__(self, prefix: str) -> None:
        self.prefix, self.count = prefix, 0

    def __call__(self) -> str:
        self.count += 1
        return f"{self.prefix}-{self.count - 1}"


@cache
def _asset(name: str) -> str:
    text = (HERE / name).read_text(encoding="utf-8")
    if "</script" in text.lower() or "</style" in text.lower() or "\r" in text:
        raise ValueError(f"{name} cannot be put into a page")  # a line end would change the hash, a tag the page
    return text


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.do"],
    )
    environment.filters |= {
        "count": _format.count,
        "fraction": _format.fraction,
        "interval": _format.interval,
        "json": script_json,
        "memory": _format.memory,
        "plain": _format.plain,
        "setting": setting,
        "title_of": _format.title,
    }
    environment.globals |= {
        "chart_of": _figures.chart,
        "drawable": _figures.drawable,
        "graph_of": _graph.drawn,
        "kind_of": kind_of,
        "lead_of": lead,
        "number_of": number_of,
        "overlay_of": _pictures.overlay,
        "overlays_of": _overlays.drawn_overlays,
        "per_row": per_row,
        "ruler_of": ruler,
        "scatter_of": _scatter.drawn_scatter,
        "shades_of": _figures.shades,
        "sheet_of": _figures.sheet,
        "signed": _format.signed,
        "span": _format.span,
        "swing_of": swing,
        "value_of": value_of,
        "words": WORDS,
    }
    return environment


def script_json(value: Any) -> Markup:
    """Return JSON that can stand in a script element: no character of it can end or open an element."""
    text = msgspec.json.encode(value).decode()
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # escaped above


def kind_of(exhibit: Exhibit) -> str:
    """Return the name of the macro that draws an exhibit."""
    return type(exhibit).__name__.lower()


def value_of(measure: Measure) -> str:
    """Return a measure's value with its unit."""
    return _format.with_unit(measure.value, measure.unit)


def setting(value: object) -> str:
    """Return a setting as text."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


def lead(answer: str) -> tuple[str, str]:
    """Split an answer into its first sentence and the rest."""
    first, *rest = re.split(r"(?<=[.!?])\s+(?=[A-Z])", answer, maxsplit=1)
    return first, "".join(rest)


def per_row(count: int, *, widest: int) -> int:
    """Return how many pictures to put into a row so that the last one is as full as can be; pairs stay together."""
    return min(range(widest, widest - 3, -1), key=lambda k: (-count % k, -k)) if count > 2 else widest


def number_of(measure: Measure) -> tuple[str, str]:
    """Return a measure's value and its unit, where that is a word."""
    if measure.unit in ("", "%") or measure.value is None:
        return value_of(measure), ""
    return _format.plain(measure.value), measure.unit


def ruler(measure: Measure) -> dict[str, float] | None:
    """Return where a percentage and its interval lie on a ruler of 100 units; None for other measures."""
    if measure.unit != "%" or measure.value is None or not 0 <= measure.value <= 100:
        return None
    low = measure.value if measure.low is None else max(0.0, measure.low)
    high = measure.value if measure.high is None else min(100.0, measure.high)
    return {"value": round(measure.value, 2), "low": round(low, 2), "width": round(high - low, 2)}
