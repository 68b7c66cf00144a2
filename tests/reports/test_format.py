from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pellucid.core import Measure
from pellucid.reports import _format as f

MINUS, DASH, TIMES = "\N{MINUS SIGN}", "\N{EN DASH}", "\N{MULTIPLICATION SIGN}"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, DASH),
        (0.0, "0"),
        (1.0, "1"),
        (-2.5, f"{MINUS}2.5"),
        (0.213, "0.213"),
        (0.0277, "0.0277"),
        (0.00331, "0.00331"),
        (12.345, "12.3"),
        (123.45, "123"),
        (1234.5, "1,234"),
        (400000.0, "400,000"),
        (0.1 + 0.2, "0.3"),
        (1.234e-7, f"1.23 {TIMES} 10⁻⁷"),
        (2.5e20, f"2.5 {TIMES} 10²⁰"),
    ],
)
def test_plain_numbers(value: float | None, text: str) -> None:
    assert f.plain(value) == text


@given(st.floats(min_value=-1e300, max_value=1e300))
def test_plain_keeps_the_number(value: float) -> None:
    text = f.plain(value).replace(MINUS, "-").replace(",", "")
    if TIMES in text:
        mantissa, _, power = text.partition(f" {TIMES} 10")
        text = f"{mantissa}e{power.translate(str.maketrans('⁻⁰¹²³⁴⁵⁶⁷⁸⁹', '-0123456789'))}"
    assert math.isclose(float(text), value, rel_tol=0.0051, abs_tol=0.0)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(91.4, "%", "91.4%"), (100.0, "%", "100%"), (0.0, "%", "0%"), (0.03, "%", "0.03%"), (2.5, "nats", "2.5 nats")],
)
def test_units(value: float, unit: str, text: str) -> None:
    assert f.with_unit(value, unit) == text


def test_fractions_are_shown_as_percentages() -> None:
    assert f.fraction(0.914) == "91.4%"
    assert f.shown(0.914, "%") == "91.4%"
    assert f.shown(0.914, "s") == "0.914 s"
    assert f.fraction(None) == DASH


def test_intervals() -> None:
    measure = Measure(name="m", label="M", value=91.4, low=88.6, high=93.6, unit="%")
    assert f.interval(measure) == f"88.6{DASH}93.6%"
    assert f.interval(Measure(name="m", label="M", value=1.0, low=-1.0, high=2.0)) == f"{MINUS}1 to 2"
    assert f.interval(Measure(name="m", label="M", value=1.0)) == ""
    assert f.span(0.1, 0.2, "s") == f"0.1{DASH}0.2 s"


def test_differences_carry_their_sign() -> None:
    assert f.signed(53.6, "%") == "+53.6 points"
    assert f.signed(-0.2) == f"{MINUS}0.2"
    assert f.signed(None, "%") == DASH


def test_table_cells_line_up() -> None:
    column = [0.5, 2.31, None, 12.0]
    places = f.decimals(column)
    assert [f.cell(v, "", places) for v in column] == ["0.50", "2.31", DASH, "12.00"]
    assert f.decimals([1.0, 2.0]) == 0
    assert f.decimals(["a", 3, None]) == 0
    assert f.cell(-1234, "", 0) == f"{MINUS}1,234"
    assert f.cell("text", "", 0) == "text"
    assert f.cell(0.5, "%", 3) == "50.0%"
    assert f.cell(1.5, "ms", 1) == "1.5 ms"
    assert f.cell(1e-9, "", 2) == f"1 {TIMES} 10⁻⁹"


def test_words() -> None:
    assert f.title("feature-diversity") == "Feature diversity"
    assert f.memory(0) == DASH
    assert f.memory(1) == "1 MiB"
    assert f.memory(3 * 2**30) == "3.0 GiB"
    assert f.count(400_000) == "400,000"
