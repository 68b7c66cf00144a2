"""Do two runs hold the same concepts? Their And-Or graphs, sample by sample and pattern by pattern."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pellucid.core import Axis, Curve, Exhibit, Graph, Line, Table, numbers
from pellucid.explain import compare_graphs
from pellucid.reports import Report

from ._explain_graph import GraphFile
from ._graphs import matched
from ._wording import brief, count

SHOWN = 3
"""Samples whose patterns are listed."""

DRAWN_ONLY = (
    "Concepts are compared by the patterns drawn in both reports; `pellucid explain --graph` keeps all of them, and "
    "`pellucid compare` of two such runs compares all."
)


@dataclass(frozen=True)
class Matched:
    """What two runs' graphs have in common: pictures and tables, a sentence, and what limits it; empty if nothing."""

    exhibits: tuple[Exhibit, ...] = ()
    answer: str = ""
    cautions: tuple[str, ...] = ()


def match_graphs(
    before: Report, after: Report, graphs: tuple[GraphFile, GraphFile] | None, names: tuple[str, str]
) -> Matched:
    """Return what the graphs of the same samples have in common.

    Args:
        before, after: the two reports.
        graphs: all graphs of both; if not given, those drawn in the reports serve.
        names: what to call the two runs.
    """
    if graphs is not None:
        return _of_files(*graphs, names)
    return _of_drawings(before, after, names)


def _of_files(first: GraphFile, second: GraphFile, names: tuple[str, str]) -> Matched:
    others = {one.sample: one for one in second.samples}
    own, their = first.graphs, second.graphs
    jaccard: dict[str, float] = {}
    tables: list[Table] = []
    left_out = 0
    for one in first.samples:
        other = others.get(one.sample)
        a, b = own[one.sample], their.get(one.sample)
        if other is None or b is None:
            continue
        if (a.names, a.logic, one.target) != (b.names, b.logic, other.target):
            left_out += 1
            continue
        found = compare_graphs(a, b)
        label = f"sample {one.sample}, {one.target_name}"
        jaccard[label] = found.jaccard
        if len(tables) < SHOWN:
            tables.append(matched(a, found, names, title=f"Patterns matched: {label}"))
    cautions = []
    if left_out:
        cautions.append(
            f"On {count(left_out, 'sample')} the two runs explain other classes or have other players, so that their "
            "concepts are not compared; --of label explains the true class in both."
        )
    return _told(jaccard, tables, names, tuple(cautions))


def _of_drawings(before: Report, after: Report, names: tuple[str, str]) -> Matched:
    first, second = _drawings(before), _drawings(after)
    jaccard: dict[str, float] = {}
    tables: list[Table] = []
    for title in first.keys() & second.keys():
        a, b = _patterns(first[title]), _patterns(second[title])
        keys = sorted(a.keys() | b.keys(), key=lambda key: -max(abs(a.get(key, 0.0)), abs(b.get(key, 0.0))))
        most = sum(max(abs(a.get(key, 0.0)), abs(b.get(key, 0.0))) for key in keys)
        least = sum(min(abs(a.get(key, 0.0)), abs(b.get(key, 0.0))) for key in keys)
        label = title.removeprefix("What makes ")
        jaccard[label] = least / most if most else math.nan
        rows = tuple((key[1], key[0], a.get(key), b.get(key)) for key in keys[:20])
        tables.append(Table(title=f"Patterns matched: {label}", columns=("pattern", "kind", *names), rows=rows))
    order = sorted(jaccard)
    tables = sorted(tables, key=lambda table: table.title)[:SHOWN]
    return _told({label: jaccard[label] for label in order}, tables, names, (DRAWN_ONLY,) if jaccard else ())


def _drawings(report: Report) -> dict[str, Graph]:
    found = [e for finding in report.findings for e in finding.exhibits if isinstance(e, Graph)]
    return {graph.title: graph for graph in reversed(found)}


def _patterns(graph: Graph) -> dict[tuple[str, str], float]:
    return {
        ("or" if node.kind == "or" else "and", node.label): node.weight
        for node in graph.nodes
        if node.kind in ("pattern", "or") and node.weight is not None
    }


def _told(jaccard: dict[str, float], tables: list[Table], names: tuple[str, str], cautions: tuple[str, ...]) -> Matched:
    known = {label: value for label, value in jaccard.items() if math.isfinite(value)}
    if not known:
        return Matched(cautions=cautions)
    bars = Curve(
        title="How alike the concepts are",
        x=Axis("sample"),
        y=Axis("Jaccard similarity"),
        lines=(Line(name="Jaccard", x=(), y=numbers(known.values())),),
        bars=True,
        categories=tuple(known),
        caption=f"Sum of the smaller over the sum of the larger strengths of the patterns in {names[0]} and "
        f"{names[1]}: 1 is the same everywhere, 0 nothing in common.",
    )
    mean = sum(known.values()) / len(known)
    answer = f"The concepts of {count(len(known), 'sample')} have a Jaccard similarity of {brief(mean)} on average."
    return Matched((bars, *tables), answer, cautions)
