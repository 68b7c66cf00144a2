"""`pellucid explain MODEL DATA`: which parts of the inputs made the answers?"""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from ._console import say, table
from ._frame import Frame
from ._graphs import GraphOptions, Graphs, export, show_graphs
from ._subject import (
    DataArgument,
    Drawing,
    ModelArgument,
    Reading,
    ReadingOptions,
    make_subject,
    options_text,
    portable,
    slug,
)

if TYPE_CHECKING:
    from pellucid.audits import Explain, Explained, ExplainedGraphs, ExplainedSample, ExplainGraph, Plan
    from pellucid.core import Ranks, Subject
    from pellucid.reports import Report

SHOWN, TOP = 3, 5


def explain(
    model: ModelArgument,
    data: DataArgument,
    /,
    *,
    players: str = "auto",
    index: str = "SII",
    order: int | None = None,
    value: str = "log_odds",
    of: str = "predicted",
    fill: str = "mean",
    samples: int = 8,
    id: tyro.conf.UseAppendAction[tuple[int, ...]] = (),
    permutations: int = 100,
    max_exact: int = 20,
    seed: int = 0,
    split: str = "test",
    out: Path | None = None,
    resume: bool = False,
    plan: bool = False,
    parquet: bool = False,
    shard: str = "",
    graphs: GraphOptions = Graphs(),  # noqa: B008 - frozen
    reading: ReadingOptions = Reading(),  # noqa: B008 - frozen
) -> int:
    """Explain answers: which parts of the inputs made them, alone and together.

    Prints the plan, explains each sample exactly or with standard errors, prints the strongest numbers and says where
    the report is. All numbers are in explanation.json beside it. With --graph, each score is explained by the few
    combinations of parts that make it, drawn as a graph; the numbers are in graph.json.

    Args:
        model: Which model.
        data: Which data.
        reading: How to read the model.
        graphs: How to explain by graphs.
        players: Who plays: grid:4, grid:3x4 or segments:12 for images, features or groups for tables, words for texts.
        index: What is measured: SII, SV, BV, BII, CHII, Co-Moebius, Moebius (or harsanyi), STII, FSII, FBII or k-SII.
        order: Most players of an interaction; 2 if not given, 1 for values, all for harsanyi up to 12 players.
        value: The score: log_odds, log_probability, logit, margin, others, probability or output.
        of: Whose score: predicted, label, or a class by name or number.
        fill: What an absent player shows: mean, zero, or blur for images.
        samples: How many samples to explain, drawn evenly from the classes.
        id: Explain the sample with this id instead; may be given several times.
        permutations: Random orders for Shapley values of more players than --max-exact.
        max_exact: Most players for which all coalitions are evaluated: 2 to that power per sample.
        seed: Root of all chance: the same seed gives the same report.
        split: Which part of the data: test or train.
        out: Folder for the report; runs/MODEL-DATA-explain if not given, with -2, -3, ... where an earlier one is.
        resume: Continue the interrupted explanation in the folder, the latest one if --out is not given.
        plan: Only print the plan.
        parquet: Write all numbers as explanation.parquet too, one row per sample and interaction; needs pyarrow.
        shard: Do one part of the work, such as 3/40, the third of forty; `pellucid merge` makes the report of all.
    """
    from pellucid import audits

    kinds = _checked(graphs, index=index, order=order, permutations=permutations, parquet=parquet)
    how = audits.Explain(
        players=players,
        value=value,
        of=of,
        fill=fill,
        index=index,
        order=order,
        samples=samples,
        ids=id,
        permutations=permutations,
        max_exact=max_exact,
    )
    # What is usual is taken from as many samples as an audit has; a sample named by its id may be any.
    drawing = Drawing(samples=2**62 if id else max(audits.DEFAULT_SAMPLES, samples), seed=seed, split=split)
    frame = Frame(
        f"{slug(model)}-{slug(data)}-explain",
        "a new explanation",
        model,
        data,
        reading,
        drawing,
        out,
        resume,
        plan,
        shard,
    )
    command = _command(model, data, how, graphs, reading, drawing)
    made: list[Explain | ExplainGraph] = []

    def planned(subject: Subject) -> Plan:
        made.append(how if not graphs.graph else _graph_probe(how, graphs, data, reading, drawing))
        return audits.plan(subject, budget=made[0].need(subject, effort="full").wanted, probes=made[0])

    def ask(subject: Subject, watched: dict[str, Any]) -> Explained | ExplainedGraphs:
        probe = made[0]
        if isinstance(probe, audits.Explain):
            return audits.explain(subject, probe, command=command, **watched)
        return audits.explain_graph(subject, probe, command=command, **watched)

    def show(found: Explained | ExplainedGraphs, folder: Path, ranks: Ranks) -> Report:
        if isinstance(found, audits.ExplainedGraphs):
            show_graphs(found)
            if ranks.leads and not shard:
                export(found, folder, kinds)
        else:
            if parquet and found.file is not None and ranks.leads:
                found.save_table(folder / "explanation.parquet")
            _show(found)
        return found.report

    return frame.run(planned, ask, show)


def _checked(graphs: Graphs, *, index: str, order: int | None, permutations: int, parquet: bool) -> tuple[str, ...]:
    """Return the kinds of files to export; raise where options of graphs and of indices meet."""
    from pellucid.core import DataError

    if not graphs.graph:
        if changed := graphs.changed():
            raise DataError(f"{next(iter(changed))} goes with --graph; add --graph")
        return ()
    others = {"--index": index != "SII", "--order": order is not None, "--permutations": permutations != 100}
    for flag, given in (others | {"--parquet": parquet}).items():
        if given:
            raise DataError(f"{flag} does not go with --graph: a graph has no index; leave one of the two out")
    return graphs.kinds()


def _graph_probe(how: Explain, graphs: Graphs, data: str, reading: Reading, drawing: Drawing) -> ExplainGraph:
    from pellucid import audits
    from pellucid.core import DataError

    if graphs.logic not in ("and", "and-or"):
        raise DataError(f"--logic takes and, or and-or, got {graphs.logic!r}")
    against = None
    if graphs.against:
        against = make_subject(graphs.against, data, Reading(device=reading.device), drawing)
    return audits.ExplainGraph(
        players=how.players,
        value=how.value,
        of=how.of,
        fill=how.fill,
        logic="and" if graphs.logic == "and" else "and-or",
        learn_baseline=graphs.learn_baseline,
        explained=graphs.explained,
        max_patterns=graphs.max_patterns,
        samples=how.samples,
        ids=how.ids,
        against=against,
        attack=graphs.attack,
    )


def _command(model: str, data: str, how: Explain, graphs: Graphs, reading: Reading, drawing: Drawing) -> str:
    """Return the command that makes the same report again."""
    words = ["pellucid explain", *(shlex.quote(portable(spec)) for spec in (model, data))]
    usual = type(how)()
    words += [
        f"--{name.replace('_', '-')} {shlex.quote(str(getattr(how, name)))}"
        for name in ("players", "index", "order", "value", "of", "fill", "permutations", "max_exact")
        if getattr(how, name) != getattr(usual, name)
    ]
    words += [f"--id {name}" for name in how.ids] or [f"--samples {how.samples}"]
    words += graphs.words()
    return " ".join([*words, *options_text(reading, replace(drawing, samples=Drawing().samples))])


def _show(found: Explained) -> None:
    for entry in found.report.skipped:
        say(f"[skipped] {entry.reason}")
    for broken in found.report.failed:
        say(f"[failed] {broken.error}")
    if found.file is None:
        return
    answers = {finding.name: finding.answer for finding in found.report.findings}
    say(answers["explain"])
    for one in found.file.samples[:SHOWN]:
        say()
        say(answers[f"explain-{one.sample}"])
        say(_top(one, found.file.value))
    if (more := len(found.file.samples) - SHOWN) > 0:
        say(f"\nand {more} more in the report")


def _top(one: ExplainedSample, value: str) -> str:
    """Return the strongest numbers of a sample as a table."""
    numbers = one.interactions
    columns = zip(numbers["sets"], numbers["values"], one.stderr, one.noise, strict=True)
    rows = sorted((row for row in columns if row[0]), key=lambda row: -abs(row[1]))[:TOP]
    sampled = any(row[2] for row in rows)
    header = (f"sample {one.sample}: {one.target_name}", value, *(("standard error",) if sampled else ()), "")
    return table(
        header,
        [
            (
                " + ".join(one.players[p] for p in players),
                f"{number:+.3g}",
                *((f"{stderr:.2g}",) if sampled else ()),
                "within noise" if abs(number) <= (noise or 0) else "",
            )
            for players, number, stderr, noise in rows
        ],
    )
