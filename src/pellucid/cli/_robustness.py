"""`pellucid robustness MODEL DATA`: how does this model break?"""

from __future__ import annotations

import difflib
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from ._audit import command_text
from ._console import say, table
from ._frame import Frame, show_findings
from ._subject import (
    DataArgument,
    Drawing,
    DrawingOptions,
    ModelArgument,
    Reading,
    ReadingOptions,
    options_text,
    portable_change,
    slug,
)

if TYPE_CHECKING:
    from pellucid.audits import Plan
    from pellucid.core import Effort, Ranks, Subject
    from pellucid.reports import Report

PIXELS_AND_MOVES = "linf,l2,flow,rt,spatial"
BESIDE = ("corruptions", "reliance")
EXPLAINING = ("attack-attribution", "attack-orders")


def robustness(
    model: ModelArgument,
    data: DataArgument,
    /,
    *,
    reading: ReadingOptions = Reading(),  # noqa: B008 - frozen
    drawing: DrawingOptions = Drawing(),  # noqa: B008 - frozen
    attacks: str = PIXELS_AND_MOVES,
    explain: bool = True,
    budget: int = 400_000,
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    out: Path | None = None,
    resume: bool = False,
    quick: bool = False,
    plan: bool = False,
    shard: str = "",
) -> int:
    """Find out how a model breaks: under pixel noise, bending, turning and shifting, and common corruptions.

    One report: accuracy under each attack and under the worst of all, whether these numbers can be trusted, what the
    model relies on, and which regions and which interactions carry an attack. `pellucid compare` sets two of them side
    by side. Ctrl-C keeps what was answered; --resume continues it.

    Args:
        model: Which model.
        data: Which data.
        reading: How to read the model.
        drawing: Which samples to draw.
        attacks: Which attacks, separated by commas: linf, l2 (pixel noise), flow (bending), rt (turning and shifting),
            spatial (bending, turning and shifting at once), ensemble (four attacks in linf, much slower).
        explain: Ask which regions and which interactions carry an attack.
        budget: Model evaluations to spend: one forward of one sample is one, a gradient counts two.
        set: Change a setting of a question, such as `--set robustness.max_deg=10` (`pellucid probes list`); may be
            given several times.
        out: Folder for the report; runs/MODEL-DATA-robustness if not given, with -2, -3, ... where an earlier one is.
        resume: Continue the interrupted run in the folder, the latest one if --out is not given.
        quick: Fewer samples, wider intervals.
        plan: Only print the plan.
        shard: Do one part of the work, such as 3/40, the third of forty; `pellucid merge` makes the report of all.
    """
    from pellucid import audits

    names = _checked(attacks)
    probes = ("robustness", *(name for name in (*BESIDE, *(EXPLAINING if explain else ())) if name in audits.MORE))
    asked = audits.with_settings(probes, [f"robustness.attacks={','.join(names)}", *set])
    effort: Effort = "quick" if quick else "full"
    folder = f"{slug(model)}-{slug(data)}-robustness"
    frame = Frame(folder, "a new run", model, data, reading, drawing, out, resume, plan, shard)
    command = command_text(
        "robustness",
        model,
        data,
        [f"--attacks {','.join(names)} --budget {budget} --samples {drawing.samples} --seed {drawing.seed}"]
        + [f"--set {shlex.quote(portable_change(change))}" for change in set]
        + options_text(reading, replace(drawing, samples=Drawing().samples, seed=Drawing().seed))
        + ["--quick"] * quick
        + ["--no-explain"] * (not explain),
    )

    def planned(subject: Subject) -> Plan:
        return audits.plan(subject, budget=budget, effort=effort, probes=asked)

    def show(report: Report, folder: Path, ranks: Ranks) -> Report:
        show_findings(report, model, data)
        if text := _table(report):
            say()
            say(text)
        return report

    return frame.run(
        planned,
        lambda subject, watched: audits.audit(
            subject, budget=budget, quick=quick, probes=asked, command=command, **watched
        ),
        show,
    )


def _checked(attacks: str) -> tuple[str, ...]:
    from pellucid.audits import ATTACKS
    from pellucid.core import DataError

    names = tuple(dict.fromkeys(part.strip() for part in attacks.split(",") if part.strip()))
    if not names:
        raise DataError(f"--attacks must name at least one of {', '.join(ATTACKS)}")
    for name in names:
        if name not in ATTACKS:
            near = difflib.get_close_matches(name, ATTACKS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(ATTACKS)}"
            raise DataError(f"--attacks: there is no attack {name!r}; {hint}")
    return names


def _table(report: Report) -> str:
    """Return the accuracy under each attack as a table; empty where nothing was attacked."""
    from pellucid.core import Table, measured

    for finding in report.findings:
        if finding.name == "robustness-profile":
            shown = next(e for e in finding.exhibits if isinstance(e, Table))
            rows = [
                (row[0], row[1], *(f"{100 * float(share or 0):.1f}%" for share in row[2:5]), row[6])
                for row in shown.rows
            ]
            return table(("attack", "within", "accuracy", "low", "high", "trusted"), rows)
    rows = [(f.name, measured(f.measure)) for f in report.findings if f.probe == "robustness"]
    return table(("attack", "accuracy and 95% interval"), rows) if rows else ""
