"""`pellucid audit MODEL DATA`: plan, ask, report."""

from __future__ import annotations

import difflib
import re
import shlex
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from ._console import Advance, bars, say, table, warn

if TYPE_CHECKING:
    from pellucid.audits import Event, Plan
    from pellucid.core import Subject
    from pellucid.models import Loaded
    from pellucid.reports import Report


def audit(
    model: Annotated[str, tyro.conf.Positional],
    data: Annotated[str, tyro.conf.Positional],
    /,
    *,
    budget: int = 400_000,
    samples: int = 500,
    probe: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    skip: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    seed: int = 0,
    device: str = "cpu",
    out: Path | None = None,
    resume: bool = False,
    quick: bool = False,
    plan: bool = False,
    surrogate: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    skip_corrupt: bool = False,
) -> int:
    """Audit a model on data and write a report.

    Prints the plan, asks each question within its share of the budget, prints the findings and says where the report
    is. Ctrl-C keeps what was answered; --resume continues it.

    Args:
        model: A shipped model (`pellucid models list`), or FILE.py:FACTORY, or FILE.py:FACTORY@WEIGHTS.safetensors.
        data: A data set (`pellucid data list`), a folder with one folder of images per class, or a .npz file with
            the arrays `inputs` and `labels`.
        budget: Model evaluations to spend: one forward of one sample is one, a gradient counts two.
        samples: How many samples to audit on, drawn evenly from the classes.
        probe: Ask only this question (`pellucid probes list`); may be given several times.
        skip: Leave this question out; may be given several times.
        seed: Root of all chance: the same seed gives the same report.
        device: Where to compute: cpu, cuda, cuda:1, ...
        out: Folder for the report; runs/MODEL-DATA if not given.
        resume: Continue the interrupted audit in the folder.
        quick: Fewer samples, wider intervals: a first look in well under a minute for a small model.
        plan: Only print the plan.
        surrogate: Another model of the same task, to test whether attacks made on it transfer; may be repeated.
        skip_corrupt: Leave out images that cannot be read instead of stopping.
    """
    from pellucid import audits
    from pellucid.core import DataError, RunFolder

    _check_names(probe, skip)
    if samples < 1:
        raise DataError(f"--samples must be at least 1, got {samples}")
    folder = out if out is not None else Path("runs") / f"{_slug(model)}-{_slug(data)}"
    if not plan and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        RunFolder.create(folder, kind="audit", resume=resume)  # says what is wrong before any work is done
    subject = _subject(model, data, samples, seed, device, surrogate, skip_corrupt)
    made = audits.plan(subject, budget=budget, effort="quick" if quick else "full", probes=probe or None, skip=skip)
    _show_plan(subject, made)
    if plan:
        return 0
    command = _command(
        model,
        data,
        [f"--budget {budget} --samples {samples} --seed {seed}"]
        + [f"--probe {name}" for name in probe]
        + [f"--skip {name}" for name in skip]
        + [f"--surrogate {_portable(name)}" for name in surrogate]
        + ["--quick"] * quick
        + ["--skip-corrupt"] * skip_corrupt,
    )
    try:
        with bars() as advance:
            report = audits.audit(
                subject,
                budget=budget,
                seed=seed,
                quick=quick,
                probes=probe or None,
                skip=skip,
                on_event=lambda event: _watch(event, advance),
                out=folder,
                resume=resume,
                command=command,
            )
    except KeyboardInterrupt:
        warn(f"interrupted; what was answered is in {folder / 'index.html'}, --resume continues")
        return 130
    _show_findings(report)
    say(f"\nreport: {folder / 'index.html'}")
    return 1 if report.failed else 0


def _check_names(probes: tuple[str, ...], skip: tuple[str, ...]) -> None:
    from pellucid.audits import PROBES
    from pellucid.core import PellucidError

    for name in (*probes, *skip):
        if name not in PROBES:
            near = difflib.get_close_matches(name, PROBES, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the probes are {', '.join(PROBES)}"
            raise PellucidError(f"there is no probe {name!r}; {hint}")
    if set(probes or PROBES) <= set(skip):
        raise PellucidError("no probe is left to run; skip fewer of them")


def _subject(
    model: str, data: str, samples: int, seed: int, device: str, surrogates: tuple[str, ...], skip_corrupt: bool
) -> Subject:
    from pellucid import data as sources
    from pellucid import models
    from pellucid.core import Stream, Subject

    loaded = models.load(model, device=device)
    dataset = sources.load(data, split="test", skip_corrupt=skip_corrupt)
    dataset = sources.sample(dataset, min(samples, len(dataset)), rng=Stream(seed).child("samples"))
    notes = [dataset.note] if dataset.note else []
    return Subject(
        loaded.model,
        sources.unit(dataset.inputs),
        dataset.labels,
        bounds=dataset.bounds,
        modality=dataset.modality,
        class_names=dataset.class_names or loaded.class_names,
        ids=dataset.ids,
        name=loaded.name,
        data_name=dataset.name,
        surrogates={name: models.load(name, device=device).model for name in surrogates},
        notes=(*notes, *_strangers(loaded, dataset.class_names)),
        feature_names=dataset.feature_names,
    )


def _strangers(loaded: Loaded, names: tuple[str, ...]) -> list[str]:
    """Return a note when the data calls the classes otherwise than the model: labels may then mean something else."""
    known = loaded.class_names
    if not known or not names or known == names:
        return []
    return [
        f"The model's classes are {', '.join(known)}; the data's are {', '.join(names)}: check that they come in the "
        "same order, or every accuracy is meaningless."
    ]


def _slug(spec: str) -> str:
    """Return a spec as part of a folder's name: `nets/my.py:make@w.safetensors` gives `my-make`."""
    path, _, factory = spec.partition("@")[0].partition(":")
    words = [Path(path).stem or "data", factory]
    return re.sub(r"[^A-Za-z0-9._]+", "-", "-".join(word for word in words if word)).strip("-.") or "data"


def _portable(spec: str) -> str:
    """Return a spec without the folders of this machine: an absolute path says nothing to another reader."""
    return "@".join(Path(part).name if Path(part).is_absolute() else part for part in spec.split("@"))


def _command(model: str, data: str, options: list[str]) -> str:
    return " ".join(["pellucid audit", shlex.quote(_portable(model)), shlex.quote(_portable(data)), *options])


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
    say(table(("probe", "evaluations", "at most", "memory", "remark"), rows))
    say(f"in all {made.granted:,} of {made.budget:,} evaluations, at most {_duration(made.granted * pace)}\n")


def _duration(seconds: float) -> str:
    if seconds < 1:
        return "1 s"
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min"


def _size(memory: int) -> str:
    return f"{max(1, round(memory / 2**20)):,} MiB"


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
