"""How results show themselves: small, escaped, offline, the same in both forms."""

from __future__ import annotations

import re
from dataclasses import dataclass
from html.parser import HTMLParser

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pellucid.core import MOST_ROWS, Estimate, Panel, Spark, plain, showing

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</div></table><b>",
    "&lt;b&gt;",
    "javascript:alert(1)",
    "\x00\x1b[31mred\u2028\u202e",
    "شيرت",
)
VOID = {"br", "img", "hr", "meta", "link", "input", "circle"}


class Reader(HTMLParser):
    """Reads a page into its elements, attributes and text; fails where an element is not closed."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.attributes, self.seen = [], set(), set(), []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attributes}
        assert not any("url(" in (value or "") for _, value in attributes)
        self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.seen.append(data)


HARMLESS = {"div", "table", "thead", "tbody", "tr", "th", "td", "b", "span", "bdi", "svg", "path", "circle"}
TEXT = st.one_of(st.text(max_size=40), st.sampled_from(HOSTILE))
CELLS = st.one_of(
    TEXT, st.floats(), st.integers(), st.none(), st.builds(Spark, st.tuples(st.lists(st.none() | st.floats(-9, 9))))
)


@given(
    TEXT,
    TEXT,
    st.lists(st.tuples(TEXT, TEXT | st.floats()), max_size=3),
    TEXT,
    st.lists(st.tuples(CELLS, CELLS), max_size=4),
    st.lists(TEXT, max_size=3),
)
def test_nothing_in_a_panel_is_markup(title, lead, facts, column, rows, notes):
    panel = Panel(title, lead, tuple(facts), (column, "b"), tuple(rows), ("good", "bad"), tuple(notes))
    page = Reader(panel.html())
    assert page.tags <= HARMLESS
    assert not any(name.startswith("on") or name in ("href", "src") for name in page.attributes)
    text = panel.text()
    assert all(line.isprintable() for line in text.split("\n"))


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_shown_as_they_are(name):
    page = Reader(Panel(name, rows=((name,),), columns=(name,)).html())
    flat = "".join(c if c.isprintable() else " " for c in name)
    assert page.seen.count(flat) == 3


def test_a_panel_needs_nothing_beside_it():
    page = Panel("t", "l", (("a", 1),), ("x", "y"), ((1.0, Spark(((1.0, 2.0),))),), ("bad",), ("n",)).html()
    assert not re.search(r"https?:|<script|<style|<link|@import|url\(", page)


def test_what_is_too_much_is_counted():
    rows = tuple(
        (f"class {k} " + "x" * 5_000, k, Spark((tuple(float(i % 7) for i in range(5_000)),) * 9)) for k in range(5_000)
    )
    panel = Panel("t" * 5_000, "l" * 5_000, columns=("name", "n", "curve"), rows=rows, notes=("n" * 5_000,) * 100)
    assert len(panel.html().encode()) < 200_000
    assert f"{5_000 - MOST_ROWS:,} more rows not shown." in panel.html()
    assert f"{5_000 - MOST_ROWS:,} more rows not shown." in panel.text()
    assert len(panel.text()) < 40_000


def test_curves_have_gaps_bands_and_single_points():
    drawn = Panel(
        "t", columns=("c",), rows=((Spark(((1.0, None, 2.0, 3.0),), (0.5, 1.0, 1.5, 2.0), (2.0, 3.0, 3.0, 4.0)),),)
    ).html()
    assert drawn.count("<circle") == 1
    assert drawn.count("<path") == 2
    assert "fill-opacity" in drawn
    flat = Panel("t", columns=("c",), rows=((Spark(((2.0, 2.0),)),),)).html()
    assert "nan" not in flat
    assert "<svg" not in Panel("t", columns=("c",), rows=((Spark(((None, None),)),),)).html()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1, "1"),
        (1234567, "1,234,567"),
        (0.25, "0.25"),
        (1 / 3, "0.3333"),
        (12345.6, "12,346"),
        (None, "\N{EN DASH}"),
        (float("nan"), "\N{EN DASH}"),
        ("x", "x"),
        (True, "True"),
        (1e-9, "1e-09"),
    ],
)
def test_numbers_are_short(value, text):
    assert plain(value) == text


def test_text_has_the_table_without_its_curves():
    panel = Panel(
        "T",
        "L.",
        (("a", 1000),),
        ("name", "n", "c"),
        (("x", 0.5, Spark(((1.0,),))), ("long", None, Spark(()))),
        (),
        ("N.",),
    )
    assert panel.text() == "T\nL.\n  a: 1,000\n  name  n\n  x     0.5\n  long  \N{EN DASH}\nN."


def test_a_result_shows_itself():
    @showing(lambda point: Panel("A point", facts=(("x", point.x),)))
    @dataclass(frozen=True)
    class Point:
        x: float

    assert repr(Point(0.5)) == str(Point(0.5)) == "A point\n  x: 0.5"
    assert "A point" in Point(0.5)._repr_html_()


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0,), (40,)])
def test_estimates_show_values_with_their_errors(shape):
    estimate = Estimate(torch.full(shape, 0.5), torch.full(shape, 0.25), 7, floor=torch.zeros(shape))
    text = str(estimate)
    assert text.startswith("Estimate")
    assert "evaluations: 7" in text
    assert ("0.5" in text) == (0 not in shape)
    assert "0.25" in estimate._repr_html_() or 0 in shape
    if shape == (2, 3):
        assert "  1, 2   0.5    0.25" in text
    if shape == (40,):
        assert "The first 24 of 40 values." in text
