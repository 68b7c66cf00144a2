"""A subject may answer for every pixel: what fits is trusted, and what does not is one clear sentence."""

import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

import pellucid
from pellucid.audits import audit, explain, explain_graph, plan
from pellucid.audits.probes import Accuracy
from pellucid.core import IGNORED, DataError, Dataset, ModelError, Need, Subject


class Answer(nn.Module):
    """Any function as a module."""

    def __init__(self, answer) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x):
        return self.answer(x)


@pytest.fixture
def images(rng):
    return rng.child("images").uniform((12, 1, 8, 6))


@pytest.fixture
def masks(rng):
    masks = rng.child("masks").integers(3, (12, 8, 6))
    masks[:, 0] = IGNORED
    return masks


@pytest.fixture
def model(rng):
    with rng.forked():
        return nn.Conv2d(1, 3, 3, padding=1)


def test_a_dense_subject_knows_its_parts(model, images, masks):
    subject = Subject(model, images, masks)
    assert subject.dense
    assert subject.n_classes == 3
    assert subject.differentiable
    assert not subject.notes
    assert_close(subject.logits(batch_size=5), model(images).detach())
    part = subject.take(torch.tensor([4, 1]))
    assert part.dense
    assert torch.equal(part.labels, masks[[4, 1]])
    assert part.digest()["model"] == subject.digest()["model"]
    assert part.digest()["data"] != subject.digest()["data"]
    other = masks.clone()
    other[0, 3, 3] = (other[0, 3, 3] + 1) % 3
    assert Subject(model, images, other).digest()["data"] != subject.digest()["data"]


def test_one_label_per_image_is_no_dense_subject(images):
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
    assert not Subject(model, images, torch.arange(12) % 3).dense


def test_masks_are_optional(model, images):
    assert Subject(model, images).dense


def test_logits_come_part_by_part(model, images, masks, monkeypatch):
    subject = Subject(model, images, masks)
    monkeypatch.setattr("pellucid.core._subject._BATCH_LOGITS", 3 * 3 * 8 * 6 * 4)
    parts = list(subject.logit_batches())
    assert [len(rows) for rows, _ in parts] == [3, 3, 3, 3]
    assert_close(torch.cat([logits for _, logits in parts]), model(images).detach())
    monkeypatch.setattr("pellucid.core._subject._MOST_LOGITS", 1000)
    with pytest.raises(DataError, match=r"take .* GiB; go through subject.logit_batches\(\)"):
        subject.logits()


def test_coarse_answers_are_enlarged_with_a_note(images, masks):
    coarse = Answer(lambda x: F.avg_pool2d(x, 2).expand(-1, 3, -1, -1) * torch.arange(1, 4).view(1, 3, 1, 1))
    subject = Subject(coarse, images, masks, name="net")
    assert subject.logits().shape == (12, 3, 8, 6)
    wanted = F.interpolate(coarse(images), (8, 6), mode="bilinear", align_corners=False)
    assert_close(subject.logits(), wanted)
    assert "net answers for 4 x 3 places of images of 8 x 6 pixels" in subject.notes[0]


def test_one_channel_and_probabilities_are_read_as_logits(images, masks):
    one = Subject(Answer(lambda x: 4 * x - 2), images, masks.clamp_max(1))
    assert_close(one.logits()[:, 1] - one.logits()[:, 0], (4 * images - 2)[:, 0])
    soft = Subject(Answer(lambda x: torch.cat([x, 1 - x], 1)), images, masks.clamp_max(1))
    assert "logarithms" in soft.notes[0]
    assert_close(soft.logits().softmax(1)[:, 0], images[:, 0])
    sigmoid = Subject(Answer(lambda x: (4 * x - 2).sigmoid()), images, masks.clamp_max(1))
    assert "sigmoid" in sigmoid.notes[0]


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (lambda x: torch.zeros(len(x), 8, 6, 3), "let it return answer.permute(0, 3, 1, 2)"),
        (lambda x: torch.zeros(len(x), 3, 16, 12), "answers for 16 x 12 pixels of images of 8 x 6"),
        (lambda x: x[:, 0], "or (8, K, H, W) for a class of every pixel, got (8, 8, 6)"),
        (lambda x: x.expand(-1, 3, -1, -1) / 0, "returns NaN or infinity for sample 0"),
        (lambda x: x.argmax(1, keepdim=True), "return scores, not classes"),
    ],
)
def test_answers_that_are_no_dense_logits(images, masks, answer, sentence):
    with pytest.raises(ModelError, match=re.escape(sentence)):
        Subject(Answer(answer), images, masks)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda m: m[:, :4], "has masks of 4 x 6 pixels for images of 8 x 6"),
        (lambda m: m[:, 0, 0], "answers for every pixel but data has labels of shape (12,)"),
        (lambda m: m[:, None], "give masks, one class per pixel, int64 of shape (N, H, W)"),
        (lambda m: m[:5], "masks must be int64 of shape (12, H, W), got torch.int64 (5, 8, 6)"),
        (lambda m: m.float(), "masks must be int64"),
        (lambda m: m.where(m != IGNORED, 255), "the mask of sample 0 has class 255 at row 0, column 0"),
        (lambda m: m.where(m != 2, 3), "but the model knows classes 0 to 2, and -100 for no label"),
        (lambda m: torch.full_like(m, IGNORED), "no pixel has a label"),
        (lambda m: torch.ones_like(m), "all labelled pixels have class 1"),
    ],
)
def test_masks_that_do_not_fit(model, images, masks, change, sentence):
    with pytest.raises(DataError, match=re.escape(sentence)):
        Subject(model, images, change(masks))


def test_masks_need_a_model_that_answers_for_pixels(images, masks):
    with pytest.raises(DataError, match="has a label for every pixel but model gives each image one answer"):
        Subject(nn.Sequential(nn.Flatten(), nn.Linear(48, 3)), images, masks)
    with pytest.raises(ModelError, match=r"answers for every pixel, shape .*, not with one likeness"):
        Subject(Answer(lambda x: x), images, number="likeness")


def test_a_data_set_checks_the_size_of_its_masks(images, masks):
    assert Dataset(images, masks, (), "d", "image", torch.arange(12)).dense
    with pytest.raises(DataError, match=re.escape("d has masks of 6 x 8 pixels for inputs of shape (1, 8, 6)")):
        Dataset(images, masks.mT, (), "d", "image", torch.arange(12))


# -- audits -------------------------------------------------------------------------------------------------------


class Pixels:
    """A probe that says it asks about pixels."""

    name, question, dense = "pixels", "How many pixels are there?", True

    def need(self, subject, *, effort):
        return Need(1, 1)

    def __call__(self, subject, budget, rng, *, work=None):
        return []


def test_only_dense_probes_ask_a_dense_subject(model, images, masks):
    subject = Subject(model, images, masks, name="net")
    rows = {row.probe: row for row in plan(subject, probes=[Accuracy(), Pixels()]).rows}
    assert rows["pixels"].granted == 1
    assert rows["accuracy"].skip == "asks about one answer per image, and net answers for every pixel"
    report = audit(subject, probes=[Accuracy(), Pixels()])
    assert [entry.probe for entry in report.skipped] == ["accuracy"]


@pytest.mark.parametrize("ask", [explain, explain_graph, lambda s: audit(s, probes=["robustness", "reliance"])])
def test_questions_about_images_refuse_pixels_in_one_sentence(model, images, masks, ask):
    with pytest.raises(ModelError, match="net answers for every pixel, and what is asked is about one answer per"):
        ask(Subject(model, images, masks, name="net"))


# -- the front door -----------------------------------------------------------------------------------------------


def test_the_front_door_takes_masks(model, images, masks):
    made = pellucid.subject(model, (images, masks))
    assert made.dense
    assert torch.equal(made.labels, masks)
    few = pellucid.subject(model, (images.numpy(), masks.numpy()), samples=5)
    assert torch.equal(few.labels, masks[few.ids])
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, masks[:, None]), batch_size=5)
    streamed = pellucid.subject(model, loader, samples=3)
    assert torch.equal(streamed.labels, masks[streamed.ids])
    assert torch.equal(streamed.inputs, images[streamed.ids])


def test_255_among_bytes_is_no_label(model, images, masks, tmp_path):
    published = masks.where(masks != IGNORED, 255).to(torch.uint8)
    assert torch.equal(pellucid.subject(model, (images, published)).labels, masks)
    np.savez(tmp_path / "scenes.npz", x=images.numpy(), y=published.numpy(), class_names=np.array(["a", "b", "c"]))
    made = pellucid.subject(model, tmp_path / "scenes.npz")
    assert torch.equal(made.labels, masks)
    assert made.class_names == ("a", "b", "c")
    assert "pixels of 255 in the masks are read as without a label" in made.notes[0]


def test_named_classes_are_matched_pixel_by_pixel(model, images, masks):
    data = Dataset(images, masks, ("sea", "land", "lake"), "d", "image", torch.arange(12))
    known = pellucid.models.Loaded(model, "net", class_names=("land", "lake", "sea"))
    made = pellucid.subject(known, data)
    for name in ("sea", "land", "lake"):
        there = masks == data.class_names.index(name)
        assert bool((made.labels[there] == made.class_names.index(name)).all())
    assert bool((made.labels[masks == IGNORED] == IGNORED).all())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"y": np.zeros((4, 4, 4), int)}, "has pixels of class 0 only"),
        ({"y": np.full((4, 4, 4), -100)}, "has pixels without a label only"),
        ({"y": np.zeros((4, 3, 4), int)}, "has masks of 3 x 4 pixels for images of 4 x 4"),
        ({"y": np.full((4, 4, 4), 0.5)}, "must be classes, whole numbers"),
        ({"y": np.full((4, 4, 4), -1)}, "must count classes from 0, and -100 for no label, got -1"),
        ({"y": np.full((4, 4, 4), 10**6)}, "must count classes from 0 to less than 10,000"),
        ({"y": np.zeros((3, 4, 4), int)}, "has 4 inputs but 3 labels"),
        ({"x": np.zeros((4, 5), np.float32), "y": np.zeros((4, 4, 4), int)}, "must be a vector of whole numbers"),
    ],
)
def test_files_with_masks_that_do_not_fit(tmp_path, change, sentence):
    np.savez(tmp_path / "bad.npz", **{"x": np.zeros((4, 1, 4, 4), np.float32), **change})
    with pytest.raises(DataError, match=re.escape(sentence)):
        pellucid.data.load(str(tmp_path / "bad.npz"))


def test_masks_are_cut_and_resized_like_their_images(rng):
    masks = rng.integers(3, (2, 12, 8))
    images = masks[:, None].float() / 2
    for size in ((6, 6), (4, 4), (24, 16), (5, 7)):
        fitted = pellucid.data.fit_images(Dataset(images, masks, (), "d", "image", torch.arange(2)), image_size=size)
        assert fitted.labels.shape == (2, *size)
        assert fitted.inputs.shape[2:] == size
    double = pellucid.data.fit_images(Dataset(images, masks, (), "d", "image", torch.arange(2)), image_size=(24, 16))
    assert torch.equal(double.labels, masks.repeat_interleave(2, 1).repeat_interleave(2, 2))
