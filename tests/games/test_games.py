"""Games that wrap: tables, memory, counting, and the exact table of a game."""

from __future__ import annotations

import pytest
import torch

from pellucid.core import BudgetError, Game, Stream
from pellucid.games import Counted, Memoized, TableGame, coalitions, table


def random_table(n: int) -> torch.Tensor:
    return Stream(0).child("table", n).normal((1 << n, 1), dtype=torch.float64)[:, 0]


def test_table_of_a_table_game_is_the_table():
    v = random_table(5)
    steps = []
    assert torch.equal(table(TableGame(v), on_step=lambda done, total: steps.append((done, total))), v)
    assert steps[-1] == (32, 32)
    assert isinstance(TableGame(v), Game)


def test_counted_counts_and_stops_before_spending():
    game = Counted(TableGame(random_table(4)), limit=20)
    table(game)
    assert game.evaluations == 16
    with pytest.raises(BudgetError, match="needs 32 evaluations so far but its limit is 20"):
        table(game)
    assert game.evaluations == 16
    assert game.n_players == 4


def test_memoized_evaluates_each_coalition_once():
    inner = Counted(TableGame(random_table(4).view(16, 1).expand(16, 3)))
    game = Memoized(inner)
    keep = coalitions(4)[torch.tensor([3, 5, 3, 3, 0])]
    assert torch.equal(game(keep), inner.game(keep))
    assert inner.evaluations == game.evaluations == 3
    assert torch.equal(game(coalitions(4)), inner.game(coalitions(4)))
    assert inner.evaluations == game.evaluations == 16
    assert game.n_players == 4


def test_too_many_players_for_a_table():
    class Wide:
        n_players = 24

        def __call__(self, keep):
            raise AssertionError("must not be evaluated")

    with pytest.raises(ValueError, match=r"24 players needs 16,777,216 evaluations.*size_curve"):
        table(Wide())
