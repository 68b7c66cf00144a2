"""Sampled Shapley values: unbiased over all permutations, errors over antithetic pairs, sums exact."""

from __future__ import annotations

from itertools import permutations
from math import pi, sqrt

import pytest
import torch
from torch.testing import assert_close

from pellucid.core import Stream
from pellucid.games import Counted, TableGame, _shapley, shapley


def random_table(n: int, seed: int = 0) -> torch.Tensor:
    return Stream(seed).child("table", n).normal((1 << n, 1), dtype=torch.float64)[:, 0]


def test_gains_over_all_permutations_are_the_shapley_values():
    n, v = 5, random_table(5)
    gains = torch.zeros(n, dtype=torch.float64)
    for order in permutations(range(n)):
        before = 0
        for player in order:
            gains[player] += v[before | 1 << player] - v[before]
            before |= 1 << player
    assert_close(gains / 120, shapley(v).values, atol=1e-12, rtol=0)


def test_within_four_standard_errors_in_99_of_100_seeds(rng):
    v = random_table(8)
    exact = shapley(v).values
    outside = torch.zeros(8)
    for seed in range(100):
        found = shapley(TableGame(v), permutations=40, rng=rng.child(seed))
        outside += (found.values - exact).abs() > 4 * found.stderr
        assert float(found.values.sum()) == pytest.approx(float(v[-1] - v[0]))
        assert_close(found.floor, sqrt(2 / pi) * found.stderr / 0.98691, rtol=1e-4, atol=0)  # c4 of 20 draws
    assert float(outside.mean()) <= 1


def test_standard_errors_match_the_spread_over_seeds(rng):
    v = random_table(8, 3)
    runs = [shapley(TableGame(v + 1e6), permutations=60, rng=rng.child(s)) for s in range(80)]
    spread = torch.stack([run.values for run in runs]).std(0).mean()
    claimed = torch.stack([run.stderr for run in runs]).mean()
    assert_close(claimed, spread, rtol=0.1, atol=0)


def test_batches_do_not_matter(rng, monkeypatch):
    v = torch.stack([random_table(6, seed) for seed in range(2)], dim=1)
    game = Counted(TableGame(v))
    whole = shapley(game, permutations=20, rng=rng)
    assert game.evaluations == whole.evaluations == 20 * 5 + 2
    monkeypatch.setattr(_shapley, "_ROWS_PER_STEP", 25)
    parts = shapley(TableGame(v), permutations=20, rng=rng)
    assert_close(parts.values, whole.values)
    assert_close(parts.stderr, whole.stderr, atol=1e-9, rtol=0)


def test_one_player_gets_everything(rng):
    assert shapley(TableGame(torch.tensor([1.0, 4.0])), permutations=4, rng=rng).values.tolist() == [3.0]
