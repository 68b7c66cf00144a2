"""Errors in one line, and the name the user may have meant."""

import pytest

from pellucid import core
from pellucid.core import PellucidError, described, first_line, nearest


@pytest.mark.parametrize(
    ("error", "line", "full"),
    [
        (ValueError("bad\nworse"), "bad", "ValueError: bad"),
        (ValueError(), "ValueError", "ValueError"),
        (KeyError("x"), "'x'", "KeyError: 'x'"),
        (RuntimeError("\n  indented"), "indented", "RuntimeError: indented"),
    ],
)
def test_an_error_fits_in_one_line(error, line, full):
    assert first_line(error) == line
    assert described(error) == full


def test_the_nearest_name_is_offered_if_there_is_one():
    assert nearest("acuracy", ["accuracy", "calibration"]) == "did you mean accuracy? "
    assert nearest("zzz", ["accuracy"]) == ""
    assert nearest("a", iter(())) == ""


def test_everything_the_user_can_put_right_is_a_pellucid_error():
    errors = [value for name, value in vars(core).items() if isinstance(value, type) and issubclass(value, Exception)]
    assert errors
    assert all(issubclass(error, PellucidError) for error in errors)


def test_an_error_is_one_printable_line_of_bounded_length_whatever_it_quotes():
    text = str(PellucidError("a\n\x1b[2Jb \udcff é" + "x" * 5000 + "end"))
    assert text.startswith("a\\n\\x1b[2Jb \\udcff éxxx")
    assert text.endswith("end")
    assert text.isprintable()
    assert len(text) < 1000
    assert str(PellucidError("plain")) == "plain"
