"""Does the model know classes by their shape, by texture, or by coarse brightness?"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple, final

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
    Interval,
    Line,
    Measure,
    Need,
    OnStep,
    Picture,
    Provenance,
    Stream,
    Subject,
    Table,
    Work,
    numbers,
)
from pellucid.explain import Reliance as Relied
from pellucid.explain import cost_reliance, cost_smooth_grad, reliance, smooth_grad, view_of

from .._batches import forwards, kept
from .._players import is_image, is_large
from .._samples import draw, ids_of, picture
from .._wording import count, in_percent, percent
from ._accuracy import NO_LABELS

LEAST = 20
WANTED = {"quick": 200, "full": 1000}
LARGE_LEAST, LARGE_WANTED = 8, {"quick": 32, "full": 200}
COARSE = 0.25
"""The radius, as a share of the Nyquist frequency, that divides coarse from fine in the answer."""

FINEST = 4
"""Patches per side of the shuffling that the answer is about."""

MAPS = 6
COPIES = {False: 50, True: 20}
"""Saliency maps shown, and noisy copies for each: fewer for large images."""

Verdict = Literal["falls", "holds", "open"]


@final
@dataclass(frozen=True)
class Reliance:
    """Accuracy with patches in other places and with frequencies missing, and saliency maps of a few samples."""

    name: str = "reliance"
    question: str = field(default="Does the model know classes by their shape, by texture or by coarse brightness?")

    def need(self, subject: Subject, *, effort: Effort) -> Need:
        """One forward of each sample and of eight views of it; two for each noisy copy under a saliency map."""
        skip = ""
        if subject.labels is None:
            skip = NO_LABELS
        elif not is_image(subject):
            skip = f"shuffles and filters pictures, not inputs of modality {subject.modality}"
        elif min(subject.inputs.shape[2:]) < FINEST:
            skip = f"needs images of at least {FINEST} x {FINEST} pixels"
        if skip:
            return Need(0, 0, skip=skip)
        large = is_large(subject)
        most = min(len(subject), (LARGE_WANTED if large else WANTED)[effort])
        least = min(most, LARGE_LEAST if large else LEAST)
        return Need(
            _cost(subject, least),
            _cost(subject, most),
            memory=12 * 8 * forwards(subject) * subject.inputs[0].numel(),
            remark=f"looks at fewer than {most} samples: wider intervals",
        )

    def __call__(self, subject: Subject, budget: int, rng: Stream, *, work: Work = ALONE) -> list[Finding]:
        """Answer in one finding."""
        most = min(len(subject), (LARGE_WANTED if is_large(subject) else WANTED)["full"])
        n = max((n for n in range(1, most + 1) if _cost(subject, n) <= budget), default=1)
        part = subject.take(draw(subject, n, rng=rng.child("samples")))
        assert part.labels is not None  # else `need` skips
        stream = rng.child("views").at(part.ids)
        result = reliance(
            part.model,
            part.inputs,
            part.labels,
            bounds=part.bounds,
            rng=stream,
            batch_size=forwards(part),
            work=work.part(0.0, 0.8),
        )
        rows = draw(part, min(MAPS, n), rng=rng.child("maps"))
        maps = _maps(part.take(rows), rng.child("maps"), work.part(0.8, 1.0)) if part.differentiable else None
        work.on_step(1, 1)
        return [self._finding(part, result, stream, rows, maps)]

    def _finding(
        self, subject: Subject, result: Relied, stream: Stream, rows: Tensor, maps: tuple[Tensor, Tensor] | None
    ) -> Finding:
        found = _read(subject, result)
        shuffled = result.at("shuffled", FINEST)
        lost = result.lost(shuffled)
        spent = result.evaluations + (0 if maps is None else _saliency_cost(subject, len(rows)))
        exhibits: list[Exhibit] = [_bars(subject, result), _table(result), _views(subject, result, stream)]
        if maps is not None:
            exhibits.append(_saliency(subject.take(rows), *maps))
        right = bool(result.clean_correct.any())
        return Finding(
            probe=self.name,
            name="reliance",
            question=self.question,
            answer=found.answer,
            measure=Measure(
                name="shape_reliance",
                label=f"share of the right answers that turn wrong when {FINEST} x {FINEST} patches change places",
                value=in_percent(lost.value) if right else None,
                low=in_percent(lost.low) if right else None,
                high=in_percent(lost.high) if right else None,
                unit="%",
                usual="near 0% where local texture tells the classes apart",
            ),
            level="noted",
            reason="What a model relies on is neither good nor bad by itself: it says which changes of the pictures it "
            "will and will not survive.",
            advice=_advice(subject, found),
            measures=tuple(_measures(result)),
            exhibits=tuple(exhibits),
            provenance=Provenance(
                seed=0,
                evaluations=spent,
                sample_ids=ids_of(subject),
                settings={
                    "shuffling": "patches change places in a random cycle of each sample's own: none stays",
                    "filters": "frequencies up to (low-pass) or beyond (high-pass) a share of the Nyquist frequency; "
                    "high-passed pictures get their mean back",
                    "saliency": "none: the model gives no gradients"
                    if maps is None
                    else f"SmoothGrad of the answered class, {COPIES[is_large(subject)]} copies, noise 0.15 of range",
                    "interval": "Wilson, 95%; differences: Newcombe's interval for pairs, exact McNemar test",
                },
            ),
            references=("arXiv:1811.12231", "arXiv:1706.03825", "arXiv:2111.01996"),
            cautions=_cautions(subject, maps is None),
        )


# -- numbers -----------------------------------------------------------------------------------------------------------


def _saliency_cost(subject: Subject, images: int) -> int:
    """Return what the maps cost: the model's size is measured once, each image answered once, then the gradients."""
    return 1 + images + cost_smooth_grad(images, samples=COPIES[is_large(subject)])


def _cost(subject: Subject, n: int) -> int:
    return cost_reliance(n) + (_saliency_cost(subject, min(MAPS, n)) if subject.differentiable else 0)


def _maps(subject: Subject, rng: Stream, work: Work) -> tuple[Tensor, Tensor]:
    """Return the answered classes of a few samples, and a saliency map of each."""
    batch, copies = kept(subject), COPIES[is_large(subject)]

    def compute(rows: Tensor, on_step: OnStep) -> dict[str, Tensor]:
        part = subject.take(rows)
        answers = part.logits(batch_size=len(rows)).argmax(1)
        maps = smooth_grad(part.model, part.inputs, answers, samples=copies, rng=rng.at(part.ids), batch_size=batch)
        return {"answers": answers, "maps": maps}

    done = work.map("saliency", subject.ids, compute, chunk=MAPS, key=f"{copies}|{rng.seed}")
    return done["answers"], done["maps"]


class _Reading(NamedTuple):
    """What the views say, in words."""

    answer: str
    shuffled: Verdict
    low: Verdict
    high: Verdict


def _read(subject: Subject, result: Relied) -> _Reading:
    assert subject.labels is not None
    n, clean = len(subject), result.clean
    floor = float(subject.labels.bincount().max()) / n
    if clean.low <= floor:
        return _Reading(
            f"Not told: the accuracy of {percent(clean.value)} on {count(n, 'sample')} is not shown to be above the "
            f"{percent(floor)} of always giving the same answer, so there is nothing to rely on.",
            "open",
            "open",
            "open",
        )
    views = [result.at("shuffled", FINEST), result.at("low-pass", COARSE), result.at("high-pass", COARSE)]
    shuffled, low, high = (_verdict(result, view, floor) for view in views)
    accuracies = [percent(float(result.accuracy.value[view])) for view in views]
    words = {
        "falls": "It relies on where the parts are, that is on shape",
        "holds": "Most of that survives: local texture is enough for it",
        "open": "About half of it survives: it relies on shape and on local texture",
    }
    answer = (
        f"It is right for {percent(clean.value)} of {count(n, 'sample')}, and for {accuracies[0]} once {FINEST} x "
        f"{FINEST} patches have changed places. {words[shuffled]}. "
    )
    answer += {
        "falls": f"Without fine detail ({accuracies[1]} after a low-pass filter) it falls: edges and texture matter.",
        "holds": f"Fine detail is not needed ({accuracies[1]} after a low-pass filter).",
        "open": f"Without fine detail it is right for {accuracies[1]} (low-pass filter).",
    }[low]
    answer += {
        "falls": f" Edges alone are not enough ({accuracies[2]} after a high-pass filter).",
        "holds": f" Edges alone are enough ({accuracies[2]} after a high-pass filter).",
        "open": f" From edges alone it is right for {accuracies[2]} (high-pass filter).",
    }[high]
    return _Reading(answer, shuffled, low, high)


def _verdict(result: Relied, view: int, floor: float) -> Verdict:
    """Return whether the accuracy of a view is clearly below or above the middle between clean and guessing."""
    half = (result.clean.value + floor) / 2
    low, high = float(result.accuracy.low[view]), float(result.accuracy.high[view])
    return "falls" if high < half else "holds" if low > half else "open"


def _measures(result: Relied) -> list[Measure]:
    made = [
        Measure(
            name="reliance_clean_accuracy",
            label="accuracy on the pictures as they are",
            value=in_percent(result.clean.value),
            low=in_percent(result.clean.low),
            high=in_percent(result.clean.high),
            unit="%",
            better="higher",
            samples=numbers(result.clean_correct.double()),
        )
    ]
    for k, (kind, setting) in enumerate(zip(result.kinds, result.settings, strict=True)):
        detail = f"{setting:g}x{setting:g}" if kind == "shuffled" else f"{setting:g}"
        made.append(
            Measure(
                name=f"{kind.replace('-', '_')}_accuracy[{detail}]",
                label=f"accuracy on pictures {_in_words(kind, setting)}",
                value=in_percent(result.accuracy.value[k]),
                low=in_percent(result.accuracy.low[k]),
                high=in_percent(result.accuracy.high[k]),
                unit="%",
                samples=numbers(result.correct[:, k].double()),
            )
        )
    return made


def _in_words(kind: str, setting: float) -> str:
    if kind == "shuffled":
        return f"shuffled by {setting:g} x {setting:g} patches"
    return f"{kind}ed at {setting:g} of the Nyquist frequency"


def _advice(subject: Subject, found: _Reading) -> Advice:
    if found.shuffled == "holds":
        return Advice(
            text="Look for backgrounds and textures that come with a class in these data, and test on pictures without "
            "them; augmentations that change texture and color teach shape.",
        )
    return Advice(
        text="Ask the same of a model trained against attacks, and compare: such models usually need less fine detail.",
        command="pellucid compare NORMAL ROBUST",
    )


def _cautions(subject: Subject, silent: bool) -> tuple[str, ...]:
    told = [
        "Shuffled and filtered pictures are unlike any that the model was trained on: a fall can also come from the "
        "seams between patches or the ripples of a filter.",
        "A saliency map shows where the score is sensitive, which is not the same as what the answer rests on.",
    ]
    if silent:
        told[1] = "The model gives no gradients: there is no saliency map."
    return tuple(told)


# -- what is shown -----------------------------------------------------------------------------------------------------


def _bars(subject: Subject, result: Relied) -> Curve:
    assert subject.labels is not None
    floor = float(subject.labels.bincount().max()) / len(subject)
    names = ("as it is", *result.names)
    places = tuple(map(float, range(len(names))))

    def with_clean(clean: float, views: Tensor) -> tuple[float | None, ...]:
        return numbers((clean, *views.tolist()))

    interval: Interval[Tensor] = result.accuracy
    return Curve(
        title="Accuracy on changed pictures",
        x=Axis("picture"),
        y=Axis("accuracy", "%"),
        lines=(
            Line(
                name="accuracy",
                x=places,
                y=with_clean(result.clean.value, interval.value),
                low=with_clean(result.clean.low, interval.low),
                high=with_clean(result.clean.high, interval.high),
            ),
            Line(name="always the most frequent class", x=places, y=(floor,) * len(names), role="reference"),
        ),
        bars=True,
        categories=names,
        caption=f"On {count(len(subject), 'sample')}, with 95% intervals. Numbers after low-pass and high-pass are "
        "shares of the Nyquist frequency: up to which frequencies are kept, or beyond which.",
    )


def _table(result: Relied) -> Table:
    return Table(
        title="Against the pictures as they are",
        columns=("picture", "accuracy", "difference", "from", "to", "p"),
        rows=tuple(
            (name, float(result.accuracy.value[k]), test.difference, test.low, test.high, f"{test.p_value:.2g}")
            for k, (name, test) in enumerate(zip(result.names, result.difference, strict=True))
        ),
        units=("", "%", "%", "%", "%", ""),
        caption="Differences on the same samples with Newcombe's 95% interval; p by the exact McNemar test.",
    )


def _views(subject: Subject, result: Relied, stream: Stream) -> Gallery:
    """Return one sample in every view with the answer to it: the first that is right as it is."""
    assert subject.labels is not None
    row = int(result.clean_correct.int().argmax())
    rows = torch.tensor([row])
    x, own = subject.inputs[rows], stream.at(subject.ids[rows])
    classes = subject.class_names
    right = "right" if bool(result.clean_correct[row]) else "wrong"
    shown: list[Picture] = [
        picture(x[0], title="as it is", caption=f"{classes[int(subject.labels[row])]}, {right}", bounds=subject.bounds)
    ]
    for k, (kind, setting) in enumerate(zip(result.kinds, result.settings, strict=True)):
        seen = view_of(x, kind, setting, bounds=subject.bounds, rng=own)[0]
        answer = "right" if bool(result.correct[row, k]) else f"taken for {classes[int(result.answers[row, k])]}"
        shown.append(picture(seen, title=result.names[k], caption=answer, bounds=subject.bounds))
    return Gallery(
        title="One picture in every view",
        pictures=tuple(shown),
        caption=f"Sample {int(subject.ids[row])} as the model saw it, with its answer.",
    )


def _saliency(subject: Subject, answers: Tensor, maps: Tensor) -> Gallery:
    """Return pictures beside their maps; the brightest hundredth of a map is white, as its authors draw them."""
    assert subject.labels is not None
    shown: list[Picture] = []
    for k in range(len(subject)):
        answer, true = int(answers[k]), int(subject.labels[k])
        top = float(maps[k].double().quantile(0.99))
        top = top if top > 0 else max(1e-12, float(maps[k].max()))
        told = "right" if answer == true else f"in truth {subject.class_names[true]}"
        shown += [
            picture(
                subject.inputs[k],
                title=subject.class_names[answer],
                caption=f"sample {int(subject.ids[k])}, {told}",
                bounds=subject.bounds,
            ),
            picture((maps[k] / top).clamp(0, 1)[None], title="saliency", bounds=(0.0, 1.0)),
        ]
    return Gallery(
        title="Where the score of the answer is sensitive",
        pictures=tuple(shown),
        caption="Pictures and their SmoothGrad maps: the gradient of the answered class's logit, averaged over noisy "
        "copies. White is most sensitive; each map has a scale of its own.",
    )
