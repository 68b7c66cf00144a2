"""`pellucid compare` and `pellucid report`."""

from __future__ import annotations

import numpy as np
import pytest

from pellucid.cli import main
from pellucid.core import Stream
from pellucid.data import synthetic_images
from pellucid.reports import Comparison

NET = """
import torch
from torch import nn

def bars():
    model = nn.Sequential(nn.Flatten(), nn.Linear(144, 4))
    with torch.no_grad():
        rows = torch.arange(12) * 4 // 12
        model[1].weight.copy_(torch.stack([(rows == k).float().repeat_interleave(12) for k in range(4)]))
        model[1].bias.zero_()
    return model

def blind():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(144, 4))
"""


@pytest.fixture
def audits(tmp_path, monkeypatch, capsys):
    """Two audits on the same data: a model that knows and one that does not."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)
    for name, size in (("d", 60), ("e", 24)):
        images = synthetic_images(size, rng=Stream(len(name)))
        np.savez(tmp_path / f"{name}.npz", inputs=images.inputs.numpy(), labels=images.labels.numpy())
    for model in ("blind", "bars"):
        options = ("--probe", "accuracy", "--probe", "calibration", "--out", model)
        assert main(["audit", f"net.py:{model}", "d.npz", *options]) == 0
    capsys.readouterr()
    return tmp_path


def test_two_audits_are_set_side_by_side(audits, capsys):
    assert main(["compare", "blind", "bars"]) == 0
    out = capsys.readouterr().out
    assert "net.py:bars is better than net.py:blind in accuracy" in out
    assert "report: runs/compare-blind-bars/index.html" in out
    comparison = Comparison.load(audits / "runs/compare-blind-bars")
    accuracy = next(d for d in comparison.differences if d.name == "accuracy")
    assert (accuracy.verdict, accuracy.n, accuracy.after.value) == ("better", 60, 100.0)
    assert "McNemar" in accuracy.test
    assert comparison.command == "pellucid compare blind bars --seed 0"


def test_comparing_again_replaces_the_comparison_with_the_same_bytes(audits, capsys):
    for _ in range(2):
        assert main(["compare", "blind", "bars", "--out", "c"]) == 0
    once = (audits / "c/report.json").read_bytes()
    assert main(["compare", "blind", "bars", "--out", "again"]) == 0
    assert (audits / "again/report.json").read_bytes() == once


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [("blind", "nowhere", "nowhere"), ("blind", "net.py", "net.py"), ("blind", "other", "same data")],
)
def test_what_cannot_be_compared_is_refused_in_one_sentence(audits, capsys, before, after, message):
    assert main(["audit", "net.py:bars", "e.npz", "--probe", "accuracy", "--out", "other"]) == 0
    capsys.readouterr()
    assert main(["compare", before, after]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert not (audits / "runs").exists()


def test_an_audit_is_never_overwritten_by_a_comparison(audits, capsys):
    before = (audits / "bars/report.json").read_bytes()
    assert main(["compare", "blind", "bars", "--out", "bars"]) == 2
    assert (audits / "bars/report.json").read_bytes() == before


@pytest.mark.parametrize("kind", ["audit", "comparison"])
def test_report_draws_the_page_again_and_touches_nothing_else(audits, capsys, kind):
    assert main(["compare", "blind", "bars", "--out", "c"]) == 0
    folder = audits / {"audit": "bars", "comparison": "c"}[kind]
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / "index.html").unlink()
    assert main(["report", str(folder)]) == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("damage", ["missing", "broken", "foreign"])
def test_reports_that_cannot_be_read_are_refused(audits, capsys, damage):
    path = audits / "bars/report.json"
    if damage == "missing":
        path.unlink()
    else:
        path.write_text("{" if damage == "broken" else '{"kind": "song", "schema_version": 1}')
    assert main(["report", "bars"]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_probes_list_names_every_question(capsys):
    from pellucid.audits import MORE, PROBES

    assert main(["probes", "list"]) == 0
    out = capsys.readouterr().out
    assert all(probe.name in out and probe.question in out for probe in (PROBES | MORE).values())
