"""What is known about a named data set, and how its files are found, read and checked."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pellucid.core import DataError, DataMissing, first_line

from ._homes import Home
from ._places import places


@dataclass(frozen=True, eq=False)  # each is one of a kind, and a key of what is kept in memory
class Facts:
    """What is known about a named data set.

    Args:
        name: what the user types.
        summary: what it is, in a few words.
        license: under which terms its authors give it.
        url: where its authors describe it.
        classes: names, in the order of the labels.
        counts: samples per split.
        digests: SHA-256 of the decoded files, or of the arrays where there are no files.
        sizes: bytes of the decoded files.
        homes: where `pellucid data get` gets it, first one first; none where it comes with another package.
        package: the Python package it comes with, if any.
    """

    name: str
    summary: str
    license: str
    url: str
    classes: tuple[str, ...]
    counts: Mapping[str, int]
    digests: Mapping[str, str]
    sizes: Mapping[str, int] = field(default_factory=dict)
    homes: tuple[Home, ...] = ()
    package: str = ""

    @property
    def missing(self) -> DataMissing:
        """The error that says how to get the data."""
        return DataMissing(
            f"{self.name} is not on this machine; get it with `pellucid data get {self.name}` "
            f"({self.homes[0].total / 1e6:.0f} MB), or name the folder that holds it in the environment variable "
            "PELLUCID_DATA"
        )

    def find(self) -> Path | None:
        """Return the first folder that holds all files, packed or not; None when there is none."""
        return next((place for place in places(self.name) if self.holds(place)), None)

    def holds(self, folder: Path) -> bool:
        """Whether all files lie in a folder; their content is not looked at."""
        return all(_file(folder, name) for name in self.digests)

    def check_split(self, split: str) -> None:
        """Refuse a split that the data set does not have."""
        if split not in self.counts:
            raise DataError(f"{self.name} has the splits {' and '.join(self.counts)}, not {split!r}")

    def state(self, folder: Path, names: tuple[str, ...]) -> tuple[tuple[str, int, int], ...]:
        """Return path, size and time of some files, the key under which their content may be kept."""
        found = [self._path(folder, name) for name in names]
        return tuple((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in found)

    def read(self, folder: Path, name: str) -> bytes:
        """Return the content of one file, unpacked and checked against its digest."""
        path = self._path(folder, name)
        again = f"remove it and run `pellucid data get {self.name}`"
        try:
            with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
                raw = file.read(self.sizes[name] + 1)
        except (OSError, EOFError, ValueError, zlib.error) as error:
            raise DataError(f"{path} cannot be read ({first_line(error)}); {again}") from error
        if hashlib.sha256(raw).hexdigest() != self.digests[name]:
            raise DataError(f"{path} is not the {name} of {self.name}, or it is damaged; {again}")
        return raw

    def _path(self, folder: Path, name: str) -> Path:
        path = _file(folder, name)
        if path is None:
            raise DataMissing(f"{folder / name} is missing; get it with `pellucid data get {self.name}`")
        return path


def _file(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / f"{name}.gz", folder / name) if path.is_file()), None)
