"""Models that answer for every pixel on the command line: audit, viewer page, requirements, comparison."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pellucid.cli import main

MODEL = """
import torch
from torch import nn

from pellucid.nn import Hamburger, MatrixDecomposition


def make(width=8):
    torch.manual_seed(0)
    ham = MatrixDecomposition(width, rank=4, relu=True)
    first = nn.Conv2d(3, width, 3, stride=2, padding=1)
    return nn.Sequential(first, Hamburger(width, ham, norm="none"), nn.Conv2d(width, 3, 1))


def worse():
    return make(4)
"""


def run(*arguments: str) -> int:
    return main(list(arguments))


@pytest.fixture
def model(tmp_path: Path) -> str:
    path = tmp_path / "model.py"
    path.write_text(MODEL, encoding="utf-8")
    return f"{path}:make"


def test_audit_compare_and_check(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ("synthetic-scenes", "--samples", "12")
    first, second = tmp_path / "first", tmp_path / "second"
    assert run("audit", model, *data, "--out", str(first)) == 0
    told = capsys.readouterr().out
    assert "skipped" not in told  # what is about one answer per image is no question here
    report = json.loads((first / "report.json").read_text(encoding="utf-8"))
    assert [finding["name"] for finding in report["findings"]] == ["segmentation", "concept-maps"]
    assert report["findings"][1]["measure"]["name"] == "atoms_matched[1.ham]"
    page = (first / "index.html").read_text(encoding="utf-8")
    assert "2109.04553" in page
    assert page.count('class="chooser"') == 6
    assert page.count('class="beside"') == 6
    assert len(page) < 1_300_000

    assert run("audit", model.replace(":make", ":worse"), *data, "--out", str(second)) == 0
    capsys.readouterr()
    assert run("compare", str(first), str(second), "--out", str(tmp_path / "compared")) == 0
    compared = json.loads((tmp_path / "compared" / "report.json").read_text(encoding="utf-8"))
    assert {"mean_iou", "image_iou", "iou[0]"} & {d["name"] for d in compared["differences"]} >= {"mean_iou"}

    require = ("check", model, *data, "--require")
    assert run(*require, "mean_iou >= 1%") == 0
    assert run(*require, "mean_iou >= 99%") == 1


def test_the_viewer_alone_and_a_model_it_is_not_for(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "viewer"
    assert run("audit", model, "synthetic-scenes", "--samples", "8", "--probe", "concept-maps", "--out", str(out)) == 0
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert [finding["probe"] for finding in report["findings"]] == ["concept-maps"]
    plain = tmp_path / "plain.py"
    plain.write_text(
        "from torch import nn\n\n\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(144, 4))\n", "utf-8"
    )
    capsys.readouterr()
    asked = ("--probe", "segmentation", "--probe", "concept-maps", "--out", str(tmp_path / "none"))
    assert run("audit", f"{plain}:make", "synthetic-images", "--samples", "8", *asked) == 0
    told = capsys.readouterr().out
    assert "[skipped] segmentation: asks about answers for every pixel" in told
    assert "[skipped] concept-maps: plain.py:make holds no matrix-decomposition layer" in told
