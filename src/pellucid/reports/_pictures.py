"""From pictures to what draws them: a data URL, the shapes of players, heat maps, marks and arrows. Data to data."""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from pellucid.core import NOBODY, Mark, Picture

from . import _format

LARGEST_PICTURE = 384
LARGEST_OWNERS = 128  # finer borders of segments nobody sees
GLYPH_CELL = 8  # pixels of the page per cell of a small drawing of the grid
GLYPH_WIDTH = 40
MOST_ARROWS = 4096


@dataclass(frozen=True)
class Overlay:
    """A picture ready to draw.

    Args:
        url: the picture as a data URL.
        width, height: its size in pixels, the unit of all shapes.
        crisp: whether its pixels are shown as squares.
        lines: path of the borders between players; empty without players.
        shapes: path of each player's area.
        heat: each player's area and color, where marks are a heat map.
        ends: the ends of the heat map's scale in words.
        diverging: the heat map has numbers below 0, so that its scale runs from minus to plus.
        marks: the marks that show one at a time.
        glyph: width and height of a mark's small drawing.
        arrows: path of all arrows.
        arrows_in_words: how long they are drawn; empty without arrows.
    """

    url: str
    width: int
    height: int
    crisp: bool
    lines: str = ""
    shapes: tuple[str, ...] = ()
    heat: tuple[HeatShape, ...] = ()
    ends: tuple[str, str] = ("", "")
    diverging: bool = False
    marks: tuple[MarkShape, ...] = ()
    glyph: tuple[int, int] = (GLYPH_WIDTH, GLYPH_WIDTH)
    arrows: str = ""
    arrows_in_words: str = ""


@dataclass(frozen=True)
class HeatShape:
    """One area of a heat map: its path, the class that colors it, how strongly, and its number in words."""

    shape: str
    style: str
    opacity: float
    text: str


@dataclass(frozen=True)
class MarkShape:
    """One mark: its label and number in words, the path of its area, its sign and the length of its bar, 0 to 20."""

    label: str
    text: str
    shape: str
    positive: bool
    length: int


def overlay(picture: Picture) -> Overlay:
    """Return a picture with its players, marks and arrows in units of its pixels."""
    height, width = picture.pixels.shape[:2]
    shapes = players(picture)
    heat, marks = _split(picture.marks, len(shapes))
    weights = [mark.weight for mark in heat if mark.weight is not None]
    top, signed = max(map(abs, weights), default=0.0), min(weights, default=0.0) < 0
    arrows, words = _arrows(picture.arrows, width, height)
    rows, columns = picture.grid or (0, 0)
    glyph = (GLYPH_CELL * columns, GLYPH_CELL * rows) if columns else (GLYPH_WIDTH, round(GLYPH_WIDTH * height / width))
    return Overlay(
        url=data_url(picture.pixels),
        width=width,
        height=height,
        crisp=max(height, width) <= 128,
        lines=_grid_lines(picture.grid, width, height) if picture.grid else "".join(shapes),
        shapes=shapes,
        heat=tuple(_warmth(mark, shapes[mark.cells[0]], top, signed=signed) for mark in heat),
        ends=_ends(top, signed=signed) if heat else ("", ""),
        diverging=signed,
        marks=_shapes_of(marks, shapes),
        glyph=glyph,
        arrows=arrows,
        arrows_in_words=words,
    )


def _ends(top: float, *, signed: bool) -> tuple[str, str]:
    return (_format.signed(-top), _format.signed(top)) if signed else ("0", _format.plain(top))


def _warmth(mark: Mark, shape: str, top: float, *, signed: bool) -> HeatShape:
    if mark.weight is None:
        return HeatShape(shape, "unknown", 0.6, "not measured")
    share = abs(mark.weight) / top if top else 0.0
    text = _format.signed(mark.weight) if signed else _format.plain(mark.weight)
    return HeatShape(shape, "for" if mark.weight >= 0 else "against", tidy(0.8 * share), text)


def _split(marks: Sequence[Mark], count: int) -> tuple[Sequence[Mark], Sequence[Mark]]:
    """Return the marks that are a heat map, one without label on every player, and the others."""
    singles = [mark for mark in marks if not mark.label and len(mark.cells) == 1]
    if len(singles) == count > 1 and {mark.cells[0] for mark in singles} == set(range(count)):
        return singles, [mark for mark in marks if mark.label or len(mark.cells) != 1]
    return (), marks


def _shapes_of(marks: Sequence[Mark], shapes: Sequence[str]) -> tuple[MarkShape, ...]:
    largest = max((abs(mark.weight) for mark in marks if mark.weight is not None), default=0.0)
    found = []
    for mark in marks:
        weight = mark.weight or 0.0
        # A label that is only the weight once more says nothing.
        label = "" if re.fullmatch(r"[-+]?[\d.,]+", mark.label) else mark.label
        text = mark.amount or ("" if mark.weight is None else _format.signed(mark.weight))
        length = round(20 * abs(weight) / largest) if largest else 0
        shape = "".join(shapes[cell] for cell in sorted(set(mark.cells)) if cell < len(shapes))
        found.append(MarkShape(label, text, shape, weight >= 0, length))
    return tuple(found)


# -- players ------------------------------------------------------------------------------------------------------


def players(picture: Picture) -> tuple[str, ...]:
    """Return the path of each player's area on a picture; none without players."""
    height, width = picture.pixels.shape[:2]
    if picture.owners is not None:
        return _outlines(picture.owners, width, height)
    if picture.grid is None:
        return ()
    rows, columns = picture.grid
    y = [tidy(k * height / rows) for k in range(rows + 1)]
    x = [tidy(k * width / columns) for k in range(columns + 1)]
    return tuple(f"M{x[c]} {y[r]}H{x[c + 1]}V{y[r + 1]}H{x[c]}z" for r in range(rows) for c in range(columns))


def boxes(picture: Picture) -> tuple[tuple[float, float, float, float], ...]:
    """Return the box `(x, y, width, height)` around each player; empty ones for players without a pixel."""
    height, width = picture.pixels.shape[:2]
    if picture.owners is not None:
        down, across = height / picture.owners.shape[0], width / picture.owners.shape[1]
        found = []
        for player in range(_count(picture.owners)):
            y, x = np.nonzero(picture.owners == player)
            if not len(y):
                found.append((0.0, 0.0, 0.0, 0.0))
                continue
            left, top = float(x.min() * across), float(y.min() * down)
            found.append((left, top, float(x.max() + 1) * across - left, float(y.max() + 1) * down - top))
        return tuple(found)
    if picture.grid is None:
        return ()
    rows, columns = picture.grid
    size = width / columns, height / rows
    return tuple((c * size[0], r * size[1], *size) for r in range(rows) for c in range(columns))


def _count(owners: np.ndarray) -> int:
    known = owners[owners != NOBODY]
    return int(known.max()) + 1 if known.size else 0


def _grid_lines(grid: tuple[int, int], width: int, height: int) -> str:
    rows, columns = grid
    across = "".join(f"M0 {tidy(k * height / rows)}H{width}" for k in range(1, rows))
    return across + "".join(f"M{tidy(k * width / columns)} 0V{height}" for k in range(1, columns))


def _outlines(owners: np.ndarray, width: int, height: int) -> tuple[str, ...]:
    """Return the borders of each player's pixels as closed paths, straight runs in one piece."""
    step = max(1, math.ceil(max(owners.shape) / LARGEST_OWNERS))
    count = _count(owners)
    owners = owners[step // 2 :: step, step // 2 :: step]
    across, down = width / owners.shape[1], height / owners.shape[0]

    def point(node: tuple[int, int]) -> str:
        return f"{tidy(node[1] * across, 2)} {tidy(node[0] * down, 2)}"

    paths = []
    for player in range(count):
        loops = _loops(np.pad(owners == player, 1))
        paths.append("".join(f"M{'L'.join(map(point, loop))}z" for loop in loops))
    return tuple(paths)


def _loops(mask: np.ndarray) -> Iterable[list[tuple[int, int]]]:
    """Yield the borders of a mask with an empty rim, as corners `(row, column)`, each loop once."""
    inside = mask.astype(np.int8)
    follow: dict[tuple[int, int], list[tuple[int, int]]] = {}

    def add(here: np.ndarray, start: tuple[int, int], end: tuple[int, int]) -> None:
        for r, c in np.argwhere(here).tolist():
            follow.setdefault((r + start[0], c + start[1]), []).append((r + end[0], c + end[1]))

    level, upright = np.diff(inside, axis=0), np.diff(inside, axis=1)
    # `diff` looks at pixels k and k + 1 of the padded mask, whose common border is line k of the mask itself.
    add(level == 1, (0, -1), (0, 0))
    add(level == -1, (0, 0), (0, -1))
    add(upright == 1, (0, 0), (-1, 0))
    add(upright == -1, (-1, 0), (0, 0))
    while follow:
        start = next(iter(follow))
        loop, node = [start], _take(follow, start)
        while node != start:
            loop.append(node)
            node = _take(follow, node)
        yield _corners(loop)


def _take(follow: dict[tuple[int, int], list[tuple[int, int]]], node: tuple[int, int]) -> tuple[int, int]:
    ends = follow[node]
    end = ends.pop()
    if not ends:
        del follow[node]
    return end


def _corners(loop: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Leave out the points that lie on a straight line between their neighbors."""
    return [
        node
        for before, node, after in zip([loop[-1], *loop[:-1]], loop, [*loop[1:], loop[0]], strict=True)
        if (node[0] - before[0]) * (after[1] - node[1]) != (node[1] - before[1]) * (after[0] - node[0])
    ]


# -- arrows -------------------------------------------------------------------------------------------------------


def _arrows(arrows: Sequence[tuple[float, float, float, float]], width: int, height: int) -> tuple[str, str]:
    """Return the path of arrows, all lengthened alike, and how long they are drawn."""
    arrows = arrows[:MOST_ARROWS]
    longest = max((math.hypot(dx, dy) for _, _, dx, dy in arrows), default=0.0)
    if not arrows:
        return "", ""
    if not longest:
        return "", "Nothing moves."
    factor = _round_down(math.sqrt(width * height / len(arrows)) / longest)
    path = "".join(_arrow(x, y, factor * dx, factor * dy) for x, y, dx, dy in arrows if dx or dy)
    words = f"The longest arrow moves {_format.plain(longest, digits=2)} pixels"
    return path, f"{words}." if factor == 1 else f"{words}; arrows are drawn {_format.plain(factor)} times as long."


def _round_down(value: float) -> float:
    """Return the largest of 1, 2, 5, 10, 20, ... that is not above a value; 1 at least."""
    if value <= 1:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return float(max(step * power for step in (1, 2, 5) if step * power <= value))


def _arrow(x: float, y: float, dx: float, dy: float) -> str:
    """Return the path of one arrow: a shaft, and a head of a third of its length."""
    tip = x + dx, y + dy
    ends = ((tip[0] - 0.35 * dx + side * 0.2 * dy, tip[1] - 0.35 * dy - side * 0.2 * dx) for side in (1, -1))
    (a, b), (c, d) = ends
    shaft = f"M{tidy(x, 2)} {tidy(y, 2)}L{tidy(tip[0], 2)} {tidy(tip[1], 2)}"
    return f"{shaft}M{tidy(a, 2)} {tidy(b, 2)}L{tidy(tip[0], 2)} {tidy(tip[1], 2)}L{tidy(c, 2)} {tidy(d, 2)}"


# -- pixels -------------------------------------------------------------------------------------------------------


def tidy(value: float, digits: int = 3) -> float:
    """Return a number with few digits, as short as it can be written."""
    value = round(value, digits)
    return int(value) if value == int(value) else value


def data_url(pixels: np.ndarray) -> str:
    """Return pixels as a PNG in a data URL; those larger than 384 pixels are shrunk, the full ones lie beside."""
    image = Image.fromarray(pixels)
    if max(image.size) > LARGEST_PICTURE:
        image.thumbnail((LARGEST_PICTURE, LARGEST_PICTURE), Image.Resampling.LANCZOS)
    return png_url(image)


def png_url(image: Image.Image) -> str:
    """Return an image as a PNG in a data URL."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
