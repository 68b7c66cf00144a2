"""Graphs drawn: nothing overlaps, everything is reachable, hostile names stay text."""

from __future__ import annotations

import itertools
import re
from types import ModuleType
from xml.etree import ElementTree

import networkx as nx
import numpy as np
import pytest
from msgspec.structs import replace

from pellucid.core import NOBODY, DataError, Edge, Graph, Node, Picture
from pellucid.reports import _graph, load_graph, save_graph
from pellucid.reports._labels import is_right_to_left, width_of, wrapped
from pellucid.reports._layout import NARROW, WIDE, Layout, lay_out

LONG = tuple(f"mean of a feature with a name that nobody kept short {k}" for k in range(12))
HEBREW = ("הסרט", "הזה", "לא", "היה", "רע", "כמו", "שחשבתי")


def grid_picture() -> Picture:
    return Picture(pixels=np.arange(28 * 28, dtype=np.uint8).reshape(28, 28), title="p", grid=(3, 4))


def segments() -> Picture:
    owners = (np.indices((24, 24)).sum(0) // 4).astype(np.uint8)
    owners[0, 0] = NOBODY
    return Picture(pixels=np.zeros((24, 24, 3), np.uint8), title="p", owners=owners)


def overlaps(layout: Layout) -> list[tuple[str, str]]:
    """Nodes whose boxes meet."""
    return [
        (a.node.id, b.node.id)
        for a, b in itertools.combinations(layout.nodes, 2)
        if a.x < b.x + b.width and b.x < a.x + a.width and a.y < b.y + b.height and b.y < a.y + a.height
    ]


@pytest.fixture(params=["table", "image", "segments", "hebrew"])
def graph(request: pytest.FixtureRequest, samples: ModuleType) -> Graph:
    cells = tuple(f"r{k // 4 + 1}c{k % 4 + 1}" for k in range(12))
    made: Graph = {
        "table": lambda: samples.graph(LONG, patterns=40),
        "image": lambda: samples.graph(cells, patterns=40, picture=grid_picture()),
        "segments": lambda: samples.graph(cells, patterns=9, picture=segments()),
        "hebrew": lambda: replace(samples.graph(HEBREW, patterns=9), words=HEBREW),
    }[request.param]()
    return made


@pytest.mark.parametrize("width", [WIDE, 640, NARROW])
def test_no_boxes_overlap_and_all_lie_inside(graph: Graph, width: float) -> None:
    layout = lay_out(graph, width=width)
    assert overlaps(layout) == []
    for placed in layout.nodes:
        assert placed.x >= -0.01
        assert placed.x + placed.width <= width + 0.01
        assert 0 <= placed.y <= placed.y + placed.height <= layout.height
        for line in placed.lines:  # text stays in its box
            assert width_of(line, 11) <= placed.width
    tops = [min(p.y for p in layout.nodes if p.node.layer == layer) for layer in range(4)]
    assert tops == sorted(tops)


def test_ordering_takes_crossings_away(samples: ModuleType) -> None:
    graph = samples.graph(LONG[:6], patterns=12)
    layout = lay_out(replace(graph, edges=tuple(e for e in graph.edges if not e.target.startswith("c"))))
    column = {p.node.id: p.middle for p in layout.nodes}

    def crossings(order: list[str]) -> int:
        ends = {k: [column[e.target] for e in graph.edges if e.source == k and e.target[0] == "i"] for k in order}
        pairs = itertools.combinations(order, 2)
        return sum(x > y for a, b in pairs for x in ends[a] for y in ends[b])

    patterns = [f"p{k}" for k in range(12)]
    row = {p.node.id: p.y for p in layout.nodes}
    if len({row[k] for k in patterns}) == 1:
        assert crossings(sorted(patterns, key=column.get)) < crossings(patterns)


def test_players_keep_their_order_and_hebrew_runs_from_the_right(samples: ModuleType) -> None:
    def order(graph: Graph) -> list[str]:
        players = [p for p in lay_out(graph).nodes if p.node.kind == "player"]
        return [p.node.label for p in sorted(players, key=lambda p: p.x)]

    assert order(samples.graph(HEBREW)) == list(HEBREW)
    assert order(replace(samples.graph(HEBREW), words=HEBREW)) == list(HEBREW)[::-1]


def test_a_graph_of_one_node_and_one_without_any(samples: ModuleType) -> None:
    one = samples.graph(patterns=0)
    root = replace(one, nodes=one.nodes[:1], edges=())
    assert len(lay_out(root).nodes) == 1
    assert lay_out(replace(root, nodes=())).nodes == ()


# -- labels --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["Donaudampfschifffahrtsgesellschaft", "a b c d e f", "x" * 300, "é" * 40, "鞋" * 9])
def test_wrapped_lines_fit(text: str) -> None:
    lines = wrapped(text, 60, 12)
    assert len(lines) <= 3
    assert all(width_of(line, 12) <= 60 for line in lines)


def test_long_words_break_into_parts_of_like_length() -> None:
    assert [len(line) for line in wrapped("incomprehensible", 98, 12)] == [8, 8]


def test_what_fits_is_not_broken_and_accents_stay_with_their_letters() -> None:
    assert wrapped("mean radius", 200, 12) == ("mean radius",)
    assert all(not line.startswith("\u0301") for line in wrapped("e\u0301" * 30, 60, 12))


def test_directions() -> None:
    assert is_right_to_left(HEBREW)
    assert not is_right_to_left(("a", "לא", "b c"))
    assert not is_right_to_left(())


# -- svg -----------------------------------------------------------------------------------------------------------


def test_every_node_is_an_option_and_one_takes_the_focus(graph: Graph) -> None:
    drawn = _graph.drawn(graph, "g")
    for _, drawing in drawn.drawings:
        root = ElementTree.fromstring(drawing)
        options = [e for e in root.iter() if e.get("role") == "option"]
        assert len(options) == len(graph.nodes)
        assert [e.get("tabindex") for e in options].count("0") == 1
        assert all(e.get("aria-label") for e in options)
        assert root.get("role") == "listbox"


def test_signs_are_not_told_by_color_alone(samples: ModuleType) -> None:
    drawn = _graph.drawn(samples.graph(), "g")
    assert "or \N{MINUS SIGN}" in drawn.drawings[0][1] or "or +" in drawn.drawings[0][1]
    assert re.search(r">\+\d", drawn.drawings[0][1])
    assert re.search(r">\N{MINUS SIGN}\d", drawn.drawings[0][1])


def test_hostile_names_stay_text(samples: ModuleType) -> None:
    names = (samples.HOSTILE, "\x00\ufffe", '"><g onload="x()">', "]]>", "&amp;")
    graph = samples.graph(names, patterns=5, title=samples.HOSTILE)
    for text in (*(d for _, d in _graph.drawn(graph, "g").drawings), _graph.standalone(graph)):
        root = ElementTree.fromstring(text)
        tags = {e.tag.rpartition("}")[2] for e in root.iter()}
        assert tags <= {"svg", "g", "path", "rect", "text", "use", "title", "desc"}
        assert not any(name.startswith("on") for e in root.iter() for name in e.attrib)


def test_the_table_has_the_same_content(samples: ModuleType) -> None:
    graph = samples.graph()
    rows = _graph.drawn(graph, "g").rows
    assert len(rows) == len(graph.nodes)
    assert rows[0][1] == "Sandal"
    assert rows[-1][4] == "9.50 (above the baseline)"


# -- files ---------------------------------------------------------------------------------------------------------


def test_svg_stands_alone_and_is_xml(graph: Graph, tmp_path) -> None:
    text = save_graph(graph, tmp_path / "g.svg").read_text(encoding="utf-8")
    root = ElementTree.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "class=" not in text
    assert not re.search(r'href="(?!#|data:image/png)', text)


def test_json_round_trip(graph: Graph, tmp_path) -> None:
    again = load_graph(save_graph(graph, tmp_path / "g.json"))
    assert replace(again, picture=None) == replace(graph, picture=None)
    if graph.picture is not None:
        np.testing.assert_array_equal(again.picture.pixels, graph.picture.pixels)
        if graph.picture.owners is not None:
            np.testing.assert_array_equal(again.picture.owners, graph.picture.owners)


def test_graphml_is_read_by_networkx(samples: ModuleType, tmp_path) -> None:
    graph = samples.graph(("a", samples.HOSTILE, "c\x00", "d", "e"))
    found = nx.read_graphml(save_graph(graph, tmp_path / "g.graphml"))
    assert len(found) == len(graph.nodes)
    assert found.number_of_edges() == len(graph.edges)
    assert found.nodes["score"]["weight"] == 6.02
    assert found.nodes["i1"]["label"] == samples.HOSTILE


@pytest.mark.parametrize("picture", [None, segments()], ids=["hebrew", "segments"])
def test_png_is_a_picture(samples: ModuleType, tmp_path, picture: Picture | None) -> None:
    pytest.importorskip("matplotlib")
    from PIL import Image

    graph = samples.graph(HEBREW, patterns=4, picture=picture)
    with Image.open(save_graph(graph, tmp_path / "g.png")) as image:
        assert image.width > 1600
        assert len(image.convert("RGB").getcolors(1 << 24)) > 20


def test_other_suffixes_and_broken_graphs_are_refused(samples: ModuleType, tmp_path) -> None:
    graph = samples.graph()
    with pytest.raises(ValueError, match=r"saved as .svg, .png, .graphml, .json, got 'g.pdf'"):
        save_graph(graph, tmp_path / "g.pdf")
    with pytest.raises(ValueError, match="has no node at one of its ends"):
        save_graph(replace(graph, edges=(Edge("score", "nobody"),)), tmp_path / "g.svg")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "says"),
    [("{", "not a sound graph"), ('{"graph": {}}', "not a sound graph"), ("[]", "not a sound graph")],
)
def test_broken_json_is_refused(tmp_path, text: str, says: str) -> None:
    (tmp_path / "g.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=says):
        load_graph(tmp_path / "g.json")
    with pytest.raises(DataError, match="is no file"):
        load_graph(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"nodes": (Node(id="a", label="a", layer=7, kind="root"),), "edges": ()}, "is in layer 7; there are 4"),
        ({"nodes": (Node(id="a", label="a", layer=0, kind="root"),) * 2, "edges": ()}, "two nodes have the same id"),
        ({"edges": (Edge("p0", "score"),)}, "does not lead to a lower layer"),
        ({"words": ("a",), "word_owners": (0, 1)}, "there are 1 words but 2 owners"),
    ],
)
def test_unsound_graphs_are_said(samples: ModuleType, tmp_path, change: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        save_graph(replace(samples.graph(), **change), tmp_path / "g.svg")
