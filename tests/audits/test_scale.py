"""An audit in shards: every question that is shared out has the numbers of a single process, to the last bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from pellucid.audits import _batches, audit
from pellucid.audits.probes import _robustness
from pellucid.core import Ranks, RunError, Stream, Subject
from pellucid.data import synthetic_images


@pytest.fixture
def subject(monkeypatch: pytest.MonkeyPatch) -> Subject:
    """Samples for several chunks of every question."""
    monkeypatch.setattr(_robustness, "TOGETHER", 7)
    monkeypatch.setattr(_batches, "MOST", 16)
    data = synthetic_images(40, rng=Stream(0))
    with Stream(1).forked():
        model = nn.Sequential(nn.Flatten(), nn.Linear(144, 16), nn.Tanh(), nn.Linear(16, 4))
    return Subject(model, data.inputs, data.labels)


def test_shards_merged_are_the_audit_of_one_process(subject: Subject, tmp_path: Path) -> None:
    asked = ("accuracy", "calibration", "robustness", "bottleneck", "concepts", "feature-diversity", "collapse")
    whole = audit(subject, budget=60_000, quick=True, probes=asked, out=tmp_path / "whole")
    assert {finding.probe for finding in whole.findings} == set(asked)
    folders = [tmp_path / str(k) for k in (1, 2, 3)]
    for k, folder in enumerate(folders):
        part = audit(subject, budget=60_000, quick=True, probes=asked, out=folder, ranks=Ranks(k, 3))
        assert not part.complete
        assert {entry.probe for entry in part.skipped} == set(asked)
        for name in ("logits", "robustness", "signed-order-curve", "concepts", "penultimate"):
            assert list((folder / "parts" / name).iterdir()), f"shard {k + 1} has no part of {name}"
    audit(subject, budget=60_000, quick=True, probes=asked, out=tmp_path / "merged", stored=folders)
    assert (tmp_path / "merged" / "report.json").read_bytes() == (tmp_path / "whole" / "report.json").read_bytes()
    assert not (tmp_path / "merged" / "parts").exists()


def test_parts_of_another_audit_are_not_taken(subject: Subject, tmp_path: Path) -> None:
    audit(subject, probes="accuracy", out=tmp_path / "1", ranks=Ranks(0, 2))
    with pytest.raises(RunError, match=r"is a shard of an audit with another seed \(0, now 1\)"):
        audit(subject, probes="accuracy", seed=1, stored=[tmp_path / "1"])
    other = Subject(subject.model, subject.inputs + 0 * torch.rand(1), subject.labels, name="another")
    with pytest.raises(RunError, match="is a shard of an audit with another model or data"):
        audit(other, probes="accuracy", stored=[tmp_path / "1"])


def test_a_shard_is_resumed_as_the_same_shard(subject: Subject, tmp_path: Path) -> None:
    audit(subject, probes="accuracy", out=tmp_path, ranks=Ranks(0, 2))
    audit(subject, probes="accuracy", out=tmp_path, ranks=Ranks(0, 2), resume=True)
    with pytest.raises(RunError, match=r"holds an audit with another shard \(1/2, now 2/2\)"):
        audit(subject, probes="accuracy", out=tmp_path, ranks=Ranks(1, 2), resume=True)
