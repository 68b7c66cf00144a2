"""`pellucid audit MODEL DATA`: plan, ask, report."""

from __future__ import annotations

import difflib
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from ._frame import Frame, show_findings
from ._subject import (
    DataArgument,
    Drawing,
    DrawingOptions,
    ModelArgument,
    Reading,
    ReadingOptions,
    options_text,
    portable,
    portable_change,
    slug,
)

if TYPE_CHECKING:
    from pellucid.core import Effort, Probe, Ranks, Subject
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

    check_names(probe, skip)

    def asked(subject: Subject | None = None) -> tuple[str | Probe, ...]:
        names = probe or audits.usual_probes(subject)
        return audits.with_settings([name for name in names if name not in skip], set)

    asked()  # what fits no question is refused before the model is loaded

    effort: Effort = "quick" if quick else "full"
    frame = Frame(f"{slug(model)}-{slug(data)}", "a new audit", model, data, reading, drawing, out, resume, plan, shard)
    command = command_text(
        "audit",
        model,
        data,
        [f"--budget {budget} --samples {drawing.samples} --seed {drawing.seed}"]
        + [f"--probe {name}" for name in probe]
        + [f"--skip {name}" for name in skip]
        + [f"--set {shlex.quote(portable_change(change))}" for change in set]
        + options_text(reading, replace(drawing, samples=Drawing().samples, seed=Drawing().seed))
        + ["--quick"] * quick,
    )

    def show(report: Report, folder: Path, ranks: Ranks) -> Report:
        show_findings(report, model, data)
        return report

    return frame.run(
        lambda subject: audits.plan(subject, budget=budget, effort=effort, probes=asked(subject), skip=skip),
        lambda subject, watched: audits.audit(
            subject, budget=budget, quick=quick, probes=asked(subject), skip=skip, command=command, **watched
        ),
        show,
    )


def check_names(probes: tuple[str, ...], skip: tuple[str, ...]) -> None:
    """Refuse names of probes that do not exist, and a choice that leaves none."""
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


def command_text(verb: str, model: str, data: str, options: list[str]) -> str:
    """Return a command as it is typed, without the folders of this machine."""
    return " ".join([f"pellucid {verb}", shlex.quote(portable(model)), shlex.quote(portable(data)), *options])
