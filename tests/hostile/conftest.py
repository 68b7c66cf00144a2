"""The process that opens hostile files, shared by all cases of one test process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

NET = """
from torch import nn

def make():
    return nn.Sequential(nn.Flatten(), nn.Linear(144, 4))
"""

RECIPE = """
name = "small"
epochs = 2
batch_size = 8

[data]
kind = "synthetic-images"
n = 16
size = 28

[model]
kind = "small-cnn"

[objective]
kind = "standard"
"""

Ask = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    """Send one request to the worker: `ask("library" | "cli", reader, path, cwd, out)`."""
    pytest.importorskip("resource", reason="memory is measured by fork and getrusage")
    folder = tmp_path_factory.mktemp("net")
    (folder / "net.py").write_text(NET, encoding="utf-8")
    (folder / "small.toml").write_text(RECIPE, encoding="utf-8")
    worker = subprocess.Popen(
        [sys.executable, "-W", "error", str(Path(__file__).with_name("worker.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert worker.stdin is not None
    assert worker.stdout is not None

    def request(how: str, reader: str, path: Path, cwd: Path, out: Path) -> dict[str, Any]:
        assert worker.stdin is not None
        assert worker.stdout is not None
        fields = {"how": how, "reader": reader, "path": path, "cwd": cwd, "out": out, "net": folder / "net.py"}
        worker.stdin.write(json.dumps({key: str(value) for key, value in fields.items()}) + "\n")
        worker.stdin.flush()
        answer: dict[str, Any] = json.loads(worker.stdout.readline())
        return answer

    yield request
    worker.stdin.close()
    worker.stdout.close()
    worker.wait(30)
