"""Which few combinations of inputs made one score? AND and OR terms of one input, pruned to the patterns that matter.

arXiv:2111.06206, with OR patterns of arXiv:2304.13312. Sparse is a finding here and not a given: the share of variance
that the kept patterns explain over ALL masked versions of the input is the headline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.core import Masker, Model, OnStep, Players, Stream, silent
from pellucid.games import (
    ModelGame,
    ValueOf,
    and_or,
    log_odds,
    mobius,
    noise_floor,
    prune,
    table,
    target_classes,
)

from ._and_or_graph import AndOrGraph, Coalition, Kind, Logic, Pattern
from ._learned_baseline import MOST_PLAYERS, BaselineSettings, LearnedBaseline, Target, check_count, most_evaluations
from ._learned_baseline import learn_baseline as baseline_for
from ._merging import merged

_PROBES = 64


def cost_and_or_graph(n_players: int, *, samples: int = 1, backgrounds: int = 1) -> int:
    """Return the exact number of evaluations of `concept_table` for this many inputs: 2**n and the noise probes each.

    Args:
        n_players: number of players.
        samples: number of inputs.
        backgrounds: baselines that the worth is averaged over.
    """
    return samples * backgrounds * ((1 << n_players) + 2 * _PROBES)


def and_or_graph(
    model: Model,
    x: Tensor,
    masker: Masker,
    *,
    target: Target = "predicted",
    value: ValueOf = log_odds,
    logic: Logic = "and",
    learn_baseline: BaselineSettings | None = None,
    explained: float = 0.95,
    max_patterns: int = 80,
    names: Sequence[str] = (),
    rng: Stream,
    on_step: OnStep = silent,
) -> AndOrGraph:
    """Which few combinations of inputs made this score, and how much did each add?

    All 2**n masked versions of the input are evaluated. The Harsanyi dividends of the resulting table, or its AND-OR
    split, are pruned greedily, and the smallest set on the path that explains the share `explained` of the variance
    over all masked versions is kept. If that takes more than `max_patterns`, the last `max_patterns` of the path are
    returned, `sparse` is False and `note` says how many it would take. Parts that patterns share become coalitions.

    Args:
        model: maps a batch to logits.
        x: one input, without batch axis.
        masker: cuts the input into at most 16 players, such as `Patches((3, 4), background=images)`.
        target: the class whose score is explained; "predicted" is the answer to the whole input.
        value: makes the value function of a class.
        logic: "and" for AND patterns alone (unique), "and-or" for AND and OR patterns (the split of least sum up to 10
            players, above it the best that a first-order search finds; see `games.and_or`).
        learn_baseline: how to learn the baseline that makes the patterns fewer and weaker; the masker's own is kept if
            not given.
        explained: share of variance to explain.
        max_patterns: most patterns to keep.
        names: one name per player, in place of the masker's.
        rng: where the coalitions of the noise check come from, bound to at most one sample.
        on_step: progress in evaluations.

    Raises:
        ValueError: more than 16 players, or settings out of range.

    Example:
        >>> import torch
        >>> from pellucid.games import Features, logit
        >>> model = lambda x: torch.stack([x[:, 0] * x[:, 1] + 2 * x[:, 2], -x[:, 0]], dim=1)
        >>> x, masker = torch.ones(3), Features(fill="zero", names=("red", "round", "small"))
        >>> graph = and_or_graph(model, x, masker, value=logit, explained=1.0, rng=Stream(0))
        >>> [(graph.label(p.players), p.effect) for p in graph.patterns], graph.explained_variance
        ([('small', 2.0), ('red + round', 1.0)], 1.0)
    """
    check_settings(explained, max_patterns, logic)
    players = masker(x)
    check_count(players.count)
    y = int(target_classes(model, x[None], target))
    learned = None
    if learn_baseline is not None:
        first, on_step = in_two(on_step, players.count, learn_baseline.steps)
        learned = baseline_for(model, x, masker, target=y, value=value, settings=learn_baseline, on_step=first)
        masker = learned.applied(masker)
    values, noise = concept_table(model, x, y, masker, value=value, rng=rng, on_step=on_step)
    graph = and_or_graph_of(
        values,
        players,
        noise=noise,
        logic=logic,
        explained=explained,
        max_patterns=max_patterns,
        names=names,
        baseline=learned,
    )
    return replace(graph, evaluations=graph.evaluations + (target == "predicted"))


def in_two(on_step: OnStep, n_players: int, steps: int) -> tuple[OnStep, OnStep]:
    """Return who watches the learning of a baseline, told steps, and who the graph after it, told evaluations."""
    learning, rest = most_evaluations(n_players, steps), cost_and_or_graph(n_players)

    def first(done: int, total: int) -> None:
        on_step(round(learning * done / total), learning + rest)

    def second(done: int, _: int) -> None:
        on_step(learning + done, learning + rest)

    return first, second


MOST_PATTERNS = 2_000
"""Most patterns of a graph: looking for the parts they share compares all pairs of them."""


def check_settings(explained: float, max_patterns: int, logic: str) -> None:
    """Raise a `ValueError` for settings out of range."""
    if not (0 < explained <= 1 and 1 <= max_patterns <= MOST_PATTERNS):
        raise ValueError(
            f"need 0 < explained <= 1 and 1 <= max_patterns <= {MOST_PATTERNS:,}, got {explained} and {max_patterns}"
        )
    if logic not in ("and", "and-or"):
        raise ValueError(f'logic must be "and" or "and-or", got {logic!r}')


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
    """What is every coalition of one input worth, and how exactly? All that a graph asks the model.

    Args:
        model, x, masker, value, rng, on_step: see `and_or_graph`.
        y: the class whose score is explained.

    Returns:
        The table `(2**n,)` on the CPU, and the deviation of one evaluation.
    """
    game = ModelGame(model, x, masker, value(y))
    check_count(game.n_players)
    total = cost_and_or_graph(game.n_players)
    values = table(game, max_exact=MOST_PLAYERS, on_step=lambda done, _: on_step(done, total))
    if values.ndim != 1:
        raise ValueError(f"a graph explains one number per coalition, got values of shape {tuple(values.shape[1:])}")
    noise = noise_floor(game, rng=rng.child("concepts"), probes=_PROBES)
    on_step(total, total)
    return values.cpu(), noise


def and_or_graph_of(
    values: Float[Tensor, " rows"],
    players: Players,
    *,
    noise: float,
    logic: Logic = "and",
    explained: float = 0.95,
    max_patterns: int = 80,
    names: Sequence[str] = (),
    baseline: LearnedBaseline | None = None,
) -> AndOrGraph:
    """Which few combinations make a score, given the worth of every coalition? See `and_or_graph`, which asks for them.

    Args:
        values: the table of the game.
        players: who plays.
        noise: deviation of one evaluation; see `games.noise_floor`.
        logic, explained, max_patterns, names: see `and_or_graph`.
        baseline: the learned baseline that the table was made with, if any.

    Raises:
        ValueError: settings out of range, or a table of other players.
    """
    check_settings(explained, max_patterns, logic)
    if len(values) != 1 << players.count:
        raise ValueError(f"a table of {players.count} players has {1 << players.count} rows, got {len(values)}")
    values = values.detach().cpu().to(torch.float64)
    and_terms, or_terms, gap = _terms(values, logic)
    path = prune(and_terms, values, or_terms=or_terms)
    if path.variance <= len(values) * noise**2:  # nothing but rounding varies
        path = replace(path, variance=0.0)
    needed = path.smallest(explained) if path.variance else 0
    kept = path.kept(min(needed, max_patterns))
    at = len(path.order) - len(kept)
    patterns, coalitions = _with_coalitions(_patterns(and_terms, or_terms, kept, noise), players.count)
    return AndOrGraph(
        patterns=patterns,
        coalitions=coalitions,
        logic=logic,
        constant=float(values[0]),
        score=float(values[-1]),
        explained_variance=float(path.explained[at]),
        ratio_explained=float(path.ratio[at]),
        sparse=needed <= max_patterns,
        needed=needed,
        path=path,
        and_terms=and_terms,
        or_terms=or_terms,
        n_all_patterns=len(path.order),
        noise=noise,
        names=_names(players, names),
        grid=players.grid,
        baseline=baseline,
        evaluations=cost_and_or_graph(players.count, backgrounds=players.backgrounds or 1)
        + (baseline.evaluations if baseline else 0),
        gap=gap,
    )


def _terms(values: Tensor, logic: Logic) -> tuple[Tensor, Tensor | None, float]:
    if logic == "and":
        return mobius(values), None, 0.0
    split = and_or(values, max_exact=MOST_PLAYERS)
    return split.and_, split.or_, split.gap / split.l1 if split.l1 else 0.0


def _names(players: Players, names: Sequence[str]) -> tuple[str, ...]:
    if names and len(names) != players.count:
        raise ValueError(f"names must give one name per player, got {len(names)} for {players.count} players")
    if names or players.names:
        return tuple(names or players.names)
    if players.grid is not None:
        return tuple(f"r{row + 1}c{column + 1}" for row in range(players.grid[0]) for column in range(players.grid[1]))
    return tuple(f"player {p}" for p in range(players.count))


def _patterns(and_terms: Tensor, or_terms: Tensor | None, rows: Tensor, noise: float) -> list[Pattern]:
    terms = and_terms if or_terms is None else torch.cat([and_terms, or_terms])
    found = []
    for row in rows[terms[rows].abs().argsort(dim=0, descending=True, stable=True)].tolist():
        kind: Kind = "and" if row < len(and_terms) else "or"
        inside = row % len(and_terms)
        players = tuple(p for p in range(inside.bit_length()) if inside >> p & 1)
        found.append(Pattern(players, float(terms[row]), 3 * noise * 2 ** (len(players) / 2), kind))
    return found


def _with_coalitions(patterns: list[Pattern], n: int) -> tuple[tuple[Pattern, ...], tuple[Coalition, ...]]:
    """Merge what patterns of one kind share."""
    coalitions: list[Coalition] = []
    out = list(patterns)
    kinds: tuple[Kind, ...] = ("and", "or")
    for kind in kinds:
        own = [k for k, pattern in enumerate(patterns) if pattern.kind == kind]
        found = merged([patterns[k].players for k in own], [abs(patterns[k].effect) for k in own], n)
        # A coalition that a later one took in everywhere is no part of any pattern any more.
        number = {c: len(coalitions) + k for k, c in enumerate(sorted({c for used in found.used for c in used}))}
        for k, used in zip(own, found.used, strict=True):
            out[k] = replace(patterns[k], coalitions=tuple(number[c] for c in used))
        coalitions += [Coalition(found.coalitions[c], kind) for c in number]
    return tuple(out), tuple(coalitions)
