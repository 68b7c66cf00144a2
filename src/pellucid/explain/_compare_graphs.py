"""Do two graphs hold the same concepts? Between models, seeds, checkpoints, or a clean and an attacked input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.core import ALONE, Interval, Masker, Model, Stream, Work, bootstrap
from pellucid.games import ValueOf, concept_jaccard, log_odds

from ._and_or_graph import AndOrGraph, Kind, Logic, Pattern
from ._sparsity import and_or_graphs


@dataclass(frozen=True)
class Shared:
    """A pattern that two graphs keep.

    Args:
        players: sorted player numbers.
        kind: "and" or "or".
        first, second: its effect in each.
    """

    players: tuple[int, ...]
    kind: Kind
    first: float
    second: float

    @property
    def flips(self) -> bool:
        """Whether the two effects have opposite signs."""
        return self.first * self.second < 0


@dataclass(frozen=True)
class GraphComparison:
    """What two graphs have in common.

    Args:
        jaccard: sum of min(|w|, |w'|) over the sum of max(|w|, |w'|), over ALL patterns, kept or not; NaN where neither
            has any. It does not see signs.
        shared: patterns that both keep, by their greater strength, strongest first.
        only_first, only_second: patterns that one alone keeps, strongest first.
    """

    jaccard: float
    shared: tuple[Shared, ...]
    only_first: tuple[Pattern, ...]
    only_second: tuple[Pattern, ...]

    @property
    def flips(self) -> tuple[Shared, ...]:
        """Shared patterns whose effects have opposite signs."""
        return tuple(pattern for pattern in self.shared if pattern.flips)


def compare_graphs(first: AndOrGraph, second: AndOrGraph) -> GraphComparison:
    """Do two graphs of the same players hold the same concepts?

    Args:
        first: one graph.
        second: another: of another model, seed or checkpoint, or of the same input after an attack.

    Raises:
        ValueError: the graphs have other players or another logic.

    Example:
        >>> import torch
        >>> from pellucid.core import Players
        >>> from pellucid.explain import and_or_graph_of
        >>> players = Players(torch.arange(2), torch.zeros(2), 2)
        >>> one, other = [
        ...     and_or_graph_of(torch.tensor(v), players, noise=0.0) for v in ([0.0, 1, 0, 2], [0.0, 1, 0, 0])
        ... ]
        >>> found = compare_graphs(one, other)
        >>> found.jaccard, [(p.players, p.first, p.second) for p in found.flips]
        (1.0, [((0, 1), 1.0, -1.0)])
    """
    if first.n_players != second.n_players or first.logic != second.logic:
        raise ValueError(
            f"both graphs need the same players and logic, got {first.n_players} and {second.n_players} players, "
            f'"{first.logic}" and "{second.logic}"'
        )
    kept = [{(p.players, p.kind): p for p in graph.patterns} for graph in (first, second)]
    both = [Shared(*key, p.effect, kept[1][key].effect) for key, p in kept[0].items() if key in kept[1]]
    both.sort(key=lambda p: (-max(abs(p.first), abs(p.second)), p.players, p.kind))
    return GraphComparison(
        jaccard=concept_jaccard(first.terms, second.terms),
        shared=tuple(both),
        only_first=tuple(p for key, p in kept[0].items() if key not in kept[1]),
        only_second=tuple(p for key, p in kept[1].items() if key not in kept[0]),
    )


@dataclass(frozen=True, eq=False)
class ConceptSimilarity:
    """How alike the concepts of two models, or on two versions of the inputs, are.

    Args:
        mean: mean Jaccard over samples, with its 95 % interval (bootstrap).
        per_sample: `(N,)`, NaN where neither has any effect.
        comparisons: what the two graphs of each sample have in common.
        evaluations: model evaluations spent.
    """

    mean: Interval[Tensor]
    per_sample: Float[Tensor, " samples"]
    comparisons: tuple[GraphComparison, ...]
    evaluations: int


def concept_similarity(
    model: Model,
    other: Model,
    x: Float[Tensor, "samples *input"] | Int[Tensor, "samples *input"],
    y: Int[Tensor, " samples"],
    masker: Masker | Sequence[Masker],
    *,
    other_x: Tensor | None = None,
    value: ValueOf = log_odds,
    logic: Logic = "and",
    explained: float = 0.95,
    max_patterns: int = 80,
    rng: Stream,
    work: Work = ALONE,
) -> ConceptSimilarity:
    """Do two models use the same concepts on the same inputs? Or one model, on clean and on attacked inputs?

    Args:
        model: maps a batch to logits.
        other: another model, such as one of another seed, or the same.
        x: inputs.
        y: the class whose score is explained, per input, for both.
        masker: cuts an input into players; one for all inputs, or one for each.
        other_x: the inputs as the other model sees them, such as attacked ones; `x` if not given.
        value, logic, explained, max_patterns: see `and_or_graph`.
        rng: bound to the samples' ids, else row numbers are the ids.
        work: how the computation is watched, kept and shared out.

    Raises:
        ValueError: see `and_or_graphs`.
    """
    sides = [("first", model, x), ("second", other, x if other_x is None else other_x)]
    graphs = [
        and_or_graphs(
            side,
            inputs,
            y,
            masker,
            value=value,
            logic=logic,
            explained=explained,
            max_patterns=max_patterns,
            rng=rng,
            work=replace(work.part(number / 2, (number + 1) / 2), key=f"{work.key}|{name}"),
        )
        for number, (name, side, inputs) in enumerate(sides)
    ]
    found = tuple(compare_graphs(a, b) for a, b in zip(*graphs, strict=True))
    each = torch.tensor([one.jaccard for one in found], dtype=torch.float64)
    known = each[~each.isnan()]
    unknown = torch.tensor(torch.nan, dtype=torch.float64)
    return ConceptSimilarity(
        mean=bootstrap(known, rng=rng.child("similarity")) if len(known) else Interval(unknown, unknown, unknown),
        per_sample=each,
        comparisons=found,
        evaluations=sum(graph.evaluations for side in graphs for graph in side),
    )
