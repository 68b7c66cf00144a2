"""Games that wrap: a table as a game, one that remembers, one that counts, one with some players fixed."""

from __future__ import annotations

from collections.abc import Sequence
from math import pi, sqrt

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pellucid.core import BudgetError, Game, OnStep, silent

from ._transforms import coalitions, players_of, rows_of

MAX_EXACT = 20
_PLAYERS_PER_STEP = 13  # 8,192 coalitions at a time


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


def mean_size(stderr: Tensor, freedom: Tensor) -> Tensor:
    """Return what |mean| of normal draws around zero is on average, from its estimated standard error.

    sqrt(2/pi) times the error itself; the estimate is on average c4 times too small, c4 = sqrt(2/d) G((d+1)/2) / G(d/2)
    with G the gamma function and d degrees of freedom, 0.80 for two draws and 0.97 for eight.
    """
    d = freedom.clamp_min(0.5)
    small = ((2 / d).log() / 2 + ((d + 1) / 2).lgamma() - (d / 2).lgamma()).exp()
    return sqrt(2 / pi) * stderr / small


def cost_of(game: Game) -> int:
    """Return how many model evaluations one coalition costs: 1 unless the game averages or has several inputs."""
    return int(getattr(game, "cost", 1))


def names_of(game: object) -> tuple[str, ...]:
    """Return the names of a game's players, looking through wrappers; empty if nobody named them."""
    while game is not None:
        names: tuple[str, ...] = getattr(game, "names", ()) or getattr(getattr(game, "players", None), "names", ())
        if names:
            return names
        game = getattr(game, "game", None)
    return ()


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
    """Counts model evaluations and refuses to spend more than `limit`.

    A coalition counts once; several times where the game averages over a background or holds several inputs.

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

    @property
    def cost(self) -> int:
        """Model evaluations per coalition."""
        return cost_of(self.game)

    def __call__(self, keep: Bool[Tensor, "c n"]) -> Float[Tensor, "c *b"]:
        wanted = self.evaluations + len(keep) * self.cost
        if self.limit is not None and wanted > self.limit:
            raise BudgetError(f"the game needs {wanted:,} evaluations so far but its limit is {self.limit:,}")
        self.evaluations = wanted
        return self.game(keep)


class Memoized:
    """Evaluates each coalition once and remembers its value.

    `.evaluations` is the number of model evaluations really spent.
    """

    def __init__(self, game: Game) -> None:
        self.game = game
        self._rows: dict[bytes, int] = {}
        self._values: list[Tensor] = []

    @property
    def n_players(self) -> int:
        return self.game.n_players

    @property
    def cost(self) -> int:
        """Model evaluations per coalition that is not known yet."""
        return cost_of(self.game)

    @property
    def evaluations(self) -> int:
        return len(self._rows) * self.cost

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


class Restricted:
    """A game in which some players are always present or always absent; see `restrict`.

    Args:
        game: the game.
        present: players that are always present.
        absent: players that are always absent.
    """

    def __init__(self, game: Game, present: Sequence[int], absent: Sequence[int]) -> None:
        n = game.n_players
        fixed = [*present, *absent]
        if any(not 0 <= p < n for p in fixed) or len(set(fixed)) != len(fixed):
            raise ValueError(f"present and absent must be different players from 0 to {n - 1}, got {present}, {absent}")
        if len(fixed) == n:
            raise ValueError(f"all {n} players are fixed; leave at least one to play")
        self.game = game
        self.playing = tuple(p for p in range(n) if p not in fixed)
        names = names_of(game)
        self.names = tuple(names[p] for p in self.playing) if names else ()
        self._start = torch.tensor([p in present for p in range(n)])

    @property
    def n_players(self) -> int:
        return len(self.playing)

    @property
    def cost(self) -> int:
        """Model evaluations per coalition."""
        return cost_of(self.game)

    def __call__(self, keep: Bool[Tensor, "c n"]) -> Float[Tensor, "c *b"]:
        check_keep(keep, self.n_players)
        whole = self._start.to(keep.device).repeat(len(keep), 1)
        whole[:, list(self.playing)] = keep
        return self.game(whole)


def restrict(game: Game, *, present: Sequence[int] = (), absent: Sequence[int] = ()) -> Restricted:
    """Fix some players of a game: the others, renumbered in their order, play on.

    `.playing` holds the numbers that the remaining players had.

    Args:
        game: the game.
        present: players that are always present.
        absent: players that are always absent.

    Raises:
        ValueError: a player is unknown or named twice, or nobody is left to play.

    Example:
        >>> import torch
        >>> game = TableGame(torch.tensor([0.0, 1.0, 2.0, 5.0]))
        >>> table(restrict(game, present=[0])).tolist()
        [1.0, 5.0]
    """
    return Restricted(game, present, absent)


def table(game: Game, *, max_exact: int = MAX_EXACT, on_step: OnStep = silent) -> Float[Tensor, "rows *b"]:
    """Return the worth of every coalition, float64 `(2**n, *b)`, from 2**n coalitions.

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
            f"an exact table of {n} players needs {cost_of(game) << n:,} evaluations; join players into at most "
            f"{max_exact}, pass max_exact={n}, or sample with `size_curve`, `pair_orders` or "
            "`shapley(game, permutations=..., rng=...)`"
        )
    rows, low = 1 << n, coalitions(min(n, _PLAYERS_PER_STEP))
    high = torch.arange(n - low.shape[1])
    values: Tensor | None = None
    for start in range(0, rows, len(low)):
        upper = (start >> low.shape[1] >> high & 1).to(torch.bool)
        part = game(torch.cat([low, upper.expand(len(low), -1)], dim=1) if len(high) else low)
        if values is None:  # filled in place: nothing is held twice
            values = torch.empty(rows, *part.shape[1:], dtype=torch.float64, device=part.device)
        values[start : start + len(low)] = part
        on_step(start + len(low), rows)
    assert values is not None  # a table has at least one row
    return values


def table_of(game: Game | Tensor, *, max_exact: int = MAX_EXACT, on_step: OnStep = silent) -> tuple[Tensor, int]:
    """Return a table and what it cost: a tensor is taken as the table itself, a `TableGame` costs nothing."""
    if isinstance(game, Tensor):
        players_of(game)
        return game.detach().to(torch.float64), 0
    if isinstance(game, TableGame):
        return game.values, 0
    values = table(game, max_exact=max_exact, on_step=on_step)
    return values, len(values) * cost_of(game)
