import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pellucid.metrics import LossWatch, first_phase


def test_the_phase_ends_when_the_loss_begins_to_fall():
    falls = [2.3] * 500 + [2.0] * 200
    phase = first_phase(falls)
    # 0.98^n of the way is left after n steps: 2% of 2.3 is 15.3% of the drop of 0.3, reached in the 9th step.
    assert phase.end == 508
    assert phase.lasted == 508
    assert phase.start == pytest.approx(2.3)


def test_a_flat_loss_has_no_end_and_a_falling_one_none_to_speak_of():
    assert first_phase([2.3] * 400).end is None
    assert first_phase([2.3] * 400).lasted == 400
    assert first_phase([2.3 * 0.97**k for k in range(100)]).end < 30
    assert first_phase([2.3 + 0.01 * k for k in range(300)]).end is None


def test_a_dip_does_not_end_it():
    dip = [2.3] * 100 + [1.9] * 7 + [2.3] * 200
    assert first_phase(dip).end is None


@given(scale=st.floats(1e-6, 1e6), noise=st.lists(st.floats(-0.01, 0.01), min_size=300, max_size=300))
@settings(max_examples=6, deadline=None)
def test_the_unit_of_the_loss_does_not_matter(scale, noise):
    losses = [1 + n - 0.5 * (k > 150) for k, n in enumerate(noise)]
    assert first_phase([scale * loss for loss in losses]).end == first_phase(losses).end


def test_a_negative_loss_falls_too():
    assert first_phase([-1.0] * 100).end is None
    assert first_phase([-1.0] * 100 + [-2.0] * 50).end is not None


def test_steps_that_cannot_change_anything_are_left_out():
    warm = first_phase([None] * 300 + [2.3] * 30 + [1.0] * 60)
    cold = first_phase([2.3] * 30 + [1.0] * 60)
    assert warm.end == cold.end + 300
    assert warm.start == cold.start
    assert first_phase([math.nan, *[2.3] * 30]).start == pytest.approx(2.3)


def test_too_few_losses_say_nothing():
    phase = first_phase([2.3] * 19)
    assert math.isnan(phase.start)
    assert phase.end is None
    assert first_phase([]).lasted == 0


def test_step_by_step_equals_at_once():
    losses = [2.3] * 60 + [1.0] * 60
    watch = LossWatch()
    for loss in losses:
        watch.add(loss)
    assert watch.phase == first_phase(losses)
