"""How often is the model right, and for which classes?"""

from __future__ import annotations

from dataclasses import dataclass
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
    Heatmap,
    Line,
    Measure,
    Need,
    Provenance,
    Stream,
    Subject,
    Table,
    Work,
    number,
    numbers,
)
from pellucid.metrics import Classification, classification

from .. import _levels
from .._advice import RECIPES_FOR
from .._batches import logits_of
from .._players import feature_names, is_image, spread, usual_in_words
from .._samples import ids_of, picture
from .._wording import brief, count, in_percent, percent, shortened

NO_LABELS = "needs labels, and the data have none"
MOST_CLASSES_DRAWN = 40
MISTAKES_SHOWN = 12
UNUSUAL_SHOWN = 3
"""Features named for each mistake on a table."""

MOST_PER_SAMPLE = 100_000
"""Classes times samples up to which each class's accuracy keeps its value per sample, for paired comparisons."""


@final
@dataclass(frozen=True)
class Accuracy:
    """Accuracy with its interval, per class, against the majority floor, with the mistakes it is surest of."""

    name: str = "accuracy"
    question: str = "How often is the model right, and for which classes?"

    def need(self, subject: Subject, *, effort: Effort) -> Need:
        """One forward of every sample."""
        cost = len(subject)
        memory = 8 * cost * subject.n_classes + 8 * subject.n_classes**2
        return Need(cost, cost, memory=memory, skip=NO_LABELS if subject.labels is None else "")

    def __call__(self, subject: Subject, budget: int, rng: Stream, *, work: Work = ALONE) -> list[Finding]:
        """Answer in one finding."""
        assert subject.labels is not None  # else `need` skips
        result = classification(logits_of(subject, work), subject.labels)
        return [self._finding(subject, result)]

    def _finding(self, subject: Subject, result: Classification) -> Finding:
        accuracy, names = result.accuracy, subject.class_names
        present = (result.support > 0).nonzero()[:, 0].tolist()
        worst = min(present, key=lambda k: float(result.per_class.value[k]))
        judged = _levels.accuracy(
            accuracy.low,
            accuracy.high,
            result.majority_floor,
            n=len(subject),
            worst_high=float(result.per_class.high[worst]),
        )
        answer = (
            f"The model is right on {percent(accuracy.value)} of {count(len(subject), 'sample')} "
            f"(95% interval {percent(accuracy.low)} to {percent(accuracy.high)})."
        )
        if accuracy.low <= result.majority_floor:
            answer += f" Always answering the most frequent class would reach {percent(result.majority_floor)}."
        predicted = result.confusion.sum(0).nonzero()[:, 0].tolist()
        if len(predicted) == 1:
            answer += f" It gives the same answer, {names[predicted[0]]}, to every sample."
        elif accuracy.value == 1:
            answer += " It makes no mistake on these samples."
        else:
            answer += _worst_in_words(result, worst, names)
        return Finding(
            probe=self.name,
            name="accuracy",
            question=self.question,
            answer=answer,
            measure=Measure(
                name="accuracy",
                label="accuracy",
                value=in_percent(accuracy.value),
                low=in_percent(accuracy.low),
                high=in_percent(accuracy.high),
                unit="%",
                usual=f"above {percent(result.majority_floor)}, the share of the most frequent class",
                better="higher",
                samples=numbers(result.correct.double()),
            ),
            level=judged.level,
            reason=judged.reason,
            advice=_advice(
                subject, judged.level, names[worst], low=accuracy.high < _levels.halfway(result.majority_floor)
            ),
            measures=(*_summary(result, subject, worst), *_per_class(result, subject)),
            exhibits=tuple(_exhibits(result, subject)),
            provenance=Provenance(
                seed=0,
                evaluations=len(subject),
                sample_ids=ids_of(subject),
                settings={"interval": "Wilson, 95%"},
            ),
            references=("Wilson 1927, Journal of the American Statistical Association 22",),
            cautions=_cautions(result, present),
        )


def _worst_in_words(result: Classification, worst: int, names: tuple[str, ...]) -> str:
    text = f" The weakest class is {names[worst]} with {percent(float(result.per_class.value[worst]))}"
    wrong = result.confusion[worst].clone()
    wrong[worst] = 0
    if int(wrong.max()) > 0:
        text += f"; it is most often taken for {names[int(wrong.argmax())]}"
    return text + "."


def _advice(subject: Subject, level: str, worst: str, *, low: bool) -> Advice:
    if level == "weak":
        text = "Check that the labels, the class order and the input scaling are those of the training"
        if subject.data_name == RECIPES_FOR:
            return Advice(text=f"{text}, then train again from a recipe.", command="pellucid recipes list")
        return Advice(text=f"{text}. If they are, the model has learned nothing that holds here: train it again.")
    if level == "watch" and low:
        return Advice(
            text="Check that the class order and the input scaling are those of the training. If they are, train "
            "longer, on more data or with a larger network."
        )
    if level == "watch":
        return Advice(
            text=f"Look at the mistakes on {worst}: mislabeled samples, or too few of its kind in training? "
            "More samples narrow the intervals of the classes.",
            command="pellucid audit MODEL DATA --probe accuracy --samples 10000",
        )
    return Advice(text="Look at the confident mistakes below: they are either wrong labels or the next training data.")


def _cautions(result: Classification, present: list[int]) -> tuple[str, ...]:
    fewest = int(result.support[present].min())
    cautions = ["Accuracy on these samples tells nothing about inputs of another kind."]
    if fewest < 30:
        cautions.append(f"Some class has only {count(fewest, 'sample')}: its own accuracy is a rough figure.")
    if len(present) < len(result.support):
        absent = count(len(result.support) - len(present), "class", "classes")
        cautions.append(f"Without a sample here: {absent}.")
    return tuple(cautions)


def _summary(result: Classification, subject: Subject, worst: int) -> tuple[Measure, ...]:
    return (
        Measure(
            name="worst_class_accuracy",
            label="accuracy on the weakest class",
            value=in_percent(result.per_class.value[worst]),
            low=in_percent(result.per_class.low[worst]),
            high=in_percent(result.per_class.high[worst]),
            unit="%",
            better="higher",
        ),
        Measure(
            name="majority_floor",
            label="accuracy of always answering the most frequent class",
            value=in_percent(result.majority_floor),
            unit="%",
        ),
    )


def _per_class(result: Classification, subject: Subject) -> tuple[Measure, ...]:
    """Return each class's accuracy; with very many classes or samples a report would be nothing but these."""
    if subject.n_classes > MOST_CLASSES_DRAWN:
        return ()
    assert subject.labels is not None
    each = subject.n_classes * len(subject) <= MOST_PER_SAMPLE
    measures = []
    for k, name in enumerate(subject.class_names):
        own = subject.labels == k
        if not bool(own.any()):
            continue
        measures.append(
            Measure(
                name=f"accuracy[{name}]",
                label=f"accuracy on {name}",
                value=in_percent(result.per_class.value[k]),
                low=in_percent(result.per_class.low[k]),
                high=in_percent(result.per_class.high[k]),
                unit="%",
                better="higher",
                samples=numbers(torch.where(own, result.correct.double(), torch.nan)) if each else (),
            )
        )
    return tuple(measures)


def _exhibits(result: Classification, subject: Subject) -> list[Exhibit]:
    names = subject.class_names
    order = result.per_class.value.nan_to_num(2.0).argsort(stable=True)
    present = [k for k in order.tolist() if result.support[k] > 0]
    shown, hidden = present[:MOST_CLASSES_DRAWN], len(present) > MOST_CLASSES_DRAWN
    bars = Line(
        name="accuracy",
        x=numbers(range(len(shown))),
        y=numbers(result.per_class.value[shown]),
        low=numbers(result.per_class.low[shown]),
        high=numbers(result.per_class.high[shown]),
    )
    floor = Line(
        name="all classes together",
        x=numbers(range(len(shown))),
        y=(number(result.accuracy.value),) * len(shown),
        role="reference",
    )
    exhibits: list[Exhibit] = [
        Curve(
            title="Accuracy per class",
            x=Axis("class"),
            y=Axis("accuracy", "%"),
            lines=(bars, floor),
            bars=True,
            categories=tuple(names[k] for k in shown),
            caption="Share of each class's samples that the model recognizes, weakest first, with 95% intervals."
            + (
                f" Only the {len(shown)} weakest of {count(len(names), 'class', 'classes')} are shown."
                if hidden
                else ""
            ),
        )
    ]
    if len(names) <= MOST_CLASSES_DRAWN:
        shares = result.confusion.double() / result.support.clamp(min=1)[:, None]
        exhibits.append(
            Heatmap(
                title="Which class is taken for which",
                rows=names,
                columns=names,
                values=tuple(numbers(row) for row in shares),
                row_label="true class",
                column_label="answer",
                unit="%",
                caption="Each row sums to 100%: how the samples of one true class are answered.",
            )
        )
    mistakes = _mistakes(result)
    if len(mistakes):
        exhibits.append(_mixed_up(result, names))
    if len(mistakes) and is_image(subject):
        exhibits.append(_gallery(result, subject, mistakes))
    elif len(mistakes) and subject.modality == "tabular":
        exhibits.append(_mistaken_rows(result, subject, mistakes))
    elif len(mistakes) and subject.texts:
        exhibits.append(_mistaken_texts(result, subject, mistakes))
    return exhibits


def _mistakes(result: Classification) -> Tensor:
    """Return the rows of the wrong answers, the most confident first."""
    wrong = (~result.correct).nonzero()[:, 0]
    return wrong[result.confidence[wrong].argsort(descending=True, stable=True)]


def _mixed_up(result: Classification, names: tuple[str, ...]) -> Table:
    off = result.confusion.clone().fill_diagonal_(0)
    top = off.flatten().argsort(descending=True, stable=True)[:10].tolist()
    pairs = [(k // len(names), k % len(names)) for k in top if off.flatten()[k] > 0]
    rows = tuple((names[a], names[b], int(off[a, b]), int(off[a, b]) / int(result.support[a])) for a, b in pairs)
    return Table(
        title="Most frequent mistakes",
        columns=("true class", "answer", "samples", "share of the true class"),
        rows=rows,
        units=("", "", "", "%"),
    )


def _gallery(result: Classification, subject: Subject, mistakes: Tensor) -> Gallery:
    assert subject.labels is not None
    pictures = []
    for row in mistakes[:MISTAKES_SHOWN].tolist():
        true, answer = subject.class_names[subject.labels[row]], subject.class_names[result.predictions[row]]
        pictures.append(
            picture(
                subject.inputs[row],
                title=f"{true}, taken for {answer}",
                caption=f"{percent(float(result.confidence[row]))} sure, sample {int(subject.ids[row])}",
                bounds=subject.bounds,
            )
        )
    return Gallery(
        title="The mistakes it is surest of",
        pictures=tuple(pictures),
        caption="Wrong answers in order of the model's confidence. Wrong labels gather here too.",
    )


def _mistaken_texts(result: Classification, subject: Subject, mistakes: Tensor) -> Table:
    assert subject.labels is not None
    rows = tuple(
        (
            int(subject.ids[row]),
            subject.class_names[subject.labels[row]],
            subject.class_names[result.predictions[row]],
            float(result.confidence[row]),
            shortened(subject.texts[row].text),
        )
        for row in mistakes[:MISTAKES_SHOWN].tolist()
    )
    return Table(
        title="The mistakes it is surest of",
        columns=("sample", "true class", "answer", "confidence", "text"),
        rows=rows,
        units=("", "", "", "%", ""),
        caption="Wrong answers in order of the model's confidence. Wrong labels gather here too.",
    )


def _mistaken_rows(result: Classification, subject: Subject, mistakes: Tensor) -> Table:
    assert subject.labels is not None
    rows: list[tuple[str | int | float | None, ...]] = []
    scale, names = spread(subject), feature_names(subject)
    away = torch.where(scale > 0, (subject.inputs.double() - subject.usual.double().mean(0)) / scale, 0)
    for row in mistakes[:MISTAKES_SHOWN].tolist():
        most = away[row].abs().argsort(descending=True, stable=True)[:UNUSUAL_SHOWN].tolist()
        told = [f"{names[c]} {brief(float(subject.inputs[row, c]))} ({float(away[row, c]):+.1f} sd)" for c in most]
        rows.append(
            (
                int(subject.ids[row]),
                subject.class_names[subject.labels[row]],
                subject.class_names[result.predictions[row]],
                float(result.confidence[row]),
                *told,
                *[""] * (UNUSUAL_SHOWN - len(told)),
            )
        )
    return Table(
        title="The mistakes it is surest of",
        columns=("sample", "true class", "answer", "confidence", "most unusual feature", "second", "third"),
        rows=tuple(rows),
        units=("", "", "", "%", "", "", ""),
        caption="Wrong answers in order of the model's confidence. Wrong labels gather here too. Unusual is far from "
        f"the mean of {usual_in_words(subject)}, in standard deviations (sd).",
    )
