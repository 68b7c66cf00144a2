"""A command that is asked to end keeps what it has done, and its exit code is 130."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pellucid.core import RunFolder
from pellucid.reports import Report

RECIPE = """
name = "small"
epochs = 400
batch_size = 8
data = {kind = "synthetic-images", n = 16, size = 28, classes = 10}
model = {kind = "small-cnn"}
objective = {kind = "standard"}
"""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no such signals")


def hear() -> None:
    """Let a child hear every signal, also when the tests run in the background, where shells switch some off."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def stopped(arguments: list[str], ready: Path, number: int, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command and send it a signal once the file `ready` exists and a moment has passed."""
    program = [sys.executable, "-m", "pellucid.cli", *arguments]
    process = subprocess.Popen(
        program,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=hear,
    )
    deadline = time.monotonic() + 60
    while not any(folder.glob(str(ready))) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    out, errors = process.communicate(timeout=60)
    return subprocess.CompletedProcess(program, process.returncode, out, errors)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_audit_keeps_its_answers(number: int, tmp_path: Path) -> None:
    options = ["--samples", "200", "--probe", "accuracy", "--probe", "robustness", "--out", "a"]
    done = stopped(["audit", "fashion-standard", "fashion-mnist", *options], Path("a/index.html"), number, tmp_path)
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    assert "interrupted" in done.stderr.splitlines()[-1]
    report = Report.load(tmp_path / "a")
    assert not report.complete
    assert {finding.probe for finding in report.findings} == {"accuracy"}
    assert RunFolder.open(tmp_path / "a").status == "partial"
    assert not (tmp_path / "a" / ".lock").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_training_keeps_its_last_checkpoint(number: int, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(RECIPE, encoding="utf-8")
    done = stopped(["train", "r.toml", "--out", "t"], Path("t/checkpoints/epoch-*"), number, tmp_path)
    assert done.returncode == 130, done.stderr
    assert "the same command goes on" in done.stderr.splitlines()[-1]
    assert [path.name for path in (tmp_path / "t" / "checkpoints").glob("epoch-*")]
    assert RunFolder.open(tmp_path / "t").status == "partial"
