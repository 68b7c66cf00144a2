"""How results show themselves: in a notebook as a small piece of HTML, elsewhere as plain text.

A result describes itself once, as a `Panel`; both forms are drawn from it. The HTML needs no script, no network and no
style sheet, takes its colors from the page around it, and stays small: what is too much is counted, not shown.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

Number = float | None
Mood = Literal["good", "care", "bad", "none"]

MOST_ROWS, MOST_TRACES, MOST_POINTS, MOST_TEXT = 24, 4, 60, 600
"""What one panel shows at most: rows of a table, lines of a curve, points of a line, characters of a text."""

T = TypeVar("T")


@dataclass(frozen=True)
class Spark:
    """A small curve: lines over common numbers, the first one in front, with the band of its interval.

    Args:
        lines: the y of each line, None for gaps.
        low, high: ends of the first line's interval; empty if it has none.
        label: what it shows, for those who do not see it.
    """

    lines: tuple[Sequence[Number], ...]
    low: Sequence[Number] = ()
    high: Sequence[Number] = ()
    label: str = ""


Cell = str | float | int | None | Spark


@dataclass(frozen=True)
class Panel:
    """What a result says of itself.

    Args:
        title: what it is, in a few words.
        lead: the answer, one or two sentences.
        facts: name and value pairs under the title.
        curve: a small curve under the facts.
        columns, rows: one table; a cell is text, a number or a `Spark`.
        moods: one per row, shown as a colored dot beside its first cell.
        notes: sentences under the table.
    """

    title: str
    lead: str = ""
    facts: tuple[tuple[str, str | float | int | None], ...] = ()
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[Cell, ...], ...] = ()
    moods: tuple[Mood, ...] = field(default=())
    notes: tuple[str, ...] = ()
    curve: Spark | None = None

    def html(self) -> str:
        """Return the panel as HTML that needs nothing beside it."""
        parts = [f'<div style="{_BOX}"><div style="font-weight:600;font-size:1.1em">{_escaped(self.title)}</div>']
        if self.lead:
            parts.append(f'<div style="margin:.25em 0">{_escaped(self.lead)}</div>')
        if self.facts:
            facts = " \N{MIDDLE DOT} ".join(f"{_escaped(name)} <b>{_escaped(plain(v))}</b>" for name, v in self.facts)
            parts.append(f'<div style="opacity:.85">{facts}</div>')
        if self.curve is not None:
            parts.append(f'<div style="margin:.4em 0">{_spark(self.curve)}</div>')
        if self.rows:
            parts.append(self._table())
        parts += [f'<div style="margin-top:.4em;opacity:.85">{_escaped(note)}</div>' for note in self._all_notes()]
        return "".join([*parts, "</div>"])

    def text(self) -> str:
        """Return the panel as plain text, the same everywhere."""
        lines = [_cut(self.title), *filter(None, [_cut(self.lead)])]
        lines += [f"  {_cut(name)}: {_cut(plain(value))}" for name, value in self.facts]
        if self.rows:
            kept = [k for k in range(len(self.columns)) if not any(isinstance(row[k], Spark) for row in self.rows)]
            cells = [[_cut(self.columns[k], 60) for k in kept]]
            most = dict.fromkeys(kept[:-1], 72)  # nothing stands to the right of the last column
            cells += [[_cut(_plain_cell(row[k]), most.get(k, 300)) for k in kept] for row in self.rows[:MOST_ROWS]]
            widths = [max(len(row[k]) for row in cells) for k in range(len(kept))]
            lines += ["  " + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells]
        return "\n".join([*lines, *map(_cut, self._all_notes())])

    def _all_notes(self) -> tuple[str, ...]:
        hidden = len(self.rows) - MOST_ROWS
        more = (f"{hidden:,} more row{'s' if hidden > 1 else ''} not shown.",) if hidden > 0 else ()
        return (*more, *self.notes[:MOST_ROWS])

    def _table(self) -> str:
        numeric = [all(not isinstance(row[k], (str, Spark)) for row in self.rows) for k in range(len(self.columns))]
        head = "".join(
            f'<th style="{_CELL}text-align:{"right" if right else "left"};font-weight:600">{_escaped(name, 60)}</th>'
            for name, right in zip(self.columns, numeric, strict=True)
        )
        body = []
        for k, row in enumerate(self.rows[:MOST_ROWS]):
            dot = _dot(self.moods[k]) if k < len(self.moods) else ""
            cells = []
            for column, cell in enumerate(row):
                inside = _spark(cell) if isinstance(cell, Spark) else _escaped(_plain_cell(cell))
                whole = "white-space:nowrap;" if numeric[column] or (dot and not column) else ""
                side = "right" if numeric[column] else "left"
                cells.append(f'<td style="{_CELL}{whole}text-align:{side}">{dot if not column else ""}{inside}</td>')
            body.append(f'<tr style="background:transparent">{"".join(cells)}</tr>')
        return (
            '<div style="overflow-x:auto"><table style="border-collapse:collapse;margin-top:.4em;color:inherit;'
            f'font-size:1em"><thead><tr style="background:transparent">{head}</tr></thead>'
            f"<tbody>{''.join(body)}</tbody></table></div>"
        )


def showing(panel: Callable[[T], Panel]) -> Callable[[type[T]], type[T]]:
    """Let a result show itself: `@showing(lambda result: Panel("a result"))` above its class.

    Gives the class `_repr_html_` for notebooks, and `str` and `repr` as plain text.

    Args:
        panel: makes the panel of an instance.

    Example:
        >>> from dataclasses import dataclass
        >>> @showing(lambda point: Panel("A point", facts=(("x", point.x),)))
        ... @dataclass(frozen=True, repr=False)
        ... class Point:
        ...     x: float
        >>> print(Point(0.25))
        A point
          x: 0.25
    """

    def dress(kind: type[T]) -> type[T]:
        def as_html(self: Any) -> str:
            return panel(self).html()

        def as_text(self: Any) -> str:
            return panel(self).text()

        kind._repr_html_ = as_html  # type: ignore[attr-defined]
        kind.__repr__ = kind.__str__ = as_text  # type: ignore[method-assign]
        return kind

    return dress


def plain(value: Cell) -> str:
    """Return a value as short text: four significant digits, thousands separated, a dash for None and NaN."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "\N{EN DASH}"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"


_BOX = (
    "font-family:system-ui,sans-serif;font-size:13px;line-height:1.45;max-width:60em;color:inherit;text-align:left;"
    "overflow-wrap:break-word"
)
_CELL = "padding:.2em 1em .2em 0;vertical-align:top;border-bottom:1px solid rgba(128,128,128,.3);"

# Middling tones, told apart from white and from black alike; the word beside the dot says the same.
_TONES: dict[Mood, str] = {"good": "#1f8fb0", "care": "#c27a00", "bad": "#d9483b", "none": "#8a8f98"}
_ACCENT = "#2f86c6"


def _dot(mood: Mood) -> str:
    return f'<span aria-hidden="true" style="color:{_TONES[mood]}">\N{BLACK CIRCLE}</span> '


def _cut(text: str, most: int = MOST_TEXT) -> str:
    """Return text on one line without control characters, cut if long."""
    flat = "".join(c if c.isprintable() else " " for c in text)
    return flat if len(flat) <= most else flat[: most - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _escaped(text: str, most: int = MOST_TEXT) -> str:
    # <bdi>: a name in a right-to-left script does not turn its surroundings around.
    return f"<bdi>{html.escape(_cut(text, most))}</bdi>"


def _plain_cell(cell: Cell) -> str:
    return "" if isinstance(cell, Spark) else plain(cell)


_WIDE, _HIGH = 140.0, 34.0


def _spark(spark: Spark) -> str:
    """Return a small curve as inline SVG; nothing where there is nothing to draw."""
    known = [v for line in (*spark.lines[:MOST_TRACES], spark.low, spark.high) for v in line if v is not None]
    if not known:
        return ""
    low, high = min(known), max(known)
    span = high - low or 1.0

    def at(line: Sequence[Number]) -> list[tuple[float, float] | None]:
        every = max(1, math.ceil(len(line) / MOST_POINTS))
        picked = range(0, len(line), every)
        step = (_WIDE - 4) / max(1, len(line) - 1)
        return [
            None if (v := line[k]) is None else (2 + step * k, _HIGH - 3 - (_HIGH - 6) * ((v - low) / span))
            for k in picked
        ]

    drawn = [
        f'<svg width="{_WIDE:g}" height="{_HIGH:g}" viewBox="0 0 {_WIDE:g} {_HIGH:g}" role="img" '
        f'aria-label="{html.escape(_cut(spark.label, 120))}" style="vertical-align:middle">'
    ]
    ends = [point for point in (*at(spark.high), *reversed(at(spark.low))) if point is not None]
    if len(spark.low) == len(spark.high) == len(ends) / 2 > 1:
        drawn.append(f'<path d="M{_points(ends)}Z" fill="{_ACCENT}" fill-opacity=".22"/>')
    for k, line in reversed(list(enumerate(spark.lines[:MOST_TRACES]))):
        stroke = _ACCENT if k == 0 else "currentColor"
        faint = "" if k == 0 else ' stroke-opacity=".45" stroke-dasharray="3 2"'
        for run in _runs(at(line)):
            if len(run) == 1:
                drawn.append(f'<circle cx="{run[0][0]:.1f}" cy="{run[0][1]:.1f}" r="1.6" fill="{stroke}"/>')
            else:
                drawn.append(f'<path d="M{_points(run)}" fill="none" stroke="{stroke}" stroke-width="1.6"{faint}/>')
    return "".join([*drawn, "</svg>"])


def _points(points: list[tuple[float, float]]) -> str:
    return "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _runs(points: list[tuple[float, float] | None]) -> list[list[tuple[float, float]]]:
    """Return the stretches of a line between its gaps."""
    runs: list[list[tuple[float, float]]] = [[]]
    for point in points:
        if point is None:
            runs.append([])
        else:
            runs[-1].append(point)
    return [run for run in runs if run]
