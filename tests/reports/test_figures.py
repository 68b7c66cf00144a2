from __future__ import annotations

import json
from typing import Any

import pytest

from pellucid.core import Axis, Curve, Heatmap, Line, Table
from pellucid.reports import _figures as figures


def curve(*lines: Line, x: Axis | None = None, y: Axis | None = None, **other: Any) -> Curve:
    return Curve(title="T", x=x or Axis("x"), y=y or Axis("y"), lines=lines, **other)


def line(name: str = "a", y: tuple[float | None, ...] = (1.0, 2.0, 3.0), **other: Any) -> Line:
    return Line(name=name, x=tuple(float(k) for k in range(len(y))), y=y, **other)


def series(drawing: figures.Chart) -> dict[str, dict[str, Any]]:
    return {one["id"]: one for one in drawing.options["series"]}


# -- curves --------------------------------------------------------------------------------------------------------


def test_options_are_json() -> None:
    drawing = figures.chart(curve(line(), line("b", (None, 1.0, 2.0), role="reference")))
    assert json.loads(json.dumps(drawing.options, allow_nan=False)) == drawing.options


def test_a_line_keeps_its_points() -> None:
    drawing = figures.chart(curve(line(y=(1.0, None, 3.0))))
    assert series(drawing)["line-0"]["data"] == [[0.0, 1.0], [1.0, None], [2.0, 3.0]]
    assert drawing.keys == ()  # one line needs no legend


def test_an_interval_is_a_band_between_its_ends() -> None:
    drawing = figures.chart(curve(line(y=(1.0, 2.0, 3.0), low=(0.5, None, -2.0), high=(1.5, 2.5, 4.0))))
    parts = series(drawing)
    assert parts["line-0"]["data"][0] == [0.0, 1.0, 0.5, 1.5]
    assert parts["low-0"]["data"] == [[0.0, 0.5], [1.0, None], [2.0, -2.0]]
    assert parts["band-0"]["data"] == [[0.0, 1.0], [1.0, None], [2.0, 6.0]]
    assert parts["low-0"]["stack"] == parts["band-0"]["stack"]
    assert parts["band-0"]["stackStrategy"] == "all"  # else a band that crosses zero would be drawn wrongly
    assert parts["low-0"]["name"] == parts["line-0"]["name"]  # so that the legend hides them together


def test_fractions_become_percentages() -> None:
    drawing = figures.chart(curve(line(y=(0.1, 0.9)), y=Axis("Accuracy", "%")))
    assert [p[1] for p in series(drawing)["line-0"]["data"]] == [10.0, 90.0]
    assert drawing.options["yAxis"]["axisLabel"]["formatter"] == "{value}%"
    assert (drawing.options["yAxis"]["min"], drawing.options["yAxis"]["max"]) == (0, 100)
    assert drawing.y_label == "Accuracy (%)"
    assert drawing.rows[0] == ("0", "10.0%")


def test_a_narrow_range_is_not_squeezed_into_zero_to_a_hundred() -> None:
    axis = figures.chart(curve(line(y=(0.90, 0.92)), y=Axis("Accuracy", "%"))).options["yAxis"]
    assert "min" not in axis
    assert axis["scale"] is True


def test_columns_start_at_zero() -> None:
    bars = curve(Line(name="a", x=(), y=(91.0, 92.0)), bars=True, categories=("p", "q"))
    assert "scale" not in figures.chart(bars).options["yAxis"]


def test_what_a_log_axis_cannot_show_is_a_gap() -> None:
    lines = Line(name="a", x=(0.0, 0.1, 1.0), y=(1.0, 0.0, 2.0))
    drawing = figures.chart(curve(lines, x=Axis("r", scale="log"), y=Axis("n", scale="log")))
    assert series(drawing)["line-0"]["data"] == [[None, 1.0], [0.1, None], [1.0, 2.0]]
    assert drawing.options["xAxis"]["type"] == drawing.options["yAxis"]["type"] == "log"


def test_roles_are_drawn_apart() -> None:
    drawing = figures.chart(curve(line("m"), line("r", role="reference"), line("n", role="noise"), line("m2")))
    parts = series(drawing)
    assert parts["line-1"]["lineStyle"]["type"] == "dashed"
    assert "areaStyle" in parts["line-2"]
    assert [key.style for key in drawing.keys] == ["series-0", "reference", "noise", "series-1"]
    assert parts["line-0"]["symbol"] != parts["line-3"]["symbol"]  # told apart without color


def test_several_reference_lines_differ_in_their_dashes() -> None:
    drawing = figures.chart(curve(line("m"), *(line(f"r{k}", role="reference") for k in range(3))))
    kinds = [str(series(drawing)[f"line-{k}"]["lineStyle"]["type"]) for k in (1, 2, 3)]
    assert len(set(kinds)) == 3
    assert [key.symbol for key in drawing.keys] == ["circle", "reference", "dotted", "dash-dot"]


def test_each_of_two_models_has_its_own_floor_in_its_own_color() -> None:
    floors = (line("a's floor", role="noise"), line("b's floor", role="noise"))
    drawing = figures.chart(curve(line("a"), line("b"), *floors))
    parts = series(drawing)
    for mine, floor in (("line-0", "line-2"), ("line-1", "line-3")):
        assert parts[mine]["lineStyle"]["color"] == parts[floor]["lineStyle"]["color"]
        assert "areaStyle" not in parts[floor]
    assert [(key.style, key.symbol) for key in drawing.keys[2:]] == [("series-0", "dotted"), ("series-1", "dotted")]


def test_noise_reaches_below_zero_where_the_curve_does() -> None:
    noise = line("n", (0.5, None, 0.1), role="noise")
    assert "mirror-1" not in series(figures.chart(curve(line(y=(0.0, 1.0, 2.0)), noise)))
    parts = series(figures.chart(curve(line(y=(0.0, -1.0, 2.0)), noise)))
    assert parts["mirror-1"]["data"] == [[0.0, -0.5], [1.0, None], [2.0, -0.1]]


def test_whole_numbers_get_whole_ticks() -> None:
    assert figures.chart(curve(line())).options["xAxis"]["minInterval"] == 1
    assert "minInterval" not in figures.chart(curve(Line(name="a", x=(0.5, 1.0), y=(0.0, 1.0)))).options["xAxis"]


def test_colors_are_tokens_of_the_theme() -> None:
    text = json.dumps(figures.chart(curve(*(line(str(k)) for k in range(9)))).options)
    assert "#" not in text
    assert '"$series-0"' in text
    assert "$series-6" not in text


def test_tooltips_make_no_html() -> None:
    for drawing in (figures.chart(curve(line())), figures.chart(curve(bars=True))):
        assert drawing.options["tooltip"]["renderMode"] == "richText"


def test_many_points_have_no_symbols() -> None:
    many = line(y=tuple(float(k) for k in range(100)))
    assert series(figures.chart(curve(many)))["line-0"]["symbol"] == "none"


def test_lines_with_the_same_points_share_the_rows_of_the_table() -> None:
    drawing = figures.chart(curve(line("a", low=(0.0, 1.0, 2.0), high=(2.0, 3.0, 4.0)), line("b")))
    assert drawing.columns == ("x", "a", "b")
    assert drawing.rows[1] == ("1", "2 (1\N{EN DASH}3)", "2")


def test_lines_with_other_points_are_listed_one_after_the_other() -> None:
    drawing = figures.chart(curve(line("a"), line("b", (5.0,))))
    assert drawing.columns == ("Line", "x", "y")
    assert drawing.rows[-1] == ("b", "0", "5")


def test_long_tables_are_thinned_and_say_so() -> None:
    drawing = figures.chart(curve(line(y=tuple(map(float, range(1000))))))
    assert drawing.every == 5
    assert len(drawing.rows) == 200


def test_the_summary_says_what_there_is() -> None:
    text = figures.chart(curve(*(line(f"l{k}") for k in range(8)))).summary
    assert text == "Line chart: T. y by x, for l0, l1, l2, l3, l4, l5 and 2 more."


# -- columns -------------------------------------------------------------------------------------------------------

BARS = Line(name="a", x=(), y=(0.5, None, 0.7), low=(0.4, None, 0.6), high=(0.6, None, 0.9))


def test_short_names_stand_and_long_ones_lie() -> None:
    short = curve(BARS, bars=True, categories=("x", "y", "z"))
    long = curve(BARS, bars=True, categories=("a long class name", "another long class name", "a third"))
    stands, lies = figures.chart(short), figures.chart(long)
    assert not stands.flat
    assert stands.options["xAxis"]["type"] == "category"
    assert lies.flat
    assert lies.options["yAxis"]["type"] == "category"
    assert lies.options["yAxis"]["inverse"] is True  # the first on top
    assert series(stands)["line-0"]["data"][0] == [0.0, 0.5, 0.4, 0.6]
    assert series(lies)["line-0"]["data"][0] == [0.5, 0.0, 0.4, 0.6]
    assert (lies.x_label, lies.y_label) == ("y", "x")


def test_steps_of_a_scale_stand() -> None:
    steps = tuple(f"{k}-{k + 10}%" for k in range(0, 100, 10))
    drawing = figures.chart(curve(Line(name="a", x=(), y=(0.1,) * 10), bars=True, categories=steps))
    assert not drawing.flat
    assert drawing.options["xAxis"]["axisLabel"]["interval"] == "auto"


@pytest.mark.parametrize(("high", "reach"), [(14.31, 15.0), (9.0, 9.0), (0.021, 0.025), (143.1, 150.0)])
def test_axes_reach_the_ends_of_whiskers(high: float, reach: float) -> None:
    bars = curve(line(y=(high / 2, high / 3, 0.0), low=(0.0, 0.0, -high), high=(high, high / 2, 0.0)),
                 categories=("a", "b", "c"), bars=True)  # fmt: skip
    axis = figures.chart(bars).options["yAxis"]
    assert (axis["max"], axis["min"]) == (pytest.approx(reach), pytest.approx(-reach))
    points = curve(line(role="points", y=(high / 2,) * 3, low=(0.0,) * 3, high=(high,) * 3))
    assert figures.chart(points).options["yAxis"]["max"] == pytest.approx(reach)


@pytest.mark.parametrize("names", [("x", "y", "z"), ("a long class name", "another long class name", "a third")])
def test_whiskers_span_the_interval(names: tuple[str, ...]) -> None:
    drawing = figures.chart(curve(BARS, bars=True, categories=names))
    whiskers = series(drawing)["line-0"]["markLine"]["data"]
    ends = [[end["coord"] for end in pair] for pair in whiskers]
    first = [[0.0, 0.4], [0.0, 0.6]]
    assert len(ends) == 2  # the column without a number has none
    assert ends[0] == ([end[::-1] for end in first] if drawing.flat else first)


def test_references_among_columns_are_ticks() -> None:
    drawing = figures.chart(
        curve(BARS, Line(name="r", x=(), y=(0.1,) * 3, role="reference"), bars=True, categories=("x", "y", "z"))
    )
    assert series(drawing)["line-1"]["type"] == "scatter"
    assert [key.symbol for key in drawing.keys] == ["bar", "tick"]


def test_a_chart_grows_with_its_columns() -> None:
    def height(n: int) -> int:
        names = tuple(f"a class with a long name {k}" for k in range(n))
        return figures.chart(curve(Line(name="a", x=(), y=(1.0,) * n), bars=True, categories=names)).height

    assert height(10) < height(20) <= 1200
    assert height(500) == 1200


def test_what_can_be_drawn() -> None:
    assert figures.drawable(curve(line()))
    assert not figures.drawable(curve())
    assert not figures.drawable(curve(line(y=(None, None))))


# -- heatmaps ------------------------------------------------------------------------------------------------------


def heat(*values: tuple[float | None, ...], **other: Any) -> Heatmap:
    rows, columns = tuple(map(str, range(len(values)))), tuple(map(str, range(len(values[0]) if values else 0)))
    return Heatmap(title="H", rows=rows, columns=columns, values=values, **other)


def test_shades_run_from_the_least_to_the_greatest() -> None:
    shades = figures.shades(heat((0.0, 5.0), (10.0, None)))
    assert [[cell.shade for cell in row] for row in shades.cells] == [[0, 10], [20, None]]
    assert (shades.low, shades.high) == ("0", "10")
    assert shades.cells[1][1].text == "\N{EN DASH}"


def test_a_diverging_scale_is_symmetric_about_zero() -> None:
    shades = figures.shades(heat((-1.0, 4.0), (0.0, 2.0), diverging=True))
    assert [(cell.shade, cell.below) for row in shades.cells for cell in row] == [
        (5, True), (20, False), (0, False), (10, False),
    ]  # fmt: skip
    assert shades.low == "\N{MINUS SIGN}4"


@pytest.mark.parametrize("values", [((3.0, 3.0),), ((0.0, 0.0),), ((None, None),), ()])
def test_heatmaps_without_a_range(values: tuple[tuple[float | None, ...], ...]) -> None:
    for diverging in (False, True):
        cells = [cell for row in figures.shades(heat(*values, diverging=diverging)).cells for cell in row]
        assert all(cell.shade in (None, 0, 20) for cell in cells)


def test_cells_share_their_decimals() -> None:
    shades = figures.shades(heat((0.0277, -0.0091), (0.002, 0.0)))
    assert [cell.text for row in shades.cells for cell in row] == ["0.028", "\N{MINUS SIGN}0.009", "0.002", "0.000"]
    assert [c.text for c in figures.shades(heat((12.0, 0.0))).cells[0]] == ["12", "0"]
    assert [c.text for c in figures.shades(heat((0.5, 0.034), unit="%")).cells[0]] == ["50", "3.4"]


def test_only_small_heatmaps_are_labelled() -> None:
    assert figures.shades(heat(*((0.0,) * 12,) * 12)).labelled
    assert not figures.shades(heat(*((0.0,) * 13,) * 2)).labelled
    assert not figures.shades(heat(*((0.0,) * 65,) * 64)).tabled


# -- pictures ------------------------------------------------------------------------------------------------------


# -- points --------------------------------------------------------------------------------------------------------


def test_points_are_not_joined() -> None:
    drawing = figures.chart(curve(line(role="points"), line("b", (3.0, 1.0, 2.0), role="points")))
    drawn = series(drawing)
    assert [one["type"] for one in drawn.values()] == ["scatter", "scatter"]
    assert [one["itemStyle"]["color"] for one in drawn.values()] == ["$series-0", "$series-1"]
    assert [key.symbol for key in drawing.keys] == ["circle-alone", "rect-alone"]
    assert drawing.options["tooltip"]["trigger"] == "item"
    assert drawing.summary.startswith("Scatter plot: T.")


def test_points_beside_a_line_have_colors_of_their_own() -> None:
    drawing = figures.chart(curve(line(), line("b", low=(0.0, 1.0, 2.0), high=(2.0, 3.0, 4.0), role="points")))
    drawn = series(drawing)
    assert (drawn["line-0"]["type"], drawn["line-1"]["type"]) == ("line", "scatter")
    assert drawn["line-1"]["itemStyle"]["color"] == "$series-1"
    assert drawn["line-1"]["markLine"]["data"][0] == [{"coord": [0.0, 0.0]}, {"coord": [0.0, 2.0]}]
    assert drawing.options["tooltip"]["trigger"] == "axis"


# -- tables --------------------------------------------------------------------------------------------------------


def test_tables_tell_numbers_from_text() -> None:
    table = Table(
        title="T", columns=("a", "b", "c"), units=("", "%", ""), rows=(("x", 0.5, 1), ("y", None, 2.25), (None, 1.0, 3))
    )
    sheet = figures.sheet(table)
    assert sheet.numeric == (False, True, True)
    assert sheet.rows == (("x", "50.0%", "1"), ("y", "\N{EN DASH}", "2.25"), ("\N{EN DASH}", "100%", "3"))


def test_ids_are_not_quantities() -> None:
    sheet = figures.sheet(Table(title="T", columns=("Sample", "samples"), rows=((12345, 12345),)))
    assert sheet.rows == (("12345", "12,345"),)
    assert sheet.numeric == (False, True)


def test_a_table_without_rows() -> None:
    assert figures.sheet(Table(title="T", columns=("a",), rows=())).rows == ()
