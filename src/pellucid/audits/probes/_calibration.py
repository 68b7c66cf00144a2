"""Does the model's confidence mean what it says?"""

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
    Finding,
    Interval,
    Line,
    Measure,
    Need,
    Provenance,
    Stream,
    Subject,
    Work,
    bootstrap,
    cross_entropy,
    number,
    numbers,
)
from pellucid.metrics import Calibration as Calibrated
from pellucid.metrics import calibration

from .. import _levels
from .._advice import recipe
from .._batches import logits_of
from .._samples import ids_of
from .._wording import brief, count, in_percent, percent
from ._accuracy import NO_LABELS

BINS = 15
FEWEST_SAMPLES = 30


@final
@dataclass(frozen=True)
class Calibration:
    """Expected calibration error against what chance explains, the reliability curve, and proper scores."""

    name: str = "calibration"
    question: str = "Does the model's confidence mean what it says?"

    def need(self, subject: Subject, *, effort: Effort) -> Need:
        """One forward of every sample."""
        skip = NO_LABELS if subject.labels is None else ""
        if not skip and len(subject) < FEWEST_SAMPLES:
            skip = f"needs at least {FEWEST_SAMPLES} samples to compare confidence with accuracy, got {len(subject)}"
        return Need(len(subject), len(subject), memory=4 * len(subject) * subject.n_classes, skip=skip)

    def __call__(self, subject: Subject, budget: int, rng: Stream, *, work: Work = ALONE) -> list[Finding]:
        """Answer in one finding."""
        assert subject.labels is not None  # else `need` skips
        logits = logits_of(subject, work)
        result = calibration(logits, subject.labels, bins=BINS)
        ece = _interval(result, rng.child("ece"))
        gap = result.confidence - result.correct.double()
        gaps = bootstrap(gap, rng=rng.child("gap"))
        judged = _levels.calibration(result.ece, result.floor, one_sided=bool(gaps.low > 0 or gaps.high < 0))
        loss = cross_entropy(logits.double(), subject.labels)
        losses = bootstrap(loss, rng=rng.child("loss"))
        brier = _brier(logits, subject.labels)
        scores = bootstrap(brier, rng=rng.child("brier"))
        confident = float(result.confidence.mean())
        side = "more" if result.overconfidence > 0 else "less"
        right = float(result.correct.double().mean())
        answer = (
            f"On average the model is {percent(confident)} sure and right {percent(right)} of the time; confidence and "
            f"accuracy lie {percent(result.ece)} apart (expected calibration error)."
        )
        if judged.level == "fine":
            answer += f" On {count(len(subject), 'sample')} that cannot be told from perfect calibration."
        elif gaps.low <= 0 <= gaps.high:
            answer += " It is too sure in some ranges and not sure enough in others."
        else:
            answer += f" It claims {side} than it delivers."
        return [
            Finding(
                probe=self.name,
                name="calibration",
                question=self.question,
                answer=answer,
                measure=Measure(
                    name="ece",
                    label="expected calibration error",
                    value=in_percent(result.ece),
                    low=in_percent(max(0.0, float(ece.low))),
                    high=in_percent(min(1.0, float(ece.high))),
                    unit="%",
                    usual=f"about {percent(result.floor)} by chance alone on this many samples",
                    better="lower",
                ),
                level=judged.level,
                reason=judged.reason,
                advice=_advice(subject, judged.level, result.overconfidence),
                measures=(
                    Measure(
                        name="overconfidence",
                        label="mean confidence minus accuracy",
                        value=in_percent(result.overconfidence),
                        low=in_percent(gaps.low),
                        high=in_percent(gaps.high),
                        unit="%",
                        usual="0, positive when the model promises too much",
                        samples=numbers(gap),
                    ),
                    Measure(
                        name="log_loss",
                        label="mean of -log p(true class)",
                        value=number(result.nll),
                        low=number(losses.low),
                        high=number(losses.high),
                        unit="nats",
                        usual=f"{brief(float(torch.tensor(subject.n_classes).log()))} for guessing evenly",
                        better="lower",
                        samples=numbers(loss),
                    ),
                    Measure(
                        name="brier",
                        label="Brier score",
                        value=number(result.brier),
                        low=number(scores.low),
                        high=number(scores.high),
                        better="lower",
                        samples=numbers(brier),
                    ),
                ),
                exhibits=_exhibits(result),
                provenance=Provenance(
                    seed=0,
                    evaluations=len(subject),
                    sample_ids=ids_of(subject),
                    settings={"bins": BINS, "interval": "bootstrap over samples, 1000 draws, 95%"},
                ),
                references=("arXiv:1706.04599",),
                cautions=(
                    "Calibration holds for inputs like these samples; under shift models usually become overconfident.",
                    "The error depends on the bins and is biased upward on few samples; the log loss is not.",
                ),
            )
        ]


def _brier(logits: Tensor, labels: Tensor) -> Tensor:
    """Return each sample's part of the Brier score."""
    truth = torch.nn.functional.one_hot(labels, logits.shape[1])
    return (logits.double().softmax(1) - truth).square().sum(1)


def _interval(result: Calibrated, rng: Stream) -> Interval[Tensor]:
    """Return the interval of the error: a bootstrap over samples with the sign of each bin's gap held fixed.

    With fixed signs the error is a mean over samples. Letting them vary would add the noise of every bin to the error
    itself, and the interval would lie above it.
    """
    place = torch.bucketize(result.confidence, result.edges[1:-1])
    gap = result.correct.double() - result.confidence
    signs = torch.zeros(len(result.count), dtype=torch.float64).index_add_(0, place, gap).sign()
    return bootstrap(signs[place] * gap, rng=rng)


def _advice(subject: Subject, level: str, overconfidence: float) -> Advice | None:
    if level == "fine":
        return None
    if overconfidence > 0:
        text = (
            "Divide the logits by a temperature above 1, fitted on held-out data (temperature scaling), before any "
            "decision uses the confidence"
        )
        if subject.modality == "tabular" or not subject.differentiable:
            return Advice(text=f"{text}; or calibrate the model on held-out rows when it is fitted.")
        return recipe(
            subject,
            f"{text}; or train with label smoothing.",
            "pellucid train fashion-standard --set objective.label_smoothing=0.05 --out runs/smoothed",
        )
    return Advice(
        text="Multiply the logits by a factor above 1, fitted on held-out data (temperature scaling); a model trained "
        "against attacks is often too modest on clean inputs. First make sure of it on more samples.",
        command="pellucid audit MODEL DATA --probe calibration --samples 10000",
    )


def _exhibits(result: Calibrated) -> tuple[Curve, ...]:
    used = result.count > 0
    reliability = Curve(
        title="Reliability",
        x=Axis("confidence", "%"),
        y=Axis("accuracy", "%"),
        lines=(
            Line(
                name="model",
                x=numbers(result.mean_confidence[used]),
                y=numbers(result.accuracy.value[used]),
                low=numbers(result.accuracy.low[used]),
                high=numbers(result.accuracy.high[used]),
            ),
            Line(name="perfect calibration", x=(0.0, 1.0), y=(0.0, 1.0), role="reference"),
        ),
        caption="Accuracy among the samples of similar confidence, with 95% intervals. Below the diagonal: too sure.",
    )
    middles = (result.edges[1:] + result.edges[:-1]) / 2
    histogram = Curve(
        title="How sure it is",
        x=Axis("confidence"),
        y=Axis("share of the samples", "%"),
        lines=(Line(name="samples", x=numbers(middles), y=numbers(result.count.double() / result.count.sum())),),
        bars=True,
        categories=tuple(
            f"{100 * low:.0f}-{100 * high:.0f}%" for low, high in zip(result.edges[:-1], result.edges[1:], strict=True)
        ),
    )
    return reliability, histogram
