"""Calibration: by hand, against its definition, and a floor that says what chance alone gives."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from pellucid.core import Stream
from pellucid.metrics import calibration, fit_temperature


def two_class(p: Tensor) -> Tensor:
    """Logits whose first class has probability p."""
    return torch.stack([p.log(), (1 - p).log()], dim=1)


def test_by_hand() -> None:
    """Four samples in two bins: 0.6, 0.6 (one right) and 0.9, 0.9 (both right)."""
    result = calibration(two_class(torch.tensor([0.6, 0.6, 0.9, 0.9]).double()), torch.tensor([0, 1, 0, 0]), bins=4)
    assert result.count.tolist() == [0, 0, 2, 2]
    assert result.ece == pytest.approx((2 * 0.1 + 2 * 0.1) / 4)
    assert result.overconfidence == pytest.approx(0.75 - 0.75)
    assert result.brier == pytest.approx((2 * 0.4**2 + 2 * 0.6**2 + 2 * 2 * 0.1**2) / 4)
    assert result.nll == pytest.approx(-(math.log(0.6) + math.log(0.4) + 2 * math.log(0.9)) / 4)
    assert_close(result.accuracy.value[[2, 3]], torch.tensor([0.5, 1.0]).double())
    assert_close(result.mean_confidence[[2, 3]], torch.tensor([0.6, 0.9]).double())
    assert result.accuracy.value[0].isnan()
    assert result.mean_confidence[0].isnan()
    assert_close(result.edges, torch.linspace(0, 1, 5).double())


def test_a_bin_includes_its_upper_end() -> None:
    assert calibration(torch.zeros(3, 2), torch.tensor([0, 1, 1]), bins=2).count.tolist() == [3, 0]


def test_follows_its_definition(rng: Stream) -> None:
    logits, labels = 2 * rng.child("z").normal((500, 4), dtype=torch.float64), rng.child("y").integers(4, (500,))
    result = calibration(logits, labels)
    p, predicted = logits.softmax(1).max(1)
    total = 0.0
    for b in range(15):
        rows = (p > b / 15) & (p <= (b + 1) / 15)
        if rows.any():
            total += float(rows.double().mean() * (p[rows].mean() - (predicted == labels)[rows].double().mean()).abs())
    assert result.ece == pytest.approx(total)
    assert result.nll == pytest.approx(float(F.cross_entropy(logits, labels)))
    assert result.brier == pytest.approx(float((logits.softmax(1) - F.one_hot(labels, 4)).square().sum(1).mean()))


def test_calibrated_probabilities_reach_the_floor_and_no_lower(rng: Stream) -> None:
    """Labels drawn from the stated probabilities: whatever error is left is the noise that `floor` predicts."""
    errors, floors = [], []
    for trial in range(60):
        here = rng.child(trial)
        p = here.child("p").uniform((400,), low=0.05, high=0.95, dtype=torch.float64)
        labels = (here.child("y").uniform((400,), dtype=torch.float64) > p).long()
        result = calibration(two_class(p), labels)
        errors.append(result.ece)
        floors.append(result.floor)
    mean = sum(errors) / 60
    assert mean == pytest.approx(sum(floors) / 60, rel=0.05)
    assert mean > 0.02


def test_promising_too_much_shows(rng: Stream) -> None:
    p = torch.full((1000,), 0.99).double()
    result = calibration(two_class(p), torch.arange(1000) % 2)
    assert result.overconfidence == pytest.approx(0.49)
    assert result.ece == pytest.approx(0.49)
    assert result.floor < 0.01


def test_certain_and_right_is_perfect() -> None:
    result = calibration(torch.tensor([[800.0, 0.0], [0.0, 800.0]]), torch.tensor([0, 1]))
    assert result.ece == result.brier == result.nll == result.floor == 0.0


def test_needs_a_bin() -> None:
    with pytest.raises(ValueError, match="bins must be at least 1, got 0"):
        calibration(torch.zeros(2, 2), torch.tensor([0, 1]), bins=0)


def test_the_temperature_is_found_again(rng):
    """Labels drawn from softmax(2.5 z) ask for the factor 2.5, and the answers stay what they are."""
    z = rng.child("z").normal((20_000, 4), dtype=torch.float64)
    lot = rng.child("lot").uniform((20_000, 1), dtype=torch.float64)
    labels = ((2.5 * z).softmax(1).cumsum(1) < lot).sum(1).clamp_max(3)
    found = fit_temperature(z, labels)
    assert found == pytest.approx(2.5, abs=0.1)
    assert fit_temperature(z * 10, labels) == pytest.approx(found / 10, rel=1e-6)
    best = F.cross_entropy(found * z, labels)
    assert all(best < F.cross_entropy(found * factor * z, labels) for factor in (0.97, 1.03))


def test_a_sample_of_weight_two_is_two_samples(rng):
    z, labels = rng.normal((30, 3)), rng.child("y").integers(3, (30, 1))[:, 0]
    twice = fit_temperature(torch.cat([z, z[:7]]), torch.cat([labels, labels[:7]]))
    weights = torch.tensor([2.0] * 7 + [1.0] * 23)
    assert fit_temperature(z, labels, weights=weights) == pytest.approx(twice, rel=1e-6)


def test_a_few_right_answers_do_not_ask_for_certainty():
    z = torch.eye(3)
    assert fit_temperature(z, torch.arange(3)) == pytest.approx(math.log(8))  # 4/5, 1/10 and 1/10
    assert fit_temperature(z, torch.tensor([1, 2, 0])) == 1e-4  # every answer is wrong: as unsure as can be
    assert fit_temperature(1e-6 * z, torch.arange(3)) == 1e4
