"""The frame that `audit`, `explain` and `robustness` share: folder, share of the work, plan, run, report."""

from __future__ import annotations

import shlex
import sys
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ._console import Advance, bars, say, table, warn
from ._out import output_folder, say_if_new
from ._shares import STORED, finish_shard, folder_name, own_card, said, sharing
from ._subject import Drawing, Reading, make_subject, portable

if TYPE_CHECKING:
    from pellucid.audits import Event, OnEvent, Plan
    from pellucid.core import Ranks, Subject
    from pellucid.reports import Planned, Report

T = TypeVar("T")


@dataclass(frozen=True)
class Frame:
    """Where a command works and what it works on.

    Args:
        name: what to call the folder if `out` names none.
        what: what starts if there is nothing to resume, such as "a new audit".
        model, data, reading, drawing: what to make the subject of.
        out, resume, plan, shard: the options of these names.
    """

    name: str
    what: str
    model: str
    data: str
    reading: Reading
    drawing: Drawing
    out: Path | None
    resume: bool
    plan: bool
    shard: str

    def run(
        self,
        planned: Callable[[Subject], Plan],
        ask: Callable[[Subject, dict[str, Any]], T],
        show: Callable[[T, Path, Ranks], Report],
    ) -> int:
        """Show the plan, ask, show what was found; returns the exit code.

        Args:
            planned: makes the plan.
            ask: does the work; gets the settings that every audit takes: `out`, `resume`, `ranks`, ...
            show: says what was found, and returns the report.
        """
        with sharing(self.shard) as ranks:
            name = folder_name(self.name, self.shard)
            again = self.resume or ranks.restarted
            folder = (
                None if self.plan else ranks.lead(lambda: output_folder(self.out, name, kind="audit", resume=again))
            )
            if self.resume and folder is not None and ranks.leads:
                say_if_new(folder, self.what)
            subject = make_subject(self.model, self.data, own_card(self.reading, ranks), self.drawing)
            show_plan(subject, planned(subject))
            if folder is None:
                return 0
            try:
                with ExitStack() as shown:
                    watched: dict[str, Any] = {
                        "seed": self.drawing.seed,
                        "on_event": watching(ranks, shown.enter_context(bars())),
                        "out": folder,
                        "resume": self.resume,
                        "ranks": ranks,
                        "stored": STORED.get(),
                    }
                    found = ask(subject, watched)
            except KeyboardInterrupt:
                said(f"interrupted; what was answered is in {folder / 'index.html'}, --resume continues", ranks)
                return 130
            report = show(found, folder, ranks)
            if self.shard:
                say(finish_shard(folder, ranks))
            say(f"\nreport: {folder / 'index.html'}")
            return 1 if report.failed else 0


def show_plan(subject: Subject, made: Plan) -> None:
    """Print what will be asked, and about how long it takes."""
    from pellucid.audits import MORE, PROBES, seconds_per_evaluation

    def remark(row: Planned) -> str:
        # What takes long without asking the model, such as fits, is in no count of evaluations.
        beside = getattr((PROBES | MORE).get(row.probe), "uncounted", "") if row.granted else ""
        return "; ".join(part for part in (row.remark, beside) if part)

    pace = seconds_per_evaluation(subject)
    rows = [
        (
            row.probe,
            row.granted,
            _duration(row.granted * pace) if row.granted else "",
            _size(row.memory) if row.granted else "",
            f"skipped: {row.skip}" if row.skip else remark(row),
        )
        for row in made.rows
    ]
    shape = " x ".join(map(str, subject.inputs.shape[1:]))
    say(f"{subject.name} on {len(subject)} samples of {subject.data_name} ({shape}, {subject.n_classes} classes)")
    for note in subject.notes:
        say(f"note: {note}")
    say()
    say(table(("probe", "evaluations", "about", "memory", "remark"), rows))
    say(f"in all {made.granted:,} of {made.budget:,} evaluations, about {_duration(made.granted * pace)}\n")


def _duration(seconds: float) -> str:
    if seconds < 1:
        return "1 s"
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min"


def _size(memory: int) -> str:
    return f"{max(1, round(memory / 2**20)):,} MiB"


def watching(ranks: Ranks, advance: Advance) -> OnEvent:
    """Return what shows the events of an audit: bars, from the leading process alone."""
    heard = ranks.leads or not ranks.together
    return lambda event: watch_event(event, advance) if heard else None


def watch_event(event: Event, advance: Advance) -> None:
    """Show one event of an audit as a bar."""
    from pellucid.audits import ProbeDone, ProbeFailed, ProbeSkipped, ProbeStarted, ProbeStep

    match event:
        case ProbeStarted(probe, _):
            advance(probe, 0, 1)
        case ProbeStep(probe, done, total):
            advance(probe, min(done, 0.999 * total), total)  # full only when its findings are there
        case ProbeDone(probe) | ProbeSkipped(probe):
            advance(probe, 1, 1)
        case ProbeFailed(probe, error):
            sys.stderr.write("".join(traceback.format_exception(error)))
            warn(f"the probe {probe} failed; the other questions go on")


def show_findings(report: Report, model: str = "", data: str = "") -> None:
    """Print each answer with its level, and what was skipped or failed.

    Reports name a model and data without the folders of this machine; commands to go on with need them.
    """
    told, typed = shlex.join((portable(model), portable(data))), shlex.join((model, data))
    for finding in report.findings:
        say(f"[{finding.level}] {finding.probe}: {finding.answer}")
        if finding.advice is not None and finding.advice.command:
            say(f"        {finding.advice.text}")
            command = finding.advice.command
            say(f"        next: {command.replace(f' {told}', f' {typed}', 1) if model else command}")
    for entry in report.skipped:
        say(f"[skipped] {entry.probe}: {entry.reason}")
    for broken in report.failed:
        say(f"[failed] {broken.probe}: {broken.error}")
