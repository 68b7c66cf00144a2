"""And-Or graphs as exhibits: what the nodes are called, what a feature shows, and what lies beside the drawing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from pellucid.core import Edge, Graph, Node, Picture, Players, Subject, Table
from pellucid.explain import AndOrGraph, GraphComparison, Pattern

from ._players import feature_players, is_image
from ._samples import picture
from ._wording import brief, count, percent

Trend = Literal["", "above", "below", "equal"]

LAYERS = ("score", "pattern", "coalition", "player")
NOUNS = ("part", "parts")
MOST_MATCHED = 20


def graph_exhibit(
    graph: AndOrGraph,
    *,
    title: str = "And-Or graph",
    score: str = "score",
    unit: str = "",
    noun: tuple[str, str] = NOUNS,
    values: Sequence[str] = (),
    trends: Sequence[Trend] = (),
    picture: Picture | None = None,
    words: Sequence[str] = (),
    word_owners: Sequence[int] = (),
    most: int = 40,
) -> Graph:
    """How is an And-Or graph drawn? As an exhibit for a report, or for a file by `reports.save_graph`.

    Args:
        graph: from `explain.and_or_graph`.
        title: above the drawing.
        score: what the root stands for, such as the name of the class.
        unit: what effects are measured in, such as "log odds".
        noun: what one player and several are called.
        values: what each player shows, such as "17.99" for a feature; empty if nothing.
        trends: whether each value lies above or below the baseline.
        picture: the image beside the drawing, with the same players by its grid or owners.
        words: the text beside the drawing.
        word_owners: the player of each word, -1 for none; word k is player k if not given.
        most: most patterns to draw, the strongest ones.

    Raises:
        ValueError: values, trends or players of the picture that do not fit.

    Example:
        >>> import torch
        >>> from pellucid.core import Players
        >>> from pellucid.explain import and_or_graph_of
        >>> players = Players(torch.arange(2), torch.zeros(2), 2, names=("not", "bad"))
        >>> found = and_or_graph_of(torch.tensor([0.0, -1.0, -2.0, 3.0]), players, noise=0.0)
        >>> drawing = graph_exhibit(found, score="positive", words=("not", "bad"))
        >>> [(node.label, node.weight) for node in drawing.nodes if node.kind == "pattern"]
        [('not + bad', 6.0), ('bad', -2.0), ('not', -1.0)]
    """
    for name, given in (("values", values), ("trends", trends)):
        if given and len(given) != graph.n_players:
            raise ValueError(f"{name} must have one entry per player, got {len(given)} for {graph.n_players} players")
    grid = None if picture is None else picture.grid
    if grid is not None and grid[0] * grid[1] != graph.n_players:
        raise ValueError(f"the picture's grid is {grid[0]} x {grid[1]}, but the graph has {graph.n_players} players")
    noise = {f"pattern-{k}": p.noise for k, p in enumerate(graph.patterns)}
    drawn = _reached(graph, most)
    nodes = []
    for node in graph.nodes:
        if node.id not in drawn:
            continue
        player = node.players[0] if node.layer == "player" else -1
        nodes.append(
            Node(
                id=node.id,
                label=score if node.layer == "score" else node.label,
                layer=LAYERS.index(node.layer),
                kind=_KINDS[node.layer, node.kind],
                weight=node.effect if node.layer in ("score", "pattern") else None,
                noise=noise.get(node.id),
                value=values[player] if values and player >= 0 else "",
                trend=trends[player] if trends and player >= 0 else "",
                detail=_detail(graph, node.layer, node.kind, player, most),
                players=() if node.layer == "score" else node.players,
            )
        )
    return Graph(
        title=title,
        layers=("score", "what each pattern adds", f"{noun[1]} shared by patterns", noun[1]),
        nodes=tuple(nodes),
        edges=tuple(Edge(upper, lower) for lower, upper in graph.edges if upper in drawn and lower in drawn),
        caption=headline(graph, noun) + (f" The strongest {most} are drawn." if len(graph.patterns) > most else ""),
        unit=unit,
        picture=picture,
        words=tuple(words),
        word_owners=tuple(word_owners),
    )


def _reached(graph: AndOrGraph, most: int) -> set[str]:
    """Return the ids of the strongest patterns and of all that they are made of."""
    made_of: dict[str, list[str]] = {}
    for lower, upper in graph.edges:
        made_of.setdefault(upper, []).append(lower)
    found = {"score"}
    queue = [f"pattern-{k}" for k in range(min(most, len(graph.patterns)))]
    while queue:
        node = queue.pop()
        if node not in found:
            found.add(node)
            queue += made_of.get(node, [])
    return found


_KINDS: dict[tuple[str, str], Literal["root", "pattern", "or", "coalition", "player"]] = {
    ("score", ""): "root",
    ("pattern", "and"): "pattern",
    ("pattern", "or"): "or",
    ("coalition", "and"): "coalition",
    ("coalition", "or"): "coalition",
    ("player", ""): "player",
}


def _detail(graph: AndOrGraph, layer: str, kind: str, player: int, most: int) -> str:
    if layer == "score":
        return f"With everything absent it is {brief(graph.constant)}"
    if layer == "player":
        drawn = graph.patterns[:most]
        return f"In {sum(player in p.players for p in drawn)} of {count(len(drawn), 'pattern')}"
    return "Any one of these" if (layer, kind) == ("coalition", "or") else ""


def headline(graph: AndOrGraph, noun: tuple[str, str] = NOUNS) -> str:
    """Return how well a graph explains its score, in plain words: this is to be read before any pattern."""
    every = 2**graph.n_players
    if graph.note and not graph.path.variance:
        return f"The score does not change when {noun[1]} are masked, so there are no patterns."
    kept = count(len(graph.patterns), "pattern")
    verb = "explains" if len(graph.patterns) == 1 else "explain"
    share = percent(graph.explained_variance) if graph.explained_variance > 0 else "nothing"
    text = (
        f"{kept} of {graph.n_all_patterns:,} {verb} {share} of the variance of the score over all {every:,} masked "
        "versions."
    )
    return text if graph.sparse else f"Not sparse here: {text} {graph.needed:,} would be needed for what was asked."


def shown_values(x: Tensor, columns: Sequence[Sequence[int]], baseline: Tensor) -> tuple[list[str], list[Trend]]:
    """Return what each player of a table's row shows, and whether that lies above the baseline.

    Args:
        x: the row `(D,)`.
        columns: columns of each player; players of several show no value.
        baseline: `(D,)`, what absent features show.
    """
    values: list[str] = []
    trends: list[Trend] = []
    for own in columns:
        if len(own) != 1:
            values.append("")
            trends.append("")
            continue
        here, usual = float(x[own[0]]), float(baseline[own[0]])
        values.append(brief(here))
        trends.append("above" if here > usual else "below" if here < usual else "equal")
    return values, trends


def exhibit_of(
    subject: Subject,
    graph: AndOrGraph,
    x: Tensor,
    cut: Players,
    *,
    title: str,
    name: str,
    noun: tuple[str, str],
    unit: str,
    most: int = 40,
) -> Graph:
    """Return a graph as an exhibit, with the image, the words or the values of features that lie beside it.

    Args:
        subject: the samples that say what is usual.
        graph, x, cut: of one sample: its graph, its input and who plays.
        title, noun, unit, most: see `graph_exhibit`.
        name: of the class.
    """
    if is_image(subject):
        owner = None if cut.grid is not None else torch.broadcast_to(cut.owner, x.shape[-2:])
        beside = picture(x, title=f"score of {name}", bounds=subject.bounds, grid=cut.grid, owner=owner)
        return graph_exhibit(graph, title=title, score=name, unit=unit, noun=noun, picture=beside, most=most)
    if subject.modality == "text":
        return graph_exhibit(graph, title=title, score=name, unit=unit, noun=noun, words=graph.names, most=most)
    columns = [own for _, own in feature_players(subject)]
    if len(columns) != graph.n_players:
        columns = [(column,) for column in range(graph.n_players)]
    baseline = cut.baseline if graph.baseline is None else graph.baseline.baseline
    values, trends = shown_values(x, columns, torch.broadcast_to(baseline, x.shape))
    return graph_exhibit(graph, title=title, score=name, unit=unit, noun=noun, values=values, trends=trends, most=most)


def matched(
    graph: AndOrGraph, found: GraphComparison, names: tuple[str, str], *, title: str = "Patterns matched"
) -> Table:
    """Return the patterns that two graphs share, and the strongest that one alone keeps."""
    rows: list[tuple[str | int | float | None, ...]] = [
        (graph.label(p.players, p.kind), p.kind, p.first, p.second, "opposite signs" if p.flips else "both")
        for p in found.shared[:MOST_MATCHED]
    ]
    alone: Sequence[tuple[tuple[Pattern, ...], str]] = ((found.only_first, names[0]), (found.only_second, names[1]))
    for side, (patterns, name) in enumerate(alone):
        for p in patterns[: MOST_MATCHED // 2]:
            effects = (p.effect, None) if side == 0 else (None, p.effect)
            rows.append((graph.label(p.players, p.kind), p.kind, *effects, f"only {name}"))
    total = len(found.shared) + len(found.only_first) + len(found.only_second)
    return Table(
        title=title,
        columns=("pattern", "kind", names[0], names[1], "kept by"),
        rows=tuple(rows),
        caption=f"Jaccard similarity over all patterns, kept or not: {brief(found.jaccard)}; 1 is the same strengths "
        f"everywhere, 0 nothing in common. {len(found.shared)} of {total} kept patterns are in both.",
    )
