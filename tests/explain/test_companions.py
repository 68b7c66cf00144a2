"""The structure test and the gap test on models whose answers are known."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pellucid.core import Stream
from pellucid.explain import gap_test, structure_test
from pellucid.games import Features, Patches


class Middle(nn.Module):
    """Right as long as the four middle cells of a 4 x 4 grid are there; the edge is not looked at."""

    def forward(self, x):
        there = (x[:, 0, 2:6, 2:6] > 0).all(-1).all(-1).float()
        return torch.stack([there, 1 - there], dim=1)


def test_a_model_of_the_middle_loses_nothing_from_the_edge_inwards(rng):
    x, y = torch.ones(30, 1, 8, 8), torch.zeros(30, dtype=torch.int64)
    steps = []
    found = structure_test(
        Middle(), x, y, Patches(4, fill="zero"), rng=rng, on_step=lambda done, total: steps.append((done, total))
    )
    assert found.layout.value.tolist() == [1.0] * 9 + [0.0]  # 12 of the 16 cells are the edge: 80 %
    assert found.random.value[0] == 1
    assert float(found.random.value[5]) < 0.3
    expected = torch.trapezoid(found.layout.value - found.random.value, found.shares)
    assert float(found.area.value) == pytest.approx(float(expected))
    assert float(found.area.low) > 0.3
    assert found.evaluations == 30 * 20
    assert steps[-1] == (600, 600)


def test_a_model_that_needs_nothing_gains_nothing(rng):
    always = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    nn.init.zeros_(always[1].weight)
    with torch.no_grad():
        always[1].bias.copy_(torch.tensor([1.0, 0.0]))
    x, y = torch.ones(4, 1, 8, 8), torch.zeros(4, dtype=torch.int64)
    found = structure_test(always, x, y, Patches(4, fill="zero"), rng=rng)
    assert float(found.area.value) == 0
    assert bool((found.random.value == 1).all())


def test_company_does_not_matter(rng):
    x, y = Stream(1).uniform((4, 1, 8, 8)), torch.tensor([0, 1, 0, 1])
    with rng.child("weights").forked():
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    whole = structure_test(model, x, y, Patches(4, fill="zero"), rng=rng)
    parts = [structure_test(model, x[k], y[k], Patches(4, fill="zero"), rng=rng.at(k)) for k in ([0, 1], [2, 3])]
    mean = (parts[0].random.value + parts[1].random.value) / 2
    assert mean.tolist() == pytest.approx(whole.random.value.tolist())


def test_the_gap_is_the_difference_of_the_losses(rng):
    model = nn.Linear(1, 1)
    with torch.no_grad():
        model.weight.fill_(1.0)
        model.bias.fill_(0.0)
    train, test = torch.full((50, 1), 3.0), torch.full((40, 1), 1.0)
    ones = torch.ones(50, dtype=torch.int64)
    found = gap_test(model, (train, ones), (test, ones[:40]), rng=rng)
    softplus = torch.nn.functional.softplus
    assert float(found.train.value) == pytest.approx(float(softplus(torch.tensor(-3.0))))
    assert float(found.gap.value) == pytest.approx(float(softplus(torch.tensor(-1.0)) - softplus(torch.tensor(-3.0))))
    assert float(found.gap.low) == pytest.approx(float(found.gap.high))
    assert found.evaluations == 90


def test_refusals(rng):
    x, y = torch.ones(2, 1, 8, 8), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="shares must increase"):
        structure_test(Middle(), x, y, Patches(4, fill="zero"), shares=(0.5, 0.2), rng=rng)
    with pytest.raises(ValueError, match="needs cells on a grid"):
        structure_test(nn.Linear(4, 2), torch.ones(2, 4), y, Features(fill="zero"), rng=rng)
