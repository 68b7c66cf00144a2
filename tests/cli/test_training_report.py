import json

import pytest

from pellucid.cli import main

RECIPE = """
name = "{name}"
epochs = 5
batch_size = 8

[model]
kind = "mlp"
inputs = 64
depth = 8
width = 16
norm = "{norm}"
classes = 3

[data]
kind = "synthetic-images"
n = 96
classes = 3
size = 8

[optimizer]
kind = "sgd"
lr = 0.1
momentum = 0.0

[record]
kind = "feature-diversity"
every = 10
gradients_every = 20
samples = 30
patience = 25
"""


@pytest.fixture
def runs(tmp_path, capsys):
    """Two recorded trainings, and what was said during the first."""
    said = []
    for name, norm in (("plain", "none"), ("normed", "standardize")):
        (tmp_path / f"{name}.toml").write_text(RECIPE.format(name=name, norm=norm))
        assert main(["train", str(tmp_path / f"{name}.toml"), "--out", str(tmp_path / name)]) == 0
        said.append(capsys.readouterr().err)
    return tmp_path, said[0]


def test_a_recorded_training_warns_reports_compares_and_is_audited(runs, capsys):
    folder, said = runs
    assert "a flat first phase" in said
    for name in ("plain", "normed"):
        assert main(["report", str(folder / name)]) == 0
    out = capsys.readouterr().out
    assert "The loss has stood still at 1.1" in out
    page = (folder / "plain" / "index.html").read_text(encoding="utf-8")
    assert "What to try, the likeliest help first" in page
    report = json.loads((folder / "plain" / "report.json").read_text(encoding="utf-8"))
    assert report["findings"][0]["measure"]["name"] == "flat_steps"
    # The report goes stale where the training does not: it is drawn anew from the record.
    assert main(["report", str(folder / "plain" / "feature-diversity.jsonl")]) == 0
    assert (folder / "plain" / "feature-diversity" / "index.html").is_file()
    (folder / "normed" / "report.json").unlink()  # a record will do
    command = ["compare", str(folder / "plain"), str(folder / "normed"), "--out", str(folder / "compared")]
    assert main(command) == 0
    assert "steps for which the loss stood still" in capsys.readouterr().out


def test_the_probe_answers_for_the_training_too(runs):
    from pellucid import audits
    from pellucid.training import Run

    folder, _ = runs
    report = audits.audit(Run.open(folder / "plain").subject("test", 24), probes="feature-diversity", budget=5000)
    assert [finding.name for finding in report.findings] == ["feature-diversity", "first-phase"]
    assert not report.failed
