"""Drawing samples and making pictures of them."""

import pytest
import torch
from torch import nn

from pellucid.audits._samples import draw, ids_of, picture
from pellucid.core import Stream, Subject


def subject(labels, ids=None):
    n = len(labels)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    ids = torch.arange(n) if ids is None else ids
    return Subject(model, torch.rand(n, 1, 2, 2), torch.tensor(labels), ids=ids)


def test_a_draw_is_balanced_sorted_and_nested(rng):
    s = subject([0] * 30 + [1] * 5 + [2] * 5)
    rows = draw(s, 9, rng=rng)
    assert s.labels[rows].bincount().tolist() == [3, 3, 3]
    assert rows.tolist() == sorted(rows.tolist())
    assert set(rows.tolist()) <= set(draw(s, 18, rng=rng).tolist())
    assert len(draw(s, 99, rng=rng)) == 40


def test_a_draw_depends_on_ids_not_on_places(rng):
    labels, ids = torch.arange(12) % 3, torch.arange(12) * 7
    mixed = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    a = subject(labels.tolist(), ids)
    b = subject(labels[mixed].tolist(), ids[mixed])
    assert sorted(ids_of(a, draw(a, 5, rng=rng))) == sorted(ids_of(b, draw(b, 5, rng=rng)))


def test_a_draw_among_some_rows_stays_among_them(rng):
    s = subject([0, 1, 2] * 4)
    among = torch.tensor([1, 4, 8])
    assert set(draw(s, 2, rng=rng, among=among).tolist()) <= {1, 4, 8}
    assert len(draw(s, 2, rng=rng, among=torch.tensor([], dtype=torch.int64))) == 0


def test_without_labels_any_rows_are_drawn(rng):
    s = Subject(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), torch.rand(8, 1, 2, 2))
    assert len(draw(s, 3, rng=rng)) == 3
    assert draw(s, 3, rng=Stream(1)).tolist() != draw(s, 3, rng=Stream(2)).tolist()


@pytest.mark.parametrize(("channels", "shape"), [(1, (2, 3)), (3, (2, 3, 3)), (2, (2, 3))])
def test_pictures_have_the_shape_reports_draw(channels, shape):
    shown = picture(torch.ones(channels, 2, 3), title="t", bounds=(0.0, 1.0))
    assert shown.pixels.shape == shape
    assert shown.pixels.dtype.name == "uint8"
    assert int(shown.pixels.max()) == 255


def test_pictures_without_bounds_are_stretched_and_flat_ones_do_not_divide_by_zero():
    assert picture(torch.tensor([[[-3.0, 1.0]]]), title="t", bounds=None).pixels.tolist() == [[0, 255]]
    assert picture(torch.full((1, 2, 2), 5.0), title="t", bounds=None).pixels.max() == 0
