"""The weights of the order loss: the closed form against every permutation there is."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch

from pellucid.core import Stream
from pellucid.games import by_size, nested_sizes, order_weights, pair_interactions


def mean_du(v: torch.Tensor, k1: int, k2: int, *, empty_term: bool = True) -> float:
    """The mean of du over ALL permutations of the players."""
    n = v.shape[0].bit_length() - 1
    total, count = 0.0, 0
    for order in permutations(range(n)):
        s1, s2 = sum(1 << p for p in order[:k1]), sum(1 << p for p in order[:k2])
        ratio = k2 / k1 if k1 else 0.0
        du = v[s2] - ratio * v[s1] + (ratio - 1) * v[0] * (empty_term or k1 == 0)
        total, count = total + float(du), count + 1
    return total / count


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6])
def test_du_over_all_permutations_is_the_weighted_sum_of_interactions(n):
    v = Stream(n).child("table").normal((1 << n, 1), dtype=torch.float64)[:, 0]
    mean_interaction = pair_interactions(v).values.mean(0)
    f = by_size(v)
    for k1 in range(n):
        for k2 in range(k1 + 1, n + 1):
            expected = float(order_weights(n, k1 / n, k2 / n) @ mean_interaction)
            if k1 == 0:
                expected += k2 * float(f[1] - f[0])
            assert mean_du(v, k1, k2) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("n", [7, 8])
def test_the_same_from_mean_worths_for_more_players(n):
    """The mean over permutations needs the mean worth of each size only, since each set of k is equally likely."""
    v = Stream(n).child("table").normal((1 << n, 1), dtype=torch.float64)[:, 0]
    mean_interaction, f = pair_interactions(v).values.mean(0), by_size(v)
    for k1 in range(1, n):
        for k2 in range(k1 + 1, n + 1):
            du = float(f[k2] - k2 / k1 * f[k1] + (k2 / k1 - 1) * f[0])
            assert float(order_weights(n, k1 / n, k2 / n) @ mean_interaction) == pytest.approx(du, abs=1e-10)


@pytest.mark.parametrize("n", [2, 5, 16, 64])
def test_the_weights_are_a_tent(n):
    for k1 in range(1, n):
        for k2 in range(k1 + 1, n + 1):
            omega = order_weights(n, k1 / n, k2 / n)
            assert int(omega.argmax()) == k1 - 1
            assert float(omega.max()) == pytest.approx(k2 - k1, abs=1e-9)
            assert not bool(omega[k2 - 1 :].any())
            assert bool((omega >= 0).all())


def test_cube_of_a_sum_has_the_known_values():
    keep = torch.tensor([[r >> p & 1 for p in range(4)] for r in range(16)]).double()
    v = (keep @ torch.tensor([1.0, 2, 3, 4], dtype=torch.float64)) ** 3
    assert mean_du(v, 2, 4) == pytest.approx(700)
    assert mean_du(v, 1, 3) == pytest.approx(375)


def test_additive_effects_cancel_with_the_empty_term_only():
    keep = torch.tensor([[r >> p & 1 for p in range(5)] for r in range(32)]).double()
    v = keep @ torch.tensor([1.0, -2, 3, 0.5, 4], dtype=torch.float64) + 7
    for k1 in range(1, 5):
        for k2 in range(k1 + 1, 6):
            assert mean_du(v, k1, k2) == pytest.approx(0, abs=1e-10)
            assert mean_du(v, k1, k2, empty_term=False) == pytest.approx((1 - k2 / k1) * 7)


def test_shares_become_whole_players():
    assert nested_sizes(100, 0.29, 0.7) == (29, 70)  # 0.29 * 100 is 28.999... in floating point
    assert nested_sizes(256, 0.0, 0.5) == (0, 128)
    assert nested_sizes(10, 0.05, 1.0) == (0, 10)


def test_refusals():
    for low, high in ((0.5, 0.5), (0.7, 0.3), (-0.1, 0.5), (0.5, 1.1), (float("nan"), 1.0)):
        with pytest.raises(ValueError, match="needs 0 <= low < high <= 1"):
            nested_sizes(16, low, high)
    with pytest.raises(ValueError, match=r"one size of coalitions, 0; use a wider range"):
        order_weights(16, 0.0, 0.05)
    with pytest.raises(ValueError, match="has no pairs"):
        order_weights(1, 0.0, 1.0)
