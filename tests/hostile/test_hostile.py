"""Every hostile or broken file is refused in one sentence, quickly, in little memory; nothing of it runs or is written.

The table is `CASES` in `cases.py`: a new reader adds lines there.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SECONDS = 2.0  # of processor time: what a busy machine adds is not the reader's
BYTES = 256 * 2**20


def table() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hostile_cases", Path(__file__).with_name("cases.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


CASES = table().CASES


def listing(root: Path) -> dict[str, tuple[int, int, int]]:
    """What lies below a folder; links are not followed."""
    found = {}
    for folder, folders, files in os.walk(os.fsencode(root)):
        for name in (*folders, *files):
            path = os.path.join(folder, name)  # noqa: PTH118 - bytes, for names that are no text
            status = os.lstat(path)
            found[repr(path)] = (status.st_mode, status.st_size, status.st_mtime_ns)
    return found


def check_cost(answer: dict[str, Any]) -> None:
    assert answer["seconds"] < SECONDS
    assert answer["growth"] < BYTES
    assert answer["environment"], "the environment or the working folder was changed"


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_a_hostile_file_is_refused(case: Any, ask: Any, tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "in").mkdir(parents=True)
    path = case.make(root / "in")
    before = listing(root)
    place = (case.reader, path, root / "in", tmp_path / "out")

    answer = ask("library", *place)
    assert answer["outcome"] == ("opened" if case.opens else "refused"), answer["text"]
    check_cost(answer)
    if not case.opens:
        assert case.says in answer["text"]
        assert answer["length"] < 1000, "an error is one sentence"

    shown = ask("cli", *place)
    assert shown["code"] in ((0, 2) if case.opens else (2,)), shown["text"]
    assert "Traceback" not in shown["text"]
    check_cost(shown)
    if not case.opens:
        assert len(shown["text"].splitlines()) == 1
        assert shown["text"].rstrip("\n").isprintable(), "a terminal would obey what a file says"
        assert not (tmp_path / "out").exists()

    assert listing(root) == before, "something was written or executed"


def test_the_table_covers_every_reader() -> None:
    counts = Counter(case.reader for case in CASES)
    assert len(CASES) >= 60
    assert (
        min(
            counts[reader]
            for reader in ("data", "model", "recipe", "report", "requirements", "run", "training", "weights")
        )
        >= 3
    )
    assert len({case.id for case in CASES}) == len(CASES)
