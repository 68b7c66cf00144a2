"""Why this answer on this input? An audit with one question, and the numbers behind it as a file of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

import pellucid
from pellucid.core import (
    ALONE,
    DataError,
    Effort,
    Finding,
    MissingExtra,
    Need,
    Number,
    Ranks,
    RunError,
    Stream,
    Subject,
    Work,
    number,
    numbers,
    read_json,
    write_json,
)
from pellucid.explain import Explanation
from pellucid.games import Interactions
from pellucid.reports import Report

from ._audit import audit
from ._events import OnEvent, unwatched
from .probes._explain import Explain
from .probes._explain_findings import Told

EXPLANATION_VERSION = 1
FILE = "explanation.json"
_MOST_BYTES = 4 * 2**30


class ExplainedSample(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The numbers of one sample.

    Args:
        sample: its id.
        label: number of its true class, None without labels.
        target: number of the class whose score is explained.
        target_name: what that class is called.
        score: the value with all players present, v(N).
        empty: the value with all players absent, v(empty).
        players: what to call each player.
        grid: rows and columns of the players, None without a grid.
        interactions: as `games.Interactions.to_dict` writes them; `sets` lists the players of each number.
        stderr: standard error of each number, 0 where exact.
        noise: size below which each number cannot be told from rounding or sampling.
        shapley: share of each player.
        shapley_stderr: its standard error, 0 where exact.
        sizes: numbers of players of the size curve.
        curve: mean value of the coalitions of each of these sizes.
        curve_stderr: its standard error, 0 where exact.
        variance: the part of the variance over all coalitions that interactions of 0, 1, 2, ... players make; empty
            where the game was sampled.
        evaluations: model evaluations spent.
    """

    sample: int
    label: int | None
    target: int
    target_name: str
    score: Number
    empty: Number
    players: tuple[str, ...]
    grid: tuple[int, int] | None
    interactions: dict[str, Any]
    stderr: tuple[Number, ...]
    noise: tuple[Number, ...]
    shapley: tuple[Number, ...]
    shapley_stderr: tuple[Number, ...]
    sizes: tuple[int, ...]
    curve: tuple[Number, ...]
    curve_stderr: tuple[Number, ...]
    variance: tuple[Number, ...]
    evaluations: int


class ExplanationFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `explanation.json` holds.

    Args:
        kind: "explanation".
        schema_version: version of this layout.
        pellucid_version: version of the library that made it.
        model, data: what they are called.
        digests: SHA-256 of the model's tensors and of the data.
        class_names: one per class.
        seed: root of all chance.
        value: what the numbers measure, such as "log odds".
        settings: every setting that changes the numbers.
        samples: the numbers, sample by sample.
    """

    kind: str = "explanation"
    schema_version: int = EXPLANATION_VERSION
    pellucid_version: str
    model: str
    data: str
    digests: dict[str, str]
    class_names: tuple[str, ...]
    seed: int
    value: str
    settings: dict[str, str | int | float | bool | None]
    samples: tuple[ExplainedSample, ...]


@dataclass(frozen=True)
class Explained:
    """What `explain` found.

    Args:
        report: the findings, as of an audit.
        file: all numbers; None where nothing could be explained, or where this is one shard of the work.
    """

    report: Report
    file: ExplanationFile | None

    @property
    def interactions(self) -> dict[int, Interactions]:
        """The interactions of each sample, by its id."""
        samples = () if self.file is None else self.file.samples
        return {one.sample: Interactions.from_dict(one.interactions) for one in samples}

    def save(self, folder: str | Path) -> Path:
        """Write the report and `explanation.json` into a folder; return the page's path."""
        page = self.report.save(folder)
        if self.file is not None:
            write_json(Path(folder) / FILE, self.file)
        return page

    def save_table(self, path: str | Path) -> Path:
        """Write one row per sample and interaction as a Parquet file. Needs pyarrow.

        Raises:
            MissingExtra: pyarrow is not installed.
            DataError: there are no numbers to write.
        """
        if self.file is None:
            raise DataError("there is no explanation to write as a table")
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError:
            raise MissingExtra('Parquet needs pyarrow: pip install "pellucid[arrow]"') from None
        rows = list(_rows(self.file))
        table = pyarrow.Table.from_pylist(rows, schema=pyarrow.schema(_columns(pyarrow)))
        parquet.write_table(table, Path(path))
        return Path(path)

    @classmethod
    def load(cls, folder: str | Path) -> Explained:
        """Read what `explain` left in a folder.

        Raises:
            RunError: there is no explanation.
        """
        folder = Path(folder)
        return cls(Report.load(folder), _load(folder / FILE))


def explain(
    subject: Subject,
    how: Explain | None = None,
    *,
    seed: int = 0,
    on_event: OnEvent = unwatched,
    out: str | Path | None = None,
    resume: bool = False,
    command: str = "",
    ranks: Ranks = ALONE.ranks,
    stored: Sequence[str | Path] = (),
) -> Explained:
    """Which parts of the inputs made the model's scores, alone and together?

    An audit with one question, planned, watched, kept and resumed as every other.

    Args:
        subject: the model and its samples.
        how: players, value, index, samples; see `Explain`.
        seed: root of all chance.
        on_event: told what happens, as in `audit`.
        out: run folder for the report and `explanation.json`.
        resume: continue the interrupted explanation in `out`.
        command: the command that makes the same report.
        ranks: which share of the work is this process's, as in `audit`.
        stored: folders of finished shards.

    Raises:
        DataError, BudgetError: settings that do not fit the subject.
        ModelError: the model answers for every pixel.
        RunError: `out` holds something else.

    Example:
        >>> import torch, pellucid
        >>> from pellucid.audits import Explain, explain
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
        >>> subject = pellucid.Subject(model, torch.rand(12, 1, 8, 8), torch.arange(12) % 3)
        >>> found = explain(subject, Explain(players="grid:2", samples=2))
        >>> [len(numbers.values) for numbers in found.interactions.values()]
        [11, 11]
    """
    path = None if out is None or not ranks.leads else Path(out) / FILE
    kept = Kept(how or Explain(), path, lambda told: _file(told, seed))
    report = audit(
        subject,
        budget=kept.need(subject, effort="full").wanted,
        seed=seed,
        probes=kept,
        on_event=on_event,
        out=out,
        resume=resume,
        command=command,
        ranks=ranks,
        stored=stored,
    )
    if kept.file is None and out is not None and report.findings:  # answered before an interruption
        kept.file = _load(Path(out) / FILE)
    return Explained(report, kept.file)


class Kept:
    """A probe with a hand on its numbers: they are written before the findings are, so that a finding has them.

    Args:
        probe: an `Explain` or an `ExplainGraph`.
        path: where the numbers are written; None for nowhere.
        file_of: makes the file of what the probe measured.
    """

    def __init__(self, probe: Any, path: Path | None, file_of: Callable[[Any], Any]) -> None:
        self.probe, self.path, self.file_of = probe, path, file_of
        self.name: str = probe.name
        self.question: str = probe.question
        self.file: Any = None

    def __repr__(self) -> str:
        return repr(self.probe)

    def need(self, subject: Subject, *, effort: Effort) -> Need:
        """Return what the probe needs."""
        need: Need = self.probe.need(subject, effort=effort)
        return need

    def __call__(self, subject: Subject, budget: int, rng: Stream, *, work: Work = ALONE) -> list[Finding]:
        told = self.probe.measured(subject, rng, work=work)
        self.file = self.file_of(told)
        if self.path is not None:
            write_json(self.path, self.file)
        findings: list[Finding] = self.probe.findings(told, rng)
        return findings


def _file(told: Told, seed: int) -> ExplanationFile:
    return ExplanationFile(
        pellucid_version=pellucid.__version__,
        model=told.subject.name,
        data=told.subject.data_name,
        digests=told.subject.digest(),
        class_names=told.subject.class_names,
        seed=seed,
        value=told.unit,
        settings=told.settings,
        samples=tuple(_sample(told, k, one) for k, one in enumerate(told.found)),
    )


def _sample(told: Told, k: int, one: Explanation) -> ExplainedSample:
    labels, found = told.subject.labels, one.interactions
    listed = Interactions(
        found.values,
        one.evaluations,
        told.names[k],
        index=found.index,
        n_players=found.n_players,
        sets=found.players,
        floor=found.floor,
    )
    return ExplainedSample(
        sample=int(told.subject.ids[k]),
        label=None if labels is None else int(labels[k]),
        target=int(told.classes[k]),
        target_name=told.class_name(k),
        score=number(one.score),
        empty=number(one.empty),
        players=told.names[k],
        grid=one.grid,
        interactions=listed.to_dict(),
        stderr=numbers(one.stderr),
        noise=numbers(one.noise()),
        shapley=numbers(one.shapley),
        shapley_stderr=numbers(one.shapley_stderr),
        sizes=tuple(one.sizes.tolist()),
        curve=numbers(one.curve),
        curve_stderr=numbers(one.curve_stderr),
        variance=() if one.variance is None else numbers(one.variance),
        evaluations=one.evaluations,
    )


def _load(path: Path) -> ExplanationFile:
    if not path.is_file():
        raise RunError(f"{path.parent} holds no explanation: its {FILE} is missing")
    found: ExplanationFile = read_json(path, ExplanationFile, max_bytes=_MOST_BYTES)
    if found.schema_version > EXPLANATION_VERSION:
        raise RunError(f"{path} was made by a newer Pellucid ({found.pellucid_version}); upgrade to open it")
    return found


def _columns(pyarrow: Any) -> list[tuple[str, Any]]:
    text, whole, real = pyarrow.string(), pyarrow.int64(), pyarrow.float64()
    return [
        ("sample", whole),
        ("label", whole),
        ("target", whole),
        ("target_name", text),
        ("index", text),
        ("players", pyarrow.list_(whole)),
        ("names", text),
        ("size", whole),
        ("value", real),
        ("stderr", real),
        ("noise", real),
    ]


def _rows(file: ExplanationFile) -> Iterator[dict[str, Any]]:
    for s in file.samples:
        found = s.interactions
        for players, value, stderr, noise in zip(found["sets"], found["values"], s.stderr, s.noise, strict=True):
            yield {
                "sample": s.sample,
                "label": s.label,
                "target": s.target,
                "target_name": s.target_name,
                "index": found["index"],
                "players": players,
                "names": " + ".join(s.players[p] for p in players),
                "size": len(players),
                "value": value,
                "stderr": stderr,
                "noise": noise,
            }
