"""The judgement: each rule at its edges."""

import math

import pytest

from pellucid.audits import _levels as levels


def test_accuracy():
    assert levels.accuracy(0.1, 0.1, n=500, worst_high=1, overall_low=0.1).level == "weak"
    assert levels.accuracy(0.8, 0.1, n=500, worst_high=0.7, overall_low=0.8).level == "watch"
    assert levels.accuracy(0.8, 0.1, n=500, worst_high=0.9, overall_low=0.8).level == "fine"


def test_two_samples_condemn_no_model():
    judged = levels.accuracy(0.34, 0.5, n=2, worst_high=1, overall_low=0.34)
    assert judged.level == "watch"
    assert "2 samples cannot tell" in judged.reason


def test_calibration():
    assert levels.calibration(0.04, 0.02, one_sided=False).level == "fine"
    assert levels.calibration(0.04, 0.02, one_sided=True).level == "watch"
    assert levels.calibration(0.05, 0.02, one_sided=False).level == "watch"
    assert levels.calibration(0.2, 0.02, one_sided=True).level == "weak"


@pytest.mark.parametrize(
    ("clean", "attacked", "trusted", "level"),
    [
        (0.9, 0.9, True, "fine"),
        (0.9, 0.73, True, "fine"),
        (0.9, 0.6, True, "watch"),
        (0.9, 0.4, True, "weak"),
        (0.9, 0.9, False, "watch"),
        (0.9, 0.4, False, "weak"),
        (0.1, 0.1, True, "watch"),
        (0.0, 0.0, True, "weak"),
    ],
)
def test_robustness(clean, attacked, trusted, level):
    assert levels.robustness(clean, attacked, "linf radius 0.03", floor=0.1, trusted=trusted).level == level


def test_bottleneck_and_concepts():
    assert [levels.bottleneck(found, "").level for found in (True, False, None)] == ["watch", "fine", "watch"]
    assert levels.concepts(4, 4, 0.95, 80).level == "fine"
    assert levels.concepts(3, 4, 0.95, 80).level == "watch"


def test_diversity():
    assert levels.diversity(0.5, "relu", 0.0).level == "fine"
    assert levels.diversity(0.96, "relu", 0.0).level == "watch"
    assert levels.diversity(0.5, "relu", 0.6).level == "weak"
    assert levels.diversity(math.nan, "relu", 0.5).level == "watch"
