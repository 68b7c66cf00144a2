"""Does a classifier serve rare classes as well as frequent ones?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from pellucid.core import DataError, Interval, wilson


class FrequencyGroups(NamedTuple):
    """Classes by how many training samples they have: the most frequent third, the rarest third, and those between.

    Args:
        head: the most frequent classes, most frequent first.
        medium: the classes between.
        tail: the rarest classes, rarest last.
    """

    head: tuple[int, ...]
    medium: tuple[int, ...]
    tail: tuple[int, ...]


def frequency_groups(counts: Sequence[int] | Int[Tensor, " k"]) -> FrequencyGroups:
    """Which classes are frequent, which are rare? Thirds of the K classes; head and tail are K // 3 each, at least one.

    Classes with equally many samples keep their order.

    Args:
        counts: training samples per class, at least two classes.

    Raises:
        DataError: there are fewer than two classes, or a negative count.

    Example:
        >>> frequency_groups([5000, 500, 50, 1500])
        FrequencyGroups(head=(0,), medium=(3, 1), tail=(2,))
    """
    numbers = torch.as_tensor(counts, dtype=torch.int64).tolist()
    if len(numbers) < 2 or min(numbers) < 0:
        raise DataError(f"frequency groups need the numbers of samples of at least two classes, got {numbers}")
    order = sorted(range(len(numbers)), key=lambda k: -numbers[k])
    third = max(1, len(order) // 3)
    return FrequencyGroups(tuple(order[:third]), tuple(order[third:-third]), tuple(order[-third:]))


def group_accuracy(
    correct: Bool[Tensor, " n"], labels: Int[Tensor, " _"], groups: FrequencyGroups
) -> dict[str, Interval[float]]:
    """How often is a classifier right on frequent, medium and rare classes? With Wilson's intervals at 95 %.

    Args:
        correct: whether the answer to each sample is right.
        labels: true classes.
        groups: from `frequency_groups`, with the numbers of the training data.

    Returns:
        By group; a group without samples is left out.

    Raises:
        DataError: the lengths differ.

    Example:
        >>> groups = FrequencyGroups((0,), (), (1,))
        >>> found = group_accuracy(torch.tensor([True, True, False]), torch.tensor([0, 0, 1]), groups)
        >>> {name: part.value for name, part in found.items()}
        {'head': 1.0, 'tail': 0.0}
    """
    if correct.shape != labels.shape:
        raise DataError(f"there are {len(correct)} answers but {len(labels)} labels")
    found: dict[str, Interval[float]] = {}
    for name, classes in groups._asdict().items():
        inside = torch.isin(labels, torch.tensor(classes, dtype=labels.dtype, device=labels.device))
        if bool(inside.any()):
            found[name] = wilson(int(correct[inside].sum()), int(inside.sum()))
    return found
