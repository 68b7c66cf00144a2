"""How accurate is the model on pictures that cameras and files have spoiled?"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

import torch

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
    Picture,
    Provenance,
    Stream,
    Subject,
    Table,
    Work,
    number,
    numbers,
)
from pellucid.metrics import (
    CORRUPTIONS,
    SEVERITIES,
    CorruptionAccuracy,
    corrupted,
    corruption_accuracy,
    corruption_strength,
    cost_corruption_accuracy,
)

from .. import _levels
from .._advice import recipe
from .._batches import forwards
from .._players import is_image, is_large
from .._samples import draw, ids_of, picture
from .._wording import brief, count, in_percent, listed, percent
from ._accuracy import NO_LABELS

LEAST = 20
WANTED = {"quick": 100, "full": 500}
LARGE_LEAST, LARGE_WANTED = 4, {"quick": 16, "full": 100}
"""Samples to corrupt, and for large images, whose every evaluation costs a hundred times as much."""

WORST = 3
"""Corruptions that are named and shown."""

SHOWN_SEVERITY = 3
"""The severity at which each corruption is shown."""


@final
@dataclass(frozen=True)
class Corruptions:
    """Accuracy under ten common corruptions at five severities, on the same samples."""

    name: str = "corruptions"
    question: str = field(default="How accurate is the model on pictures spoiled by noise, blur or compression?")

    def need(self, subject: Subject, *, effort: Effort) -> Need:
        """One forward of each sample as it is, and one for each corruption and severity."""
        skip = ""
        if subject.labels is None:
            skip = NO_LABELS
        elif not is_image(subject):
            skip = f"corrupts pictures, not inputs of modality {subject.modality}"
        elif subject.bounds is None:
            skip = "corruptions are defined by brightness, and the range of these images is not known"
        if skip:
            return Need(0, 0, skip=skip)
        large = is_large(subject)
        most = min(len(subject), (LARGE_WANTED if large else WANTED)[effort])
        least = min(most, LARGE_LEAST if large else LEAST)
        return Need(
            cost_corruption_accuracy(least),
            cost_corruption_accuracy(most),
            memory=12 * 8 * forwards(subject) * subject.inputs[0].numel(),
            remark=f"corrupts fewer than {most} samples: wider intervals",
        )

    def __call__(self, subject: Subject, budget: int, rng: Stream, *, work: Work = ALONE) -> list[Finding]:
        """Answer in one finding."""
        most = (LARGE_WANTED if is_large(subject) else WANTED)["full"]
        n = max(1, min(len(subject), most, budget // cost_corruption_accuracy(1)))
        part = subject.take(draw(subject, n, rng=rng.child("samples")))
        assert part.labels is not None  # else `need` skips
        assert part.bounds is not None
        stream = rng.child("corruptions").at(part.ids)
        result = corruption_accuracy(
            part.model, part.inputs, part.labels, bounds=part.bounds, rng=stream, batch_size=forwards(part), work=work
        )
        work.on_step(1, 1)
        return [self._finding(part, result, stream)]

    def _finding(self, subject: Subject, result: CorruptionAccuracy, stream: Stream) -> Finding:
        assert subject.labels is not None
        floor = float(subject.labels.bincount().max()) / len(subject)
        judged = _levels.corruptions(result.clean, result.kept, n=int(result.clean_correct.sum()), floor=floor)
        worst = result.by_name.value.argsort(stable=True)[:WORST].tolist()
        size = "small" if max(corruption_shape(subject)) <= 64 else "large"
        return Finding(
            probe=self.name,
            name="corruptions",
            question=self.question,
            answer=_answer(subject, result, worst),
            measure=Measure(
                name="corruption_accuracy",
                label="accuracy under common corruptions, mean over kinds and severities",
                value=in_percent(result.mean.value),
                low=_share(result.mean.low),
                high=_share(result.mean.high),
                unit="%",
                usual="below the clean accuracy, unless the model was trained on such pictures",
                better="higher",
                samples=numbers(result.correct.double().mean((1, 2))),
            ),
            level=judged.level,
            reason=judged.reason,
            advice=_advice(subject, judged.level, [result.names[k] for k in worst]),
            measures=tuple(_measures(result)),
            exhibits=tuple(_exhibits(subject, result, worst, stream)),
            provenance=Provenance(
                seed=0,
                evaluations=result.evaluations,
                sample_ids=ids_of(subject),
                settings={
                    "corruptions": ", ".join(result.names),
                    "severities": "1 to 5, with the strengths of "
                    + ("CIFAR-10-C" if size == "small" else "ImageNet-C")
                    + " and lengths that grow with the image",
                    "interval": "bootstrap over samples, 1000 draws, 95%; Wilson for single cells",
                },
            ),
            references=("arXiv:1903.12261", "arXiv:1906.08988"),
            cautions=(
                "The corruptions are made by our own code after the published strengths: the numbers are near those on "
                "the published corrupted files, and not the same.",
                "Fog, frost, snow, glass blur and elastic transforms of the published set are left out.",
            ),
        )


def corruption_shape(subject: Subject) -> tuple[int, int]:
    """Return height and width of the images."""
    return int(subject.inputs.shape[2]), int(subject.inputs.shape[3])


def _share(share: float | torch.Tensor) -> float | None:
    return in_percent(share) if number(share) is not None else None


def in_words(name: str) -> str:
    """Return what to call a corruption in a sentence."""
    return "JPEG compression" if name == "jpeg" else name.replace("-", " ")


def _answer(subject: Subject, result: CorruptionAccuracy, worst: list[int]) -> str:
    if not bool(result.clean_correct.any()):
        return "The model is wrong on every sample as it is, so corruptions have nothing to spoil."
    clean, mean = result.clean.value, float(result.mean.value)
    kinds = count(len(result.names), "common corruption")
    before, after = percent(clean), percent(mean)
    change = "stays at " + before if before == after else f"goes from {before} to {after}"
    named = listed(f"{in_words(result.names[k])} ({percent(float(result.by_name.value[k]))})" for k in worst)
    severest = result.accuracy.value[:, -1]
    at_worst = int(severest.argmin())
    return (
        f"Over {kinds} at {len(result.severities)} severities each, the accuracy {change} on average, on "
        f"{count(len(subject), 'sample')}. It is lowest under {named}. At severity {result.severities[-1]} it goes "
        f"down to {percent(float(severest[at_worst]))} ({in_words(result.names[at_worst])})."
    )


def _advice(subject: Subject, level: str, worst: list[str]) -> Advice | None:
    if level == "fine":
        return None
    groups = {CORRUPTIONS[name].group for name in worst}
    text = (
        f"Add what the pictures will meet in use, such as {listed(in_words(name) for name in worst)}, to the training "
        "pictures, and test on kinds that were left out. Training against attacks often helps against noise and blur, "
        "and can cost accuracy under low contrast: train, audit both and compare."
    )
    if groups == {"light"}:
        return Advice(
            text="Vary brightness and contrast of the training pictures, or normalize each picture by its own mean and "
            "standard deviation before the model."
        )
    return recipe(subject, text, "pellucid train pareto-fashion-mnist --out runs/pareto")


def _measures(result: CorruptionAccuracy) -> list[Measure]:
    means = result.correct.double().mean(2)
    each = [
        Measure(
            name=f"corruption_accuracy[{name}]",
            label=f"accuracy under {in_words(name)}, mean over severities",
            value=in_percent(result.by_name.value[k]),
            low=_share(result.by_name.low[k]),
            high=_share(result.by_name.high[k]),
            unit="%",
            better="higher",
            samples=numbers(means[:, k]),
        )
        for k, name in enumerate(result.names)
    ]
    drop = result.drop
    return [
        Measure(
            name="corruption_clean_accuracy",
            label="accuracy without corruption on the same samples",
            value=in_percent(result.clean.value),
            low=in_percent(result.clean.low),
            high=in_percent(result.clean.high),
            unit="%",
            better="higher",
            samples=numbers(result.clean_correct.double()),
        ),
        Measure(
            name="corruption_kept",
            label="share of the right answers that corruptions leave right",
            value=_share(result.kept.value),
            low=_share(result.kept.low),
            high=_share(result.kept.high),
            unit="%",
            better="higher",
        ),
        Measure(
            name="corruption_change",
            label="accuracy under corruptions minus accuracy without",
            value=in_percent(drop.difference),
            low=_share(drop.low),
            high=_share(drop.high),
            unit="%",
            better="higher",
        ),
        *each,
    ]


# -- what is shown -----------------------------------------------------------------------------------------------------


def _exhibits(subject: Subject, result: CorruptionAccuracy, worst: list[int], stream: Stream) -> list[Exhibit]:
    order = result.by_name.value.argsort(stable=True).tolist()
    accuracy = result.accuracy
    found: list[Exhibit] = [
        Heatmap(
            title="Accuracy by corruption and severity",
            rows=tuple(in_words(result.names[k]) for k in order),
            columns=tuple(f"severity {severity}" for severity in result.severities),
            values=tuple(numbers(accuracy.value[k]) for k in order),
            row_label="corruption",
            column_label="from mild to severe",
            unit="%",
            caption=f"Lowest mean first, on {count(len(subject), 'sample')}; without corruption the accuracy is "
            f"{percent(result.clean.value)}.",
        ),
        Curve(
            title="Accuracy by severity",
            x=Axis("severity (0: no corruption)"),
            y=Axis("accuracy", "%"),
            lines=tuple(
                Line(
                    name=in_words(result.names[k]),
                    x=(0.0, *map(float, result.severities)),
                    y=numbers((result.clean.value, *accuracy.value[k].tolist())),
                    low=numbers((result.clean.low, *accuracy.low[k].tolist())),
                    high=numbers((result.clean.high, *accuracy.high[k].tolist())),
                )
                for k in worst
            ),
            caption=f"The {len(worst)} corruptions with the lowest mean accuracy, with Wilson's 95% intervals.",
        ),
    ]
    victims = _victims(subject, result, worst, stream)
    if victims:
        found.append(
            Gallery(
                title="Pictures that a corruption turns wrong",
                pictures=tuple(victims),
                caption="Pairs of a picture that is answered rightly and its corrupted version that is not, at the "
                "mildest severity that does it, for the corruptions with the lowest mean accuracy.",
            )
        )
    found += [_looks(subject, result, stream), _strengths(subject)]
    return found


def _victims(subject: Subject, result: CorruptionAccuracy, worst: list[int], stream: Stream) -> list[Picture]:
    """Return pairs of pictures, before and after, for each of the worst corruptions that turns any picture wrong."""
    assert subject.labels is not None
    shown: list[Picture] = []
    used: set[int] = set()
    for kind in worst:
        turned = result.clean_correct[:, None] & ~result.correct[:, kind]
        pairs = [(s, row) for row, s in turned.nonzero().tolist() if row not in used]
        if not pairs:
            continue
        place, row = min(pairs)
        used.add(row)
        severity, name = result.severities[place], result.names[kind]
        changed = _corrupted(subject, row, name, severity, stream)
        classes = subject.class_names
        shown += [
            picture(
                subject.inputs[row],
                title=classes[int(subject.labels[row])],
                caption=f"sample {int(subject.ids[row])}",
                bounds=subject.bounds,
            ),
            picture(
                changed,
                title=f"taken for {classes[int(result.answers[row, kind, place])]}",
                caption=f"{in_words(name)}, severity {severity}",
                bounds=subject.bounds,
            ),
        ]
    return shown


def _corrupted(subject: Subject, row: int, name: str, severity: int, stream: Stream) -> torch.Tensor:
    assert subject.bounds is not None
    rows = torch.tensor([row])
    own = stream.at(subject.ids[rows])
    return corrupted(subject.inputs[rows], name, severity, bounds=subject.bounds, rng=own)[0]


def _looks(subject: Subject, result: CorruptionAccuracy, stream: Stream) -> Gallery:
    severity = SHOWN_SEVERITY
    shown = [picture(subject.inputs[0], title="as it is", bounds=subject.bounds)]
    shown += [
        picture(
            _corrupted(subject, 0, name, severity, stream),
            title=in_words(name),
            caption=CORRUPTIONS[name].words,
            bounds=subject.bounds,
        )
        for name in result.names
    ]
    return Gallery(
        title="What the corruptions look like",
        pictures=tuple(shown),
        caption=f"Sample {int(subject.ids[0])} under each corruption at severity {severity} of 5.",
    )


_UNITS = {
    "gaussian-noise": "standard deviation",
    "shot-noise": "photons at full brightness",
    "impulse-noise": "share of the elements",
    "defocus-blur": "radius in pixels",
    "motion-blur": "spread of the tail in pixels",
    "zoom-blur": "enlargement up to",
    "brightness": "added to brightness",
    "contrast": "contrast left",
    "pixelate": "pixels left per side",
    "jpeg": "JPEG quality",
}
"""What the number shown is: the second of motion blur, whose first only cuts the tail, else the first."""


def _strengths(subject: Subject) -> Table:
    shape = corruption_shape(subject)
    return Table(
        title="Strength of each corruption",
        columns=("corruption", "what the number is", *(f"severity {severity}" for severity in SEVERITIES)),
        rows=tuple(
            (
                in_words(name),
                _UNITS[name],
                *(brief(corruption_strength(name, s, shape)[name == "motion-blur"]) for s in SEVERITIES),
            )
            for name in CORRUPTIONS
        ),
        caption="Brightness runs from 0 to 1. Lengths grow with the image.",
    )
