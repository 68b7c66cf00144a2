"""Which few combinations of parts made an answer? An audit with one question, and the graphs as a file of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

import pellucid
from pellucid.core import ALONE, Graph, Ranks, RunError, Subject, read_json, write_json
from pellucid.explain import AndOrGraph
from pellucid.reports import Report, save_graph

from ._audit import audit
from ._events import OnEvent, unwatched
from ._explain import Kept
from .probes._explain_graph import ExplainGraph
from .probes._explain_graph_findings import ToldGraphs

GRAPH_VERSION = 1
FILE = "graph.json"
_MOST_BYTES = 4 * 2**30


class GraphSample(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The graph of one sample.

    Args:
        sample: its id.
        label: number of its true class, None without labels.
        target: number of the class whose score is explained.
        target_name: what that class is called.
        graph: as `AndOrGraph.to_dict` writes it, every effect and the whole path in it.
        other: the graph that it is compared with, None if none.
    """

    sample: int
    label: int | None
    target: int
    target_name: str
    graph: dict[str, Any]
    other: dict[str, Any] | None = None


class GraphFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `graph.json` holds.

    Args:
        kind: "graphs".
        schema_version: version of this layout.
        pellucid_version: version of the library that made it.
        model, data: what they are called.
        digests: SHA-256 of the model's tensors and of the data.
        class_names: one per class.
        seed: root of all chance.
        value: what effects measure, such as "log odds".
        second: what the other graphs are of; empty if there are none.
        settings: every setting that changes the numbers.
        samples: the graphs, sample by sample.
    """

    kind: str = "graphs"
    schema_version: int = GRAPH_VERSION
    pellucid_version: str
    model: str
    data: str
    digests: dict[str, str]
    class_names: tuple[str, ...]
    seed: int
    value: str
    second: str = ""
    settings: dict[str, str | int | float | bool | None]
    samples: tuple[GraphSample, ...]

    @property
    def graphs(self) -> dict[int, AndOrGraph]:
        """The graph of each sample, by its id."""
        return {one.sample: AndOrGraph.from_dict(one.graph) for one in self.samples}


@dataclass(frozen=True)
class ExplainedGraphs:
    """What `explain_graph` found.

    Args:
        report: the findings, as of an audit.
        file: all graphs; None where nothing could be explained, or where this is one shard of the work.
    """

    report: Report
    file: GraphFile | None

    @property
    def graphs(self) -> dict[int, AndOrGraph]:
        """The graph of each sample, by its id."""
        return {} if self.file is None else self.file.graphs

    @property
    def drawings(self) -> dict[int, Graph]:
        """The drawing of each sample's graph, by its id, for `reports.save_graph`."""
        return {
            finding.provenance.sample_ids[0]: exhibit
            for finding in self.report.findings
            for exhibit in reversed(finding.exhibits)  # the sample's own comes before the one it is compared with
            if isinstance(exhibit, Graph)
        }

    def save(self, folder: str | Path) -> Path:
        """Write the report and `graph.json` into a folder; return the page's path."""
        page = self.report.save(folder)
        if self.file is not None:
            write_json(Path(folder) / FILE, self.file)
        return page

    def export(self, folder: str | Path, kinds: Sequence[str]) -> tuple[Path, ...]:
        """Write each drawing as `graph-ID.KIND` into a folder; return the files.

        Args:
            folder: an existing folder.
            kinds: of "svg", "png", "graphml" and "json".

        Raises:
            ValueError: another kind.
            MissingExtra: PNG needs matplotlib.
        """
        return tuple(
            save_graph(drawing, Path(folder) / f"graph-{sample}.{kind}")
            for sample, drawing in self.drawings.items()
            for kind in kinds
        )

    @classmethod
    def load(cls, folder: str | Path) -> ExplainedGraphs:
        """Read what `explain_graph` left in a folder.

        Raises:
            RunError: there are no graphs.
        """
        return cls(Report.load(folder), load_graphs(Path(folder)))


def explain_graph(
    subject: Subject,
    how: ExplainGraph | None = None,
    *,
    seed: int = 0,
    on_event: OnEvent = unwatched,
    out: str | Path | None = None,
    resume: bool = False,
    command: str = "",
    ranks: Ranks = ALONE.ranks,
    stored: Sequence[str | Path] = (),
) -> ExplainedGraphs:
    """Which few combinations of parts made the model's scores?

    An audit with one question, planned, watched, kept and resumed as every other.

    Args:
        subject: the model and its samples.
        how: players, value, logic, samples, what to compare with; see `ExplainGraph`.
        seed: root of all chance.
        on_event: told what happens, as in `audit`.
        out: run folder for the report and `graph.json`.
        resume: continue the interrupted explanation in `out`.
        command: the command that makes the same report.
        ranks: which share of the work is this process's, as in `audit`.
        stored: folders of finished shards.

    Raises:
        DataError, BudgetError: settings that do not fit the subject.
        RunError: `out` holds something else.

    Example:
        >>> import torch, pellucid
        >>> from pellucid.audits import ExplainGraph, explain_graph
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
        >>> subject = pellucid.Subject(model, torch.rand(12, 1, 8, 8), torch.arange(12) % 3)
        >>> found = explain_graph(subject, ExplainGraph(players="grid:2", samples=2, value="logit"))
        >>> [max(len(p.players) for p in graph.patterns) for graph in found.graphs.values()]  # a sum has no pairs
        [1, 1]
    """
    path = None if out is None or not ranks.leads else Path(out) / FILE
    kept = Kept(how or ExplainGraph(), path, lambda told: _file(told, seed))
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
        kept.file = load_graphs(Path(out))
    return ExplainedGraphs(report, kept.file)


def _file(told: ToldGraphs, seed: int) -> GraphFile:
    subject = told.subject
    return GraphFile(
        pellucid_version=pellucid.__version__,
        model=subject.name,
        data=subject.data_name,
        digests=subject.digest(),
        class_names=subject.class_names,
        seed=seed,
        value=told.unit,
        second=told.second,
        settings=told.settings,
        samples=tuple(
            GraphSample(
                sample=int(subject.ids[k]),
                label=None if subject.labels is None else int(subject.labels[k]),
                target=int(told.classes[k]),
                target_name=told.class_name(k),
                graph=graph.to_dict(),
                other=told.others[k].to_dict() if told.others else None,
            )
            for k, graph in enumerate(told.graphs)
        ),
    )


def load_graphs(folder: Path) -> GraphFile:
    """Read the graphs beside a report.

    Raises:
        RunError: there are none.
    """
    path = folder / FILE
    if not path.is_file():
        raise RunError(f"{folder} holds no graphs: its {FILE} is missing")
    found: GraphFile = read_json(path, GraphFile, max_bytes=_MOST_BYTES)
    if found.schema_version > GRAPH_VERSION:
        raise RunError(f"{path} was made by a newer Pellucid ({found.pellucid_version}); upgrade to open it")
    return found


def graphs_beside(report: str | Path) -> GraphFile | None:
    """Return the graphs that `explain_graph` left beside a report; None where it left none.

    Args:
        report: the run's folder, or its report.json.

    Raises:
        RunError, DataError: there are graphs, but they cannot be read.
    """
    folder = Path(report) if Path(report).is_dir() else Path(report).parent
    return load_graphs(folder) if (folder / FILE).is_file() else None
