"""Learned baselines: the gradient, the box and the ball, the best iterate, both ways of computing."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from pellucid.core import ModelError, Stream
from pellucid.explain import BaselineSettings, LearnedBaseline, and_or_graph, learn_baseline
from pellucid.explain import _learned_baseline as module
from pellucid.games import (
    Features,
    Marginal,
    ModelGame,
    Patches,
    Tokens,
    log_odds,
    mobius,
    superset_mobius,
    table,
)


def smooth(n: int, classes: int = 3) -> nn.Module:
    with Stream(5).forked():
        return nn.Sequential(nn.Linear(n, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, classes)).double()


@pytest.fixture
def scene():
    x = Stream(1).child("x").normal((21, 6), dtype=torch.float64)
    return smooth(6).requires_grad_(requires_grad=False), 2 * x[0], Features(background=x[1:])


def l1(model, x, masker, r) -> float:
    return float(mobius(table(ModelGame(model, x, Features(fill=r), log_odds(1))))[1:].abs().sum())


def test_adjoint():
    a, b = Stream(2).normal((2, 64), dtype=torch.float64)
    assert float(superset_mobius(a) @ b) == pytest.approx(float(a @ mobius(b)), rel=1e-12)
    v = Stream(3).normal((1, 64), dtype=torch.float64)[0]
    w = mobius(v)
    assert float(superset_mobius(w.sign()) @ v) == pytest.approx(float(w.abs().sum()), rel=1e-12)


@pytest.mark.parametrize("limit", [0, 1 << 40])
def test_gradient_equals_finite_differences(scene, limit, monkeypatch):
    monkeypatch.setattr(module, "_MOST_BYTES", limit)
    model, x, masker = scene
    search = module._Search(ModelGame(model, x, masker, log_odds(1)), x, masker, BaselineSettings())
    assert search.whole == (limit > 0)
    sum_, absent, g = search.look(search.start, gradient=True)
    assert sum_ == pytest.approx(l1(model, x, masker, search.start), rel=1e-12)
    assert absent == pytest.approx(float(log_odds(1)(model(search.start[None]))[0]))
    for element in range(6):
        step = torch.zeros(6, dtype=torch.float64)
        step[element] = 1e-6
        slope = (l1(model, x, masker, search.start + step) - l1(model, x, masker, search.start - step)) / 2e-6
        assert float(g[element]) == pytest.approx(slope, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("settings", [{}, {"shape": "ball"}, {"rate": 1e-3}, {"radius": 1.0}])
def test_never_leaves_its_box_never_gets_worse(scene, settings):
    model, x, masker = scene
    learned = learn_baseline(model, x, masker, target=1, settings=BaselineSettings(steps=20, **settings))
    radius = settings.get("radius", 0.05)
    away = (learned.baseline - masker.background.mean(0)).abs()
    assert bool((away <= radius * masker.background.std(0) * (1 + 1e-12)).all())
    assert learned.distance == pytest.approx(float(away.norm()), rel=1e-9)
    assert learned.l1_after <= learned.l1_before
    assert learned.l1_after == float(learned.trace.min())
    assert len(learned.trace) == 21
    assert learned.l1_after < learned.l1_before  # there is room on a smooth network
    assert l1(model, x, masker, learned.baseline) == pytest.approx(learned.l1_after, rel=1e-9)
    assert learned.score_absent == pytest.approx(float(log_odds(1)(model(learned.baseline[None]))[0]))
    assert learned.score_absent_before == pytest.approx(float(log_odds(1)(model(masker.background.mean(0)[None]))[0]))


def test_both_ways_take_the_same_course(scene, monkeypatch):
    model, x, masker = scene
    settings = BaselineSettings(steps=5)
    whole = learn_baseline(model, x, masker, target=1, settings=settings)
    monkeypatch.setattr(module, "_MOST_BYTES", 0)
    parts = learn_baseline(model, x, masker, target=1, settings=settings)
    assert_close(whole.baseline, parts.baseline, rtol=1e-9, atol=1e-12)
    assert_close(whole.trace, parts.trace)
    assert whole.evaluations == 5 * 128 + 64 + 64
    assert parts.evaluations == 5 * (64 + 128) + 64 + 64


def test_units_of_the_features_do_not_matter(scene):
    model, x, masker = scene
    units = torch.tensor([1.0, 10.0, 0.1, 3.0, 100.0, 0.01], dtype=torch.float64)

    def other(z):
        return model(z / units)

    plain = learn_baseline(model, x, masker, target=1, settings=BaselineSettings(steps=6))
    scaled = learn_baseline(
        other, x * units, Features(background=masker.background * units), target=1, settings=BaselineSettings(steps=6)
    )
    assert_close(scaled.baseline / units, plain.baseline)
    assert_close(scaled.trace, plain.trace)


def test_the_graph_of_a_learned_baseline(scene, rng):
    model, x, masker = scene
    settings = BaselineSettings(steps=8, radius=0.5)
    plain = and_or_graph(model, x, masker, target=1, rng=rng)
    graph = and_or_graph(model, x, masker, target=1, learn_baseline=settings, rng=rng)
    assert graph.baseline is not None
    assert graph.score == pytest.approx(plain.score)
    assert graph.l1 == pytest.approx(graph.baseline.l1_after, rel=1e-9)
    assert plain.l1 == pytest.approx(graph.baseline.l1_before, rel=1e-9)
    assert graph.l1 < plain.l1
    assert graph.constant == pytest.approx(graph.baseline.score_absent)
    assert graph.evaluations == plain.evaluations + graph.baseline.evaluations
    again = LearnedBaseline.from_dict(graph.baseline.to_dict())
    assert_close(again.baseline, graph.baseline.baseline)
    assert again.trace.tolist() == graph.baseline.trace.tolist()
    assert again.l1_after == graph.baseline.l1_after


def test_progress_is_told_in_evaluations_from_the_first_to_the_last(scene, rng):
    model, x, masker = scene
    told: list[tuple[int, int]] = []
    settings = BaselineSettings(steps=3)
    and_or_graph(model, x, masker, learn_baseline=settings, rng=rng, on_step=lambda *step: told.append(step))
    whole = 64 * (3 * 3 + 2) + 64 + 128
    assert {total for _, total in told} == {whole}
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1] == (whole, whole)


def test_images_keep_their_bounds_and_what_plays_no_part():
    x = Stream(4).child("x").uniform((9, 1, 6, 6))
    with Stream(6).forked():
        model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(32, 3))
    settings = BaselineSettings(steps=4, radius=9.0, bounds=(0.4, 0.6))
    learned = learn_baseline(model, x[0], Patches((2, 3), background=x[1:]), settings=settings)
    assert learned.baseline.shape == (1, 6, 6)
    assert float(learned.baseline.min()) >= 0.4 - 1e-6
    assert float(learned.baseline.max()) <= 0.6 + 1e-6
    assert learned.l1_after <= learned.l1_before


def test_embeddings_whose_special_tokens_stay():
    with Stream(7).forked():
        head = nn.Linear(4, 3)
    words = Stream(8).child("x").normal((5, 4))
    masker = Tokens("mean", fixed=(0, -1), background=Stream(9).normal((50, 4)))
    learned = learn_baseline(
        lambda z: head(z.tanh().mean(1)), words, masker, settings=BaselineSettings(steps=4, radius=0.5)
    )
    moved = (learned.baseline - masker(words).baseline).abs().sum(1)
    assert moved[0] == moved[-1] == 0
    assert bool((moved[1:-1] > 0).all())
    players = learned.applied(masker)(words)
    assert players.count == 3
    assert_close(players.baseline, learned.baseline)


def test_a_constant_model_stays(rng):
    x = torch.ones(4)
    learned = learn_baseline(
        lambda z: torch.stack([0 * z.sum(1), 0 * z[:, 0]], dim=1),
        x,
        Features(fill="zero"),
        settings=BaselineSettings(steps=3, scale=torch.ones(4)),
    )
    assert learned.l1_before == learned.l1_after == 0
    assert learned.distance == 0


def test_refusals(scene):
    model, x, masker = scene
    with pytest.raises(ValueError, match="give the masker a background= or BaselineSettings"):
        learn_baseline(model, x, Features(fill="zero"))
    with pytest.raises(ValueError, match="play on embeddings, without Marginal"):
        learn_baseline(model, x, Features(fill=Marginal(masker.background)))
    with pytest.raises(ValueError, match="scale has shape"):
        learn_baseline(model, x, masker, settings=BaselineSettings(scale=torch.ones(5)))
    with pytest.raises(ValueError, match="no gradient reaches the model's input"):
        learn_baseline(lambda z: model(z.detach()).detach(), x, masker)
    with pytest.raises(ValueError, match="a graph of 17 players needs 131,072 evaluations"):
        learn_baseline(smooth(17), torch.ones(17, dtype=torch.float64), Features(fill="zero"))
    with pytest.raises(ValueError, match="need steps >= 1"):
        BaselineSettings(steps=0)


def test_gradients_that_are_no_numbers_are_not_blamed_on_the_answers():
    def model(z):  # the root of 0 is 0, its slope infinite
        return torch.stack([(z[:, 0] - z[:, 0]).sqrt() + z[:, 1] * z[:, 2], z[:, 1]], dim=1)

    settings = BaselineSettings(steps=2, scale=torch.ones(3))
    with pytest.raises(ModelError, match="gradients hold NaN or infinity"):
        learn_baseline(model, torch.ones(3), Features(fill="zero"), target=0, settings=settings)
