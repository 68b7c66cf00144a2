"""Training on images whose every pixel has a class."""

import json
import re

import msgspec
import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

import pellucid
from pellucid import data
from pellucid.core import IGNORED, Batch, Dataset, RecipeError, Stream
from pellucid.metrics import confusion, iou
from pellucid.nn import class_weights
from pellucid.nn.models import Segmenter, SegmenterSettings
from pellucid.training import OBJECTIVES, Recipe, Standard, sweep, train

SCENES = {
    "name": "scenes",
    "epochs": 3,
    "batch_size": 8,
    "model": {"kind": "segmenter", "channels": [8, 8, 16, 16], "finest": 4, "width": 16, "rank": 4},
    "data": {"kind": "synthetic-scenes", "n": 32},
    "augment": {"flip": True, "crop": 2},
    "optimizer": {"kind": "adam", "lr": 1e-2},
    "schedule": {"kind": "one-cycle"},
}


@pytest.fixture
def recipe():
    return Recipe.parse(SCENES)


@pytest.fixture
def labels(rng):
    labels = rng.child("labels").integers(3, (4, 5, 6))
    labels[0, 0] = IGNORED
    labels[2, 1:3] = IGNORED
    return labels


@pytest.fixture
def z(rng):
    return rng.child("logits").normal((4, 3, 5, 6)).requires_grad_()


def terms(objective, z, labels):
    ids = torch.arange(len(z))
    return objective(torch.nn.Identity(), Batch(z, labels, ids), rng=Stream(0).at(ids))


def pixels(z, labels):
    known = labels != IGNORED
    return z.movedim(1, 3)[known], labels[known]


# -- the objective ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_the_mean_over_labelled_pixels(z, labels, smoothing):
    found = terms(Standard(label_smoothing=smoothing), z, labels)
    rows, truth = pixels(z, labels)
    assert_close(found["clean"], F.cross_entropy(rows, truth, label_smoothing=smoothing))
    assert_close(found["accuracy"], (rows.argmax(1) == truth).float().mean())


def test_pixels_without_a_label_have_no_gradient(z, labels):
    (gradient,) = torch.autograd.grad(terms(Standard(class_balance="batch"), z, labels)["clean"], z)
    unknown = (labels == IGNORED)[:, None].expand_as(z)
    assert bool((gradient[unknown] == 0).all())
    assert bool((gradient[~unknown] != 0).all())


def test_a_batch_without_labels_teaches_nothing(z, labels):
    found = terms(Standard(label_smoothing=0.1), z, torch.full_like(labels, IGNORED))
    (gradient,) = torch.autograd.grad(found["clean"], z)
    assert [found["clean"].item(), found["accuracy"].item(), gradient.abs().max().item()] == [0, 0, 0]


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_balance_counts_pixels(z, labels, smoothing):
    rows, truth = pixels(z, labels)
    whole = Dataset(torch.zeros(4, 1, 5, 6), labels, ("a", "b", "c"), "d", "image", torch.arange(4))
    fitted = Standard(class_balance="counts", label_smoothing=smoothing).fitted(whole)
    assert fitted.counts == tuple(truth.bincount().tolist())
    each = F.cross_entropy(rows, truth, reduction="none", label_smoothing=smoothing)
    weights = class_weights(truth, "batch", n_classes=3)
    wanted = (each * weights[truth]).mean()
    assert_close(terms(fitted, z, labels)["clean"], wanted)
    assert_close(terms(Standard(class_balance="batch", label_smoothing=smoothing), z, labels)["clean"], wanted)


def test_logit_adjustment_goes_to_every_pixel(z, labels):
    fitted = msgspec.structs.replace(Standard(logit_adjustment=2.0), counts=(6, 3, 1))
    rows, truth = pixels(z, labels)
    assert_close(
        terms(fitted, z, labels)["clean"], F.cross_entropy(rows + 2 * torch.tensor([0.6, 0.3, 0.1]).log(), truth)
    )


# -- the network --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["light-ham", "attention", "conv"])
def test_heads_have_the_same_size_and_each_image_its_own_answer(rng, head):
    with rng.forked():
        model = Segmenter(SegmenterSettings(head=head)).eval()
    context = sum(p.numel() for p in model.head.context.parameters())
    assert context == pytest.approx(8384, rel=0.01)
    x = rng.child("x").uniform((3, 3, 48, 40))
    with torch.no_grad():
        logits = model(x)
        assert logits.shape == (3, 3, 48, 40)
        assert_close(model(x[1:2])[0], logits[1], rtol=1e-4, atol=1e-5)


# -- a training ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    recipe = Recipe.parse(SCENES, overrides=("data.n=96", "epochs=8"))
    return train(recipe, tmp_path_factory.mktemp("dense") / "run")


def test_it_learns_and_its_card_says_how_well(run):
    figures = {figure["name"]: figure for figure in run.card["figures"]}
    assert list(figures) == ["mean_iou", "pixel_accuracy", "iou[sea]", "iou[land]", "iou[lake]", "mean_iou_floor"]
    with torch.no_grad():
        answers = run.model(run.test_set.inputs).argmax(1)
    found = iou(confusion(answers, run.test_set.labels, 3))
    assert figures["mean_iou"]["value"] == pytest.approx(float(found.mean))
    assert figures["iou[land]"]["value"] == pytest.approx(float(found.per_class[1]))
    assert figures["mean_iou"]["low"] < figures["mean_iou"]["value"] < figures["mean_iou"]["high"]
    assert figures["mean_iou"]["value"] > figures["mean_iou_floor"]["value"] + 0.15
    assert figures["mean_iou_floor"]["low"] is None
    assert run.card["task"] == "image segmentation, 3 classes"
    assert run.card["class_counts"] == []


def test_its_subject_is_dense_and_can_be_audited(run, tmp_path):
    subject = run.subject("test", n=12)
    assert subject.dense
    assert subject.class_names == ("sea", "land", "lake")
    report = pellucid.audit(subject, probes=["accuracy", "segmentation"])
    assert [finding.probe for finding in report.findings] == ["segmentation"]
    report.save(tmp_path)
    again = pellucid.subject(run.folder.path, "synthetic-scenes", samples=12)
    assert again.dense
    assert again.digest()["model"] == subject.digest()["model"]


def test_an_interrupted_training_goes_on_bit_for_bit(recipe, tmp_path):
    class Stopped(Exception):
        pass

    def stop(event):
        if event.kind == "step" and event.done == 9:
            raise Stopped

    keeping = msgspec.structs.replace(recipe, keep=(1,))
    whole = train(keeping, tmp_path / "whole").model.state_dict()
    with pytest.raises(Stopped):
        train(keeping, tmp_path / "cut", on_event=stop)
    resumed = train(keeping, tmp_path / "cut")
    assert all(torch.equal(tensor, whole[name]) for name, tensor in resumed.model.state_dict().items())
    assert (tmp_path / "cut" / "checkpoints" / "epoch-00001" / "model.safetensors").is_file()
    lines = [json.loads(line) for line in (tmp_path / "cut" / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in lines] == list(range(12))


def test_a_limit_takes_fewer_images(recipe, tmp_path):
    run = train(Recipe.parse(SCENES, overrides=("limit=16", "epochs=1", "test.limit=5")), tmp_path / "run")
    assert run.card["data"] == "synthetic-scenes, 16 training samples"
    assert {figure["n"] for figure in run.card["figures"]} == {5}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (("augment.mixup=1",), "augment.mixup mixes the classes of two images, but every pixel has a class in"),
        (("test.attack.space=linf", "test.attack.eps=0.1"), "test.attack changes one answer per image"),
        (("record.kind=feature-diversity",), "record compares images by their class"),
        (("long_tail.ratio=0.1",), "long_tail chooses by the class of an image"),
        (("held_out=0.1",), "held_out chooses by the class of an image"),
        (("model.kind=small-cnn", "model.in_channels=3", "model.image_size=32", "model.classes=3"), "every pixel has"),
        (("model.classes=4",), "the model gives 4 logits but synthetic-scenes has 3 classes"),
        (
            ("data.kind=synthetic-images", "data.channels=3", "data.classes=3"),
            "each image has one class in",
        ),
    ],
)
def test_what_is_about_one_class_per_image_is_refused(tmp_path, changes, sentence):
    with pytest.raises(RecipeError, match=re.escape(sentence)):
        train(Recipe.parse(SCENES, overrides=changes), tmp_path / "run")
    assert not (tmp_path / "run" / "recipe.json").exists()


NEEDED = {
    "adversarial": ("attack.space=linf", "attack.eps=0.1"),
    "attacks": ("attacks.linf.space=linf", "attacks.linf.eps=0.1"),
    "interaction-order": ("low=0", "high=0.5"),
}


@pytest.mark.parametrize("kind", sorted(set(OBJECTIVES) - {"standard"}))
def test_other_objectives_are_refused(tmp_path, kind):
    settings = (f"objective.kind={kind}", *(f"objective.{setting}" for setting in NEEDED.get(kind, ())))
    with pytest.raises(RecipeError, match=f'objective.kind = "{kind}" is about one class per image'):
        train(Recipe.parse(SCENES, overrides=settings), tmp_path / "run")


def test_a_sweep_over_pixels_is_refused(tmp_path):
    attacked = (*("test.attack.space=linf", "test.attack.eps=0.1"),)
    with pytest.raises(RecipeError, match=r"test\.attack changes one answer per image"):
        sweep(Recipe.parse(SCENES, overrides=attacked), tmp_path / "s", over="optimizer.lr", values=[0.1])


def test_masks_of_the_test_split_are_never_augmented(run):
    assert torch.equal(run.subject("test").labels, data.SyntheticScenes(n=96).load("test").labels)
