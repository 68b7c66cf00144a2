"""Write what the docs take from the code: the command-line page and the report's schema. `python docs/_generate.py`."""

from __future__ import annotations

import contextlib
import io
import json
import os
from pathlib import Path

from pellucid.cli import COMMANDS, main

DOCS = Path(__file__).parent

_HEAD = """\
# Command line

This page is what `pellucid COMMAND --help` prints; `python docs/_generate.py` writes it again.

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


def command_page() -> str:
    """Return the page on the command line."""
    names = ["pellucid", *(f"pellucid {name}" for name in COMMANDS)]
    return "\n".join(
        [
            _HEAD,
            *(f"## `{name}`\n\n```text\n{help_text(name.removeprefix('pellucid').strip())}\n```\n" for name in names),
        ]
    )


def schema() -> str:
    """Return the JSON Schema of `report.json`."""
    from pellucid.reports import json_schema

    return json.dumps(json_schema(), indent=2, sort_keys=True) + "\n"


def files() -> dict[Path, str]:
    """Return every generated file's text by its path."""
    from pellucid.reports import SCHEMA_VERSION

    return {
        DOCS / "reference" / "cli.md": command_page(),
        DOCS / "_published" / "reference" / f"report-schema-{SCHEMA_VERSION}.json": schema(),
    }


if __name__ == "__main__":
    for path, text in files().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
