"""Numbers as people say them: rounded to what their uncertainty allows."""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch import Tensor

from pellucid.core import Number, number


def percent(share: float) -> str:
    """Return a share in [0, 1] as a percentage: 91.3%, and 0.3% or 100% at the ends."""
    if not math.isfinite(share):
        return "an undefined share"
    text = f"{100 * share:.1f}"
    return f"{text.removesuffix('.0')}%"


def in_percent(share: float | Tensor) -> Number:
    """Return a share as the number of percent that a measure of unit "%" holds, without the dust of binary floats."""
    return number(round(100 * float(share), 9))


def brief(value: float | None) -> str:
    """Return a number with three significant digits, without exponents where they do not help."""
    if value is None or not math.isfinite(value):
        return "undefined"
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:.2e}"


def count(number: int, noun: str, plural: str = "") -> str:
    """Return "1 sample", "5 samples", "1,200 samples"."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def shortened(text: str, most: int = 160) -> str:
    """Return a text on one line, with at most so many letters."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 3]}..."


def listed(words: Iterable[str], *, most: int = 5) -> str:
    """Return "a", "a and b", "a, b and c"; beyond `most` words "a, b and 7 more"."""
    words = list(words)
    if len(words) > most:
        words = [*words[:most], f"{len(words) - most} more"]
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"
