"""Harsanyi dividends: the worth that exactly one coalition adds to all smaller ones."""

from __future__ import annotations

from torch import Tensor

from pellucid.core import Game, OnStep, silent

from ._games import MAX_EXACT, names_of, table_of
from ._interactions import Interactions
from ._transforms import mobius, players_of, sizes


def harsanyi(
    game: Game | Tensor, *, floor: float | None = None, max_exact: int = MAX_EXACT, on_step: OnStep = silent
) -> Interactions:
    """Which coalitions add worth of their own? The dividends a(S) = sum over T <= S of (-1)**(s-t) v(T).

    They are the only numbers with v(S) = sum of a(T) over T <= S for all S (Harsanyi 1963).

    Args:
        game: a game, or its table `(2**n, *b)`.
        floor: deviation of one evaluation, from `noise_floor`; dividends of s players below 3 * floor * 2**(s/2) are
            marked as noise.
        max_exact: most players for which the whole table is evaluated.
        on_step: progress in evaluations.

    Example:
        >>> import torch
        >>> harsanyi(torch.tensor([0.0, 1.0, 1.0, 3.0])).values.tolist()
        [0.0, 1.0, 1.0, 1.0]
    """
    values, evaluations = table_of(game, max_exact=max_exact, on_step=on_step)
    dividends = mobius(values)
    noise = None
    if floor is not None:
        least = 3 * floor * 2 ** (sizes(players_of(dividends), device=dividends.device).to(dividends) / 2)
        noise = dividends.abs() < least.view(-1, *[1] * (dividends.ndim - 1))
    return Interactions(dividends, evaluations, names_of(game), floor=floor, noise=noise)
