"""`pellucid report RUN`: draw a report again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from ._console import say


def report(run: Annotated[Path, tyro.conf.Positional], /) -> int:
    """Draw the report of a finished audit or comparison again, without computing.

    Reads report.json and arrays.safetensors in the folder and writes index.html anew.

    Args:
        run: Folder of an audit or a comparison.
    """
    from pellucid.core import write_atomic
    from pellucid.reports import load, write_html

    folder = run if run.is_dir() else run.parent
    page = folder / "index.html"
    write_atomic(page, write_html(load(run)))
    say(f"report: {page}")
    return 0
