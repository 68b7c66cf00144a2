"""Which few combinations of inputs made one score? Harsanyi dividends of one input, pruned to the patterns that matter.

arXiv:2111.06206. Sparse is a finding here and not a given: the share of variance that the kept patterns explain over
ALL masked versions of the input is the headline.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pellucid.core import Masker, Model, OnStep, Players, Stream, silent
from pellucid.games import (
    Interactions,
    ModelGame,
    PrunePath,
    ValueOf,
    harsanyi,
    log_odds,
    noise_floor,
    prune,
    table,
)

_PROBES = 64


@dataclass(frozen=True)
class Pattern:
    """A set of players that add `effect` together, beyond what their subsets add.

    Args:
        players: sorted player numbers.
        effect: Harsanyi dividend, signed, in units of the value.
        noise: effects up to this size cannot be told from rounding.
    """

    players: tuple[int, ...]
    effect: float
    noise: float


@dataclass(frozen=True, eq=False)
class Concepts:
    """The patterns behind one score.

    Args:
        patterns: the kept patterns, strongest first.
        constant: worth of the input with every player absent.
        score: worth of the whole input.
        explained_variance: share of the variance of v over all coalitions that the kept patterns explain.
        ratio_explained: R_Omega, which looks at the whole input only; leftovers cancel in it.
        sparse: whether at most `max_patterns` patterns explain the share asked for.
        needed: how many patterns the share asked for needs on the path.
        path: the whole path of removals.
        dividends: all 2**n dividends.
        n_all_patterns: how many patterns there are, 2**n - 1.
        noise: deviation of one evaluation; see `games.noise_floor`.
        grid: rows and columns of the players, None without a grid.
        evaluations: model evaluations spent.
    """

    patterns: tuple[Pattern, ...]
    constant: float
    score: float
    explained_variance: float
    ratio_explained: float
    sparse: bool
    needed: int
    path: PrunePath
    dividends: Interactions
    n_all_patterns: int
    noise: float
    grid: tuple[int, int] | None
    evaluations: int

    @property
    def n_players(self) -> int:
        return self.dividends.n_players

    @property
    def note(self) -> str:
        """What a reader must be told before the patterns; empty if nothing."""
        if not self.path.variance:
            return "The score does not change when inputs are masked, so there are no patterns."
        if not self.sparse:
            return f"Not sparse here: {self.needed:,} of {self.n_all_patterns:,} patterns would be needed."
        return ""

    def predict(self, keep: Bool[Tensor, "c n"]) -> Float[Tensor, " c"]:
        """Return the worth of coalitions by the kept patterns and the constant alone."""
        kept = torch.zeros_like(self.dividends.values)
        kept[0] = self.constant
        for pattern in self.patterns:
            kept[sum(1 << p for p in pattern.players)] = pattern.effect
        return Interactions(kept).predict(keep)


def cost_concepts(n_players: int, *, samples: int = 1) -> int:
    """Return the exact number of evaluations of `concepts` for this many inputs: 2**n and the noise probes each."""
    return samples * ((1 << n_players) + 2 * _PROBES)


def concepts(
    model: Model,
    x: Tensor,
    y: int,
    masker: Masker,
    *,
    value: ValueOf = log_odds,
    explained: float = 0.95,
    max_patterns: int = 80,
    rng: Stream,
    on_step: OnStep = silent,
) -> Concepts:
    """Which few combinations of inputs made this score, and how much did each add?

    All 2**n masked versions of the input are evaluated; the Harsanyi dividends of the resulting table are pruned
    greedily, and the smallest set on the path that explains the share `explained` of the variance over all masked
    versions is kept. If that takes more than `max_patterns`, the strongest `max_patterns` of the path are returned
    and `sparse` is False.

    Args:
        model: maps a batch to logits.
        x: one input, without batch axis.
        y: the class whose score is explained.
        masker: cuts the input into at most 16 players, such as `Patches((3, 4), background=images)`.
        value: makes the value function of a class.
        explained: share of variance to explain.
        max_patterns: most patterns to keep.
        rng: where the coalitions of the noise check come from, bound to at most one sample.
        on_step: progress in evaluations.

    Raises:
        ValueError: more than 16 players, or settings out of range.
    """
    if not 0 < explained <= 1 or max_patterns < 1:
        raise ValueError(f"need 0 < explained <= 1 and max_patterns >= 1, got {explained} and {max_patterns}")
    values, noise = concept_table(model, x, y, masker, value=value, rng=rng, on_step=on_step)
    return concepts_of(values, masker(x), noise=noise, explained=explained, max_patterns=max_patterns)


def concept_table(
    model: Model,
    x: Tensor,
    y: int,
    masker: Masker,
    *,
    value: ValueOf = log_odds,
    rng: Stream,
    on_step: OnStep = silent,
) -> tuple[Float[Tensor, " rows"], float]:
    """What is every coalition of one input worth, and how exactly? All that `concepts` asks the model.

    Args:
        model, x, y, masker, value, rng, on_step: see `concepts`.

    Returns:
        The table `(2**n,)` on the CPU, and the deviation of one evaluation.
    """
    game = ModelGame(model, x, masker, value(y))
    total = cost_concepts(game.n_players)
    values = table(game, max_exact=16, on_step=lambda done, _: on_step(done, total))
    noise = noise_floor(game, rng=rng.child("concepts"), probes=_PROBES)
    on_step(total, total)
    return values.cpu(), noise


def concepts_of(
    values: Float[Tensor, " rows"],
    players: Players,
    *,
    noise: float,
    explained: float = 0.95,
    max_patterns: int = 80,
) -> Concepts:
    """Which few combinations make a score, given the worth of every coalition? See `concepts`, which evaluates them.

    Args:
        values: the table of the game.
        players: who plays.
        noise: deviation of one evaluation; see `games.noise_floor`.
        explained: share of variance to explain.
        max_patterns: most patterns to keep.

    Raises:
        ValueError: settings out of range.
    """
    if not 0 < explained <= 1 or max_patterns < 1:
        raise ValueError(f"need 0 < explained <= 1 and max_patterns >= 1, got {explained} and {max_patterns}")
    dividends = harsanyi(values)
    path = prune(dividends.values, values)
    if path.variance <= len(values) * noise**2:  # nothing but rounding varies
        path = replace(path, variance=0.0)
    needed = path.smallest(explained) if path.variance else 0
    kept = path.kept(min(needed, max_patterns))
    return Concepts(
        patterns=_patterns(dividends.values, kept, noise),
        constant=float(values[0]),
        score=float(values[-1]),
        explained_variance=float(path.explained[len(path.order) - len(kept)]),
        ratio_explained=float(path.ratio[len(path.order) - len(kept)]),
        sparse=needed <= max_patterns,
        needed=needed,
        path=path,
        dividends=Interactions(dividends.values, len(values), players.names),
        n_all_patterns=len(path.order),
        noise=noise,
        grid=players.grid,
        evaluations=cost_concepts(players.count),
    )


def _patterns(dividends: Tensor, rows: Tensor, noise: float) -> tuple[Pattern, ...]:
    ranked = rows[dividends[rows].abs().argsort(dim=0, descending=True, stable=True)]
    found = []
    for row in ranked.tolist():
        players = tuple(p for p in range(row.bit_length()) if row >> p & 1)
        found.append(Pattern(players, float(dividends[row]), 3 * noise * 2 ** (len(players) / 2)))
    return tuple(found)
