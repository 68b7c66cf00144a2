"""A warm start: whose weights, and what does not fit."""

import hashlib
import shutil

import msgspec
import pytest
import torch

from pellucid.core import RecipeError, read_tensors
from pellucid.training import Recipe, train

ONE = ("epochs=1",)


@pytest.fixture
def first(recipe, tmp_path):
    return train(recipe, tmp_path / "first")


def started(recipe, start, **changes):
    return msgspec.structs.replace(recipe, start=str(start), epochs=1, seed=7, **changes)


@pytest.fixture
def still(recipe):
    """A training that hardly moves, so that its weights are those it began with."""
    return msgspec.structs.replace(recipe, optimizer=msgspec.structs.replace(recipe.optimizer, lr=1e-12))


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_training_begins_where_another_ended(first, still, tmp_path, kind):
    start = first.folder.path if kind == "folder" else first.export(tmp_path / "kept.safetensors")
    run = train(started(still, start), tmp_path / "second")
    for name, tensor in first.model.state_dict().items():
        torch.testing.assert_close(run.model.state_dict()[name], tensor, atol=1e-7, rtol=0)
    digest = hashlib.sha256((first.folder.path / "model.safetensors").read_bytes()).hexdigest()
    assert run.card["start"] == {"from": str(start), "sha256": digest}
    assert first.card["start"] == {}


def test_a_started_training_goes_on_bit_for_bit_without_its_start(first, recipe, tmp_path):
    longer = msgspec.structs.replace(started(recipe, first.folder.path), epochs=2)
    train(longer, tmp_path / "whole")

    def stop(event):
        if event.kind == "step" and event.done == 17:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(longer, tmp_path / "broken", on_event=stop)
    shutil.rmtree(first.folder.path)
    run = train(longer, tmp_path / "broken")
    whole = read_tensors(tmp_path / "whole" / "model.safetensors")
    assert all(torch.equal(whole[name], tensor) for name, tensor in run.model.state_dict().items())
    assert run.card["start"]["sha256"]


def test_a_shipped_model_is_named():
    assert Recipe.load("pareto-fashion-mnist").start == "fashion-standard"


@pytest.mark.parametrize(
    ("start", "changes", "message"),
    [
        ("fashion-standrad", (), r"no shipped model of that name; did you mean fashion-standard\?"),
        ("fashion-standard", (), r"fashion-standard has model\.channels = \[32,64\], the recipe \[6,8\]"),
        ("FIRST", ("model.hidden=5",), r"has model\.hidden = 16, the recipe 5"),
        ("FIRST", ("model.mean=0.4",), r"has model\.mean = 0\.286, the recipe 0\.4"),
        ("BARE", ("model.hidden=5",), r"do not fit the model: fc1\.bias has shape \(16,\) there and shape \(5,\) here"),
        ("TEXT", (), "start takes a run folder, a .safetensors file or a shipped model"),
        ("EMPTY", (), "start: .* holds no run of Pellucid"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(first, recipe_file, tmp_path, start, changes, message):
    places = {"FIRST": first.folder.path, "EMPTY": tmp_path / "empty", "TEXT": tmp_path / "notes.txt"}
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("none")
    places["BARE"] = tmp_path / "bare.safetensors"
    shutil.copy(first.folder.path / "model.safetensors", places["BARE"])
    recipe = Recipe.load(recipe_file, overrides=changes)
    recipe = msgspec.structs.replace(recipe, start=str(places.get(start, start)))
    with pytest.raises(RecipeError, match=message):
        train(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()
