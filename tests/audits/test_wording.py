"""Numbers in words."""

import math

import pytest

from pellucid.audits._wording import brief, count, in_percent, listed, percent


@pytest.mark.parametrize(
    ("share", "text"), [(0.913, "91.3%"), (1.0, "100%"), (0.0, "0%"), (0.0004, "0%"), (0.5, "50%")]
)
def test_percent(share, text):
    assert percent(share) == text


def test_percent_of_nothing_is_said_in_words():
    assert percent(math.nan) == "an undefined share"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.03137, "0.0314"),
        (12.0, "12"),
        (123456.0, "1.23e+05"),
        (1234.0, "1,234"),
        (1e-5, "1.00e-05"),
        (None, "undefined"),
    ],
)
def test_brief(value, text):
    assert brief(value) == text


def test_percent_as_a_number_has_no_float_dust():
    assert in_percent(0.926) == 92.6
    assert in_percent(math.nan) is None


def test_counts_and_lists():
    assert count(1, "sample") == "1 sample"
    assert count(1200, "class", "classes") == "1,200 classes"
    assert listed([]) == ""
    assert listed(["a"]) == "a"
    assert listed(["a", "b"]) == "a and b"
    assert listed("abcd", most=2) == "a, b and 2 more"
