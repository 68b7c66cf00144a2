"""Knowledge points from the command line: an audit, its page, and a comparison of two networks."""

from __future__ import annotations

from pathlib import Path

import pytest

from pellucid.cli import main
from pellucid.core import Curve, Scatter
from pellucid.reports import Comparison, Report


@pytest.fixture(autouse=True)
def smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pellucid.audits.probes._knowledge_points.STEPS", 40)
    monkeypatch.setattr("pellucid.audits.probes._knowledge_points.SEEDS", 2)
    monkeypatch.setattr("pellucid.audits.probes._knowledge_points.ATTACK_STEPS", 2)
    monkeypatch.setattr("pellucid.audits.probes._knowledge_points.LEAST", 30)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    import numpy as np

    from pellucid.core import Stream
    from pellucid.data import synthetic_images

    images = synthetic_images(40, rng=Stream(0), size=28)
    path = tmp_path_factory.mktemp("data") / "images.npz"
    np.savez(path, inputs=images.inputs.numpy(), labels=images.labels.numpy())
    return str(path)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("model") / "net.py"
    path.write_text(
        "from torch import nn\n"
        "def small(width=4):\n"
        "    return nn.Sequential(nn.Conv2d(1, width, 5, 2), nn.ReLU(), nn.Conv2d(width, 8, 3, 2), nn.ReLU(),\n"
        "                         nn.Flatten(), nn.Linear(200, 4))\n"
        "def wide():\n"
        "    return small(8)\n",
        encoding="utf-8",
    )
    return str(path)


def test_audits_of_two_networks_and_their_comparison(
    model: str, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for factory in ("small", "wide"):
        out = str(tmp_path / factory)
        asked = ["audit", f"{model}:{factory}", data, "--probe", "knowledge-points", "--quick", "--out", out]
        assert main([*asked, "--budget", "400", "--set", "knowledge-points.grid=3"]) == 0
    said = capsys.readouterr().out
    assert "point clearly to some class" in said
    assert "a fit of some" in said  # in the plan: evaluations do not count it
    assert f"next: pellucid robustness {model}:wide {data}\n" in said  # as typed here, and without another's settings
    report = Report.load(tmp_path / "small")
    assert report.findings[1].advice.command == "pellucid robustness net.py:small images.npz"
    assert [finding.name for finding in report.findings] == ["knowledge-points", "knowledge-under-attack"]
    scatters = [e for finding in report.findings for e in finding.exhibits if isinstance(e, Scatter)]
    assert [len(scatter.arrows) for scatter in scatters] == [4, 4, 4]
    assert any(dot.path for dot in scatters[-1].dots)
    assert "cloud-view" in (tmp_path / "small" / "index.html").read_text(encoding="utf-8")

    both = [str(tmp_path / name) for name in ("small", "wide")]
    assert main(["compare", *both, "--out", str(tmp_path / "both")]) == 0
    names = {difference.name for difference in Comparison.load(tmp_path / "both").differences}
    assert {"reliable_share[1]", "reliable_share[2]", "knowledge_points[2]", "certainty"} <= names


def test_checkpoints_of_a_training_are_shown_one_after_the_other(
    model: str, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    from pellucid.core import write_tensors
    from pellucid.models import load

    net = load(f"{model}:small").model
    for epoch, scale in (("epoch-00001", 0.5), ("epoch-00010", 1.0)):
        (tmp_path / "kept" / epoch).mkdir(parents=True)
        weights = {name: scale * value for name, value in net.state_dict().items()}
        write_tensors(tmp_path / "kept" / epoch / "model.safetensors", weights)
    asked = ["audit", f"{model}:small", data, "--probe", "knowledge-points", "--quick", "--budget", "600"]
    asked += ["--set", "knowledge-points.grid=3", "--set", f"knowledge-points.checkpoints={tmp_path / 'kept'}"]
    assert main([*asked, "--out", str(tmp_path / "audit")]) == 0
    assert "From epoch 1 to epoch 10" in capsys.readouterr().out
    finding = Report.load(tmp_path / "audit").findings[1]
    assert finding.name == "knowledge-over-training"
    grown = next(e for e in finding.exhibits if isinstance(e, Curve))
    assert (grown.x.label, grown.lines[0].x) == ("epoch", (1.0, 10.0))
    assert finding.provenance.settings["chosen settings"] == "grid = 3, checkpoints = kept"
    moved = next(e for e in finding.exhibits if isinstance(e, Scatter))
    assert all(len(dot.path) == 1 for dot in moved.dots)

    (tmp_path / "none").mkdir()
    main([*asked[:-1], f"knowledge-points.checkpoints={tmp_path / 'none'}", "--out", str(tmp_path / "other")])
    said = capsys.readouterr()
    assert "no .safetensors files in the folder" in said.out + said.err


def test_an_unknown_layer_is_told(model: str, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    asked = ["audit", f"{model}:small", data, "--probe", "knowledge-points", "--out", str(tmp_path / "audit")]
    main([*asked, "--set", "knowledge-points.layers=conv9"])
    said = capsys.readouterr()
    assert "there is no layer 'conv9'" in said.out + said.err
