"""`pellucid report RUN`: draw a report again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from ._console import say


def report(run: Annotated[Path, tyro.conf.Positional], /) -> int:
    """Draw the report of a finished audit or comparison again, without computing, or that of a recorded training.

    Reads report.json and arrays.safetensors in the folder and writes index.html anew. A training that was recorded (a
    [record] table in its recipe) has a report too, also while it runs: it is made from the record.

    Args:
        run: Folder of an audit, a comparison or a training, or a record of one (.jsonl).
    """
    from pellucid.core import write_atomic
    from pellucid.reports import load, write_html

    from ._training_report import is_record, is_training, training_report

    if is_training(run) or is_record(run):
        made = training_report(run)
        say(f"[{made.findings[0].level}] {made.findings[0].answer}")
        page = made.save(run if run.is_dir() else run.with_suffix(""))
        say(f"report: {page}")
        return 0
    folder = run if run.is_dir() else run.parent
    page = folder / "index.html"
    write_atomic(page, write_html(load(run)))
    say(f"report: {page}")
    return 0
