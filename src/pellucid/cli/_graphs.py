"""`pellucid explain MODEL DATA --graph`: the few combinations of parts that make each score."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from ._console import say, table

if TYPE_CHECKING:
    from pellucid.audits import ExplainedGraphs

SHOWN, TOP = 3, 5
KINDS = ("svg", "png", "graphml", "json")


def _flag(text: str) -> Any:
    return tyro.conf.arg(help=text)


@dataclass(frozen=True)
class Graphs:
    """Options of graphs."""

    graph: Annotated[bool, _flag("Draw the And-Or graph: the few combinations of parts that make each score.")] = False
    logic: Annotated[str, _flag("Patterns of the graph: and, or and-or.")] = "and"
    learn_baseline: Annotated[
        bool, _flag("Learn what absent players show, near the fill, so that patterns become fewer and weaker.")
    ] = False
    explained: Annotated[float, _flag("Share of variance over all masked versions that patterns are to explain.")] = (
        0.95
    )
    max_patterns: Annotated[int, _flag("Most patterns to keep.")] = 80
    export: Annotated[str, _flag("Write each graph as svg, png, graphml or json too, several with commas.")] = ""
    against: Annotated[str, _flag("Another model on the same samples, whose patterns are compared.")] = ""
    attack: Annotated[str, _flag("Compare with attacked inputs, such as linf:8/255 or l2:0.5.")] = ""

    def kinds(self) -> tuple[str, ...]:
        """Return the kinds of files that are asked for, checked before any work.

        Raises:
            DataError: another kind, or a missing program for one.
        """
        from importlib.util import find_spec

        from pellucid.core import DataError, MissingExtra

        kinds = tuple(dict.fromkeys(kind.strip().lower() for kind in self.export.split(",") if kind.strip()))
        for kind in kinds:
            if kind not in KINDS:
                raise DataError(f"--export takes {', '.join(KINDS)}, got {kind!r}")
        if "png" in kinds and find_spec("matplotlib") is None:
            raise MissingExtra('PNG files need matplotlib: pip install "pellucid[plots]"')
        return kinds

    def changed(self) -> dict[str, Any]:
        """Return the options that are not as they usually are, by their flags."""
        return {
            f"--{field.name.replace('_', '-')}": getattr(self, field.name)
            for field in fields(self)
            if getattr(self, field.name) != field.default
        }

    def words(self) -> list[str]:
        """Return the options as they are typed."""
        return [
            flag if value is True else f"{flag} {shlex.quote(str(value))}" for flag, value in self.changed().items()
        ]


GraphOptions = Annotated[Graphs, tyro.conf.arg(name="graphs"), tyro.conf.OmitArgPrefixes]


def show_graphs(found: ExplainedGraphs) -> None:
    """Print the strongest patterns of the first samples."""
    for entry in found.report.skipped:
        say(f"[skipped] {entry.reason}")
    for broken in found.report.failed:
        say(f"[failed] {broken.error}")
    if found.file is None:
        return
    answers = {finding.name: finding.answer for finding in found.report.findings}
    say(answers["graph"])
    graphs = found.graphs
    for one in found.file.samples[:SHOWN]:
        say()
        say(answers[f"graph-{one.sample}"])
        graph = graphs[one.sample]
        if graph.patterns:
            header = (f"sample {one.sample}: {one.target_name}", found.file.value, "")
            rows = [
                (
                    graph.label(p.players, p.kind),
                    f"{p.effect:+.3g}",
                    "within noise" if abs(p.effect) <= p.noise else "any of them" if p.kind == "or" else "",
                )
                for p in graph.patterns[:TOP]
            ]
            say(table(header, rows))
    if (more := len(found.file.samples) - SHOWN) > 0:
        say(f"\nand {more} more in the report")


def export(found: ExplainedGraphs, folder: Path, kinds: tuple[str, ...]) -> None:
    """Write the graphs as files beside the report, and say so."""
    written = found.export(folder, kinds)
    if written:
        say(f"\ngraphs: {written[0]}" + (f" and {len(written) - 1} more" if len(written) > 1 else ""))
