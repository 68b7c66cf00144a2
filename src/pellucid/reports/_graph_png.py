"""A graph as PNG, by matplotlib: the same layout and looks as the SVG."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np

from pellucid.core import NOBODY, Graph, Picture

from ._graph import is_noise, legend_text, sign, words
from ._labels import clean, is_right_to_left, wrapped
from ._layout import BESIDE, LINE, WIDE, Link, Placed, joined, lay_out
from ._looks import AGAINST, CARD, FOR, INK, LINE_COLOR, MUTED, Look, box_look, faintest, link_look, shade
from ._pictures import boxes

SCALE = 2  # dots per pixel of the page
MARGIN = 20.0
PICTURE = 220.0


def png(graph: Graph) -> bytes:
    """Return the drawing of a graph as PNG, two dots per pixel of the page."""
    layout = lay_out(graph, width=BESIDE if graph.picture is not None else WIDE)
    left = MARGIN + (PICTURE + 24 if graph.picture is not None else 0)
    sentence = wrapped(" ".join(word for word, _ in words(graph)), 860, 14, most=4) if graph.words else ()
    top = 44.0 + (20 + LINE * len(sentence) if sentence else 0)
    width = left + layout.width + MARGIN
    tall = PICTURE * graph.picture.pixels.shape[0] / graph.picture.pixels.shape[1] if graph.picture is not None else 0.0
    low = max(top + layout.height, top + tall + 40)
    paper = _Paper(width, low + 22 + 2 * LINE)
    paper.text(clean(graph.title), MARGIN, 30, 18, bold=True, left=True)
    for k, line in enumerate(sentence):
        paper.text(line, MARGIN, 56 + k * LINE, 14, left=True)
    if graph.picture is not None:
        _picture(paper, graph.picture, top, tall)
    for title, x, y in layout.titles:
        paper.text(clean(title), left + x, top + y, 12, color=MUTED, bold=True, left=True)
    least = faintest(len(graph.edges))
    for link in layout.links:
        paper.link(link, left, top, link_look(link.sign, link.share, least))
    for placed in layout.nodes:
        _node(paper, graph, placed, left, top)
    for k, line in enumerate(wrapped(legend_text(graph), width - 2 * MARGIN, 12, most=2)):
        paper.text(line, MARGIN, low + 22 + k * LINE, 12, color=MUTED, left=True)
    return paper.png()


class _Paper:
    """A figure whose units are pixels of the page, from the upper left corner."""

    def __init__(self, width: float, height: float) -> None:
        from matplotlib.figure import Figure

        self.figure = Figure(figsize=(width / 100, height / 100), dpi=100 * SCALE, facecolor=CARD)
        self.axes: Any = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, width), ylim=(height, 0))
        self.axes.axis("off")

    def text(
        self, text: str, x: float, y: float, size: float, *, color: str = INK, bold: bool = False, left: bool = False
    ) -> None:
        """Write one line with its base line at y; matplotlib does not turn right-to-left words by itself."""
        from matplotlib.font_manager import FontProperties

        text = text[::-1] if is_right_to_left((text,)) else text
        font = FontProperties(size=0.72 * size, weight="bold" if bold else "normal")
        align = "left" if left else "center"
        self.axes.text(
            x, y, text, ha=align, va="baseline", color=color, fontproperties=font, parse_math=False, zorder=5
        )

    def link(self, link: Link, left: float, top: float, look: Look) -> None:
        from matplotlib.patches import PathPatch
        from matplotlib.path import Path

        (x1, y1), (x2, y2) = link.start, link.end
        x1, x2, y1, y2 = x1 + left, x2 + left, y1 + top, y2 + top
        bend = (y1 + y2) / 2
        path = Path([(x1, y1), (x1, bend), (x2, bend), (x2, y2)], [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4])
        self.axes.add_patch(PathPatch(path, **_stroke(look), facecolor="none", alpha=look.opacity, zorder=1))

    def picture(self, pixels: np.ndarray, box: tuple[float, float, float, float]) -> None:
        x, y, width, height = box
        gray = {"cmap": "gray", "vmin": 0, "vmax": 255} if pixels.ndim == 2 else {}
        extent = (x, x + width, y + height, y)
        limits = self.axes.get_xlim(), self.axes.get_ylim()
        self.axes.imshow(pixels, extent=extent, aspect="auto", interpolation="nearest", zorder=4, **gray)
        self.axes.set(xlim=limits[0], ylim=limits[1])

    def png(self) -> bytes:
        buffer = io.BytesIO()
        with warnings.catch_warnings():
            # A script that the fonts here do not hold is drawn as boxes; the SVG has it.
            warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)
            self.figure.savefig(buffer, format="png", dpi=100 * SCALE, metadata={"Software": None})
        return buffer.getvalue()


def _stroke(look: Look) -> dict[str, Any]:
    style: Any = (0, look.dash) if look.dash else "solid"
    return {"edgecolor": look.stroke or "none", "linewidth": 0.72 * look.width, "linestyle": style}


def _picture(paper: _Paper, picture: Picture, top: float, tall: float) -> None:
    paper.picture(np.asarray(picture.pixels), (MARGIN, top, PICTURE, tall))
    for k, line in enumerate(wrapped(picture.title, PICTURE, 12, most=2)):
        paper.text(line, MARGIN, top + tall + 18 + k * LINE, 12, left=True)


def _node(paper: _Paper, graph: Graph, placed: Placed, left: float, top: float) -> None:
    from matplotlib.patches import FancyBboxPatch, Polygon

    node, own = placed.node, sign(placed.node)
    tint = shade(own, placed.share)
    if is_noise(node):
        tint = "unsure"
    elif node.kind not in ("pattern", "or"):
        tint = node.kind
    look = box_look(node.kind, tint)
    x, y, width, height = placed.x + left, placed.y + top, placed.width, placed.height
    style = {**_stroke(look), "facecolor": look.fill, "zorder": 3}
    if node.kind == "or":
        half = y + height / 2
        corners = [(x + 7, y), (x + width - 7, y), (x + width, half), (x + width - 7, y + height), (x + 7, y + height)]
        paper.axes.add_patch(Polygon([*corners, (x, half)], closed=True, **style))
    else:
        round_box = f"round,pad=0,rounding_size={8 if node.kind == 'root' else 6}"
        paper.axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=round_box, **style))
    size = 14 if node.kind == "root" else 11 if node.kind == "player" and placed.drawing else 12
    base = y + (22 if node.kind == "root" else 5 + size)
    if placed.drawing is not None and graph.picture is not None:
        dx, dy, dw, dh = placed.drawing
        _drawing(paper, graph.picture, placed, (dx + left, dy + top, dw, dh), own)
        base = dy + top + dh + size + 3
    dark = tint[0] in "ab" and tint[1:].isdecimal() and int(tint[1:]) > 10
    step = 18 if node.kind == "root" else 14 if size == 11 else LINE
    middle = placed.middle + left
    for k, line in enumerate(placed.lines):
        paper.text(line, middle, base + k * step, size, color=CARD if dark else INK, bold=placed.bold)
    if placed.value:
        root = node.kind == "root"
        color = INK if root else MUTED
        y = base + step * len(placed.lines) - 1
        paper.text(placed.value, middle, y, 13 if root else 11, color=color, bold=root)


def _drawing(paper: _Paper, picture: Picture, placed: Placed, box: tuple[float, float, float, float], own: int) -> None:
    """Draw a player's part of the picture, or a map of the players that a node joins."""
    from matplotlib.patches import Rectangle

    pixels, owners = np.asarray(picture.pixels), _owners(picture)
    inside = np.isin(owners, placed.node.players)
    if placed.node.kind == "player":
        known = boxes(picture)
        found = [known[p] for p in placed.node.players if p < len(known) and known[p][2]]
        if not found:
            return
        x, y, width, height = joined(found)
        rows = slice(round(y), max(round(y) + 1, round(y + height)))
        columns = slice(round(x), max(round(x) + 1, round(x + width)))
        colors = pixels[..., None].repeat(3, -1) if pixels.ndim == 2 else pixels
        part = np.dstack([colors, np.where(inside, 255, 0).astype(np.uint8)])
        paper.picture(part[rows, columns], box)
        return
    lit = tuple(int({1: FOR, -1: AGAINST, 0: MUTED}[own][k : k + 2], 16) for k in (1, 3, 5))
    map_of = np.where(inside[..., None], np.array(lit, np.uint8), np.uint8(255)).astype(np.uint8)
    paper.picture(map_of, box)
    frame = Rectangle(box[:2], box[2], box[3], facecolor="none", edgecolor=LINE_COLOR, linewidth=0.4, zorder=5)
    paper.axes.add_patch(frame)


def _owners(picture: Picture) -> np.ndarray:
    """Return the player of each pixel of a picture."""
    height, width = picture.pixels.shape[:2]
    if picture.owners is not None:
        rows = np.arange(height) * picture.owners.shape[0] // height
        columns = np.arange(width) * picture.owners.shape[1] // width
        stretched: np.ndarray = np.asarray(picture.owners)[rows[:, None], columns[None, :]]
        return stretched
    if picture.grid is None:
        return np.full((height, width), NOBODY)
    down = np.arange(height) * picture.grid[0] // height
    across = np.arange(width) * picture.grid[1] // width
    return np.asarray(down[:, None] * picture.grid[1] + across[None, :])
