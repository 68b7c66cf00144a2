"""How well do a model's answers for every pixel cover the areas of each class?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor

from pellucid.core import (
    ALONE,
    IGNORED,
    Advice,
    Axis,
    Curve,
    Effort,
    Exhibit,
    Finding,
    Heatmap,
    Line,
    Measure,
    Need,
    OnStep,
    Overlays,
    Provenance,
    Stream,
    Subject,
    Table,
    Work,
    number,
    numbers,
)
from pellucid.metrics import Segmentation as Segmented
from pellucid.metrics import confusions, iou, segmentation

from .. import _levels
from .._batches import forwards
from .._dense import laid_over, mask_map, strength_map
from .._samples import ids_of
from .._wording import count, in_percent, percent
from ._accuracy import MOST_CLASSES_DRAWN, NO_LABELS

SHOWN = 3
"""Worst images and typical images that are shown."""

MOST_COUNTS = 2**28
"""Numbers in the tables of all images; with very many classes fewer images are counted."""

_VOC = "Everingham et al. 2015, International Journal of Computer Vision 111"


@dataclass(frozen=True)
class Counted:
    """What was counted.

    Args:
        subject: on the images counted.
        found: what follows from their tables.
        wrong: wrong pixels of each image.
        near: pixels of each image near a border between classes.
        wrong_near: wrong pixels among them.
        radius: how far near is, in pixels.
    """

    subject: Subject
    found: Segmented
    wrong: Tensor
    near: Tensor
    wrong_near: Tensor
    radius: int

    @property
    def support(self) -> Tensor:
        """Labelled pixels of each class."""
        return self.found.confusion.sum(1)

    @property
    def per_image(self) -> Tensor:
        """Mean IoU of each image by itself; NaN where it has no labelled pixel."""
        labelled = self.found.confusions.sum((1, 2)) > 0
        return torch.where(labelled, iou(self.found.confusions).mean, torch.nan)

    @property
    def mistaken(self) -> Tensor:
        """Share of wrong pixels of each image; NaN where it has no labelled pixel.

        By this the worst images are chosen: in a mean IoU of one image, three missed pixels of a class are half of it.
        """
        return self.wrong / self.found.confusions.sum((1, 2))


@final
@dataclass(frozen=True)
class Segmentation:
    """Mean IoU with its interval, per class, against the majority floor, with the images it serves worst."""

    dense: ClassVar[bool] = True
    name: str = "segmentation"
    question: str = "How well do the answers for every pixel cover the areas of each class?"

    def suits(self, subject: Subject) -> bool:
        """Whether the model answers for every pixel."""
        return subject.dense

    def need(self, subject: Subject, *, effort: Effort) -> Need:
        """One forward of every image, and another one of those shown."""
        if not subject.dense:
            return Need(0, 0, skip=f"asks about answers for every pixel, and {subject.name} gives each sample one")
        n = _most(subject)
        cost = n + min(n, 2 * SHOWN)
        memory = 16 * n * subject.n_classes**2
        return Need(cost, cost, memory=memory, skip=NO_LABELS if subject.labels is None else "")

    def __call__(self, subject: Subject, budget: int, rng: Stream, *, work: Work = ALONE) -> list[Finding]:
        """Answer in one finding."""
        part = subject.take(torch.arange(_most(subject)))
        counted = _counted(part, rng, work)
        return [self._finding(counted)]

    def _finding(self, counted: Counted) -> Finding:
        subject, found = counted.subject, counted.found
        mean, names = found.mean_iou, subject.class_names
        present = (counted.support > 0).nonzero()[:, 0].tolist()
        worst = min(present, key=lambda k: float(found.per_class.value[k]))
        judged = _levels.segmentation(
            mean.value,
            mean.low,
            mean.high,
            found.floor,
            n=len(subject),
            worst_high=float(found.per_class.high[worst]),
        )
        shown = _shown(counted)
        return Finding(
            probe=self.name,
            name="segmentation",
            question=self.question,
            answer=_answer(counted, worst, names),
            measure=Measure(
                name="mean_iou",
                label="mean IoU over the classes",
                value=in_percent(mean.value),
                low=_percent(mean.low),
                high=_percent(mean.high),
                unit="%",
                usual=f"above {percent(found.floor)}, that of always answering the most frequent class",
                better="higher",
            ),
            level=judged.level,
            reason=judged.reason,
            advice=_advice(counted, judged.level, names[worst]),
            measures=tuple(_measures(counted, worst)),
            exhibits=tuple(_exhibits(counted, shown)),
            provenance=Provenance(
                seed=0,
                evaluations=len(subject) + len(shown),
                sample_ids=ids_of(subject),
                settings={
                    "interval": "bootstrap over images, 1000 draws, 95%",
                    "mean IoU": "of the counts of all images together, over the classes in labels or answers",
                    "near a border": f"within {count(counted.radius, 'pixel')} of another class",
                },
            ),
            references=(_VOC,),
            cautions=_cautions(counted),
        )


def _most(subject: Subject) -> int:
    return min(len(subject), max(2, MOST_COUNTS // subject.n_classes**2))


def _counted(subject: Subject, rng: Stream, work: Work) -> Counted:
    assert subject.labels is not None  # else `need` skips
    radius = max(1, round(min(subject.labels.shape[1:]) / 100))

    def compute(rows: Tensor, on_step: OnStep) -> dict[str, Tensor]:
        part = subject.take(rows)
        assert part.labels is not None
        tables, lines = [], []
        for own, logits in part.logit_batches(batch_size=len(rows)):
            answer, labels = logits.argmax(1), part.labels[own]
            tables.append(confusions(answer, labels, subject.n_classes))
            known = labels != IGNORED
            wrong, near = known & (answer != labels), known & _near_border(labels, radius)
            lines.append(torch.stack([each.flatten(1).sum(1) for each in (wrong, near, wrong & near)], 1))
        return {"confusions": torch.cat(tables), "lines": torch.cat(lines)}

    told = work.map("segmentation", subject.ids, compute, chunk=forwards(subject))
    wrong, near, wrong_near = told["lines"].unbind(1)
    found = segmentation(told["confusions"], rng=rng.child("interval"))
    return Counted(subject, found, wrong, near, wrong_near, radius)


def _near_border(labels: Tensor, radius: int) -> Tensor:
    """Return which pixels have another class, or none, at most so many pixels away."""
    classes = labels.float()[:, None]
    size = 2 * radius + 1
    high = F.max_pool2d(classes, size, 1, radius)
    low = -F.max_pool2d(-classes, size, 1, radius)
    return (high != low)[:, 0]


def _percent(share: float) -> float | None:
    return in_percent(share) if math.isfinite(share) else None


# -- words -------------------------------------------------------------------------------------------------------------


def _answer(counted: Counted, worst: int, names: tuple[str, ...]) -> str:
    found, mean = counted.found, counted.found.mean_iou
    text = f"The answers cover the areas of the classes with a mean IoU of {percent(mean.value)}"
    if math.isfinite(mean.low):
        text += f" (95% interval {percent(mean.low)} to {percent(mean.high)})"
    text += (
        f" on {count(len(counted.subject), 'image')}. {percent(found.pixel_accuracy.value)} of the pixels are right."
    )
    if mean.value <= found.floor:
        text += f" Always answering the most frequent class would reach {percent(found.floor)}."
    answered = found.confusion.sum(0).nonzero()[:, 0].tolist()
    if len(answered) == 1:
        return f"{text} It gives every pixel the same answer, {names[answered[0]]}."
    if found.pixel_accuracy.value == 1:
        return f"{text} No pixel is wrong on these images."
    text += f" The weakest class is {names[worst]} with an IoU of {percent(float(found.per_class.value[worst]))}"
    taken = found.confusion[worst].clone()
    taken[worst] = 0
    if int(taken.max()) > 0:
        text += f"; where it is missed, {names[int(taken.argmax())]} is answered most often"
    text += "."
    near = _near_share(counted)
    if near >= 0.5 and float(counted.near.sum()) < 0.5 * float(found.confusion.sum()):
        text += (
            f" {percent(near)} of the wrong pixels lie within {count(counted.radius, 'pixel')} of a border between "
            f"classes, where {percent(float(counted.near.sum() / found.confusion.sum()))} of all pixels lie."
        )
    return text


def _near_share(counted: Counted) -> float:
    wrong = int(counted.wrong.sum())
    return int(counted.wrong_near.sum()) / wrong if wrong else math.nan


def _advice(counted: Counted, level: str, worst: str) -> Advice:
    found = counted.found
    if level == "weak":
        return Advice(
            text=f"Check that the masks' order of classes, the label of unknown pixels ({IGNORED}) and the input "
            "scaling are those of the training. If they are, the model has learned nothing that holds here: train it "
            "again."
        )
    if level == "watch" and found.mean_iou.value < _levels.halfway(found.floor):
        return Advice(
            text=f"Look at the worst images below, and at {worst}: areas that are taken for another class as a whole "
            "ask for more context or more training, not for finer borders."
        )
    if level == "watch":
        return Advice(
            text=f"Look at {worst} in the images below: too few of its pixels in training, or masks that differ in "
            "what they call so?",
        )
    if _near_share(counted) >= 0.5:
        return Advice(
            text="Most mistakes are at borders: let the network answer at a finer resolution, or accept them where the "
            "masks themselves are drawn no finer. The images below show which it is."
        )
    return Advice(text="Look at the worst images below: they are either wrong masks or the next training data.")


def _cautions(counted: Counted) -> tuple[str, ...]:
    subject, support = counted.subject, counted.support
    cautions = ["Mean IoU weighs all classes alike, however few pixels they have; pixel accuracy weighs pixels."]
    labels = subject.labels
    assert labels is not None
    ignored = int((labels == IGNORED).sum())
    if ignored:
        cautions.append(f"{percent(ignored / labels.numel())} of the pixels have no label; they count nowhere.")
    if len(subject) < _levels.FEW:
        cautions.append(f"{count(len(subject), 'image')} are few: pixels of one image are alike, intervals are wide.")
    absent = [name for name, n in zip(subject.class_names, support.tolist(), strict=True) if not n]
    if absent:
        cautions.append(
            f"Without a labelled pixel here: {count(len(absent), 'class', 'classes')}; one that is answered all the "
            "same has an IoU of 0."
        )
    return tuple(cautions)


# -- numbers -----------------------------------------------------------------------------------------------------------


def _measures(counted: Counted, worst: int) -> list[Measure]:
    found, names, images = counted.found, counted.subject.class_names, counted.per_image
    labelled = found.confusions.sum((1, 2))
    even = bool((labelled == labelled[0]).all()) and int(labelled[0]) > 0
    right = 1 - counted.wrong / labelled.clamp_min(1)
    measures = [
        _share(
            "pixel_accuracy",
            "share of the pixels that are right",
            found.pixel_accuracy.value,
            found.pixel_accuracy.low,
            found.pixel_accuracy.high,
            samples=numbers(right.double()) if even else (),
        ),
        _share(
            "image_iou",
            "mean IoU of each image by itself, mean over images",
            float(images.nanmean()),
            samples=numbers(images),
        ),
        _share(
            "worst_class_iou",
            "IoU of the weakest class",
            float(found.per_class.value[worst]),
            float(found.per_class.low[worst]),
            float(found.per_class.high[worst]),
        ),
        Measure(
            name="mean_iou_floor",
            label="mean IoU of always answering the most frequent class",
            value=in_percent(found.floor),
            unit="%",
        ),
    ]
    near = _near_share(counted)
    if math.isfinite(near):
        measures.append(
            Measure(
                name="border_errors",
                label=f"share of the wrong pixels within {count(counted.radius, 'pixel')} of a border",
                value=in_percent(near),
                unit="%",
                usual=f"{percent(float(counted.near.sum() / found.confusion.sum()))} of all pixels lie there",
            )
        )
    if len(names) > MOST_CLASSES_DRAWN:
        return measures
    for k, name in enumerate(names):
        value = float(found.per_class.value[k])
        if math.isfinite(value):
            low, high = float(found.per_class.low[k]), float(found.per_class.high[k])
            measures.append(_share(f"iou[{name}]", f"IoU of {name}", value, low, high))
    return measures


def _share(
    name: str,
    label: str,
    value: float,
    low: float = math.nan,
    high: float = math.nan,
    samples: tuple[float | None, ...] = (),
) -> Measure:
    return Measure(
        name=name,
        label=label,
        value=_percent(value),
        low=_percent(low),
        high=_percent(high),
        unit="%",
        better="higher",
        samples=samples,
    )


# -- exhibits ----------------------------------------------------------------------------------------------------------


def _exhibits(counted: Counted, shown: list[int]) -> list[Exhibit]:
    found, names = counted.found, counted.subject.class_names
    known = found.per_class.value.isfinite().nonzero()[:, 0].tolist()
    order = sorted(known, key=lambda k: float(found.per_class.value[k]))
    drawn = order[:MOST_CLASSES_DRAWN]
    exhibits: list[Exhibit] = []
    if shown:
        exhibits.append(_pictures(counted, shown))
    bars = Line(
        name="IoU",
        x=numbers(range(len(drawn))),
        y=numbers(found.per_class.value[drawn]),
        low=numbers(found.per_class.low[drawn]),
        high=numbers(found.per_class.high[drawn]),
    )
    mean = Line(
        name="mean", x=numbers(range(len(drawn))), y=(number(found.mean_iou.value),) * len(drawn), role="reference"
    )
    exhibits.append(
        Curve(
            title="IoU per class",
            x=Axis("class"),
            y=Axis("IoU", "%"),
            lines=(bars, mean),
            bars=True,
            categories=tuple(names[k] for k in drawn),
            caption="Intersection over union of the pixels of a class and those answered so, weakest first, with 95% "
            "intervals over images."
            + (f" Only the {len(drawn)} weakest of {len(order)} are shown." if len(order) > len(drawn) else ""),
        )
    )
    if len(names) <= MOST_CLASSES_DRAWN:
        shares = found.confusion.double() / counted.support.clamp(min=1)[:, None]
        exhibits.append(
            Heatmap(
                title="Which class is taken for which",
                rows=names,
                columns=names,
                values=tuple(numbers(row) for row in shares),
                row_label="true class",
                column_label="answer",
                unit="%",
                caption="Each row sums to 100%: how the pixels of one true class are answered.",
            )
        )
    exhibits.append(_table(counted, drawn))
    return exhibits


def _table(counted: Counted, order: list[int]) -> Table:
    found, names = counted.found, counted.subject.class_names
    total, answered = found.confusion.sum(), found.confusion.sum(0)
    return Table(
        title="The classes in numbers",
        columns=("class", "IoU", "found", "right", "share of labels", "share of answers"),
        rows=tuple(
            (
                names[k],
                number(found.per_class.value[k]),
                number(found.recall[k]),
                number(found.confusion[k, k] / answered[k]) if int(answered[k]) else None,
                number(counted.support[k] / total),
                number(answered[k] / total),
            )
            for k in order
        ),
        units=("", "%", "%", "%", "%", "%"),
        caption="Found: share of the pixels of the class that are answered so (recall). Right: share of the pixels "
        "answered so that are of the class (precision).",
    )


def _shown(counted: Counted) -> list[int]:
    """Return the rows of the worst images, then of those around the median."""
    known = counted.mistaken.isfinite().nonzero()[:, 0]
    order = known[counted.mistaken[known].argsort(descending=True, stable=True)].tolist()
    worst, rest = order[:SHOWN], order[SHOWN:]
    middle = max(0, len(order) // 2 - SHOWN - SHOWN // 2)
    return [*worst, *rest[middle : middle + SHOWN]]


def _pictures(counted: Counted, shown: list[int]) -> Overlays:
    part = counted.subject.take(torch.tensor(shown))
    assert part.labels is not None
    answers = torch.cat([logits.argmax(1) for _, logits in part.logit_batches(batch_size=len(shown))])
    pictures = []
    for place, row in enumerate(shown):
        labels, answer = part.labels[place], answers[place]
        wrong = (answer != labels) & (labels != IGNORED)
        which = "worst" if place < SHOWN else "typical"
        pictures.append(
            laid_over(
                part.inputs[place],
                (
                    mask_map("labels", labels),
                    mask_map("answer", answer),
                    strength_map("wrong", wrong.float(), most=1.0),
                ),
                title=f"Sample {int(part.ids[place])}, {which}",
                caption=f"{percent(float(counted.mistaken[row]))} of its pixels are wrong",
                bounds=part.bounds,
            )
        )
    return Overlays(
        title="Worst and typical images",
        pictures=tuple(pictures),
        classes=counted.subject.class_names,
        beside=True,
        caption=f"The {count(min(SHOWN, len(shown)), 'image')} with the most wrong pixels, then "
        f"{count(max(0, len(shown) - SHOWN), 'image')} around the median. Wrong pixels are bright over the image in "
        "gray.",
    )
