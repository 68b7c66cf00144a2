"""`pellucid robustness`: the table of all attacks, the folder, what is asked, and bad input in one sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from pellucid.cli import main
from pellucid.core import Stream
from pellucid.data import synthetic_images, synthetic_table

NET = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(144, 8), nn.ReLU(), nn.Linear(8, 4))

def rows():
    torch.manual_seed(0)
    return nn.Linear(6, 2)

class Blind(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = make()

    def forward(self, x):
        return self.net(x.detach()).detach()
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with a model file and data files; fewer steps and candidates."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET, encoding="utf-8")
    images, table = synthetic_images(24, rng=Stream(0)), synthetic_table(24, rng=Stream(0))
    np.savez(tmp_path / "d.npz", inputs=images.inputs.numpy(), labels=images.labels.numpy())
    np.savez(tmp_path / "t.npz", inputs=table.inputs.numpy(), labels=table.labels.numpy())
    monkeypatch.setattr("pellucid.audits.probes._balls.STEPS", 6)
    for module in ("_moves", "_robustness"):
        monkeypatch.setattr(f"pellucid.audits.probes.{module}.GRID", (5, 3, 3))
        monkeypatch.setattr(f"pellucid.audits.probes.{module}.SMALL_GRID", (5, 3, 3))
    return tmp_path


def run(*arguments: str, model: str = "net.py:make", data: str = "d.npz") -> int:
    return main(["robustness", model, data, "--no-explain", *arguments])


def findings(folder: Path) -> list[str]:
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return [finding["name"] for finding in report["findings"]]


def test_it_prints_all_attacks_in_one_table_and_asks_what_goes_with_them(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--attacks", "linf,flow,rt,spatial", "--quick") == 0
    out = capsys.readouterr().out
    lines = out[out.index("\nattack  ") + 1 :].splitlines()
    assert [line.split()[0] for line in lines[2:8]] == ["no", "linf", "flow", "rt", "spatial", "worst"]
    folder = place / "runs" / "net-make-d-robustness"
    names = findings(folder)
    assert [name for name in names if name.startswith("robustness")] == [
        f"robustness-{name}" for name in ("profile", "linf", "flow", "rt", "spatial")
    ]
    assert {"corruptions", "reliance"} <= {name.partition("-")[0] for name in names}
    command = json.loads((folder / "report.json").read_text(encoding="utf-8"))["command"]
    assert command.startswith("pellucid robustness net.py:make d.npz --attacks linf,flow,rt,spatial --budget 400000")
    assert command.endswith("--quick --no-explain")
    # Nothing is computed again.
    assert run("--attacks", "linf,flow,rt,spatial", "--quick", "--resume") == 0
    assert findings(folder) == names


def test_the_plan_names_the_questions_that_explain(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["robustness", "net.py:make", "d.npz", "--plan"]) == 0
    out = capsys.readouterr().out
    assert "attack-attribution" in out
    assert "attack-orders" in out
    assert run("--plan") == 0
    assert "attack-orders" not in capsys.readouterr().out
    assert not (place / "runs").exists()


def test_a_model_without_gradients_is_turned_and_searched(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--quick", "--attacks", "linf,flow,rt", "--out", "b", model="net.py:Blind") == 0
    assert [name for name in findings(place / "b") if name.startswith("robustness")] == [
        "robustness-profile",
        "robustness-linf",
        "robustness-rt",
    ]
    assert "Square" in capsys.readouterr().out


def test_a_table_is_attacked_in_its_norms(place: Path) -> None:
    assert run("--quick", "--out", "t", model="net.py:rows", data="t.npz") == 0
    assert [name for name in findings(place / "t") if name.startswith("robustness")] == [
        "robustness-linf",
        "robustness-l2",
    ]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--attacks", "linf,rot"], "there is no attack 'rot'; did you mean rt?"),
        (["--attacks", "fog"], "there is no attack 'fog'; "),
        (["--attacks", ","], "--attacks must name at least one of linf, l2, flow, rt, spatial, ensemble"),
        (["--set", "robustness.max_deg=-3"], "max_deg must be a positive number"),
        (["--set", "calibration.bins=3"], "calibration"),
    ],
)
def test_bad_options_are_one_sentence(
    place: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    assert run(*options) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


def test_a_shipped_model_end_to_end(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--attacks", "rt", "--samples", "20", "--budget", "9000", "--out", "f")
    assert run(*options, model="fashion-standard", data="fashion-mnist") == 0
    report = json.loads((place / "f" / "report.json").read_text(encoding="utf-8"))
    rt = next(f for f in report["findings"] if f["name"] == "robustness-rt")
    assert rt["measure"]["value"] < 80
    assert rt["advice"]["command"] == "pellucid train rt-fashion-mnist --out runs/rt"
    assert main(["compare", "f", "f", "--out", "c"]) == 0
    shutil.rmtree(place / "c")
