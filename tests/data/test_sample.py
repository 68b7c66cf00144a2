import pytest
import torch

from pellucid.core import DataError, Stream
from pellucid.data import sample, synthetic_images, synthetic_table, unit


@pytest.fixture
def images(rng):
    return synthetic_images(40, rng=rng, classes=4)


def test_classes_are_equal_in_number(images, rng):
    assert sample(images, 12, rng=rng).labels.bincount().tolist() == [3, 3, 3, 3]
    assert sorted(sample(images, 14, rng=rng).labels.bincount().tolist()) == [3, 3, 4, 4]


def test_larger_draws_hold_the_smaller_ones(images, rng):
    few, many = sample(images, 7, rng=rng), sample(images, 23, rng=rng)
    assert set(few.ids.tolist()) < set(many.ids.tolist())


def test_a_draw_keeps_ids_and_order(images, rng):
    drawn = sample(images, 9, rng=rng)
    assert drawn.ids.tolist() == sorted(drawn.ids.tolist())
    assert torch.equal(drawn.inputs, images.inputs[drawn.ids])
    assert not torch.equal(drawn.ids, sample(images, 9, rng=Stream(1)).ids)


def test_a_rare_class_gives_all_it_has(rng):
    table = synthetic_table(60, rng=rng)
    few = sample(table, int((table.labels == 0).sum()) + 3, rng=rng)
    assert (few.labels == 1).sum() >= 3
    assert len(sample(table, 60, rng=rng)) == 60


@pytest.mark.parametrize("n", [0, 41])
def test_impossible_sizes_are_refused(images, rng, n):
    with pytest.raises(DataError, match=f"ask for 1 to 40, not {n}"):
        sample(images, n, rng=rng)


def test_pixels_are_scaled_and_floats_left_alone():
    assert unit(torch.tensor([0, 51, 255], dtype=torch.uint8)).tolist() == pytest.approx([0, 0.2, 1])
    x = torch.tensor([-3.0, 7.0])
    assert unit(x) is x
