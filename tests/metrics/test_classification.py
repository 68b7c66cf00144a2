"""Accuracy: counted by hand, and in the terms everybody uses."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from pellucid.core import DataError, ModelError, Stream, wilson
from pellucid.metrics import classification

LOGITS = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0], [1.0, 0.0, 0.5], [0.2, 0.1, 0.0]])
LABELS = torch.tensor([0, 1, 1, 0])


def test_by_hand() -> None:
    result = classification(LOGITS, LABELS)
    assert result.predictions.tolist() == [0, 1, 0, 0]
    assert result.correct.tolist() == [True, True, False, True]
    assert result.confusion.tolist() == [[2, 0, 0], [1, 1, 0], [0, 0, 0]]
    assert result.support.tolist() == [2, 2, 0]
    assert result.accuracy == wilson(3, 4)
    assert result.per_class.value[:2].tolist() == [1.0, 0.5]
    assert math.isnan(result.per_class.value[2])
    assert result.majority_floor == 0.5
    assert_close(result.confidence, LOGITS.double().softmax(1).amax(1))


def test_against_scikit_learn(rng: Stream) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    logits, labels = rng.child("z").normal((300, 7)), rng.child("y").integers(7, (300,))
    result = classification(logits, labels)
    assert result.confusion.tolist() == metrics.confusion_matrix(labels, logits.argmax(1)).tolist()
    assert result.accuracy.value == pytest.approx(metrics.accuracy_score(labels, logits.argmax(1)))
    recall = metrics.recall_score(labels, logits.argmax(1), average=None)
    assert_close(result.per_class.value, torch.from_numpy(recall))


def test_the_largest_logit_decides_where_probabilities_tie() -> None:
    logits = torch.tensor([[1e-17, 0.0], [0.0, 1e-17]], dtype=torch.float64)
    assert classification(logits, torch.tensor([0, 1])).predictions.tolist() == [0, 1]


def test_one_class_only_is_said_by_the_floor() -> None:
    assert (
        classification(
            F.one_hot(torch.zeros(5, dtype=torch.int64), 3).float(), torch.zeros(5, dtype=torch.int64)
        ).majority_floor
        == 1.0
    )


@pytest.mark.parametrize(
    ("logits", "labels", "error", "message"),
    [
        (torch.zeros(3), torch.zeros(3, dtype=torch.int64), ModelError, r"shape \(N, K\)"),
        (torch.zeros(3, 1), torch.zeros(3, dtype=torch.int64), ModelError, r"K >= 2"),
        (torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), ModelError, r"N >= 1"),
        (torch.zeros(3, 2, dtype=torch.int64), torch.zeros(3, dtype=torch.int64), ModelError, "floating point"),
        (torch.tensor([[0.0, 1.0], [0.0, torch.nan]]), torch.tensor([0, 1]), ModelError, "sample 1 hold NaN"),
        (torch.zeros(3, 2), torch.zeros(2, dtype=torch.int64), DataError, r"whole numbers of shape \(3,\)"),
        (torch.zeros(3, 2), torch.zeros(3), DataError, r"whole numbers of shape \(3,\)"),
        (torch.zeros(3, 2), torch.tensor([0, 1, 2]), DataError, "sample 2 has label 2 .* classes 0 to 1"),
        (torch.zeros(3, 2), torch.tensor([0, -1, 1]), DataError, "sample 1 has label -1"),
    ],
)
def test_bad_input(logits: torch.Tensor, labels: torch.Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        classification(logits, labels)
