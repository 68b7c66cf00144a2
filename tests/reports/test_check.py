"""The verdicts of a check as JUnit XML and Markdown, and in notebooks."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pellucid.reports import Check, Result, junit, markdown, measured

RESULTS = (
    Result(
        requirement="accuracy >= 90%",
        measure="accuracy",
        verdict="passed",
        value=91.4,
        low=88.6,
        high=93.6,
        unit="%",
        bound=90.0,
        uncertain=True,
        reason="accuracy is 91.4%.",
    ),
    Result(
        requirement="ece <= 1%", measure="ece", verdict="failed", value=4.7, unit="%", bound=1.0, reason="ece is 4.7%."
    ),
    Result(
        requirement="log_loss <= 0.2", verdict="not measured", bound=0.2, reason="no labels.", because="They say so."
    ),
)


@pytest.fixture
def check(samples):
    return Check(report=samples.report(), results=RESULTS)


def test_junit_has_one_case_per_requirement_and_counts_them(check):
    root = ElementTree.fromstring(junit(check))
    (suite,) = root
    assert (root.tag, suite.tag) == ("testsuites", "testsuite")
    for element in (root, suite):
        assert [element.get(k) for k in ("tests", "failures", "errors")] == ["3", "1", "1"]
    assert suite.get("skipped") == "0"
    assert [case.get("name") for case in suite] == [result.requirement for result in RESULTS]
    assert all(case.tag == "testcase" and case.get("classname") for case in suite)
    assert [[child.tag for child in case] for case in suite] == [
        ["system-out"],
        ["failure", "system-out"],
        ["error", "system-out"],
    ]
    assert suite[1][0].get("message") == "ece is 4.7%."
    assert suite[2][0].text == "They say so."
    assert suite[0][0].text.startswith("measured 91.4%, 95% interval 88.6\N{EN DASH}93.6%")


NAMES = st.text(max_size=40)


@given(NAMES, NAMES, NAMES, NAMES)
def test_junit_is_well_formed_whatever_things_are_called(requirement, reason, because, model):
    made = CHECKS["report"]
    report = msgspec.structs.replace(made, subject=msgspec.structs.replace(made.subject, model=model))
    result = Result(requirement=requirement, verdict="failed", bound=0.0, reason=reason, because=because)
    text = junit(Check(report=report, results=(result,)))
    case = ElementTree.fromstring(text.encode())[0][0]
    unfit = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
    assert case.get("name") == unfit.sub("\ufffd", requirement)
    assert case[0].get("message") == unfit.sub("\ufffd", reason)


@given(NAMES, NAMES)
def test_markdown_has_one_row_per_requirement_whatever_they_are_called(requirement, reason):
    result = Result(requirement=requirement, verdict="failed", bound=0.0, reason=reason)
    text = markdown(Check(report=CHECKS["report"], results=(result, result)))
    table = [line for line in text.split("\n") if line.startswith("|")]
    assert len(table) == 4
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {6}
    for line in table[2:]:
        assert not re.search(r"<(?!/?code>)", re.sub(r"`[^`]*`", "", line))


CHECKS = {}


@pytest.fixture(autouse=True, scope="module")
def _report(samples):
    CHECKS["report"] = samples.report()


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a|b", "<code>a&#124;b</code>"),
        ("a`b", "<code>a&#96;b</code>"),
        ("<img src=x>", "`<img src=x>`"),
        ("a\nb", "`a b`"),
        ("", "<code></code>"),
    ],
)
def test_requirements_stay_code_in_markdown(samples, name, shown):
    result = Result(requirement=name, verdict="failed", bound=0.0, reason="@everyone [x](http://y) **b** <i>")
    text = markdown(Check(report=samples.report(), results=(result,)))
    assert f"| **failed** | {shown} |" in text
    assert "&#64;everyone &#91;x&#93;&#40;http&#58;//y&#41; &#42;&#42;b&#42;&#42; &#60;i&#62;" in text


def test_markdown_says_what_was_checked_and_how(check):
    text = markdown(check)
    assert text.startswith("### Not passed: fashion-standard on fashion-mnist meets 1 of 3 requirements.\n")
    assert "| passed (uncertain) | `accuracy >= 90%` | 91.4% | 88.6\N{EN DASH}93.6% | accuracy is 91.4%. |" in text
    assert "| **not measured** | `log_loss <= 0.2` | \N{EN DASH} | \N{EN DASH} | no labels. They say so. |" in text
    assert "500 samples, budget 400000, seed 0" in text
    assert "`pellucid audit fashion-standard fashion-mnist" in text
    assert markdown(msgspec.structs.replace(check, results=RESULTS[:1])).startswith("### Passed: ")


def test_a_check_shows_itself(check):
    assert str(check).splitlines()[1] == "fashion-standard on fashion-mnist meets 1 of 3 requirements."
    assert "not measured" in check._repr_html_()
    assert "log_loss &lt;= 0.2: They say so." in check._repr_html_()
    assert len(check._repr_html_()) < 20_000


def test_what_was_measured_is_shown_with_its_unit():
    assert measured(RESULTS[0]) == ("91.4%", "88.6\N{EN DASH}93.6%")
    assert measured(RESULTS[2]) == ("\N{EN DASH}", "\N{EN DASH}")
