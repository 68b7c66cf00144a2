"""And-Or graphs: exact reconstruction, known patterns, when they are not sparse, noise."""

from __future__ import annotations

import io
import json

import networkx
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from pellucid.core import Players, Stream
from pellucid.explain import AndOrGraph, and_or_graph, and_or_graph_of, cost_and_or_graph
from pellucid.games import Features, ModelGame, Patches, coalitions, log_odds, logit, table


class Scored(nn.Module):
    def __init__(self, score) -> None:
        super().__init__()
        self.score = score

    def forward(self, x):
        z = self.score(x)
        return torch.stack([z, torch.zeros_like(z)], dim=1)


def of_formula(score, n: int, rng: Stream, **settings):
    x = torch.ones(n, dtype=torch.float64)
    return and_or_graph(Scored(score), x, Features(fill="zero"), target=0, rng=rng, **settings)


def small_mlp(n: int) -> nn.Module:
    with Stream(5).forked():
        return nn.Sequential(nn.Linear(n, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 3)).double()


def test_a_sum_of_products_gives_its_terms(rng):
    found = of_formula(lambda x: x[:, 0] * x[:, 2] + x[:, 2] * x[:, 3] * x[:, 4] + x[:, 3] * x[:, 5], 6, rng)
    assert {pattern.players for pattern in found.patterns} == {(0, 2), (2, 3, 4), (3, 5)}
    assert all(pattern.effect == pytest.approx(1) for pattern in found.patterns)
    assert found.explained_variance == pytest.approx(1)
    assert found.ratio_explained == pytest.approx(1)
    assert found.sparse
    assert found.note == ""
    assert (found.n_players, found.n_all_patterns, found.needed) == (6, 63, 3)
    assert found.constant == pytest.approx(0)
    assert found.score == pytest.approx(3)


def test_linear_model_has_single_players_only(rng):
    a = torch.arange(1.0, 6, dtype=torch.float64)
    found = of_formula(lambda x: x @ a, 5, rng, explained=0.999999)
    assert sorted(pattern.players for pattern in found.patterns) == [(p,) for p in range(5)]


def test_constant_model_has_no_patterns(rng):
    found = of_formula(lambda x: 0 * x[:, 0] + 2.0, 5, rng)
    assert found.patterns == ()
    assert found.explained_variance == 1
    assert "does not change" in found.note
    assert_close(found.predict(coalitions(5)), torch.full((32,), 2.0, dtype=torch.float64))


def test_rounding_makes_no_patterns(rng):
    linear = nn.Linear(8, 3)
    with torch.no_grad():
        linear.weight.copy_(1e-8 * Stream(1).normal((3, 8)))
        linear.bias.copy_(torch.tensor([0.3, -0.2, 0.1]))
    found = and_or_graph(linear, Stream(2).uniform((1, 8))[0], Features(fill="zero"), target=0, rng=rng)
    assert len(table(ModelGame(linear, torch.ones(8), Features(fill="zero"), log_odds(0))).unique()) > 1
    assert found.patterns == ()
    assert found.path.variance == 0
    assert found.note.startswith("The score does not change")


def test_prediction_explains_the_stated_share(rng):
    model, x = small_mlp(8), Stream(2).child("x").normal((1, 8), dtype=torch.float64)[0] * 2
    masker = Features(fill="zero")
    found = and_or_graph(model, x, masker, target=1, rng=rng)
    v = table(ModelGame(model, x, masker, log_odds(1)))
    residual = (v - found.predict(coalitions(8))).square().sum()
    assert float(1 - residual / (v - v.mean()).square().sum()) == pytest.approx(found.explained_variance, abs=1e-9)
    assert found.explained_variance >= 0.95
    assert len(found.patterns) == found.needed <= 80
    strengths = [abs(pattern.effect) for pattern in found.patterns]
    assert strengths == sorted(strengths, reverse=True)
    assert_close(found.table(), v, atol=1e-9, rtol=0)


def test_not_sparse_is_said(rng):
    noise = Stream(4).child("noise").normal((256, 1), dtype=torch.float64)[:, 0]
    weights = 2 ** torch.arange(8, dtype=torch.float64)
    found = of_formula(lambda x: noise[(x @ weights).round().long()], 8, rng, max_patterns=20)
    assert not found.sparse
    assert len(found.patterns) == 20
    assert found.needed > 20
    assert found.note == f"Not sparse here: {found.needed} of 255 patterns would be needed."


def test_relabelling_players_relabels_the_patterns(rng):
    def score(x):
        return x[:, 0] * x[:, 1] * 2 - x[:, 3] + 0.25 * x[:, 2] * x[:, 4]

    order = [3, 0, 4, 1, 2]
    plain = of_formula(score, 5, rng)
    moved = of_formula(lambda x: score(x[:, order]), 5, rng)
    renamed = {tuple(sorted(order[p] for p in pattern.players)): pattern.effect for pattern in plain.patterns}
    assert renamed == pytest.approx({pattern.players: pattern.effect for pattern in moved.patterns})


def test_price_noise_and_seed(rng):
    with Stream(6).forked():
        model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 64, 4))
    x = Stream(7).child("x").uniform((1, 1, 10, 10))[0]
    steps = []
    found = and_or_graph(
        model,
        x,
        Patches((3, 3), fill="zero"),
        target=2,
        rng=rng.at([5]),
        on_step=lambda done, total: steps.append((done, total)),
    )
    assert found.evaluations == cost_and_or_graph(9) == 512 + 128
    assert steps[-1] == (640, 640)
    assert cost_and_or_graph(12, samples=4) == 4 * (4096 + 128)
    assert 0 < found.noise < 1e-5
    for pattern in found.patterns:
        assert pattern.noise == pytest.approx(3 * found.noise * 2 ** (len(pattern.players) / 2))
    again = and_or_graph(model, x, Patches((3, 3), fill="zero"), target=2, rng=rng.at([5]))
    assert again.patterns == found.patterns
    assert found.grid == (3, 3)


def test_refusals(rng):
    with pytest.raises(ValueError, match="a graph of 17 players needs 131,072 evaluations per input; join players"):
        of_formula(lambda x: x.sum(1), 17, rng)
    with pytest.raises(ValueError, match="need 0 < explained <= 1 and 1 <= max_patterns <= 2,000"):
        of_formula(lambda x: x.sum(1), 3, rng, explained=0.0)
    with pytest.raises(ValueError, match="a game belongs to one sample but rng is bound to 2"):
        of_formula(lambda x: x.sum(1), 3, rng.at([1, 2]))
    found = of_formula(lambda x: x.sum(1), 3, rng, value=logit)
    assert found.score == pytest.approx(3)


def test_predicted_is_what_the_whole_input_is_called(rng):
    x = torch.ones(3, dtype=torch.float64)
    model, masker = Scored(lambda z: z.sum(1) - 5), Features(fill="zero")  # -2 for class 0: class 1 is answered
    found = and_or_graph(model, x, masker, rng=rng)
    fixed = and_or_graph(model, x, masker, target=1, rng=rng)
    assert found.score == fixed.score == pytest.approx(2)
    assert found.evaluations == fixed.evaluations + 1


def test_a_single_player_makes_a_trivial_graph(rng):
    found = of_formula(lambda x: 3 * x[:, 0], 1, rng)
    assert [(p.players, p.effect) for p in found.patterns] == [((0,), pytest.approx(3))]
    assert [node.layer for node in found.nodes] == ["score", "pattern", "player"]


def test_leftovers_cancel_in_the_ratio_but_not_in_the_explained_variance():
    values = torch.zeros(8, dtype=torch.float64)
    values += 10 * coalitions(3)[:, 0] + 5 * coalitions(3)[:, 1] - 5 * coalitions(3)[:, 2]
    found = and_or_graph_of(values, of_count(3), noise=0.0, max_patterns=1)
    assert [p.players for p in found.patterns] == [(0,)]
    assert found.ratio_explained == 1
    assert found.explained_variance < 0.7


# -- the graph --------------------------------------------------------------------------------------------------------


def of_count(n: int, **more) -> Players:
    return Players(torch.arange(n), torch.zeros(n), n, **more)


def shared_parts() -> AndOrGraph:
    keep = coalitions(5).double().T
    both = keep[0] * keep[1]
    values = 3 * both * keep[2] - 2 * both * keep[3] + keep[4]
    return and_or_graph_of(values, of_count(5, names=("a", "b", "c", "d", "e")), noise=0.0, explained=1.0)


def test_nodes_and_edges_of_shared_parts():
    graph = shared_parts()
    assert [(p.players, p.effect, p.coalitions) for p in graph.patterns] == [
        ((0, 1, 2), pytest.approx(3), (0,)),
        ((0, 1, 3), pytest.approx(-2), (0,)),
        ((4,), pytest.approx(1), ()),
    ]
    assert [c.players for c in graph.coalitions] == [(0, 1)]
    assert [node.id for node in graph.nodes] == [
        "score",
        *(f"pattern-{k}" for k in range(3)),
        "coalition-0",
        *(f"player-{p}" for p in range(5)),
    ]
    # patterns + words in patterns + players in coalitions
    assert len(graph.edges) == len(set(graph.edges)) == 3 + 5 + 2
    assert [node.label for node in graph.nodes][1:5] == ["a + b + c", "a + b + d", "e", "a + b"]
    assert all(
        lower in {n.id for n in graph.nodes} and upper in {n.id for n in graph.nodes} for lower, upper in graph.edges
    )
    network = graph.to_networkx()
    assert (network.number_of_nodes(), network.number_of_edges()) == (len(graph.nodes), len(graph.edges))
    text = io.BytesIO()
    networkx.write_graphml(network, text)
    assert networkx.read_graphml(io.BytesIO(text.getvalue())).nodes["pattern-1"]["effect"] == pytest.approx(-2)


def test_a_linear_model_has_no_coalitions(rng):
    found = of_formula(lambda x: x.sum(1), 4, rng, explained=1.0)
    assert len(found.patterns) == 4
    assert found.coalitions == ()


def test_every_player_of_a_pattern_is_reached_once(rng):
    model, x = small_mlp(8), Stream(2).child("x").normal((1, 8), dtype=torch.float64)[0] * 2
    graph = and_or_graph(lambda z: 100 * model(z), x, Features(fill="zero"), target=1, value=logit, rng=rng)
    assert graph.coalitions
    for k, pattern in enumerate(graph.patterns):
        parts = [lower for lower, upper in graph.edges if upper == f"pattern-{k}"]
        below = [[int(part.split("-")[1])] for part in parts if part.startswith("player")]
        below += [list(graph.coalitions[int(part.split("-")[1])].players) for part in parts if part.startswith("coal")]
        assert sorted(p for group in below for p in group) == list(pattern.players)
    used = {c for pattern in graph.patterns for c in pattern.coalitions}
    assert used == set(range(len(graph.coalitions)))


def test_names_come_from_the_caller_the_masker_or_the_grid():
    values = coalitions(4).double().sum(1)
    assert and_or_graph_of(values, of_count(4), noise=0.0).names == ("player 0", "player 1", "player 2", "player 3")
    assert and_or_graph_of(values, of_count(4, grid=(2, 2)), noise=0.0).names == ("r1c1", "r1c2", "r2c1", "r2c2")
    assert and_or_graph_of(values, of_count(4, names=tuple("wxyz")), noise=0.0, names="abcd").names == tuple("abcd")
    with pytest.raises(ValueError, match="names must give one name per player, got 3 for 4 players"):
        and_or_graph_of(values, of_count(4), noise=0.0, names=("a", "b", "c"))
    with pytest.raises(ValueError, match="a table of 3 players has 8 rows, got 16"):
        and_or_graph_of(values, of_count(3), noise=0.0)


# -- OR patterns ------------------------------------------------------------------------------------------------------


def test_and_and_or_patterns_of_one_game():
    keep = coalitions(5)
    both, any_ = keep[:, :2].all(1).double(), keep[:, 2:].any(1).double()
    values = 1 + 2 * both - 1.5 * any_ + 0.5 * keep[:, :3].all(1).double()
    graph = and_or_graph_of(values, of_count(5), noise=0.0, logic="and-or", explained=0.999999)
    found = {(p.kind, p.players): pytest.approx(p.effect, abs=1e-7) for p in graph.patterns}
    assert found == {("and", (0, 1)): 2.0, ("or", (2, 3, 4)): -1.5, ("and", (0, 1, 2)): 0.5}
    assert_close(graph.predict(keep), values)
    assert_close(graph.table(), values)
    assert graph.constant == 1
    assert graph.n_all_patterns == 31 + 26
    assert graph.label((2, 3), "or") == "player 2 / player 3"
    assert {node.kind for node in graph.nodes} == {"and", "or", ""}
    plain = and_or_graph_of(values, of_count(5), noise=0.0, explained=0.999999)
    assert len(plain.patterns) == 9
    assert graph.l1 < plain.l1


def test_or_patterns_share_coalitions_with_or_patterns_only():
    keep = coalitions(6)
    groups = [(0, 1, 2), (0, 1, 3)]
    values = sum(keep[:, list(group)].any(1).double() for group in groups) + 2.0 * keep[:, [0, 1, 4]].all(1)
    graph = and_or_graph_of(values, of_count(6), noise=0.0, logic="and-or", explained=0.999999)
    assert {(p.kind, p.players) for p in graph.patterns} == {("or", g) for g in groups} | {("and", (0, 1, 4))}
    assert [(c.kind, c.players) for c in graph.coalitions] == [("or", (0, 1))]
    assert {(p.kind, p.coalitions) for p in graph.patterns} == {("or", (0,)), ("and", ())}


def test_relabelling_relabels_the_and_or_graph():
    keep = coalitions(5).double()
    order = [3, 0, 4, 1, 2]

    def values(k):
        return (
            2 * k[:, 0] * k[:, 1] - 1.5 * (1 - (1 - k[:, 2]) * (1 - k[:, 3]) * (1 - k[:, 4])) + 0.7 * k[:, 1] * k[:, 2]
        )

    plain = and_or_graph_of(values(keep), of_count(5), noise=0.0, logic="and-or")
    moved = and_or_graph_of(values(keep[:, order]), of_count(5), noise=0.0, logic="and-or")
    renamed = {(p.kind, tuple(sorted(order[q] for q in p.players))): p.effect for p in plain.patterns}
    assert renamed == pytest.approx({(p.kind, p.players): p.effect for p in moved.patterns}, abs=1e-7)


# -- JSON -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("logic", ["and", "and-or"])
def test_json_round_trip(logic):
    values = Stream(3).child("table").normal((1, 32), dtype=torch.float64)[0]
    graph = and_or_graph_of(values, of_count(5), noise=1e-6, logic=logic, max_patterns=9)
    again = AndOrGraph.from_dict(json.loads(graph.to_json()))
    assert again.to_dict() == graph.to_dict()
    assert again.patterns == graph.patterns
    assert again.nodes == graph.nodes
    assert again.edges == graph.edges
    assert again.note == graph.note != ""
    assert_close(again.predict(coalitions(5)), graph.predict(coalitions(5)))
    assert_close(again.path.explained, graph.path.explained)


def test_a_split_that_is_not_the_shortest_says_by_how_much_it_may_miss():
    values = Stream(3).child("table").normal((1, 4096), dtype=torch.float64)[0]
    exact = and_or_graph_of(values[:32], of_count(5), noise=0.0, logic="and-or")
    graph = and_or_graph_of(values, of_count(12), noise=0.0, logic="and-or")
    assert exact.gap == pytest.approx(0, abs=1e-9)
    assert 0.05 < graph.gap < 1
    assert f"effects up to {graph.gap:.0%} smaller" in graph.note
    assert AndOrGraph.from_dict(graph.to_dict()).gap == graph.gap


def test_json_of_something_else_is_refused():
    with pytest.raises(ValueError, match="this is no And-Or graph of format 1"):
        AndOrGraph.from_dict({"format": 7})
    entries = shared_parts().to_dict()
    with pytest.raises(ValueError, match="32 terms do not fit 4 players"):
        AndOrGraph.from_dict({**entries, "names": ["a", "b", "c", "d"]})
    del entries["path"]
    with pytest.raises(ValueError, match="an entry of the And-Or graph is missing"):
        AndOrGraph.from_dict(entries)
