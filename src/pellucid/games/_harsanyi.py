"""Harsanyi dividends: the worth that exactly one coalition adds to all smaller ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pellucid.core import Game, OnStep, silent

from ._games import MAX_EXACT, check_keep, table_of
from ._transforms import coalitions, mobius, players_of, rows_of, sizes, zeta


def members(row: int) -> tuple[int, ...]:
    """Return the players of a table row, sorted."""
    return tuple(p for p in range(row.bit_length()) if row >> p & 1)


@dataclass(frozen=True, eq=False)
class Interactions:
    """One number per coalition: how much its players add together, beyond what smaller coalitions add.

    Args:
        values: float64 `(2**n, *b)` in table order; row 0 is the constant v(empty).
        evaluations: model evaluations spent.
        names: one name per player, or empty.
    """

    values: Float[Tensor, "rows *b"]
    evaluations: int = 0
    names: tuple[str, ...] = ()

    @property
    def n_players(self) -> int:
        return players_of(self.values)

    def __getitem__(self, players: tuple[int, ...]) -> Tensor:
        """Return the interaction of exactly these players."""
        n = self.n_players
        if any(not 0 <= p < n for p in players) or len(set(players)) != len(players):
            raise KeyError(f"players must be different numbers from 0 to {n - 1}, got {players}")
        return self.values[sum(1 << p for p in players)]

    def top(self, k: int) -> list[tuple[tuple[int, ...], float]]:
        """Return the k strongest coalitions with their signed interactions, the constant left out.

        Ties go to the lower row, so the answer does not depend on the machine. For games of one number only.
        """
        self._need_scalar("top")
        strength = self.values.abs().clone()
        strength[0] = -1
        rows = strength.argsort(descending=True, stable=True)[: min(k, len(strength) - 1)]
        return [(members(int(row)), float(self.values[row])) for row in rows]

    def order(self, size: int) -> tuple[Int[Tensor, "c n"], Float[Tensor, "c *b"]]:
        """Return the coalitions of `size` players, int64 `(C(n, size), size)`, and their interactions."""
        n = self.n_players
        if not 0 <= size <= n:
            raise ValueError(f"size must be from 0 to {n}, got {size}")
        rows = (sizes(n) == size).nonzero()[:, 0]
        players = coalitions(n)[rows].nonzero()[:, 1].view(len(rows), size)
        return players, self.values[rows.to(self.values.device)]

    def total(self) -> Float[Tensor, "*b"]:
        """Return the sum of all interactions, the constant included: v(N)."""
        return self.values.sum(0)

    def predict(self, keep: Bool[Tensor, "c n"]) -> Float[Tensor, "c *b"]:
        """Return the worth of coalitions, the sum of the interactions inside each."""
        check_keep(keep, self.n_players)
        return zeta(self.values)[rows_of(keep).to(self.values.device)]

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and numbers for JSON; `from_dict` reads them back."""
        return {
            "n_players": self.n_players,
            "values": self.values.tolist(),
            "evaluations": self.evaluations,
            "names": list(self.names),
        }

    @classmethod
    def from_dict(cls, entries: Mapping[str, Any]) -> Interactions:
        """Return the interactions that `to_dict` wrote.

        Raises:
            ValueError: the number of values does not fit the number of players.
        """
        values = torch.tensor(entries["values"], dtype=torch.float64)
        if players_of(values) != entries["n_players"]:
            raise ValueError(f"{len(values)} values do not fit {entries['n_players']} players; 2**n are needed")
        return cls(values, int(entries.get("evaluations", 0)), tuple(entries.get("names", ())))

    def _need_scalar(self, method: str) -> None:
        if self.values.ndim != 1:
            raise ValueError(f"{method} needs one number per coalition, got shape {tuple(self.values.shape)}")


def harsanyi(game: Game | Tensor, *, max_exact: int = MAX_EXACT, on_step: OnStep = silent) -> Interactions:
    """Which coalitions add worth of their own? The dividends a(S) = sum over T <= S of (-1)**(s-t) v(T).

    They are the only numbers with v(S) = sum of a(T) over T <= S for all S (Harsanyi 1963).

    Args:
        game: a game, or its table `(2**n, *b)`.
        max_exact: most players for which the whole table is evaluated.
        on_step: progress in evaluations.

    Example:
        >>> import torch
        >>> harsanyi(torch.tensor([0.0, 1.0, 1.0, 3.0])).values.tolist()
        [0.0, 1.0, 1.0, 1.0]
    """
    values, evaluations = table_of(game, max_exact=max_exact, on_step=on_step)
    names: tuple[str, ...] = getattr(getattr(game, "players", None), "names", ())
    return Interactions(mobius(values), evaluations, names)
