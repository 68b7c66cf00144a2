import msgspec
import pytest
import torch

from pellucid.core import DataError, Stream
from pellucid.data import LongTail, long_tail_counts, long_tailed, synthetic_images

LABELS = torch.arange(300) % 3


@pytest.mark.parametrize(
    ("most", "classes", "ratio", "total"),
    [
        (5000, 10, 0.005, 11203),
        (5000, 10, 0.01, 12406),
        (5000, 10, 0.02, 13996),
        (5000, 10, 0.1, 20431),
        (500, 100, 0.01, 10847),
        (6000, 10, 0.01, 14886),
    ],
)
def test_counts_are_those_of_the_papers(most, classes, ratio, total):
    counts = long_tail_counts(most, classes, ratio)
    assert sum(counts) == total
    assert counts[0] == most
    assert counts[-1] == round(ratio * most)
    assert list(counts) == sorted(counts, reverse=True)


def test_each_class_of_fashion_mnist():
    assert long_tail_counts(6000, 10, 0.01) == (6000, 3596, 2156, 1292, 774, 464, 278, 166, 100, 60)


def test_steps_have_two_sizes():
    assert long_tail_counts(50, 4, 0.1, "step") == (50, 50, 5, 5)
    assert long_tail_counts(50, 5, 0.1, "step") == (50, 50, 5, 5, 5)


def test_the_subset_is_a_function_of_the_stream_and_the_ids():
    rows = long_tailed(LABELS, 0.1, rng=Stream(3))
    assert torch.bincount(LABELS[rows]).tolist() == list(long_tail_counts(100, 3, 0.1))
    assert torch.equal(rows, long_tailed(LABELS, 0.1, rng=Stream(3)))
    assert not torch.equal(rows, long_tailed(LABELS, 0.1, rng=Stream(4)))
    # The samples in another order: the same ones are taken.
    order = Stream(5).permutations(300, 1)[0]
    moved = long_tailed(LABELS[order], 0.1, rng=Stream(3), ids=order)
    assert torch.equal(order[moved].sort().values, rows)


def test_a_longer_tail_lies_within_a_shorter_one():
    assert set(long_tailed(LABELS, 0.05, rng=Stream(0)).tolist()) < set(
        long_tailed(LABELS, 0.2, rng=Stream(0)).tolist()
    )
    assert len(long_tailed(LABELS, 1.0, rng=Stream(0))) == 300


def test_the_smallest_class_bounds_the_largest():
    labels = torch.tensor([0] * 50 + [1] * 20 + [2] * 30)
    assert torch.bincount(labels[long_tailed(labels, 0.25, rng=Stream(0))]).tolist() == [20, 10, 5]


def test_a_data_set_keeps_the_names_of_its_samples(rng):
    data = synthetic_images(64, rng=rng)
    tail = LongTail(ratio=0.25)(data)
    assert len(tail) < len(data)
    assert torch.equal(tail.inputs, data.inputs[tail.ids])
    assert torch.equal(tail.labels, data.labels[tail.ids])


def test_what_does_not_fit_is_refused():
    with pytest.raises(DataError, match=r"ratio must lie in \(0, 1\], got 1.5"):
        long_tailed(LABELS, 1.5, rng=Stream(0))
    with pytest.raises(DataError, match=r"ratio 0\.001 of 100 samples leaves less than one for the rarest class"):
        long_tailed(LABELS, 0.001, rng=Stream(0))
    with pytest.raises(DataError, match="class 1 has no samples"):
        long_tailed(torch.tensor([0, 2, 2]), 0.5, rng=Stream(0))
    with pytest.raises(DataError, match="a long tail needs at least two classes, got 1"):
        long_tailed(torch.zeros(5, dtype=torch.int64), 0.5, rng=Stream(0))
    with pytest.raises(DataError, match="labels must be one class number per sample"):
        long_tailed(torch.zeros(0, dtype=torch.int64), 0.5, rng=Stream(0))
    with pytest.raises(msgspec.ValidationError, match="ratio"):
        msgspec.convert({"ratio": 0}, LongTail)
