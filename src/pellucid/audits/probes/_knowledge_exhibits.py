"""What knowledge points look like: samples and regions that can be turned, outlined images, counts by layer."""

from __future__ import annotations

import math
import re

import numpy as np
import torch
from torch import Tensor

from pellucid.core import (
    Axis,
    Curve,
    Dot,
    Exhibit,
    Gallery,
    Line,
    Mark,
    Number,
    Picture,
    Scatter,
    Subject,
    Table,
    number,
    numbers,
)
from pellucid.explain import MOVES, KnowledgePoints, KnowledgeUnderAttack, LayerKnowledge

from .._samples import picture

SAMPLES = 150
WAYS = 60
REGION_SAMPLES = 20
REGIONS = 180
PICTURES = 8
THUMBNAIL = 32
_AROUND = 2  # a region's thumbnail shows so many times its side


def exhibits(subject: Subject, found: list[KnowledgePoints]) -> tuple[Exhibit, ...]:
    """Return the pictures of samples and regions of the first fit, and counts of all of them."""
    return (
        _samples(subject, found[0]),
        _outlined(subject, found[0]),
        _regions(subject, found[0]),
        _by_layer(found),
        _table(found),
    )


def attack_exhibits(subject: Subject, found: KnowledgePoints, moved: KnowledgeUnderAttack) -> tuple[Exhibit, ...]:
    """Return the ways of samples under attack, and what happened to regions layer by layer."""
    return (_ways(subject, found, moved), _moves(moved))


def training_exhibits(subject: Subject, grown: dict[str, KnowledgePoints]) -> tuple[Exhibit, ...]:
    """Return the ways of samples during training, and counts at each checkpoint."""
    return (_by_checkpoint(grown), _training_table(grown), _grown(subject, grown))


# -- places -------------------------------------------------------------------------------------------------------


def _arrows(found: KnowledgePoints) -> tuple[tuple[float, float, float], ...]:
    return tuple(_place(direction) for direction in found.samples.class_directions_)


def _place(vector: Tensor) -> tuple[float, float, float]:
    x, y, z = (round(float(v), 5) for v in vector[:3])
    return x, y, z


def _samples(subject: Subject, found: KnowledgePoints) -> Scatter:
    places = found.samples.embedding_.cpu()
    rows = range(min(SAMPLES, len(subject)))
    return Scatter(
        title="Samples: direction is class, length is certainty",
        groups=subject.class_names,
        dots=tuple(
            Dot(at=_place(places[k]), group=int(found.labels[k]), label=_sample_label(subject, found, k)) for k in rows
        ),
        arrows=_arrows(found),
        thumbnails=tuple(_small(subject, subject.inputs[k]) for k in rows),
        length="certainty",
        caption="Each dot is a sample, colored by its true class; arrows are the directions of the model's classes. A "
        "dot near the middle is a sample that the model is unsure about; one along another class's arrow is taken for "
        "it.",
    )


def _sample_label(subject: Subject, found: KnowledgePoints, k: int) -> str:
    true, said = subject.class_names[int(found.labels[k])], subject.class_names[int(found.predicted[k])]
    answer = "answered rightly" if true == said else f"answered {said}"
    return f"Sample {int(subject.ids[k])}: {true}, {answer}"


def _small(subject: Subject, x: Tensor) -> np.ndarray:
    """Return a thumbnail's pixels: large images are averaged down."""
    if max(x.shape[1:]) > 2 * THUMBNAIL:
        scale = 2 * THUMBNAIL / max(x.shape[1:])
        size = [max(1, round(scale * side)) for side in x.shape[1:]]
        x = torch.nn.functional.interpolate(x[None].float(), size=size, mode="bilinear", antialias=True)[0]
    return picture(x, title="", bounds=subject.bounds).pixels


def _regions(subject: Subject, found: KnowledgePoints) -> Scatter:
    """Show the regions of the last layer on some images, the strongest ones if there are too many."""
    layer = found.layers[-1]
    rows = min(REGION_SAMPLES, len(subject))
    points = layer.points
    strength = points.strength[:rows].flatten()
    kept = strength.argsort(descending=True, stable=True)[:REGIONS].sort().values
    columns, each = layer.grid[1], layer.grid[0] * layer.grid[1]
    dots, thumbnails = [], []
    for place in kept.tolist():
        k, cell = divmod(place, each)
        r, c = divmod(cell, columns)
        said = subject.class_names[int(points.label[k, r, c])]
        true = subject.class_names[int(found.labels[k])]
        what = f"a knowledge point of {said}" if bool(points.mask[k, r, c]) else f"points to {said}, not clearly"
        label = f"Region r{r + 1}c{c + 1} of sample {int(subject.ids[k])} ({true}): {what}"
        dots.append(Dot(at=_place(points.vectors[k, r, c]), group=int(found.labels[k]), label=label))
        thumbnails.append(_small(subject, _around(subject.inputs[k], layer.grid, r, c)))
    return Scatter(
        title=f"Regions in layer {layer.name}",
        groups=subject.class_names,
        dots=tuple(dots),
        arrows=_arrows(found),
        thumbnails=tuple(thumbnails),
        length="strength",
        caption=f"The {len(dots)} strongest regions of {rows} images, colored by the true class of their image; "
        "lengths are in units of the layer's mean. The picture of a dot is its region with what lies around it.",
    )


def _around(x: Tensor, grid: tuple[int, int], r: int, c: int) -> Tensor:
    """Return a region of an image with what lies around it, of the same size everywhere."""
    sides = []
    for size, cells, at in zip(x.shape[1:], grid, (r, c), strict=True):
        side = min(size, max(1, math.ceil(_AROUND * size / cells)))
        middle = (at + 0.5) * size / cells
        start = min(max(0, round(middle - side / 2)), size - side)
        sides.append(slice(start, start + side))
    return x[:, sides[0], sides[1]]


# -- pictures -----------------------------------------------------------------------------------------------------


def _outlined(subject: Subject, found: KnowledgePoints) -> Gallery:
    layer = found.layers[-1]
    return Gallery(
        title=f"Knowledge points in layer {layer.name}",
        pictures=tuple(_outline(subject, found, layer, k) for k in range(min(PICTURES, len(subject)))),
        caption="How many regions point clearly to which class; press a row to see them on the picture. Blue ones "
        "point to the true class, orange ones to another. Each region stands for what the layer sees from there, which "
        "reaches beyond its border.",
    )


def _outline(subject: Subject, found: KnowledgePoints, layer: LayerKnowledge, k: int) -> Picture:
    points, true = layer.points, int(found.labels[k])
    marks = []
    for label in torch.unique(points.label[k][points.mask[k]]).tolist():
        cells = ((points.label[k] == label) & points.mask[k]).flatten().nonzero()[:, 0].tolist()
        size = len(cells) if label == true else -len(cells)
        marks.append(
            Mark(
                cells=tuple(cells),
                weight=float(size),
                label=f"to {subject.class_names[label]}",
                amount=str(len(cells)),
            )
        )
    marks.sort(key=lambda mark: ((mark.weight or 0.0) < 0, -len(mark.cells)))  # the true class, then the most
    right, every = int(points.reliable_counts[k]), int(points.counts[k])
    return picture(
        subject.inputs[k],
        title=subject.class_names[true],
        caption=f"sample {int(subject.ids[k])}: {every} knowledge points, {right} of them reliable",
        bounds=subject.bounds,
        grid=layer.grid,
        marks=tuple(marks),
    )


# -- numbers ------------------------------------------------------------------------------------------------------


def _by_layer(found: list[KnowledgePoints]) -> Curve:
    names = tuple(layer.name for layer in found[0].layers)
    x = numbers(range(len(names)))
    lines = []
    for name, part in (("knowledge points", "counts"), ("reliable ones", "reliable_counts")):
        values = torch.stack(
            [torch.stack([getattr(layer.points, part).double().mean() for layer in f.layers]) for f in found]
        )
        low, high = values.amin(0), values.amax(0)
        lines.append(Line(name=name, x=x, y=numbers(values.mean(0)), low=numbers(low), high=numbers(high)))
    return Curve(
        title="Knowledge points by layer",
        x=Axis("layer"),
        y=Axis("per image"),
        lines=tuple(lines),
        categories=names,
        bars=True,
        caption=f"Means over {len(found)} fits; whiskers reach from the least to the most of them.",
    )


def _table(found: list[KnowledgePoints]) -> Table:
    rows = []
    for k, layer in enumerate(found[0].layers):
        points = [f.layers[k].points for f in found]
        counts = _spread([p.count for p in points])
        right = _spread([float(p.reliable_counts.double().mean()) for p in points])
        share = _spread([p.ratio for p in points])
        rows.append((layer.name, layer.grid[0] * layer.grid[1], *counts, *right, *share))
    spread = "spread over fits"
    return Table(
        title="Layers in numbers",
        columns=("layer", "regions", "points per image", spread, "reliable ones", spread, "reliable share", spread),
        rows=tuple(rows),
        units=("", "", "", "", "", "", "%", "%"),
        caption="Spread is the standard deviation over fits from different random starts.",
    )


def _spread(counted: list[float]) -> tuple[Number, Number]:
    values = torch.tensor(counted, dtype=torch.float64)
    return number(values.mean()), number(values.std() if len(values) > 1 else math.nan)


def _ways(subject: Subject, found: KnowledgePoints, moved: KnowledgeUnderAttack) -> Scatter:
    assert subject.labels is not None
    dots = []
    for k in range(len(subject)):
        true, end = subject.class_names[int(subject.labels[k])], subject.class_names[int(moved.answers[-1, k])]
        start = subject.class_names[int(moved.answers[0, k])]
        said = f"answered {start} before and {end} after" if start != end else f"answered {start} all along"
        dots.append(
            Dot(
                at=_place(moved.samples[0, k]),
                group=int(subject.labels[k]),
                label=f"Sample {int(subject.ids[k])}: {true}, {said}",
                path=tuple(_place(place) for place in moved.samples[1:, k]),
            )
        )
    return Scatter(
        title="Where an attack moves samples",
        groups=subject.class_names,
        dots=tuple(dots),
        arrows=_arrows(found),
        thumbnails=tuple(_small(subject, x) for x in subject.inputs),
        length="certainty",
        caption="Each dot is a sample before the attack; its line is the way it goes, step by step.",
    )


def _grown(subject: Subject, grown: dict[str, KnowledgePoints]) -> Scatter:
    names, found = list(grown), list(grown.values())
    dots = []
    for k in range(min(WAYS, len(subject))):
        true, end = subject.class_names[int(found[0].labels[k])], subject.class_names[int(found[-1].predicted[k])]
        start = subject.class_names[int(found[0].predicted[k])]
        dots.append(
            Dot(
                at=_place(found[-1].samples.embedding_[k]),
                group=int(found[0].labels[k]),
                label=f"Sample {int(subject.ids[k])}: {true}, answered {start} at {names[0]} and {end} at {names[-1]}",
                path=tuple(_place(f.samples.embedding_[k]) for f in found[-2::-1]),
            )
        )
    return Scatter(
        title="Where training moves samples",
        groups=subject.class_names,
        dots=tuple(dots),
        arrows=_arrows(found[-1]),
        thumbnails=tuple(_small(subject, subject.inputs[k]) for k in range(len(dots))),
        length="certainty",
        caption=f"Each dot is a sample at {names[-1]}; its line leads back to where it was at {names[0]}. Arrows are "
        "the directions of classes at the end.",
    )


def _by_checkpoint(grown: dict[str, KnowledgePoints]) -> Curve:
    found, (axis, x, categories) = list(grown.values()), _moments(tuple(grown))
    last = len(found[0].layers) - 1
    lines = [
        Line(name=f"all of {found[0].layers[last].name}", x=x, y=numbers(f.layers[last].points.count for f in found))
    ]
    for k, layer in enumerate(found[0].layers):
        right = (f.layers[k].points.reliable_counts.double().mean() for f in found)
        lines.append(Line(name=f"reliable, {layer.name}", x=x, y=numbers(right)))
    return Curve(
        title="Knowledge points over training",
        x=axis,
        y=Axis("per image"),
        lines=tuple(lines),
        categories=categories,
        bars=bool(categories),
    )


def _moments(names: tuple[str, ...]) -> tuple[Axis, tuple[Number, ...], tuple[str, ...]]:
    """Return the axis of checkpoints and where each lies: at its number if all have one, as `epoch 3`, or by name."""
    parts = [re.fullmatch(r"(.*\D) (\d+)", name) for name in names]
    words = {part[1] for part in parts if part}
    if all(parts) and len(words) == 1:
        return Axis(words.pop()), numbers(float(part[2]) for part in parts if part), ()
    return Axis("checkpoint"), numbers(range(len(names))), names


def _training_table(grown: dict[str, KnowledgePoints]) -> Table:
    rows = []
    for name, found in grown.items():
        right = number((found.predicted == found.labels).double().mean())
        for layer in found.layers:
            points = layer.points
            reliable = number(points.reliable_counts.double().mean())
            rows.append((name, right, layer.name, number(points.count), reliable, number(points.ratio)))
    return Table(
        title="Checkpoints in numbers",
        columns=("checkpoint", "right answers", "layer", "points per image", "reliable ones", "reliable share"),
        rows=tuple(rows),
        units=("", "%", "", "", "", "%"),
    )


def _moves(moved: KnowledgeUnderAttack) -> Table:
    rows = []
    fooled = moved.fooled
    for layer in moved.layers:
        kinds = layer.moves[fooled].flatten()
        shares = [number((kinds == kind).double().mean()) if len(kinds) else None for kind in (1, 2, 3, 4)]
        rows.append(
            (
                layer.name,
                number(layer.orientation),
                number(layer.strength),
                layer.before.count,
                layer.after.count,
                number(layer.before.ratio),
                number(layer.after.ratio),
                number(layer.new_share),
                *shares,
            )
        )
    return Table(
        title="Regions under attack",
        columns=(
            "layer",
            "turn (1 - cos)",
            "change of length",
            "points before",
            "after",
            "reliable before",
            "reliable after",
            "new points",
            *(MOVES[kind] for kind in (1, 2, 3, 4)),
        ),
        rows=tuple(rows),
        units=("", "", "", "", "", "%", "%", "%", "%", "%", "%", "%"),
        caption=f"The last four columns are shares of all regions of the {int(fooled.sum())} samples that were fooled.",
    )
