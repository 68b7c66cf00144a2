"""Metrics show themselves."""

from __future__ import annotations

import torch
from torch import nn

from pellucid.attacks import PGD, Linf
from pellucid.core import Stream
from pellucid.metrics import calibration, classification, feature_diversity, robustness_curve


def test_metrics_show_their_numbers_with_intervals():
    logits, labels = torch.eye(3).repeat(20, 1) * 4, torch.arange(60) % 3
    labels[:6] = (labels[:6] + 1) % 3
    shown = classification(logits, labels)
    assert "accuracy: 90.0% (79.9% to 95.3%)" in str(shown)
    assert len(str(shown).splitlines()) == 8
    bins = calibration(logits, labels)
    assert "expected calibration error: 6.5%" in str(bins)
    assert "0.93 to 1.00  60" in str(bins)
    assert "<svg" in bins._repr_html_()


def test_a_class_without_samples_is_a_dash():
    shown = classification(torch.eye(3)[:2], torch.tensor([0, 1]))
    assert str(shown).splitlines()[-1].split() == ["2", "0", "\N{EN DASH}", "0", "1"]


def test_curves_and_layers_show_themselves():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    x, y = torch.rand(12, 1, 2, 2), torch.arange(12) % 2
    rng = Stream(0).at(torch.arange(12))
    curve = robustness_curve(model, x, y, lambda eps: PGD(Linf(eps), steps=2), (0.1, 0.2), rng=rng, bisections=1)
    assert "samples: 12" in str(curve)
    assert [line.split()[0] for line in str(curve).splitlines()[-2:]] == ["0.1", "0.2"]
    layers = feature_diversity(model, x, y)
    assert "ReLU" in str(layers)
    assert "<svg" in layers._repr_html_()
