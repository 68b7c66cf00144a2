"""Games that wrap: a table as a game, a game that remembers, a game that counts."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pellucid.core import BudgetError, Game, OnStep, silent

from ._transforms import coalitions, players_of, rows_of

MAX_EXACT = 20
_ROWS_PER_STEP = 8192


def check_keep(keep: Tensor, n_players: int) -> None:
    """Raise a `ValueError` unless `keep` is a bool matrix with one column per player and at least one row."""
    if keep.dtype != torch.bool or keep.ndim != 2:
        raise ValueError(f"keep must be a bool matrix (coalitions, players), got {keep.dtype} {tuple(keep.shape)}")
    if keep.shape[1] != n_players:
        raise ValueError(
            f"keep has {keep.shape[1]} columns but the game has {n_players} players; pass one column per player"
        )
    if not len(keep):
        raise ValueError("keep has no rows; pass at least one coalition")


class TableGame:
    """The game of a table: `values[row]` is worth of the coalition whose players are the bits of `row`.

    Args:
        values: `(2**n, *b)`.

    Example:
        >>> import torch
        >>> both = TableGame(torch.tensor([0.0, 0.0, 0.0, 1.0]))  # worth 1 if both of two players are present
        >>> both(torch.tensor([[True, True], [True, False]])).tolist()
        [1.0, 0.0]
    """

    def __init__(self, values: Float[Tensor, "rows *b"]) -> None:
        self.n_players = players_of(values)
        self.values = values.detach().to(torch.float64)

    def __call__(self, keep: Bool[Tensor, "c n"]) -> Float[Tensor, "c *b"]:
        check_keep(keep, self.n_players)
        return self.values[rows_of(keep).to(self.values.device)].to(keep.device)


class Counted:
    """Counts evaluations and refuses to spend more than `limit`.

    Raises:
        BudgetError: a call would exceed the limit; nothing of that call is evaluated.
    """

    def __init__(self, game: Game, limit: int | None = None) -> None:
        self.game = game
        self.limit = limit
        self.evaluations = 0

    @property
    def n_players(self) -> int:
        return self.game.n_players

    def __call__(self, keep: Bool[Tensor, "c n"]) -> Float[Tensor, "c *b"]:
        wanted = self.evaluations + len(keep)
        if self.limit is not None and wanted > self.limit:
            raise BudgetError(f"the game needs {wanted:,} evaluations so far but its limit is {self.limit:,}")
        self.evaluations = wanted
        return self.game(keep)


class Memoized:
    """Evaluates each coalition once and remembers its value.

    `.evaluations` is the number of coalitions that were really evaluated.
    """

    def __init__(self, game: Game) -> None:
        self.game = game
        self._rows: dict[bytes, int] = {}
        self._values: list[Tensor] = []

    @property
    def n_players(self) -> int:
        return self.game.n_players

    @property
    def evaluations(self) -> int:
        return len(self._rows)

    def __call__(self, keep: Bool[Tensor, "c n"]) -> Float[Tensor, "c *b"]:
        check_keep(keep, self.n_players)
        keys = [row.tobytes() for row in keep.cpu().numpy()]
        first = {key: index for index, key in reversed(list(enumerate(keys))) if key not in self._rows}
        if first:
            new = sorted(first.values())
            fresh = self.game(keep[torch.tensor(new, device=keep.device)])
            for index, value in zip(new, fresh, strict=True):
                self._rows[keys[index]] = len(self._values)
                self._values.append(value)
        return torch.stack([self._values[self._rows[key]] for key in keys]).to(keep.device)


def table(game: Game, *, max_exact: int = MAX_EXACT, on_step: OnStep = silent) -> Float[Tensor, "rows *b"]:
    """Return the worth of every coalition, float64 `(2**n, *b)`, in 2**n evaluations.

    Args:
        game: the game.
        max_exact: most players for which a whole table is allowed.
        on_step: progress in evaluations.

    Raises:
        ValueError: more players than `max_exact`.
    """
    n = game.n_players
    if n > max_exact:
        raise ValueError(
            f"an exact table of {n} players needs {1 << n:,} evaluations; join players into at most {max_exact}, pass "
            f"max_exact={n}, or sample with `size_curve`, `pair_orders` or `shapley(game, permutations=..., rng=...)`"
        )
    keep = coalitions(n)
    parts = []
    for start in range(0, len(keep), _ROWS_PER_STEP):
        parts.append(game(keep[start : start + _ROWS_PER_STEP]))
        on_step(min(start + _ROWS_PER_STEP, len(keep)), len(keep))
    return torch.cat(parts).to(torch.float64)


def table_of(game: Game | Tensor, *, max_exact: int = MAX_EXACT, on_step: OnStep = silent) -> tuple[Tensor, int]:
    """Return a table and what it cost: a tensor is taken as the table itself, a `TableGame` costs nothing."""
    if isinstance(game, Tensor):
        players_of(game)
        return game.detach().to(torch.float64), 0
    if isinstance(game, TableGame):
        return game.values, 0
    values = table(game, max_exact=max_exact, on_step=on_step)
    return values, len(values)
