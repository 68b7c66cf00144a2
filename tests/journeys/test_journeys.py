"""The walks through the house, from the command line: audit, train, compare, report; interruption and resumption."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from torch import nn

import pellucid
from pellucid.audits import ProbeStarted
from pellucid.cli import main
from pellucid.core import RunFolder, Stream, Subject
from pellucid.data import synthetic_images
from pellucid.reports import Comparison, Report

RECIPE = """
name = "bars"
epochs = 2
batch_size = 64

[model]
kind = "small-cnn"
image_size = 12
channels = [4, 8]
hidden = 16
classes = 4

[data]
kind = "synthetic-images"

[objective]
kind = "standard"

[optimizer]
kind = "adam"
lr = 1e-2
"""

HARD = """
[objective.attack]
space = "linf"
eps = 0.1
steps = 2
"""

NET = """
from pellucid.nn.models import build

def make():
    return build("small-cnn", {"image_size": 12, "channels": [4, 8], "hidden": 16, "classes": 4})
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bars.toml").write_text(RECIPE)
    (tmp_path / "net.py").write_text(NET)
    return tmp_path


def test_train_audit_compare_and_report(place, capsys):
    """Training: recipe, trainer, checkpoint, audit; then the same with attacks; then both side by side."""
    hard = RECIPE.replace('kind = "standard"', 'kind = "adversarial"') + HARD
    (place / "hard.toml").write_text(hard)
    assert main(["train", "bars.toml", "--out", "runs/plain", "--export", "plain.safetensors"]) == 0
    assert main(["train", "hard.toml", "--out", "runs/hard", "--export", "hard.safetensors"]) == 0
    for name in ("plain", "hard"):
        model = f"net.py:make@{name}.safetensors"
        options = ("--quick", "--samples", "60", "--budget", "60000", "--out", f"audit-{name}")
        assert main(["audit", model, "synthetic-images", *options]) == 0
    report = Report.load("audit-plain")
    assert report.complete
    assert not report.failed
    assert not report.skipped
    assert report.findings[0].measure.value > 90  # it learned
    spent = sum(f.provenance.evaluations for f in report.findings)
    assert spent <= 60_000
    assert main(["compare", "audit-plain", "audit-hard", "--out", "both"]) == 0
    comparison = Comparison.load("both")
    assert comparison.exhibits
    assert all(d.n for d in comparison.differences if d.test and "paired" not in d.test)
    capsys.readouterr()
    for folder in ("audit-plain", "both"):
        page = (place / folder / "index.html").read_text()
        assert main(["report", folder]) == 0
        assert (place / folder / "index.html").read_text() == page
        assert "<html" in page


def learned():
    images = synthetic_images(80, rng=Stream(0))
    with Stream(0).child("journey").forked():
        model = nn.Sequential(nn.Flatten(), nn.Linear(144, 16), nn.ReLU(), nn.Linear(16, 4))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(60):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images.inputs), images.labels).backward()
            optimizer.step()
    model.zero_grad(set_to_none=True)
    return model, images


def subject_of(model, images):
    return Subject(model, images.inputs, images.labels, class_names=images.class_names, name="net", data_name="bars")


def test_audit_from_python(tmp_path):
    """Audit: model and samples, games, findings, report; the model and the global random state stay as they were."""
    model, images = learned()
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    report = pellucid.audit(subject_of(model, images), budget=60_000, seed=0, quick=True)
    report.save(tmp_path / "audit")
    assert Report.load(tmp_path / "audit").subject == report.subject
    assert model.training
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert {f.probe for f in report.findings} == set(pellucid.audits.PROBES)


def test_an_audit_does_not_depend_on_the_batch_size():
    class Chunked(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.inner = model

        def forward(self, x):
            return torch.cat([self.inner(part) for part in x.split(5)])

    model, images = learned()
    model.double()
    subject = Subject(model, images.inputs.double(), images.labels)
    chunked = Subject(Chunked(model), images.inputs.double(), images.labels)
    whole, parts = (
        pellucid.audit(s, budget=40_000, quick=True, skip=["feature-diversity"]) for s in (subject, chunked)
    )
    for a, b in zip(whole.findings, parts.findings, strict=True):
        for one, two in zip((a.measure, *a.measures), (b.measure, *b.measures), strict=True):
            assert one.value == pytest.approx(two.value, rel=1e-6, abs=1e-6)


def test_resuming_after_ctrl_c_gives_the_bytes_of_an_uninterrupted_audit(tmp_path):
    model, images = learned()
    subject = subject_of(model, images)

    def interrupt(event):
        if isinstance(event, ProbeStarted) and event.probe == "concepts":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pellucid.audit(subject, budget=40_000, quick=True, out=tmp_path / "a", on_event=interrupt)
    partial = Report.load(tmp_path / "a")
    assert [f.probe for f in partial.findings][-1] == "bottleneck"
    assert [s.probe for s in partial.skipped] == ["concepts", "feature-diversity", "collapse"]
    pellucid.audit(subject, budget=40_000, quick=True, out=tmp_path / "a", resume=True)
    pellucid.audit(subject, budget=40_000, quick=True, out=tmp_path / "b")
    for name in ("report.json", "arrays.safetensors", "index.html"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_ctrl_c_on_the_command_line_leaves_a_partial_report_and_exit_code_130(place):
    slow = "import time\nfrom torch import nn\n\nclass Slow(nn.Module):\n    def __init__(self):\n"
    slow += (
        "        super().__init__()\n        self.body = nn.Sequential(nn.Flatten(), nn.Linear(144, 4), nn.ReLU())\n"
    )
    slow += "    def forward(self, x):\n        time.sleep(0.02)\n        return self.body(x)\n"
    (place / "slow.py").write_text(slow)
    command = [sys.executable, "-m", "pellucid.cli", "audit", "slow.py:Slow", "synthetic-images", "--out", "run"]

    def hear():  # shells switch this signal off for what runs in the background
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    process = subprocess.Popen(
        command, cwd=place, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=hear
    )
    try:
        deadline = time.monotonic() + 60
        while not (place / "run/report.json").is_file():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        os.kill(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, (out, err)
    assert "Traceback" not in err
    assert "interrupted" in err
    report = Report.load(place / "run")
    assert not report.complete
    assert report.findings
    assert RunFolder.open(place / "run").status == "partial"
