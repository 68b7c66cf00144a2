"""Checks: what is run, what is judged, and by which number."""

from __future__ import annotations

import re

import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import pellucid
from pellucid.audits import MEASURES, Requirement, Requirements, Settings, judge
from pellucid.audits._audit import _subject_of
from pellucid.core import Finding, Measure, Provenance, RequirementError, RunError, Subject
from pellucid.reports import Check, Failed, Report, Skipped, SubjectCard
from pellucid.reports._report import encode


def report(*measures, **changes):
    """A report that holds some measures."""
    findings = tuple(
        Finding(
            probe=MEASURES[m.name.partition("[")[0]].probe if m.name.partition("[")[0] in MEASURES else "mine",
            name=f"finding {k}",
            question="What?",
            answer="That.",
            measure=m,
            level="fine",
            reason="So.",
            provenance=Provenance(seed=0, evaluations=1, sample_ids=()),
        )
        for k, m in enumerate(measures)
    )
    card = SubjectCard(
        model="net",
        data="set",
        modality="image",
        n_samples=9,
        n_classes=2,
        class_names=("a", "b"),
        input_shape=(1, 2, 2),
        parameters=3,
    )
    return Report(pellucid_version="1", subject=card, findings=findings, **changes)


def share(value, low=None, high=None, name="accuracy"):
    return Measure(name=name, label=name, value=value, low=low, high=high, unit="%", better="higher")


def only(made, rule, **options):
    (result,) = judge(made, [Requirement.parse(rule)], **options).results
    return result


@pytest.fixture
def subject():
    """Three classes told apart by their brightest third; 44 of 48 samples are right."""
    x = torch.zeros(48, 1, 6, 6)
    y = torch.arange(48) % 3
    for k in range(48):
        x[k, :, 2 * int(y[k]) : 2 * int(y[k]) + 2] = 1
    layer = nn.Linear(36, 3)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(3).repeat_interleave(12, 1) * 0.2)
        layer.bias.zero_()
    y[:4] = (y[:4] + 1) % 3
    return Subject(
        nn.Sequential(nn.Flatten(), layer), x, y, name="net", data_name="thirds", class_names=("a", "b", "c")
    )


# -- judgement ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bound", ["0.6", "60%"])
def test_shares_are_compared_in_percent_however_they_are_written(bound):
    result = only(report(share(75.0, 70.0, 80.0)), f"accuracy >= {bound}")
    assert (result.verdict, result.bound, result.unit, result.value) == ("passed", 60.0, "%", 75.0)
    assert result.reason == "accuracy is 75% (95% interval 70% to 80%); at least 60% is required."
    assert not result.uncertain


@given(st.integers(1, 400), st.data())
def test_a_share_meets_itself(n, data):
    right = data.draw(st.integers(0, n))
    value = round(100 * right / n, 9)
    result = only(report(share(value)), f"accuracy >= {value!r}%" if value >= 1e-4 or not value else "accuracy >= 0")
    assert result.passed


@given(st.integers(0, 10_000))
def test_decimal_shares_are_exact(bound):
    assert only(report(share(round(bound / 100, 9))), f"accuracy >= {bound / 10_000!r}").passed


@pytest.mark.parametrize(
    ("rule", "verdict", "uncertain", "words"),
    [
        ("accuracy >= 74%", "passed", True, "at least 74% is required, but the interval reaches down to 70%."),
        ("accuracy >= 76%", "failed", True, "at least 76% is required, and the interval reaches up to 80%."),
        ("accuracy >= 81%", "failed", False, "at least 81% is required."),
        ("accuracy <= 76%", "passed", True, "at most 76% is required, but the interval reaches up to 80%."),
        ("accuracy < 74%", "failed", True, "less than 74% is required, and the interval reaches down to 70%."),
        ("accuracy > 75%", "failed", True, "more than 75% is required, and the interval reaches up to 80%."),
    ],
)
def test_the_value_decides_and_the_verdict_tells_of_the_interval(rule, verdict, uncertain, words):
    result = only(report(share(75.0, 70.0, 80.0)), rule)
    assert (result.verdict, result.uncertain) == (verdict, uncertain)
    assert result.reason.endswith(words)


@pytest.mark.parametrize(
    ("rule", "verdict"),
    [
        ("accuracy >= 70%", "passed"),
        ("accuracy >= 71%", "failed"),
        ("accuracy > 70%", "failed"),
        ("accuracy <= 0.8", "passed"),
    ],
)
def test_a_confident_check_demands_the_whole_interval(rule, verdict):
    made = report(share(75.0, 70.0, 80.0))
    assert only(made, rule, confident=True).verdict == verdict
    demand = Requirement.parse(rule, interval=True)
    (result,) = judge(made, [demand]).results
    assert (result.verdict, result.whole) == (verdict, True)


def test_a_whole_interval_that_is_not_there_is_not_met():
    result = only(report(share(75.0)), "accuracy >= 10%", confident=True)
    assert result.verdict == "failed"
    assert result.reason.endswith("is required of the whole interval, but there is none.")


def test_plain_numbers_are_compared_as_they_are():
    result = only(
        report(Measure(name="log_loss", label="loss", value=0.5, low=0.4, high=0.7, unit="nats")), "log_loss <= 0.6"
    )
    assert result.reason == (
        "log_loss is 0.5 nats (95% interval 0.4 nats to 0.7 nats); at most 0.6 nats is required, "
        "but the interval reaches up to 0.7 nats."
    )


def test_rounding_never_contradicts_the_verdict():
    assert "is 59.96%;" in only(report(share(59.96)), "accuracy >= 60%").reason
    assert "is 75.3%;" in only(report(share(75.2987)), "accuracy >= 60%").reason
    assert "is 59.9999999%;" in only(report(share(59.9999999)), "accuracy >= 60%").reason


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (report(), "the report does not answer the question of the probe accuracy"),
        (report(share(None)), "accuracy is not defined on these samples"),
        (
            report(share(9.0, name="accuracy[a]")),
            "the report has no accuracy; did you mean accuracy[a]? it has accuracy[a]",
        ),
        (
            report(skipped=(Skipped(probe="accuracy", question="?", reason="there are no labels."),)),
            "the probe accuracy was skipped: there are no labels.",
        ),
        (
            report(failed=(Failed(probe="accuracy", question="?", error="ValueError: no"),)),
            "the probe accuracy failed: ValueError: no",
        ),
    ],
    ids=["absent", "undefined", "other", "skipped", "failed"],
)
def test_what_was_not_measured_is_not_met(made, words):
    result = only(made, "accuracy >= 0%")
    assert (result.verdict, result.passed, result.value) == ("not measured", False, None)
    assert words in result.reason


@pytest.mark.parametrize("written", ["8/255", "0.0313725", "0.03137"])
def test_radii_are_matched_as_numbers(written):
    made = report(share(50.0, name="robust_accuracy[linf,0.0313725]"), share(10.0, name="robust_accuracy[linf,0.1]"))
    result = only(made, f"robust_accuracy[linf,{written}] >= 0.5")
    assert (result.verdict, result.measure) == ("passed", "robust_accuracy[linf,0.0313725]")
    assert only(made, "robust_accuracy[linf,0.03] >= 0.1").verdict == "not measured"
    assert only(made, "robust_accuracy[l2,0.1] >= 0.1").verdict == "not measured"


def test_a_report_of_ones_own_probe_is_checked_by_its_names():
    made = report(Measure(name="mine[2]", label="mine", value=3.0))
    assert pellucid.check(made, "mine[2] >= 3").passed
    with pytest.raises(RequirementError, match=re.escape("did you mean mine[2]?")):
        pellucid.check(made, "mine[3] >= 3")


def test_all_must_pass():
    made = report(share(75.0))
    check = pellucid.check(made, ["accuracy >= 70%", "accuracy <= 10%"])
    assert [result.verdict for result in check.results] == ["passed", "failed"]
    assert not check.passed
    assert str(check).splitlines()[:2] == ["Check of net on set", "net on set meets 1 of 2 requirements."]
    assert "failed   accuracy <= 10%  accuracy is 75%" in str(check)
    assert repr(check) == str(check)
    assert pellucid.check(made, "accuracy >= 70%").answer == "net on set meets the requirement."


# -- running ------------------------------------------------------------------------------------------------------


def test_only_what_is_required_is_run(subject):
    seen = []
    check = pellucid.check(subject, ["accuracy >= 0.5", "log_loss <= 2"], on_event=seen.append)
    assert isinstance(check, Check)
    assert [row.probe for row in check.report.plan] == ["accuracy", "calibration"]
    assert seen
    assert [result.value is not None for result in check.results] == [True, True]


def test_the_same_check_gives_the_same_verdict(subject):
    once, again = (pellucid.check(subject, "accuracy >= 0.9", seed=3) for _ in range(2))
    assert encode(once.report)[0] == encode(again.report)[0]
    assert once.results == again.results
    assert once.results[0].value == pytest.approx(100 * 44 / 48)


def test_settings_of_a_file_hold_unless_the_caller_says_otherwise(subject, tmp_path):
    path = tmp_path / "pellucid.toml"
    path.write_text(
        '[settings]\nseed = 5\nquick = true\nconfident = true\nprobes = ["calibration"]\n'
        '[[require]]\nrule = "accuracy >= 90%"\nbecause = "As before."\n',
        encoding="utf-8",
    )
    check = pellucid.check(subject, path)
    assert check.report.settings["seed"] == 5
    assert check.report.settings["effort"] == "quick"
    assert [row.probe for row in check.report.plan] == ["accuracy", "calibration"]
    assert check.results[0].whole
    assert check.results[0].because == "As before."
    assert not check.passed
    other = pellucid.check(subject, path, seed=6, confident=False, quick=False)
    assert (other.report.settings["seed"], other.report.settings["effort"], other.passed) == (6, "full", True)


def test_a_skipped_probe_is_not_met(subject):
    unlabelled = Subject(subject.model, subject.inputs, name="net", class_names=subject.class_names)
    check = pellucid.check(unlabelled, ["accuracy >= 0.1", "last_similarity <= 1"])
    assert check.results[0].verdict == "not measured"
    assert "the probe accuracy was skipped: " in check.results[0].reason


def test_unknown_names_are_refused_before_anything_is_run(subject):
    seen = []
    for rule, words in [
        ("acuracy >= 0.9", "did you mean accuracy?"),
        ("accuracy[d] >= 0.9", "names the class 'd', which net does not know; the classes are a, b and c"),
    ]:
        with pytest.raises(RequirementError, match=re.escape(words)):
            pellucid.check(subject, rule, on_event=seen.append)
    with pytest.raises(RequirementError, match="there is no probe 'calibrtion'; did you mean calibration"):
        pellucid.check(subject, "accuracy >= 0.9", probes=["calibrtion"], on_event=seen.append)
    with pytest.raises(RequirementError, match="nothing is required"):
        pellucid.check(subject, [], on_event=seen.append)
    assert not seen


def test_the_folder_holds_the_report_and_is_replaced_by_the_next_check(subject, tmp_path):
    folder = tmp_path / "check"
    first = pellucid.check(subject, "accuracy >= 0.5", out=folder)
    assert encode(Report.load(folder))[0] == encode(first.report)[0]
    second = pellucid.check(subject, "ece <= 0.5", out=folder)
    assert encode(Report.load(folder))[0] == encode(second.report)[0]
    assert pellucid.check(Report.load(folder), "ece <= 0.5").results == second.results


def test_a_folder_of_something_else_is_left_alone(subject, tmp_path):
    pellucid.audit(subject, probes=["accuracy"], out=tmp_path / "audit")
    before = (tmp_path / "audit/report.json").read_bytes()
    with pytest.raises(RunError):
        pellucid.check(subject, "accuracy >= 0.5", out=tmp_path / "audit")
    assert (tmp_path / "audit/report.json").read_bytes() == before


def test_requirements_may_be_built_by_hand(subject):
    demands = (Requirement("accuracy", ">=", 0.5), Requirement.parse("ece <= 0.9"))
    assert pellucid.check(subject, Requirements(demands, Settings(seed=2))).report.settings["seed"] == 2
    assert pellucid.check(subject, demands[0]).passed
    assert str(demands[0]) == "accuracy >= 0.5"


def test_results_are_plain_data(subject):
    check = pellucid.check(subject, "accuracy >= 0.5")
    assert msgspec.json.decode(msgspec.json.encode(check.results))[0]["verdict"] == "passed"


def test_advice_in_a_checks_report_names_its_model_and_data():
    command = "pellucid check net.py:make d.npz --budget 9 --requirements a.toml --confident --split train"
    assert _subject_of(command) == ("net.py:make d.npz", " --split train")
