"""Where data sets are looked for, first match first."""

from __future__ import annotations

import os
from pathlib import Path

SYSTEM = Path("/usr/share/datasets")
"""Where Debian's `dataset-…` packages put their files."""


def cache() -> Path:
    """Return the user's own folder for data sets, where downloads go; it need not exist yet."""
    root = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(root) if root else Path.home() / ".cache") / "pellucid" / "data"


def places(name: str) -> list[Path]:
    """Return the folders that may hold the data set `name`: `$PELLUCID_DATA`, the user's cache, the system's."""
    chosen = os.environ.get("PELLUCID_DATA", "")
    first = [Path(chosen) / name, Path(chosen)] if chosen else []
    return [*first, cache() / name, SYSTEM / name]
