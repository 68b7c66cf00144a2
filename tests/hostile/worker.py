"""A process that opens one file per request in a fork of itself, and says what happened and what it cost.

Started by `conftest.py`. A request and an answer are one line of JSON each. Everything a reader may import is imported
before the first fork, so that the growth of memory is the reader's own.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import pellucid
from pellucid import audits, data, models, reports, training
from pellucid.cli import main
from pellucid.core import PellucidError, RunFolder

LIMIT = 20.0  # seconds of wall clock after which a reader hangs
UNITS = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss


def weights(path: str, net: str, out: str) -> object:
    return models.load(f"{net}:make@{path}")


def model(path: str, net: str, out: str) -> object:
    return models.load(path)


def dataset(path: str, net: str, out: str) -> object:
    return data.load(path)


def report(path: str, net: str, out: str) -> object:
    return reports.load(path)


def run(path: str, net: str, out: str) -> object:
    return RunFolder.open(path)


def recipe(path: str, net: str, out: str) -> object:
    return training.Recipe.load(path)


def requirements(path: str, net: str, out: str) -> object:
    read = audits.Requirements.load(path)
    audits.check_known(read.demands)
    return read


def training_folder(path: str, net: str, out: str) -> object:
    small = training.Recipe.load(Path(net).with_name("small.toml"))
    return training.train(small, path)


READERS: dict[str, Callable[[str, str, str], object]] = {
    "data": dataset,
    "model": model,
    "recipe": recipe,
    "report": report,
    "requirements": requirements,
    "run": run,
    "training": training_folder,
    "weights": weights,
}

COMMANDS: dict[str, Callable[[str, str, str], list[str]]] = {
    "data": lambda path, net, out: ["audit", "fashion-standard", path, "--plan"],
    "model": lambda path, net, out: ["audit", path, "synthetic-images", "--plan"],
    "recipe": lambda path, net, out: ["train", path, "--out", out],
    "report": lambda path, net, out: ["report", path],
    "requirements": lambda path, net, out: ["check", "fashion-standard", "fashion-mnist", "--requirements", path],
    "run": lambda path, net, out: ["report", path],
    "training": lambda path, net, out: ["train", str(Path(net).with_name("small.toml")), "--out", path],
    "weights": lambda path, net, out: ["audit", f"{net}:make@{path}", "synthetic-images", "--plan"],
}


def opened(request: dict[str, str]) -> dict[str, Any]:
    """Open a file by the library's own reader."""
    try:
        READERS[request["reader"]](request["path"], request["net"], request["out"])
    except PellucidError as error:
        return {"outcome": "refused", "error": type(error).__name__, "text": str(error)}
    except BaseException as error:
        import traceback

        return {"outcome": "broke", "text": "".join(traceback.format_exception(error))}
    return {"outcome": "opened"}


def commanded(request: dict[str, str]) -> dict[str, Any]:
    """Open a file by the command line."""
    said, complained = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(complained):
        code = main(COMMANDS[request["reader"]](request["path"], request["net"], request["out"]))
    return {"outcome": "exit", "code": code, "text": complained.getvalue()}


def child(request: dict[str, str], pipe: int) -> None:
    os.chdir(request["cwd"])
    before = dict(os.environ)
    start = resource.getrusage(resource.RUSAGE_SELF)
    answer = opened(request) if request["how"] == "library" else commanded(request)
    end = resource.getrusage(resource.RUSAGE_SELF)
    answer["seconds"] = end.ru_utime + end.ru_stime - start.ru_utime - start.ru_stime
    answer["growth"] = (end.ru_maxrss - start.ru_maxrss) * UNITS
    answer["environment"] = dict(os.environ) == before and Path.cwd() == Path(request["cwd"]).resolve()
    answer["length"] = len(answer.get("text", ""))
    answer["text"] = answer.get("text", "")[-5000:]
    os.write(pipe, json.dumps(answer).encode())


def serve(request: dict[str, str]) -> dict[str, Any]:
    """Answer one request in a fork; a fork that hangs is killed."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reading)
            child(request, writing)
        finally:
            os._exit(0)
    os.close(writing)
    answer = b""
    deadline = time.monotonic() + LIMIT
    while select.select([reading], [], [], max(0.0, deadline - time.monotonic()))[0]:
        part = os.read(reading, 65_536)
        if not part:
            break
        answer += part
    else:
        os.kill(pid, signal.SIGKILL)
    os.close(reading)
    status = os.waitpid(pid, 0)[1]
    if not answer:
        return {"outcome": "hung or died", "text": f"wait status {status}"}
    result: dict[str, Any] = json.loads(answer)
    return result


def warm() -> None:
    """Import what readers import late, by opening one good file of each kind."""
    import PIL.Image
    import safetensors.torch
    import scipy.stats  # noqa: F401 - probes import it late

    PIL.Image.init()
    with contextlib.suppress(ImportError):
        import pyarrow.csv
        import pyarrow.parquet  # noqa: F401
    loaded = models.load("fashion-standard")
    loaded.model(torch.zeros(1, 1, 28, 28))
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        main(["audit", "fashion-standard", "fashion-mnist", "--samples", "20", "--plan"])
    assert audits.PROBES and pellucid.__version__ and safetensors.torch  # noqa: PT018 - so that they count as used


if __name__ == "__main__":
    torch.set_num_threads(1)
    warm()
    for line in sys.stdin:
        sys.stdout.write(json.dumps(serve(json.loads(line))) + "\n")
        sys.stdout.flush()
