"""Where data sets are looked for, first match first."""

from __future__ import annotations

import os
from pathlib import Path

SYSTEM = Path("/usr/share/datasets")
"""Where Debian's `dataset-…` packages put their files."""


def cache() -> Path:
    """Return the folder where downloads go; it need not exist yet.

    `$PELLUCID_DATA` if it is set, else `pellucid/data` in the folder that the system keeps for caches: `~/.cache` or
    `$XDG_CACHE_HOME` on Linux, `~/Library/Caches` on macOS, `%LOCALAPPDATA%` on Windows.
    """
    chosen = os.environ.get("PELLUCID_DATA", "")
    return Path(chosen) if chosen else _usual()


def places(name: str) -> list[Path]:
    """Return the folders that may hold the data set `name`: `$PELLUCID_DATA`, the user's cache, the system's."""
    chosen = os.environ.get("PELLUCID_DATA", "")
    first = [Path(chosen) / name, Path(chosen)] if chosen else []
    return [*first, _usual() / name, SYSTEM / name]


def _usual() -> Path:
    import pooch

    return Path(pooch.os_cache("pellucid")) / "data"
