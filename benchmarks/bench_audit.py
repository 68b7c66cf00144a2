"""How long does the default audit take now, beside another state of the sources?

    git archive COMMIT | tar -x -C /tmp/before
    python benchmarks/bench_audit.py --before /tmp/before [--rounds 2] [--model fashion-standard] [--data fashion-mnist]
        [--note]

Each round runs `pellucid audit MODEL DATA` once with the earlier sources and once with these, in fresh processes and
folders, in turn who is first. Seconds of the processor are told beside those of the clock: they do not count what
others do on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _interleaved import markdown_table, write_note

HERE = Path(__file__).resolve().parent.parent


def run(tree: Path, model: str, data: str, more: list[str]) -> tuple[float, float, int]:
    """Return the seconds of the clock and of the processor that an audit takes, and its evaluations."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "audit"
        command = [sys.executable, "-m", "pellucid", "audit", model, data, "--out", str(out), *more]
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run(
            command, env=os.environ | {"PYTHONPATH": str(tree / "src")}, capture_output=True, text=True, check=False
        )
        clock, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            raise SystemExit(done.stderr)
        findings = json.loads((out / "report.json").read_text(encoding="utf-8"))["findings"]
        spent = sum(finding["provenance"]["evaluations"] for finding in findings)
    return clock, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, spent


def main() -> None:
    """Run what the flags ask for and print it; `--note` also writes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="a folder of the earlier sources")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--model", default="fashion-standard")
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--more", default="", help="more arguments of the audit: --more=--quick")
    parser.add_argument("--note", action="store_true", help="write a dated note to benchmarks/results")
    settings = parser.parse_args()
    trees = {"before": settings.before, "now": HERE}
    found: dict[str, list[tuple[float, float, int]]] = {name: [] for name in trees}
    for number in range(settings.rounds):
        for name in sorted(trees, reverse=bool(number % 2)):
            found[name].append(run(trees[name], settings.model, settings.data, settings.more.split()))
            print(name, *(f"{value:.1f}" for value in found[name][-1]), flush=True)
    middle = {name: [statistics.median(part) for part in zip(*each, strict=True)] for name, each in found.items()}
    rows = [
        (
            name,
            *(f"{middle[name][k]:.1f} ({', '.join(f'{each[k]:.1f}' for each in found[name])})" for k in range(2)),
            f"{middle[name][2]:,.0f}",
            *(f"{middle[name][k] / middle['before'][k]:.2f}" for k in range(2)),
        )
        for name in trees
    ]
    head = ("sources", "clock, s", "processor, s", "evaluations told", "clock over before", "processor over before")
    title = f"pellucid audit {settings.model} {settings.data} {settings.more}".strip()
    text = (
        f"Medians of {settings.rounds} runs each, taken in turn; all runs in brackets.\n\n{markdown_table(head, rows)}"
    )
    print(f"## {title}\n\n{text}")
    if settings.note:
        print(write_note("audit", {title: text}, packages=("numpy",)))


if __name__ == "__main__":
    main()
