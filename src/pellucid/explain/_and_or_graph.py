"""What an And-Or graph is: patterns with signed effects, the parts that they share, and how well they explain a score.

A pattern is an AND of players (it acts where all of them are present) or an OR (it acts where any is). A coalition is a
part that several patterns of one kind share. The two kinds share no coalitions: "all of these are present" and "any of
these is present" are different events, and one node must stand for one event.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pellucid.games import PrunePath, inverse_or, zeta

if TYPE_CHECKING:
    import networkx

    from ._learned_baseline import LearnedBaseline

Kind = Literal["and", "or"]
Logic = Literal["and", "and-or"]

FORMAT = 1


@dataclass(frozen=True)
class Pattern:
    """A set of players that add `effect` together: an AND beyond what its subsets add, an OR when any is present.

    Args:
        players: sorted player numbers.
        effect: signed, in units of the value.
        noise: effects up to this size cannot be told from rounding.
        kind: "and" or "or".
        coalitions: numbers of the graph's coalitions that it is made of; the other players belong to it directly.
    """

    players: tuple[int, ...]
    effect: float
    noise: float
    kind: Kind = "and"
    coalitions: tuple[int, ...] = ()


@dataclass(frozen=True)
class Coalition:
    """Players that several patterns share as one part.

    Args:
        players: sorted player numbers, at least two.
        kind: "and" (all are present) or "or" (any is), as the patterns that it belongs to.
    """

    players: tuple[int, ...]
    kind: Kind = "and"


@dataclass(frozen=True)
class Node:
    """A node of the graph.

    Args:
        id: "score", "pattern-0", "coalition-0" or "player-0" with the number in its list.
        layer: what it is, from the top: "score", "pattern", "coalition" or "player".
        label: what to write on it.
        players: the players below it, all used ones for the score.
        kind: "and" or "or" for patterns and coalitions, else empty.
        effect: what a pattern adds; the whole score for the score; 0 for coalitions and players.
    """

    id: str
    layer: Literal["score", "pattern", "coalition", "player"]
    label: str
    players: tuple[int, ...]
    kind: Literal["and", "or", ""] = ""
    effect: float = 0.0


@dataclass(frozen=True, eq=False)
class AndOrGraph:
    """The patterns behind one score, as a graph.

    Args:
        patterns: the kept patterns, strongest first.
        coalitions: the parts that patterns share.
        logic: "and", or "and-or" for a split into AND and OR patterns.
        constant: worth of the input with every player absent.
        score: worth of the whole input.
        explained_variance: share of the variance of v over ALL masked versions that the kept patterns explain: the
            headline.
        ratio_explained: R_Omega, which looks at the whole input only; leftovers cancel in it.
        sparse: whether at most the allowed number of patterns explain the share asked for.
        needed: how many patterns the share asked for needs on the path.
        path: the whole path of removals, exact.
        and_terms: float64 `(2**n,)`, all AND terms by table row; the Harsanyi dividends where the logic is "and".
        or_terms: float64 `(2**n,)`, all OR terms; None where the logic is "and".
        n_all_patterns: how many patterns there are to choose from.
        noise: deviation of one evaluation; see `games.noise_floor`.
        names: one name per player.
        grid: rows and columns of the players, None without a grid.
        baseline: the learned baseline, None if none was learned.
        evaluations: model evaluations spent.
        gap: by what share the sum of all effects could at most be smaller with another split into AND and OR; 0 where
            the split is exact, which is up to 10 players.
    """

    patterns: tuple[Pattern, ...]
    coalitions: tuple[Coalition, ...]
    logic: Logic
    constant: float
    score: float
    explained_variance: float
    ratio_explained: float
    sparse: bool
    needed: int
    path: PrunePath
    and_terms: Float[Tensor, " rows"]
    or_terms: Float[Tensor, " rows"] | None
    n_all_patterns: int
    noise: float
    names: tuple[str, ...]
    grid: tuple[int, int] | None
    baseline: LearnedBaseline | None
    evaluations: int
    gap: float = 0.0

    @property
    def n_players(self) -> int:
        """Number of players."""
        return len(self.names)

    @property
    def note(self) -> str:
        """What a reader must be told before the patterns; empty if nothing."""
        if not self.path.variance:
            return "The score does not change when inputs are masked, so there are no patterns."
        if self.sparse:
            return ""
        said = f"Not sparse here: {self.needed:,} of {self.n_all_patterns:,} patterns would be needed."
        if self.gap > 0.05:
            said += f" Another split into AND and OR could have effects up to {self.gap:.0%} smaller in all."
        return said

    @property
    def terms(self) -> Float[Tensor, " terms"]:
        """All effects by table row, the AND terms before the OR terms; the first is the constant."""
        return self.and_terms if self.or_terms is None else torch.cat([self.and_terms, self.or_terms])

    @property
    def l1(self) -> float:
        """Sum of |effect| over all patterns, kept or not: how much there is to explain."""
        return float(self.terms[1:].abs().sum())

    def predict(self, keep: Bool[Tensor, "c n"]) -> Float[Tensor, " c"]:
        """Return the worth of coalitions by the kept patterns and the constant alone."""
        worth = torch.full((len(keep),), self.constant, dtype=torch.float64, device=keep.device)
        for pattern in self.patterns:
            present = keep[:, list(pattern.players)]
            worth[present.all(1) if pattern.kind == "and" else present.any(1)] += pattern.effect
        return worth

    def table(self) -> Float[Tensor, " rows"]:
        """Return the worth of every coalition by all terms: the table that the graph was made of, up to rounding."""
        worth = zeta(self.and_terms)
        return worth if self.or_terms is None else worth + inverse_or(self.or_terms)

    # -- the graph ----------------------------------------------------------------------------------------------------

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """The score, the patterns, the coalitions that they use, and the players: 1 + patterns + ... nodes."""
        used = sorted({p for pattern in self.patterns for p in pattern.players})
        return (
            Node("score", "score", f"{self.score:.2f}", tuple(used), effect=self.score),
            *(
                Node(f"pattern-{k}", "pattern", self.label(p.players, p.kind), p.players, p.kind, p.effect)
                for k, p in enumerate(self.patterns)
            ),
            *(
                Node(f"coalition-{k}", "coalition", self.label(c.players, c.kind), c.players, c.kind)
                for k, c in enumerate(self.coalitions)
            ),
            *(Node(f"player-{p}", "player", self.names[p], (p,)) for p in used),
        )

    @cached_property
    def edges(self) -> tuple[tuple[str, str], ...]:
        """Pairs of node ids, lower and upper: players to coalitions, both to patterns, patterns to the score."""
        found = [(f"pattern-{k}", "score") for k in range(len(self.patterns))]
        for k, pattern in enumerate(self.patterns):
            inside = {p for c in pattern.coalitions for p in self.coalitions[c].players}
            found += [(f"coalition-{c}", f"pattern-{k}") for c in pattern.coalitions]
            found += [(f"player-{p}", f"pattern-{k}") for p in pattern.players if p not in inside]
        for k, coalition in enumerate(self.coalitions):
            found += [(f"player-{p}", f"coalition-{k}") for p in coalition.players]
        return tuple(found)

    def label(self, players: tuple[int, ...], kind: Kind = "and") -> str:
        """Return a set of players in words: "red + round", or "red / round" for any of them."""
        return (" + " if kind == "and" else " / ").join(self.names[p] for p in players)

    def to_networkx(self) -> networkx.DiGraph[str]:
        """Return the graph with the fields of each node, for layouts and for `networkx.write_graphml`."""
        import networkx

        graph: networkx.DiGraph[str] = networkx.DiGraph(score=self.score, constant=self.constant)
        for node in self.nodes:
            players = " ".join(map(str, node.players))
            graph.add_node(
                node.id, layer=node.layer, label=node.label, kind=node.kind, effect=node.effect, players=players
            )
        graph.add_edges_from(self.edges)
        return graph

    # -- to and from JSON ---------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and numbers for JSON, the whole path and all terms among them; `from_dict` reads them."""
        simple = ("logic", "constant", "score", "explained_variance", "ratio_explained", "sparse", "needed")
        more = ("n_all_patterns", "noise", "evaluations", "gap")
        return {
            "format": FORMAT,
            **{key: getattr(self, key) for key in (*simple, *more)},
            "names": list(self.names),
            "grid": None if self.grid is None else list(self.grid),
            "patterns": [
                {
                    "players": list(p.players),
                    "effect": p.effect,
                    "noise": p.noise,
                    "kind": p.kind,
                    "coalitions": list(p.coalitions),
                }
                for p in self.patterns
            ],
            "coalitions": [{"players": list(c.players), "kind": c.kind} for c in self.coalitions],
            "and_terms": self.and_terms.tolist(),
            "or_terms": None if self.or_terms is None else self.or_terms.tolist(),
            "path": {
                "order": self.path.order.tolist(),
                "error": self.path.error.tolist(),
                "ratio": self.path.ratio.tolist(),
                "variance": self.path.variance,
            },
            "baseline": None if self.baseline is None else self.baseline.to_dict(),
        }

    def to_json(self) -> str:
        """Return the graph as JSON text."""
        return json.dumps(self.to_dict(), allow_nan=False)

    @classmethod
    def from_dict(cls, entries: Mapping[str, Any]) -> AndOrGraph:
        """Return the graph that `to_dict` wrote.

        Raises:
            ValueError: the entries are not those of a graph of this format.
        """
        from ._learned_baseline import LearnedBaseline

        if not isinstance(entries, Mapping) or entries.get("format") != FORMAT:
            raise ValueError(f"this is no And-Or graph of format {FORMAT}; write it by AndOrGraph.to_dict")
        whole = dict(entries)
        try:
            path, grid, learned, either = (whole.pop(key) for key in ("path", "grid", "baseline", "or_terms"))
            del whole["format"]
            graph = cls(
                **{
                    **whole,
                    "names": tuple(whole["names"]),
                    "grid": None if grid is None else (int(grid[0]), int(grid[1])),
                    "patterns": tuple(_pattern(entry) for entry in whole["patterns"]),
                    "coalitions": tuple(Coalition(tuple(c["players"]), c["kind"]) for c in whole["coalitions"]),
                    "and_terms": _floats(whole["and_terms"]),
                    "or_terms": None if either is None else _floats(either),
                    "path": PrunePath(
                        torch.tensor(path["order"], dtype=torch.int64),
                        _floats(path["error"]),
                        _floats(path["ratio"]),
                        float(path["variance"]),
                    ),
                    "baseline": None if learned is None else LearnedBaseline.from_dict(learned),
                }
            )
        except (KeyError, TypeError, IndexError) as error:
            raise ValueError(f"an entry of the And-Or graph is missing or of the wrong kind: {error}") from None
        if len(graph.and_terms) != 1 << graph.n_players:
            raise ValueError(f"{len(graph.and_terms)} terms do not fit {graph.n_players} players; 2**n are needed")
        return graph


def _pattern(entry: Mapping[str, Any]) -> Pattern:
    return Pattern(
        tuple(entry["players"]),
        float(entry["effect"]),
        float(entry["noise"]),
        entry["kind"],
        tuple(entry["coalitions"]),
    )


def _floats(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
