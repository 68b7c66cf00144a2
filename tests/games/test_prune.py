"""Pruning: its closed form equals the sum it stands for, the greedy choice equals brute force."""

from __future__ import annotations

import time

import pytest
import torch
from torch.testing import assert_close

from pellucid.core import Stream
from pellucid.games import concept_jaccard, harsanyi, mobius, prune, sizes, zeta


def random_table(n: int, seed: int = 0) -> torch.Tensor:
    return Stream(seed).child("table", n).normal((1 << n, 1), dtype=torch.float64)[:, 0]


def error_without(w: torch.Tensor, v: torch.Tensor, removed: list[int]) -> float:
    kept = w.clone()
    kept[removed] = 0
    return float((v - zeta(kept)).square().sum())


def test_closed_form_equals_the_direct_sum_at_every_step():
    v = random_table(8)
    w = mobius(v)
    path = prune(w, v)
    assert sorted(path.order.tolist()) == list(range(1, 256))  # each once, the constant never
    for step in range(256):
        removed = path.order[:step].tolist()
        assert float(path.error[step]) == pytest.approx(error_without(w, v, removed), rel=1e-9, abs=1e-9)
        kept = w[path.order[step:]]
        A, missed = float(kept.abs().sum()), abs(float(v[-1] - w[0] - kept.sum()))
        assert float(path.ratio[step]) == pytest.approx(A / (A + missed), abs=1e-9)


@pytest.mark.parametrize("window", [1, 3, 16])
def test_equals_brute_force_greedy(window):
    v = random_table(4, 5)
    w = mobius(v)
    left = sorted(range(1, 16), key=lambda row: abs(float(w[row])))
    removed: list[int] = []
    while left:
        best = min(left[:window], key=lambda row: error_without(w, v, [*removed, row]))
        removed.append(best)
        left.remove(best)
    assert prune(w, v, window=window).order.tolist() == removed


def test_a_sum_of_three_products_needs_three_patterns():
    keep = torch.tensor([[r >> p & 1 for p in range(6)] for r in range(64)], dtype=torch.float64)
    x = keep.T
    v = x[0] * x[2] + x[2] * x[3] * x[4] + x[3] * x[5]
    w = harsanyi(v).values
    path = prune(w, v)
    assert path.smallest(0.9999) == 3
    assert sorted(path.kept(3).tolist()) == sorted([0b000101, 0b011100, 0b101000])
    assert_close(w[path.kept(3)], torch.ones(3, dtype=torch.float64))
    assert float(path.explained[-4]) == pytest.approx(1)


def test_the_ratio_can_be_fooled_and_explained_variance_not():
    w = torch.zeros(16, dtype=torch.float64)
    w[[0b0001, 0b0110, 0b1100]] = torch.tensor([20.0, 5.0, -5.0], dtype=torch.float64)
    path = prune(w, zeta(w))
    at = len(path.order) - 1  # one pattern kept, +5 and -5 left out
    assert path.kept(1).tolist() == [1]
    assert float(path.ratio[at]) == pytest.approx(1)
    assert float(path.explained[at]) < 0.99
    assert float(path.ratio[0]) == float(path.explained[0]) == 1


def test_linear_and_constant_games():
    w = torch.zeros(64, dtype=torch.float64)
    w[[1 << p for p in range(6)]] = torch.arange(1.0, 7, dtype=torch.float64)
    path = prune(w, zeta(w))
    assert path.smallest(0.999999) == 6
    assert bool((sizes(6)[path.kept(6)] == 1).all())
    constant = torch.full((8,), 3.0, dtype=torch.float64)
    flat = prune(mobius(constant), constant)
    assert flat.variance == 0
    assert bool((flat.explained == 1).all())
    assert bool((flat.ratio == 1).all())
    assert flat.smallest(0.95) == 0


def test_whole_path_of_twelve_players_is_fast():
    v = random_table(12)
    w = mobius(v)
    prune(w[:16], v[:16])
    start = time.process_time()
    prune(w, v)
    assert time.process_time() - start < 2


def test_jaccard():
    a = torch.tensor([9.0, 1, -2, 0])
    assert concept_jaccard(a, a) == 1
    assert concept_jaccard(a, torch.tensor([0.0, 0, 1, 1])) == pytest.approx(1 / 4)
    assert concept_jaccard(torch.tensor([0.0, 1, 0, 0]), torch.tensor([0.0, 0, 1, 0])) == 0
    assert concept_jaccard(torch.zeros(4), torch.zeros(4)) != concept_jaccard(torch.zeros(4), torch.zeros(4))  # NaN


def test_refusals():
    with pytest.raises(ValueError, match="pruning 17 players"):
        prune(torch.zeros(1 << 17), torch.zeros(1 << 17))
    with pytest.raises(ValueError, match="need window >= 1"):
        prune(torch.zeros(4), torch.zeros(4), window=0)
    with pytest.raises(ValueError, match="size must lie between 0 and 3"):
        prune(torch.zeros(4), torch.zeros(4)).kept(4)
