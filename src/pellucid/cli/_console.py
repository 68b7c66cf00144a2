"""What commands share to talk to a terminal: lines, aligned tables, progress bars on stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, runtime_checkable


@runtime_checkable
class Advance(Protocol):
    """Moves the bar called `task` to `done` of `total`; a task not seen before gets its own bar."""

    def __call__(self, task: str, done: float, total: float) -> None: ...


def say(text: str = "") -> None:
    """Write one line to stdout at once, also into a pipe; a reader that has gone away (`| head`) stops no work."""
    if sys.stdout is None:  # closed by the shell
        return
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123 - stays open until the process ends


def warn(text: str) -> None:
    """Write one line to stderr, so that it is seen when stdout goes to a file."""
    sys.stderr.write(f"pellucid: {text}\n")


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return rows as text in aligned columns; columns of numbers only are aligned right.

    Plain text on purpose: the same in a terminal, a file and a pipe, and no cell is cut.
    """
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(len(line[k]) for line in [list(header), *cells]) for k in range(len(header))]
    numeric = [bool(rows) and all(type(row[k]) in (int, float) for row in rows) for k in range(len(header))]
    lines = [list(header), ["-" * width for width in widths], *cells]
    return "\n".join(
        "  ".join(
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in lines
    )


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@contextmanager
def bars() -> Iterator[Advance]:
    """Show progress bars on stderr inside the block; without a terminal, one line per finished task."""
    if not sys.stderr.isatty():
        finished: set[str] = set()

        def line(task: str, done: float, total: float) -> None:
            if done >= total and task not in finished:
                finished.add(task)
                sys.stderr.write(f"  {task}: done\n")

        yield line
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        tasks: dict[str, TaskID] = {}

        def move(task: str, done: float, total: float) -> None:
            if task not in tasks:
                tasks[task] = progress.add_task(task, total=total)
            progress.update(tasks[task], completed=done, total=total)

        yield move
