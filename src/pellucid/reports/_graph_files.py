"""Graphs as files: SVG and PNG to look at, GraphML for other programs, JSON to read back."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from PIL import Image

from pellucid.core import DataError, Graph, MissingExtra, decode_image, read_text, write_atomic

from ._graph import said, standalone
from ._labels import clean
from ._layout import as_networkx
from ._report import graph_problem

FORMATS = (".svg", ".png", ".graphml", ".json")
GRAPH_VERSION = 1
MAX_JSON = 64 * 2**20


class _Stored(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a graph's JSON file holds."""

    kind: str = "graph"
    schema_version: int = GRAPH_VERSION
    graph: Graph


def save_graph(graph: Graph, path: str | Path) -> Path:
    """Write a graph as a file of the kind that its suffix names; return the path.

    `.svg` stands alone, with its colors and its picture in it. `.png` is the same drawing by matplotlib. `.graphml`
    holds nodes and edges with their fields for Gephi, yEd, Cytoscape or networkx. `.json` holds all of it; `load_graph`
    reads it back.

    Args:
        graph: from `audits.graph_exhibit`, or any other.
        path: ends in .svg, .png, .graphml or .json; replaced in one step if it exists.

    Raises:
        ValueError: another suffix, or a graph with an edge to nowhere.
        MissingExtra: PNG needs matplotlib.

    Example:
        >>> import tempfile
        >>> from pellucid.core import Edge, Node
        >>> top = Node(id="s", label="score", layer=0, kind="root")
        >>> red = Node(id="a", label="red", layer=1, kind="player")
        >>> graph = Graph(title="Red", layers=("score", "parts"), nodes=(top, red), edges=(Edge("s", "a"),))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     print(load_graph(save_graph(graph, f"{folder}/red.json")) == graph)
        True
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in FORMATS:
        raise ValueError(f"a graph is saved as {', '.join(FORMATS)}, got {path.name!r}")
    if problem := graph_problem(graph):
        raise ValueError(f"graph {graph.title!r}: {problem}")
    writers: dict[str, Callable[[Graph], bytes]] = {".svg": _svg, ".png": _png, ".graphml": _graphml, ".json": _json}
    write_atomic(path, writers[kind](graph))
    return path


def load_graph(path: str | Path) -> Graph:
    """Read the graph that `save_graph` wrote as JSON.

    Raises:
        DataError: there is none, or it is not sound.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path} is no file; give the .json of a graph")

    def hook(wanted: type, value: Any) -> Any:
        url = value.get("png") if isinstance(value, dict) else None
        if wanted is not np.ndarray or not isinstance(url, str):
            raise ValueError("pixels must be a PNG")
        return decode_image(base64.b64decode(url, validate=True), name=f"a picture in {path}")

    try:
        stored = msgspec.json.decode(read_text(path, max_bytes=MAX_JSON), type=_Stored, dec_hook=hook)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is not a sound graph: {error}") from None
    if stored.kind != "graph" or stored.schema_version != GRAPH_VERSION:
        raise DataError(f"{path} holds {stored.kind!r} of version {stored.schema_version}, not a graph of version 1")
    if problem := graph_problem(stored.graph):
        raise DataError(f"{path} is not a sound graph: {problem}")
    return stored.graph


def _svg(graph: Graph) -> bytes:
    return standalone(graph).encode()


def _json(graph: Graph) -> bytes:
    def hook(value: Any) -> Any:
        assert isinstance(value, np.ndarray), type(value)
        buffer = io.BytesIO()
        Image.fromarray(value).save(buffer, format="PNG", optimize=True)
        return {"png": base64.b64encode(buffer.getvalue()).decode()}

    data = msgspec.json.encode(_Stored(graph=graph), enc_hook=hook, order="deterministic")
    return msgspec.json.format(data, indent=1) + b"\n"


def _graphml(graph: Graph) -> bytes:
    import networkx

    found = as_networkx(graph)
    found.graph["title"] = clean(graph.title)
    for node in graph.nodes:
        fields: dict[str, str | float] = {
            "label": clean(node.label),
            "layer": clean(graph.layers[node.layer]),
            "kind": node.kind,
            "players": " ".join(map(str, node.players)),
            "description": said(graph, node),
        }
        if node.weight is not None:
            fields["weight"] = float(node.weight)
        if node.value:
            fields["value"] = clean(node.value)
        found.nodes[node.id].update(fields)
    names = {node.id: clean(node.id) or f"node {k}" for k, node in enumerate(graph.nodes)}
    buffer = io.BytesIO()
    networkx.write_graphml(networkx.relabel_nodes(found, names), buffer, encoding="utf-8", prettyprint=True)
    return buffer.getvalue()


def _png(graph: Graph) -> bytes:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise MissingExtra('PNG files need matplotlib: pip install "pellucid[plots]"') from None
    from ._graph_png import png

    return png(graph)
