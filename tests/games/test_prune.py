"""Pruning: its closed form equals the sum it stands for, the greedy choice equals brute force."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from pellucid.core import Stream
from pellucid.games import and_or, coalitions, concept_jaccard, harsanyi, inverse_or, mobius, prune, sizes, zeta
from pellucid.games._prune import _Columns


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


def columns(n: int) -> torch.Tensor:
    """All AND columns and then all OR columns, one per row."""
    keep = coalitions(n)
    masks = coalitions(n)
    held = (keep[None, :, :] | ~masks[:, None, :]).all(2)
    met = (keep[None, :, :] & masks[:, None, :]).any(2)
    return torch.cat([held, met]).double()


def test_inner_products_of_and_and_or_columns():
    n = 5
    explicit = columns(n)
    ours = _Columns(n, mixed=True)
    rows = np.arange(2 << n)
    for one in rows.tolist():
        products = (explicit @ explicit[one]).numpy()
        if one == 1 << n:
            continue  # the empty OR is no pattern
        used = rows != 1 << n
        np.testing.assert_array_equal(ours.inner(rows[used], one), products[used])
    np.testing.assert_array_equal(ours.norm(rows[rows != 1 << n]), explicit.sum(1).numpy()[rows != 1 << n])


def test_or_terms_are_pruned_with_their_exact_error():
    n = 5
    v = random_table(n, 7)
    either = torch.where(sizes(n) >= 2, random_table(n, 8), 0.0)
    alone = mobius(v - inverse_or(either))
    path = prune(alone, v, or_terms=either)
    terms, acts = torch.cat([alone, either]), columns(n)
    patterns = [*range(1, 1 << n), *((1 << n) + row for row in range(1 << n) if int(sizes(n)[row]) >= 2)]
    assert sorted(path.order.tolist()) == patterns
    for step in range(len(patterns) + 1):
        kept = terms.clone()
        kept[path.order[:step]] = 0
        direct = float((v - kept @ acts).square().sum())
        assert float(path.error[step]) == pytest.approx(direct, rel=1e-9, abs=1e-9)


def test_an_or_needs_one_pattern_where_ands_need_many():
    v = coalitions(4).any(1).double()
    split = and_or(v)
    path = prune(split.and_, v, or_terms=split.or_)
    assert path.smallest(0.999) == 1
    assert path.kept(1).tolist() == [16 + 15]
    assert prune(mobius(v), v).smallest(0.999) == 15


def test_or_terms_must_fit():
    v = random_table(3)
    with pytest.raises(ValueError, match="or_terms must have one row per coalition, zero for those of less than two"):
        prune(mobius(v), v, or_terms=torch.ones(8, dtype=torch.float64))
