"""Pellucid's games in shapiq's hands, and its results in ours."""

from __future__ import annotations

import sys
import warnings

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from pellucid.core import MissingExtra, Stream
from pellucid.games import (
    Features,
    Marginal,
    ModelGame,
    TableGame,
    from_shapiq,
    harsanyi,
    index,
    log_odds,
    shapley,
    to_shapiq,
)


def drawn(n: int) -> torch.Tensor:
    return Stream(3).child("table", n).normal((1, 1 << n), dtype=torch.float64)[0]


def model_game(fill: object = "zero") -> ModelGame:
    with Stream(7).forked():
        model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    return ModelGame(model, torch.ones(6), Features(fill=fill), log_odds(1))


@pytest.fixture
def shapiq():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield pytest.importorskip("shapiq", reason="needs the peers extra")


@pytest.mark.peers
def test_its_approximators_run_on_our_games(shapiq):
    game = to_shapiq(model_game())
    exact = shapley(model_game()).values
    found = from_shapiq(shapiq.KernelSHAP(n=6, random_state=0).approximate(budget=64, game=game))
    assert_close(found.order(1)[1], exact, atol=1e-5, rtol=0)  # every coalition is affordable, so it is exact
    assert 0 < game.evaluations <= 64
    assert found.n_players == 6

    counted = to_shapiq(model_game())
    sampled = shapiq.PermutationSamplingSII(n=6, max_order=2, index="SII", random_state=0)
    pairs = from_shapiq(sampled.approximate(budget=20_000, game=counted))
    ours = index(model_game(), "SII", order=2)
    assert pairs.index == "SII"
    assert counted.evaluations <= 20_000
    assert_close(pairs.order(2)[1], _in_order_of(pairs, ours), atol=0.05, rtol=0)


def _in_order_of(first, second):
    return torch.stack([second[tuple(players)] for players in first.order(2)[0].tolist()])


@pytest.mark.peers
@pytest.mark.parametrize("name", ["SII", "k-SII", "STII", "FSII", "Moebius"])
def test_results_go_there_and_back(shapiq, name):
    found = index(drawn(5), name, order=2)
    there = found.to_shapiq()
    assert isinstance(there, shapiq.InteractionValues)
    assert (there.index, there.n_players, there.max_order) == (name, 5, 2)
    again = from_shapiq(there, names=tuple("abcde"))
    assert again.names == tuple("abcde")
    for players, value in found:
        assert float(there[players]) == float(value) == float(again[players])


@pytest.mark.peers
def test_whole_tables_go_too(shapiq):
    found = harsanyi(drawn(4))
    there = found.to_shapiq()
    assert there.max_order == 4
    assert all(float(there[players]) == float(value) for players, value in found)
    with pytest.raises(ValueError, match=r"one number per coalition, got shape \(16, 2\)"):
        harsanyi(drawn(4)[:, None].expand(-1, 2)).to_shapiq()


def test_games_answer_numpy_and_count():
    game = to_shapiq(TableGame(drawn(3)))
    keep = np.array([[1, 0, 1], [0, 0, 0]])
    assert game(keep).tolist() == drawn(3)[[5, 0]].tolist()
    assert game(keep[0].astype(bool)).shape == (1,)
    assert game(np.zeros((0, 3), dtype=bool)).shape == (0,)
    assert (game.evaluations, game.n_players) == (3, 3)
    many = to_shapiq(model_game(Marginal(torch.zeros(4, 6))))
    many(np.ones((2, 6), dtype=bool))
    assert many.evaluations == 8


def test_a_game_of_several_numbers_has_no_place_there():
    game = to_shapiq(TableGame(drawn(3)[:, None].expand(-1, 2)))
    with pytest.raises(ValueError, match=r"one number per coalition, got shape \(1, 2\)"):
        game(np.ones(3, dtype=bool))


def test_without_shapiq_the_install_line_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "shapiq", None)
    with pytest.raises(MissingExtra, match=r"pip install \"pellucid\[peers\]\""):
        index(drawn(3), "SII").to_shapiq()
