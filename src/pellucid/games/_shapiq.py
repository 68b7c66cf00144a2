"""Games and results to shapiq and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pellucid.core import Game, MissingExtra

from ._games import cost_of
from ._interactions import Interactions

if TYPE_CHECKING:
    from shapiq import InteractionValues


class ShapiqGame:
    """A game as shapiq's approximators and its exact computer call it; see `to_shapiq`.

    `.evaluations` counts the model evaluations spent.

    Args:
        game: a game of one number per coalition.
    """

    def __init__(self, game: Game) -> None:
        self.game = game
        self.evaluations = 0

    @property
    def n_players(self) -> int:
        return self.game.n_players

    def __call__(self, coalitions: np.ndarray) -> np.ndarray:
        """Return the worth `(c,)` of the rows of a bool matrix, or `(1,)` of one coalition."""
        keep = torch.from_numpy(np.atleast_2d(np.asarray(coalitions)).astype(bool))
        if not len(keep):
            return np.zeros(0)
        worth = self.game(keep)
        if worth.ndim != 1:
            raise ValueError(f"shapiq needs one number per coalition, got shape {tuple(worth.shape)}; choose one class")
        self.evaluations += len(keep) * cost_of(self.game)
        found: np.ndarray = worth.detach().cpu().to(torch.float64).numpy()
        return found


def to_shapiq(game: Game) -> ShapiqGame:
    """Return a game that shapiq's approximators accept, `approximator.approximate(budget, to_shapiq(game))`.

    Args:
        game: a game of one number per coalition.

    Example:
        >>> import numpy as np, torch
        >>> from pellucid.games import TableGame
        >>> game = to_shapiq(TableGame(torch.tensor([0.0, 1.0, 2.0, 5.0])))
        >>> game(np.array([[True, True], [False, True]])).tolist(), game.evaluations
        ([5.0, 2.0], 2)
    """
    return ShapiqGame(game)


def from_shapiq(found: InteractionValues, *, names: tuple[str, ...] = ()) -> Interactions:
    """Return shapiq's result as `Interactions`: the listed coalitions, all others zero.

    Args:
        found: what an approximator, an explainer or the exact computer of shapiq returned.
        names: one name per player.
    """
    entries = {tuple(sorted(players)): float(value) for players, value in found.interactions.items()}
    entries[()] = float(found.baseline_value)  # for SII and BII shapiq lists the index of nobody beside v(empty)
    sets = sorted(entries, key=lambda players: (len(players), players))
    return Interactions(
        torch.tensor([entries[players] for players in sets], dtype=torch.float64),
        int(found.estimation_budget or 0),
        names,
        index=str(found.index),
        n_players=int(found.n_players),
        max_order=int(found.max_order),
        sets=tuple(sets),
    )


def interaction_values(found: Interactions) -> InteractionValues:
    """Return shapiq's `InteractionValues` with the same numbers."""
    try:
        from shapiq import InteractionValues
    except ImportError:
        raise MissingExtra('results for shapiq need shapiq: pip install "pellucid[peers]"') from None
    values: Tensor = found.values
    constant = float(found[()]) if () in found.players else 0.0
    return InteractionValues(
        values=values.detach().cpu().numpy().copy(),
        index=found.index,
        n_players=found.n_players,
        min_order=0,
        max_order=found.n_players if found.max_order is None else found.max_order,
        interaction_lookup={players: row for row, players in enumerate(found.players)},
        estimated=False,
        estimation_budget=found.evaluations,
        baseline_value=constant,
    )
