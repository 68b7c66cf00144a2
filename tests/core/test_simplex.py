import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch.testing import assert_close

from pellucid.core import Stream, min_norm_weights, moment_weights

COV = torch.tensor(
    [[0.04, 0.01, 0, 0], [0.01, 0.09, 0.02, 0.01], [0, 0.02, 0.16, 0.03], [0, 0.01, 0.03, 0.25]], dtype=torch.float64
)
MU = torch.tensor([0.5, 1.2, 0.9, 0.8], dtype=torch.float64)
SECOND = COV + MU[:, None] * MU
TWO = torch.tensor([2.0, 1.0], dtype=torch.float64), torch.diag(torch.tensor([1.0, 4.0], dtype=torch.float64))


def close(found, expected, atol=2e-5):
    assert_close(found, torch.tensor(expected, dtype=torch.float64), atol=atol, rtol=0)


def problems(seed, m, samples=12):
    """Loss vectors as training gives them: second moments and means of positive numbers."""
    losses = Stream(seed).child("losses").uniform((samples, m), dtype=torch.float64) + 0.1
    return losses.T @ losses / samples, losses.mean(0)


# -- the numbers of the specification -----------------------------------------------------------------------------


def test_two_objectives_at_a_level():
    mu, cov = TWO
    close(moment_weights(cov, mu, r=1.5), [0.5, 0.5])
    close(moment_weights(cov + mu[:, None] * mu, mu, r=1.5), [0.5, 0.5])


def test_without_a_level_the_matrix_that_is_meant_decides():
    mu, cov = TWO
    close(moment_weights(cov, mu), [0.8, 0.2])  # the steadiest mix
    close(moment_weights(cov + mu[:, None] * mu, mu), [0.5, 0.5])  # the least second moment


@pytest.mark.parametrize("matrix", [COV, SECOND])
def test_four_objectives_at_a_level(matrix):
    close(moment_weights(matrix, MU, r=0.8), [0.46607, 0.31606, 0.13396, 0.08390])


@pytest.mark.parametrize("matrix", [COV, SECOND])
def test_both_ends_of_the_dial(matrix):
    close(moment_weights(matrix, MU, r=0.5), [1, 0, 0, 0], atol=1e-9)
    close(moment_weights(matrix, MU, r=1.2), [0, 1, 0, 0], atol=1e-9)


def test_the_shortest_mix_of_gradients():
    close(min_norm_weights(torch.tensor([[1.0, 0.0], [0.0, 2.0]])), [0.8, 0.2])


def test_orthogonal_gradients_weigh_by_one_over_their_squares():
    lengths = torch.tensor([1.0, 2.0, 3.0, 0.5, 4.0], dtype=torch.float64)
    expected = lengths**-2 / (lengths**-2).sum()
    assert_close(min_norm_weights(torch.diag(lengths)), expected, atol=1e-6, rtol=0)


@given(st.lists(st.floats(-3, 3), min_size=4, max_size=4))
def test_two_gradients_have_a_closed_form(entries):
    g = torch.tensor(entries, dtype=torch.float64).view(2, 2)
    gap = float(((g[0] - g[1]) ** 2).sum())
    if gap < 1e-2:
        return
    share = float((g[1] - g[0]) @ g[1]) / gap
    close(min_norm_weights(g), [min(max(share, 0), 1), 1 - min(max(share, 0), 1)], atol=1e-4)


# -- laws ---------------------------------------------------------------------------------------------------------


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.integers(1, 6), st.floats(0, 1))
def test_weights_lie_on_the_simplex_and_reach_the_level(seed, m, rho):
    moments, mu = problems(seed, m)
    r = float((1 - rho) * mu.min() + rho * mu.max())
    weights = moment_weights(moments, mu, r)
    assert weights.dtype == torch.float64
    assert weights.min() >= 0
    assert weights.sum().item() == pytest.approx(1, abs=1e-12)
    assert (mu @ weights).item() == pytest.approx(r, abs=1e-7)


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.integers(2, 8))
def test_no_other_mix_is_better(seed, m):
    moments, mu = problems(seed, m)
    weights = moment_weights(moments, mu)
    value = weights @ moments @ weights
    others = Stream(seed).child("others").uniform((64, m), dtype=torch.float64).log().neg()
    others = others / others.sum(1, keepdim=True)
    assert (value <= (others @ moments * others).sum(1) + 1e-7).all()
    # The gradient of the objective is equal where there is weight, and nowhere smaller.
    slope = moments @ weights
    assert (slope >= value - 1e-6).all()
    assert_close(slope[weights > 1e-4], value.expand(int((weights > 1e-4).sum())), atol=1e-5, rtol=0)


@pytest.mark.parametrize("seed", range(6))
def test_a_general_solver_finds_the_same(seed):
    moments, mu = problems(seed, 5)
    r = float(0.6 * mu.min() + 0.4 * mu.max())
    matrix, mean = moments.numpy(), mu.numpy()
    conditions = (
        {"type": "eq", "fun": lambda a: a.sum() - 1},
        {"type": "eq", "fun": lambda a: mean @ a - r},
    )
    found = minimize(
        lambda a: a @ matrix @ a,
        np.full(5, 0.2),
        jac=lambda a: 2 * matrix @ a,
        bounds=[(0, 1)] * 5,
        constraints=conditions,
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    close(moment_weights(moments, mu, r), found.x, atol=1e-4)


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.integers(2, 6), st.floats(0, 1), st.floats(1e-4, 1e4))
def test_a_common_factor_of_all_losses_changes_nothing(seed, m, rho, factor):
    moments, mu = problems(seed, m)
    r = float((1 - rho) * mu.min() + rho * mu.max())
    scaled = moment_weights(moments * factor**2, mu * factor, r * factor)
    assert_close(scaled, moment_weights(moments, mu, r), atol=1e-5, rtol=0)


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.permutations(range(5)))
def test_the_order_of_the_objectives_does_not_matter(seed, order):
    moments, mu = problems(seed, 5)
    r = float(mu.mean())
    rows = torch.tensor(order)
    permuted = moment_weights(moments[rows][:, rows], mu[rows], r)
    assert_close(permuted, moment_weights(moments, mu, r)[rows], atol=1e-6, rtol=0)
    gradients = Stream(seed).normal((5, 3), dtype=torch.float64)
    assert_close(min_norm_weights(gradients[rows]), min_norm_weights(gradients)[rows], atol=1e-5, rtol=0)


# -- edges --------------------------------------------------------------------------------------------------------


def test_equal_objectives_share_equally():
    moments, mu = torch.ones(4, 4), torch.ones(4)
    for r in (None, 1.0):
        close(moment_weights(moments, mu, r), [0.25] * 4, atol=1e-6)
    close(min_norm_weights(torch.ones(3, 7)), [1 / 3] * 3, atol=1e-6)


def test_tied_means_at_the_end_of_the_dial_share_by_their_moments():
    mu = torch.tensor([0.5, 0.5, 2.0])
    cov = torch.diag(torch.tensor([1.0, 3.0, 1.0]))
    close(moment_weights(cov, mu, r=0.5), [0.75, 0.25, 0], atol=1e-6)


def test_losses_and_gradients_of_zero():
    close(moment_weights(torch.zeros(3, 3), torch.zeros(3), r=0.0), [1 / 3] * 3, atol=1e-6)
    close(min_norm_weights(torch.zeros(2, 5)), [0.5, 0.5], atol=1e-6)
    # Of lengths 10,000 times apart the shortest still gets its due: the mix is no longer than it.
    uneven = torch.diag(torch.tensor([1e-4, 1.0, 1e4]))
    assert (min_norm_weights(uneven) @ uneven.double()).norm() <= 1e-4
    close(min_norm_weights(torch.tensor([[1.0, 2.0], [0.0, 0.0]])), [0, 1], atol=1e-6)


def test_one_objective_has_all_the_weight():
    close(moment_weights(torch.ones(1, 1), torch.ones(1), r=1.0), [1.0])


def test_a_level_that_no_mix_has_is_clipped_with_a_warning():
    with pytest.warns(UserWarning, match=r"r = 3 lies outside the means \[0\.5, 1\.2\] and is clipped"):
        close(moment_weights(COV, MU, r=3.0), [0, 1, 0, 0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        moment_weights(COV, MU, r=1.2 + 1e-9)  # rounding is no mistake


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"with 1 <= m <= 8, got \(0, 0\) and \(0,\)"):
        moment_weights(torch.zeros(0, 0), torch.zeros(0))
    with pytest.raises(ValueError, match="with 1 <= m <= 8"):
        moment_weights(torch.eye(9), torch.ones(9))
    with pytest.raises(ValueError, match="must be finite; leave out loss vectors"):
        moment_weights(torch.full((2, 2), torch.nan), torch.ones(2))
    with pytest.raises(ValueError, match=r"G must be \(m, d\)"):
        min_norm_weights(torch.zeros(9, 2))
    with pytest.raises(ValueError, match="G must be finite"):
        min_norm_weights(torch.full((2, 2), torch.inf))
