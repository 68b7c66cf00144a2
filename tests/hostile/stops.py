"""Stops a writer at each of its steps, by a full disk or by SIGKILL, and looks at what is left.

Run as a program: `stops.py full|kill FOLDER` prints one line of JSON, the outcomes after each step by scenario.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock
from xml.etree import ElementTree

import safetensors.torch
import torch
from torch import nn

from pellucid import Subject, audit, check, models, reports
from pellucid.core import ModelError, RunFolder, Stream, write_atomic, write_json
from pellucid.data import synthetic_images
from pellucid.data._fetch import fetch
from pellucid.reports import Report
from pellucid.training import FixedWeighting, Recipe, Run, train
from pellucid.training import _checkpoint as checkpoint

Harm = Callable[[], None]


@contextmanager
def stopped(step: int, harm: Harm) -> Iterator[Callable[[], bool]]:
    """Do `harm` at the given step of writing; a write is done by half before."""
    count = -1

    def now() -> bool:
        nonlocal count
        count += 1
        return count == step

    write_bytes, write_text, replace = Path.write_bytes, Path.write_text, Path.replace
    save_file, fsync, mkdir, unlink = safetensors.torch.save_file, os.fsync, Path.mkdir, Path.unlink

    def bytes_(path: Path, data: bytes) -> int:
        if now():
            write_bytes(path, data[: len(data) // 2])
            harm()
        return write_bytes(path, data)

    def text_(path: Path, data: str, *rest: Any, **more: Any) -> int:
        if now():
            write_text(path, data[: len(data) // 2], *rest, **more)
            harm()
        return write_text(path, data, *rest, **more)

    def save(tensors: Any, path: Path, *rest: Any, **more: Any) -> None:
        save_file(tensors, path, *rest, **more)
        if now():
            write_bytes(path, path.read_bytes()[:-1])
            harm()

    def before(function: Callable[..., Any]) -> Callable[..., Any]:
        def stops(*given: Any, **more: Any) -> Any:
            if now():
                harm()
            return function(*given, **more)

        return stops

    with (
        mock.patch.object(Path, "write_bytes", bytes_),
        mock.patch.object(Path, "write_text", text_),
        mock.patch.object(Path, "replace", before(replace)),
        mock.patch.object(Path, "mkdir", before(mkdir)),
        mock.patch.object(Path, "unlink", before(unlink)),
        mock.patch.object(os, "fsync", before(fsync)),
        mock.patch.object(safetensors.torch, "save_file", save),
    ):
        yield lambda: count >= step


def full_disk() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Scenario:
    """An earlier result, what writes over it, and what must be found afterwards: "old", "new", or what is wrong."""

    prepare: Callable[[Path], None]
    act: Callable[[Path], None]
    found: Callable[[Path], str]
    again: Callable[[Path], None]


# -- reports ------------------------------------------------------------------------------------------------------


def subject(seed: int) -> Subject:
    images = synthetic_images(12, rng=Stream(seed), classes=3, size=6)
    with Stream(seed).forked():
        model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    return Subject(model, images.inputs, images.labels)


def report(seed: int) -> Report:
    return audit(subject(seed), probes=["accuracy"], seed=seed)


SUBJECT = subject(0)
OLD, NEW = report(0), report(1)


def report_found(folder: Path) -> str:
    loaded = Report.load(folder)
    page = (folder / "index.html").read_text(encoding="utf-8")
    if not page.rstrip().endswith("</html>"):
        return "half a page"
    return {0: "old", 1: "new"}[int(loaded.settings["seed"])]


def checked(folder: Path, seed: int) -> None:
    """What `pellucid check --out --junit --markdown` writes."""
    done = check(SUBJECT, "accuracy >= 0%", seed=seed, out=folder / "check")
    write_atomic(folder / "junit.xml", reports.junit(done))
    write_atomic(folder / "summary.md", reports.markdown(done))


def check_found(folder: Path) -> str:
    ElementTree.parse(folder / "junit.xml")
    if "accuracy" not in (folder / "summary.md").read_text(encoding="utf-8"):
        return "half a summary"
    return report_found(folder / "check")


def first_found(folder: Path) -> str:
    return report_found(folder) if (folder / "report.json").is_file() and (folder / "index.html").is_file() else "none"


# -- trainings ----------------------------------------------------------------------------------------------------


def network(value: float) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = nn.Linear(2, 2)
    nn.init.constant_(model.weight, value)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    nn.init.constant_(model.weight, value)
    return model, optimizer


WEIGHTING = FixedWeighting({"loss": 1.0})


def checkpoint_saved(folder: Path, epoch: int) -> None:
    checkpoint.save(folder / "checkpoints", checkpoint.Position(epoch, epoch), *network(float(epoch)), WEIGHTING)


def checkpoint_found(folder: Path) -> str:
    model, optimizer = network(9.0)
    place = checkpoint.restore(folder / "checkpoints", model, optimizer, WEIGHTING)
    if place is None or model.weight[0, 0] != place.epoch:
        return "another"
    return {1: "old"}.get(place.epoch, "new")


RECIPE: dict[str, Any] = {
    "name": "small",
    "epochs": 2,
    "batch_size": 8,
    "data": {"kind": "synthetic-images", "n": 16, "size": 28, "classes": 10},
    "model": {"kind": "small-cnn"},
    "objective": {"kind": "standard"},
}


def recipe(seed: int) -> Recipe:
    return Recipe.parse({**RECIPE, "seed": seed})


def trained(folder: Path, seed: int) -> Run:
    return train(recipe(seed), folder / f"run-{seed}")


def exported(folder: Path, seed: int) -> None:
    Run.open(folder / f"run-{seed}").export(folder / "out" / "net.safetensors")


def export_prepared(folder: Path) -> None:
    for seed in (1, 2):
        trained(folder, seed)
    exported(folder, 1)


def export_found(folder: Path) -> str:
    try:
        loaded = models.load(str(folder / "out" / "net.safetensors"))
    except ModelError as error:
        return str(error)
    assert loaded.card is not None
    return {1: "old", 2: "new"}[loaded.card.seed]


# -- single files -------------------------------------------------------------------------------------------------


def text_found(folder: Path) -> str:
    return (folder / "junit.xml").read_text(encoding="utf-8").rstrip()


def manifest_found(folder: Path) -> str:
    return str(RunFolder.open(folder / "run").manifest["word"])


def manifest_prepared(folder: Path) -> None:
    RunFolder.create(folder / "run", kind="audit", command="pellucid").update(word="old")


CONTENT = bytes(range(256)) * 4000
DIGEST = "sha256:" + hashlib.sha256(CONTENT).hexdigest()


def download_prepared(folder: Path) -> None:
    (folder / "server").write_bytes(CONTENT)


def downloaded(folder: Path) -> None:
    url = (folder / "server").as_uri()
    fetch(url, folder / "cache" / "data.bin", size=len(CONTENT), digest=DIGEST)


def download_found(folder: Path) -> str:
    file = folder / "cache" / "data.bin"
    return "none" if not file.exists() else "new" if file.read_bytes() == CONTENT else "half"


def begun(folder: Path) -> None:
    with RunFolder.create(folder / "run", kind="audit", command="pellucid", resume=True) as run:
        write_json(run.file("part.json"), {"a": 1})


def begun_found(folder: Path) -> str:
    if not (folder / "run" / "manifest.json").is_file():
        return "none"
    return {"partial": "new", "complete": "new"}.get(RunFolder.open(folder / "run").status, "another")


def nothing(folder: Path) -> None:
    """No earlier result."""


def both(write: Callable[[Path, int], object]) -> tuple[Callable[[Path], None], Callable[[Path], None]]:
    return (lambda folder: void(write(folder, 1))), (lambda folder: void(write(folder, 2)))


def void(value: object) -> None:
    return None


SCENARIOS = {
    "report": Scenario(
        lambda f: void(OLD.save(f)), lambda f: void(NEW.save(f)), report_found, lambda f: void(NEW.save(f))
    ),
    "check": Scenario(lambda f: checked(f, 0), lambda f: checked(f, 1), check_found, lambda f: checked(f, 1)),
    "first-report": Scenario(
        nothing, lambda f: void(NEW.save(f / "r")), lambda f: first_found(f / "r"), lambda f: void(NEW.save(f / "r"))
    ),
    "checkpoint": Scenario(*both(checkpoint_saved), checkpoint_found, lambda f: checkpoint_saved(f, 3)),
    "export": Scenario(export_prepared, lambda f: exported(f, 2), export_found, lambda f: exported(f, 2)),
    "output": Scenario(
        lambda f: write_atomic(f / "junit.xml", "old\n"),
        lambda f: write_atomic(f / "junit.xml", "new\n"),
        text_found,
        lambda f: write_atomic(f / "junit.xml", "new\n"),
    ),
    "manifest": Scenario(
        manifest_prepared,
        lambda f: RunFolder.open(f / "run").update(word="new"),
        manifest_found,
        lambda f: RunFolder.open(f / "run").update(word="new"),
    ),
    "download": Scenario(download_prepared, downloaded, download_found, downloaded),
    "first-run": Scenario(nothing, begun, begun_found, begun),
}


def after(scenario: Scenario, step: int, harm: Harm, folder: Path) -> dict[str, Any]:
    """Write in a fork that is stopped at `step`; say what is left, and what is there once it was done again."""
    pid = os.fork()
    if pid == 0:
        code = 3
        try:
            with stopped(step, harm) as reached:
                scenario.act(folder)
            code = 4 if reached() else 0
        except OSError as error:
            code = 2 if error.errno == errno.ENOSPC else 3
        finally:
            os._exit(code)
    status = os.waitpid(pid, 0)[1]
    ended = (
        "killed"
        if os.WIFSIGNALED(status)
        else {0: "done", 2: "full", 4: "went on"}.get(os.waitstatus_to_exitcode(status), "broke")
    )
    left = sum(path.suffix == ".tmp" for path in folder.rglob("*")) if ended == "full" else 0
    found = scenario.found(folder)
    scenario.again(folder)
    return {"step": step, "ended": ended, "found": found, "left": left, "again": scenario.found(folder)}


def outcomes_of(scenario: Scenario, harm: Harm, root: Path) -> list[dict[str, Any]]:
    """Stop a writer at its first step, its second and so on, until there is no such step."""
    kept = root / "kept"
    kept.mkdir()
    scenario.prepare(kept)
    outcomes: list[dict[str, Any]] = []
    while not outcomes or outcomes[-1]["ended"] != "done":
        folder = root / f"step-{len(outcomes)}"
        shutil.copytree(kept, folder)
        outcomes.append(after(scenario, len(outcomes), harm, folder))
        shutil.rmtree(folder)
    return outcomes


if __name__ == "__main__":
    torch.set_num_threads(1)
    chosen = {"full": full_disk, "kill": kill}[sys.argv[1]]
    found = {}
    for name, scenario in SCENARIOS.items():
        (Path(sys.argv[2]) / name).mkdir()
        found[name] = outcomes_of(scenario, chosen, Path(sys.argv[2]) / name)
    sys.stdout.write(json.dumps(found))
