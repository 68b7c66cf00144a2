"""Intersection over union: by its definition, against scikit-learn, and with classes that are nowhere."""

import math

import pytest
import torch
from torch.testing import assert_close

from pellucid.core import IGNORED, DataError
from pellucid.metrics import confusion, confusions, iou, segmentation


@pytest.fixture
def labels(rng):
    labels = rng.child("labels").integers(4, (6, 9, 7))
    labels[:, 2] = IGNORED
    return labels


@pytest.fixture
def pred(rng, labels):
    other = rng.child("pred").integers(4, labels.shape)
    keep = rng.child("keep").uniform(labels.shape) < 0.6
    return torch.where(keep & (labels >= 0), labels, other)


def test_it_counts_by_its_definition(pred, labels):
    counts = confusion(pred, labels, 4)
    for truth in range(4):
        for answer in range(4):
            assert counts[truth, answer] == ((labels == truth) & (pred == answer)).sum()
    found = iou(counts)
    for k in range(4):
        known = labels != IGNORED
        both = ((labels == k) & (pred == k)).sum()
        either = (((labels == k) | (pred == k)) & known).sum()
        assert_close(found.per_class[k], (both / either).double())
    assert_close(found.mean, found.per_class.mean())


def test_scikit_learn_agrees(pred, labels):
    metrics = pytest.importorskip("sklearn.metrics")
    known = labels != IGNORED
    wanted = metrics.jaccard_score(labels[known].numpy(), pred[known].numpy(), average=None)
    assert_close(iou(confusion(pred, labels, 4)).per_class, torch.from_numpy(wanted))


def test_parts_add_up(pred, labels):
    whole = confusion(pred, labels, 4)
    assert torch.equal(confusions(pred, labels, 4).sum(0), whole)
    assert torch.equal(confusion(pred[:2], labels[:2], 4) + confusion(pred[2:], labels[2:], 4), whole)
    assert_close(iou(confusions(pred, labels, 4)).per_class[1], iou(confusion(pred[1], labels[1], 4)).per_class)


def test_a_class_that_is_nowhere_does_not_count():
    found = iou(confusion(torch.tensor([0, 0, 2]), torch.tensor([0, 2, 2]), 4))
    assert found.per_class.isnan().tolist() == [False, True, False, True]
    assert_close(found.mean, torch.tensor(0.5, dtype=torch.float64))
    assert iou(torch.zeros(2, 2)).mean.isnan()
    # Answered but not there: it counts, and is all wrong.
    assert iou(confusion(torch.tensor([0, 1]), torch.tensor([0, 0]), 2)).per_class.tolist() == [0.5, 0.0]


def test_a_perfect_answer_has_no_room_for_chance(labels, rng):
    found = segmentation(confusions(labels.clamp_min(0), labels, 4), rng=rng)
    assert found.mean_iou.value == found.mean_iou.low == found.mean_iou.high == 1
    assert found.pixel_accuracy.value == 1
    assert_close(found.recall, torch.ones(4, dtype=torch.float64))


def test_intervals_draw_images(pred, labels, rng):
    counts = confusions(pred, labels, 4)
    found = segmentation(counts, rng=rng)
    assert found.mean_iou.value == float(iou(counts.sum(0)).mean)
    assert found.mean_iou.low < found.mean_iou.value < found.mean_iou.high
    same = segmentation(counts[:1].expand(6, -1, -1), rng=rng)  # the same image again and again
    assert same.mean_iou.low == pytest.approx(same.mean_iou.high)
    one = segmentation(counts[:1], rng=rng)
    assert math.isnan(one.mean_iou.low)
    more = segmentation(counts.repeat(16, 1, 1), rng=rng)
    width = found.mean_iou.high - found.mean_iou.low
    assert more.mean_iou.high - more.mean_iou.low == pytest.approx(width / 4, rel=0.35)
    assert torch.equal(found.confusion, counts.sum(0))


def test_a_draw_without_a_class_does_not_lift_the_mean(rng):
    counts = torch.tensor([[[500, 5, 0], [5, 490, 0], [0, 0, 0]]] * 12)
    counts[3, 2, 1] = 20  # the third class is in one image, and missed; a third of the draws go without that image
    found = segmentation(counts, rng=rng)
    assert found.mean_iou.value == pytest.approx(0.65, abs=0.01)
    assert found.mean_iou.high == pytest.approx(0.65, abs=0.01)
    assert found.per_class.high[2] == 0


def test_the_floor_is_the_most_frequent_class(rng):
    counts = torch.tensor([[[6, 0], [4, 0]]])
    assert segmentation(counts, rng=rng).floor == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("pred", "labels", "message"),
    [
        (torch.zeros(2, 3).long(), torch.zeros(3, 2).long(), "must have one shape"),
        (torch.zeros(2), torch.zeros(2).long(), "of logits take argmax"),
        (torch.tensor([3]), torch.tensor([0]), "pred must hold classes from 0 to 2, got 3 to 3"),
        (torch.tensor([0]), torch.tensor([-1]), "labels must hold classes from 0 to 2, got -1 to -1"),
    ],
)
def test_what_does_not_fit_is_refused(pred, labels, message):
    with pytest.raises(DataError, match=message):
        confusions(pred, labels, 3)


def test_no_counts_are_refused(rng):
    with pytest.raises(DataError, match="no pixel has a label"):
        segmentation(torch.zeros(3, 2, 2).long(), rng=rng)
    with pytest.raises(DataError, match=r"shape \(\.\.\., K, K\)"):
        iou(torch.zeros(2, 3))
