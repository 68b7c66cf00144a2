"""The engine of an audit: what is kept, skipped, failed, saved, resumed."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from types import MappingProxyType

import pytest
import torch
from torch import nn

import pellucid
from pellucid import audits
from pellucid.audits import PlanMade, ProbeDone, ProbeFailed, ProbeSkipped, ProbeStarted, ProbeStep
from pellucid.core import (
    Axis,
    BudgetError,
    Curve,
    Finding,
    Line,
    Measure,
    ModelError,
    Need,
    Provenance,
    RunError,
    RunFolder,
    Subject,
)
from pellucid.reports import Report


class Fake:
    """A probe that answers with one draw, or raises what it is told to."""

    def __init__(self, name, *, least=10, wanted=20, skip="", error=None):
        self.name, self.question, self.error = name, f"What about {name}?", error
        self.wants, self.calls = Need(least, wanted, skip=skip), []

    def need(self, subject, *, effort):
        return self.wants

    def __call__(self, subject, budget, rng, *, work=None):
        self.calls.append(budget)
        if self.error is not None:
            raise self.error
        work.on_step(1, 1)
        value = float(rng.uniform((1,))[0])
        line = Line(name="it", x=(0.0, 1.0), y=(0.0, value))
        return [
            Finding(
                probe=self.name,
                name=self.name,
                question=self.question,
                answer="So.",
                measure=Measure(name="value", label="value", value=value),
                level="fine",
                reason="Because.",
                provenance=Provenance(seed=0, evaluations=budget, sample_ids=(0,)),
                exhibits=(Curve(title="It", x=Axis("x"), y=Axis("y"), lines=(line,)),),
            )
        ]


@pytest.fixture
def subject():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    return Subject(model, torch.rand(9, 1, 4, 4), torch.arange(9) % 3, name="net", data_name="noise")


@pytest.fixture
def table(monkeypatch):
    def install(*probes):
        named = MappingProxyType({probe.name: probe for probe in probes})
        monkeypatch.setattr("pellucid.audits._audit.PROBES", named)
        monkeypatch.setattr("pellucid.audits._plan.PROBES", named)
        return probes

    return install


def test_every_probe_answers_with_its_grant_and_its_own_stream(subject, table):
    table(Fake("one"), Fake("two"))
    report = pellucid.audit(subject, budget=30, seed=5)
    assert [f.name for f in report.findings] == ["one", "two"]
    assert [f.provenance.evaluations for f in report.findings] == [15, 15]
    assert report.findings[0].measure.value != report.findings[1].measure.value
    assert report.complete
    assert report.findings[0].provenance.seed == 5
    assert set(report.findings[0].provenance.versions) == {"pellucid", "torch", "numpy"}
    alone = pellucid.audit(subject, budget=20, seed=5, probes=["two"])
    assert alone.findings[0].measure == report.findings[1].measure  # another probe's presence changes nothing


def test_a_reason_is_a_skip_and_a_bug_is_a_failure(subject, table):
    table(
        Fake("sound"),
        Fake("unfit", error=ModelError("the model gives NaN.")),
        Fake("broken", error=KeyError("oops")),
        Fake("inapplicable", skip="needs labels"),
        Fake("dear", least=10**9, wanted=10**9),
    )
    events = []
    report = pellucid.audit(subject, budget=1000, on_event=events.append)
    assert [f.name for f in report.findings] == ["sound"]
    assert {s.probe: s.reason for s in report.skipped} == {
        "unfit": "the model gives NaN.",
        "inapplicable": "needs labels",
        "dear": "needs at least 1,000,000,000 evaluations, 970 are left of the budget",
    }
    assert [(f.probe, f.error) for f in report.failed] == [("broken", "KeyError: 'oops'")]
    assert report.complete
    kinds = [type(event) for event in events]
    assert kinds[0] is PlanMade
    assert [kinds.count(kind) for kind in (ProbeStarted, ProbeStep, ProbeDone, ProbeFailed, ProbeSkipped)] == [
        3,
        1,
        1,
        1,
        3,
    ]


def test_too_small_a_budget_names_the_least_that_works(subject, table, tmp_path):
    table(Fake("one", least=50, wanted=90), Fake("two", least=70, wanted=90))
    with pytest.raises(BudgetError, match="give at least 50"):
        pellucid.audit(subject, budget=49, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_unknown_probes_are_named_with_the_nearest(subject, table):
    table(Fake("robustness"))
    with pytest.raises(ValueError, match="did you mean 'robustness'"):
        pellucid.audit(subject, probes=["robustnes"])
    with pytest.raises(ValueError, match="no probe is left"):
        pellucid.audit(subject, skip=["robustness"])


def test_the_report_is_saved_with_manifest_and_page(subject, table, tmp_path):
    table(Fake("one"))
    report = pellucid.audit(subject, out=tmp_path / "run", command="pellucid audit net noise")
    assert Report.load(tmp_path / "run") == report
    run = RunFolder.open(tmp_path / "run", kind="audit")
    assert run.status == "complete"
    assert "one" in run.manifest["durations"]
    assert (tmp_path / "run" / "index.html").is_file()
    text = (tmp_path / "run" / "report.json").read_text()
    assert "durations" not in text
    assert str(tmp_path) not in text


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError(), OSError(28, "No space left on device")])
def test_an_interruption_leaves_a_valid_partial_report_and_resuming_gives_the_same_bytes(
    subject, table, tmp_path, error
):
    first, second, _ = table(Fake("one"), Fake("two", error=error), Fake("three"))
    with pytest.raises(type(error)):
        pellucid.audit(subject, out=tmp_path / "run")
    partial = Report.load(tmp_path / "run")
    assert not partial.complete
    assert [f.name for f in partial.findings] == ["one"]
    assert [s.probe for s in partial.skipped] == ["two", "three"]
    assert all("--resume" in s.reason for s in partial.skipped)
    assert RunFolder.open(tmp_path / "run").status == "partial"

    second.error = None
    events = []
    report = pellucid.audit(subject, out=tmp_path / "run", resume=True, on_event=events.append)
    assert report.complete
    assert len(first.calls) == 1  # not asked again
    assert [e.reused for e in events if isinstance(e, ProbeDone)] == [True, False, False]
    whole = pellucid.audit(subject, out=tmp_path / "whole")
    assert whole == report
    assert (tmp_path / "run/report.json").read_bytes() == (tmp_path / "whole/report.json").read_bytes()
    assert RunFolder.open(tmp_path / "run").status == "complete"


def test_an_interruption_without_a_folder_is_passed_on(subject, table):
    table(Fake("one", error=KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        pellucid.audit(subject)


def test_a_failed_probe_is_asked_again_on_resume(subject, table, tmp_path):
    (probe,) = table(Fake("one", error=KeyError("x")))
    assert pellucid.audit(subject, out=tmp_path / "run").failed
    probe.error = None
    report = pellucid.audit(subject, out=tmp_path / "run", resume=True)
    assert not report.failed
    assert report.findings


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"seed": 1}, r"seed \(0, now 1\)"),
        ({"budget": 15}, r"budget \(40, now 15\)"),
        ({"budget": 15, "seed": 2}, r"seed \(0, now 2\) and budget \(40, now 15\)"),
        ({"probes": ["one"]}, "choice of probes or of their settings"),
    ],
)
def test_another_audit_is_not_resumed(subject, table, tmp_path, change, what):
    table(Fake("one"), Fake("two"))
    pellucid.audit(subject, out=tmp_path / "run", budget=40)
    with pytest.raises(RunError, match=f"another {what}; give the same"):
        pellucid.audit(subject, out=tmp_path / "run", resume=True, **{"budget": 40, **change})
    other = Subject(subject.model, 1 - subject.inputs, subject.labels, name="net", data_name="noise")
    with pytest.raises(RunError, match="another model or data"):
        pellucid.audit(other, out=tmp_path / "run", resume=True, budget=40)


def test_a_used_or_foreign_folder_is_refused_and_left_alone(subject, table, tmp_path):
    table(Fake("one"))
    pellucid.audit(subject, out=tmp_path / "run")
    before = (tmp_path / "run/report.json").read_bytes()
    with pytest.raises(RunError, match="--resume"):
        pellucid.audit(subject, out=tmp_path / "run", seed=9)
    assert (tmp_path / "run/report.json").read_bytes() == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("dear")
    with pytest.raises(RunError, match="not ours"):
        pellucid.audit(subject, out=tmp_path / "mine", resume=True)
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["letter.txt"]


def test_surrogates_are_part_of_what_is_audited(subject, table, tmp_path):
    table(Fake("one"))
    pellucid.audit(subject, out=tmp_path / "run")
    other = Subject(
        subject.model,
        subject.inputs,
        subject.labels,
        name="net",
        data_name="noise",
        surrogates={"twin": nn.Sequential(nn.Flatten(), nn.Linear(16, 3))},
    )
    with pytest.raises(RunError, match="another model or data"):
        pellucid.audit(other, out=tmp_path / "run", resume=True)


def test_the_plan_shows_what_each_probe_gets_and_why_not(subject, table):
    table(Fake("one", least=5, wanted=500), Fake("no", skip="needs labels"))
    plan = audits.plan(subject, budget=100)
    one, no = plan.rows
    assert (one.granted, one.least, one.wanted) == (100, 5, 500)
    assert (no.granted, no.skip) == (0, "needs labels")
    assert plan.granted == 100
    json.dumps([row.probe for row in plan.rows])


def test_the_pace_is_a_small_positive_number(subject):
    assert 0 < audits.seconds_per_evaluation(subject, patience=0.01) < 1


def test_the_pace_counts_the_steps_of_attacks_where_they_are_slower(subject):
    class Slow(nn.Module):
        def forward(self, x):
            if torch.is_grad_enabled():
                time.sleep(0.05)
            return x.flatten(1)[:, :3]

    slow = replace(subject, model=Slow())
    assert slow.differentiable
    few = min(8, len(slow))
    assert 0.025 / few <= audits.seconds_per_evaluation(slow, patience=0.01) < 0.25 / few
