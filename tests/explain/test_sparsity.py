"""Sparsity over samples: shared out, summed up, with what is known beforehand."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from pellucid.core import ALONE, Stream, Work
from pellucid.explain import BaselineSettings, and_or_graph, and_or_graphs, sparsity, sparsity_of
from pellucid.games import Features, Patches, Tokens, logit


def network(n: int, classes: int = 3) -> nn.Module:
    with Stream(5).forked():
        return nn.Sequential(nn.Linear(n, 16), nn.Tanh(), nn.Linear(16, classes)).double()


@pytest.fixture
def scene():
    x = Stream(1).child("x").normal((12, 6), dtype=torch.float64)
    return network(6), x[:4], torch.tensor([0, 1, 2, 0]), Features(background=x)


def test_one_by_one_is_the_same(scene, rng):
    model, x, y, masker = scene
    graphs = and_or_graphs(model, x, y, masker, rng=rng.at([7, 8, 9, 10]))
    for k, graph in enumerate(graphs):
        alone = and_or_graph(model, x[k], masker, target=int(y[k]), rng=rng.at([7 + k]))
        assert alone.to_dict() == graph.to_dict()


def test_chunks_are_kept_and_found_again(scene, rng, tmp_path):
    model, x, y, masker = scene
    learn = BaselineSettings(steps=2)
    work = Work(folder=tmp_path)
    first = and_or_graphs(model, x, y, masker, learn_baseline=learn, rng=rng, work=work)

    def gone(z):
        raise AssertionError("asked again")

    again = and_or_graphs(gone, x, y, masker, learn_baseline=learn, rng=rng, work=work)
    assert [graph.to_dict() for graph in again] == [graph.to_dict() for graph in first]
    direct = and_or_graph(model, x[0], masker, target=0, learn_baseline=learn, rng=rng.at([0]))
    assert direct.to_dict() == first[0].to_dict()


def test_chunks_of_other_players_fills_or_scales_are_not_taken(rng, tmp_path):
    x, y, work = Stream(2).normal((1, 1, 4, 6)), torch.tensor([0]), Work(folder=tmp_path)
    with Stream(3).forked():
        model = nn.Sequential(nn.Flatten(), nn.Linear(24, 8), nn.Tanh(), nn.Linear(8, 2))
    wide = torch.ones(1, 4, 6)
    wide[0, 2, 3] = 9.0  # in the middle of what a long repr leaves out
    ways = [
        {"masker": Patches((2, 3), fill="zero")},
        {"masker": Patches((3, 2), fill="zero")},
        {"masker": Patches((2, 3), fill=torch.ones(1, 1, 1))},
        {
            "masker": Patches((2, 3), fill="zero"),
            "learn_baseline": BaselineSettings(steps=1, scale=torch.ones(1, 4, 6)),
        },
        {"masker": Patches((2, 3), fill="zero"), "learn_baseline": BaselineSettings(steps=1, scale=wide)},
    ]
    for way in ways:
        kept = and_or_graphs(model, x, y, rng=rng, work=work, **way)
        assert kept[0].to_dict() == and_or_graphs(model, x, y, rng=rng, **way)[0].to_dict()
    assert len(list(tmp_path.rglob("*.safetensors"))) == len(ways)


def test_a_model_for_each_input(scene, rng):
    model, x, y, masker = scene
    other = network(6).requires_grad_(requires_grad=False)
    with torch.no_grad():
        other[0].weight.mul_(2)
    graphs = and_or_graphs([model, other, model, other], x, y, masker, rng=rng)
    for k, one in enumerate((model, other)):
        assert graphs[k].to_dict() == and_or_graphs(one, x, y, masker, rng=rng)[k].to_dict()
    with pytest.raises(ValueError, match="one model per input is needed, got 2 for 4 inputs"):
        and_or_graphs([model, other], x, y, masker, rng=rng)


def test_numbers_of_known_games(rng):
    def model(x):
        return torch.stack([x[:, 0] * x[:, 1] + 0.5 * x[:, 2] + 0.01 * x[:, 3], 0 * x[:, 0]], dim=1)

    x = torch.ones(3, 4, dtype=torch.float64)
    x[2] = 2.0
    y = torch.zeros(3, dtype=torch.int64)
    found = sparsity(model, x, y, Features(fill="zero"), value=logit, explained=0.9999999, rng=rng)
    assert found.needed.value == 3
    assert found.strong.value == 2
    assert found.l1.value == pytest.approx((1.51 + 1.51 + 5.02) / 3)
    assert found.sparse == 1
    assert found.noise == 12  # 15 patterns, 3 of them real
    assert found.counts[0] == 1
    assert found.counts[-1] == 15
    assert_close(found.curve[:, -1], torch.ones(3, dtype=torch.float64))
    assert_close(found.strengths[0, :3], torch.tensor([1.0, 0.5, 0.01], dtype=torch.float64))
    assert float(found.l1.low) <= float(found.l1.value) <= float(found.l1.high)
    assert found.evaluations == 3 * (16 + 128)


def test_texts_of_several_lengths(rng):
    with Stream(6).forked():
        table = nn.Embedding(20, 4)
        head = nn.Linear(4, 2)

    def model(ids):
        return head(table(ids).tanh().sum(1))

    x = torch.tensor([[5, 6, 7, 1], [8, 9, 1, 1]])
    maskers = [Tokens(0, fixed=(3,)), Tokens(0, fixed=(2, 3))]
    graphs = and_or_graphs(model, x, torch.tensor([0, 1]), maskers, rng=rng)
    assert [graph.n_players for graph in graphs] == [3, 2]
    assert sparsity_of(graphs, rng=rng).counts.max() == 7


def test_refusals(scene, rng):
    model, x, y, masker = scene
    with pytest.raises(ValueError, match="one masker per input is needed, got 1 for 4 inputs"):
        and_or_graphs(model, x, y, [masker], rng=rng, work=ALONE)
    with pytest.raises(ValueError, match="graphs is empty"):
        sparsity_of([], rng=rng)
    with pytest.raises(ValueError, match="a graph of 17 players needs"):
        and_or_graphs(network(17), torch.ones(1, 17, dtype=torch.float64), y[:1], Features(fill="zero"), rng=rng)
