"""A scatter in three dimensions as SVG: a view from the side that shows most, which a script turns around."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from PIL import Image

from pellucid.core import Scatter

from . import _format
from ._labels import clean

COLORS = 6  # of the page's series
SHAPES = (
    "M-2 0a2 2 0 1 0 4 0a2 2 0 1 0-4 0z",
    "M-1.75-1.75h3.5v3.5h-3.5z",
    "M0-2.4 2.2 1.5h-4.4z",
    "M0-2.6 2.6 0 0 2.6-2.6 0z",
)
"""Markers of groups, one shape for every six colors, so that no two of 24 groups look the same."""

RADIUS = 84.0
"""Of the sphere that holds all but the longest points, in units of the drawing, whose half side is 100."""

THUMBNAIL = 32
"""Pixels of the longer side of a thumbnail at most; smaller ones stay as they are."""
_KINDS = ((), (3,))  # of pixels
_TILT = math.radians(18)  # the third axis is seen a little


@dataclass(frozen=True)
class DrawnScatter:
    """A scatter ready for the page.

    Args:
        svg: the view from the start, complete without scripts.
        spec: what the script needs: places, paths and arrows in the frame of that view, labels, and the thumbnails.
        sprite: thumbnails side by side as a data URL; empty without any.
        keys: name, class and marker of each group.
        summary: one sentence for those who do not see it.
        columns, rows: the groups in numbers.
    """

    svg: str
    spec: dict[str, Any]
    sprite: str
    keys: tuple[tuple[str, str, str], ...]
    summary: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def drawn_scatter(scatter: Scatter) -> DrawnScatter:
    """Return what a page shows of a scatter."""
    at = np.array([dot.at for dot in scatter.dots], dtype=float).reshape(-1, 3)
    view, scale = _view(at, scatter)
    places = at @ view.T * scale
    paths = [np.array([dot.at, *dot.path], dtype=float) @ view.T * scale if dot.path else None for dot in scatter.dots]
    arrows = [_unit(np.array(arrow, dtype=float)) @ view.T * RADIUS for arrow in scatter.arrows]
    sprite, size = _sprite(scatter.thumbnails)
    spec = {
        "at": _rounded(places),
        "paths": [None if path is None else _rounded(path) for path in paths],
        "arrows": _rounded(np.array(arrows).reshape(-1, 3)),
        "groups": [dot.group for dot in scatter.dots],
        "labels": [clean(dot.label) or clean(scatter.groups[dot.group]) for dot in scatter.dots],
        "thumb": size,
    }
    return DrawnScatter(
        svg=_svg(scatter, places, paths, arrows),
        spec=spec,
        sprite=sprite,
        keys=tuple((clean(name), look(k), SHAPES[k // COLORS % len(SHAPES)]) for k, name in enumerate(scatter.groups)),
        summary=f"Scatter: {clean(scatter.title)}. {_format.count(len(scatter.dots))} points in "
        f"{len(scatter.groups)} groups.",
        columns=("Group", "Points", f"Mean {scatter.length or 'length'}", "Mean cosine to its arrow"),
        rows=tuple(_rows(scatter, at)),
    )


def look(group: int) -> str:
    """Return the class that colors a group."""
    return f"s{group % COLORS}"


def scatter_problem(scatter: Scatter) -> str:
    """Return the first thing that keeps a scatter from being drawn; empty if nothing."""
    if any(not 0 <= dot.group < len(scatter.groups) for dot in scatter.dots):
        return f"every point must belong to one of the {len(scatter.groups)} groups"
    if scatter.arrows and len(scatter.arrows) != len(scatter.groups):
        return f"there must be {len(scatter.groups)} arrows, one per group, or none"
    if scatter.thumbnails and len(scatter.thumbnails) != len(scatter.dots):
        return f"there must be {len(scatter.dots)} thumbnails, one per point, or none"
    places = [place for dot in scatter.dots for place in (dot.at, *dot.path)]
    if not all(math.isfinite(v) for place in (*places, *scatter.arrows) for v in place):
        return "places and arrows must be finite"
    for pixels in scatter.thumbnails:
        if (
            pixels.dtype != np.uint8
            or pixels.ndim not in (2, 3)
            or 0 in pixels.shape
            or pixels.shape[2:] not in ((), (3,))
        ):
            return "thumbnails must be uint8 (H, W) or (H, W, 3)"
    return ""


def _view(at: np.ndarray, scatter: Scatter) -> tuple[np.ndarray, float]:
    """Return the rotation to the frame of the first view and the scale: what differs most lies across the page."""
    known = np.concatenate([at, np.array(scatter.arrows, dtype=float).reshape(-1, 3)])
    ends = np.array([place for dot in scatter.dots for place in dot.path], dtype=float).reshape(-1, 3)
    lengths = np.linalg.norm(np.concatenate([at, ends]), axis=1)
    # The longest few may lie outside of the sphere: one outlier must not make dust of the others.
    reach = float(np.quantile(lengths, 0.97)) if len(lengths) else 1.0
    most = float(lengths.max()) if len(lengths) else 1.0
    scale = min(RADIUS / (reach or 1.0), 98.0 / (most or 1.0)) if most else 1.0
    if len(known) < 2:
        return np.eye(3), scale
    axes = np.linalg.svd(known - known.mean(0) if len(at) else known, full_matrices=True)[2]
    # An axis has no sign of its own: the larger side is put on the right and above, so that equal data look equal.
    signs = np.where(np.abs(axes.min(1)) > axes.max(1), -1.0, 1.0)
    axes = axes * signs[:, None]
    if np.linalg.det(axes) < 0:
        axes[2] *= -1
    c, s = math.cos(_TILT), math.sin(_TILT)
    tilt = np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    return tilt @ axes, scale


def _svg(scatter: Scatter, places: np.ndarray, paths: Sequence[np.ndarray | None], arrows: Sequence[np.ndarray]) -> str:
    parts = [
        '<svg class="cloud-view" viewBox="-120 -104 240 208" role="img" '
        f'aria-label="{escape(clean(scatter.title))}"><circle class="sphere" r="{RADIUS:g}"/>'
    ]
    for group, arrow in enumerate(arrows):
        name = escape(clean(_short(scatter.groups[group])))
        x, y = arrow[0], -arrow[1]
        parts.append(
            f'<g class="ray {look(group)}" data-group="{group}"><path d="M0 0L{x:.1f} {y:.1f}"/>'
            f'<text x="{1.06 * x:.1f}" y="{1.06 * y:.1f}" text-anchor="{_anchor(x)}">{name}</text></g>'
        )
    order = sorted(range(len(places)), key=lambda k: places[k][2])
    for k in order:
        path = paths[k]
        if path is not None:
            line = " ".join(f"{x:.1f},{-y:.1f}" for x, y, _ in path)
            group = scatter.dots[k].group
            parts.append(f'<polyline class="trail {look(group)}" data-dot="{k}" points="{line}"/>')
    for k in order:
        group = scatter.dots[k].group
        x, y, z = places[k]
        parts.append(
            f'<path class="dot {look(group)}" data-dot="{k}" d="{SHAPES[group // COLORS % len(SHAPES)]}" '
            f'transform="translate({x:.1f} {-y:.1f}) scale({1 + z / 300:.2f})"/>'
        )
    return "".join([*parts, "</svg>"])


def _anchor(x: float) -> str:
    return "start" if x > 12 else "end" if x < -12 else "middle"


def _short(name: str) -> str:
    return name if len(name) <= 16 else name[:15] + "\N{HORIZONTAL ELLIPSIS}"


def _rows(scatter: Scatter, at: np.ndarray) -> Iterable[tuple[str, ...]]:
    groups = np.array([dot.group for dot in scatter.dots])
    for k, name in enumerate(scatter.groups):
        own = at[groups == k] if len(at) else at
        lengths = np.linalg.norm(own, axis=1)
        length = _format.plain(float(lengths.mean())) if len(own) else _format.MISSING
        cosine = _format.MISSING
        if scatter.arrows and len(own) and bool((lengths > 0).any()):
            along = own[lengths > 0] @ _unit(np.array(scatter.arrows[k], dtype=float)) / lengths[lengths > 0]
            cosine = _format.plain(float(along.mean()))
        yield clean(name), _format.count(len(own)), length, cosine


def _unit(vector: np.ndarray) -> np.ndarray:
    length = float(np.linalg.norm(vector))
    found: np.ndarray = vector / length if length else vector
    return found


def _rounded(values: np.ndarray) -> list[list[float]]:
    return [[round(float(v), 1) for v in row] for row in values]


def _sprite(thumbnails: Sequence[np.ndarray]) -> tuple[str, list[int]]:
    """Return thumbnails in one picture, as a data URL, with the width and height of each and how many are in a row."""
    if not thumbnails:
        return "", [0, 0, 0]
    images = [Image.fromarray(pixels).convert("RGB") for pixels in thumbnails]
    shrink = min(1.0, THUMBNAIL / max(max(image.size) for image in images))
    width = max(1, round(shrink * max(image.width for image in images)))
    height = max(1, round(shrink * max(image.height for image in images)))
    across = math.ceil(math.sqrt(len(images)))
    whole = Image.new("RGB", (width * across, height * math.ceil(len(images) / across)))
    for k, image in enumerate(images):
        small = image if image.size == (width, height) else image.resize((width, height), Image.Resampling.LANCZOS)
        whole.paste(small, (k % across * width, k // across * height))
    buffer = io.BytesIO()
    # Thumbnails are looked at for a second: JPEG makes a quarter of PNG's size of photographs.
    whole.save(buffer, format="JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode(), [width, height, across]
