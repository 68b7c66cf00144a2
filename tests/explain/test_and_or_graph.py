"""And-Or graphs: exact reconstruction, known patterns, when they are not sparse, noise."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from pellucid.core import Stream
from pellucid.explain import and_or_graph, cost_and_or_graph
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
    with pytest.raises(ValueError, match="need 0 < explained <= 1 and max_patterns >= 1"):
        of_formula(lambda x: x.sum(1), 3, rng, explained=0.0)
    with pytest.raises(ValueError, match="a game belongs to one sample but rng is bound to 2"):
        of_formula(lambda x: x.sum(1), 3, rng.at([1, 2]))
    found = of_formula(lambda x: x.sum(1), 3, rng, value=logit)
    assert found.score == pytest.approx(3)
