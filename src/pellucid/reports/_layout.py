"""Where the nodes of a graph lie: layers from top to bottom, wrapped into rows that fit a width, few lines crossing.

Players keep their own order: a reader finds the same player in the same place in every graph, and words in the order of
their sentence. Nodes above are ordered by the barycenter of what they are made of, then neighbors are exchanged while
that takes crossings away (Sugiyama, Tagawa and Toda 1981).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import networkx as nx
import numpy as np

from pellucid.core import Graph, Node

from . import _format
from ._labels import is_right_to_left, width_of, wrapped
from ._pictures import boxes

WIDE, BESIDE, NARROW = 900, 640, 328
"""Widths in pixels: alone on a wide page, beside a picture, and on a phone."""

BOLD = 1.08  # how much wider bold text is
TITLE = 22  # pixels that the name of a layer takes
LINE = 15  # pixels from line to line
EXCHANGES = 12
MANY = 60  # lines for which layers are further apart
ARROWS = {
    "": "",
    "above": " \N{BLACK UP-POINTING TRIANGLE}",
    "below": " \N{BLACK DOWN-POINTING TRIANGLE}",
    "equal": " =",
}


@dataclass(frozen=True)
class Placed:
    """A node with its place.

    Args:
        node: the node; `index` is its place in the graph.
        x, y, width, height: its box, from the upper left corner.
        lines: its text.
        bold: whether that is bold.
        value: the line below it, empty if none.
        drawing: the box of its small drawing of players, relative to the page; None without one.
        share: its strength among nodes of its kind, 0 to 1.
    """

    index: int
    node: Node
    x: float
    y: float
    width: float
    height: float
    lines: tuple[str, ...]
    bold: bool
    value: str
    drawing: tuple[float, float, float, float] | None
    share: float

    @property
    def middle(self) -> float:
        return self.x + self.width / 2


@dataclass(frozen=True)
class Link:
    """A line from the lower edge of a node to the upper edge of another; `sign` is of the pattern it belongs to."""

    source: int
    target: int
    start: tuple[float, float]
    end: tuple[float, float]
    sign: int
    share: float


@dataclass(frozen=True)
class Layout:
    """A graph laid out in a box of this width and height; titles are the names of layers with their places."""

    width: float
    height: float
    nodes: tuple[Placed, ...]
    links: tuple[Link, ...]
    titles: tuple[tuple[str, float, float], ...]


@dataclass(frozen=True)
class _Size:
    """What a node needs; `drawing` is the width and height of its small drawing."""

    width: float
    height: float
    lines: tuple[str, ...]
    value: str = ""
    drawing: tuple[float, float] | None = None


def as_networkx(graph: Graph) -> nx.DiGraph:
    """Return the nodes and edges by their ids."""
    found = nx.DiGraph()
    found.add_nodes_from(node.id for node in graph.nodes)
    found.add_edges_from((edge.source, edge.target) for edge in graph.edges)
    return found


def lay_out(graph: Graph, *, width: float = WIDE) -> Layout:
    """Return where each node and line of a graph lies, in a box of a given width; the height follows."""
    small = width < (BESIDE + NARROW) / 2
    places = _places(graph)
    sizes = [_size(graph, node, places, small=small) for node in graph.nodes]
    rows = _rows(graph, sizes, width, gap=5 if small else 8)
    between = 34 if small else 46 if len(graph.edges) <= MANY else 64
    y, placed, titles = 4.0, dict[int, Placed](), list[tuple[str, float, float]]()
    shares = _shares(graph)
    for layer, name in enumerate(graph.layers):
        if not rows[layer]:
            continue
        y += between if placed else 0
        if graph.nodes[rows[layer][0][0][0]].kind != "root":
            titles.append((name, 0.0, y + 12))
            y += TITLE
        for row in rows[layer]:
            height = max(sizes[k].height for k, _ in row)
            for k, middle in row:
                placed[k] = _placed(k, graph.nodes[k], sizes[k], middle, y, shares[k], height)
            y += height + (8 if small else 10)
        y -= 8 if small else 10
    nodes = tuple(placed[k] for k in range(len(graph.nodes)))
    return Layout(width, y + 6, nodes, _links(graph, nodes), tuple(titles))


# -- sizes --------------------------------------------------------------------------------------------------------


def _places(graph: Graph) -> int:
    """Return how many decimals all effects are written with: two digits of the largest, one at least below 100."""
    top = max((abs(n.weight) for n in graph.nodes if n.weight is not None and n.kind != "root"), default=0.0)
    return 0 if top >= 100 or not top else max(1, min(6, 1 - math.floor(math.log10(top))))


def _size(graph: Graph, node: Node, places: int, *, small: bool) -> _Size:
    if node.kind == "root":
        lines = wrapped(node.label, 250 if small else 420, 14, most=2)
        value = "" if node.weight is None else f"{graph.unit} {_format.signed(node.weight)}".strip()
        width = max(*(width_of(line, 14) * BOLD for line in lines), width_of(value, 13) * BOLD) + 28
        return _Size(width, 18 + 18 * len(lines) + (LINE + 2 if value else 0), lines, value)
    cells = _area(graph)
    if node.kind == "player":
        return _player(graph, node, cells, small=small)
    text = _format.signed_fixed(node.weight, places) if node.weight is not None else node.label
    if node.kind == "or":
        text = f"or {text}"
    if cells is not None:
        lines = wrapped(text, 78, 12, most=2) if node.weight is not None else ()
        drawing = _fitted(cells, 30 if small else 34)
        words = max((width_of(line, 12) * BOLD for line in lines), default=0.0)
        height = drawing[1] + 10 + LINE * len(lines) + (2 if lines else 0)
        return _Size(max(drawing[0], words) + 12, height, lines, drawing=drawing)
    most = (92 if small else 112) if node.weight is None else 96
    lines = wrapped(text, most, 12)
    words = max(width_of(line, 12) for line in lines) * (BOLD if node.weight is not None else 1)
    return _Size(max(30.0, words + 14), 10 + LINE * len(lines), lines)


def _player(graph: Graph, node: Node, cells: tuple[float, float] | None, *, small: bool) -> _Size:
    value = f"{node.value}{ARROWS[node.trend]}" if node.value else ""
    if cells is not None:
        drawing = _crop(graph, node, 38 if small else 42)
        lines = wrapped(node.label, 46 if small else 50, 11)
        words = max(width_of(text, 11) for text in (*lines, value))
        return _Size(
            max(drawing[0], words) + 8, drawing[1] + 8 + 14 * (len(lines) + bool(value)), lines, value, drawing
        )
    lines = wrapped(node.label, 84 if small else 98, 12)
    words = max(*(width_of(line, 12) for line in lines), width_of(value, 11))
    return _Size(max(30.0, words + 14), 10 + LINE * len(lines) + (14 if value else 0), lines, value)


def _area(graph: Graph) -> tuple[float, float] | None:
    """Return the size of the picture, where players have a place on it."""
    picture = graph.picture
    if picture is None or (picture.grid is None and picture.owners is None):
        return None
    return float(picture.pixels.shape[1]), float(picture.pixels.shape[0])


def _fitted(size: tuple[float, float], most: float) -> tuple[float, float]:
    scale = most / max(size)
    return size[0] * scale, size[1] * scale


def _crop(graph: Graph, node: Node, most: float) -> tuple[float, float]:
    assert graph.picture is not None
    known = boxes(graph.picture)
    own = [known[p] for p in node.players if p < len(known) and known[p][2]]
    if not own:
        return most, most
    box = joined(own)
    return _fitted((box[2], box[3]), most)


def joined(found: Sequence[tuple[float, float, float, float]]) -> tuple[float, float, float, float]:
    """Return the box around some boxes."""
    left, top = min(b[0] for b in found), min(b[1] for b in found)
    return left, top, max(b[0] + b[2] for b in found) - left, max(b[1] + b[3] for b in found) - top


# -- order and place ----------------------------------------------------------------------------------------------

Row = list[tuple[int, float]]
"""Nodes of one row by their index, with the middle of each."""


def _rows(graph: Graph, sizes: list[_Size], width: float, *, gap: float) -> list[list[Row]]:
    """Return each layer's rows, from the lowest layer up: what is above is ordered by what it is made of."""
    index = {node.id: k for k, node in enumerate(graph.nodes)}
    made_of: dict[int, list[int]] = {k: [] for k in range(len(graph.nodes))}
    for edge in graph.edges:
        made_of[index[edge.source]].append(index[edge.target])
    middles: dict[int, float] = {}
    rows: list[list[Row]] = [[] for _ in graph.layers]
    for layer in reversed(range(len(graph.layers))):
        members = [k for k, node in enumerate(graph.nodes) if node.layer == layer]
        if not members:
            continue
        lowest = not any(made_of[k] for k in members)
        order = members if lowest else _ordered(members, made_of, middles)
        if lowest and is_right_to_left(graph.words):
            order = order[::-1]
        wanted = None if lowest else [_barycenter(k, made_of, middles, width / 2) for k in order]
        rows[layer] = _filled(order, sizes, width, gap, wanted)
        middles |= {k: middle for row in rows[layer] for k, middle in row}
    return rows


def _barycenter(k: int, made_of: dict[int, list[int]], middles: dict[int, float], default: float) -> float:
    below = [middles[j] for j in made_of[k] if j in middles]
    return sum(below) / len(below) if below else default


def _ordered(members: list[int], made_of: dict[int, list[int]], middles: dict[int, float]) -> list[int]:
    """Return nodes by barycenter, then with neighbors exchanged while fewer lines cross."""
    order = sorted(members, key=lambda k: _barycenter(k, made_of, middles, 0.0))
    ends = {k: np.array([middles[j] for j in made_of[k] if j in middles]) for k in members}

    def crossings(left: int, right: int) -> int:
        return int((ends[left][:, None] > ends[right][None, :]).sum())

    for _ in range(EXCHANGES):
        calm = True
        for k in range(len(order) - 1):
            if crossings(order[k], order[k + 1]) > crossings(order[k + 1], order[k]):
                order[k : k + 2] = order[k + 1], order[k]
                calm = False
        if calm:
            break
    return order


def _filled(order: list[int], sizes: list[_Size], width: float, gap: float, wanted: list[float] | None) -> list[Row]:
    """Put nodes into as few rows as they need; every row as full as the others."""
    count = 1
    while True:
        rows = _dealt(order, count, across=wanted is not None)
        if count >= len(order) or all(_needs(row, sizes, gap) <= width for row in rows):
            break
        count += 1
    if count == 1 and wanted is not None:
        return [_near(order, wanted, sizes, width, gap)]
    shift = min(sizes[k].width for k in order) / 2 if wanted is not None else 0.0
    return [_spread(row, sizes, width, gap, shift if r % 2 else 0.0) for r, row in enumerate(rows)]


def _dealt(order: list[int], count: int, *, across: bool) -> list[list[int]]:
    """Return the nodes in rows: `across` deals them out in turn, so that each stays above what it is made of."""
    if across:
        return [order[r::count] for r in range(count) if order[r::count]]
    size = -(-len(order) // count)
    return [order[k : k + size] for k in range(0, len(order), size)]


def _needs(row: list[int], sizes: list[_Size], gap: float) -> float:
    return sum(sizes[k].width + gap for k in row) - gap


def _spread(row: list[int], sizes: list[_Size], width: float, gap: float, shift: float) -> Row:
    """Return a row with even room between its nodes, in the middle of the width."""
    free = width - _needs(row, sizes, gap)
    shift = min(shift, free / 2)
    room = gap + min(26.0, max(0.0, free - 2 * shift) / max(1, len(row)))
    x = (width - _needs(row, sizes, room)) / 2 + shift
    found = []
    for k in row:
        found.append((k, x + sizes[k].width / 2))
        x += sizes[k].width + room
    return found


def _near(order: list[int], wanted: list[float], sizes: list[_Size], width: float, gap: float) -> Row:
    """Return a row with each node as near to where it wants to be as order and room allow (least squares).

    With the room that nodes take taken out of their wishes, only their order is left to keep: the pool of adjacent
    violators keeps it.
    """
    apart = [(sizes[a].width + sizes[b].width) / 2 + gap for a, b in pairwise(order)]
    taken = np.cumsum([0.0, *apart])
    pools: list[tuple[float, int]] = []
    for wish in (np.array(wanted) - taken).tolist():
        pools.append((wish, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (a, n), (b, m) = pools[-2:]
            pools[-2:] = [((n * a + m * b) / (n + m), n + m)]
    low = sizes[order[0]].width / 2
    high = width - sizes[order[-1]].width / 2 - taken[-1]
    free = [min(max(value, low), max(low, high)) for value, count in pools for _ in range(count)]
    return [(k, float(x + t)) for k, x, t in zip(order, free, taken, strict=True)]


def _shares(graph: Graph) -> list[float]:
    weights = [abs(node.weight) for node in graph.nodes if node.weight is not None and node.kind != "root"]
    top = max(weights, default=0.0)
    return [abs(node.weight) / top if node.weight is not None and top else 0.0 for node in graph.nodes]


def _placed(k: int, node: Node, size: _Size, middle: float, y: float, share: float, row: float) -> Placed:
    # Players hang from one line; what is above stands in the middle of its row.
    y = y if node.kind == "player" else y + (row - size.height) / 2
    drawing = None
    if size.drawing is not None:
        width, height = size.drawing
        drawing = (middle - width / 2, y + (4 if node.kind == "player" else 5), width, height)
    bold = node.weight is not None or node.kind == "root"
    x = middle - size.width / 2
    return Placed(k, node, x, y, size.width, size.height, size.lines, bold, size.value, drawing, min(1.0, share))


def _links(graph: Graph, nodes: tuple[Placed, ...]) -> tuple[Link, ...]:
    index = {node.id: k for k, node in enumerate(graph.nodes)}
    found = []
    for edge in graph.edges:
        a, b = nodes[index[edge.source]], nodes[index[edge.target]]
        pattern = next((p for p in (a, b) if p.node.kind in ("pattern", "or")), None)
        weight = 0.0 if pattern is None else pattern.node.weight or 0.0
        sign = (weight > 0) - (weight < 0)
        start, end = (a.middle, a.y + a.height), (b.middle, b.y)
        found.append(Link(a.index, b.index, start, end, sign, 0.0 if pattern is None else pattern.share))
    return tuple(found)
