"""Numbers as people read them."""

from __future__ import annotations

from collections.abc import Sequence

from pellucid.core import Measure, Number

MINUS = "\N{MINUS SIGN}"
DASH = "\N{EN DASH}"
TIMES = "\N{MULTIPLICATION SIGN}"
MISSING = DASH

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def plain(value: Number, *, digits: int = 3) -> str:
    """Return a number with `digits` significant digits, thousands separated, a true minus sign; a dash for None."""
    if value is None:
        return MISSING
    size = abs(value)
    if value == int(value) and size < 1e15:
        text = f"{value:,.0f}"
    elif size >= 1e7 or size < 1e-4:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        text = f"{_trimmed(mantissa)} {TIMES} 10{str(int(exponent)).translate(_SUPERSCRIPT)}"
    else:
        whole = len(str(int(size))) if size >= 1 else 0
        leading = 0 if size >= 0.1 else (1 if size >= 0.01 else 2 if size >= 0.001 else 3)
        text = f"{value:,.{max(0, digits - whole + leading)}f}"
        text = _trimmed(text)
    return text.replace("-", MINUS)


def _trimmed(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text


def with_unit(value: Number, unit: str) -> str:
    """Return a number with its unit; "%" means that the number already is a percentage."""
    if value is None:
        return MISSING
    if unit == "%":
        return f"{_percent(value)}%"
    return f"{plain(value)} {unit}" if unit else plain(value)


def fraction(value: Number) -> str:
    """Return a fraction 0..1 as a percentage."""
    return MISSING if value is None else f"{_percent(100 * value)}%"


def _percent(value: float) -> str:
    digits = 1 if abs(value) >= 0.1 or value == 0 else 2
    text = f"{value:.{digits}f}"
    return (text.removesuffix(".0") if value in (0, 100) else text).replace("-", MINUS)


def shown(value: Number, unit: str) -> str:
    """Return a number of a curve, table or heatmap, where "%" marks fractions."""
    return fraction(value) if unit == "%" else with_unit(value, unit)


def interval(measure: Measure) -> str:
    """Return the ends of a measure's interval, or nothing where it has none."""
    if measure.low is None or measure.high is None:
        return ""
    if measure.unit == "%":
        return f"{_percent(measure.low)}{DASH}{_percent(measure.high)}%"
    return span(measure.low, measure.high)


def span(low: Number, high: Number, unit: str = "") -> str:
    """Return the two ends of an interval; "to" instead of a dash where a minus sign stands beside it."""
    if low is None or high is None:
        return ""
    joint = " to " if low < 0 or high < 0 else DASH
    if unit == "%":
        return f"{_percent(low)}{joint}{_percent(high)}%"
    return f"{plain(low)}{joint}{plain(high)}{' ' + unit if unit else ''}"


def signed(value: Number, unit: str = "") -> str:
    """Return a difference with its sign; differences of percentages are in points."""
    if value is None:
        return MISSING
    sign = "+" if value > 0 else ""
    return f"{sign}{_percent(value)} points" if unit == "%" else f"{sign}{with_unit(value, unit)}"


def signed_fixed(value: float, places: int) -> str:
    """Return a number with its sign and so many decimals; very large and very small ones in powers of ten."""
    if abs(value) >= 1e6 or 0 < abs(value) < 10.0**-places / 2:
        return f"{'+' if value > 0 else ''}{plain(value, digits=2)}"
    return f"{value:+,.{places}f}".replace("-", MINUS) if value else "0"


def count(value: int) -> str:
    """Return a whole number with its thousands separated."""
    return f"{value:,}"


def memory(size: int) -> str:
    """Return a number of bytes in MiB or GiB."""
    if not size:
        return MISSING
    return f"{size / 2**30:,.1f} GiB" if size >= 2**30 else f"{max(1, round(size / 2**20)):,} MiB"


def decimals(column: Sequence[str | int | float | None]) -> int:
    """Return how many decimals the floats of a table column need, so that they line up."""
    sizes = sorted(abs(v) for v in column if isinstance(v, float) and v)
    if not sizes or all(size == int(size) for size in sizes):
        return 0
    typical = sizes[len(sizes) // 2]
    return next((d for d, bound in enumerate((100, 10, 1, 0.1, 0.01)) if typical >= bound), 5)


def cell(value: str | int | float | None, unit: str, places: int) -> str:
    """Return one cell of a table."""
    if value is None:
        return MISSING
    if isinstance(value, str):
        return value
    if unit == "%":
        return fraction(float(value))
    if isinstance(value, int):
        text = f"{value:,}"
    elif value and (abs(value) >= 1e9 or abs(value) < 10.0 ** -(places + 2)):
        text = plain(value)
    else:
        text = f"{value:,.{places}f}"
        text = text.removeprefix("-") if not text.strip("-0.") else text  # no minus before a zero
    return f"{text} {unit}".replace("-", MINUS) if unit else text.replace("-", MINUS)


def title(probe: str) -> str:
    """Return a probe's name as a heading."""
    return probe.replace("-", " ").replace("_", " ").capitalize()
