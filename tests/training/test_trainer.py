import json
import os
import signal
import subprocess
import sys
import time

import msgspec
import pytest
import torch

from pellucid.core import NotConverged, RecipeError, RunError, RunFolder, Subject, read_tensors
from pellucid.training import AttackSettings, FinalTest, Recipe, Run, train


def weights(out):
    return read_tensors(out / "model.safetensors")


def log(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def assert_equal_runs(a, b):
    first, second = weights(a), weights(b)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert log(a) == log(b)


@pytest.fixture
def whole(recipe, tmp_path):
    """The folder of an uninterrupted training."""
    train(recipe, tmp_path / "whole")
    return tmp_path / "whole"


def interrupt_at(step):
    def on_event(event):
        if event.kind == "step" and event.done == step:
            raise KeyboardInterrupt

    return on_event


def test_training_learns_and_tells_what_it_does(recipe, tmp_path):
    events = []
    recipe = msgspec.structs.replace(recipe, test=FinalTest(attack=AttackSettings(eps=0.02, steps=2)))
    run = train(recipe, tmp_path / "run", on_event=events.append)
    assert run.figures["accuracy"] > 0.9
    assert run.figures["robust_accuracy[linf,0.02]"] <= run.figures["accuracy"]
    assert events[0].kind == "start"
    assert sum(event.kind == "step" for event in events) == 36
    assert sum(event.kind == "checkpoint" for event in events) == 3
    assert events[-1].kind == "end"
    assert events[-1].values == run.figures
    lines = log(tmp_path / "run")
    assert [line["step"] for line in lines] == list(range(36))
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert lines[-1]["rate"] == 0
    assert run.folder.status == "complete"
    assert not run.model.training


def test_the_card_describes_the_weights(whole, recipe):
    run = Run.open(whole)
    card = run.card
    assert card["architecture"] == recipe.to_dict()["model"]
    assert card["parameters"] == sum(p.numel() for p in run.model.parameters())
    assert card["figures"][0]["low"] < card["figures"][0]["value"] <= card["figures"][0]["high"]
    assert card["figures"][0]["n"] == 96
    exported = run.export(whole.parent / "kept" / "tiny.safetensors")
    assert exported.read_bytes() == (whole / "model.safetensors").read_bytes()
    assert json.loads(exported.with_suffix(".json").read_text()) == card
    with pytest.raises(RunError, match=r"as a \.safetensors file"):
        run.export(whole.parent / "tiny.pt")


def test_a_run_is_a_subject_for_audits(whole):
    subject = Run.open(whole).subject("test", n=12)
    assert isinstance(subject, Subject)
    assert subject.labels.bincount().tolist() == [4, 4, 4]
    assert subject.name == "tiny"
    assert len(Run.open(whole).subject("train")) == 96


def test_the_same_recipe_gives_the_same_bits_and_touches_no_global_state(recipe, whole, tmp_path):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    train(recipe, tmp_path / "again")
    assert torch.equal(torch.get_rng_state(), before)
    assert_equal_runs(whole, tmp_path / "again")


def test_another_seed_gives_other_weights(recipe, whole, tmp_path):
    train(msgspec.structs.replace(recipe, seed=1), tmp_path / "other")
    assert not torch.equal(weights(whole)["fc2.weight"], weights(tmp_path / "other")["fc2.weight"])


@pytest.mark.parametrize("step", [7, 12, 17, 36])
def test_an_interrupted_run_goes_on_bit_for_bit(recipe, whole, tmp_path, step):
    out = tmp_path / "broken"
    with pytest.raises(KeyboardInterrupt):
        train(recipe, out, on_event=interrupt_at(step))
    assert RunFolder.open(out).status == "partial"
    with pytest.raises(RunError, match="is not complete; run `pellucid train` on it again"):
        Run.open(out)
    train(recipe, out)
    assert_equal_runs(whole, out)


KILLED = """
import os, signal, sys
from pellucid.training import Recipe, train

def on_event(event):
    if event.kind == "step" and event.done == 17:
        os.kill(os.getpid(), signal.SIGKILL)

train(Recipe.load(sys.argv[1]), sys.argv[2], on_event=on_event)
"""


def test_a_killed_process_leaves_a_run_that_goes_on_bit_for_bit(recipe, recipe_file, whole, tmp_path):
    out = tmp_path / "killed"
    # One thread, as here: sums over several threads round differently.
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, "-c", KILLED, str(recipe_file), str(out)]
    killed = subprocess.run(command, env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert RunFolder.open(out).status == "partial"
    assert (out / "checkpoints" / "epoch-00001").is_dir()
    train(recipe, out)
    assert_equal_runs(whole, out)


def test_a_complete_run_is_returned_as_it_is(recipe, whole):
    events = []
    stamp = (whole / "model.safetensors").stat().st_mtime_ns
    run = train(recipe, whole, on_event=events.append)
    assert events == []
    assert (whole / "model.safetensors").stat().st_mtime_ns == stamp
    assert run.figures["accuracy"] > 0.9


def test_another_recipe_is_refused_naming_the_key(recipe, whole, tmp_path):
    other = Recipe.parse(recipe.to_dict(), overrides=("optimizer.lr=0.5",))
    with pytest.raises(RunError, match=r"begun with optimizer\.lr = 0\.02, the recipe now has 0\.5"):
        train(other, whole)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "broken", on_event=interrupt_at(15))
    with pytest.raises(RunError, match=r"optimizer\.lr"):
        train(other, tmp_path / "broken")


def test_a_foreign_folder_is_refused_and_left_alone(recipe, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("do not touch")
    with pytest.raises(RunError):
        train(recipe, tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(recipe, tmp_path):
    wild = Recipe.parse(
        {**recipe.to_dict(), "optimizer": {"kind": "sgd", "lr": 1e30}, "schedule": {"kind": "one-cycle", "peak": 1.0}}
    )
    with pytest.raises(NotConverged, match=r"the loss is (nan|inf) at step \d+ \(epoch 0\)"):
        train(wild, tmp_path / "wild")
    assert RunFolder.open(tmp_path / "wild").status == "partial"
    lines = log(tmp_path / "wild")
    assert lines
    assert "model.safetensors" not in {path.name for path in (tmp_path / "wild").iterdir()}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("batch_size=97", "batch_size is 97 but synthetic-images has 96 training samples"),
        ("model.classes=4", "the model gives 4 logits but synthetic-images has 3 classes"),
        ("model.in_channels=3", r"the model cannot read inputs of shape \(1, 8, 8\)"),
        ("augment.crop=8", "augment.crop is 8, and images of 8 x 8 pixels could be shifted out of sight"),
        ("objective.counts=[1,2]", "counts has 2 numbers, but synthetic-images has 3 classes"),
    ],
)
def test_what_cannot_fit_is_refused_before_anything_is_written(recipe, tmp_path, override, message):
    with pytest.raises(RecipeError, match=message):
        train(Recipe.parse(recipe.to_dict(), overrides=(override,)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("device", ["warp", "meta"])
def test_an_unusable_device_is_refused(recipe, tmp_path, device):
    with pytest.raises(RunError, match=rf"device '{device}' cannot be used here.*; use --device cpu"):
        train(recipe, tmp_path / "out", device=device)
    assert not (tmp_path / "out").exists()


def test_a_weight_without_a_term_is_refused_and_can_be_put_right(recipe, tmp_path):
    wrong = Recipe.parse(recipe.to_dict(), overrides=("weighting.weights.flow=1",))
    with pytest.raises(RecipeError, match=r"weighting\.weights names 'flow' but the terms are accuracy, clean"):
        train(wrong, tmp_path / "out")
    assert train(recipe, tmp_path / "out").folder.status == "complete"


def test_half_precision_learns_too(recipe, tmp_path):
    run = train(msgspec.structs.replace(recipe, precision="bf16"), tmp_path / "half")
    assert run.figures["accuracy"] > 0.8
    assert all(tensor.dtype == torch.float32 for tensor in weights(tmp_path / "half").values())


def test_adversarial_training_withstands_more(recipe, tmp_path):
    attack = {"eps": 0.2, "steps": 3}
    plain = Recipe.parse({**recipe.to_dict(), "epochs": 6, "test": {"attack": attack}})
    hard = Recipe.parse({**plain.to_dict(), "objective": {"kind": "adversarial", "attack": attack}})
    runs = [train(each, tmp_path / str(k)) for k, each in enumerate((plain, hard))]
    key = "robust_accuracy[linf,0.2]"
    assert runs[1].figures[key] > runs[0].figures[key]


def test_two_processes_give_the_loss_curve_of_one(recipe, recipe_file, whole, tmp_path):
    out = tmp_path / "two"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "pellucid.cli", "train", str(recipe_file), "--out", str(out)]
    started = time.monotonic()
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert time.monotonic() - started < 200
    one, two = log(whole), log(out)
    assert len(one) == len(two)
    for a, b in zip(one, two, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], abs=1e-5)
        assert b["accuracy"] == pytest.approx(a["accuracy"], abs=1e-9)
    assert Run.open(out).figures == Run.open(whole).figures
