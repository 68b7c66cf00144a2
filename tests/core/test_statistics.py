"""Intervals and tests against published values, scipy and closed forms."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch.testing import assert_close

from pellucid.core import bootstrap, mcnemar, paired_difference, wilson

# -- Wilson -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_the_published_intervals(k, n, low, high):
    """Newcombe (1998), Statistics in Medicine 17, 857-872, table I, method 3."""
    found = wilson(k, n)
    assert found.value == k / n
    assert found.low == pytest.approx(low, abs=5e-5)
    assert found.high == pytest.approx(high, abs=5e-5)


@given(n=st.integers(1, 10**6), part=st.floats(0, 1), confidence=st.sampled_from([0.5, 0.9, 0.95, 0.999]))
def test_wilson_equals_scipy(n, part, confidence):
    k = round(part * n)
    found = wilson(k, n, confidence=confidence)
    expected = stats.binomtest(k, n).proportion_ci(confidence, method="wilson")
    assert found.low == pytest.approx(expected.low, abs=1e-9)
    assert found.high == pytest.approx(expected.high, abs=1e-9)
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_wilson_takes_many_at_once():
    found = wilson(torch.tensor([0, 5, 10]), 10)
    for i, k in enumerate((0, 5, 10)):
        assert float(found.low[i]) == pytest.approx(wilson(k, 10).low)
        assert float(found.high[i]) == pytest.approx(wilson(k, 10).high)


def test_wilson_of_nothing_is_the_whole_range():
    found = wilson(0, 0)
    assert math.isnan(found.value)
    assert (found.low, found.high) == (0, 1)


@pytest.mark.parametrize("k", [-1, 6])
def test_impossible_counts_are_refused(k):
    with pytest.raises(ValueError, match="successes must lie between 0 and n"):
        wilson(k, 5)


# -- bootstrap ----------------------------------------------------------------------------------------------------


def test_the_bootstrap_of_a_mean_matches_normal_theory(rng):
    values = rng.child("values").normal((400,), dtype=torch.float64)
    found = bootstrap(values, rng=rng, resamples=4000)
    assert_close(found.value, values.mean())
    half = 1.96 * float(values.std()) / 20
    assert float(found.low) == pytest.approx(float(values.mean()) - half, abs=0.1 * half)
    assert float(found.high) == pytest.approx(float(values.mean()) + half, abs=0.1 * half)


def test_a_mean_and_its_function_agree(rng):
    values = rng.child("values").normal((30, 2, 3), dtype=torch.float64)
    groups = rng.child("groups").integers(8, (30,))
    fast = bootstrap(values, rng=rng, groups=groups, resamples=50)
    slow = bootstrap(values, rng=rng, groups=groups, resamples=50, statistic=lambda rows: rows.mean(0))
    assert fast.low.shape == (2, 3)
    assert_close(fast.low, slow.low)
    assert_close(fast.high, slow.high)


def test_a_statistic_can_be_any_function(rng):
    values = rng.child("values").normal((101,), dtype=torch.float64)
    found = bootstrap(values, rng=rng, resamples=200, statistic=lambda rows: rows.median(0).values)
    assert_close(found.value, values.median())
    assert found.low < found.value < found.high


def test_copies_in_a_group_do_not_narrow_the_interval(rng):
    values = rng.child("values").normal((50,), dtype=torch.float64)
    single = bootstrap(values, rng=rng)
    copied = bootstrap(values.repeat_interleave(10), rng=rng, groups=torch.arange(50).repeat_interleave(10))
    assert_close(copied.low, single.low)
    assert_close(copied.high, single.high)
    naive = bootstrap(values.repeat_interleave(10), rng=rng)
    assert float(naive.high - naive.low) < 0.5 * float(single.high - single.low)


def test_the_bootstrap_repeats_itself_and_leaves_the_stream_alone(rng):
    values = rng.child("values").normal((20,))
    assert_close(bootstrap(values, rng=rng).low, bootstrap(values, rng=rng).low, rtol=0, atol=0)


def test_one_observation_has_no_interval(rng):
    found = bootstrap(torch.ones(3, 2), rng=rng, groups=torch.zeros(3, dtype=torch.int64))
    assert_close(found.value, torch.ones(2, dtype=torch.float64))
    assert found.low.isnan().all()
    assert found.high.isnan().all()


def test_bad_values_and_groups_are_refused(rng):
    with pytest.raises(ValueError, match="at least one row"):
        bootstrap(torch.zeros(0), rng=rng)


# -- McNemar ------------------------------------------------------------------------------------------------------


def _pairs(both, only_a, only_b, neither):
    a = torch.tensor([1, 1, 0, 0]).repeat_interleave(torch.tensor([both, only_a, only_b, neither])).bool()
    b = torch.tensor([1, 0, 1, 0]).repeat_interleave(torch.tensor([both, only_a, only_b, neither])).bool()
    return a, b


def test_the_paired_interval_is_the_published_one():
    """Newcombe (1998), Statistics in Medicine 17, 2635-2650: cells 36, 12, 2, 0; method 10, share(a) - share(b)."""
    found = mcnemar(*_pairs(36, 12, 2, 0))
    assert -found.high == pytest.approx(0.0569, abs=5e-5)
    assert -found.low == pytest.approx(0.3404, abs=5e-5)


def test_the_correlation_of_pairs_is_corrected_for_continuity():
    """Method 10 by hand: cells 20, 12, 2, 16, where (20 * 16 - 12 * 2 - 50 / 2) / sqrt(32 * 18 * 22 * 28) is phi."""
    a, b = wilson(32, 50), wilson(22, 50)
    phi = 271 / (32 * 18 * 22 * 28) ** 0.5
    down = ((a.value - a.low) ** 2 - 2 * phi * (a.value - a.low) * (b.high - b.value) + (b.high - b.value) ** 2) ** 0.5
    up = ((a.high - a.value) ** 2 - 2 * phi * (a.high - a.value) * (b.value - b.low) + (b.value - b.low) ** 2) ** 0.5
    found = mcnemar(*_pairs(20, 12, 2, 16))
    assert -found.high == pytest.approx(0.2 - down)
    assert -found.low == pytest.approx(0.2 + up)


def test_two_systems_that_never_disagree_have_wilsons_width():
    """With no success at all, both shares are 0 and each end of the difference is Wilson's."""
    end = wilson(0, 54).high
    found = mcnemar(*_pairs(0, 0, 0, 54))
    assert found.p_value == 1
    assert found.high == pytest.approx(end)
    assert found.low == pytest.approx(-end)


@given(only_a=st.integers(0, 60), only_b=st.integers(0, 60), both=st.integers(0, 30), neither=st.integers(1, 30))
def test_the_exact_test_equals_scipys_binomial(only_a, only_b, both, neither):
    found = mcnemar(*_pairs(both, only_a, only_b, neither))
    n = only_a + only_b
    expected = stats.binomtest(only_a, n).pvalue if n else 1.0
    assert found.p_value == pytest.approx(expected, abs=1e-12)
    assert found.n == both + only_a + only_b + neither


@given(only_a=st.integers(0, 40), only_b=st.integers(0, 40), both=st.integers(0, 40), neither=st.integers(1, 40))
def test_swapping_the_two_turns_the_difference_around(only_a, only_b, both, neither):
    a, b = _pairs(both, only_a, only_b, neither)
    one, other = mcnemar(a, b), mcnemar(b, a)
    assert one.difference == pytest.approx(-other.difference)
    assert one.low == pytest.approx(-other.high)
    assert one.p_value == other.p_value
    assert -1 <= one.low <= one.difference <= one.high <= 1


def test_the_paired_interval_covers_the_truth(rng):
    """Of 400 data sets with a known difference, the 95 % interval must hold it about 95 % of the time."""
    sets, n = 400, 200
    u = rng.uniform((sets, n, 2), dtype=torch.float64)
    a = u[..., 0] < 0.7
    b = torch.where(u[..., 1] < 0.6, a, u[..., 1] < 0.9)  # P(b) = 0.6 * 0.7 + 0.3
    truth = 0.6 * 0.7 + 0.3 - 0.7
    inside = sum(found.low <= truth <= found.high for found in map(mcnemar, a, b))
    assert 0.92 <= inside / sets <= 0.985


def test_large_samples_do_not_overflow():
    found = mcnemar(*_pairs(0, 6000, 6100, 10))
    assert found.p_value == pytest.approx(stats.binomtest(6000, 12100).pvalue, rel=1e-9)


# -- paired differences -------------------------------------------------------------------------------------------


def test_few_pairs_try_every_sign(rng):
    a, b = torch.zeros(5), torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    found = paired_difference(a, b, rng=rng)
    assert found.difference == 3
    assert found.p_value == pytest.approx(2 / 32)


def test_the_sign_flip_test_agrees_with_scipy(rng):
    gain = rng.normal((60,), dtype=torch.float64) + 0.25
    found = paired_difference(torch.zeros(60, dtype=torch.float64), gain, rng=rng)
    expected = stats.ttest_1samp(gain.numpy(), 0).pvalue
    assert found.p_value == pytest.approx(expected, rel=0.15)
    assert found.low < found.difference < found.high
    assert found.n == 60


def test_no_difference_has_p_one(rng):
    a = rng.normal((30,))
    found = paired_difference(a, a, rng=rng)
    assert (found.difference, found.low, found.high, found.p_value) == (0, 0, 0, 1)


def test_p_values_are_uniform_when_nothing_differs(rng):
    p = [
        paired_difference(torch.zeros(20), rng.child("null", i).normal((20,)), rng=rng.child(i), flips=199).p_value
        for i in range(300)
    ]
    assert stats.kstest(p, "uniform").pvalue > 1e-3


def test_unpaired_vectors_are_refused(rng):
    with pytest.raises(ValueError, match=r"vectors of one length, at least 1, got \(0,\) and \(0,\)"):
        paired_difference(torch.zeros(0), torch.zeros(0), rng=rng)
