"""Ask every question of the plan in turn, keep what was answered, and make a report of it."""

from __future__ import annotations

import hashlib
import shlex
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import torch

import pellucid
from pellucid.core import ALONE, Finding, PellucidError, Probe, Ranks, RunError, RunFolder, Stream, Subject, Work
from pellucid.reports import Failed, Planned, Report, Skipped, SubjectCard

from ._events import (
    OnEvent,
    PlanMade,
    ProbeDone,
    ProbeFailed,
    ProbeSkipped,
    ProbeStarted,
    ProbeStep,
    unwatched,
)
from ._plan import DEFAULT_BUDGET, Plan, Probes, chosen, plan, usual_probes
from ._settings import changed_settings
from .probes import MORE, PROBES


def audit(
    subject: Subject,
    *,
    budget: int = DEFAULT_BUDGET,
    seed: int = 0,
    quick: bool = False,
    probes: Probes | None = None,
    skip: str | Sequence[str] = (),
    on_event: OnEvent = unwatched,
    out: str | Path | None = None,
    resume: bool = False,
    command: str = "",
    ranks: Ranks = ALONE.ranks,
    stored: Sequence[str | Path] = (),
) -> Report:
    """What has this model learned, and where does it break?

    Runs the planned probes one after the other. A probe that cannot answer (a `PellucidError`) is listed as skipped
    with its reason; one that breaks is listed as failed. The report is a pure function of model, data, settings and
    seed: it does not depend on the batch size, on `out`, on interruptions or on how many processes there were.

    Args:
        subject: the model and its samples.
        budget: model evaluations for the whole audit (one forward of one sample; a gradient counts two).
        seed: root of all chance.
        quick: fewer samples and contexts, wider intervals.
        probes: the probes to run, by name or as objects such as `Robustness(radii={"linf": (0.1,)})`; `usual_probes` if
            not given.
        skip: names of probes to leave out.
        on_event: told what happens: `PlanMade`, `ProbeStarted`, `ProbeStep`, `ProbeDone`, ...
        out: run folder; the report is saved there after each probe, so an interruption leaves a valid partial report.
        resume: continue the interrupted audit in `out`; what is finished is not computed again.
        command: the command that makes the same report, for the report's last page.
        ranks: which share of the work is this process's: `Ranks.here()` under `torchrun`, where the leading process
            writes the report; `Ranks.shard("3/40")` for one of many processes that do not know of each other.
        stored: folders of finished shards of this audit, whose work is taken and not done again.

    Raises:
        BudgetError: the budget answers no question; the text gives the least that works.
        RunError: `out` is not an audit's folder, or holds an audit of something else; `stored` has a foreign shard.
        KeyboardInterrupt: passed on, after the partial report was saved.

    Example:
        >>> import torch, pellucid
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
        >>> subject = pellucid.Subject(model, torch.rand(12, 1, 8, 8), torch.arange(12) % 3)
        >>> report = pellucid.audit(subject, probes=["accuracy"])
        >>> report.findings[0].question
        'How often is the model right, and for which classes?'
    """
    made = plan(subject, budget=budget, effort="quick" if quick else "full", probes=probes, skip=skip)
    asked = chosen(probes or usual_probes(subject), skip)
    empty = _empty_report(subject, made, asked, seed=seed, command=command)
    shards = tuple(Path(folder) for folder in stored)
    for folder in shards:
        _check_shard(folder, empty)
    work = Work(stored=tuple(folder / PARTS for folder in shards), ranks=ranks, key=_key(empty))
    if ranks.count > 1 and not ranks.together:
        empty = msgspec.structs.replace(empty, settings=empty.settings | {"shard": str(ranks)})
    session = _Session(subject, asked, seed, empty, on_event, work)
    with ranks.joined(), ExitStack() as held:
        if out is not None:
            session.work = replace(work, folder=Path(out) / PARTS)

            def take() -> Report:
                again = resume or ranks.restarted
                folder = RunFolder.create(Path(out), kind="audit", command=command, resume=again)
                session.folder = held.enter_context(folder)
                return _finished(folder.path, empty) if again else empty

            session.finished = ranks.lead(take)
        return session.run(made)


PARTS = "parts"
"""Where a run folder keeps what is finished of a question; gone when the audit is complete, but not in a shard."""


@dataclass
class _Session:
    """One audit on its way; the only mutable thing here, so that an interruption finds the state to save."""

    subject: Subject
    probes: Mapping[str, Probe]
    seed: int
    report: Report
    on_event: OnEvent
    work: Work
    folder: RunFolder | None = None
    finished: Report | None = None

    def run(self, made: Plan) -> Report:
        """Run the planned probes; save after each."""
        self.on_event(PlanMade(made))
        try:
            for row in made.rows:
                self._answer(row)
                self._save(complete=False)
        except (KeyboardInterrupt, MemoryError, OSError, torch.OutOfMemoryError):
            self._abandon(made)
            raise
        if "shard" in self.report.settings:
            return self._save(complete=False)
        report = self._save(complete=True)
        if self.folder is not None:
            shutil.rmtree(self.folder.path / PARTS, ignore_errors=True)
        return report

    def _answer(self, row: Planned) -> None:
        if row.skip:
            self._skip(row, row.skip)
            return
        kept = () if self.finished is None else tuple(f for f in self.finished.findings if f.probe == row.probe)
        if kept:
            self._add(findings=kept)
            self.on_event(ProbeDone(row.probe, kept, 0.0, reused=True))
            return
        self.on_event(ProbeStarted(row.probe, row.granted))
        start = time.perf_counter()
        rng = Stream(self.seed).child("audit", row.probe)
        try:
            with nullcontext() if self.folder is None else self.folder.timed(row.probe):
                found = self._ask(row, rng)
        except PellucidError as reason:
            self._skip(row, str(reason))
        except (MemoryError, OSError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            self._add(failed=(Failed(probe=row.probe, question=row.question, error=text),))
            self.on_event(ProbeFailed(row.probe, error))
        else:
            chosen = changed_settings(self.probes[row.probe])
            findings = tuple(_stamped(finding, self.seed, chosen, self.report.command) for finding in found)
            self._add(findings=findings)
            self.on_event(ProbeDone(row.probe, findings, time.perf_counter() - start))

    def _ask(self, row: Planned, rng: Stream) -> list[Finding]:
        def step(done: int, total: int) -> None:
            self.on_event(ProbeStep(row.probe, done, total))

        def clock(part: str) -> AbstractContextManager[None]:
            return nullcontext() if self.folder is None else self.folder.timed(f"{row.probe}: {part}")

        work = replace(self.work, on_step=step, clock=clock)
        return self.probes[row.probe](self.subject, row.granted, rng, work=work)

    def _skip(self, row: Planned, reason: str) -> None:
        self._add(skipped=(Skipped(probe=row.probe, question=row.question, reason=reason),))
        self.on_event(ProbeSkipped(row.probe, reason))

    def _add(
        self,
        *,
        findings: tuple[Finding, ...] = (),
        skipped: tuple[Skipped, ...] = (),
        failed: tuple[Failed, ...] = (),
    ) -> None:
        old = self.report
        self.report = msgspec.structs.replace(
            old,
            findings=old.findings + findings,
            skipped=old.skipped + skipped,
            failed=old.failed + failed,
        )

    def _save(self, *, complete: bool) -> Report:
        self.report = msgspec.structs.replace(self.report, complete=complete)
        if self.folder is not None:
            self.report.save(self.folder.path)
        return self.report

    def _abandon(self, made: Plan) -> None:
        """Save what there is; the questions not reached are listed with the way to have them answered."""
        old = self.report
        known = {f.probe for f in old.findings} | {s.probe for s in old.skipped} | {f.probe for f in old.failed}
        reason = "the audit was interrupted before this was answered; run it again with --resume to continue"
        missing = tuple(
            Skipped(probe=row.probe, question=row.question, reason=reason)
            for row in made.rows
            if row.probe not in known
        )
        self._add(skipped=missing)
        self._save(complete=False)


def _empty_report(subject: Subject, made: Plan, probes: Mapping[str, Probe], *, seed: int, command: str) -> Report:
    # A probe of one's own is named with its settings, so that another choice of them is not taken for the same audit.
    own = {name: repr(probe) for name, probe in probes.items() if probe != (PROBES | MORE).get(name)}
    return Report(
        pellucid_version=pellucid.__version__,
        subject=_card(subject),
        settings={
            "budget": made.budget,
            "effort": made.effort,
            "seed": seed,
            "samples": len(subject),
            "probes": ", ".join(own.get(row.probe, row.probe) for row in made.rows),
        },
        plan=made.rows,
        complete=False,
        command=command,
    )


def _card(subject: Subject) -> SubjectCard:
    digests = subject.digest()
    for name, surrogate in subject.surrogates.items():
        digests[f"surrogate {name}"] = replace(subject, model=surrogate, surrogates={}).digest()["model"]
    return SubjectCard(
        model=subject.name,
        data=subject.data_name,
        modality=subject.modality,
        n_samples=len(subject),
        n_classes=subject.n_classes,
        class_names=subject.class_names,
        input_shape=tuple(subject.inputs.shape[1:]),
        parameters=sum(p.numel() for p in subject.model.parameters()),
        digests=digests,
        notes=subject.notes,
    )


def _key(report: Report) -> str:
    """Return what tells the parts of this audit from those of another one."""
    told = (report.pellucid_version, report.subject.digests, report.settings, report.plan)
    return hashlib.sha256(msgspec.json.encode(told, order="sorted")).hexdigest()


def _finished(folder: Path, now: Report) -> Report:
    """Return what an earlier audit of the same things left in `folder`, or say what is different."""
    if not (folder / "report.json").is_file():
        return now
    before = Report.load(folder)
    if what := _other(before, now):
        raise RunError(
            f"{folder} holds an audit with another {what}; give the same to resume it, or choose another folder"
        )
    return before


def _check_shard(folder: Path, now: Report) -> None:
    shard = Report.load(folder)
    settings = {name: value for name, value in shard.settings.items() if name != "shard"}
    if what := _other(msgspec.structs.replace(shard, settings=settings), now):
        raise RunError(f"{folder} is a shard of an audit with another {what}; merge shards of one audit only")


def _other(before: Report, now: Report) -> str:
    """Return what makes two audits different ones; empty if nothing does."""
    if (before.subject.model, before.subject.data) != (now.subject.model, now.subject.data):
        return "model or data"
    # Before the digests: other samples are other data too, and the reader must hear which option to give again.
    old, new = before.settings, now.settings
    if changed := [name for name in _SETTINGS if old.get(name) != new.get(name)]:
        return " and ".join(_SETTINGS[name].format(old.get(name), new.get(name)) for name in changed)
    pairs = {
        "model or data": (before.subject, now.subject),
        "settings": (old, new),
        "plan": (before.plan, now.plan),
        "version of Pellucid": (before.pellucid_version, now.pellucid_version),
    }
    return next((what for what, (one, two) in pairs.items() if one != two), "")


_SETTINGS = {
    "samples": "number of samples ({}, now {})",
    "seed": "seed ({}, now {})",
    "budget": "budget ({}, now {})",
    "effort": "effort ({}, now {})",
    "shard": "shard ({}, now {})",
    "probes": "choice of probes or of their settings",
}


_SUBJECT = " MODEL DATA"
"""How probes name their own subject in a command; they need not know what it is called on the command line."""

_VERBS = ("pellucid audit ", "pellucid check ", "pellucid robustness ")

_OWN = dict.fromkeys(
    ("attacks", "budget", "samples", "seed", "probe", "skip", "set", "out", "require", "requirements"), 1
)
_OWN = {f"--{name}": values for name, values in (_OWN | dict.fromkeys(("quick", "confident", "no-explain"), 0)).items()}
"""Options of the command that made this report, with their number of values, which the next one chooses itself."""


def _stamped(finding: Finding, seed: int, chosen: Mapping[str, object], command: str) -> Finding:
    """Write into a finding what the probe need not know.

    That is the seed, the versions, the probe's changed settings, and the subject's name in its command.
    """
    versions = {"pellucid": pellucid.__version__, "torch": str(torch.__version__), "numpy": np.__version__}
    settings = dict(finding.provenance.settings)
    if chosen:
        settings["chosen settings"] = ", ".join(f"{name} = {_portable(value)}" for name, value in chosen.items())
    provenance = msgspec.structs.replace(finding.provenance, seed=seed, versions=versions, settings=settings)
    advice = finding.advice
    if advice is not None and _SUBJECT in advice.command and (asked := _subject_of(command)):
        kept = "".join(
            f" --set {shlex.quote(change)}" for change in _changes_of(command, finding.probe, advice.command)
        )
        again = "".join((advice.command.replace(_SUBJECT, f" {asked[0]}", 1), kept, asked[1]))
        advice = msgspec.structs.replace(advice, command=again)
    return msgspec.structs.replace(finding, provenance=provenance, advice=advice)


def _portable(value: object) -> object:
    """Return a setting without the folders of this machine: they say nothing to another reader."""
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _subject_of(command: str) -> tuple[str, str] | None:
    """Return the same model and data as words of a command, and the options that say how to read them."""
    words = shlex.split(command) if command.startswith(_VERBS) else []
    if len(words) < 4:
        return None
    kept, rest = [], iter(words[4:])
    for word in rest:
        name, _, value = word.partition("=")
        if name not in _OWN:
            kept.append(word)
        elif _OWN[name] and not value:
            next(rest, None)
    return shlex.join(words[2:4]), "".join(f" {shlex.quote(word)}" for word in kept)


def _changes_of(command: str, probe: str, advised: str) -> list[str]:
    """Return the changed settings of a probe in a command, but for those that the advised one chooses itself.

    A command that asks another probe has no use for them.
    """
    if f"--probe {probe}" not in advised:
        return []

    def changes(words: list[str]) -> list[str]:
        return [change for flag, change in pairwise(words) if flag == "--set"]

    chosen = {change.partition("=")[0] for change in changes(shlex.split(advised))}
    return [
        change
        for change in changes(shlex.split(command))
        if change.startswith(f"{probe}.") and ".".join(change.partition("=")[0].split(".")[:2]) not in chosen
    ]
