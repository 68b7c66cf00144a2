"""Write docs/reference/cli.md from the help that the commands print: `python docs/_generate_cli.py`."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path

from pellucid.cli import COMMANDS, main

PAGE = Path(__file__).parent / "reference" / "cli.md"

_HEAD = """\
# Command line

This page is what `pellucid COMMAND --help` prints; `python docs/_generate_cli.py` writes it again.

Every command ends with one of these codes:

| code | meaning |
|---|---|
| 0 | done |
| 1 | a requirement or a probe failed, or Pellucid has a bug (then with a traceback) |
| 2 | bad input: one sentence on stderr says what, and what to do |
| 3 | the machine failed: disk, memory, a missing program |
| 130 | interrupted; what was finished is kept as a valid partial result |
"""


def help_text(name: str) -> str:
    """Return what `pellucid NAME --help` prints on a terminal of 100 columns without colors."""
    before = {key: os.environ.get(key) for key in ("COLUMNS", "LINES", "NO_COLOR")}
    os.environ.update(COLUMNS="100", LINES="40", NO_COLOR="1")
    try:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            code = main([*name.split(), "--help"])
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value
    if code != 0:
        raise RuntimeError(f"pellucid {name} --help ended with exit code {code}")
    return "\n".join(line.rstrip() for line in out.getvalue().strip().splitlines())


def page() -> str:
    """Return the whole page."""
    sections = [f"## `pellucid{' ' * bool(name)}{name}`\n\n```text\n{help_text(name)}\n```\n" for name in ("", *COMMANDS)]
    return "\n".join([_HEAD, *sections])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
