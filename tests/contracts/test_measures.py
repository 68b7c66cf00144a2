"""Every number that a probe measures can be required: `MEASURES` knows its name, its probe, and if it is a share."""

import pytest
import torch
from torch import nn

from pellucid.audits import MEASURES, MORE, PROBES, Requirement, check_known
from pellucid.core import Stream, Subject
from pellucid.data import synthetic_images, synthetic_table


@pytest.fixture(autouse=True)
def smaller(monkeypatch):
    monkeypatch.setattr("pellucid.audits.probes._balls.STEPS", 6)
    monkeypatch.setattr("pellucid.audits.probes._balls.DRAWS", 3)
    monkeypatch.setattr("pellucid.audits.probes._robustness.DRAWS", 3)
    monkeypatch.setattr("pellucid.audits.probes._concepts.GRID", (2, 4))
    monkeypatch.setattr("pellucid.audits.probes._knowledge_points.STEPS", 20)
    monkeypatch.setattr("pellucid.audits.probes._knowledge_points.SEEDS", 2)
    monkeypatch.setattr("pellucid.audits.probes._knowledge_points.ATTACK_STEPS", 2)


def images():
    data = synthetic_images(24, rng=Stream(0))
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(300, 4))
    return Subject(model, data.inputs, data.labels)


def table():
    data = synthetic_table(24, rng=Stream(0))
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    return Subject(model, data.inputs, data.labels, bounds=None, modality="tabular")


@pytest.mark.parametrize("name", PROBES | MORE)
@pytest.mark.parametrize("make", [images, table], ids=["images", "table"])
def test_every_measure_can_be_required(name, make):
    with Stream(0).child("measures").forked():
        subject = make()
    torch.manual_seed(0)
    need = (PROBES | MORE)[name].need(subject, effort="quick")
    if need.skip:
        pytest.skip(need.skip)
    for finding in (PROBES | MORE)[name](subject, need.least, Stream(0).child("audit", name)):
        for measure in (finding.measure, *finding.measures):
            known = MEASURES[measure.name.partition("[")[0]]
            assert known.probe == name
            assert known.share == (measure.unit == "%"), measure.name
            demand = Requirement.parse(f"{measure.name} >= 0.5")
            check_known([demand])
            assert demand.measure == measure.name
