"""How often is a classifier right, and where does it err?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pellucid.core import Interval, wilson

from ._logits import checked


@dataclass(frozen=True)
class Classification:
    """How often a classifier is right; intervals are Wilson's at 95 %.

    Args:
        accuracy: share of correct predictions.
        per_class: share of each class's samples that are recognized (recall), `(K,)`; NaN for an absent class.
        support: samples per class `(K,)`.
        confusion: counts `(K, K)`, row = true class, column = predicted class.
        majority_floor: share of the most frequent class, reached by always answering it.
        predictions: predicted class per sample `(N,)`.
        correct: whether it is right `(N,)`.
        confidence: probability of the predicted class `(N,)`.
    """

    accuracy: Interval[float]
    per_class: Interval[Tensor]
    support: Int[Tensor, " K"]
    confusion: Int[Tensor, "K K"]
    majority_floor: float
    predictions: Int[Tensor, " N"]
    correct: Bool[Tensor, " N"]
    confidence: Float[Tensor, " N"]


def classification(logits: Tensor, labels: Tensor) -> Classification:
    """How often is the classifier right, per class, and which classes does it confuse?

    Args:
        logits: `(N, K)` finite numbers.
        labels: true classes `(N,)`.

    Raises:
        ModelError: logits are not `(N, K)` or not finite.
        DataError: labels do not fit them.

    Example:
        >>> result = classification(torch.eye(2)[[0, 0, 1]], torch.tensor([0, 1, 1]))
        >>> result.confusion
        tensor([[1, 0],
                [1, 1]])
    """
    logits, labels = checked(logits, labels)
    n_classes = logits.shape[1]
    confidence, predictions = logits.softmax(1).max(1)
    # The largest logit decides: two probabilities can round to the same number.
    predictions = logits.argmax(1)
    correct = predictions == labels
    confusion = torch.bincount(labels * n_classes + predictions, minlength=n_classes**2).view(n_classes, n_classes)
    support = confusion.sum(1)
    return Classification(
        accuracy=wilson(int(correct.sum()), len(labels)),
        per_class=wilson(confusion.diagonal(), support),
        support=support,
        confusion=confusion,
        majority_floor=float(support.max()) / len(labels),
        predictions=predictions,
        correct=correct,
        confidence=confidence,
    )
