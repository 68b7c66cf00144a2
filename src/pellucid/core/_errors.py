"""The errors Pellucid raises on purpose; the command line turns each into one sentence and exit code 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_HEAD, _TAIL = 600, 300  # characters of an error that are kept when what it quotes is endless


class PellucidError(Exception):
    """Something the caller can put right; its text says what was wrong, where, and what to do.

    The text is one printable line of at most 1,000 characters, whatever a file's names or a path put into it: nothing
    that a terminal would obey, and no name that fills the screen.
    """

    def __str__(self) -> str:
        text = super().__str__()
        if not text.isprintable():
            text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
        return text if len(text) <= _HEAD + _TAIL else f"{text[:_HEAD]} ... {text[-_TAIL:]}"


class ModelError(PellucidError):
    """The model cannot be audited: not loadable, wrong output, NaN, or not deterministic."""


class DataError(PellucidError):
    """A data file or folder cannot be read, or does not hold what it must."""


class DataMissing(DataError):
    """A named data set is not on this machine; the text names the command that obtains it."""


class RecipeError(PellucidError):
    """A recipe has an unknown key, an unknown kind or a value out of range."""


class RequirementError(PellucidError):
    """A requirement cannot be read, or names a measure that no probe measures."""


class BudgetError(PellucidError):
    """The evaluation budget is too small; the text gives the least that works."""


class RunError(PellucidError):
    """A run folder is locked, foreign, unreadable or does not fit what was asked."""


class NotConverged(PellucidError):
    """An iteration did not reach its tolerance."""


class MissingExtra(PellucidError):
    """An optional dependency is absent; the text is the install line."""


def first_line(error: BaseException) -> str:
    """Return what an error says in one line; its kind if it says nothing."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def described(error: BaseException) -> str:
    """Return an error's kind and what it says, in one line: for errors of code that is not ours."""
    kind, text = type(error).__name__, first_line(error)
    return kind if text == kind else f"{kind}: {text}"


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `did you mean X? ` for the known name most like `name`, or nothing if none is."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]}? " if near else ""
