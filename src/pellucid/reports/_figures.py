"""From exhibits to what draws them: chart options, shades of heatmaps, cells of tables. Pure data to data.

Colors are tokens such as `$series-0`; the page replaces them by those of its light or dark theme. Points carry
`[x, y, low, high]`, so that the page can word its tooltips from them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from pellucid.core import Axis, Curve, Heatmap, Line, Number, Table

from . import _format

SYMBOLS = ("circle", "rect", "triangle", "diamond")
DASHES = ("dashed", "dotted", [8, 3, 2, 3])
DASHED_KEYS = ("reference", "dotted", "dash-dot")
"""Reference lines by their dashes, on the chart and in its legend."""

COLORED = ("main", "points")
"""Roles of lines that get a color of their own."""

SERIES = 6
SHADES = 20
MAX_ROWS = 200
MAX_CELLS = 64 * 64
MAX_BARS = 60  # more columns than that nobody tells apart
VALUES_UP_TO = 12


@dataclass(frozen=True)
class Key:
    """One entry of a chart's legend; `style` names the class that colors it."""

    name: str
    style: str
    symbol: str


@dataclass(frozen=True)
class Chart:
    """A curve ready to draw.

    Args:
        options: for ECharts, with color tokens.
        keys: the legend.
        x_label, y_label: axis labels with their units.
        height: in pixels.
        flat: whether columns lie on their side.
        summary: one sentence for those who do not see it.
        columns, rows: the numbers as a table.
        every: the table shows every so-many-th point.
        left_out: what the drawing leaves out, in a sentence; empty if nothing.
    """

    options: dict[str, Any]
    keys: tuple[Key, ...]
    x_label: str
    y_label: str
    height: int
    flat: bool
    summary: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    every: int = 1
    left_out: str = ""


def chart(curve: Curve) -> Chart:
    """Return the drawing of a curve, or of columns over categories."""
    columns, rows, every = _numbers(curve)
    total = len(curve.categories)
    left_out = ""
    if curve.bars and total > MAX_BARS:
        left_out = f"The first {MAX_BARS} of {total:,} are drawn; report.json has them all."
        curve = _first_bars(curve)
        rows, every = rows[:MAX_ROWS], 1
    options = _bars(curve) if curve.bars else _lines(curve)
    flat = curve.bars and lies_down(curve)
    series = max(1, sum(line.role in COLORED for line in curve.lines))
    x_label, y_label = _axis_label(curve.x), _axis_label(curve.y)
    return Chart(
        options=options,
        keys=_keys(curve),
        x_label=y_label if flat else x_label,
        y_label=x_label if flat else y_label,
        height=min(1200, 50 + len(curve.categories) * (12 + 16 * series)) if flat else 260,
        flat=flat,
        summary=_summary(curve),
        columns=columns,
        rows=rows,
        every=every,
        left_out=left_out,
    )


def _first_bars(curve: Curve) -> Curve:
    """Return the columns that are drawn where there are too many for one picture."""
    lines = tuple(
        replace(line, y=line.y[:MAX_BARS], low=line.low[:MAX_BARS], high=line.high[:MAX_BARS]) for line in curve.lines
    )
    return replace(curve, categories=curve.categories[:MAX_BARS], lines=lines)


def lies_down(curve: Curve) -> bool:
    """Return whether columns lie on their side, because their names would not fit below them.

    Names that begin with a digit are steps of a scale: some of them may be left out below standing columns.
    """
    return not _steps(curve) and sum(len(name) + 2 for name in curve.categories) > 44


def _steps(curve: Curve) -> bool:
    return all(name[:1].isdigit() for name in curve.categories)


def drawable(curve: Curve) -> bool:
    """Return whether a curve holds at least one number to draw."""
    return any(y is not None for line in curve.lines for y in line.y)


def _axis_label(axis: Axis) -> str:
    return f"{axis.label} ({axis.unit})" if axis.unit else axis.label


def _color(index: int) -> str:
    return f"$series-{index % SERIES}"


def _mains(lines: Sequence[Line]) -> dict[int, int]:
    """Return the color index of each line: main lines and points are counted through, others have none."""
    mains = [k for k, line in enumerate(lines) if line.role in COLORED]
    return {k: rank for rank, k in enumerate(mains)}


def _keys(curve: Curve) -> tuple[Key, ...]:
    rank, own, dashes = _mains(curve.lines), _own_floors(curve.lines), _dashes(curve.lines)
    if len(curve.lines) == 1 and curve.lines[0].role in COLORED:
        return ()

    def key(k: int, line: Line) -> Key:
        if k in own and not curve.bars:
            return Key(line.name, f"series-{own[k] % SERIES}", "dotted")
        style = f"series-{rank[k] % SERIES}" if k in rank else line.role
        return Key(line.name, style, _key_symbol(line, curve, rank.get(k, 0), dashes.get(k, 0)))

    return tuple(key(k, line) for k, line in enumerate(curve.lines))


def _key_symbol(line: Line, curve: Curve, rank: int, dash: int) -> str:
    if curve.bars:
        return "bar" if line.role in COLORED else "tick"
    if line.role == "reference":
        return DASHED_KEYS[dash % len(DASHED_KEYS)]
    if line.role == "points":
        return f"{SYMBOLS[rank % len(SYMBOLS)]}-alone"
    return SYMBOLS[rank % len(SYMBOLS)] if line.role == "main" else line.role


def _dashes(lines: Sequence[Line]) -> dict[int, int]:
    """Return the kind of dash of each reference line: they are counted through."""
    return {k: n for n, k in enumerate(k for k, line in enumerate(lines) if line.role == "reference")}


def _scaled(values: Sequence[Number], axis: Axis) -> list[Number]:
    """Return values in the unit of the axis; what a log axis cannot show becomes a gap."""
    factor = 100.0 if axis.unit == "%" else 1.0
    return [
        None if v is None or (axis.scale == "log" and v <= 0) else round(v * factor, 12) if factor != 1 else v
        for v in values
    ]


def _points(line: Line, curve: Curve) -> list[list[Number]]:
    x = [float(k) for k in range(len(line.y))] if curve.bars else _scaled(line.x, curve.x)
    y = _scaled(line.y, curve.y)
    if not line.low:
        return [list(point) for point in zip(x, y, strict=True)]
    low, high = _scaled(line.low, curve.y), _scaled(line.high, curve.y)
    return [list(point) for point in zip(x, y, low, high, strict=True)]


def _value_axis(axis: Axis, values: Sequence[Number], *, vertical: bool) -> dict[str, Any]:
    known = [v for v in values if v is not None]
    options: dict[str, Any] = {
        "type": "log" if axis.scale == "log" else "value",
        "axisLine": {"show": not vertical, "lineStyle": {"color": "$line"}},
        "axisTick": {"show": False},
        "axisLabel": {"color": "$muted", "fontSize": 12, "hideOverlap": True},
        "splitLine": {"show": vertical, "lineStyle": {"color": "$grid"}},
    }
    if axis.unit == "%":
        options["axisLabel"]["formatter"] = "{value}%"
    if not known or axis.scale == "log":
        return options
    low, high = min(known), max(known)
    if not vertical and all(v == int(v) for v in known):
        options["minInterval"] = 1
    if axis.unit == "%" and low >= 0 and 50 < high <= 100 and high - low >= 20:
        options |= {"min": 0, "max": 100}
    elif low > 0 and high - low < 0.3 * high:
        options["scale"] = True
    return options


def _reaching(axis: dict[str, Any], points: Sequence[Sequence[Sequence[Number]]]) -> dict[str, Any]:
    """Let an axis of values reach the ends of intervals too; by itself it reaches the values, and whiskers are cut."""
    every = [p for data in points for p in data]
    drawn = [p[1] for p in every if p[1] is not None]
    ends = [end for p in every for end in p[2:] if end is not None]
    if not drawn or not ends:
        return axis
    if max(ends) > max(0.0, *drawn):
        axis.setdefault("max", _rounded(max(ends)))
    if min(ends) < min(0.0, *drawn):
        axis.setdefault("min", -_rounded(-min(ends)))
    return axis


def _rounded(end: float) -> float:
    """Return the next number above a positive one that is a multiple of 5 of its second digit."""
    step = 10.0 ** (math.floor(math.log10(end)) - 1) * 5
    return round(math.ceil(end / step) * step, 12)


_FRAME: dict[str, Any] = {
    "animation": False,
    "legend": {"show": False},
    "grid": {"left": 6, "right": 18, "top": 14, "bottom": 6, "outerBoundsMode": "same", "outerBoundsContain": "all"},
}


def _tooltip(*, bars: bool) -> dict[str, Any]:
    return {
        "trigger": "axis",
        "renderMode": "richText",
        "confine": True,
        "backgroundColor": "$card",
        "borderColor": "$line",
        "textStyle": {"color": "$ink", "fontSize": 12, "fontWeight": "normal"},
        "axisPointer": {"type": "shadow" if bars else "line", "lineStyle": {"color": "$muted"}},
    }


def _lines(curve: Curve) -> dict[str, Any]:
    rank = _mains(curve.lines)
    points = [_points(line, curve) for line in curve.lines]
    # Noise has no sign: where the curve has one, the floor reaches below zero too.
    signed = any(v is not None and v < 0 for line in curve.lines if line.role in COLORED for v in line.y)
    own, dashes = _own_floors(curve.lines), _dashes(curve.lines)
    series: list[dict[str, Any]] = []
    for k, (line, data) in enumerate(zip(curve.lines, points, strict=True)):
        color = _color(rank[k]) if k in rank else _color(own[k]) if k in own else "$muted"
        if line.role == "points":
            series.append(_scatter(line, k, data, color, SYMBOLS[rank[k] % len(SYMBOLS)]))
            continue
        if line.role == "main" and line.low:
            series += _band(line.name, k, data, color)
        series.append(_line(line, k, data, color, SYMBOLS[rank.get(k, 0) % len(SYMBOLS)]))
        if k in dashes:
            series[-1]["lineStyle"]["type"] = DASHES[dashes[k] % len(DASHES)]
        if k in own:
            del series[-1]["areaStyle"]  # two bands would hide whose floor is whose
        if line.role == "noise" and signed:
            mirrored = [[p[0], None if p[1] is None else -p[1]] for p in data]
            series.append({**series[-1], "id": f"mirror-{k}", "data": mirrored, "tooltip": {"show": False}})
    x = [p[0] for data in points for p in data]
    y = [v for data in points for p in data for v in p[1:]]
    return {
        **_FRAME,
        "tooltip": _tooltip(bars=False) | ({"trigger": "item"} if scattered(curve) else {}),
        "xAxis": _value_axis(curve.x, x, vertical=False),
        "yAxis": _reaching(_value_axis(curve.y, y, vertical=True), points),
        "series": series,
    }


def scattered(curve: Curve) -> bool:
    """Return whether a curve is nothing but points that no line joins."""
    return not curve.bars and not any(line.role == "main" for line in curve.lines)


def _own_floors(lines: Sequence[Line]) -> dict[int, int]:
    """Return whose noise floor each is, where several lines have one each: line of a floor to rank of its main line."""
    floors = [k for k, line in enumerate(lines) if line.role == "noise"]
    several = len(floors) > 1 and len(floors) == sum(line.role in COLORED for line in lines)
    return {k: n for n, k in enumerate(floors)} if several else {}


def _line(line: Line, index: int, data: list[list[Number]], color: str, symbol: str) -> dict[str, Any]:
    few = sum(p[1] is not None for p in data) <= 40
    options: dict[str, Any] = {
        "type": "line",
        "id": f"line-{index}",
        "name": line.name,
        "data": data,
        "encode": {"x": 0, "y": 1},
        "symbol": symbol if few and line.role == "main" else "none",
        "symbolSize": 7,
        "itemStyle": {"color": color},
        "lineStyle": {"color": color, "width": 2.25 if line.role == "main" else 1.5},
        "emphasis": {"disabled": True},
        "z": 3,
    }
    if line.role == "reference":
        options["z"] = 2
    if line.role == "noise":
        options["lineStyle"] = {"color": color, "width": 1, "type": "dotted"}
        options["areaStyle"] = {"color": "$noise", "opacity": 0.8, "origin": "auto"}
        options["z"] = 0
    return options


def _scatter(line: Line, index: int, data: list[list[Number]], color: str, symbol: str) -> dict[str, Any]:
    options: dict[str, Any] = {
        "type": "scatter",
        "id": f"line-{index}",
        "name": line.name,
        "data": data,
        "encode": {"x": 0, "y": 1},
        "symbol": symbol,
        "symbolSize": 8 if len(data) <= 200 else 5,
        "itemStyle": {"color": color, "opacity": 0.85 if len(data) <= 200 else 0.5},
        "emphasis": {"disabled": True},
        "z": 3,
    }
    whiskers = [p for p in data if len(p) == 4 and None not in p]
    if whiskers:
        options["markLine"] = _whiskers([[[p[0], p[2]], [p[0], p[3]]] for p in whiskers], color)
    return options


def _whiskers(ends: list[list[list[Number]]], color: str) -> dict[str, Any]:
    return {
        "silent": True,
        "animation": False,
        "symbol": "none",
        "lineStyle": {"color": color, "width": 1.5, "type": "solid"},
        "label": {"show": False},
        "data": [[{"coord": end} for end in pair] for pair in ends],
    }


def _band(name: str, index: int, data: list[list[Number]], color: str) -> list[dict[str, Any]]:
    """Return two stacked lines: an unseen one at the lower end, and the height of the interval filled above it."""
    shared = {
        "type": "line",
        "name": name,
        "stack": f"band-{index}",
        "stackStrategy": "all",
        "symbol": "none",
        "silent": True,
        "lineStyle": {"opacity": 0},
        "itemStyle": {"color": color},
        "emphasis": {"disabled": True},
        "tooltip": {"show": False},
        "z": 1,
    }
    known = [None not in p[2:4] for p in data]
    low = [[p[0], p[2] if ok else None] for p, ok in zip(data, known, strict=True)]
    height = [[p[0], p[3] - p[2] if ok else None] for p, ok in zip(data, known, strict=True)]  # type: ignore[operator]
    return [
        {**shared, "id": f"low-{index}", "data": low},
        {**shared, "id": f"band-{index}", "data": height, "areaStyle": {"color": color, "opacity": 0.16}},
    ]


def _bars(curve: Curve) -> dict[str, Any]:
    rank = _mains(curve.lines)
    flat = lies_down(curve)
    series: list[dict[str, Any]] = []
    points = [_points(line, curve) for line in curve.lines]
    for k, (line, data) in enumerate(zip(curve.lines, points, strict=True)):
        if line.role in COLORED:
            series.append(_bar(line, k, data, _color(rank[k]), flat=flat))
        else:
            series.append(_tick(line, k, data, flat=flat))
    values = [v for data in points for p in data for v in p[1:]]
    category = {
        "type": "category",
        "data": list(curve.categories),
        "axisLine": {"lineStyle": {"color": "$line"}},
        "axisTick": {"show": False},
        "axisLabel": {
            "color": "$muted",
            "fontSize": 12,
            "interval": "auto" if _steps(curve) else 0,
            "width": 150,
            "overflow": "truncate",
        },
        "inverse": flat,
    }
    # Columns start at zero: a cut axis would lie about their lengths.
    value = _reaching(_value_axis(curve.y, [*values, 0.0], vertical=True), points)
    axes = {"xAxis": value, "yAxis": category} if flat else {"xAxis": category, "yAxis": value}
    return {**_FRAME, "tooltip": _tooltip(bars=True), **axes, "series": series}


def _oriented(data: list[list[Number]], *, flat: bool) -> dict[str, Any]:
    return {"data": data, "encode": {"y": 0, "x": 1} if flat else {"x": 0, "y": 1}}


def _bar(line: Line, index: int, data: list[list[Number]], color: str, *, flat: bool) -> dict[str, Any]:
    options = {
        "type": "bar",
        "id": f"line-{index}",
        "name": line.name,
        **_oriented(_swapped(data, flat=flat), flat=False),
        "itemStyle": {"color": color, "borderRadius": [0, 3, 3, 0] if flat else [3, 3, 0, 0]},
        "barMaxWidth": 26 if flat else 44,
        "barCategoryGap": "32%",
        "emphasis": {"disabled": True},
    }
    whiskers = [p for p in data if len(p) == 4 and None not in p[2:]]
    if whiskers:
        ends = [[[p[0], p[2]], [p[0], p[3]]] for p in whiskers]
        options["markLine"] = _whiskers([pair if not flat else [end[::-1] for end in pair] for pair in ends], "$ink")
    return options


def _swapped(data: list[list[Number]], *, flat: bool) -> list[list[Number]]:
    return [[p[1], p[0], *p[2:]] for p in data] if flat else data


def _tick(line: Line, index: int, data: list[list[Number]], *, flat: bool) -> dict[str, Any]:
    return {
        "type": "scatter",
        "id": f"line-{index}",
        "name": line.name,
        **_oriented(_swapped(data, flat=flat), flat=False),
        "symbol": "rect",
        "symbolSize": [3, 20] if flat else [28, 3],
        "itemStyle": {"color": "$ink"},
        "emphasis": {"disabled": True},
        "z": 4,
    }


def _numbers(curve: Curve) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...], int]:
    """Return the chart's numbers as a table: one row per point, lines side by side where they share their points."""
    y, unit = curve.y.unit, curve.x.unit
    if curve.bars:
        columns = (_axis_label(curve.x) or "Category", *(line.name for line in curve.lines))
        rows = [
            (name, *(_with_interval(line, k, y) for line in curve.lines)) for k, name in enumerate(curve.categories)
        ]
    elif len({line.x for line in curve.lines}) == 1:
        columns = (curve.x.label, *(line.name for line in curve.lines))
        xs = curve.lines[0].x
        rows = [
            (_format.shown(x, unit), *(_with_interval(line, k, y) for line in curve.lines)) for k, x in enumerate(xs)
        ]
    else:
        columns = ("Line", curve.x.label, curve.y.label)
        rows = [
            (line.name, _format.shown(x, unit), _with_interval(line, k, y))
            for line in curve.lines
            for k, x in enumerate(line.x)
        ]
    # Columns have names: the first ones are shown, not some of them.
    every = 1 if curve.bars else max(1, math.ceil(len(rows) / MAX_ROWS))
    return columns, tuple(rows[::every]), every


def _with_interval(line: Line, k: int, unit: str) -> str:
    text = _format.shown(line.y[k], unit)
    if not line.low or line.low[k] is None or line.high[k] is None:
        return text
    factor = 100.0 if unit == "%" else 1.0
    return f"{text} ({_format.span(line.low[k] * factor, line.high[k] * factor, unit)})"  # type: ignore[operator]


def _summary(curve: Curve) -> str:
    kind = "Bar chart" if curve.bars else "Scatter plot" if scattered(curve) else "Line chart"
    names = [line.name for line in curve.lines]
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return f"{kind}: {curve.title}. {curve.y.label} by {curve.x.label}, for {', '.join(names[:6])}{more}."


@dataclass(frozen=True)
class Shade:
    """One cell of a heatmap: its text and its shade 0..20; `below` marks negative numbers on a diverging scale."""

    text: str
    shade: int | None
    below: bool


@dataclass(frozen=True)
class Shades:
    """A heatmap ready to draw; `low` and `high` word the ends of its scale."""

    cells: tuple[tuple[Shade, ...], ...]
    low: str
    high: str
    labelled: bool
    tabled: bool


def shades(heatmap: Heatmap) -> Shades:
    """Return the shade and the text of each cell."""
    known = [v for row in heatmap.values for v in row if v is not None]
    top = max((abs(v) for v in known), default=0.0)
    low, high = (-top, top) if heatmap.diverging else (min(known, default=0.0), max(known, default=0.0))
    if not heatmap.diverging and low > 0 and low < 0.5 * high:
        low = 0.0
    # Two significant digits of the largest number, the same decimals in every cell.
    whole = all(v == int(v) for v in known)
    places = 0 if whole or not top else min(6, max(0, 1 - math.floor(math.log10(top))))
    places = 2 if top == 1 and not whole else places  # shares and cosines, whose largest number is 1.00

    def cell(value: Number) -> Shade:
        if value is None:
            return Shade(_format.MISSING, None, False)
        if heatmap.diverging:
            share = abs(value) / top if top else 0.0
        else:
            share = (value - low) / (high - low) if high > low else 0.0
        return Shade(_cell_text(value, heatmap.unit, places), round(SHADES * share), heatmap.diverging and value < 0)

    n_cells = len(heatmap.rows) * len(heatmap.columns)
    return Shades(
        cells=tuple(tuple(map(cell, row)) for row in heatmap.values),
        low=_format.shown(low, heatmap.unit),
        high=_format.shown(high, heatmap.unit),
        labelled=len(heatmap.rows) <= VALUES_UP_TO and len(heatmap.columns) <= VALUES_UP_TO,
        tabled=n_cells <= MAX_CELLS,
    )


def _cell_text(value: float, unit: str, places: int) -> str:
    if unit == "%":
        percent = 100 * value
        text = f"{percent:.0f}" if percent >= 10 or percent == int(percent) else f"{percent:.1f}"
        return text.replace("-", _format.MINUS)
    return _format.cell(value, "", places)


@dataclass(frozen=True)
class Sheet:
    """A table ready to print: the text of each cell and which columns hold numbers."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: tuple[bool, ...]


def sheet(table: Table) -> Sheet:
    """Return the text of a table's cells."""
    units = table.units or ("",) * len(table.columns)
    by_column = [[row[k] for row in table.rows] for k in range(len(table.columns))]
    places = [_format.decimals(column) for column in by_column]
    names = [column.lower() in ("id", "index", "sample", "seed") for column in table.columns]
    numeric = tuple(
        not name and any(isinstance(v, int | float) for v in column) and not any(isinstance(v, str) for v in column)
        for name, column in zip(names, by_column, strict=True)
    )
    rows = tuple(
        tuple(
            str(v) if name and isinstance(v, int) else _format.cell(v, unit, place)
            for v, unit, place, name in zip(row, units, places, names, strict=True)
        )
        for row in table.rows
    )
    return Sheet(table.columns, rows, numeric)
