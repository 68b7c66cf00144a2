"""`pellucid audit MODEL DATA`: plan, ask, report."""

from __future__ import annotations

import difflib
import shlex
import sys
import traceback
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from ._console import Advance, bars, say, table, warn
from ._subject import (
    DataArgument,
    Drawing,
    DrawingOptions,
    ModelArgument,
    Reading,
    ReadingOptions,
    make_subject,
    options_text,
    portable,
    slug,
)

if TYPE_CHECKING:
    from pellucid.audits import Event, OnEvent, Plan
    from pellucid.core import Effort, Ranks, Subject
    from pellucid.reports import Report


def audit(
    model: ModelArgument,
    data: DataArgument,
    /,
    *,
    reading: ReadingOptions = Reading(),  # noqa: B008 - frozen
    drawing: DrawingOptions = Drawing(),  # noqa: B008 - frozen
    budget: int = 400_000,
    probe: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    skip: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    out: Path | None = None,
    resume: bool = False,
    quick: bool = False,
    plan: bool = False,
    shard: str = "",
) -> int:
    """Audit a model on data and write a report.

    Prints the plan, asks each question within its share of the budget, prints the findings and says where the report
    is. Ctrl-C keeps what was answered; --resume continues it.

    Args:
        model: Which model.
        data: Which data.
        reading: How to read the model.
        drawing: Which samples to draw.
        budget: Model evaluations to spend: one forward of one sample is one, a gradient counts two.
        probe: Ask only this question (`pellucid probes list`); may be given several times.
        skip: Leave this question out; may be given several times.
        set: Change a setting of a question, such as `--set bottleneck.settings=official` (`pellucid probes list`); may
            be given several times.
        out: Folder for the report; runs/MODEL-DATA if not given, with -2, -3, ... where an earlier audit is.
        resume: Continue the interrupted audit in the folder, the latest one if --out is not given.
        quick: Fewer samples, wider intervals: a first look in well under a minute for a small model.
        plan: Only print the plan.
        shard: Do one part of the work, such as 3/40, the third of forty; `pellucid merge` makes the report of all.
    """
    from pellucid import audits

    from ._out import output_folder, say_if_new
    from ._shares import STORED, finish_shard, folder_name, own_card, said, sharing

    _check_names(probe, skip)
    asked = audits.with_settings([name for name in probe or audits.PROBES if name not in skip], set)
    with sharing(shard) as ranks:
        name = folder_name(f"{slug(model)}-{slug(data)}", shard)
        again = resume or ranks.restarted
        folder = None if plan else ranks.lead(lambda: output_folder(out, name, kind="audit", resume=again))
        if resume and folder is not None and ranks.leads:
            say_if_new(folder, "a new audit")
        reading = own_card(reading, ranks)
        subject = make_subject(model, data, reading, drawing)
        effort: Effort = "quick" if quick else "full"
        made = audits.plan(subject, budget=budget, effort=effort, probes=asked, skip=skip)
        _show_plan(subject, made)
        if folder is None:
            return 0
        command = _command(
            model,
            data,
            [f"--budget {budget} --samples {drawing.samples} --seed {drawing.seed}"]
            + [f"--probe {name}" for name in probe]
            + [f"--skip {name}" for name in skip]
            + [f"--set {shlex.quote(change)}" for change in set]
            + options_text(reading, replace(drawing, samples=Drawing().samples, seed=Drawing().seed))
            + ["--quick"] * quick,
        )
        try:
            with bars() as advance:
                report = audits.audit(
                    subject,
                    budget=budget,
                    seed=drawing.seed,
                    quick=quick,
                    probes=asked,
                    skip=skip,
                    on_event=watching(ranks, advance),
                    out=folder,
                    resume=resume,
                    command=command,
                    ranks=ranks,
                    stored=STORED.get(),
                )
        except KeyboardInterrupt:
            said(f"interrupted; what was answered is in {folder / 'index.html'}, --resume continues", ranks)
            return 130
        _show_findings(report)
        if shard:
            say(finish_shard(folder, ranks))
        say(f"\nreport: {folder / 'index.html'}")
        return 1 if report.failed else 0


def _check_names(probes: tuple[str, ...], skip: tuple[str, ...]) -> None:
    from pellucid.audits import MORE, PROBES
    from pellucid.core import PellucidError

    known = PROBES | MORE
    for name in (*probes, *skip):
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the probes are {', '.join(known)}"
            raise PellucidError(f"there is no probe {name!r}; {hint}")
    if set(probes or PROBES) <= set(skip):
        raise PellucidError("no probe is left to run; skip fewer of them")


def _command(model: str, data: str, options: list[str]) -> str:
    return " ".join(["pellucid audit", shlex.quote(portable(model)), shlex.quote(portable(data)), *options])


def _show_plan(subject: Subject, made: Plan) -> None:
    from pellucid.audits import seconds_per_evaluation

    pace = seconds_per_evaluation(subject)
    rows = [
        (
            row.probe,
            row.granted,
            _duration(row.granted * pace) if row.granted else "",
            _size(row.memory) if row.granted else "",
            f"skipped: {row.skip}" if row.skip else row.remark,
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
    return lambda event: _watch(event, advance) if heard else None


def _watch(event: Event, advance: Advance) -> None:
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


def _show_findings(report: Report) -> None:
    for finding in report.findings:
        say(f"[{finding.level}] {finding.probe}: {finding.answer}")
        if finding.advice is not None and finding.advice.command:
            say(f"        {finding.advice.text}")
            say(f"        next: {finding.advice.command}")
    for entry in report.skipped:
        say(f"[skipped] {entry.probe}: {entry.reason}")
    for broken in report.failed:
        say(f"[failed] {broken.probe}: {broken.error}")
