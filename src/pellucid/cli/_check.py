"""`pellucid check MODEL DATA --require RULE`: an audit's numbers as a gate."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from ._console import bars, say, table
from ._subject import (
    DataArgument,
    Drawing,
    ModelArgument,
    Reading,
    ReadingOptions,
    make_subject,
    options_text,
    portable,
)

if TYPE_CHECKING:
    from pellucid.audits import Event, Requirements
    from pellucid.reports import Check, Report


def check(
    model: ModelArgument,
    data: DataArgument = "",
    /,
    *,
    reading: ReadingOptions = Reading(),  # noqa: B008 - frozen
    require: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    requirements: Path | None = None,
    confident: bool = False,
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    budget: int | None = None,
    samples: int | None = None,
    seed: int | None = None,
    quick: bool = False,
    split: str = "test",
    label: str = "",
    skip_corrupt: bool = False,
    out: Path | None = None,
    junit: Path | None = None,
    markdown: Path | None = None,
) -> int:
    """Check that a model meets requirements; exit with 1 if it does not.

    Runs only the questions that the requirements need, or reads a finished audit if MODEL is its folder and DATA is
    left out. What was not measured is not met.

    Args:
        model: Which model, or the folder of a finished audit.
        data: Which data.
        reading: How to read the model.
        require: What must hold, such as "robust_accuracy[linf,0.1] >= 0.6" or "accuracy >= 90%"; may be repeated.
        requirements: TOML file with requirements and settings of the check; flags go before its settings.
        confident: Demand every requirement of the whole 95% interval, not of the measured value alone.
        set: Change a setting of a question, such as `--set bottleneck.only_correct=true`; may be repeated.
        budget: Model evaluations to spend; 400,000 if not given.
        samples: How many samples to use, drawn evenly from the classes; 500 if not given.
        seed: Root of all chance: the same seed gives the same verdict; 0 if not given.
        quick: Fewer samples, wider intervals.
        split: Which part of the data: test or train.
        label: Label column of a table in a file; found by its name if not given.
        skip_corrupt: Leave out images that cannot be read instead of stopping.
        out: Folder for the report; none is written if not given. An earlier check there is replaced.
        junit: File for the verdicts as JUnit XML.
        markdown: File for the verdicts as Markdown, such as the summary of a pull request.
    """
    import msgspec

    from pellucid import audits, reports
    from pellucid.core import RequirementError, path_kind, write_atomic

    read = audits.Requirements(()) if requirements is None else audits.Requirements.load(requirements)
    demands = (*read.demands, *(audits.Requirement.parse(text, where="--require") for text in require))
    if not demands:
        raise RequirementError('nothing is required; add --require "accuracy >= 0.9", or --requirements with a file')
    for path in (junit, markdown):
        if path is not None and (path_kind(path) == "folder" or path_kind(path.parent) != "folder"):
            raise RequirementError(f"{path} cannot be written: give a file in a folder that exists")
    flags = {"budget": budget, "samples": samples, "seed": seed, "quick": quick or None, "confident": confident or None}
    given = {name: value for name, value in flags.items() if value is not None}
    asked = audits.Requirements(demands, msgspec.structs.replace(read.settings, **given))
    if not data:
        done = audits.check(_finished(Path(model)), asked)
    else:
        audits.check_known(demands)
        chosen = asked.settings
        drawing = Drawing(
            samples=audits.DEFAULT_SAMPLES if chosen.samples is None else chosen.samples,
            seed=chosen.seed or 0,
            split=split,
            label=label,
            skip_corrupt=skip_corrupt,
        )
        again = [] if requirements is None else [f"--requirements {shlex.quote(portable(str(requirements)))}"]
        again += [f"--require {shlex.quote(text)}" for text in require]
        again += [f"--set {shlex.quote(change)}" for change in set]
        done = _audited(model, data, asked, again, reading=reading, drawing=drawing, changes=set, out=out)
    if junit is not None:
        write_atomic(junit, reports.junit(done))
    if markdown is not None:
        write_atomic(markdown, reports.markdown(done))
    _show(done)
    if data and out is not None:
        say(f"\nreport: {out / 'index.html'}")
    return 0 if done.passed else 1


def _finished(folder: Path) -> Report:
    """Return the finished audit in a folder; without data nothing else can be checked."""
    from pellucid.core import RequirementError, path_kind
    from pellucid.reports import Report

    if path_kind(folder) not in ("file", "folder"):
        raise RequirementError(
            f"{folder} is no folder of a finished audit; to audit the model {folder} give the data too"
        )
    return Report.load(folder)


def _audited(
    model: str,
    data: str,
    asked: Requirements,
    again: list[str],
    *,
    reading: Reading,
    drawing: Drawing,
    changes: tuple[str, ...],
    out: Path | None,
) -> Check:
    from pellucid import audits
    from pellucid.audits import PlanMade

    from ._frame import show_plan, watch_event

    settings = asked.settings
    subject = make_subject(model, data, reading, drawing)
    options = [
        f"--budget {settings.budget or audits.DEFAULT_BUDGET} --samples {drawing.samples} --seed {drawing.seed}",
        *again,
        *options_text(reading, replace(drawing, samples=Drawing().samples, seed=Drawing().seed)),
        *["--quick"] * bool(settings.quick),
        *["--confident"] * bool(settings.confident),
    ]
    with bars() as advance:

        def watch(event: Event) -> None:
            if isinstance(event, PlanMade):
                show_plan(subject, event.plan)
            else:
                watch_event(event, advance)

        return audits.check(
            subject,
            asked,
            settings=changes,
            on_event=watch,
            out=out,
            command=" ".join(["pellucid check", *(shlex.quote(portable(spec)) for spec in (model, data)), *options]),
        )


def _show(done: Check) -> None:
    from pellucid.reports import measured

    rows = [(result.verdict, result.requirement, *measured(result)) for result in done.results]
    say(table(("verdict", "requirement", "measured", "95% interval"), rows))
    say()
    for result in done.results:
        if not result.passed or result.uncertain:
            say(f"{result.verdict}: {result.reason}" + (f" ({result.because})" if result.because else ""))
    say(done.answer)
