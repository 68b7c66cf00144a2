"""The loop for rare classes, from the command line: train, audit, follow the advice, compare."""

import json

import pytest

from pellucid.cli import main
from pellucid.reports import Comparison, Report

PLAIN = """
name = "plain"
epochs = 4
batch_size = 16
model = { kind = "small-cnn", image_size = 12, channels = [6, 8], hidden = 16, classes = 4 }
data = { kind = "synthetic-images", n = 400 }
long_tail = { ratio = 0.1 }
optimizer = { kind = "adam", lr = 1e-2 }
"""
FIXED = ("model.head=etf", "objective.kind=dot-regression", "held_out=0.1", "name=fixed")


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain.toml").write_text(PLAIN)
    return tmp_path


def test_train_audit_and_compare(place, capsys):
    changes = [word for change in FIXED for word in ("--set", change)]
    assert main(["train", "plain.toml", "--out", "plain"]) == 0
    assert main(["train", "plain.toml", "--out", "fixed", "--export", "fixed.safetensors", *changes]) == 0
    text = capsys.readouterr().out
    assert "accuracy on the rarest classes (" in text
    for name in ("plain", "fixed"):
        probes = ("--probe", "accuracy", "--probe", "collapse", "--probe", "calibration")
        assert main(["audit", name, "synthetic-images", *probes, "--samples", "100", "--out", f"audit-{name}"]) == 0
    report = Report.load("audit-fixed")
    assert report.complete
    assert not report.failed
    card = json.loads((place / "fixed" / "model.json").read_text())
    assert card["notes"][0].startswith("Probabilities use the temperature")
    assert card["notes"][0] in (place / "audit-fixed" / "report.json").read_text()
    assert "accuracy_tail" in (place / "audit-fixed" / "report.json").read_text()
    assert main(["compare", "audit-plain", "audit-fixed", "--out", "both"]) == 0
    assert Comparison.load("both")
    # The exported weights are the run's, bit for bit.
    assert (place / "fixed.safetensors").read_bytes() == (place / "fixed" / "model.safetensors").read_bytes()


def test_refusals_are_one_sentence(place, capsys):
    assert main(["train", "plain.toml", "--out", "x", "--set", "objective.kind=dot-regression"]) == 2
    assert 'set model.head = "etf"' in capsys.readouterr().err
    assert main(["train", "plain.toml", "--out", "x", "--set", "model.head=etf", "--set", "model.hidden=2"]) == 2
    assert "4 classes cannot be equally far apart in 2 dimensions" in capsys.readouterr().err
    assert main(["train", "plain.toml", "--out", "x", "--set", "model.head=simplex"]) == 2
    assert "model.head is 'simplex'" in capsys.readouterr().err
    assert not (place / "x").exists()
