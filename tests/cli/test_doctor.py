"""`pellucid doctor`: what it checks, and when it fails."""

from __future__ import annotations

import importlib.metadata
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from pellucid.cli import _doctor, main


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def lines(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """The state of each part, by its name."""
    out = capsys.readouterr().out
    return {line[8:].split("  ")[0]: line[:6].strip() for line in out.splitlines() if line[6:8] == "  "}


def test_a_sound_installation_passes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    states = lines(capsys)
    assert states["torch"] == states["torch build"] == states["cache folder"] == "ok"
    assert set(states.values()) <= {"ok", "note"}
    assert {"extra test", "extra peers", "data fashion-mnist", "model fashion-robust"} <= states.keys()


def test_a_missing_requirement_is_broken(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(_doctor, "_requirements", lambda: {"": [("torch", ">=2.10"), ("no-such-package", ">=3")]})
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "BROKEN  no-such-package  not installed; pip install 'no-such-package>=3'" in out
    assert "1 needed part(s) are broken" in out


def test_a_requirement_that_is_too_old_is_broken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_doctor, "_requirements", lambda: {"": [("torch", ">=99.1")]})
    assert main(["doctor"]) == 1
    assert "is too old; pip install 'torch>=99.1'" in capsys.readouterr().out


def test_an_absent_extra_is_a_note_with_its_install_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_doctor, "_requirements", lambda: {"": [], "arrow": [("no-such-package", "")]})
    assert main(["doctor"]) == 0
    assert "note    extra arrow" in (out := capsys.readouterr().out)
    assert "pip install 'pellucid[arrow]'" in out


def test_absent_data_is_a_note_with_the_command_that_gets_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pellucid.data._places.SYSTEM", tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("PELLUCID_DATA", raising=False)
    assert main(["doctor"]) == 0
    assert "pellucid data get fashion-mnist" in (out := capsys.readouterr().out)
    assert f"{tmp_path}/pellucid/data" in out


def test_a_full_disk_is_broken(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(2**40, 2**40, 5 * 2**20))
    assert main(["doctor"]) == 1
    assert "only 5 MiB free" in capsys.readouterr().out


def test_requirements_are_those_of_the_package() -> None:
    found = _doctor._requirements()
    assert ("torch", ">=2.10") in found[""]
    assert "pytest" in [name for name, _ in found["test"]]
    assert set(found) - {""} == set(importlib.metadata.metadata("pellucid").get_all("Provides-Extra") or ())


@pytest.mark.parametrize(
    ("version", "bounds", "old"),
    [("2.9.1", ">=2.10", True), ("2.13.0+cpu", ">=2.10", False), ("1.0", "", False), ("1.4.1", "==1.4.1", False)],
)
def test_versions_compare_by_their_numbers(version: str, bounds: str, old: bool) -> None:
    assert _doctor._old(version, bounds) is old
