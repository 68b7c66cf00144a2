"""The errors Pellucid raises on purpose; the command line turns each into one sentence and exit code 2."""

from __future__ import annotations


class PellucidError(Exception):
    """Something the caller can put right; its text says what was wrong, where, and what to do."""


class ModelError(PellucidError):
    """The model cannot be audited: not loadable, wrong output, NaN, or not deterministic."""


class DataError(PellucidError):
    """A data file or folder cannot be read, or does not hold what it must."""


class DataMissing(DataError):
    """A named data set is not on this machine; the text names the command that obtains it."""


class RecipeError(PellucidError):
    """A recipe has an unknown key, an unknown kind or a value out of range."""


class BudgetError(PellucidError):
    """The evaluation budget is too small; the text gives the least that works."""


class RunError(PellucidError):
    """A run folder is locked, foreign, unreadable or does not fit what was asked."""


class NotConverged(PellucidError):
    """An iteration did not reach its tolerance."""


class MissingExtra(PellucidError):
    """An optional dependency is absent; the text is the install line."""
