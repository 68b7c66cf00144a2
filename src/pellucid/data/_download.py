"""Getting data sets, only when asked: from their official home, into the user's cache, checked by SHA-256."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from pellucid.core import DataError, DataMissing, OnStep, silent

from ._fashion_mnist import COUNTS, HOMES, PACKED, find, read
from ._places import cache

DOWNLOADS = ("fashion-mnist",)


def download(name: str, *, homes: Sequence[str] = HOMES, on_step: OnStep = silent) -> Path:
    """Fetch a data set into the user's cache folder and return the folder; files already there are kept.

    Args:
        name: "fashion-mnist".
        homes: addresses of folders that hold the files, tried in turn.
        on_step: told the number of files that are there.

    Raises:
        DataError: no such data set, no home answers, or a file's digest is wrong.
    """
    _check_name(name)
    folder = cache() / name
    for done, (file, sha256) in enumerate(PACKED.items()):
        on_step(done, len(PACKED))
        _fetch(file, sha256, folder, homes)
    on_step(len(PACKED), len(PACKED))
    for split in COUNTS:
        read(folder, split)
    return folder


def verify(name: str) -> Path:
    """Check the files of a data set against their digests and return the folder they lie in.

    Raises:
        DataMissing: the data set is not on this machine.
        DataError: no such data set, or a file is damaged.
    """
    _check_name(name)
    folder = find()
    if folder is None:
        raise DataMissing(f"{name} is not on this machine; get it with `pellucid data get {name}`")
    for split in COUNTS:
        read(folder, split)
    return folder


def _check_name(name: str) -> None:
    if name not in DOWNLOADS:
        raise DataError(f"there is no data set {name!r} to get or verify; the names are {', '.join(DOWNLOADS)}")


def _fetch(file: str, sha256: str, folder: Path, homes: Sequence[str]) -> None:
    import pooch

    pooch.get_logger().setLevel(logging.ERROR)  # the library prints each address otherwise
    reason = "no address was given"
    for home in homes:
        try:
            pooch.retrieve(home + file, known_hash=f"sha256:{sha256}", fname=file, path=folder)
            return
        except (OSError, ValueError) as error:  # no connection; a wrong digest
            reason = f"{home}: {str(error).splitlines()[0]}"
    raise DataError(
        f"{file} could not be downloaded ({reason}); get it by other means and name its folder in PELLUCID_DATA"
    )
