"""What the record of a training says about its first phase, as a finding and as a report, with what to do about it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.core import (
    Advice,
    Axis,
    Curve,
    Exhibit,
    Finding,
    Heatmap,
    Line,
    Measure,
    Panel,
    Provenance,
    Table,
    number,
    numbers,
    showing,
    versions,
)
from pellucid.metrics import DiversityHistory, PhaseReport
from pellucid.reports import Report, SubjectCard

from . import _levels
from ._wording import brief, count, percent

PROBE = "feature-diversity"
NAME = "first-phase"
QUESTION = "Did the training get stuck at its start, with features that look alike?"
TRAP = "arXiv:2112.00980"

MOST_POINTS = 300
MOST_COLUMNS = 32
SHRUNK = 10.0
"""Signals that lose this factor from the first layer to the last one reach it as almost nothing."""

BIASED = 0.1
"""Similarity above that of a random network without biases that biases are to be blamed for."""

UNDERFLOW = 0.5
FEEDING, GREW = 0.25, 0.1
"""Self-enhancement, and its rise, that came before the end of each plateau in reproductions/feature-diversity; of the
networks centered over the batch, whose plateau did not end, none had both."""


def _panel(remedy: Remedy) -> Panel:
    return Panel(remedy.name, remedy.text, facts=(("why", remedy.reason), ("example", remedy.command or "none")))


@showing(_panel)
@dataclass(frozen=True)
class Remedy:
    """One thing to try against a flat first phase.

    Args:
        name: what it is called.
        text: what to do.
        reason: why it should help this training, with what was measured.
        command: how; empty where there is no one command.
    """

    name: str
    text: str
    reason: str
    command: str = ""


def advise(history: DiversityHistory, *, patience: int | None = None) -> tuple[Remedy, ...]:
    """What should be tried against a flat first phase, the likeliest help first? Nothing where there was none.

    The order follows what the record shows: signals that shrink from layer to layer, biases that outweigh them,
    gradients too small for fp16.

    Args:
        history: of a training.
        patience: steps for which a loss may stand still; what the recorder was given if None.
    """
    if not history.phase(patience=patience).trapped:
        return ()
    shrunk, biased = _shrunk(history), _biased(history)
    small = shrunk > SHRUNK
    size = f"the features of the last layer are {brief(shrunk)} times smaller than those of the first" if small else ""
    ranked = [
        (
            5.0 if small else 4.0,
            Remedy(
                "standardize over the batch",
                "Put BatchStandardize before the activations: nn.insert_norm(model, 'standardize').",
                (f"At the start {size}, and " if small else "At the start ")
                + "all samples share a direction; this takes both away.",
                "pellucid train mlp-cifar10-standardize --out runs/standardize",
            ),
        ),
        (
            4.5 if small else 1.0,
            Remedy(
                "He initialization",
                "Draw the weights with variance 2 / fan-in: nn.init.kaiming_normal_(layer.weight).",
                f"Signals then keep their size; here {size}." if small else "Signals then keep their size.",
                "pellucid train mlp-cifar10-he --out runs/he",
            ),
        ),
        (
            3.0,
            Remedy(
                "momentum",
                "Use momentum 0.9, if there is none yet.",
                "The common direction grows by itself and momentum adds its steps up, so the plateau ends sooner; it "
                "does not keep the features apart.",
                "pellucid train mlp-cifar10-momentum --out runs/momentum",
            ),
        ),
        (
            2.0,
            Remedy(
                "normalize each sample",
                "Put LayerNorm before the activations where batches are small: nn.insert_norm(model, 'layer').",
                "It keeps the size of the signals; what samples have in common stays.",
                "pellucid train mlp-cifar10 --set model.norm=layer --out runs/layer",
            ),
        ),
    ]
    if biased > BIASED:
        ranked.append(
            (
                4.2,
                Remedy(
                    "zero biases",
                    "Start with biases at zero, together with He initialization.",
                    f"Before the first step the features are already more alike than in a network without biases (by "
                    f"{biased:.2f}): the biases, the same for every sample, outweigh the signal.",
                    "pellucid train mlp-cifar10-he --set model.bias=zero --out runs/zero-bias",
                ),
            )
        )
    tiny = _tiny(history)
    if tiny > UNDERFLOW:
        ranked.append(
            (
                0.5,
                Remedy(
                    "more precise gradients",
                    "If it trains in fp16: scale the loss, or use bf16 or fp32.",
                    f"In some layer {percent(tiny)} of the gradients are below the smallest number of fp16, which "
                    "would round them to zero.",
                ),
            )
        )
    return tuple(remedy for _, remedy in sorted(ranked, key=lambda pair: -pair[0]))


def first_phase_finding(history: DiversityHistory, *, seed: int = 0, patience: int | None = None) -> Finding:
    """Return what the record of a training says about its first phase."""
    report = history.phase(patience=patience)
    remedies = advise(history, patience=patience)
    judged = _levels.first_phase(report.phase.lasted, ended=report.phase.end is not None, trapped=report.trapped)
    return Finding(
        probe=PROBE,
        name=NAME,
        question=QUESTION,
        answer=_answer(history, report),
        measure=Measure(
            name="flat_steps",
            label="steps for which the loss stood still",
            value=number(report.phase.lasted),
            usual="below 100 in a network whose signals keep their size",
            better="lower",
        ),
        level=judged.level,
        reason=judged.reason,
        advice=_first(remedies),
        measures=_measures(history, report),
        exhibits=tuple(_exhibits(history, report, remedies)),
        provenance=Provenance(
            seed=seed,
            evaluations=0,  # measured while training
            sample_ids=history.head.sample_ids,
            settings={
                "features every": history.head.every,
                "gradients every": history.head.gradients_every,
                "feature maps": history.head.reduce,
                "patience": history.head.patience if patience is None else patience,
            },
            versions=versions(),
        ),
        references=(TRAP,),
        cautions=_cautions(history),
    )


def first_phase_report(history: DiversityHistory, card: SubjectCard, *, command: str = "") -> Report:
    """Return the report of a recorded training: `save` writes it as JSON and as one page.

    Args:
        history: what was recorded.
        card: what was trained, in words and numbers.
        command: the command that makes the same report again.
    """
    from pellucid import __version__

    return Report(
        pellucid_version=__version__,
        subject=card,
        settings={"steps": history.steps},
        findings=(first_phase_finding(history),),
        complete=True,
        command=command,
    )


# -- words --------------------------------------------------------------------------------------------------------


def _answer(history: DiversityHistory, report: PhaseReport) -> str:
    phase, worst = report.phase, report.worst
    if not history.losses or not math.isfinite(phase.start):
        return "The record holds too few losses to find a first phase."
    if phase.end is None:
        said = f"The loss has stood still at {brief(phase.start)} for all {count(phase.lasted, 'step')} recorded."
    elif phase.end < 100:
        said = f"The loss began to fall after {count(phase.end, 'step')}: there was no flat first phase."
    else:
        said = f"The loss stood still at {brief(phase.start)} for {count(phase.end, 'step')} before it began to fall."
    if worst is None:
        return said
    if report.trapped:
        said += (
            f" Meanwhile features of different samples were alike: in layer {worst.layer} their similarity was "
            f"{brief(worst.start)} at the start and {brief(worst.highest)} at its highest."
        )
        dominance = _finite_max(_until(history, "dominance", phase.lasted))
        if math.isfinite(dominance):
            said += f" The updates of all samples share one direction, up to {brief(dominance)} times the next."
        enhancement = _finite_max(_until(history, "self_enhancement", phase.lasted)[:, :-1])
        if enhancement > 0.1:
            said += f" Along it the weights fed themselves (cosine up to {enhancement:.2f})."
    else:
        said += f" Features did not grow alike (highest similarity {brief(worst.highest)}, layer {worst.layer})."
    return said + (_outlook(history) if phase.end is None else "")


def _outlook(history: DiversityHistory) -> str:
    """Word whether a phase that lasts looks as if it will end, by what the common part of the weights does."""
    hidden = history.gradients("self_enhancement")[:, :-1] if history.measured[1] else torch.empty(0, 0)
    first, last = (_finite_max(hidden[:1]), _finite_max(hidden[-1:])) if len(hidden) > 2 else (math.nan, math.nan)
    if not math.isfinite(last - first):
        return ""
    seen = f"(self-enhancement of a hidden layer {first:.2f} at the start, now {last:.2f})"
    if last >= FEEDING and last - first >= GREW:
        return (
            " It will probably end by itself, but nobody can say when: what the weights have in common for all samples "
            f"grows from its own updates {seen}, as it does before a plateau ends."
        )
    return (
        " So far there is no sign that it will end by itself: the weights hardly feed themselves, or no more than at "
        f"the start {seen}."
    )


def _first(remedies: Sequence[Remedy]) -> Advice | None:
    if not remedies:
        return None
    best = remedies[0]
    return Advice(text=f"{best.text} {best.reason} The command trains an example.", command=best.command)


def _cautions(history: DiversityHistory) -> tuple[str, ...]:
    said = ["Normalizations over the batch are measured with the probe's own statistics, held fixed for its gradients."]
    tiny = _tiny(history)
    if tiny > UNDERFLOW:
        said.append(
            f"In some layer {percent(tiny)} of the gradients are smaller than fp16 can hold: in that precision a loss "
            "that stands still may be rounding and not a trap."
        )
    left_out = sum(loss is None for loss in history.losses)
    if left_out:
        said.append(f"{count(left_out, 'step')} at learning rate 0, or without a loss, do not count as standing still.")
    return tuple(said)


def _measures(history: DiversityHistory, report: PhaseReport) -> tuple[Measure, ...]:
    worst = report.worst
    found = [
        (
            "similarity_rise",
            "largest rise of a layer's similarity in the first phase",
            math.nan if worst is None else max(one.rose for one in report.layers if math.isfinite(one.rose)),
            "below 0.02",
            "lower",
        ),
        (
            "peak_similarity",
            "highest similarity of a layer in the first phase",
            math.nan if worst is None else max(one.highest for one in report.layers if math.isfinite(one.highest)),
            "up to 0.85 in a random network of 9 layers",
            "neither",
        ),
        (
            "peak_dominance",
            "largest dominance of a common direction",
            _finite_max(history.gradients("dominance")),
            "3 to 10",
            "neither",
        ),
        (
            "peak_self_enhancement",
            "largest self-enhancement of a hidden layer",
            _finite_max(history.gradients("self_enhancement")[:, :-1]),
            "near 0 where weights do not feed themselves",
            "neither",
        ),
    ]  # fmt: skip
    return tuple(
        Measure(name=name, label=label, value=number(value), usual=usual, better=better)  # type: ignore[arg-type]
        for name, label, value, usual, better in found
    )


# -- exhibits -----------------------------------------------------------------------------------------------------


def _exhibits(history: DiversityHistory, report: PhaseReport, remedies: Sequence[Remedy]) -> list[Exhibit]:
    made: list[Exhibit] = []
    seen, graded = history.measured
    if any(loss is not None for loss in history.losses):
        made.append(_loss(history, report))
    if len(seen) > 1:
        made.append(_alike(history, report))
        made.append(_map(history, "similarity of features", history.head.layers, seen, history.features("similarity")))
    if len(graded) > 1:
        made.append(
            _map(
                history,
                "similarity of gradients within a class",
                history.head.gradient_layers,
                graded,
                history.gradients("intra"),
            )
        )
        made += _curves(history, report)
    if seen:
        made.append(_layers(history, report))
    if remedies:
        made.append(
            Table(
                title="What to try, the likeliest help first",
                columns=("remedy", "how", "why"),
                rows=tuple((one.name, one.text, one.reason) for one in remedies),
                caption="Measured side by side in reproductions/feature-diversity.",
            )
        )
    return made


def _shade(report: PhaseReport, top: float) -> Line:
    """Return the first phase as a band behind the lines."""
    return Line(name="first phase", x=(0.0, float(max(1, report.phase.lasted))), y=(top, top), role="noise")


def _loss(history: DiversityHistory, report: PhaseReport) -> Curve:
    losses = torch.tensor([math.nan if loss is None else loss for loss in history.losses], dtype=torch.float64)
    size = max(1, math.ceil(len(losses) / MOST_POINTS))
    blocks = [block[~block.isnan()] for block in torch.split(losses, size)]
    known = [(size * k + size / 2, float(block.mean())) for k, block in enumerate(blocks) if len(block)]
    phase = report.phase
    lines = [Line(name="loss", x=tuple(x for x, _ in known), y=numbers(y for _, y in known))]
    if math.isfinite(phase.start):
        mark = phase.start - 0.02 * abs(phase.start)
        lines.append(Line(name="2% below the start", x=(0.0, float(len(losses))), y=(mark, mark), role="reference"))
        lines.append(_shade(report, max(y for _, y in known)))
    return Curve(
        title="Loss",
        x=Axis("step"),
        y=Axis("loss"),
        lines=tuple(lines),
        caption=("" if size == 1 else f"Each point is the mean of {size} steps. ")
        + "The first phase is shaded: it ends when the smoothed loss stays 2% below where it began.",
    )


def _alike(history: DiversityHistory, report: PhaseReport) -> Curve:
    seen, graded = history.measured
    values = history.features("similarity")
    lines = []
    for k in _chosen(history.head.layers, report):
        lines.append(Line(name=history.head.layers[k], x=numbers(seen), y=numbers(values[:, k])))  # noqa: PERF401
    if graded:
        within = history.gradients("intra").nanmean(1)
        lines.append(Line(name="gradients within a class, mean of layers", x=numbers(graded), y=numbers(within)))
    top = max(float(y) for line in lines for y in line.y if y is not None)
    return Curve(
        title="Similarity of features and gradients",
        x=Axis("step"),
        y=Axis("mean cosine between different samples"),
        lines=(*lines, _shade(report, top)),
        caption="Features that rise while the loss stands still are the sign of the trap.",
    )


def _map(history: DiversityHistory, what: str, layers: Sequence[str], steps: Sequence[int], values: Tensor) -> Heatmap:
    every = math.ceil(len(steps) / MOST_COLUMNS)
    chosen = list(range(0, len(steps), every))
    return Heatmap(
        title=f"{what[0].upper()}{what[1:]}, layer by layer",
        rows=tuple(layers),
        columns=tuple(f"{steps[k]:,}" for k in chosen),
        values=tuple(numbers(values[chosen, row]) for row in range(len(layers))),
        row_label="layer",
        column_label="step",
        caption=f"Every {every * (steps[1] - steps[0]):,} steps." if len(chosen) > 1 else "",
    )


def _curves(history: DiversityHistory, report: PhaseReport) -> list[Exhibit]:
    graded = history.measured[1]
    made: list[Exhibit] = []
    texts = {
        "dominance": (
            "Dominance of the common direction",
            "strength of the first direction over the second",
            "Along one input direction the updates of all samples agree; how much stronger it is than the next one.",
        ),
        "self_enhancement": (
            "Self-enhancement",
            "cosine of the common weights and their update",
            "Above 0 the part of the weights along the common direction grows by itself.",
        ),
    }
    for column, (title, label, caption) in texts.items():
        values = history.gradients(column)
        known = [k for k in range(values.shape[1] - 1) if bool(values[:, k].isfinite().any())]
        if not known:
            continue
        picked = dict.fromkeys((known[0], known[len(known) // 2], known[-1]))
        lines = [Line(name=history.head.gradient_layers[k], x=numbers(graded), y=numbers(values[:, k])) for k in picked]
        tops = [y for line in lines for y in line.y if y is not None]
        signed = min(tops) < 0
        made.append(
            Curve(
                title=title,
                x=Axis("step"),
                y=Axis(label, scale="log" if column == "dominance" else "linear"),
                # A band under a curve that has a sign would reach below zero too, and has no place on a log axis.
                lines=(*lines, *([] if signed or column == "dominance" else [_shade(report, max(tops))])),
                caption=caption,
            )
        )
    return made


def _layers(history: DiversityHistory, report: PhaseReport) -> Table:
    now = history.features("similarity")[-1].tolist()
    dead = history.features("dead")[-1].tolist()
    size = history.features("size")[0].tolist()
    rows = []
    for k, one in enumerate(report.layers):
        reference = history.reference[k]
        rows.append((one.layer, *numbers((reference, one.start, one.highest, one.end, now[k], dead[k], size[k]))))
    return Table(
        title="Layers",
        columns=(
            "layer", "random network", "at the start", "highest in the phase", "at its end", "now", "all-zero now",
            "size at the start",
        ),
        rows=tuple(rows),
        units=("", "", "", "", "", "", "%", ""),
        caption="Similarity between different samples; size is the root mean square of the features.",
    )  # fmt: skip


def _chosen(layers: Sequence[str], report: PhaseReport) -> list[int]:
    """Return the layers that a curve shows: the first, the one that grew alike most, and the last."""
    worst = None if report.worst is None else report.worst.layer
    wanted = {0, len(layers) - 1} | ({layers.index(worst)} if worst is not None else set())
    return sorted(wanted)


# -- numbers ------------------------------------------------------------------------------------------------------


def _until(history: DiversityHistory, column: str, step: int) -> Tensor:
    graded = history.measured[1]
    return history.gradients(column)[[k for k, at in enumerate(graded) if at <= step]]


def _finite_max(values: Tensor) -> float:
    known = values[values.isfinite()]
    return float(known.max()) if known.numel() else math.nan


def _shrunk(history: DiversityHistory) -> float:
    """Return how many times smaller the last layer's features are than the first's, before training."""
    sizes = history.features("size")
    if not len(sizes) or sizes.shape[1] < 2:
        return 1.0
    first, last = float(sizes[0, 0]), float(sizes[0, -1])
    return first / last if last > 0 and math.isfinite(first) else 1.0


def _biased(history: DiversityHistory) -> float:
    """Return how far above a random network without biases the most alike layer lies before training."""
    values = history.features("similarity")
    if not len(values) or not history.head.biases:
        return 0.0
    above = [s - r for s, r in zip(values[0].tolist(), history.reference, strict=True) if math.isfinite(s - r)]
    return max(above, default=0.0)


def _tiny(history: DiversityHistory) -> float:
    values = history.gradients("tiny")
    return _finite_max(values[-1]) if len(values) else 0.0
