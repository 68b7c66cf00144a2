"""A graph as SVG: for the page, where classes color it and scripts light it up, and as a file that stands alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

from pellucid.core import Graph, Node, Picture

from . import _format
from ._labels import clean, is_right_to_left, wrapped
from ._layout import BESIDE, LINE, NARROW, WIDE, Layout, Link, Placed, joined, lay_out
from ._looks import AGAINST, FOR, INK, MUTED, Look, box_look, faintest, link_look, shade, sign_of, text_look
from ._pictures import boxes, overlay, tidy

FONT = "system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,'Noto Sans',sans-serif"
KINDS = {"root": "", "pattern": "pattern", "or": "or pattern", "coalition": "shared part", "player": ""}


@dataclass(frozen=True)
class Drawn:
    """A graph ready for the page.

    Args:
        drawings: SVG of each width with the class that shows it.
        picture: SVG of the picture whose players light up; empty without one.
        words: words with the player of each, None for none.
        summary: one sentence for those who do not see it.
        ends: ends of the scale of weights in words; empty where there are none.
        has_or, has_noise: what the legend must explain.
        columns, rows: the same content as a table.
    """

    drawings: tuple[tuple[str, str], ...]
    picture: str
    words: tuple[tuple[str, int | None], ...]
    summary: str
    ends: tuple[str, str]
    has_or: bool
    has_noise: bool
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def drawn(graph: Graph, prefix: str) -> Drawn:
    """Return what a page shows of a graph; ids in it begin with `prefix`."""
    beside = graph.picture is not None
    drawings = tuple(
        (name, svg(graph, lay_out(graph, width=width), prefix, name))
        for name, width in (("wide", BESIDE if beside else WIDE), ("narrow", NARROW))
    )
    top = max(map(abs, _effects(graph)), default=0.0)
    return Drawn(
        drawings=drawings,
        picture="" if graph.picture is None else panel(graph, graph.picture, prefix),
        words=tuple(words(graph)),
        summary=summary(graph),
        ends=(_format.signed(-top), _format.signed(top)) if top else ("", ""),
        has_or=any(n.kind == "or" for n in graph.nodes),
        has_noise=any(is_noise(n) for n in graph.nodes),
        columns=("Layer", "Node", "Made of", f"Weight{f' ({graph.unit})' if graph.unit else ''}", "Remark"),
        rows=tuple(_rows(graph)),
    )


def words(graph: Graph) -> Iterable[tuple[str, int | None]]:
    """Yield each word beside a graph with the player that owns it."""
    owners = graph.word_owners or tuple(range(len(graph.words)))
    for word, owner in zip(graph.words, owners, strict=True):
        yield clean(word), owner if owner >= 0 else None


def is_noise(node: Node) -> bool:
    """Return whether a node's weight cannot be told from rounding."""
    return node.weight is not None and node.noise is not None and abs(node.weight) <= node.noise


def _effects(graph: Graph) -> list[float]:
    return [n.weight for n in graph.nodes if n.kind != "root" and n.weight is not None]


def summary(graph: Graph) -> str:
    """Return a graph in one sentence."""
    counts = [(sum(n.layer == layer for n in graph.nodes), name) for layer, name in enumerate(graph.layers)]
    parts = ", ".join(f"{count} in the layer {name}" for count, name in counts if count and name)
    return f"Graph: {graph.title}. {len(graph.nodes)} nodes: {parts}."


def said(graph: Graph, node: Node) -> str:
    """Return what is said of a node when it is reached."""
    kind = KINDS[node.kind]
    text = f"{kind[:1].upper()}{kind[1:]}: {node.label}" if kind else node.label
    if node.value:
        trend = {"above": ", above the baseline", "below": ", below the baseline", "equal": ", as the baseline", "": ""}
        text += f" = {node.value}{trend[node.trend]}"
    if node.weight is not None:
        text += f": {_format.signed(node.weight)} {graph.unit}".rstrip()
    if is_noise(node):
        text += ", within rounding noise"
    return clean(f"{text}. {node.detail}" if node.detail else text)


def _rows(graph: Graph) -> Iterable[tuple[str, ...]]:
    names = {node.id: node.label for node in graph.nodes}
    made_of: dict[str, list[str]] = {node.id: [] for node in graph.nodes}
    for edge in graph.edges:
        made_of[edge.source].append(names[edge.target])
    for node in graph.nodes:
        parts = made_of[node.id] if node.kind != "root" else []
        remarks = [
            "met by any one of its parts" if node.kind == "or" else "",
            f"{node.value} {node.trend and f'({node.trend} the baseline)'}".strip(),
            "within rounding noise" if is_noise(node) else "",
            node.detail,
        ]
        weight = _format.signed(node.weight) if node.weight is not None else ""
        name = graph.layers[node.layer]
        yield name, clean(node.label), clean(" + ".join(parts)), weight, clean("; ".join(filter(None, remarks)))


# -- svg ----------------------------------------------------------------------------------------------------------


def svg(graph: Graph, layout: Layout, prefix: str, name: str) -> str:
    """Return the drawing of a graph for the page: a list box whose options are the nodes."""
    pen = _Pen(graph, prefix, live=True)
    first = min((p.index for p in layout.nodes), key=lambda k: (layout.nodes[k].node.layer, k), default=-1)
    parts = [
        f'<g aria-hidden="true">{"".join(map(pen.title, layout.titles))}{"".join(map(pen.link, layout.links))}</g>'
    ]
    for layer, text in enumerate(graph.layers):
        inside = "".join(pen.option(p, p.index == first) for p in layout.nodes if p.node.layer == layer)
        if inside:
            parts.append(f'<g role="group" aria-label="{escape(clean(text))}">{inside}</g>')
    crisp = " crisp" if graph.picture is not None and max(graph.picture.pixels.shape[:2]) <= 128 else ""
    width, height = tidy(layout.width), tidy(layout.height)
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    label = escape(clean(f"{summary(graph)} Arrow keys move through it, Enter keeps a node lit."))
    return f'<svg class="parse-graph {name}{crisp}" role="listbox" aria-label="{label}" {size}>{"".join(parts)}</svg>'


def panel(graph: Graph, picture: Picture, prefix: str) -> str:
    """Return the picture beside a graph, with an area for each player that lights up."""
    o = overlay(picture)
    areas = "".join(
        f'<path id="{prefix}-p{k}" vector-effect="non-scaling-stroke" d="{d}"/>' for k, d in enumerate(o.shapes)
    )
    cells = "".join(f'<use class="cell" data-player="{k}" href="#{prefix}-p{k}"/>' for k in range(len(o.shapes)))
    label = escape(clean(f"{picture.title}. {picture.caption}" if picture.caption else picture.title))
    return (
        f'<svg class="image{" crisp" if o.crisp else ""}" role="img" aria-label="{label}" '
        f'viewBox="0 0 {o.width} {o.height}"><defs>{areas}{_clips(graph, picture, prefix)}</defs>'
        f'<image id="{prefix}-image" href="{o.url}" width="{o.width}" height="{o.height}" preserveAspectRatio="none"/>'
        f'<path class="grid" vector-effect="non-scaling-stroke" d="{o.lines}"/>{cells}</svg>'
    )


def _clips(graph: Graph, picture: Picture, prefix: str) -> str:
    """Return the outline of each player's small picture, where players are segments."""
    if picture.owners is None:
        return ""
    count, found = len(boxes(picture)), []
    for k, node in enumerate(graph.nodes):
        if node.kind == "player":
            uses = "".join(f'<use href="#{prefix}-p{p}"/>' for p in node.players if p < count)
            found.append(f'<clipPath id="{prefix}-c{k}">{uses}</clipPath>')
    return "".join(found)


class _Pen:
    """Writes the elements of one drawing: `live` ones are colored by classes and lit by scripts."""

    def __init__(self, graph: Graph, prefix: str, *, live: bool) -> None:
        self.graph, self.prefix, self.live = graph, prefix, live
        self.faintest = faintest(len(graph.edges))
        self.boxes = () if graph.picture is None else boxes(graph.picture)

    def paint(self, style: str, look: Look) -> str:
        """Return the attributes that color an element."""
        return f'class="{style}"' if self.live else look.attributes()

    def title(self, title: tuple[str, float, float]) -> str:
        text, x, y = title
        return self.text((clean(text),), x, y, 12, "layer", anchor="start")

    def text(
        self, lines: tuple[str, ...], x: float, y: float, size: float, style: str, *, anchor: str = "middle"
    ) -> str:
        """Return lines of text, the first with its base line at y."""
        paint = self.paint(style, text_look(style))
        return "".join(
            f'<text {paint} x="{tidy(x, 1)}" y="{tidy(y + k * LINE, 1)}" font-size="{size}" text-anchor="{anchor}">'
            f"{escape(line)}</text>"
            for k, line in enumerate(lines)
        )

    def link(self, link: Link) -> str:
        (x1, y1), (x2, y2) = link.start, link.end
        bend = tidy((y1 + y2) / 2, 1)
        path = f"M{tidy(x1, 1)} {tidy(y1, 1)}C{tidy(x1, 1)} {bend} {tidy(x2, 1)} {bend} {tidy(x2, 1)} {tidy(y2, 1)}"
        look = link_look(link.sign, link.share, self.faintest)
        ends = f' data-a="{link.source}" data-b="{link.target}"' if self.live else ""
        strength = f' stroke-width="{tidy(look.width, 2)}" opacity="{tidy(look.opacity, 2)}"' if self.live else ""
        return f'<path {self.paint(f"link {sign_of(link.sign)}", look)}{ends}{strength} d="{path}"/>'

    def option(self, placed: Placed, first: bool) -> str:
        """Return a node that can be reached by the keyboard."""
        node, own = placed.node, sign(placed.node)
        players = " ".join(str(p) for p in node.players) if node.kind != "root" else ""
        return (
            f'<g class="node {node.kind} {sign_of(own)}" role="option" aria-selected="false" '
            f'tabindex="{0 if first else -1}" data-node="{placed.index}" data-players="{players}" '
            f'aria-label="{escape(said(self.graph, node))}">{self.node(placed)}</g>'
        )

    def node(self, placed: Placed) -> str:
        """Return the box, the small drawing and the text of a node."""
        node, tint = placed.node, shade(sign(placed.node), placed.share)
        if is_noise(node):
            tint = "unsure"
        elif node.kind not in ("pattern", "or"):
            tint = node.kind
        ink = "on" if tint[0] in "ab" and tint[1:].isdecimal() and int(tint[1:]) > 10 else ""
        look = box_look(node.kind, tint)
        parts = [self.outline(placed, f"{tint} box", look)]
        size = 14 if node.kind == "root" else 11 if node.kind == "player" and placed.drawing else 12
        y = placed.y + (22 if node.kind == "root" else 5 + size)
        if placed.drawing is not None:
            parts.append(self.drawing(placed, placed.drawing))
            y = placed.drawing[1] + placed.drawing[3] + size + 3
        style = " ".join(filter(None, ("label", "strong" if placed.bold else "", ink)))
        step = 18 if node.kind == "root" else 14 if size == 11 else LINE
        for k, line in enumerate(placed.lines):
            parts.append(self.text((line,), placed.middle, y + k * step, size, style))
        y += step * len(placed.lines)
        if placed.value:
            style = "value strong" if node.kind == "root" else "value"
            parts.append(self.text((placed.value,), placed.middle, y - 1, 13 if node.kind == "root" else 11, style))
        return "".join(parts)

    def outline(self, placed: Placed, style: str, look: Look) -> str:
        x, y, w, h = (tidy(v, 1) for v in (placed.x, placed.y, placed.width, placed.height))
        paint = self.paint(style, look)
        if placed.node.kind == "or":  # six corners: another form, not only another word
            left, right, half, low = tidy(x + 7), tidy(x + w - 7), tidy(y + h / 2, 1), tidy(y + h, 1)
            path = f"M{left} {y}H{right}L{tidy(x + w, 1)} {half}L{right} {low}H{left}L{x} {half}z"
            return f'<path {paint} d="{path}"/>'
        return f'<rect {paint} x="{x}" y="{y}" width="{w}" height="{h}" rx="{8 if placed.node.kind == "root" else 6}"/>'

    def drawing(self, placed: Placed, box: tuple[float, float, float, float]) -> str:
        """Return a player's part of the picture, or a map of the players that a node joins."""
        picture = self.graph.picture
        assert picture is not None
        place = " ".join(f'{name}="{tidy(v, 1)}"' for name, v in zip(("x", "y", "width", "height"), box, strict=True))
        if placed.node.kind == "player":
            own = [self.boxes[p] for p in placed.node.players if p < len(self.boxes) and self.boxes[p][2]]
            view = " ".join(str(tidy(v)) for v in joined(own)) if own else "0 0 1 1"
            inside = f'<use href="#{self.prefix}-image"/>' if own else ""
            if picture.owners is not None:
                inside = f'<g clip-path="url(#{self.prefix}-c{placed.index})">{inside}</g>'
            return f'<svg {place} viewBox="{view}" preserveAspectRatio="none">{inside}</svg>'
        height, width = picture.pixels.shape[:2]
        lit = self.paint("lit-part", Look(fill={1: FOR, -1: AGAINST, 0: MUTED}[sign(placed.node)]))
        back = self.paint("plate", Look(fill="#ffffff", stroke="#c9c6be", width=0.5))
        cells = "".join(f'<use {lit} href="#{self.prefix}-p{p}"/>' for p in placed.node.players if p < len(self.boxes))
        return (
            f'<svg {place} viewBox="0 0 {width} {height}" preserveAspectRatio="none">'
            f'<rect {back} width="{width}" height="{height}"/>{cells}</svg>'
        )


def sign(node: Node) -> int:
    """Return the sign of a pattern's effect; 0 for other nodes."""
    weight = node.weight or 0.0
    return 0 if node.kind in ("root", "coalition", "player") else (weight > 0) - (weight < 0)


# -- a file that stands alone -------------------------------------------------------------------------------------


def standalone(graph: Graph) -> str:
    """Return a graph as an SVG file: title, picture or words, drawing and legend, with its colors in it."""
    layout = lay_out(graph, width=BESIDE if graph.picture is not None else WIDE)
    pen = _Pen(graph, "g", live=False)
    margin, left, y = 20.0, 20.0, 44.0
    parts = [pen.text(wrapped(graph.title, 860, 18, most=1), margin, 30, 18, "label strong", anchor="start")]
    if graph.picture is not None:
        size = _picture_size(graph.picture, 220)
        parts.append(_placed_panel(graph, graph.picture, size, margin, y))
        left = margin + 220 + 24
    elif graph.words:
        sentence = wrapped(" ".join(word for word, _ in words(graph)), 860, 14, most=4)
        parts.append(pen.text(sentence, margin, y + 12, 14, "label", anchor="start"))
        y += 20 + LINE * len(sentence)
    inside = "".join([*map(pen.title, layout.titles), *map(pen.link, layout.links)])
    nodes = "".join(f"<g><title>{escape(said(graph, p.node))}</title>{pen.node(p)}</g>" for p in layout.nodes)
    crisp = graph.picture is not None and max(graph.picture.pixels.shape[:2]) <= 128
    parts.append(f'<g transform="translate({tidy(left)} {tidy(y)})">{inside}{nodes}</g>')
    width = left + layout.width + margin
    low = y + layout.height
    if graph.picture is not None:
        low = max(low, y + _picture_size(graph.picture, 220)[1] + 40)
    legend = legend_text(graph)
    parts.append(
        pen.text(wrapped(legend, width - 2 * margin, 12, most=3), margin, low + 22, 12, "layer", anchor="start")
    )
    height = low + 22 + 3 * LINE
    rendering = ' image-rendering="pixelated"' if crisp else ""
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{tidy(width)}" height="{tidy(height)}" '
        f'viewBox="0 0 {tidy(width)} {tidy(height)}" font-family="{escape(FONT)}"{rendering}>'
        f"<title>{escape(clean(graph.title))}</title><desc>{escape(clean(f'{summary(graph)} {graph.caption}'))}</desc>"
        f'<rect width="100%" height="100%" fill="#ffffff"/>{"".join(parts)}</svg>\n'
    )


def legend_text(graph: Graph) -> str:
    """Return what the signs of a drawing mean."""
    parts = ["blue, solid, +: raises the score", "orange, dashed, \N{MINUS SIGN}: lowers it", "deeper color: stronger"]
    if any(n.kind == "or" for n in graph.nodes):
        parts.append("six corners: an or pattern, met by any one of its parts")
    if any(is_noise(n) for n in graph.nodes):
        parts.append("gray, dotted: within rounding noise")
    if is_right_to_left(graph.words):
        parts.append("words run from right to left")
    return f"{'; '.join(parts)[:1].upper()}{'; '.join(parts)[1:]}."


def _picture_size(picture: Picture, width: float) -> tuple[float, float]:
    return width, width * picture.pixels.shape[0] / picture.pixels.shape[1]


def _placed_panel(graph: Graph, picture: Picture, size: tuple[float, float], x: float, y: float) -> str:
    o = overlay(picture)
    areas = "".join(f'<path id="g-p{k}" d="{d}"/>' for k, d in enumerate(o.shapes))
    scale = f"scale({tidy(size[0] / o.width, 5)} {tidy(size[1] / o.height, 5)})"
    thin = tidy(0.75 * o.width / size[0], 3)
    caption = "".join(
        f'<text x="{tidy(x)}" y="{tidy(y + size[1] + 18 + k * LINE)}" font-size="12" fill="{INK}">{escape(line)}</text>'
        for k, line in enumerate(wrapped(picture.title, size[0], 12, most=2))
    )
    return (
        f"<defs>{areas}{_clips(graph, picture, 'g')}"
        f'<image id="g-image" href="{o.url}" width="{o.width}" height="{o.height}" preserveAspectRatio="none"/></defs>'
        f'<g transform="translate({tidy(x)} {tidy(y)}) {scale}"><use href="#g-image"/>'
        f'<path d="{o.lines}" fill="none" stroke="#ffffff" stroke-opacity="0.6" stroke-width="{thin}"/></g>{caption}'
    )
