"""Interleaved timing and dated notes, shared by all benchmarks.

Two things are compared by running them in turn, A B then B A and so on, and taking the ratio inside each round: a slow
minute of the machine then hits both. Report the median ratio with its least and greatest.
"""

from __future__ import annotations

import datetime
import os
import platform
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from statistics import median

import torch

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Timing:
    """Seconds of each round for one thing, and its ratios to the reference in the same rounds."""

    name: str
    seconds: tuple[float, ...]
    ratios: tuple[float, ...]

    @property
    def second(self) -> float:
        """The median time of one run."""
        return median(self.seconds)

    @property
    def ratio(self) -> float:
        """The median ratio to the reference."""
        return median(self.ratios)

    def row(self) -> tuple[str, str, str, str]:
        """Return name, median milliseconds, median ratio, and its range, as text for a note."""
        spread = f"{min(self.ratios):.3f} to {max(self.ratios):.3f}"
        return self.name, f"{1e3 * self.second:.2f}", f"{self.ratio:.3f}", spread


TIMING_HEAD = ("what", "median ms", "ratio (median)", "ratio (range)")


def _timed(run: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = clock()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - start


def interleave(
    runs: Mapping[str, Callable[[], object]],
    *,
    reference: str,
    rounds: int = 15,
    warmup: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Time several things in turn, `rounds` times, the order reversed every other round.

    Args:
        runs: what to time, by name.
        reference: the name whose time divides the others' in each round.
        rounds: measured rounds.
        warmup: rounds run first and not measured.
        clock: what tells the seconds; `time.process_time` counts those of the processor, on a machine that others use.
    """
    names = list(runs)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(-warmup, rounds):
        for name in names if turn % 2 == 0 else reversed(names):
            took = _timed(runs[name], clock)
            if turn >= 0:
                seconds[name].append(took)
    return {
        name: Timing(
            name,
            tuple(seconds[name]),
            tuple(a / b for a, b in zip(seconds[name], seconds[reference], strict=True)),
        )
        for name in names
    }


def peak_resident(run: Callable[[], object]) -> int:
    """Run once and return the peak of resident memory beyond what was there before, in bytes; on Linux."""
    before = _resident()
    most, done = before, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.is_set():
            most = max(most, _resident())
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    run()
    done.set()
    watcher.join()
    return max(most, _resident()) - before


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4096


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def hardware() -> str:
    """Return the machine in a few words: GPU if there is one, CPU, cores and threads."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        found = re.search(r"model name\s*:\s*(.+)", info.read_text())
        name = found.group(1).strip() if found else name
    cpu = f"{os.cpu_count()}x {name}, {torch.get_num_threads()} threads"
    return f"{torch.cuda.get_device_name()}; {cpu}" if torch.cuda.is_available() else cpu


def _commit() -> str:
    try:
        asked = ["git", "-C", str(HERE), "describe", "--always", "--dirty"]
        return subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _versions(packages: Sequence[str]) -> str:
    found = [f"Python {platform.python_version()}"]
    for package in packages:
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            found.append(f"{package} absent")
    return ", ".join(found)


def write_note(theme: str, sections: Mapping[str, str], *, packages: Sequence[str], folder: Path | None = None) -> Path:
    """Write `results/<theme>_<hardware>_<date>.md`: where, when, with what, by which command, then the sections."""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    machine = hardware()
    slug = re.sub(r"[^a-z0-9]+", "-", machine.split(",")[0].split(";")[0].lower()).strip("-")
    command = " ".join(["python", *(os.path.relpath(part) if part == sys.argv[0] else part for part in sys.argv)])
    lines = [
        f"# {theme.capitalize()}: speed on {machine}",
        "",
        f"- Date: {today}",
        f"- Commit: {_commit()}",
        f"- Versions: {_versions(('pellucid', 'torch', *packages))}",
        f"- Command: `{command}`",
        "- Ratios are medians over interleaved rounds; the range is over the rounds.",
    ]
    for title, text in sections.items():
        lines += ["", f"## {title}", "", text]
    path = (folder or HERE / "results") / f"{theme}_{slug}_{today}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path
