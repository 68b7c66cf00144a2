"""A full disk or a killed process in the middle of writing leaves the earlier result, or the new one, never half."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pellucid.cli import main
from pellucid.reports import Report

STEPS = {
    "check": 20,
    "checkpoint": 12,
    "download": 3,
    "export": 6,
    "first-report": 12,
    "first-run": 8,
    "manifest": 3,
    "output": 3,
}
STEPS["report"] = 12


def outcomes(how: str, folder: Path) -> dict[str, list[dict[str, Any]]]:
    if not hasattr(os, "fork"):
        pytest.skip("a writer is stopped in a fork")
    program = [sys.executable, "-W", "error", str(Path(__file__).with_name("stops.py")), how, str(folder)]
    done = subprocess.run(program, capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, list[dict[str, Any]]] = json.loads(done.stdout.splitlines()[-1])
    assert found.keys() == STEPS.keys()
    return found


@pytest.mark.parametrize(("how", "ended"), [("full", {"full", "went on"}), ("kill", {"killed"})])
def test_an_earlier_result_survives(how: str, ended: set[str], tmp_path: Path) -> None:
    for name, steps in outcomes(how, tmp_path).items():
        assert len(steps) > STEPS[name], name
        assert {step["ended"] for step in steps[:-1]} <= ended, (name, steps)
        seen = [step["found"] for step in steps]
        earlier = {"first-report": "none", "first-run": "none", "download": "none"}.get(name, "old")
        assert seen[0] == earlier, (name, seen)
        assert set(seen) <= {earlier, "new"}, (name, seen)
        stopped = [step["found"] for step in steps if step["ended"] != "went on"]
        assert stopped == sorted(stopped, key=[earlier, "new"].index), (name, seen)
        # The card of an export waits beside its place when its rename failed after that of the weights.
        left = sum(step["left"] for step in steps)
        assert left <= (name == "export"), f"{name} leaves half-written files on a full disk"
        assert {step["again"] for step in steps} == {"new"}, (name, steps)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 300 KiB; making one takes an administrator."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only an administrator can mount a small disk")
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this machine mounts no disks")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


AUDIT = ["audit", "fashion-standard", "fashion-mnist", "--samples", "20", "--probe", "accuracy"]


def test_a_disk_that_is_full_is_one_sentence_and_code_3(small_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (small_disk / "ballast").write_bytes(bytes(250 * 2**10))
    assert main([*AUDIT, "--out", str(small_disk / "audit")]) == 3
    text = capsys.readouterr().err.splitlines()[-1]
    assert text.startswith("pellucid: the disk is full")
    assert not list(small_disk.rglob("*.tmp"))
    (small_disk / "ballast").unlink()


def test_a_disk_that_fills_up_in_an_audit_keeps_the_earlier_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*AUDIT, "--out", str(tmp_path / "audit")]) == 0
    kept = (tmp_path / "audit" / "report.json").read_bytes()

    def full(path: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    code = main([*AUDIT, "--out", str(tmp_path / "audit"), "--resume"])
    monkeypatch.undo()
    assert code == 3
    assert capsys.readouterr().err.splitlines()[-1].startswith("pellucid: the disk is full")
    assert (tmp_path / "audit" / "report.json").read_bytes() == kept
    assert Report.load(tmp_path / "audit").complete
