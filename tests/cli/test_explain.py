"""`pellucid explain`: the plan, the tables, the folder, and bad input in one sentence with exit code 2."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pellucid.audits import Explained
from pellucid.cli import main
from pellucid.core import Stream
from pellucid.data import synthetic_images

NET = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(144, 8), nn.ReLU(), nn.Linear(8, 4))
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with a model file and a data file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET, encoding="utf-8")
    images = synthetic_images(40, rng=Stream(0))
    np.savez(tmp_path / "d.npz", inputs=images.inputs.numpy(), labels=images.labels.numpy())
    return tmp_path


def run(*arguments: str) -> int:
    return main(["explain", "net.py:make", "d.npz", *arguments])


def test_it_prints_the_plan_and_the_strongest_numbers_and_writes_them_all(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--players", "grid:2x3", "--samples", "4") == 0
    said = capsys.readouterr().out
    assert f"in all {4 * (64 + 128 + 1):,} of" in said
    assert "Of 6 cells, " in said
    assert "and 1 more in the report" in said
    folder = place / "runs" / "net-make-d-explain"
    assert f"report: {Path('runs') / folder.name / 'index.html'}" in said
    found = Explained.load(folder)
    assert len(found.interactions) == 4
    assert found.report.command == "pellucid explain net.py:make d.npz --players grid:2x3 --samples 4"
    # The command makes the same report again.
    assert main([*found.report.command.split()[1:], "--out", "again"]) == 0
    assert (place / "again" / "report.json").read_bytes() == (folder / "report.json").read_bytes()


def test_a_plan_alone_computes_nothing(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--players", "grid:4", "--samples", "10", "--plan") == 0
    assert f"{10 * (2**16 + 129):,}" in capsys.readouterr().out
    assert not (place / "runs").exists()


def test_chosen_samples_and_parquet(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pyarrow")
    assert run("--players", "grid:2", "--id", "7", "--id", "3", "--index", "harsanyi", "--parquet", "--out", "e") == 0
    assert sorted(Explained.load(place / "e").interactions) == [3, 7]
    assert (place / "e" / "explanation.parquet").is_file()
    assert "--index harsanyi" in Explained.load(place / "e").report.command


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--players", "gird:2"), "players must be grid:4"),
        (("--players", "grid:5"), "SII of 25 players takes 2**25 evaluations per sample"),
        (("--index", "SIII"), "did you mean SII?"),
        (("--of", "cow"), "there is no class 'cow'"),
        (("--id", "999"), "there is no sample 999"),
        (("--id", "x"), "--id"),
        (("--indx", "SV"), "did you mean --index?"),
    ],
)
def test_bad_input_is_one_sentence(
    place: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], text: str
) -> None:
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert text in error
    assert len(error.strip().splitlines()) == 1
    assert not (place / "runs").exists()


def test_a_folder_with_results_is_not_overwritten(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--players", "grid:2", "--samples", "2", "--out", "e") == 0
    assert run("--players", "grid:2", "--samples", "2", "--out", "e") == 2
    assert "add --resume" in capsys.readouterr().err
    assert run("--players", "grid:2", "--samples", "2", "--out", "e", "--resume") == 0
    assert "nothing to resume" not in capsys.readouterr().out
    assert run("--players", "grid:2", "--samples", "2", "--out", "typo", "--resume") == 0
    assert capsys.readouterr().out.startswith("nothing to resume in typo: a new explanation starts\n")
