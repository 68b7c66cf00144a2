"""`pellucid check`: exit codes, files for build servers, and what is printed."""

from __future__ import annotations

import json
import shlex
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from pellucid.cli import main

NET = """
import torch
from torch import nn

def thirds():
    layer = nn.Linear(36, 3)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(3).repeat_interleave(12, 1) * 0.2)
        layer.bias.zero_()
    return nn.Sequential(nn.Flatten(), layer)
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a model that is right on 44 of 48 samples."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET, encoding="utf-8")
    y = np.arange(48) % 3
    x = np.zeros((48, 1, 6, 6), dtype=np.float32)
    for k in range(48):
        x[k, :, 2 * y[k] : 2 * y[k] + 2] = 1
    y[:4] = (y[:4] + 1) % 3
    np.savez(tmp_path / "d.npz", inputs=x, labels=y)
    return tmp_path


def check(*options):
    return main(["check", "net.py:thirds", "d.npz", *options])


def test_requirements_that_hold_give_0(place, capsys):
    assert check("--require", "accuracy >= 90%", "--require", "log_loss <= 2") == 0
    out = capsys.readouterr().out
    assert "net.py:thirds on d meets all 2 requirements." in out
    assert "calibration" in out, "the plan is printed"
    assert "robustness" not in out
    assert [line.split()[0] for line in out.splitlines() if " accuracy >=" in line] == ["passed"]
    assert not (place / "runs").exists()


def test_one_that_fails_gives_1(place, capsys):
    assert check("--require", "accuracy >= 90%", "--require", "accuracy >= 99%") == 1
    out = capsys.readouterr().out
    assert "failed: accuracy is 91.7%" in out
    assert "meets 1 of 2 requirements" in out


def test_what_was_not_measured_gives_1(place, capsys):
    assert check("--require", "interaction_strength[0.50] >= 0", "--budget", "10") in (1, 2)
    assert check("--require", "accuracy >= 0", "--require", "mean_order >= 0", "--budget", "60") == 1
    assert "the probe bottleneck was skipped: " in capsys.readouterr().out


def test_a_confident_check_demands_the_interval(place, capsys):
    assert check("--require", "accuracy >= 85%") == 0
    assert "but the interval reaches down to" in capsys.readouterr().out
    assert check("--require", "accuracy >= 85%", "--confident") == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "nothing is required; add --require"),
        (("--require", "accuracy"), "--require: 'accuracy' is no requirement; write MEASURE >= NUMBER"),
        (("--require", "acuracy > 0.5"), "did you mean accuracy?"),
        (("--require", "accuracy[9] > 0.5"), "names the class '9'"),
        (("--requirements", "none.toml"), "there is no requirements file none.toml"),
        (("--require", "accuracy > 0.5", "--junit", "no/where.xml"), "cannot be written"),
        (("--require", "accuracy > 0.5", "--markdown", "."), "cannot be written"),
        (("--require", "accuracy > 0.5", "--samples", "0"), "samples must be at least 1"),
    ],
)
def test_what_cannot_be_read_gives_2_and_one_sentence(place, capsys, options, words):
    assert check(*options) == 2
    err = capsys.readouterr().err
    assert words in err
    assert len(err.strip().splitlines()) == 1
    assert sorted(path.name for path in place.iterdir() if path.name != "__pycache__") == ["d.npz", "net.py"]


def test_a_file_gives_requirements_and_settings_and_flags_go_before_them(place, capsys):
    (place / "pellucid.toml").write_text(
        '[settings]\nsamples = 30\nseed = 4\n[[require]]\nrule = "accuracy >= 99%"\nbecause = "The client says so."\n',
        encoding="utf-8",
    )
    assert check("--requirements", "pellucid.toml", "--out", "o", "--seed", "5") == 1
    assert "(The client says so.)" in capsys.readouterr().out
    report = json.loads((place / "o/report.json").read_text(encoding="utf-8"))
    assert (report["settings"]["seed"], report["settings"]["samples"]) == (5, 30)
    words = shlex.split(report["command"])
    assert words[:4] == ["pellucid", "check", "net.py:thirds", "d.npz"]
    assert words[words.index("--requirements") + 1] == "pellucid.toml"
    before = (place / "o/report.json").read_bytes()
    assert main([*words[1:], "--out", "again"]) == 1, "the command makes the same report"
    assert (place / "again/report.json").read_bytes() == before


def test_a_finished_audit_is_checked_without_the_model(place, capsys):
    assert main(["audit", "net.py:thirds", "d.npz", "--probe", "accuracy", "--out", "a"]) == 0
    (place / "net.py").unlink()
    assert main(["check", "a", "--require", "accuracy >= 90%"]) == 0
    assert main(["check", "a/report.json", "--require", "accuracy >= 99%"]) == 1
    assert main(["check", "a", "--require", "ece <= 0.5"]) == 1
    assert "the report does not answer the question of the probe calibration" in capsys.readouterr().out


@pytest.mark.parametrize("folder", ["none", "d.npz", "."])
def test_what_is_no_report_gives_2(place, capsys, folder):
    assert main(["check", folder, "--require", "accuracy >= 90%"]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_build_servers_and_pull_requests_get_their_files(place):
    assert check("--require", "accuracy >= 99%", "--junit", "j.xml", "--markdown", "m.md") == 1
    suites = ElementTree.fromstring((place / "j.xml").read_text(encoding="utf-8"))
    assert (suites.tag, suites.get("failures")) == ("testsuites", "1")
    assert "| **failed** | `accuracy >= 99%` | 91.7% |" in (place / "m.md").read_text(encoding="utf-8")
    names = {path.name for path in place.iterdir()} - {"__pycache__"}
    assert sorted(names) == ["d.npz", "j.xml", "m.md", "net.py"]


def test_a_radius_that_is_asked_for_is_attacked(place, capsys):
    torch.manual_seed(0)
    assert check("--require", "robust_accuracy[linf,0.07] >= 1%", "--budget", "60000", "--quick", "--out", "o") in (
        0,
        1,
    )
    report = json.loads((place / "o/report.json").read_text(encoding="utf-8"))
    assert [finding["name"] for finding in report["findings"]] == ["robustness-linf"]
    assert "robust_accuracy[linf,0.07]" in capsys.readouterr().out
