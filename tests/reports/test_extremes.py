"""Pages of audits with a thousand classes, very long and right-to-left names, and without any answer."""

from __future__ import annotations

import msgspec
import pytest

from pellucid.core import Axis, Curve, Line, Table
from pellucid.reports import Failed, Skipped, write_html
from pellucid.reports._figures import MAX_BARS, MAX_ROWS, chart

NAMES = (
    "A name that nobody would give to a class, " + "Donaudampfschifffahrtsgesellschaft" * 4,
    "شيرت رياضي قصير الأكمام",
    "חולצת טריקו",
    "運動用の短袖シャツ",
    "<b>bold</b>",
    *(f"class {k}" for k in range(995)),
)
BARS = Curve(
    title="Accuracy per class",
    x=Axis("class"),
    y=Axis("accuracy", "%"),
    bars=True,
    categories=NAMES,
    lines=(Line(name="accuracy", x=(), y=(0.5,) * 1000, low=(0.4,) * 1000, high=(0.6,) * 1000),),
)
TABLE = Table(
    title="Most frequent mistakes",
    columns=("true class", "answer", "samples", "share of the true class"),
    rows=tuple((NAMES[k], NAMES[(7 * k) % 1000], k, k / 1000) for k in range(1000)),
    units=("", "", "", "%"),
)


@pytest.fixture(scope="module")
def reports(samples):
    report = samples.report()
    card = msgspec.structs.replace(report.subject, model="שלום/" + "long_" * 30, class_names=NAMES, n_classes=1000)
    first = msgspec.structs.replace(
        report.findings[0], answer=f"It takes {NAMES[0]} for {NAMES[1]}.", exhibits=(BARS, TABLE)
    )
    reason = "there are no labels: " + "/very/long/path" * 20
    return {
        "classes": msgspec.structs.replace(report, subject=card, findings=(first,)),
        "unanswered": msgspec.structs.replace(
            report,
            findings=(),
            skipped=(Skipped(probe="accuracy", question="Right?", reason=reason),),
            failed=(Failed(probe="robustness", question="How?", error=reason),),
        ),
    }


def test_more_columns_than_one_can_tell_apart_are_counted(samples):
    drawn = chart(BARS)
    assert drawn.left_out == "The first 60 of 1,000 are drawn; report.json has them all."
    assert len(drawn.rows) == MAX_ROWS
    assert drawn.rows[1][0] == NAMES[1]
    assert drawn.height < 1300
    few = msgspec.structs.replace(BARS, categories=NAMES[:MAX_BARS], lines=(Line(name="a", x=(), y=(0.5,) * MAX_BARS),))
    assert chart(few).left_out == ""
    assert len(chart(few).rows) == MAX_BARS


def test_a_page_of_a_thousand_classes_stays_small(reports):
    page = write_html(reports["classes"])
    assert len(page.encode()) < 1_300_000
    assert "The first 60 of 1,000 are drawn" in page
    assert "<b>bold" not in page
    assert "No question was answered." in write_html(reports["unanswered"])


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", ["classes", "unanswered"])
def test_nothing_is_wider_than_the_page(browser, reports, tmp_path, name, width):
    page = reports[name].save(tmp_path)
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(page.as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


@pytest.mark.browser
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_notebook_shows_it_in_its_own_colors(browser, samples, reports, tmp_path, dark):
    shown = [samples.report(), samples.comparison(), samples.report().findings[0], *reports.values()]
    back, ink = ("#111111", "rgb(238, 238, 238)") if dark else ("#ffffff", "rgb(17, 17, 17)")
    page = tmp_path / "cell.html"
    cells = "".join(value._repr_html_() for value in shown)
    page.write_text(
        f'<!doctype html><meta charset="utf-8"><body style="background:{back};color:{ink}">{cells}', "utf-8"
    )
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 700, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    )
    browser.get_log("browser")
    browser.get(page.as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 700
    colors = browser.execute_script(
        "return [...new Set([...document.querySelectorAll('td, th, bdi, b')].map(e => getComputedStyle(e).color))]"
    )
    assert colors == [ink]
    backs = browser.execute_script(
        "return [...new Set([...document.querySelectorAll('body *')].map(e => getComputedStyle(e).backgroundColor))]"
    )
    assert backs == ["rgba(0, 0, 0, 0)"]
    assert browser.get_log("browser") == []
