"""The findings of And-Or graphs: one over all samples, and one for each with its drawing and its curves."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pellucid.core import (
    Axis,
    Curve,
    Exhibit,
    Finding,
    Graph,
    Line,
    Measure,
    Players,
    Provenance,
    Stream,
    Subject,
    Table,
    bootstrap,
    number,
    numbers,
)
from pellucid.explain import AndOrGraph, GraphComparison, Pattern, compare_graphs
from pellucid.games import sizes

from .._graphs import exhibit_of, headline, matched
from .._samples import ids_of
from .._wording import brief, count, listed, percent

REASON = "An explanation describes what the model does; it is neither good nor bad."
CAUTIONS = (
    "Masked inputs lie off the data that the model was trained on; the patterns describe the model there too.",
    "Other players or another fill give other patterns: they explain one score under one baseline, not causes in the "
    "world.",
)
REFERENCES = ("arXiv:2111.06206",)
MOST_POINTS = 200
MOST_RANKS = 100
MOST_MATCHED = 20


@dataclass(frozen=True, eq=False)
class ToldGraphs:
    """Graphs of some samples and what to call things.

    Args:
        subject: the samples explained.
        usual: the samples that say what is usual.
        classes: `(N,)`, whose score.
        graphs: one per sample.
        others: a second graph of each, to compare with; none if there is nothing to compare.
        other_inputs: the inputs of the second graphs where they differ.
        second: what the second graphs are of, in words.
        players: who plays, sample by sample.
        noun: what one player and several are called.
        unit: what the score is called.
        predicted: whether the classes are what the model answers.
        explained, max_patterns: what was asked for.
        settings: every setting that changes the numbers.
        spent: model evaluations spent beside those of the graphs and the answers, such as an attack's.
    """

    subject: Subject
    usual: Subject
    classes: Tensor
    graphs: tuple[AndOrGraph, ...]
    others: tuple[AndOrGraph, ...]
    other_inputs: Tensor | None
    second: str
    players: tuple[Players, ...]
    noun: tuple[str, str]
    unit: str
    predicted: bool
    explained: float
    max_patterns: int
    settings: dict[str, str | int | float | bool | None]
    spent: int = 0

    def class_name(self, k: int) -> str:
        """Return the name of the class whose score is explained on the k-th sample."""
        return self.subject.class_names[int(self.classes[k])]

    @cached_property
    def comparisons(self) -> tuple[GraphComparison, ...]:
        """What the two graphs of each sample have in common; none where there is one each."""
        return tuple(compare_graphs(a, b) for a, b in zip(self.graphs, self.others, strict=False))


# -- one sample ---------------------------------------------------------------------------------------------------


def sample_finding(told: ToldGraphs, k: int) -> Finding:
    """Return the finding about one sample."""
    graph, subject = told.graphs[k], told.subject
    sample, name = int(subject.ids[k]), told.class_name(k)
    verb = "answer" if told.predicted and not subject.number else "score"
    return Finding(
        probe="graph",
        name=f"graph-{sample}",
        question=f"Which few combinations of {told.noun[1]} make the {verb} {name} on sample {sample}?",
        answer=_answer(told, k),
        measure=Measure(
            name=f"explained_variance[{sample}]",
            label=f"variance over all masked versions that the kept patterns explain on sample {sample}",
            value=number(round(100 * graph.explained_variance, 9)) if graph.path.variance else None,
            unit="%",
        ),
        level="noted",
        reason=REASON,
        exhibits=tuple(_exhibits(told, k)),
        provenance=Provenance(
            seed=0,
            evaluations=graph.evaluations + told.predicted + (told.others[k].evaluations if told.others else 0),
            sample_ids=(sample,),
            settings=told.settings | {"numerical noise": f"{graph.noise:.2g}"},
        ),
        references=REFERENCES,
        cautions=CAUTIONS,
    )


def _answer(told: ToldGraphs, k: int) -> str:
    graph, name = told.graphs[k], told.class_name(k)
    text = headline(graph, told.noun)
    if not graph.patterns:
        return text
    best = max(graph.patterns, key=lambda p: p.effect)
    worst = min(graph.patterns, key=lambda p: p.effect)
    said = []
    if best.effect > best.noise:
        together = " together" if len(best.players) > 1 and best.kind == "and" else ""
        verb = "add" if together else "adds"
        said.append(f"{_named(graph, best)}{together} {verb} most to the {told.unit} of {name} (+{brief(best.effect)})")
    if worst.effect < -worst.noise:
        together = " together" if len(worst.players) > 1 and worst.kind == "and" else ""
        verb = "take" if together else "takes"
        said.append(f"{_named(graph, worst)}{together} {verb} most away (-{brief(-worst.effect)})")
    if said:
        sentence = "; ".join(said)
        text += f" {sentence[:1].upper()}{sentence[1:]}."
    if graph.baseline is not None:
        text += (
            f" Learning what absent {told.noun[1]} show lowered the sum of all effects from "
            f"{brief(graph.baseline.l1_before)} to {brief(graph.baseline.l1_after)}."
        )
    if told.comparisons:
        text += f" Jaccard similarity with {told.second}: {brief(told.comparisons[k].jaccard)}."
    label = told.subject.labels
    if label is not None and told.predicted and int(label[k]) != int(told.classes[k]):
        text += f" The true class is {told.subject.class_names[int(label[k])]}."
    return text


def _named(graph: AndOrGraph, pattern: Pattern) -> str:
    names = graph.names
    if graph.grid is not None:  # in sentences cells have their full names
        names = tuple(f"row {p // graph.grid[1] + 1} col {p % graph.grid[1] + 1}" for p in range(graph.n_players))
    own = [names[p] for p in pattern.players]
    return f"any of {listed(own)}" if pattern.kind == "or" and len(own) > 1 else listed(own)


def _exhibits(told: ToldGraphs, k: int) -> list[Exhibit]:
    graph = told.graphs[k]
    exhibits: list[Exhibit] = []
    if graph.patterns:
        exhibits.append(drawing(told, k))
        if told.others and told.others[k].patterns:
            exhibits.append(drawing(told, k, other=True))
    if told.comparisons:
        exhibits.append(matched(graph, told.comparisons[k], (told.subject.name, told.second)))
    if graph.path.variance:
        exhibits += [explained_curve(graph, told.explained), strengths_curve(graph)]
    return exhibits


def drawing(told: ToldGraphs, k: int, *, other: bool = False) -> Graph:
    """Return a sample's graph as an exhibit, with its image, its words or its features' values."""
    subject, cut, name = told.subject, told.players[k], told.class_name(k)
    graph = told.others[k] if other else told.graphs[k]
    x = told.other_inputs[k] if other and told.other_inputs is not None else subject.inputs[k]
    title = f"What makes {name}: sample {int(subject.ids[k])}"
    return exhibit_of(
        subject,
        graph,
        x,
        cut,
        title=f"{title}, {told.second}" if other else title,
        name=name,
        noun=told.noun,
        unit=told.unit,
    )


def explained_curve(graph: AndOrGraph, goal: float) -> Curve:
    """Return how much so many patterns of the path explain, up to three times as many as are kept."""
    most = min(graph.n_all_patterns, max(20, 3 * len(graph.patterns)))
    counts = sorted({round(1 + (most - 1) * k / (MOST_POINTS - 1)) for k in range(MOST_POINTS)})
    shares = [float(graph.path.explained[graph.n_all_patterns - c]) for c in counts]
    x = numbers(counts)
    return Curve(
        title="Explained variance by number of patterns",
        x=Axis("patterns kept"),
        y=Axis("variance explained over all masked versions", "%"),
        lines=(
            Line(name="explained", x=x, y=numbers([max(-1.0, share) for share in shares])),
            Line(name=percent(goal), x=(x[0], x[-1]), y=(goal, goal), role="reference"),
        ),
        caption=f"{count(len(graph.patterns), 'pattern')} are kept"
        + ("." if graph.sparse else f"; {graph.needed:,} would be needed.")
        + (" Values below -100% are drawn there." if min(shares) < -1 else ""),
    )


def strengths_curve(graph: AndOrGraph) -> Curve:
    """Return the strengths of all patterns, strongest first, and what rounding alone would make."""
    rows = graph.path.order
    strengths, place = graph.terms[rows].abs().sort(descending=True)
    noise = 3 * graph.noise * 2 ** (sizes(graph.n_players)[rows[place] % len(graph.and_terms)] / 2)
    shown = min(len(strengths), MOST_RANKS)
    x = numbers(range(1, shown + 1))
    lines = [Line(name="strength", x=x, y=numbers(strengths[:shown]))]
    if float(noise.max()) > 0:
        lines.append(Line(name="noise", x=x, y=numbers(noise[:shown]), role="noise"))
    return Curve(
        title="Strength of patterns",
        x=Axis("rank"),
        y=Axis("strength of its effect", scale="log"),
        lines=tuple(lines),
        caption=f"The strongest {shown:,} of {graph.n_all_patterns:,}. A short list explains a score only where this "
        "falls steeply. What lies under the noise cannot be told from rounding.",
    )


# -- all samples --------------------------------------------------------------------------------------------------


def summary_finding(told: ToldGraphs, rng: Stream) -> Finding:
    """Return the finding over all samples."""
    graphs = told.graphs
    shares = [100 * g.explained_variance if g.path.variance else torch.nan for g in graphs]
    measures = [
        _mean(
            "patterns_needed", f"patterns needed for {percent(told.explained)}", [float(g.needed) for g in graphs], rng
        ),
        _mean("l1_norm", "sum of the strengths of all patterns", [g.l1 for g in graphs], rng),
    ]
    if told.comparisons:
        alike = [one.jaccard for one in told.comparisons]
        measures.insert(0, _mean("concept_jaccard", f"Jaccard similarity with {told.second}", alike, rng))
    return Finding(
        probe="graph",
        name="graph",
        question=f"Do few combinations of {told.noun[1]} make the scores of {count(len(graphs), 'sample')}?",
        answer=_summary(told),
        measure=_mean(
            "explained_variance",
            f"variance over all masked versions that at most {told.max_patterns} patterns explain, mean over samples",
            shares,
            rng,
            unit="%",
        ),
        level="noted",
        reason=REASON,
        measures=tuple(measures),
        exhibits=(*_summary_curves(told), _samples(told)),
        provenance=Provenance(
            seed=0,
            evaluations=sum(g.evaluations for g in (*graphs, *told.others)) + told.predicted * len(graphs) + told.spent,
            sample_ids=ids_of(told.subject),
            settings=told.settings,
        ),
        references=REFERENCES,
        cautions=CAUTIONS,
    )


def _mean(name: str, label: str, values: list[float], rng: Stream, unit: str = "") -> Measure:
    known = torch.tensor(values, dtype=torch.float64)
    known = known[~known.isnan()]
    if not len(known):
        return Measure(name=name, label=label, value=None, unit=unit)
    found = bootstrap(known, rng=rng.child(name))
    scale = 100.0 if unit == "%" else 1.0  # samples are shares
    return Measure(
        name=name,
        label=label,
        value=number(found.value),
        low=number(found.low),
        high=number(found.high),
        unit=unit,
        samples=numbers([value / scale for value in values]),
    )


def _summary(told: ToldGraphs) -> str:
    graphs = [g for g in told.graphs if g.path.variance]
    if not graphs:
        return f"No score changes when {told.noun[1]} are masked, so there are no patterns."
    sparse = sum(g.sparse for g in graphs)
    kept = sum(len(g.patterns) for g in graphs) / len(graphs)
    mean = sum(g.explained_variance for g in graphs) / len(graphs)
    text = (
        f"On average {brief(kept)} patterns explain {percent(mean) if mean > 0 else 'nothing'} of the variance of the "
        f"score over all masked versions. At most {told.max_patterns} explain {percent(told.explained)} on "
        f"{sparse} of {count(len(told.graphs), 'sample')}."
    )
    if sparse < len(graphs):
        text += (
            f" Not sparse on the other{'s' if len(graphs) - sparse > 1 else ''}: read their patterns as a part only."
        )
    if len(graphs) < len(told.graphs):
        text += f" On {len(told.graphs) - len(graphs)} the score does not change at all."
    if told.comparisons:
        known = [one.jaccard for one in told.comparisons if one.jaccard == one.jaccard]
        if known:
            text += f" The Jaccard similarity with {told.second} is {brief(sum(known) / len(known))} on average."
    return text


def _summary_curves(told: ToldGraphs) -> list[Exhibit]:
    graphs = [(k, g) for k, g in enumerate(told.graphs) if g.path.variance][:6]
    if not graphs:
        return []
    most = max(20, max(3 * len(g.patterns) for _, g in graphs))
    lines = []
    for k, g in graphs:
        counts = sorted({round(1 + (min(most, g.n_all_patterns) - 1) * i / 79) for i in range(80)})
        shares = [max(-1.0, float(g.path.explained[g.n_all_patterns - c])) for c in counts]
        name = f"sample {int(told.subject.ids[k])}, {told.class_name(k)}"
        lines.append(Line(name=name, x=numbers(counts), y=numbers(shares)))
    goal = Line(name=percent(told.explained), x=(1.0, float(most)), y=(told.explained,) * 2, role="reference")
    return [
        Curve(
            title="Explained variance by number of patterns",
            x=Axis("patterns kept"),
            y=Axis("variance explained over all masked versions", "%"),
            lines=(*lines, goal),
            caption="A curve that rises steeply is a score made of few patterns.",
        )
    ]


def _samples(told: ToldGraphs) -> Table:
    subject, rows = told.subject, []
    for k, g in enumerate(told.graphs):
        label = () if subject.labels is None else (subject.class_names[int(subject.labels[k])],)
        strongest = g.label(g.patterns[0].players, g.patterns[0].kind) if g.patterns else ""
        alike = (number(told.comparisons[k].jaccard),) if told.comparisons else ()
        share = number(g.explained_variance) if g.path.variance else None
        effect = number(g.patterns[0].effect) if g.patterns else None
        needed = g.needed if g.path.variance else None
        rows.append(
            (int(subject.ids[k]), *label, told.class_name(k), number(g.score), share, needed, strongest, effect, *alike)
        )
    true = () if subject.labels is None else ("true class",)
    extra = ("Jaccard",) if told.comparisons else ()
    columns = (
        "sample",
        *true,
        "explained",
        "score",
        "variance explained",
        "patterns needed",
        "strongest",
        "its effect",
    )
    return Table(
        title="Sample by sample",
        columns=(*columns, *extra),
        rows=tuple(rows),
        units=("", *("" for _ in true), "", "", "%", "", "", "", *("" for _ in extra)),
        caption=f"Scores are {told.unit}.",
    )
