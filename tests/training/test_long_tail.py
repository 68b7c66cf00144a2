import math

import msgspec
import pytest
import torch

from pellucid import models
from pellucid.core import RecipeError, evaluating
from pellucid.data import SyntheticImages
from pellucid.nn import etf_head
from pellucid.training import AttackSettings, Recipe, Run, shipped_recipes, train

LONG = {
    "name": "long",
    "epochs": 3,
    "batch_size": 16,
    "held_out": 0.1,
    "model": {"kind": "small-cnn", "image_size": 8, "channels": [6, 8], "hidden": 16, "classes": 3, "head": "etf"},
    "data": {"kind": "synthetic-images", "n": 240, "classes": 3, "size": 8},
    "long_tail": {"ratio": 0.1},
    "augment": {"mixup": 1.0},
    "objective": {"kind": "dot-regression"},
    "optimizer": {"kind": "adam", "lr": 2e-2},
}


def long(*overrides):
    return Recipe.parse(LONG, overrides=overrides)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(long(), tmp_path_factory.mktemp("long") / "run")


def test_the_card_says_what_was_trained_on(run):
    # 80, 25 and 8 samples; a tenth of each held out, one at least.
    assert run.card["class_counts"] == [72, 23, 7]
    assert run.card["data"] == "synthetic-images, 102 training samples"
    assert set(run.figures) == {"accuracy", "accuracy_head", "accuracy_medium", "accuracy_tail"}
    groups = [figure for figure in run.card["figures"] if figure["name"] != "accuracy"]
    assert sum(figure["n"] for figure in groups) == len(run.test_set)
    right = sum(figure["value"] * figure["n"] for figure in groups)
    assert right == pytest.approx(run.figures["accuracy"] * len(run.test_set))
    assert groups[2]["label"] == "accuracy on the rarest classes (7 training samples each)"


def test_the_temperature_is_fitted_kept_and_told(run):
    temperature = float(etf_head(run.model).temperature)
    assert temperature != 16
    told = f"Probabilities use the temperature {temperature:.3g}, fitted on 11 held-out training samples"
    assert run.card["notes"][0].startswith(told)
    assert run.card["notes"][0] in run.subject("test", 30).notes
    assert run.subject("test", 30).class_counts == (72, 23, 7)


def test_what_is_loaded_again_answers_bit_for_bit(run, tmp_path):
    x = run.subject("test").inputs
    exported = run.export(tmp_path / "long.safetensors")
    with evaluating(run.model), torch.no_grad():
        before = run.model(x)
    for path in (run.folder.path, exported):
        loaded = models.load(str(path))
        with evaluating(loaded.model), torch.no_grad():
            assert torch.equal(loaded.model(x), before)
        assert loaded.notes == tuple(run.card["notes"])
    with evaluating(run.model), torch.no_grad():
        assert torch.equal(Run.open(run.folder.path).model(x), before)


def test_the_training_subject_is_the_long_tail(run):
    labels = run.subject("train").labels
    assert torch.bincount(labels).tolist() == [80, 25, 8]
    assert len(run.subject("test")) == len(SyntheticImages(n=240, classes=3, size=8).load("test"))


def test_a_mixed_training_goes_on_bit_for_bit(run, tmp_path):
    def stop(event):
        if event.kind == "step" and event.done == 8:
            raise Stopped

    with pytest.raises(Stopped):
        train(long(), tmp_path / "cut", on_event=stop)
    resumed = train(long(), tmp_path / "cut").model.state_dict()
    assert all(torch.equal(value, resumed[name]) for name, value in run.model.state_dict().items())


class Stopped(Exception):
    pass


def test_seeds_share_their_samples_and_arms_train_on_the_same(tmp_path):
    runs = [
        train(long("epochs=1", "held_out=0", *more), tmp_path / str(place))
        for place, more in enumerate([("seed=1",), ("seed=2", "objective.kind=standard", "model.head=linear")])
    ]
    assert torch.equal(runs[0].subject("train").ids, runs[1].subject("train").ids)
    assert runs[0].card["class_counts"] == [80, 25, 8]
    assert runs[1].card["notes"] == []
    assert runs[0].card["notes"] == [
        "Probabilities use the temperature 16 as it comes, which was not fitted; confidences mean little."
    ]


def test_balanced_data_have_no_groups(tmp_path):
    even = msgspec.structs.replace(long("epochs=1"), long_tail=None)
    assert set(train(even, tmp_path / "run").figures) == {"accuracy"}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ("model.head=linear", "held_out=0"),
            'dot-regression needs a network with fixed prototypes; set model.head = "etf"',
        ),
        (("model.head=linear", "objective.kind=standard"), "held_out is for fitting a temperature, which only model"),
        (("long_tail.ratio=0.001",), "long_tail: ratio 0.001 of 80 samples leaves less than one"),
        (
            ("objective.kind=interaction-order", "objective.low=0.5", "objective.high=1.0", "objective.grid=4"),
            'augment.mixup mixes two classes in one sample, which objective.kind = "interaction-order" cannot learn',
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(overrides, message, tmp_path):
    with pytest.raises(RecipeError) as caught:
        train(long(*overrides), tmp_path / "run")
    assert message in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.hidden=1", "3 classes cannot be equally far apart in 1 dimensions"),
        ("long_tail.ratio=2", "long_tail.ratio is 2"),
        ("long_tail.shape=line", "long_tail.shape is 'line'"),
        ("held_out=1.0", "held_out is 1.0"),
        ("objective.class_balance=all", "objective.class_balance is 'all'"),
        ("augment.mixup=-1", "augment.mixup is -1"),
    ],
)
def test_values_out_of_range_are_named(override, message):
    with pytest.raises(RecipeError) as caught:
        long(override)
    assert message in str(caught.value)


def test_attacks_work_on_the_fixed_head(tmp_path):
    hard = long("objective.kind=adversarial", "augment.mixup=0", "epochs=1", "objective.attack.eps=0.05")
    hard = msgspec.structs.replace(
        hard, objective=msgspec.structs.replace(hard.objective, attack=AttackSettings(steps=1, eps=0.05))
    )
    assert math.isfinite(train(hard, tmp_path / "run").figures["accuracy"])


def test_the_five_arms_differ_in_what_they_say_alone():
    arms = ("ce", "ce-balanced", "logit-adjusted", "etf-ce", "etf-dr")
    shipped = shipped_recipes()
    for data in ("fashion-mnist", "cifar10", "cifar10-full", "cifar100-full"):
        loaded = [Recipe.load(shipped[f"{arm}-lt-{data}"]).to_dict() for arm in arms]
        for recipe in loaded:
            head = recipe["model"].pop("head")
            assert head == ("etf" if recipe["name"].startswith("etf") else "linear")
            for key in ("name", "objective", "held_out"):
                recipe.pop(key)
        assert all(recipe == loaded[0] for recipe in loaded)
        assert loaded[0]["long_tail"]["ratio"] == 0.01
    full = Recipe.load(shipped["etf-dr-lt-cifar10-full"])
    steps = 200 * 97
    rates = [full.optimizer.lr * full.schedule.factor(epoch * 97 / steps) for epoch in (1, 5, 100, 161, 181)]
    assert rates == pytest.approx([0.02, 0.1, 0.1, 0.01, 0.001])
