"""Do the layers tell inputs apart?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, final

from pellucid.core import (
    ALONE,
    Advice,
    Axis,
    Curve,
    Effort,
    Finding,
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
from pellucid.metrics import DiversityHistory, Similarity, feature_diversity, watchable
from pellucid.metrics import FeatureDiversity as Diversity

from .. import _levels
from .._advice import RECIPES_FOR
from .._batches import MEMORY, kept
from .._first_phase import first_phase_finding
from .._players import is_large, is_text
from .._samples import draw, ids_of
from .._wording import brief, count, in_percent, percent

SAMPLES = 256


@final
@dataclass(frozen=True)
class FeatureDiversity:
    """Mean cosine between the features of different samples, layer by layer, against a random network's."""

    name: str = "feature-diversity"
    question: str = "Do the layers tell different inputs apart?"

    def need(self, subject: Subject, *, effort: Effort) -> Need:
        """One forward of up to 256 samples."""
        n = min(SAMPLES, len(subject))
        cost = n + 1  # one tells how many samples a batch can hold
        skip = "" if n > 1 else "needs at least two samples to compare, got 1"
        if is_text(subject):
            skip = "compares features at the same places of inputs, and places of texts have nothing in common"
        if not skip and not watchable(subject.model):
            skip = f"{subject.name} has no activation, linear or convolutional layer to watch"
        return Need(cost, cost, memory=min(MEMORY, 64 * 4 * n * subject.inputs[0].numel()), skip=skip)

    def __call__(self, subject: Subject, budget: int, rng: Stream, *, work: Work = ALONE) -> list[Finding]:
        """Answer in one finding, and in a second one where the training was recorded."""
        work.need_all(self.name)
        part = subject.take(draw(subject, min(SAMPLES, budget - 1), rng=rng.child("samples")))
        # Features of photographs are compared after averaging over space: flattened, the sums of a deep network's
        # feature maps would take gigabytes, and the same thing a little to the left would look different.
        reduce: Literal["flatten", "gap"] = "gap" if is_large(subject) else "flatten"
        result = feature_diversity(
            part.model, part.inputs, part.labels, reduce=reduce, batch_size=kept(part), on_step=work.on_step
        )
        known = [k for k, s in enumerate(result.similarity) if math.isfinite(s.all)]
        dead = max(s.dead_fraction for s in result.similarity)
        most = max(known, key=lambda k: result.similarity[k].all, default=0)
        judged = _levels.diversity(result.similarity[most].all, result.layers[most], dead)
        last = result.similarity[-1]
        found = [
            Finding(
                probe=self.name,
                name="feature-diversity",
                question=self.question,
                answer=_answer(result, known, most, dead),
                measure=_measure("last_similarity", f"similarity in the last layer seen, {result.layers[-1]}", last),
                level=judged.level,
                reason=judged.reason,
                advice=_advice(subject, judged.level),
                measures=tuple(_measures(result)),
                exhibits=(_curve(result), _table(result)),
                provenance=Provenance(
                    seed=0,
                    evaluations=result.evaluations + 1,
                    sample_ids=ids_of(part),
                    settings={
                        "features": "outputs of the activation modules, "
                        + ("flattened" if reduce == "flatten" else "averaged over space"),
                        "interval": "delete-one-group jackknife over samples, 95%",
                    },
                ),
                references=("arXiv:2112.00980",),
                cautions=_cautions(result),
            )
        ]
        record = subject.records.get(self.name)
        if record is not None:
            found.append(first_phase_finding(DiversityHistory.read(record)))
        return found


def _measure(name: str, label: str, s: Similarity) -> Measure:
    low, high = s.all - 1.96 * s.stderr, s.all + 1.96 * s.stderr
    return Measure(
        name=name,
        label=label,
        value=number(s.all),
        low=number(max(low, -1.0)),  # in this order NaN stays NaN: two samples have no interval
        high=number(min(high, 1.0)),
        usual="between 0 and 0.9 after a ReLU; more in deeper layers of an untrained network",
    )


def _measures(result: Diversity) -> list[Measure]:
    measures = [
        _measure(f"similarity[{layer}]", f"similarity in {layer}", s)
        for layer, s in zip(result.layers, result.similarity, strict=True)
    ]
    last = result.similarity[-1]
    measures.append(
        Measure(
            name="dead_fraction",
            label="largest share of samples whose features are all zero in a layer",
            value=in_percent(max(s.dead_fraction for s in result.similarity)),
            unit="%",
            usual="0",
            better="lower",
        )
    )
    if math.isfinite(last.intra) and math.isfinite(last.inter):
        measures.append(
            Measure(
                name="last_class_gap",
                label="similarity within classes minus between classes, last layer seen",
                value=number(last.intra - last.inter),
                usual="above 0: samples of one class look more alike",
                better="higher",
            )
        )
    return measures


def _answer(result: Diversity, known: list[int], most: int, dead: float) -> str:
    if not known:
        return "Every layer gives all-zero features for the samples, so nothing can be told apart."
    first, last = result.similarity[known[0]], result.similarity[known[-1]]
    layers = count(len(known), "layer")
    answer = (
        f"Features of different samples have a mean cosine of {brief(first.all)} in layer {result.layers[known[0]]}"
        + (f" and {brief(last.all)} in layer {result.layers[known[-1]]}" if len(known) > 1 else "")
        + f" ({layers} seen; 1 means that all look the same)."
    )
    reference = result.reference[known[-1]]
    if math.isfinite(reference):
        side = "less alike than" if last.all < reference else "at least as alike as"
        answer += f" In the last one they are {side} in a random network of this depth ({brief(reference)})."
    if math.isfinite(last.intra) and math.isfinite(last.inter):
        answer += f" Within a class it is {brief(last.intra)}, between classes {brief(last.inter)}."
    if result.similarity[most].all > _levels.COLLAPSED:
        answer += (
            f" In layer {result.layers[most]} almost all inputs look the same ({brief(result.similarity[most].all)})."
        )
    if dead > 0:
        answer += f" In some layer {percent(dead)} of the samples give all-zero features."
    return answer


def _advice(subject: Subject, level: str) -> Advice | None:
    if level == "fine":
        return None
    text = (
        "Features this alike come from signals that shrink or share one direction: try He initialization, "
        "normalization layers or momentum, and look at the first steps of training, where the loss may stand still."
    )
    if subject.data_name != RECIPES_FOR:
        return Advice(text=text)
    return Advice(
        text=f"{text} A shipped recipe shows settings that do not stall.",
        command="pellucid recipes show fashion-standard",
    )


def _cautions(result: Diversity) -> tuple[str, ...]:
    notes = [
        "The reference is that of an infinitely wide, fully connected ReLU network with random weights and no biases; "
        "convolutions, pooling and biases shift it.",
    ]
    return (*notes, result.note) if result.note else tuple(notes)


def _curve(result: Diversity) -> Curve:
    layers = ("inputs", *result.layers)
    x = numbers(range(len(layers)))
    every = (result.inputs, *result.similarity)

    def half(s: Similarity) -> float:
        return 1.96 * s.stderr

    lines = [
        Line(
            name="all pairs",
            x=x,
            y=numbers(s.all for s in every),
            low=numbers(s.all - half(s) for s in every),
            high=numbers(s.all + half(s) for s in every),
        )
    ]
    if math.isfinite(result.inputs.intra):
        lines.append(Line(name="same class", x=x, y=numbers(s.intra for s in every)))
        lines.append(Line(name="different classes", x=x, y=numbers(s.inter for s in every)))
    if any(math.isfinite(r) for r in result.reference):
        reference = numbers((result.inputs.all, *result.reference))
        lines.append(Line(name="random network", x=x, y=reference, role="reference"))
    return Curve(
        title="Similarity of features by layer",
        x=Axis("layer"),
        y=Axis("mean cosine between different samples"),
        lines=tuple(lines),
        categories=layers,
        caption="Compare with the random network, not with 0: features after a ReLU are similar by nature.",
    )


def _table(result: Diversity) -> Table:
    rows = [
        (layer, kind, number(s.all), number(s.intra), number(s.inter), number(r), s.dead_fraction)
        for layer, kind, s, r in zip(
            ("inputs", *result.layers),
            ("", *result.kinds),
            (result.inputs, *result.similarity),
            (result.inputs.all, *result.reference),
            strict=True,
        )
    ]
    return Table(
        title="Layers",
        columns=("layer", "kind", "all pairs", "same class", "different classes", "random network", "all-zero"),
        rows=tuple(rows),
        units=("", "", "", "", "", "", "%"),
    )
