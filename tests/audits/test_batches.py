"""How many samples go through at once."""

import pytest
import torch
from torch import nn

import pellucid
from pellucid.audits import PROBES, plan
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


def test_a_quick_audit_of_photographs_is_planned_for_minutes():
    subject = Subject(Wide(2), torch.rand(20, 3, 224, 224), torch.arange(20) % 2)
    wanted = {row.probe: row.wanted for row in plan(subject, effort="quick").rows}
    assert sum(wanted.values()) < 15_000  # 0.05 s each with EfficientNet-lite0 on one core
    few = subject.take(torch.arange(8))
    rows = {row.probe: row for row in plan(few, effort="quick").rows}
    assert [name for name, row in rows.items() if row.skip] == ["calibration"]
    assert "needs at least 30 samples" in rows["calibration"].skip


def test_a_quick_look_at_photographs_cuts_them_into_fewer_cells():
    subject = Subject(Wide(2), torch.rand(4, 3, 66, 66, generator=torch.Generator().manual_seed(0)))
    quick = pellucid.audit(subject, quick=True, probes=["concepts", "feature-diversity"])
    assert quick.findings[0].provenance.settings["players"] == "grid 3 x 3"
    assert quick.findings[0].provenance.evaluations == 4 * (2**9 + 128 + 1)
    assert PROBES["concepts"].need(subject, effort="full").wanted == 4 * (2**12 + 128 + 1)
