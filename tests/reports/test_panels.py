"""Reports, comparisons and findings in notebooks and terminals."""

from __future__ import annotations

import msgspec
import pytest

from pellucid.core import Measure
from pellucid.reports import Comparison, Report

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)> \u202e شيرت"


FIXED = {"level", "verdict", "role", "scale", "unit", "better"}


def rebuilt(value, old, new):
    """Put another text in every place of a report that may hold any."""
    if isinstance(value, msgspec.Struct):
        parts = {name: getattr(value, name) for name in value.__struct_fields__}
        parts = {name: part if name in FIXED else rebuilt(part, old, new) for name, part in parts.items()}
        return type(value)(**parts)
    if isinstance(value, tuple):
        return tuple(rebuilt(part, old, new) for part in value)
    return value.replace(old, new) if isinstance(value, str) else value


@pytest.mark.parametrize("kind", ["report", "comparison"])
def test_what_is_shown_is_small_offline_and_escaped(samples, kind):
    made = getattr(samples, kind)()
    hostile = rebuilt(made, "a", f"a{HOSTILE}") if kind == "comparison" else rebuilt(made, "e", f"e{HOSTILE}")
    for value in (made, hostile):
        page = value._repr_html_()
        assert len(page.encode()) < 200_000
        assert "<script" not in page
        assert "<img" not in page
        assert "http:" not in page
        assert "<style" not in page
    assert "&lt;script&gt;" in hostile._repr_html_()


def test_a_report_shows_the_weak_findings_first(samples):
    report = samples.report(complete=False)
    page = report._repr_html_()
    order = [page.index(f"<bdi>{level}</bdi>") for level in ("weak", "watch", "fine")]
    assert order == sorted(order)
    assert page.count("<svg") == len(report.findings)
    text = str(report)
    assert text.startswith("Audit of fashion-standard on fashion-mnist\n1 weak, 1 watch, 4 fine\n")
    assert "91.4% (88.6 to 93.6%)" in text
    assert "This audit is not complete." in text
    assert "Failed: broken, ZeroDivisionError: division by zero" in text
    assert repr(report) == text


def test_a_report_without_findings_says_so(samples):
    empty = msgspec.structs.replace(samples.report(), findings=())
    assert "No question was answered." in str(empty)
    assert "Skipped: transfer, There is no second model" in empty._repr_html_()


def test_a_comparison_shows_the_clear_differences_first(samples):
    text = str(samples.comparison())
    assert text.splitlines()[0] == "fashion-robust compared with fashion-standard on fashion-mnist"
    verdicts = [line.split("  ")[1] for line in text.splitlines()[3:8]]
    assert verdicts == ["worse", "better", "changed", "no clear difference", "no clear difference"]
    assert "+53.6 points (50.6 to 56.6)" in text


def test_a_finding_shows_all_its_numbers(samples):
    finding = samples.accuracy(samples.CLASSES)
    text = str(finding)
    assert text.splitlines()[0] == finding.question
    assert all(measure.name in text for measure in (finding.measure, *finding.measures))
    many = msgspec.structs.replace(
        finding, measures=tuple(Measure(name=f"m{k}", label="x" * 900, value=1.0) for k in range(2_000))
    )
    assert len(many._repr_html_()) < 100_000


def test_reports_come_back_and_show_the_same(samples, tmp_path):
    report = samples.report()
    report.save(tmp_path / "a")
    assert str(Report.load(tmp_path / "a")) == str(report)
    samples.comparison().save(tmp_path / "c")
    assert Comparison.load(tmp_path / "c")._repr_html_() == samples.comparison()._repr_html_()
