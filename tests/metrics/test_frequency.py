import pytest
import torch

from pellucid.core import DataError
from pellucid.metrics import FrequencyGroups, frequency_groups, group_accuracy


def test_thirds_of_the_classes_by_frequency():
    assert frequency_groups(range(100, 0, -10)) == FrequencyGroups((0, 1, 2), (3, 4, 5, 6), (7, 8, 9))
    assert frequency_groups(torch.tensor([5, 50, 500])) == FrequencyGroups((2,), (1,), (0,))
    assert frequency_groups([3, 7]) == FrequencyGroups((1,), (), (0,))
    assert frequency_groups([4] * 100).medium == tuple(range(33, 67))


def test_accuracy_of_the_groups_adds_up(rng):
    labels = rng.child("y").integers(10, (200, 1))[:, 0]
    correct = rng.child("right").uniform((200, 1))[:, 0] < 0.7
    groups = frequency_groups(range(10))
    found = group_accuracy(correct, labels, groups)
    sizes = {name: int(torch.isin(labels, torch.tensor(classes)).sum()) for name, classes in groups._asdict().items()}
    total = sum(found[name].value * size for name, size in sizes.items())
    assert total == pytest.approx(int(correct.sum()))
    assert all(part.low < part.value < part.high for part in found.values())


def test_groups_without_samples_are_left_out():
    found = group_accuracy(torch.tensor([True]), torch.tensor([2]), FrequencyGroups((0,), (1,), (2,)))
    assert list(found) == ["tail"]


def test_what_does_not_fit_is_refused():
    with pytest.raises(DataError, match="the numbers of samples of at least two classes"):
        frequency_groups([5])
    with pytest.raises(DataError, match="there are 1 answers but 2 labels"):
        group_accuracy(torch.tensor([True]), torch.tensor([0, 1]), FrequencyGroups((0,), (), (1,)))
