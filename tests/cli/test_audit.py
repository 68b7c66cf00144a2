"""`pellucid audit`: options, plan, and every kind of bad input in one sentence with exit code 2."""

from __future__ import annotations

import inspect
import json
import pickle
import shlex
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from pellucid import audits
from pellucid.cli import main
from pellucid.cli._audit import audit
from pellucid.core import Stream
from pellucid.data import synthetic_images
from pellucid.reports import Report

NET = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(144, 8), nn.ReLU(), nn.Linear(8, 4))

class Loose(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind, self.body = kind, make()
    def forward(self, x):
        z = self.body(x)
        if self.kind == "random":
            return z + torch.rand_like(z)
        if self.kind == "nan":
            return z / 0 * 0
        if self.kind == "wide":
            return z[:, :, None]
        if self.kind == "list":
            return [z]
        return z

def random(): return Loose("random")
def nan(): return Loose("nan")
def wide(): return Loose("wide")
def tensors(): return Loose("list")
def color(): return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(400, 4))
def ten(): return nn.Sequential(nn.Flatten(), nn.Linear(144, 10))
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty working folder with a model file and a data file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)
    images = synthetic_images(40, rng=Stream(0))
    np.savez(tmp_path / "d.npz", inputs=images.inputs.numpy(), labels=images.labels.numpy())
    return tmp_path


def run(*arguments):
    return main(["audit", *map(str, arguments)])


FAST = ("--probe", "accuracy", "--samples", "20")


def test_an_audit_prints_the_plan_the_findings_and_where_the_report_is(place, capsys):
    assert run("net.py:make", "d.npz", *FAST, "--probe", "calibration", "--samples", "40") == 0
    out = capsys.readouterr().out
    assert "accuracy" in out
    assert "evaluations" in out
    assert "[weak] accuracy: The model is right on" in out
    assert "report: runs/net-make-d/index.html" in out
    report = Report.load(place / "runs/net-make-d")
    assert report.command == (
        "pellucid audit net.py:make d.npz --budget 400000 --samples 40 --seed 0 --probe accuracy --probe calibration"
    )
    assert report.subject.n_samples == 40


def test_the_report_is_the_same_from_elsewhere_and_names_no_folder_of_the_machine(place, capsys):
    assert run("net.py:make", "d.npz", *FAST, "--out", "a") == 0
    assert run(place / "net.py:make", place / "d.npz", *FAST, "--out", place / "b") == 0
    assert (place / "a/report.json").read_bytes() == (place / "b/report.json").read_bytes()
    assert str(place) not in (place / "a/report.json").read_text()


def test_plan_only_prints_the_plan(place, capsys):
    assert run("net.py:make", "d.npz", "--plan") == 0
    out = capsys.readouterr().out
    assert all(name in out for name in audits.PROBES)
    assert "evaluations  about " in out
    assert " of 400,000 evaluations, about " in out
    assert not (place / "runs").exists()


def test_advice_to_audit_again_works_as_printed(place, capsys):
    assert run("net.py:make", "d.npz", "--samples", "8", "--probe", "bottleneck", "--budget", "2000") == 0
    (finding,) = Report.load(place / "runs/net-make-d").findings
    again = shlex.split(finding.advice.command)
    assert again[:6] == ["pellucid", "audit", "net.py:make", "d.npz", "--probe", "bottleneck"]
    assert again.count("--budget") == 1
    assert main([*again[1:], "--plan"]) == 0


def test_advice_keeps_the_options_that_the_model_and_data_need(place, capsys):
    options = ("--samples", "8", "--probe", "bottleneck", "--budget", "2000", "--skip-corrupt", "--input-size=1x12x12")
    assert run("net.py:make", "d.npz", *options) == 0
    again = shlex.split(Report.load(place / "runs/net-make-d").findings[0].advice.command)
    assert "--skip-corrupt" in again
    assert again[again.index("--input-size") + 1] == "1x12x12"
    assert "--samples" not in again


def test_skip_and_quick(place, capsys):
    skipped = [word for name in audits.PROBES if name != "feature-diversity" for word in ("--skip", name)]
    assert run("net.py:make", "d.npz", "--quick", *skipped) == 0
    assert [f.probe for f in Report.load(place / "runs/net-make-d").findings] == ["feature-diversity"]
    assert Report.load(place / "runs/net-make-d").settings["effort"] == "quick"


def test_a_surrogate_is_attacked_for_the_transfer_check(place, capsys):
    options = ("--probe", "robustness", "--samples", "20", "--surrogate", "net.py:make", "--quick")
    assert run("net.py:make", "d.npz", *options) == 0
    tables = [e for f in Report.load(place / "runs/net-make-d").findings for e in f.exhibits if hasattr(e, "columns")]
    assert any("net.py:make" in str(row) for table in tables for row in getattr(table, "rows", ()))


def test_a_used_folder_asks_for_resume_before_any_work(place, capsys):
    assert run("net.py:make", "d.npz", *FAST, "--out", "a") == 0
    capsys.readouterr()
    assert run("net.py:make", "d.npz", *FAST, "--out", "a") == 2
    captured = capsys.readouterr()
    assert "--resume" in captured.err
    assert captured.out == ""
    assert run("net.py:make", "d.npz", *FAST, "--out", "a", "--resume") == 0


def test_a_second_audit_of_the_same_things_goes_into_a_folder_of_its_own(place, capsys):
    for folder in ("net-make-d", "net-make-d-2", "net-make-d-3"):
        assert run("net.py:make", "d.npz", *FAST) == 0
        assert f"report: {Path('runs') / folder / 'index.html'}" in capsys.readouterr().out
    reports = [(place / "runs" / f / "report.json").read_bytes() for f in ("net-make-d", "net-make-d-2")]
    assert reports[0] == reports[1]
    assert run("net.py:make", "d.npz", *FAST, "--resume") == 0  # the latest one
    assert "net-make-d-3" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("out", "message"), [("net.py/deep", "cannot be written"), ("/proc/none/x", "cannot be written")]
)
def test_a_folder_that_cannot_be_made_is_found_before_any_work(place, capsys, out, message):
    assert message in refused(capsys, "nowhere.py:make", "nowhere", *FAST, "--out", out)


def test_looking_at_a_folder_leaves_nothing_behind(place, capsys):
    assert "nowhere.py" in refused(capsys, "nowhere.py:make", "d.npz", "--out", "out/of/sight")


def test_names_in_other_scripts_name_the_folder(place, capsys):
    (place / "モデル.py").write_text(NET, encoding="utf-8")
    (place / "d.npz").rename(place / "données.npz")
    assert run("モデル.py:make", "données.npz", *FAST) == 0
    assert (place / "runs/モデル-make-données/index.html").is_file()


def test_another_audit_in_the_folder_is_not_resumed(place, capsys):
    assert run("net.py:make", "d.npz", *FAST) == 0
    said = refused(capsys, "net.py:make", "d.npz", *FAST, "--resume", "--seed", "3", fresh=False)
    assert said.startswith("runs/")
    assert "another seed (0, now 3); give the same" in said
    said = refused(capsys, "net.py:make", "d.npz", *FAST, "--resume", "--samples", "30", fresh=False)
    assert "another number of samples (20, now 30); give the same" in said


def test_equal_class_names_are_noted(place, capsys):
    Path("names.txt").write_text("a\nb\na\nc\n", encoding="utf-8")
    assert run("net.py:make", "d.npz", "--classes", "names.txt", "--plan") == 0
    assert "note: names.txt gives the name 'a' to more than one class" in capsys.readouterr().out


def test_resuming_where_nothing_is_says_so(place, capsys):
    assert run("net.py:make", "d.npz", *FAST, "--out", "typo", "--resume") == 0
    assert capsys.readouterr().out.startswith("nothing to resume in typo: a new audit starts\n")
    assert run("net.py:make", "d.npz", *FAST, "--out", "typo", "--resume") == 0
    assert "nothing to resume" not in capsys.readouterr().out


def test_a_failing_probe_gives_exit_code_1_and_the_others_answer(place, capsys, monkeypatch):
    class Broken:
        name, question = "calibration", "What?"
        need = audits.PROBES["accuracy"].need

        def __call__(self, *args, **kwargs):
            raise ZeroDivisionError("oops")

    monkeypatch.setattr("pellucid.audits._plan.PROBES", {**audits.PROBES, "calibration": Broken()})
    assert run("net.py:make", "d.npz", "--probe", "accuracy", "--probe", "calibration") == 1
    captured = capsys.readouterr()
    assert "[failed] calibration: ZeroDivisionError: oops" in captured.out
    assert "Traceback" in captured.err
    assert [f.probe for f in Report.load(place / "runs/net-make-d").findings] == ["accuracy"]


def test_the_defaults_are_those_of_the_library():
    defaults = {name: p.default for name, p in inspect.signature(audit).parameters.items()}
    assert defaults["budget"] == audits.DEFAULT_BUDGET
    assert defaults["drawing"].samples == audits.DEFAULT_SAMPLES


# -- bad input ----------------------------------------------------------------------------------------------------


def refused(capsys, *arguments, fresh=True):
    """Run an audit that must be refused; return its one sentence."""
    capsys.readouterr()
    assert run(*arguments) == 2
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("pellucid: ")
    assert "Traceback" not in captured.err
    if fresh:
        assert not Path("runs").exists()
        assert not Path("out").exists()
    return lines[0].removeprefix("pellucid: ")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("nowhere.py:make", "nowhere.py does not exist"),
        ("fashion-standart", "there is no model 'fashion-standart'"),
        ("net.py", "lacks the factory"),
        ("net.py:", "net.py: lacks the factory after the colon; write net.py:NAME"),
        ("net.py:make@", "lacks the weights after the @; write net.py:make@weights.safetensors, or leave the @ out"),
        ("folder.pt2", "folder.pt2 is a folder; give the .pt2 file"),
        ("nowhere.pt2", "nowhere.pt2 does not exist"),
        ("net.py:makes", "did you mean make?"),
        ("net.py:make@missing.safetensors", "missing.safetensors"),
        ("net.py:random", "answers differently"),
        ("net.py:nan", "NaN"),
        ("net.py:wide", "logits of shape"),
        ("net.py:color", "cannot read inputs of shape (1, 12, 12)"),
    ],
)
def test_unfit_models_are_refused(place, capsys, model, message):
    (place / "folder.pt2").mkdir()
    assert message in refused(capsys, model, "d.npz", "--out", "out")


class Bomb:
    def __reduce__(self):
        return (eval, ("open('exploded', 'w').close()",))


@pytest.mark.parametrize("spec", ["bomb.pt", "net.py:make@bomb.pt", "net.py:make@bomb.safetensors"])
@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_a_pickle_is_refused_and_its_code_does_not_run(place, capsys, spec, how):
    path = place / spec.rpartition("@")[2]
    if how == "pickle":
        path.write_bytes(pickle.dumps(Bomb()))
    else:
        torch.save(Bomb(), path)
    assert "bomb" in refused(capsys, spec, "d.npz")
    assert not (place / "exploded").exists()


def test_a_pickle_as_data_is_refused_and_its_code_does_not_run(place, capsys):
    np.save(place / "x.npy", np.array([Bomb()], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(place / "bomb.npz", "w") as archive:
        for key in ("inputs", "labels"):
            archive.write(place / "x.npy", f"{key}.npy")
    assert "bomb.npz" in refused(capsys, "net.py:make", "bomb.npz")
    assert not (place / "exploded").exists()


@pytest.mark.parametrize("cut", [4, 100, -10])
def test_truncated_safetensors_are_refused(place, capsys, cut):
    save_file({"1.weight": torch.zeros(8, 144)}, place / "whole.safetensors")
    (place / "w.safetensors").write_bytes((place / "whole.safetensors").read_bytes()[:cut])
    assert "w.safetensors" in refused(capsys, "net.py:make@w.safetensors", "d.npz")


def test_a_hostile_header_is_refused(place, capsys):
    (place / "w.safetensors").write_bytes(struct.pack("<Q", 2**60) + b"{}")
    assert "w.safetensors" in refused(capsys, "net.py:make@w.safetensors", "d.npz")


def arrays(place, name, inputs, labels):
    np.savez(place / name, inputs=inputs, labels=labels)
    return name


@pytest.mark.parametrize(
    ("inputs", "labels", "message"),
    [
        (np.random.rand(6, 1, 12, 12).astype("f4") * 255, np.arange(6) % 3, "divide by 255"),  # noqa: NPY002
        (np.zeros((6, 1, 9, 9), "f4"), np.arange(6) % 3, "cannot read inputs of shape (1, 9, 9)"),
        (np.zeros((6, 3, 12, 12), "f4"), np.arange(6) % 3, "cannot read inputs of shape (3, 12, 12)"),
        (np.zeros((6, 1, 12, 12), "f4"), np.zeros(6, int), "of class 0 only"),
        (np.zeros((6, 1, 12, 12), "f4"), np.arange(6), "the model knows classes 0 to 3"),
        (np.zeros((0, 1, 12, 12), "f4"), np.zeros(0, int), "0 samples"),
        (np.full((6, 1, 12, 12), np.nan, "f4"), np.arange(6) % 3, "NaN"),
        (np.zeros((6, 1, 12, 12), "f4"), np.arange(5) % 3, "6 inputs but 5 labels"),
    ],
    ids=["0-255", "shape", "channels", "one class", "labels outside", "no samples", "nan", "lengths"],
)
def test_unfit_arrays_are_refused(place, capsys, inputs, labels, message):
    assert message in refused(capsys, "net.py:make", arrays(place, "bad.npz", inputs, labels))


def images(root, classes, size=12):
    for name in classes:
        (root / name).mkdir(parents=True)
        for k in range(3):
            pixels = np.full((size, size), 40 * k, np.uint8)
            Image.fromarray(pixels).save(root / name / f"{k}.png")
    return root


def test_missing_data_and_folders_without_classes_are_refused(place, capsys):
    assert "nowhere" in refused(capsys, "net.py:make", "nowhere")
    (place / "empty").mkdir()
    assert "class folders" in refused(capsys, "net.py:make", "empty")
    images(place / "one", ["ants"])
    assert "one class" in refused(capsys, "net.py:make", "one")


def test_a_corrupt_image_is_named_and_can_be_left_out(place, capsys):
    root = images(place / "zoo", ["ants", "bees", "cows", "dogs"])
    (root / "bees" / "1.png").write_bytes((root / "bees" / "1.png").read_bytes()[:40])
    assert "1.png" in refused(capsys, "net.py:make", "zoo")
    assert run("net.py:make", "zoo", *FAST, "--skip-corrupt") == 0
    assert Report.load(place / "runs/net-make-zoo").subject.n_samples == 11


def test_class_names_with_html_are_shown_not_executed(place, capsys):
    evil = "<img src=x onerror=alert(1)>"
    images(place / "zoo", ["ants", "bees", "cows", evil])
    assert run("net.py:make", "zoo", *FAST) == 0
    assert evil in json.loads((place / "runs/net-make-zoo/report.json").read_text())["subject"]["class_names"]
    assert evil not in (place / "runs/net-make-zoo/index.html").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--samples", "0"), "--samples must be at least 1, got 0"),
        (("--probe", "robustnes"), "did you mean 'robustness'"),
        (("--skip", "everything"), "the probes are accuracy"),
        (("--budget", "3"), "give at least"),
        (("--budget", "-5"), "give at least"),
        (("--device", "abacus"), "abacus"),
        (("--surrogate", "net.py:ten"), "10 classes"),
        (tuple(word for name in audits.PROBES for word in ("--skip", name)), "no probe is left"),
    ],
)
def test_unfit_options_are_refused(place, capsys, options, message):
    assert message in refused(capsys, "net.py:make", "d.npz", *options)


def test_a_folder_that_is_not_ours_is_refused_and_left_alone(place, capsys):
    (place / "out").mkdir()
    (place / "out/thesis.tex").write_text("years of work")
    assert "not ours" in refused(capsys, "net.py:make", "d.npz", "--out", "out", fresh=False)
    assert [path.name for path in (place / "out").iterdir()] == ["thesis.tex"]
    assert "is a file" in refused(capsys, "net.py:make", "d.npz", "--out", "net.py", fresh=False)


def test_options_that_commands_share_are_known_when_one_is_mistyped(place, capsys):
    assert "did you mean --samples?" in refused(capsys, "net.py:make", "d.npz", "--sampels", "3")
    assert "--samples must be a whole number, got 'many'" in refused(
        capsys, "net.py:make", "d.npz", "--samples", "many"
    )
