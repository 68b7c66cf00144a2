"""A spiking network from a recipe to its report, on the command line."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from pellucid.cli import main

TINY = (
    "data.kind=synthetic-images",
    "data.n=48",
    "model.image_size=12",
    "model.channels=[3]",
    "model.kernel=3",
    "model.classes=4",
    "model.time_steps=6",
    "epochs=2",
    "batch_size=16",
)


def run(*arguments: str) -> int:
    return main(list(arguments))


def test_train_and_audit(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    changes = [part for change in TINY for part in ("--set", change)]
    monkeypatch.chdir(tmp_path)
    assert run("train", "spiking-mnist", *changes, "--out", "run") == 0
    out = tmp_path / "audit"
    audit = ("audit", "run", "synthetic-images", "--samples", "20", "--quick", "--out", str(out))
    assert run(*audit, "--probe", "spiking") == 0
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    (finding,) = report["findings"]
    assert finding["probe"] == "spiking"
    assert finding["measure"]["name"] == "spiking_residual"
    assert "2109.14247" in (out / "index.html").read_text(encoding="utf-8")
    assert "time steps" in capsys.readouterr().out
    require = ("check", "run", "synthetic-images", "--samples", "20", "--require")
    assert run(*require, "spiking_residual <= 5") == 0
    assert run(*require, "spiking_gain <= 0.0001") == 1

    # What the report advises runs as it is printed, and keeps all other settings of the run.
    command = shlex.split(finding["advice"]["command"])
    assert command[:3] == ["pellucid", "train", "run"]
    assert run(*command[1:]) == 0
    before, after = (json.loads((tmp_path / at / "recipe.json").read_text()) for at in ("run", "runs/again"))
    assert before["model"].pop("time_steps") < after["model"].pop("time_steps")
    assert before == after


def test_surrogate_training_makes_the_same_kind_of_model(tmp_path: Path) -> None:
    changes = [part for change in (*TINY, "model.gradient=through-time") for part in ("--set", change)]
    assert run("train", "spiking-mnist", *changes, "--out", str(tmp_path / "run")) == 0
    assert run("audit", str(tmp_path / "run"), "synthetic-images", "--samples", "20", "--plan") == 0
