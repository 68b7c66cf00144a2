"""The judgement: each rule at its edges."""

import math

import pytest

from pellucid.audits import _levels as levels
from pellucid.core import wilson


def test_accuracy():
    assert levels.accuracy(0.1, 0.2, 0.1, n=500, worst_high=1).level == "weak"
    assert levels.accuracy(0.8, 0.85, 0.1, n=500, worst_high=0.7).level == "watch"
    assert levels.accuracy(0.8, 0.85, 0.1, n=500, worst_high=0.9).level == "fine"


def test_accuracy_far_from_what_could_be_learned_is_not_fine():
    judged = levels.accuracy(0.28, 0.37, 0.1, n=400, worst_high=1)
    assert judged.level == "watch"
    assert "up to 37%, below 55%, half of the way from there to 100%" in judged.reason
    assert levels.accuracy(0.54, 0.549, 0.1, n=9999, worst_high=1).level == "watch"
    assert levels.accuracy(0.54, 0.551, 0.1, n=9999, worst_high=1).level == "fine"
    assert levels.accuracy(0.91, 0.94, 0.9, n=9999, worst_high=1).level == "watch"  # as far with a frequent class


def test_two_samples_condemn_no_model():
    judged = levels.accuracy(0.34, 1.0, 0.5, n=2, worst_high=1)
    assert judged.level == "watch"
    assert "2 samples cannot tell" in judged.reason


def test_calibration():
    assert levels.calibration(0.04, 0.02, one_sided=False).level == "fine"
    assert levels.calibration(0.04, 0.02, one_sided=True).level == "watch"
    assert levels.calibration(0.05, 0.02, one_sided=False).level == "watch"
    assert levels.calibration(0.2, 0.02, one_sided=True).level == "weak"


@pytest.mark.parametrize(
    ("right", "kept", "n", "trusted", "level"),
    [
        (90, 90, 100, True, "fine"),
        (180, 150, 200, True, "watch"),  # a sixth, but more than a fifth is not ruled out
        (900, 760, 1000, True, "fine"),
        (90, 60, 100, True, "watch"),
        (90, 44, 100, True, "watch"),  # just above half, and the interval does not exclude less
        (90, 30, 100, True, "weak"),
        (90, 90, 100, False, "watch"),
        (90, 30, 100, False, "weak"),
        (10, 10, 100, True, "watch"),
        (0, 0, 100, True, "watch"),
        (0, 0, 2, True, "watch"),
        (4, 0, 4, True, "watch"),  # few samples condemn no model
        (29, 0, 29, False, "watch"),
        (30, 0, 30, True, "weak"),
        (3, 0, 4, True, "watch"),  # three of four is not shown to be better than chance
        (7, 6, 8, True, "watch"),
    ],
)
def test_robustness_is_judged_by_its_interval(right, kept, n, trusted, level):
    clean, share = wilson(right, n), wilson(kept, right) if right else None
    judged = levels.robustness(clean, share, "linf radius 0.03", n=right, floor=0.25, trusted=trusted)
    assert judged.level == level


def test_bottleneck_and_concepts():
    assert [levels.bottleneck(found, "").level for found in (True, False, None)] == ["watch", "fine", "watch"]
    assert levels.concepts(4, 4, 0.95, 80).level == "fine"
    assert levels.concepts(3, 4, 0.95, 80).level == "watch"


def test_diversity():
    assert levels.diversity(0.5, "relu", 0.0).level == "fine"
    assert levels.diversity(0.96, "relu", 0.0).level == "watch"
    assert levels.diversity(0.5, "relu", 0.6).level == "weak"
    assert levels.diversity(math.nan, "relu", 0.5).level == "watch"
