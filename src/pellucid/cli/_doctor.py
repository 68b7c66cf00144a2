"""`pellucid doctor`."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from ._console import say

LEAST_FREE = 200 * 2**20
"""Bytes of free disk below which a run folder with its checkpoints may not fit."""

_REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(?P<bounds>[^;]*)(;.*extra\s*==\s*['\"](?P<extra>[\w-]+)['\"])?")


class Check(NamedTuple):
    """One line of the answer: `broken` alone makes the exit code 1; a `note` is about something optional."""

    part: str
    state: Literal["ok", "note", "broken"]
    text: str


def doctor() -> int:
    """Check this installation and say what is missing."""
    checks = [*_machine(), *_packages(), *_torch()]
    if all(check.state != "broken" for check in checks):  # the rest cannot even be imported without these
        checks += [*_models(), *_data(), *_disk()]
    checks += _extras()
    width = max(len(check.part) for check in checks)
    marks = {"ok": "ok    ", "note": "note  ", "broken": "BROKEN"}
    for check in checks:
        say(f"{marks[check.state]}  {check.part:{width}}  {check.text}")
    broken = sum(check.state == "broken" for check in checks)
    say()
    say("Everything needed is here." if not broken else f"{broken} needed part(s) are broken; see BROKEN above.")
    return 1 if broken else 0


def _machine() -> Iterator[Check]:
    from pellucid import __version__

    yield Check("pellucid", "ok", f"{__version__} in {Path(__file__).parents[1]}")
    state: Literal["ok", "broken"] = "ok" if sys.version_info >= (3, 11) else "broken"
    yield Check("python", state, f"{platform.python_version()} ({sys.executable}), 3.11 or newer is needed")
    yield Check("machine", "ok", f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors")


def _requirements() -> dict[str, list[tuple[str, str]]]:
    """Return what the installed package asks for: (name, bounds) by extra; "" is what is always needed."""
    found: dict[str, list[tuple[str, str]]] = {}
    for line in importlib.metadata.requires("pellucid") or ():
        if match := _REQUIREMENT.match(line):
            found.setdefault(match["extra"] or "", []).append((match["name"], match["bounds"].strip()))
    return found


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _old(version: str, bounds: str) -> bool:
    """Whether a version lies below the least one asked for (`>=`), by its leading numbers."""
    least = re.search(r">=\s*([\d.]+)", bounds)
    return least is not None and _numbers(version) < _numbers(least[1])


def _numbers(version: str) -> list[int]:
    plain = re.match(r"\d+(\.\d+)*", version)
    return [int(part) for part in plain[0].split(".")] if plain else []


def _packages() -> Iterator[Check]:
    for name, bounds in _requirements().get("", []):
        version = _installed(name)
        if version is None:
            yield Check(name, "broken", f"not installed; pip install '{name}{bounds}'")
        elif _old(version, bounds):
            yield Check(name, "broken", f"{version} is too old; pip install '{name}{bounds}'")
        else:
            yield Check(name, "ok", version)


def _torch() -> Iterator[Check]:
    try:
        import torch
    except (ImportError, OSError) as error:  # a wheel for another machine fails while its libraries load
        yield Check("torch build", "broken", f"does not load: {error}")
        return
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
    yield Check("torch build", "ok", f"{build}, {torch.get_num_threads()} threads")
    for index in range(torch.cuda.device_count()):  # gpu only
        device = torch.cuda.get_device_properties(index)
        text = f"{device.name}, {device.total_memory / 2**30:.0f} GiB, bf16 {torch.cuda.is_bf16_supported()}"
        yield Check(f"cuda:{index}", "ok", text)


def _models() -> Iterator[Check]:
    from pellucid import models
    from pellucid.core import PellucidError

    for name in models.SHIPPED:
        try:
            models.load(name)
        except (PellucidError, OSError) as error:
            yield Check(f"model {name}", "broken", str(error))
        else:
            yield Check(f"model {name}", "ok", "loads, weights as published")


def _data() -> Iterator[Check]:
    from pellucid import data
    from pellucid.core import DataError, DataMissing

    for name in data.DOWNLOADS:
        part = f"data {name}"
        try:
            folder = data.verify(name)
        except DataMissing as missing:
            yield Check(part, "note", str(missing))
        except (DataError, OSError) as error:
            yield Check(part, "broken", str(error))
        else:
            yield Check(part, "ok", f"{folder}, digests right")


def _disk() -> Iterator[Check]:
    from pellucid.data import cache

    for part, folder in {"cache folder": cache(), "working folder": Path.cwd()}.items():
        here = next(parent for parent in (folder, *folder.parents) if parent.exists())
        free = shutil.disk_usage(here).free
        if free < LEAST_FREE:
            yield Check(part, "broken", f"{folder}, only {free / 2**20:.0f} MiB free")
        elif not os.access(here, os.W_OK):
            yield Check(part, "note", f"{folder} is not writable")
        else:
            yield Check(part, "ok", f"{folder}, {free / 2**30:.1f} GiB free")


def _extras() -> Iterator[Check]:
    for extra, needed in sorted(_requirements().items()):
        if not extra:
            continue
        missing = [name for name, _ in needed if _installed(name) is None]
        if missing:
            yield Check(f"extra {extra}", "note", f"without {', '.join(missing)}; pip install 'pellucid[{extra}]'")
        else:
            yield Check(f"extra {extra}", "ok", ", ".join(f"{name} {_installed(name)}" for name, _ in needed))
