"""Where a command writes: a folder that can be written, found out before any work is done."""

from __future__ import annotations

import errno
import re
import tempfile
from contextlib import suppress
from pathlib import Path

from ._console import say

RUNS = Path("runs")


def output_folder(out: Path | None, name: str, *, kind: str, resume: bool = False) -> Path:
    """Return the folder to write to, after making sure that it can be made and written.

    Without `out` it is `runs/NAME`, or `runs/NAME-2`, `runs/NAME-3`, ... where earlier runs hold the others; with
    `resume` the latest of them.

    Args:
        out: the folder that the user names.
        name: what to call it otherwise.
        kind: what makes it, such as "audit".
        resume: continue in a folder that holds an earlier run.

    Raises:
        RunError: the folder holds something else, is in use, or cannot be written.
    """
    from pellucid.core import RunFolder

    folder = _numbered(name, latest=resume) if out is None else out
    _check_writable(folder)
    if folder.is_dir() and any(folder.iterdir()):
        RunFolder.create(folder, kind=kind, resume=resume)  # says what is wrong, or takes up the run
    return folder


def say_if_new(folder: Path, what: str) -> None:
    """Say that `--resume` finds nothing to resume: the folder may be mistyped."""
    if not (folder / "report.json").is_file() and not (folder / "parts").is_dir():
        say(f"nothing to resume in {folder}: {what} starts")


def _numbered(name: str, *, latest: bool) -> Path:
    """Return the first name that is free, or the latest that is taken."""
    taken = {1} if _taken(RUNS / name) else set()
    if RUNS.is_dir():
        pattern = re.compile(re.escape(name) + r"-([1-9]\d*)")
        numbers = {int(match[1]) for path in RUNS.iterdir() if (match := pattern.fullmatch(path.name)) and _taken(path)}
        taken |= {number for number in numbers if number > 1}
    number = max(taken, default=1) if latest else next(k for k in range(1, len(taken) + 2) if k not in taken)
    return RUNS / (name if number == 1 else f"{name}-{number}")


def _taken(path: Path) -> bool:
    return path.exists() and not (path.is_dir() and not any(path.iterdir()))


def _check_writable(folder: Path) -> None:
    """Try it: make what is missing, write a file, and leave everything as it was."""
    from pellucid.core import RunError

    made: list[Path] = []
    try:
        if folder.exists() and not folder.is_dir():
            raise RunError(f"{folder} is a file, not a folder; choose another output folder")
        for part in reversed([folder, *folder.parents]):
            if not part.exists():
                part.mkdir()
                made.append(part)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        why = (error.strerror or str(error)).lower()
        raise RunError(f"the output folder {folder} cannot be written ({why}); choose another with --out") from error
    finally:
        for part in reversed(made):
            with suppress(OSError):
                part.rmdir()
