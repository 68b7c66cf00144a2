"""What a probe answers: a question, a plain answer, a measured number and exhibits that are data, not drawings.

These types are the schema of `report.json`; a change here is a change of `reports.SCHEMA_VERSION`.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import msgspec
import numpy as np

from ._panel import Mood, Panel, Spark, plain, showing

Number = float | None
"""A float for JSON; None stands for "not defined" (NaN and infinities have no place in JSON)."""

Level = Literal["fine", "watch", "weak", "noted"]
"""What a finding asks for: nothing, a look, a repair; "noted" is a description that is neither good nor bad."""


def number(value: Any) -> Number:
    """Return `value` as a float, or None where it is not finite."""
    value = float(value)
    return value if math.isfinite(value) else None


def numbers(values: Any) -> tuple[Number, ...]:
    """Return a vector of any kind (tensor, array, list) as JSON numbers."""
    return tuple(number(v) for v in values)


class Measure(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One measured number.

    Args:
        name: stable key, such as `robust_accuracy[linf,0.1]`; comparisons join on it.
        label: what it is, for people.
        value: the number in `unit`.
        low, high: ends of the 95 % interval, None where there is none.
        unit: "" for a pure number, "%" for a share already multiplied by 100, else the unit's symbol.
        usual: what is usual, as a plain phrase; empty if unknown.
        better: which direction is better, "neither" when neither is.
        samples: the number per sample, in the order of `Provenance.sample_ids`; empty if it has no such parts.
    """

    name: str
    label: str
    value: Number
    low: Number = None
    high: Number = None
    unit: str = ""
    usual: str = ""
    better: Literal["higher", "lower", "neither"] = "neither"
    samples: tuple[Number, ...] = ()


class Provenance(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to get the same numbers again.

    Args:
        seed: seed of the audit.
        evaluations: model evaluations spent on this finding.
        sample_ids: ids of the samples it rests on.
        settings: every setting that changes the result, as text.
        versions: versions of the libraries that computed it.
    """

    seed: int
    evaluations: int
    sample_ids: tuple[int, ...]
    settings: dict[str, str | int | float | bool | None] = {}
    versions: dict[str, str] = {}


class Advice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to do next: a sentence and, where one exists, the command that does it."""

    text: str
    command: str = ""


class Axis(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An axis of a curve; `unit` "%" shows fractions 0..1 as percentages."""

    label: str
    unit: str = ""
    scale: Literal["linear", "log"] = "linear"


class Line(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One line of a curve with its interval.

    `role` says how to draw it: main joins its points, points does not (a scatter of them), reference is dashed, and
    noise is a floor band from 0 up to y.
    """

    name: str
    x: tuple[Number, ...]
    y: tuple[Number, ...]
    low: tuple[Number, ...] = ()
    high: tuple[Number, ...] = ()
    role: Literal["main", "points", "reference", "noise"] = "main"


class Curve(msgspec.Struct, frozen=True, kw_only=True, tag="curve", forbid_unknown_fields=True):
    """Numbers along an axis; `bars` draws columns over named categories instead of lines."""

    title: str
    x: Axis
    y: Axis
    lines: tuple[Line, ...]
    caption: str = ""
    bars: bool = False
    categories: tuple[str, ...] = ()


class Table(msgspec.Struct, frozen=True, kw_only=True, tag="table", forbid_unknown_fields=True):
    """Rows of text and numbers; `units` per column: "%" shows fractions as percentages."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | int | float | None, ...], ...]
    units: tuple[str, ...] = ()
    caption: str = ""


class Heatmap(msgspec.Struct, frozen=True, kw_only=True, tag="heatmap", forbid_unknown_fields=True):
    """A matrix of numbers; `diverging` centres the colours on zero."""

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[Number, ...], ...]
    row_label: str = ""
    column_label: str = ""
    unit: str = ""
    diverging: bool = False
    caption: str = ""


class Mark(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Players of a picture that belong together, with a signed weight and a label.

    Marks with a label are buttons that show one at a time. Marks with an empty label on every player, one each, are a
    heat map over the picture with colors centered on zero. `amount` says what the weight is where a signed number
    would not.
    """

    cells: tuple[int, ...]
    weight: Number
    label: str = ""
    amount: str = ""


NOBODY = 255
"""The number in `Picture.owners` of pixels that no player owns."""


class Picture(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One image with its players, marks on them, and arrows.

    Args:
        pixels: uint8 `(H, W)` or `(H, W, 3)`.
        title, caption: below the picture.
        grid: rows and columns of its players, numbered row by row from 0.
        owners: uint8 `(H, W)`, the player that owns each pixel (255: none), where players are segments and not cells
            of a grid; smaller maps are stretched over the picture.
        marks: players that are marked.
        arrows: `(x, y, dx, dy)` each, in pixels of the picture, x to the right and y down: where `(x, y)` moves.
    """

    pixels: np.ndarray
    title: str
    caption: str = ""
    grid: tuple[int, int] | None = None
    owners: np.ndarray | None = None
    marks: tuple[Mark, ...] = ()
    arrows: tuple[tuple[float, float, float, float], ...] = ()


class Gallery(msgspec.Struct, frozen=True, kw_only=True, tag="gallery", forbid_unknown_fields=True):
    """Images side by side."""

    title: str
    pictures: tuple[Picture, ...]
    caption: str = ""


class Node(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One node of a graph.

    Args:
        id: unique in its graph.
        label: what is written in it.
        layer: 0 for the top one.
        kind: a pattern is met when all of its players are present, an or pattern when at least one is; a coalition is
            a part that several patterns share.
        weight: signed effect; None where it has none.
        noise: weights up to this size cannot be told from rounding.
        value: what a player shows, such as "17.99" of a table's feature.
        trend: whether that value lies above or below the baseline; empty where there is no such thing.
        detail: what else is to be said of it, as plain text.
        players: numbers of the players it stands for: cells or segments of the picture, or owners of the words.
    """

    id: str
    label: str
    layer: int
    kind: Literal["root", "pattern", "or", "coalition", "player"]
    weight: Number = None
    noise: Number = None
    value: str = ""
    trend: Literal["", "above", "below", "equal"] = ""
    detail: str = ""
    players: tuple[int, ...] = ()


class Edge(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A line between two nodes, by their ids; the source lies in a higher layer and is made of the target."""

    source: str
    target: str


class Graph(msgspec.Struct, frozen=True, kw_only=True, tag="graph", forbid_unknown_fields=True):
    """A layered graph, such as an And-Or graph: what is on top is made of what is below.

    Args:
        title, caption: above and below it.
        layers: what each layer holds, from the top.
        nodes: in their order.
        edges: from upper to lower nodes.
        unit: what weights are measured in, such as "log odds".
        picture: the image beside it, whose players light up with the nodes.
        words: the text beside it, whose words light up with the nodes.
        word_owners: the player that owns each word, -1 for none; word k belongs to player k if empty.
    """

    title: str
    layers: tuple[str, ...]
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...] = ()
    caption: str = ""
    unit: str = ""
    picture: Picture | None = None
    words: tuple[str, ...] = ()
    word_owners: tuple[int, ...] = ()


Place = tuple[float, float, float]
"""A place in three dimensions."""


class Dot(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One point of a scatter.

    Args:
        at: where it lies.
        group: number of its group.
        label: what is said of it when it is reached.
        path: where it goes from there, step by step; empty if it stays.
    """

    at: Place
    group: int
    label: str = ""
    path: tuple[Place, ...] = ()


class Scatter(msgspec.Struct, frozen=True, kw_only=True, tag="scatter", forbid_unknown_fields=True):
    """Points in three dimensions that can be turned around, seen from zero: directions and lengths count.

    Args:
        title, caption: above and below it.
        groups: names of the groups, such as classes; groups have colors and shapes of their own.
        dots: the points.
        arrows: a direction of each group, of any length; empty for none.
        thumbnails: a small picture of each point, uint8 `(H, W)` or `(H, W, 3)`; empty for none.
        length: what the distance from zero means, such as "certainty".
    """

    title: str
    groups: tuple[str, ...]
    dots: tuple[Dot, ...]
    arrows: tuple[Place, ...] = ()
    thumbnails: tuple[np.ndarray, ...] = ()
    length: str = ""
    caption: str = ""


class Overlay(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One map that lies over a picture.

    Args:
        label: what it shows, in a word or two, such as "answer" or "atom 7".
        values: uint8 `(h, w)`, stretched over the picture: strengths from 0 to 255, or numbers of classes.
        caption: what is said of it while it is shown.
        classes: whether values are numbers of the exhibit's classes, with 255 (`NOBODY`) where there is none.
    """

    label: str
    values: np.ndarray
    caption: str = ""
    classes: bool = False


class Overlaid(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One image with the maps that lie over it.

    Args:
        pixels: uint8 `(H, W)` or `(H, W, 3)`.
        title, caption: beside it.
        overlays: in their order; the first one of strengths is shown until another one is chosen.
    """

    pixels: np.ndarray
    title: str
    overlays: tuple[Overlay, ...]
    caption: str = ""


class Overlays(msgspec.Struct, frozen=True, kw_only=True, tag="overlays", forbid_unknown_fields=True):
    """Images under maps: one map at a time to choose from, or all side by side.

    Args:
        title, caption: above and below it.
        pictures: the images.
        classes: names of the classes that maps of classes hold.
        beside: whether the maps stand side by side beside their image; else one is chosen at a time.
        strength: what 255 means in maps of strengths, such as "its largest value on these images".
    """

    title: str
    pictures: tuple[Overlaid, ...]
    classes: tuple[str, ...] = ()
    beside: bool = False
    strength: str = ""
    caption: str = ""


Exhibit = Curve | Table | Heatmap | Gallery | Graph | Scatter | Overlays


_MOODS: dict[str, Mood] = {"fine": "good", "watch": "care", "weak": "bad"}


def mood(level: Level) -> Mood:
    """Return how a level is colored."""
    return _MOODS.get(level, "none")


def measured(measure: Measure) -> str:
    """Return a measure's value with its unit and its 95% interval, as short text."""
    unit = measure.unit if measure.unit in ("", "%") else f" {measure.unit}"
    text = f"{plain(measure.value)}{unit if measure.value is not None else ''}"
    if measure.low is None or measure.high is None:
        return text
    return f"{text} ({plain(measure.low)} to {plain(measure.high)}{unit})"


def spark(exhibits: tuple[Exhibit, ...]) -> Spark:
    """Return the first curve among exhibits as a small curve; an empty one where there is none."""
    for exhibit in exhibits:
        if isinstance(exhibit, Curve):
            lines = sorted(exhibit.lines, key=lambda line: line.role != "main")
            if lines and lines[0].y:
                return Spark(tuple(line.y for line in lines), lines[0].low, lines[0].high, exhibit.title)
    return Spark(())


def _panel(finding: Finding) -> Panel:
    return Panel(
        finding.question,
        finding.answer,
        facts=(("level", finding.level), (finding.measure.label, measured(finding.measure))),
        columns=("measure", "value and 95% interval", "key"),
        rows=tuple((m.label, measured(m), m.name) for m in (finding.measure, *finding.measures)),
        notes=(finding.reason, *finding.cautions),
    )


@showing(_panel)
class Finding(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One answered question.

    Args:
        probe: name of the probe that asked.
        name: stable key of the finding, unique in a report.
        question, answer: both plain sentences.
        measure: the headline number.
        level: fine, watch, weak, or noted where nothing is judged.
        reason: the rule that gave the level, and why that rule.
        advice: what to do next.
        measures: further numbers; comparisons join on their names too.
        exhibits: curves, tables, heatmaps, galleries, graphs, scatters and overlays.
        provenance: seed, cost, samples, settings, versions.
        references: arXiv ids or other references of the method.
        cautions: what limits the answer, one sentence each.
    """

    probe: str
    name: str
    question: str
    answer: str
    measure: Measure
    level: Level
    reason: str
    provenance: Provenance
    advice: Advice | None = None
    measures: tuple[Measure, ...] = ()
    exhibits: tuple[Exhibit, ...] = ()
    references: tuple[str, ...] = ()
    cautions: tuple[str, ...] = ()
