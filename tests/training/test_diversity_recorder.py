import json
import logging
import math

import msgspec
import pytest
import torch
from torch import nn

from pellucid.core import DataError, RecipeError, read_tensors
from pellucid.metrics import DiversityHistory, similarity
from pellucid.training import DiversityRecorder, DiversityRecording, Recipe, replay, train

DEEP = {
    "name": "deep",
    "epochs": 3,
    "batch_size": 8,
    "model": {"kind": "mlp", "inputs": 64, "depth": 8, "width": 16, "bias": "none", "classes": 3},
    "data": {"kind": "synthetic-images", "n": 64, "classes": 3, "size": 8},
    "optimizer": {"kind": "sgd", "lr": 0.1, "momentum": 0.0},
    "record": {"kind": "feature-diversity", "every": 5, "gradients_every": 10, "samples": 30, "patience": 12},
}


@pytest.fixture
def net(rng):
    with rng.child("w").forked():
        return nn.Sequential(nn.Linear(5, 12), nn.ReLU(), nn.Dropout(0.5), nn.Linear(12, 3))


@pytest.fixture
def probe(rng):
    return rng.child("x").normal((30, 5)), rng.child("y").integers(3, (30,))


def loop(net, probe, steps, recorder=None):
    """A training loop of one's own, on the global random state."""
    torch.manual_seed(3)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    x, y = probe
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        if recorder is not None:
            recorder.step(loss)
    return loss


def test_one_line_in_any_loop_and_the_training_is_the_same(net, probe, tmp_path):
    begin = {name: value.clone() for name, value in net.state_dict().items()}
    with torch.random.fork_rng():
        loop(net, probe, 12)
    alone = {name: value.clone() for name, value in net.state_dict().items()}
    net.load_state_dict(begin)
    file = tmp_path / "run.jsonl"
    with torch.random.fork_rng(), DiversityRecorder(net, probe, every=2, gradients_every=4, file=file) as recorder:
        last = loop(net, probe, 11, recorder)
        loop_state = net.training
    assert loop_state
    with torch.random.fork_rng():
        net.load_state_dict(begin)
        loop(net, probe, 12)
    assert all(torch.equal(alone[name], value) for name, value in net.state_dict().items())
    assert not any(module._forward_hooks for module in net.modules())
    history = recorder.history
    assert history.measured == (tuple(range(0, 11, 2)), (0, 4, 8))
    assert len(history.losses) == history.steps == 11  # leaving the context writes what waited
    assert history.losses[-1] == pytest.approx(last.item(), rel=1e-5)
    assert DiversityHistory.read(file) == history
    with torch.no_grad():
        net.load_state_dict(begin)
        h = net.eval()[:2](probe[0])
    assert float(history.features("similarity")[0, 0]) == pytest.approx(similarity(h).all, abs=1e-5)


def test_steps_at_rate_zero_do_not_count(net, probe):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with DiversityRecorder(net, probe, every=2, gradients_every=2, optimizer=optimizer) as recorder:
        recorder.step(1.0)
        optimizer.param_groups[0]["lr"] = 0.0
        recorder.step(torch.tensor(1.0))
        recorder.step(0.5, rate=0.1)
    assert recorder.history.losses == (1.0, None, 0.5)


def test_the_warning_comes_once_while_training_and_the_end_is_told(net, probe, caplog):
    told = []
    with DiversityRecorder(net, probe, every=5, gradients_every=5, patience=20, on_notice=told.append) as recorder:
        with torch.no_grad():
            net[0].bias.fill_(50.0)  # the same for all samples
        for step in range(70):
            recorder.step(1.1 if step < 40 else 0.1)
    assert len(told) == 2
    assert told[0].startswith("step 25: the loss has stood at 1.100 since the start")
    assert "(layer 1: similarity" in told[0]
    assert told[1] == "step 65: the loss has left its plateau, at step 41"
    assert recorder.phase().trapped
    with (
        caplog.at_level(logging.WARNING, "pellucid.training"),
        DiversityRecorder(net, probe, every=5, gradients_every=5, patience=20) as loud,
    ):
        for _ in range(30):
            loud.step(1.1)
    assert len(caplog.records) == 1  # without on_notice Python's log is told


def test_fp16_that_rounds_gradients_away_is_named(probe):
    net = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)).half()
    with torch.no_grad():
        net[2].weight.fill_(0)
    told = []
    with DiversityRecorder(net, (probe[0].half(), probe[1]), on_notice=told.append):
        pass
    assert len(told) == 1
    assert "100% of the gradients are too small for fp16" in told[0]


def test_a_training_that_diverges_is_recorded_to_its_end(net, probe):
    with DiversityRecorder(net, probe, every=1, gradients_every=1) as recorder:
        with torch.no_grad():
            net[0].weight.fill_(math.nan)
        recorder.step(math.nan)
    assert recorder.history.losses == (None,)
    assert bool(recorder.history.features("similarity")[1].isnan().all())


def test_wrapped_models_are_watched_inside(net, probe):
    assert DiversityRecorder(nn.DataParallel(net), probe).meter.model is net


def test_checkpoints_of_a_finished_training_are_replayed(net, probe, tmp_path):
    states = {}
    with DiversityRecorder(net, probe, every=4, gradients_every=4) as recorder:
        states[0] = {name: value.clone() for name, value in net.state_dict().items()}
        for step in (4, 8):
            with torch.random.fork_rng():
                loop(net, probe, 4, recorder)
            states[step] = {name: value.clone() for name, value in net.state_dict().items()}
    losses = recorder.history.losses
    again = replay(net, states, probe, losses=losses)
    assert again.measured == recorder.history.measured
    assert torch.equal(again.features("intra"), recorder.history.features("intra"))
    assert again.losses == losses
    with pytest.raises(DataError, match="no checkpoints"):
        replay(net, {}, probe)
    with pytest.raises(DataError, match="checkpoint of step 3 does not fit the model"):
        replay(net, {3: {"a": torch.zeros(1)}}, probe)


def test_bad_settings(net, probe):
    with pytest.raises(ValueError, match="gradients_every must be a multiple of every >= 1, got 7 and 5"):
        DiversityRecorder(net, probe, every=5, gradients_every=7)
    recorder = DiversityRecorder(net, probe)
    recorder.active = False  # as in the other processes of a distributed training
    recorder.start(0)
    recorder.step(1.0)
    with pytest.raises(DataError, match="only the first process"):
        _ = recorder.history


# -- in the trainer -----------------------------------------------------------------------------------------------


def test_a_recipe_records_and_trains_the_same_weights(tmp_path):
    recipe = Recipe.parse(DEEP)
    events = []
    run = train(recipe, tmp_path / "with", on_event=events.append)
    bare = train(msgspec.structs.replace(recipe, record=None), tmp_path / "without")
    first, second = (read_tensors(r.folder.path / "model.safetensors") for r in (run, bare))
    assert all(torch.equal(first[name], second[name]) for name in first)
    history = DiversityHistory.read(run.records["feature-diversity"])
    assert set(bare.records) == {"recipe"}
    log = [json.loads(line) for line in (run.folder.path / "log.jsonl").read_text().splitlines()]
    assert history.losses == pytest.approx([line["loss"] for line in log], rel=1e-5)
    assert history.measured[0] == tuple(range(0, 25, 5))
    assert not history.head.biases
    assert history.head.layers == tuple(f"act{k}" for k in range(1, 8))
    notices = [event for event in events if event.kind == "notice"]
    assert [event.done for event in notices] == [20]
    assert "a flat first phase" in notices[0].text
    assert run.subject("test", 9).records == run.records


def test_a_killed_training_goes_on_with_the_same_record(tmp_path):
    recipe = Recipe.parse(DEEP)
    train(recipe, tmp_path / "whole")

    def stop(event):
        if event.kind == "step" and event.done == 19:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "killed", on_event=stop)
    train(recipe, tmp_path / "killed")
    whole, killed = (DiversityHistory.read(tmp_path / name) for name in ("whole", "killed"))
    assert killed == whole


def test_record_as_an_argument_and_its_errors(tmp_path):
    bare = Recipe.parse({key: value for key, value in DEEP.items() if key != "record"} | {"epochs": 1})
    run = train(bare, tmp_path / "run", record=DiversityRecording(every=4, gradients_every=4, layers=("act2",)))
    head = DiversityHistory.read(run.folder.path).head
    assert head.layers == ("act2",)
    other = train(
        msgspec.structs.replace(bare, seed=1),
        tmp_path / "other",
        record=DiversityRecording(every=4, gradients_every=4, layers=("act2",)),
    )
    assert DiversityHistory.read(other.folder.path).head == head  # the probe does not depend on the seed
    with pytest.raises(RecipeError, match=r"record\.layers: the model has no layer 'act9'"):
        train(bare, tmp_path / "a", record=DiversityRecording(layers=("act9",)))
    with pytest.raises(RecipeError, match=r"gradients_every is 60, no multiple of record\.every = 50"):
        train(bare, tmp_path / "b", record=DiversityRecording(gradients_every=60))
    with pytest.raises(RecipeError, match=r"record\.kind is 'histograms'"):
        Recipe.parse(DEEP | {"record": {"kind": "histograms"}})


def test_a_record_cut_short_is_refused(net, probe, tmp_path):
    file = tmp_path / "r.jsonl"
    with DiversityRecorder(net, probe, every=1, gradients_every=1, file=file) as recorder:
        recorder.step(1.0)
    with pytest.raises(DataError, match="no record of the first 5 steps"):
        recorder.start(5)
    recorder.start(1)
    assert recorder.history.steps == 1
