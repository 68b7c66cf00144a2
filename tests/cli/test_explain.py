"""`pellucid explain`: the plan, the tables, the folder, and bad input in one sentence with exit code 2."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pellucid.audits import Explained, ExplainedGraphs
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


# -- graphs --------------------------------------------------------------------------------------------------------


def test_graphs_are_drawn_kept_and_exported(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--graph", "--players", "grid:2", "--samples", "2", "--logic", "and-or", "--export", "svg,json") == 0
    said = capsys.readouterr().out
    assert "patterns explain" in said
    assert "and 3 more" in said
    folder = place / "runs" / "net-make-d-explain"
    assert len(list(folder.glob("graph-*.svg"))) == 2
    found = ExplainedGraphs.load(folder)
    command = found.report.command
    assert command.endswith("--players grid:2 --samples 2 --graph --logic and-or --export svg,json")
    assert main([*command.split()[1:], "--out", "again"]) == 0
    assert (place / "again" / "report.json").read_bytes() == (folder / "report.json").read_bytes()


def test_two_runs_of_graphs_are_compared(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("one", "two"):
        assert run("--graph", "--players", "grid:2", "--samples", "2", "--out", name) == 0
    assert main(["compare", "one", "two", "--out", "both"]) == 0
    assert "The concepts of 2 samples have a Jaccard similarity of 1 on average." in capsys.readouterr().out


def test_graphs_of_an_estimator_on_a_table(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn")
    text = """
def make():
    from sklearn.datasets import load_breast_cancer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    data = load_breast_cancer()
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=200)).fit(data.data, data.target)
"""
    (place / "estimator.py").write_text(text, encoding="utf-8")
    arguments = ["explain", "estimator.py:make", "breast-cancer", "--graph", "--samples", "1", "--value", "log_odds"]
    assert main([*arguments, "--out", "e"]) == 0
    (graph,) = ExplainedGraphs.load(place / "e").graphs.values()
    assert graph.explained_variance > 0.95


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--logic", "and-or"), "--logic goes with --graph"),
        (("--attack", "linf:1"), "--attack goes with --graph"),
        (("--graph", "--logic", "xor"), "--logic takes and, or and-or, got 'xor'"),
        (("--graph", "--index", "SV"), "--index does not go with --graph"),
        (("--graph", "--parquet"), "--parquet does not go with --graph"),
        (("--graph", "--export", "pdf"), "--export takes svg, png, graphml, json, got 'pdf'"),
        (("--graph", "--players", "grid:5"), "players"),
        (("--graph", "--attack", "fast"), "such as linf:8/255"),
        (("--graph", "--against", "nothing"), "nothing"),
        (("--graph", "--explained", "2"), "explained must lie in"),
    ],
)
def test_bad_options_of_graphs_end_with_two(
    place: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], text: str
) -> None:
    assert run(*arguments) == 2
    assert text in capsys.readouterr().err
    assert "Traceback" not in capsys.readouterr().err
