"""Comparing graphs: what is shared, what is not, which effects change their sign."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from pellucid.core import Players, Stream
from pellucid.explain import and_or_graph_of, compare_graphs, concept_similarity
from pellucid.games import Features, coalitions, logit


def graph_of(effects: dict[tuple[int, ...], float], n: int = 4, **settings):
    keep = coalitions(n)
    values = torch.zeros(1 << n, dtype=torch.float64)
    for players, effect in effects.items():
        values += effect * keep[:, list(players)].all(1)
    return and_or_graph_of(values, Players(torch.arange(n), torch.zeros(n), n), noise=0.0, explained=1.0, **settings)


def test_matched_lists():
    a = graph_of({(0,): 1.0, (0, 1): 2.0, (2, 3): -3.0})
    b = graph_of({(0,): -4.0, (0, 1): 1.0, (1, 2): 5.0})
    found = compare_graphs(a, b)
    assert [(p.players, p.first, p.second) for p in found.shared] == [((0,), 1.0, -4.0), ((0, 1), 2.0, 1.0)]
    assert [p.players for p in found.flips] == [(0,)]
    assert [p.players for p in found.only_first] == [(2, 3)]
    assert [p.players for p in found.only_second] == [(1, 2)]
    assert found.jaccard == pytest.approx((1 + 1) / (4 + 2 + 3 + 5))
    back = compare_graphs(b, a)
    assert back.jaccard == found.jaccard
    assert back.only_first == found.only_second


def test_a_graph_and_itself():
    graph = graph_of({(0,): 1.0, (1, 2): 2.0})
    found = compare_graphs(graph, graph)
    assert found.jaccard == 1
    assert found.only_first == found.only_second == found.flips == ()
    nothing = graph_of({})
    assert math.isnan(compare_graphs(nothing, nothing).jaccard)
    assert compare_graphs(graph, nothing).jaccard == 0


def test_other_players_or_another_logic_are_refused():
    graph = graph_of({(0,): 1.0})
    with pytest.raises(ValueError, match="got 4 and 3 players"):
        compare_graphs(graph, graph_of({(0,): 1.0}, 3))
    with pytest.raises(ValueError, match='"and" and "and-or"'):
        compare_graphs(graph, graph_of({(0,): 1.0}, logic="and-or"))


def test_two_models_and_two_versions_of_the_inputs(rng):
    with Stream(5).forked():
        one, other = (nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double() for _ in range(2))
    x, y = Stream(1).normal((3, 5), dtype=torch.float64), torch.tensor([0, 1, 2])
    masker = Features(fill="zero")
    same = concept_similarity(one, one, x, y, masker, value=logit, rng=rng)
    assert same.per_sample.tolist() == [1.0] * 3
    found = concept_similarity(one, other, x, y, masker, value=logit, rng=rng)
    assert 0 < float(found.mean.low) <= float(found.mean.value) <= float(found.mean.high) < 1
    assert found.evaluations == 2 * 3 * (32 + 128)
    moved = concept_similarity(one, one, x, y, masker, other_x=x + 0.01, value=logit, rng=rng)
    assert float(found.mean.value) < float(moved.mean.value) < 1
    assert len(moved.comparisons) == 3


def test_models_without_effects(rng):
    x, y = torch.ones(2, 3), torch.tensor([0, 1])
    found = concept_similarity(nothing, nothing, x, y, Features(fill="zero"), rng=rng)
    assert bool(found.per_sample.isnan().all())
    assert math.isnan(float(found.mean.value))


def nothing(x):
    return torch.zeros(len(x), 2)
