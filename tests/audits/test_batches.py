"""How many samples go through at once."""

import pytest
import torch
from torch import nn

from pellucid.audits._batches import MEMORY, MOST, forwards, kept
from pellucid.core import Subject


class Wide(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.body = nn.Conv2d(3, channels, 1)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return self.body(x).mean((2, 3))


@pytest.mark.parametrize(("size", "most"), [(8, MOST), (64, 85), (224, 6), (600, 4)])
def test_photographs_go_in_small_batches(size, most):
    subject = Subject(Wide(2), torch.zeros(1, 3, size, size))
    assert forwards(subject) == most


def test_batches_with_gradients_fit_the_memory_of_the_layers_kept():
    small, large = (Subject(Wide(channels), torch.zeros(1, 3, 64, 64)) for channels in (4, 400))
    assert kept(small) == MOST
    each = 4 * 403 * 64 * 64  # 400 channels and the input; the mean is a function, whose output is not seen
    assert kept(large) == int(MEMORY / (1.25 * each))
    assert kept(large) < 50


def test_measuring_costs_one_forward_and_leaves_no_hook():
    subject = Subject(Wide(2), torch.zeros(4, 3, 8, 8))
    before = subject.model.calls
    kept(subject)
    assert subject.model.calls == before + 1
    assert not subject.model.body._forward_hooks
