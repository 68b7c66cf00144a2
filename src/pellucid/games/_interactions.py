"""One number per coalition: what results of any order and any index look like."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from itertools import combinations
from math import comb
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ._games import check_keep
from ._transforms import players_of, rows_of, sizes, zeta

if TYPE_CHECKING:
    from shapiq import InteractionValues

NO_DECOMPOSITION = ("BV", "SII", "BII", "CHII", "Co-Moebius")
"""Indices whose numbers do not add up to the worth of a coalition; SII and CHII of order 1 are Shapley values."""

_ROWS_AT_ONCE = 1 << 22


def members(row: int) -> tuple[int, ...]:
    """Return the players of a table row, sorted."""
    return tuple(p for p in range(row.bit_length()) if row >> p & 1)


def rows_up_to(n_players: int, order: int) -> Int[Tensor, " rows"]:
    """Return the table rows of all coalitions of at most `order` players: by size, then by row."""
    size = sizes(n_players)
    rows = (size <= order).nonzero()[:, 0]
    return rows[size[rows].argsort(stable=True)]


def _listed(n_players: int, size: int) -> list[tuple[int, ...]]:
    """Return all coalitions of `size` players in the order of a table's rows, without the table."""
    return sorted(combinations(range(n_players), size), key=lambda players: players[::-1])


@dataclass(frozen=True, eq=False)
class Interactions:
    """One number per coalition: how much its players add together.

    There is a number for every coalition, in the order of a table's rows; or with `max_order` for the coalitions of at
    most that many players, by size and then by row; or with `sets` for the coalitions listed there, all others zero.

    Args:
        values: float64 `(rows, *b)`; the empty coalition holds the constant.
        evaluations: model evaluations spent.
        names: one name per player, or empty.
        index: which index the numbers are, see `INDICES`; "Moebius" are Harsanyi dividends.
        n_players: number of players; found out from a whole table.
        max_order: most players of a coalition that has a number; None for all.
        sets: the coalitions of the rows, each sorted, if they are not all there are.
        floor: deviation of one evaluation, from `noise_floor`, if it was measured.
        noise: bool, which numbers cannot be told from rounding; None if no floor was measured.
    """

    values: Float[Tensor, "rows *b"]
    evaluations: int = 0
    names: tuple[str, ...] = ()
    _: KW_ONLY
    index: str = "Moebius"
    n_players: int = 0
    max_order: int | None = None
    sets: tuple[tuple[int, ...], ...] | None = None
    floor: float | None = None
    noise: Bool[Tensor, "rows *b"] | None = None

    def __post_init__(self) -> None:
        if self.sets is None and self.max_order is None:
            object.__setattr__(self, "n_players", players_of(self.values))
            return
        if self.sets is not None:
            wanted = len(self.sets)
        else:
            wanted = sum(comb(self.n_players, size) for size in range((self.max_order or 0) + 1))
        if len(self.values) != wanted:
            raise ValueError(f"{len(self.values)} values do not fit {wanted} coalitions; one each is needed")

    @property
    def whole(self) -> bool:
        """Whether there is a number for every coalition, in the order of a table's rows."""
        return self.sets is None and self.max_order is None

    @cached_property
    def players(self) -> tuple[tuple[int, ...], ...]:
        """The players of each row."""
        if self.sets is not None:
            return self.sets
        if self.max_order is None:
            return tuple(members(row) for row in range(len(self.values)))
        return tuple(players for size in range(self.max_order + 1) for players in _listed(self.n_players, size))

    @cached_property
    def _row_of(self) -> dict[tuple[int, ...], int]:
        return {players: row for row, players in enumerate(self.players)}

    def __getitem__(self, players: tuple[int, ...]) -> Tensor:
        """Return the interaction of exactly these players.

        Raises:
            KeyError: no such players, or more of them than `max_order`.
        """
        n = self.n_players
        if any(not 0 <= p < n for p in players) or len(set(players)) != len(players):
            raise KeyError(f"players must be different numbers from 0 to {n - 1}, got {players}")
        if self.whole:
            return self.values[sum(1 << p for p in players)]
        if self.max_order is not None and len(players) > self.max_order:
            raise KeyError(f"there are only numbers for at most {self.max_order} players, got {players}")
        row = self._row_of.get(tuple(sorted(players)))
        return torch.zeros_like(self.values[0]) if row is None else self.values[row]

    def __iter__(self) -> Iterator[tuple[tuple[int, ...], Tensor]]:
        """Go through coalitions and their numbers."""
        return zip(self.players, self.values, strict=True)

    def top(self, k: int) -> list[tuple[tuple[int, ...], float]]:
        """Return the k strongest coalitions with their signed interactions, the constant left out.

        Ties go to the lower row, so the answer does not depend on the machine. For games of one number only.
        """
        self._need_scalar("top")
        strength = self.values.abs().clone()
        constant = 0 if self.sets is None else self._row_of.get((), -1)
        if constant >= 0:
            strength[constant] = -1
        rows = strength.argsort(descending=True, stable=True)[: min(k, len(strength) - (constant >= 0))]
        whole = self.whole
        return [(members(row) if whole else self.players[row], float(self.values[row])) for row in rows.tolist()]

    def order(self, size: int) -> tuple[Int[Tensor, "c n"], Float[Tensor, "c *b"]]:
        """Return the coalitions of `size` players, int64 `(C, size)`, and their interactions.

        All of them, or the listed ones where `sets` lists some.
        """
        n = self.n_players
        most = n if self.max_order is None else self.max_order
        if not 0 <= size <= most:
            raise ValueError(f"size must be from 0 to {most}, got {size}")
        if self.whole:
            numbers = (sizes(n) == size).nonzero()[:, 0]
            players = ((numbers[:, None] >> torch.arange(n)) & 1).nonzero()[:, 1].view(len(numbers), size)
            return players, self.values[numbers.to(self.values.device)]
        if self.sets is None:
            listed = torch.tensor(_listed(n, size), dtype=torch.int64).view(comb(n, size), size)
            start = sum(comb(n, s) for s in range(size))
            return listed, self.values[start : start + len(listed)]
        rows = [row for row, players in enumerate(self.sets) if len(players) == size]
        listed = torch.tensor([self.sets[row] for row in rows], dtype=torch.int64).view(len(rows), size)
        return listed, self.values[rows]

    def total(self) -> Float[Tensor, "*b"]:
        """Return the sum of all interactions, the constant included.

        It is v(N) for dividends, Shapley values, STII, FSII and k-SII.
        """
        return self.values.sum(0)

    def predict(self, keep: Bool[Tensor, "c n"]) -> Float[Tensor, "c *b"]:
        """Return the worth of coalitions by these numbers: the sum of the interactions inside each.

        It is exact for dividends, the best fit of that order for FBII and (by Shapley weights) for FSII.

        Raises:
            ValueError: the numbers of this index do not add up to a worth (BV, SII, BII, CHII, Co-Moebius).
        """
        check_keep(keep, self.n_players)
        shapley = self.index in ("SII", "CHII") and self.max_order == 1
        if self.index in NO_DECOMPOSITION and not shapley:
            raise ValueError(f"{self.index} does not add up to the worth of a coalition; use STII, FSII, FBII or k-SII")
        if self.whole:
            return zeta(self.values)[rows_of(keep).to(self.values.device)]
        member = torch.zeros(len(self.players), self.n_players, dtype=torch.float64, device=self.values.device)
        at = [(row, p) for row, players in enumerate(self.players) for p in players]
        if at:
            rows, columns = torch.tensor(at, device=member.device).T
            member[rows, columns] = 1
        out = self.values.new_zeros(len(keep), *self.values.shape[1:])
        size, kept = member.sum(1), keep.to(member)
        for start in range(0, len(keep), step := max(1, _ROWS_AT_ONCE // max(1, len(member)))):
            inside = (kept[start : start + step] @ member.T == size).to(self.values)
            out[start : start + step] = torch.tensordot(inside, self.values, dims=1)
        return out

    def label(self, players: Sequence[int]) -> str:
        """Return the names of players in one text, numbers where nobody named them."""
        return " + ".join(self.names[p] if self.names else str(p) for p in players) or "nobody"

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and numbers for JSON; `from_dict` reads them back."""
        return {
            "n_players": self.n_players,
            "index": self.index,
            "max_order": self.max_order,
            "sets": None if self.sets is None else [list(players) for players in self.sets],
            "values": self.values.tolist(),
            "noise": None if self.noise is None else self.noise.tolist(),
            "floor": self.floor,
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
        sets, order, noise = (entries.get(key) for key in ("sets", "max_order", "noise"))
        if sets is None and order is None and players_of(values) != entries["n_players"]:
            raise ValueError(f"{len(values)} values do not fit {entries['n_players']} players; 2**n are needed")
        return cls(
            values,
            int(entries.get("evaluations", 0)),
            tuple(entries.get("names", ())),
            index=entries.get("index", "Moebius"),
            n_players=int(entries["n_players"]),
            max_order=order,
            sets=None if sets is None else tuple(tuple(players) for players in sets),
            floor=entries.get("floor"),
            noise=None if noise is None else torch.tensor(noise, dtype=torch.bool),
        )

    def to_shapiq(self) -> InteractionValues:
        """Return shapiq's `InteractionValues` with the same numbers. Needs shapiq; for games of one number only.

        Raises:
            MissingExtra: shapiq is not installed.
        """
        from ._shapiq import interaction_values

        self._need_scalar("to_shapiq")
        return interaction_values(self)

    def _need_scalar(self, method: str) -> None:
        if self.values.ndim != 1:
            raise ValueError(f"{method} needs one number per coalition, got shape {tuple(self.values.shape)}")
