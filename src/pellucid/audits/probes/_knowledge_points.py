"""Which regions of the images tell classes apart, and do they point to the right one?"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from pellucid.attacks import Linf
from pellucid.core import (
    ALONE,
    PENULTIMATE,
    Advice,
    Effort,
    Finding,
    Measure,
    Need,
    Provenance,
    Stream,
    Subject,
    Work,
    bootstrap,
    last_linear,
    layers,
    nearest,
    number,
)
from pellucid.explain import (
    KnowledgePoints,
    KnowledgeSettings,
    KnowledgeUnderAttack,
    SampleEmbedding,
    knowledge_over_training,
    knowledge_points,
    knowledge_under_attack,
    region_layers,
)

from .._batches import MEMORY, kept
from .._players import is_image
from .._samples import draw, ids_of
from .._wording import brief, count, in_percent, listed, percent
from ._accuracy import NO_LABELS
from ._knowledge_exhibits import attack_exhibits, exhibits, training_exhibits

LEAST, WANTED = 60, {"quick": 100, "full": 200}
ATTACKED = 24
SEEDS = 3
"""Fits, from different random starts: counts are told with their spread."""

STEPS = 2000
ATTACK_STEPS = 10
RADIUS = 8 / 255
_AROUND = 16  # evaluations that find the layers
CHECKPOINTS = 8
"""Of a training at most, at even distances."""
REFERENCES = ("arXiv:2111.03505",)
NOTED = (
    "A description: the counts depend on the number of classes, the samples and the layer, so they are for comparing "
    "networks, layers and checkpoints, not for judging one."
)


@final
@dataclass(frozen=True)
class Knowledge:
    """Samples and regions placed so that direction is class and length certainty, and the regions that point clearly.

    Args:
        layers: names of layers to look at; if not given, the last ones of up to three sizes of feature maps.
        grid: regions per side at most.
        checkpoints: a folder of weights of this model during its training, `.safetensors` files or folders that hold a
            `model.safetensors`, such as `RUN/checkpoints`; in the order of their names, eight of them at most.

    Raises:
        ValueError: a setting out of range.
    """

    name: str = field(default="knowledge-points", repr=False)
    question: str = field(default="Which regions of the images tell classes apart, and rightly so?", repr=False)
    layers: tuple[str, ...] = field(default=(), kw_only=True)
    grid: int = field(default=8, kw_only=True)
    checkpoints: str = field(default="", kw_only=True)
    uncounted: ClassVar[str] = "beside: a fit of some 15 s for each of 3 random starts and for each checkpoint"

    def __post_init__(self) -> None:
        if self.grid < 2:
            raise ValueError(f"grid must be at least 2, got {self.grid}")

    def need(self, subject: Subject, *, effort: Effort) -> Need:
        """One forward of up to 200 samples for each of three fits and each checkpoint, and an attack on a few."""
        skip = ""
        if subject.labels is None:
            skip = NO_LABELS
        elif not is_image(subject):
            skip = f"looks for regions of images, not of inputs of modality {subject.modality}"
        elif len(subject) < LEAST // 3:
            skip = f"compares samples with each other and needs at least {LEAST // 3}, got {len(subject)}"
        elif self.checkpoints and not weights_in(self.checkpoints):
            skip = f"found no .safetensors files in the folder {self.checkpoints}"
        else:
            skip = self._no_regions(subject)
        if skip:
            return Need(0, 0, skip=skip)
        most = min(len(subject), WANTED[effort])
        least = min(most, LEAST)
        return Need(
            self._cost(subject, least),
            self._cost(subject, most),
            memory=min(2 * MEMORY, 4 * most * self.grid**4 * 100 + 64 * most * subject.inputs[0].numel()),
            remark=f"looks at fewer than {most} samples: a rougher picture",
        )

    def __call__(self, subject: Subject, budget: int, rng: Stream, *, work: Work = ALONE) -> list[Finding]:
        """Answer in one finding, and in a second one about an attack where gradients allow it."""
        work.need_all(self.name)
        most = min(len(subject), WANTED["full"])
        n = max((n for n in range(2, most + 1) if self._cost(subject, n) <= budget), default=2)
        part = subject.take(draw(subject, n, rng=rng.child("samples")))
        assert part.labels is not None  # else `need` skips
        names = self.layers or region_layers(part.model, part.inputs)
        late = PENULTIMATE if last_linear(part.model, part.inputs) is not None else names[-1]
        settings = KnowledgeSettings(grid=self.grid, sample_layer=late, samples=SampleEmbedding(steps=STEPS))
        size = kept(part)
        found: list[KnowledgePoints] = []
        files = weights_in(self.checkpoints) if self.checkpoints else {}
        fits = SEEDS + len(files)
        for seed in range(SEEDS):
            share = work.part(0.9 * seed / fits, 0.9 * (seed + 1) / fits)
            found.append(
                knowledge_points(
                    part.model,
                    part.inputs,
                    part.labels,
                    layers=names,
                    settings=settings,
                    beside=found[0] if found else None,
                    batch_size=size,
                    rng=rng.child("fit", seed),
                    on_step=share.on_step,
                )
            )
        # Two forwards choose the layers, eight look for the last linear layer, one tells the size of a batch.
        spent = sum(f.evaluations for f in found) + (0 if self.layers else 2) + min(8, n) + 1
        findings = [self._finding(part, found, spent, rng)]
        if files:
            grown = knowledge_over_training(
                part.model,
                part.inputs,
                part.labels,
                files,
                layers=names,
                settings=settings,
                batch_size=size,
                rng=rng.child("training"),
                on_step=work.part(0.9 * SEEDS / fits, 0.9).on_step,
            )
            findings.append(self._trained(part, grown, rng))
        if subject.differentiable:
            few = part.take(draw(part, min(ATTACKED, n), rng=rng.child("attacked")))
            assert few.labels is not None
            space = Linf(RADIUS * _range(part), bounds=part.bounds)
            moved = knowledge_under_attack(
                part.model,
                few.inputs,
                few.labels,
                found[0],
                space,
                steps=ATTACK_STEPS,
                batch_size=size,
                on_step=work.part(0.9, 1.0).on_step,
            )
            findings.append(self._attacked(few, found[0], moved, space))
        work.on_step(1, 1)
        return findings

    def _cost(self, subject: Subject, n: int) -> int:
        attack = min(ATTACKED, n) * (3 * ATTACK_STEPS + 1) + _AROUND if subject.differentiable else 0
        fits = SEEDS + (len(weights_in(self.checkpoints)) if self.checkpoints else 0)
        return fits * (n + _AROUND) + 2 * _AROUND + attack

    def _no_regions(self, subject: Subject) -> str:
        unknown = [name for name in self.layers if name not in layers(subject.model)]
        if unknown:
            return (
                f"there is no layer {unknown[0]!r}; {nearest(unknown[0], layers(subject.model))}see the model's names"
            )
        if not self.layers and not any(map(_has_places, subject.model.modules())):
            return f"{subject.name} has no convolution and no attention, so its features have no places; name layers"
        return ""

    def _finding(self, subject: Subject, found: list[KnowledgePoints], spent: int, rng: Stream) -> Finding:
        measures = _measures(found, rng)
        first, last = found[0].layers[0], found[0].layers[-1]
        certainty = sum(f.certainty for f in found) / len(found)
        return Finding(
            probe=self.name,
            name="knowledge-points",
            question=self.question,
            answer=_answer(found, certainty),
            measure=measures[0],
            level="noted",
            reason=NOTED,
            advice=Advice(
                text="To see whether another network, a student or a later checkpoint has more of them, and more "
                "reliable ones, ask it the same question on the same data and compare.",
                command="pellucid compare RUN_A RUN_B",
            ),
            measures=tuple(measures[1:]),
            exhibits=exhibits(subject, found),
            provenance=Provenance(
                seed=0,
                evaluations=spent,
                sample_ids=ids_of(subject),
                settings={
                    "layers": len(found[0].layers),
                    "regions": f"{first.grid[0]} x {first.grid[1]} to {last.grid[0]} x {last.grid[1]}",
                    "features of samples": found[0].settings.sample_layer,
                    "threshold": round(last.points.tau, 4),
                    "temperature": found[0].samples.temperature,
                    "fits": len(found),
                    "interval": "bootstrap over samples, 95%",
                },
            ),
            references=REFERENCES,
            cautions=_cautions(found),
        )

    def _trained(self, subject: Subject, grown: dict[str, KnowledgePoints], rng: Stream) -> Finding:
        names, found = list(grown), list(grown.values())
        ends = [f.layers[-1] for f in (found[0], found[-1])]
        right = [layer.points.reliable_counts.double() for layer in ends]
        gained = bootstrap(right[1] - right[0], rng=rng.child("gained"))
        told = " to ".join(
            f"{brief(layer.points.count)} ({brief(float(r.mean()))} reliable)"
            for layer, r in zip(ends, right, strict=True)
        )
        return Finding(
            probe=self.name,
            name="knowledge-over-training",
            question="When in training do the regions that tell classes apart appear?",
            answer=f"From {names[0]} to {names[-1]}, knowledge points in layer {ends[0].name} per image go from "
            f"{told}. The share of right answers goes from {percent(_right(found[0]))} to "
            f"{percent(_right(found[-1]))}.",
            measure=Measure(
                name="reliable_points_gained",
                label=f"reliable knowledge points per image in layer {ends[0].name}: last checkpoint minus first",
                value=number(gained.value),
                low=number(gained.low),
                high=number(gained.high),
                better="neither",
            ),
            level="noted",
            reason="A description of how this training went.",
            advice=Advice(
                text="Patterns that appear early and are not reliable must be unlearned later: ask a training with "
                "other settings the same question.",
                command="pellucid train RECIPE --set 'keep=[1,2,5]'",
            ),
            exhibits=training_exhibits(subject, grown),
            provenance=Provenance(
                seed=0,
                evaluations=sum(f.evaluations for f in found),
                sample_ids=ids_of(subject),
                settings={"checkpoints": ", ".join(names), "interval": "bootstrap over samples, 95%"},
            ),
            references=REFERENCES,
            cautions=(
                "One fit for each checkpoint: differences that are smaller than the spread over fits, which the first "
                "finding tells, mean nothing.",
            ),
        )

    def _attacked(self, subject: Subject, found: KnowledgePoints, moved: KnowledgeUnderAttack, space: Linf) -> Finding:
        most = max(moved.layers, key=lambda layer: layer.orientation)
        share = float(moved.fooled.double().mean())
        last = moved.layers[-1]
        measures = [
            Measure(
                name=f"region_turn[{k}]",
                label=f"how far an attack turns regions of layer {k}, {layer.name}: mean of 1 - cos",
                value=number(layer.orientation),
                usual="0 if nothing turns, 1 if directions after have nothing to do with those before",
            )
            for k, layer in enumerate(moved.layers, 1)
        ]
        measures += [
            Measure(
                name=f"region_stretch[{k}]",
                label=f"mean change of the length of regions of layer {k}, {layer.name}",
                value=number(layer.strength),
            )
            for k, layer in enumerate(moved.layers, 1)
        ]
        measures.append(
            Measure(
                name="new_knowledge",
                label="share of the last layer's knowledge points after an attack that were none before",
                value=None if last.new_share != last.new_share else in_percent(last.new_share),
                unit="%",
            )
        )
        return Finding(
            probe=self.name,
            name="knowledge-under-attack",
            question="What does an attack do to the regions that tell classes apart?",
            answer=f"PGD within linf {brief(space.eps)} fools the model on {percent(share)} of "
            f"{count(len(subject), 'sample')}. It turns regions most in layer {most.name} (mean of 1 - cos "
            f"{brief(most.orientation)}). In layer {last.name} an image has {brief(last.before.count)} knowledge "
            f"points before and {brief(last.after.count)} after{_both(last.before.ratio, last.after.ratio)}.",
            measure=measures[len(moved.layers) - 1],
            level="noted",
            reason="A description of where an attack acts; how much accuracy it takes is the question of robustness.",
            advice=Advice(
                text="How far the model withstands attacks is measured by the robustness profile.",
                command="pellucid robustness MODEL DATA",
            ),
            measures=tuple(measures[: len(moved.layers) - 1] + measures[len(moved.layers) :]),
            exhibits=attack_exhibits(subject, found, moved),
            provenance=Provenance(
                seed=0,
                evaluations=moved.evaluations,
                sample_ids=ids_of(subject),
                settings={"attack": f"linf:{space.eps:g}", "steps": ATTACK_STEPS, "start": "the samples themselves"},
            ),
            references=(*REFERENCES, "arXiv:1706.06083"),
            cautions=("Few samples are attacked, and one attack: the shares are rough.",),
        )


def _has_places(module: nn.Module) -> bool:
    """Whether a layer's outputs have places; told by its kind, since planning runs no model."""
    return isinstance(module, nn.Conv2d | nn.MultiheadAttention) or "attention" in type(module).__name__.lower()


def _both(before: float, after: float) -> str:
    if before != before or after != after:  # there were none
        return ""
    return f"; {percent(before)} and {percent(after)} of them point to the true class"


def _right(found: KnowledgePoints) -> float:
    return float((found.predicted == found.labels).double().mean())


def _range(subject: Subject) -> float:
    return 1.0 if subject.bounds is None else subject.bounds[1] - subject.bounds[0]


def weights_in(folder: str) -> dict[str, Path]:
    """Return the files of weights in a folder by the names of their moments, in order; at most eight of them."""
    here = Path(folder)
    named = {path.stem: path for path in here.glob("*.safetensors")}
    named |= {path.parent.name: path for path in here.glob("*/model.safetensors")}
    names = sorted(named)
    if len(names) > CHECKPOINTS:
        names = [names[round(k * (len(names) - 1) / (CHECKPOINTS - 1))] for k in range(CHECKPOINTS)]
    return {re.sub(r"[-_]0*(\d+)$", r" \1", name): named[name] for name in names}


def _counts(found: list[KnowledgePoints], k: int) -> tuple[Tensor, Tensor]:
    """Return knowledge points and reliable ones of each sample in layer k, means over the fits."""
    points = [f.layers[k].points for f in found]
    every = torch.stack([p.counts.double() for p in points]).mean(0)
    return every, torch.stack([p.reliable_counts.double() for p in points]).mean(0)


def _measures(found: list[KnowledgePoints], rng: Stream) -> list[Measure]:
    """Return the reliable share of the last layer first, then shares and counts of all layers."""
    measures = []
    chance = 100 / len(found[0].samples.prior_)
    for k, layer in enumerate(found[0].layers):
        every, right = _counts(found, k)
        both = torch.stack((right, every), 1)
        drawn = bootstrap(both, rng=rng.child("bootstrap", k), statistic=_share)
        known = float(every.sum()) > 0
        measures.append(
            Measure(
                name=f"reliable_share[{k + 1}]",
                label=f"share of the knowledge points of layer {k + 1}, {layer.name}, that point to the true class",
                value=in_percent(drawn.value) if known else None,
                low=in_percent(drawn.low) if known and bool(drawn.low.isfinite()) else None,
                high=in_percent(drawn.high) if known and bool(drawn.high.isfinite()) else None,
                unit="%",
                usual=f"{chance:.3g}% by chance; more in later layers",
                better="higher",
            )
        )
    for k, layer in enumerate(found[0].layers):
        for name, noun, values in zip(
            ("knowledge_points", "reliable_points"),
            ("knowledge points", "reliable ones"),
            _counts(found, k),
            strict=True,
        ):
            mean = bootstrap(values, rng=rng.child(name, k))
            measures.append(
                Measure(
                    name=f"{name}[{k + 1}]",
                    label=f"{noun} per image in layer {k + 1}, {layer.name}",
                    value=number(mean.value),
                    low=number(mean.low),
                    high=number(mean.high),
                    better="higher" if name == "reliable_points" else "neither",
                    samples=tuple(values.tolist()),
                )
            )
    certainty = [sum(getattr(f, part) for f in found) / len(found) for part in ("certainty", "certainty_pca")]
    for name, label, value in zip(
        ("certainty", "certainty_pca"),
        ("correlation of length with the entropy of the answers", "the same of three principal components"),
        certainty,
        strict=True,
    ):
        measures.append(Measure(name=name, label=label, value=number(value), usual="-1 if length is certainty"))
    return [measures.pop(len(found[0].layers) - 1), *measures]


def _shares(found: list[KnowledgePoints], k: int) -> list[float]:
    """Return the reliable share of layer k in each fit that has any points there."""
    ratios = [f.layers[k].points.ratio for f in found]
    return [ratio for ratio in ratios if ratio == ratio]


def _share(rows: Tensor) -> Tensor:
    total = rows.sum(0)
    return total[0] / total[1]


def _answer(found: list[KnowledgePoints], certainty: float) -> str:
    told = []
    for k, layer in enumerate(found[0].layers):
        every, right = _counts(found, k)
        share = float(right.sum() / every.sum()) if float(every.sum()) else float("nan")
        text = f"{brief(float(every.mean()))} of {layer.grid[0] * layer.grid[1]} regions in layer {layer.name}"
        told.append(text + (f" ({percent(share)} of these rightly)" if share == share else ""))
    chance = 1 / len(found[0].samples.prior_)
    return (
        f"On average {listed(told)} point clearly to some class. By chance {percent(chance)} would be right. "
        "In the picture of the samples length stands for certainty: its correlation with the entropy of the answers "
        f"is {brief(certainty)}, where -1 is best (three principal components reach {brief(found[0].certainty_pca)})."
    )


def _cautions(found: list[KnowledgePoints]) -> tuple[str, ...]:
    chance = 1 / len(found[0].samples.prior_)
    near = [
        found[0].layers[k].name
        for k in range(len(found[0].layers))
        if min(_shares(found, k), default=math.inf) < 1.5 * chance
    ]
    notes = []
    if near:
        notes.append(
            f"In {listed(near)} some fit finds hardly more right points than chance ({percent(chance)}), or fewer: a "
            "region there does not tell its class by itself, wherever it lies. Patterns may belong to several classes, "
            "or the layers above may read each place in a way of its own, as linear layers on flattened maps do. The "
            "network can be accurate all the same."
        )
    notes += [
        f"Counts are means over {len(found)} fits from random starts; the table shows how far they differ.",
        "Each layer's lengths are in units of their own mean, so a layer always has some long regions: compare counts "
        "of the same layer, or shares.",
    ]
    return (*notes, found[0].note) if found[0].note else tuple(notes)
