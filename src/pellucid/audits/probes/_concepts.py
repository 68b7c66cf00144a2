"""Is a prediction made of few combinations of input parts?"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import final

import torch
from torch import Tensor

from pellucid.core import (
    ALONE,
    Advice,
    Axis,
    Curve,
    Effort,
    Exhibit,
    Finding,
    Gallery,
    Graph,
    Line,
    Mark,
    Masker,
    Measure,
    Need,
    OnStep,
    Players,
    Provenance,
    Stream,
    Subject,
    Table,
    Work,
    bootstrap,
    number,
    numbers,
)
from pellucid.explain import AndOrGraph as Explained
from pellucid.explain import and_or_graph_of, concept_table, cost_and_or_graph
from pellucid.games import Words

from .. import _levels
from .._graphs import exhibit_of
from .._players import (
    MOST_EXACT,
    absence_in_words,
    answers,
    cells,
    feature_players,
    features,
    is_image,
    is_large,
    is_text,
    kind_of_players,
    player_names,
    players_in_words,
    word_players,
)
from .._samples import draw, ids_of, picture
from .._wording import brief, count, percent

GRID = (3, 4)
LARGE_QUICK_GRID = (3, 3)
"""Cells of a quick look at large images: an eighth of the evaluations."""

EXPLAINED = 0.95
MOST_PATTERNS = 80
LEAST = 4
WANTED = {"quick": 4, "full": 8}
SHOWN = 3
"""Patterns marked on each picture."""

DRAWN, MOST_DRAWN = 3, 24
"""Samples whose graph is drawn, and patterns in each."""

BARS = 12
"""Combinations of features drawn as bars."""


@final
@dataclass(frozen=True)
class Concepts:
    """Exact Harsanyi concepts of a few samples, and how much of the output few of them explain.

    Args:
        grid: rows and columns of cells of an image, such as 3x4, at most 12 cells in all. If not given, 3x4, and fewer
            for large images where the budget is short.

    Raises:
        ValueError: too few or too many cells.
    """

    name: str = field(default="concepts", repr=False)
    question: str = field(default="Is a prediction made of few combinations of input parts?", repr=False)
    grid: tuple[int, int] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.grid is not None and not (min(self.grid) >= 1 and 2 <= math.prod(self.grid) <= MOST_EXACT):
            raise ValueError(f"grid must have 2 to {MOST_EXACT} cells, got {self.grid[0]} x {self.grid[1]}")

    def need(self, subject: Subject, *, effort: Effort) -> Need:
        """All coalitions of at least four samples (or of all, if there are fewer)."""
        players = _count(subject, self.grid or GRID)
        if isinstance(players, str):
            return Need(0, 0, skip=players)
        wanted = _cost(players, min(WANTED[effort], len(subject)))
        least = _cost(players, min(LEAST, len(subject)))
        thinner = is_large(subject) and self.grid is None
        if thinner:
            least = _cost(math.prod(LARGE_QUICK_GRID), min(LEAST, len(subject)))
            wanted = least if effort == "quick" else wanted
        return Need(
            least,
            wanted,
            memory=(2**players) * 8 * 12,
            remark=f"explains fewer than {min(WANTED[effort], len(subject))} samples"
            + (f", on a grid of {LARGE_QUICK_GRID[0]} x {LARGE_QUICK_GRID[1]} cells" if thinner else ""),
        )

    def __call__(self, subject: Subject, budget: int, rng: Stream, *, work: Work = ALONE) -> list[Finding]:
        """Answer in one finding."""
        grid = self.grid or GRID
        if is_large(subject) and self.grid is None and budget < _cost(math.prod(GRID), min(LEAST, len(subject))):
            grid = LARGE_QUICK_GRID
        n_players = _count(subject, grid)
        assert isinstance(n_players, int)  # else `need` skips
        n = min(WANTED["full"], len(subject), budget // _cost(n_players, 1))
        part = subject.take(draw(subject, n, rng=rng.child("samples"), among=_fitting(subject, n_players)))
        maskers = _maskers(subject, part, grid, n_players)
        classes = answers(part)
        found = _explained(part, classes, maskers, rng.child("concepts"), work)
        names = [_names(part, masker(x)) for masker, x in zip(maskers, part.inputs, strict=True)]
        drawings = _drawings(subject, part, maskers, classes, found)
        return [self._finding(part, maskers[0](part.inputs[0]), classes, found, names, drawings, rng)]

    def _finding(
        self,
        subject: Subject,
        players: Players,
        classes: Tensor,
        found: list[Explained],
        names: list[tuple[str, ...]],
        drawings: tuple[Graph, ...],
        rng: Stream,
    ) -> Finding:
        needed = torch.tensor([float(c.needed) for c in found], dtype=torch.float64)
        short = min(MOST_PATTERNS, found[0].n_all_patterns // 2)  # half of all patterns is no short list
        judged = _levels.concepts(sum(c.sparse and c.needed <= short for c in found), len(found), EXPLAINED, short)
        interval = bootstrap(needed, rng=rng.child("needed"))
        return Finding(
            probe=self.name,
            name="concepts",
            question=self.question,
            answer=_answer(subject, found, needed),
            measure=Measure(
                name="patterns_needed",
                label=f"patterns needed for {EXPLAINED:.0%} of the variance over all masks, mean over samples",
                value=number(interval.value),
                low=number(interval.low),
                high=number(interval.high),
                usual=f"10 to 100 where a network is sparse; there are {found[0].n_all_patterns:,} in all",
                samples=numbers(needed),
            ),
            level=judged.level,
            reason=judged.reason,
            advice=_advice(subject, judged.level),
            measures=tuple(_measures(found, rng)),
            exhibits=(*drawings, *_exhibits(subject, classes, found, names)),
            provenance=Provenance(
                seed=0,
                evaluations=sum(c.evaluations for c in found) + len(found),
                sample_ids=ids_of(subject),
                settings={
                    "players": players_in_words(subject, players),
                    "absent players": absence_in_words(subject),
                    "value": "log odds of the predicted class",
                    "explained variance": EXPLAINED,
                    "most patterns": MOST_PATTERNS,
                    "pruning": "greedy, window 20",
                    "interval": "bootstrap over samples, 1000 draws, 95%",
                },
            ),
            references=("arXiv:2111.06206",),
            cautions=(
                "Masked inputs lie off the data the model was trained on; the patterns describe the model there too.",
                "Other players or another fill give other patterns: they explain one score under one baseline, "
                "not causes in the world.",
                f"Only {count(len(found), 'sample')}: a look at the model, not a census.",
            ),
        )


def _cost(players: int, samples: int) -> int:
    """Return evaluations of this many samples: every coalition, the noise probes, and one look at the prediction."""
    return cost_and_or_graph(players, samples=samples) + samples


def _count(subject: Subject, grid: tuple[int, int]) -> int | str:
    """Return the number of players, or why there are none to play."""
    if is_image(subject):
        height, width = subject.inputs.shape[2:]
        if height < grid[0] or width < grid[1]:
            return f"the images of {height} x {width} pixels are smaller than the grid of {grid[0]} x {grid[1]} cells"
        return grid[0] * grid[1]
    if is_text(subject):
        words = word_players(subject, samples=LEAST)
        return words if words > 1 else "a single word has nothing to combine with"
    if subject.inputs.ndim != 2:
        return f"inputs of shape {tuple(subject.inputs.shape[1:])} are neither images nor rows of a table"
    n, kind = len(feature_players(subject)), kind_of_players(subject)
    if n < 2:
        return "a single feature has nothing to combine with"
    if n > MOST_EXACT:
        return (
            f"exact concepts of {n} {kind} would take 2**{n} evaluations per sample; "
            f"put the columns into at most {MOST_EXACT} groups, in Python by the argument groups={{'NAME': (0, 1), "
            "...} of pellucid.core.Dataset or pellucid.core.Subject (no option of the command line does it)"
        )
    return n


def _fitting(subject: Subject, n_players: int) -> Tensor | None:
    """Return the rows that have as many players; None where all do."""
    if not is_text(subject):
        return None
    return torch.tensor([row for row, text in enumerate(subject.texts) if len(text.names) >= n_players])


def _maskers(subject: Subject, part: Subject, grid: tuple[int, int], n_players: int) -> list[Masker]:
    """Return one masker for each sample of the part; what absent players show comes from the whole."""
    if is_text(subject):
        return [Words(text, most=n_players) for text in part.texts]
    return [cells(subject, grid) if is_image(subject) else features(subject)] * len(part)


def _names(subject: Subject, players: Players) -> tuple[str, ...]:
    return players.names if is_text(subject) else player_names(subject, players.grid, players.count)


def _explained(subject: Subject, classes: Tensor, maskers: list[Masker], rng: Stream, work: Work) -> list[Explained]:
    """Return each sample's concepts; the tables are shared out, what follows from them is not."""

    def compute(rows: Tensor, on_step: OnStep) -> dict[str, Tensor]:
        k = int(rows)  # one sample is one chunk
        worth, noise = concept_table(
            subject.model,
            subject.inputs[k],
            int(classes[k]),
            maskers[k],
            rng=rng.at(subject.ids[k : k + 1]),
            on_step=on_step,
        )
        return {"worth": worth[None], "noise": torch.tensor([noise], dtype=torch.float64)}

    players = maskers[0](subject.inputs[0])
    found = work.map("concepts", subject.ids, compute, chunk=1, key=f"{players.count}|{rng.seed}")
    return [
        and_or_graph_of(
            worth,
            masker(x),
            noise=float(noise),
            explained=EXPLAINED,
            max_patterns=MOST_PATTERNS,
        )
        for masker, x, worth, noise in zip(maskers, subject.inputs, found["worth"], found["noise"], strict=True)
    ]


# -- words --------------------------------------------------------------------------------------------------------


def _answer(subject: Subject, found: list[Explained], needed: Tensor) -> str:
    if not any(c.path.variance for c in found):
        return "The score does not change when parts of the input are masked, so there are no concepts."
    parts, every = _parts(subject), 2 ** found[0].n_players
    sparse = sum(c.sparse for c in found)
    who = f"{sparse or 'none'} of {count(len(found), 'sample')}"
    answer = (
        f"For {who}, at most {MOST_PATTERNS} combinations of the {found[0].n_players} {parts} reproduce "
        f"{percent(EXPLAINED)} of the variance of the score over all {every:,} masked versions; on average "
        f"{brief(float(needed.mean()))} are needed."
    )
    if found[0].n_all_patterns <= MOST_PATTERNS:
        answer += f" There are only {found[0].n_all_patterns} combinations in all, so that a short list is no surprise."
    if sparse < len(found):
        fewest = min((c.explained_variance for c in found if not c.sparse), default=math.nan)
        little = percent(fewest) if fewest > 0 else "nothing"
        answer += f" Not sparse here: for some, {MOST_PATTERNS} combinations explain as little as {little}."
    size = _mean_size([c for c in found if c.sparse])
    if math.isfinite(size):
        answer += f" Where it is sparse, a combination joins {size:.1f} {parts}, weighted by strength."
    return answer


def _parts(subject: Subject) -> str:
    """Return what the players are called."""
    return "cells" if is_image(subject) else "words" if is_text(subject) else kind_of_players(subject)


def _mean_size(found: list[Explained]) -> float:
    sizes = [_size(c) for c in found]
    known = [size for size in sizes if math.isfinite(size)]
    return sum(known) / len(known) if known else math.nan


def _size(c: Explained) -> float:
    weight = sum(abs(p.effect) for p in c.patterns)
    return sum(abs(p.effect) * len(p.players) for p in c.patterns) / weight if weight else math.nan


def _advice(subject: Subject, level: str) -> Advice:
    if level == "fine" and is_image(subject):
        return Advice(text="Look at the marked cells: a strong combination on the background hints at a shortcut.")
    if level == "fine" and is_text(subject):
        return Advice(
            text="Read the strongest combinations: one of words that should not matter together hints at a shortcut.",
            command="pellucid explain MODEL DATA --players words",
        )
    if level == "fine":
        return Advice(
            text="Read the strongest combinations: one that you cannot account for, or that names a feature the answer "
            "should not depend on, hints at a shortcut or a leak."
        )
    return Advice(
        text="Read the explained variance before any single pattern: where it is low, the patterns shown are a small "
        "part of what the model does. Ask instead which complexities of interaction it uses.",
        command="pellucid audit MODEL DATA --probe bottleneck --budget 1000000",
    )


# -- numbers and pictures -----------------------------------------------------------------------------------------


def _measures(found: list[Explained], rng: Stream) -> list[Measure]:
    def over_samples(name: str, label: str, values: list[float], unit: str = "", usual: str = "") -> Measure:
        known = torch.tensor([v for v in values if math.isfinite(v)], dtype=torch.float64)
        scale = 100.0 if unit == "%" else 1.0
        if not len(known):
            return Measure(name=name, label=label, value=None, unit=unit, usual=usual)
        interval = bootstrap(known, rng=rng.child(name))
        return Measure(
            name=name,
            label=label,
            value=number(scale * interval.value),
            low=number(scale * interval.low),
            high=number(scale * interval.high),
            unit=unit,
            usual=usual,
            samples=numbers(values),
        )

    return [
        over_samples(
            "explained_variance",
            f"variance over all masks that at most {MOST_PATTERNS} patterns explain",
            [c.explained_variance if c.path.variance else math.nan for c in found],
            "%",
            f"{percent(EXPLAINED)} or more where the output is sparse",
        ),
        over_samples("pattern_size", "players per pattern, weighted by strength", [_size(c) for c in found]),
    ]


def _exhibits(subject: Subject, classes: Tensor, found: list[Explained], names: list[tuple[str, ...]]) -> list[Exhibit]:
    grid = found[0].grid
    exhibits: list[Exhibit] = []
    if grid is not None:
        exhibits.append(_gallery(subject, classes, found, grid))
    elif any(p for c in found for p in c.patterns) and not is_text(subject):
        exhibits.append(_bars(found, names[0]))
    if any(c.path.variance for c in found):
        exhibits += [_explained_curve(subject, found), _orders(found)]
        exhibits.append(_table(subject, classes, found, names))
    return [*exhibits, _samples(subject, classes, found)]


def _drawings(
    subject: Subject, part: Subject, maskers: list[Masker], classes: Tensor, found: list[Explained]
) -> tuple[Graph, ...]:
    """Return the graphs of the first samples."""
    drawn = []
    for k, graph in enumerate(found[:DRAWN]):
        if not graph.patterns:
            continue
        name = part.class_names[int(classes[k])]
        cut = maskers[k](part.inputs[k])
        drawn.append(
            exhibit_of(
                subject,
                replace(graph, names=_names(part, cut)) if graph.grid is None else graph,
                part.inputs[k],
                cut,
                title=f"What makes {name}: sample {int(part.ids[k])}",
                name=name,
                noun=(_parts(part).removesuffix("s"), _parts(part)),
                unit="log odds",
                most=MOST_DRAWN,
            )
        )
    return tuple(drawn)


def _gallery(subject: Subject, classes: Tensor, found: list[Explained], grid: tuple[int, int]) -> Gallery:
    pictures = []
    for k, c in enumerate(found):
        marks = tuple(
            Mark(cells=p.players, weight=p.effect, label=f"{p.effect:+.1f}")
            for p in c.patterns[:SHOWN]
            if abs(p.effect) > p.noise
        )
        answer = subject.class_names[int(classes[k])]
        caption = f"sample {int(subject.ids[k])}; {_needed_in_words(c)}"
        pictures.append(
            picture(
                subject.inputs[k],
                title=f"answer: {answer}",
                caption=caption,
                bounds=subject.bounds,
                grid=grid,
                marks=marks,
            )
        )
    return Gallery(
        title="The strongest concepts of each sample",
        pictures=tuple(pictures),
        caption=f"The {SHOWN} strongest combinations of cells; the number is what the combination adds to the log odds "
        "of the answer, beyond what its parts add.",
    )


def _bars(found: list[Explained], names: tuple[str, ...]) -> Curve:
    """Show the combinations of named features that count most over all samples."""
    effects: dict[tuple[int, ...], float] = {}
    for c in found:
        for p in c.patterns:
            if abs(p.effect) > p.noise:
                effects[p.players] = effects.get(p.players, 0.0) + abs(p.effect) / len(found)
    top = sorted(effects, key=lambda players: (-effects[players], players))[:BARS]
    return Curve(
        title="The combinations that count most",
        x=Axis("combination"),
        y=Axis("mean |effect|", "log odds"),
        lines=(
            Line(
                name="mean over samples",
                x=numbers(range(len(top))),
                y=numbers(effects[players] for players in top),
            ),
        ),
        bars=True,
        categories=tuple(_combination(players, names) for players in top),
        caption="What each combination adds to the log odds of the answer beyond what its parts add, as a mean size "
        "over the samples; 0 where it was not needed to explain a sample.",
    )


def _combination(players: tuple[int, ...], names: tuple[str, ...]) -> str:
    return " + ".join(names[p] for p in players)


def _needed_in_words(c: Explained) -> str:
    if not c.path.variance:
        return "masking does not change the score"
    if c.sparse:
        return f"{count(c.needed, 'pattern')} explain {percent(c.explained_variance)}"
    explained = percent(max(0.0, c.explained_variance))
    return f"not sparse here: {MOST_PATTERNS} patterns explain {explained}, {c.needed:,} are needed"


def _explained_curve(subject: Subject, found: list[Explained]) -> Curve:
    total = found[0].n_all_patterns
    sizes = torch.logspace(0, math.log10(total), 40).round().long().unique(sorted=True)  # type: ignore[no-untyped-call]
    lines = [
        Line(
            name=f"sample {int(subject.ids[k])}",
            x=numbers(sizes),
            y=numbers(c.path.explained[total - sizes].clamp(min=0)),
        )
        for k, c in enumerate(found)
    ]
    goal = Line(name=percent(EXPLAINED), x=(1.0, float(total)), y=(EXPLAINED, EXPLAINED), role="reference")
    return Curve(
        title="How much few patterns explain",
        x=Axis("patterns kept", scale="log"),
        y=Axis("explained variance over all masks", "%"),
        lines=(*lines, goal),
        caption="Patterns dropped greedily, least harm first. A share below 0 (worse than the mean) is drawn as 0.",
    )


def _orders(found: list[Explained]) -> Curve:
    players = found[0].n_players
    shares = torch.zeros(len(found), players, dtype=torch.float64)
    for k, c in enumerate(found):
        for pattern in c.patterns:
            shares[k, len(pattern.players) - 1] += abs(pattern.effect)
    shares = shares / shares.sum(1, keepdim=True).clamp(min=1e-12)
    return Curve(
        title="How many parts the patterns join",
        x=Axis("players in a pattern"),
        y=Axis("share of the kept strength", "%"),
        lines=(Line(name="mean over samples", x=numbers(range(1, players + 1)), y=numbers(shares.mean(0))),),
        bars=True,
        categories=tuple(str(size) for size in range(1, players + 1)),
    )


def _samples(subject: Subject, classes: Tensor, found: list[Explained]) -> Table:
    rows = [
        (
            int(subject.ids[k]),
            subject.class_names[int(classes[k])],
            c.score,
            c.constant,
            c.needed if c.path.variance else 0,
            c.explained_variance if c.path.variance else None,
        )
        for k, c in enumerate(found)
    ]
    return Table(
        title="How sparse each prediction is",
        columns=("sample", "answer", "score", "score with all masked", "patterns needed", "explained by those kept"),
        rows=tuple(rows),
        units=("", "", "", "", "", "%"),
        caption=f"Scores are log odds of the answer. Kept are at most {MOST_PATTERNS} patterns.",
    )


def _table(subject: Subject, classes: Tensor, found: list[Explained], names: list[tuple[str, ...]]) -> Table:
    rows = [
        (
            int(subject.ids[k]),
            subject.class_names[int(classes[k])],
            _combination(pattern.players, names[k]),
            len(pattern.players),
            pattern.effect,
            "within rounding noise" if abs(pattern.effect) <= pattern.noise else "",
        )
        for k, c in enumerate(found)
        for pattern in c.patterns[:5]
    ]
    return Table(
        title="Strongest patterns",
        columns=("sample", "answer", "combination", "parts", "effect", "remark"),
        rows=tuple(rows),
        caption="The effect is what the combination adds to the log odds of the answer, beyond what its parts add.",
    )
