"""The judgement of an audit: which number deserves which level, and why. Every threshold of the house lies here.

`fine` asks for nothing, `watch` deserves a look before the model is used, `weak` is a defect for most uses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from pellucid.core import Interval, Level, wilson

from ._wording import brief, count, listed, percent

LOST_WATCH, LOST_WEAK = 0.2, 0.5
"""Shares of the clean accuracy that a small attack may take away."""

HALFWAY = 0.5
"""Share of the way from the majority floor to no mistake at all; an accuracy wholly below it is watched."""

CALIBRATION_WEAK = 0.15
DEPTH_OF_BOTTLENECK = 0.5
FLOORS_NEEDED = 2.0
COLLAPSED = 0.95
FEW = 30
DEAD = 0.5

SHARED = 0.8
"""Cosine above which two classes share a direction: nine tenths of the squared length of the two is common to both."""

PAIRS_LOOKED_AT = 200

UNUSED, LOST_FEATURES = 0.5, 0.9
"""Of a matrix decomposition: shares of unused atoms, and of the features that it leaves out."""


class Judged(NamedTuple):
    """A level and the rule that gave it."""

    level: Level
    reason: str


def accuracy(low: float, high: float, floor: float, *, n: int, worst_high: float) -> Judged:
    """Judge accuracy against the majority floor and half of the way from there to 100%, then its worst class.

    Args:
        low, high: the accuracy's interval; a class wholly below it is worse than the rest.
        floor: accuracy of always answering the most frequent class.
        n: number of samples.
        worst_high: upper end of the worst class's interval.
    """
    if low <= floor and n < FEW:
        return Judged("watch", f"{count(n, 'sample')} cannot tell the model from always answering the same class.")
    if low <= floor:
        return Judged(
            "weak",
            f"The interval of the accuracy reaches down to {percent(low)}, not above the {percent(floor)} of always "
            "answering the most frequent class: the inputs are not shown to matter.",
        )
    if high < halfway(floor):
        return Judged(
            "watch",
            f"Better than the {percent(floor)} of always answering the most frequent class, but the interval reaches "
            f"only up to {percent(high)}, below {percent(halfway(floor))}, half of the way from there to 100%: it "
            "avoids fewer than half of that answer's mistakes.",
        )
    if worst_high < low:
        return Judged(
            "watch",
            "The interval of the worst class lies wholly below that of the overall accuracy: the average hides a class "
            "that the model serves worse.",
        )
    return Judged(
        "fine",
        f"Clearly better than the majority class, not shown to be below {percent(halfway(floor))}, half of the way "
        "from there to 100%, and no class clearly worse than the average.",
    )


def halfway(floor: float) -> float:
    """Return the accuracy half of the way from the majority floor to no mistake at all."""
    return floor + HALFWAY * (1 - floor)


def segmentation(value: float, low: float, high: float, floor: float, *, n: int, worst_high: float) -> Judged:
    """Judge a mean IoU as an accuracy: against always answering the most frequent class, then its worst class.

    Args:
        value, low, high: mean IoU and its interval; the ends are NaN with one image.
        floor: mean IoU of always answering the most frequent class.
        n: number of images.
        worst_high: upper end of the worst class's interval.
    """
    if math.isnan(low) or (low <= floor and n < FEW):
        return Judged("watch", f"{count(n, 'image')} cannot tell the model from always answering the same class.")
    if low <= floor:
        return Judged(
            "weak",
            f"The interval of the mean IoU reaches down to {percent(low)}, not above the {percent(floor)} of always "
            "answering the most frequent class: the images are not shown to matter.",
        )
    if high < halfway(floor):
        return Judged(
            "watch",
            f"Better than the {percent(floor)} of always answering the most frequent class, but the interval reaches "
            f"only up to {percent(high)}, below {percent(halfway(floor))}, half of the way from there to 100%. That is "
            "usual with very many classes.",
        )
    if worst_high < HALFWAY and worst_high < low:
        return Judged(
            "watch",
            f"The interval of the weakest class reaches only up to {percent(worst_high)}, below {percent(HALFWAY)}, "
            "where more is missed or added than found: the mean hides a class that the model serves worse.",
        )
    return Judged(
        "fine",
        f"Clearly better than the {percent(floor)} of always answering the most frequent class, not shown to be below "
        f"{percent(halfway(floor))}, half of the way from there to 100%, and no class is clearly missed.",
    )


def calibration(error: float, floor: float, *, one_sided: bool) -> Judged:
    """Judge a calibration error against the one that a perfectly calibrated model shows on as many samples.

    Args:
        error: expected calibration error measured.
        floor: mean error of a perfectly calibrated model with the same confidences.
        one_sided: the interval of mean confidence minus accuracy excludes 0; this finds a small but constant bias that
            the error cannot tell from chance.
    """
    if error <= FLOORS_NEEDED * floor and one_sided:
        return Judged(
            "watch",
            f"The error itself is within {FLOORS_NEEDED:g} times the {percent(floor)} that chance explains, but mean "
            "confidence and accuracy differ by more than chance.",
        )
    if error <= FLOORS_NEEDED * floor:
        return Judged(
            "fine",
            f"Not above {FLOORS_NEEDED:g} times {percent(floor)}, the error that perfect calibration shows by chance "
            "on this many samples.",
        )
    if error > CALIBRATION_WEAK:
        return Judged("weak", f"Above {percent(CALIBRATION_WEAK)}: a stated confidence says little about being right.")
    return Judged(
        "watch",
        f"Above {FLOORS_NEEDED:g} times the {percent(floor)} that chance explains on this many samples, below the "
        f"{percent(CALIBRATION_WEAK)} at which confidences become useless.",
    )


def robustness(
    clean: Interval[float], kept: Interval[float] | None, radius: str, *, n: int, floor: float, trusted: bool
) -> Judged:
    """Judge the share of clean accuracy that an attack of a small radius takes away, by the interval of that share.

    Args:
        clean: accuracy without attack.
        kept: share of the samples right without attack that stay right under it; None where there are none.
        radius: the radius in words.
        n: number of samples that are right without attack.
        floor: accuracy of always answering the most frequent class.
        trusted: False when a sanity check of the attack failed.
    """
    if kept is None:
        return Judged("watch", "There is no clean accuracy that an attack could lower: see the accuracy.")
    if clean.low <= floor:
        return Judged(
            "watch",
            f"The interval of the clean accuracy reaches down to {percent(clean.low)}, not above the {percent(floor)} "
            "of always answering the most frequent class: an answer that ignores the input cannot be attacked, and its "
            "robustness is worth nothing.",
        )
    rule = (
        f"The attack at {radius} takes {percent(1 - kept.value)} of the clean accuracy (95% interval "
        f"{percent(1 - kept.high)} to {percent(1 - kept.low)})"
    )
    if 1 - kept.high > LOST_WEAK and n < FEW:
        return Judged("watch", f"{rule}, but {count(n, 'attacked sample')} are too few to call it weak.")
    if 1 - kept.high > LOST_WEAK:
        return Judged("weak", f"{rule}, more than half: a small change decides the answer.")
    if not trusted:
        return Judged("watch", f"{rule}, but a sanity check of the attack failed: the model may be weaker than this.")
    if 1 - kept.value > LOST_WATCH:
        return Judged("watch", f"{rule}, more than a fifth.")
    if 1 - kept.low > LOST_WATCH:
        return Judged("watch", f"{rule}: on so few samples more than a fifth cannot be ruled out.")
    return Judged("fine", f"{rule}, at most a fifth.")


def bottleneck(found: bool | None, why: str) -> Judged:
    """Judge an order spectrum; None means that the data do not decide.

    A bottleneck is usual in trained networks, so it is never a defect by itself: worth watching, because a model that
    does not use interactions of middle complexity leaves structure unused.
    """
    return Judged("fine" if found is False else "watch", why)


def concepts(sparse: int, total: int, share: float, most: int) -> Judged:
    """Judge how many predictions a short list of concepts explains.

    Args:
        sparse: samples that at most `most` patterns explain.
        total: samples looked at.
        share: variance over all masks that counts as explained.
        most: longest list that still counts as short.
    """
    rule = f"{sparse} of {count(total, 'sample')} need at most {most} patterns for {percent(share)} of the variance"
    if sparse == total:
        return Judged("fine", f"{rule}: the concepts shown are a faithful account of the model's output on all masks.")
    return Judged("watch", f"{rule}: for the others a short list of concepts is not a faithful account.")


def diversity(similarity: float, layer: str, dead: float) -> Judged:
    """Judge the layer whose features are most alike across different inputs.

    Args:
        similarity: highest mean cosine similarity of features of different samples.
        layer: where.
        dead: largest share of samples whose features are all zero.
    """
    if dead > DEAD:
        return Judged(
            "weak", f"{percent(dead)} of the samples give all-zero features in some layer: it carries no signal."
        )
    if not math.isfinite(similarity):
        return Judged("watch", "No layer has features that can be compared.")
    if similarity > COLLAPSED:
        return Judged(
            "watch",
            f"In layer {layer} the similarity is {brief(similarity)}, above {COLLAPSED}: different inputs look almost "
            "the same to the layers after it.",
        )
    return Judged("fine", f"No layer's similarity is above {COLLAPSED}, and no layer is dead.")


def first_phase(lasted: int, *, ended: bool, trapped: bool) -> Judged:
    """Judge the start of a training.

    Args:
        lasted: steps for which the loss stood still.
        ended: whether it began to fall.
        trapped: whether features of different samples were alike meanwhile, for longer than the patience.
    """
    if trapped and not ended:
        return Judged("weak", "The loss never began to fall, and features of different samples are alike.")
    if trapped:
        return Judged(
            "watch", f"The first {lasted:,} steps taught nothing: the loss stood still and features were alike."
        )
    if not ended:
        return Judged("watch", "The loss never began to fall in the steps recorded, but features did not grow alike.")
    return Judged("fine", "The loss began to fall before features of different samples could grow alike.")


def corruptions(clean: Interval[float], kept: Interval[Tensor], *, n: int, floor: float) -> Judged:
    """Judge the share of right answers that common corruptions take away, by the interval of that share.

    Args:
        clean: accuracy without corruption.
        kept: mean share of the corruptions under which a sample that is right without them stays right.
        n: number of samples that are right without corruption.
        floor: accuracy of always answering the most frequent class.
    """
    if not n:
        return Judged("watch", "There is no clean accuracy that a corruption could lower: see the accuracy.")
    if clean.low <= floor:
        return Judged(
            "watch",
            f"The interval of the clean accuracy reaches down to {percent(clean.low)}, not above the {percent(floor)} "
            "of always answering the most frequent class: such an answer withstands everything and is worth nothing.",
        )
    lost, least, most = (1 - float(end) for end in (kept.value, kept.high, kept.low))
    rule = f"Common corruptions turn {percent(lost)} of the right answers wrong on average"
    if math.isfinite(least):
        rule += f" (95% interval {percent(least)} to {percent(most)})"
    if least > LOST_WEAK and n >= FEW:
        return Judged("weak", f"{rule}, more than half: the accuracy holds for clean pictures alone.")
    if lost > LOST_WATCH:
        return Judged("watch", f"{rule}, more than a fifth.")
    if most > LOST_WATCH or not math.isfinite(most):
        return Judged("watch", f"{rule}: on so few samples more than a fifth cannot be ruled out.")
    return Judged("fine", f"{rule}, at most a fifth.")


def mostly(hits: int, n: int) -> bool:
    """Whether more than half is more than chance: the whole 95% interval of the share lies above it."""
    return wilson(hits, n).low > HALFWAY


def collapse(
    shared: int,
    merged: list[str],
    head: Interval[float] | None,
    tail: Interval[float] | None,
    *,
    told: bool,
    lost: Sequence[str] = (),
    reach: float = -1.0,
) -> Judged:
    """Judge the directions of the classes, and the accuracy of rare classes beside that of frequent ones.

    How near a network is to neural collapse is no defect and no merit by itself; two classes in one place are.

    Args:
        shared: number of pairs of classes that share a direction.
        merged: classes that are mostly answered as another one, in words.
        head, tail: accuracy on the most frequent and on the rarest third of the classes, where these are known.
        told: whether features were looked at, and not the classifier alone.
        lost: names of classes that are answered rightly less often than by chance.
        reach: upper end of the interval of the largest cosine of two class means.
    """
    if merged:
        return Judged(
            "weak",
            f"More than half of a class is answered as another one: {listed(merged)}. The whole 95% interval lies "
            "above half, so the model has given up this class.",
        )
    if lost:
        return Judged(
            "weak",
            f"The whole 95% interval of the share of right answers lies below chance for {listed(lost)}: the model has "
            "given up this class.",
        )
    why = []
    if head is not None and tail is not None and tail.high < head.low:
        why.append(
            f"The interval of the accuracy on rare classes ends at {percent(tail.high)}, below that of frequent ones, "
            f"which begins at {percent(head.low)}."
        )
    if shared:
        why.append(
            f"A cosine above {SHARED:g} means that nine tenths of the squared length of two directions is common to "
            "both: the little that is left must tell the two classes apart."
        )
    if why:
        return Judged("watch", " ".join(why))
    if reach > SHARED:
        return Judged(
            "watch",
            f"The interval of the largest cosine of two class means reaches {brief(reach)}, above {SHARED:g}: on so "
            "few samples a shared direction cannot be ruled out.",
        )
    if not told:
        return Judged("noted", "The classifier alone is not judged: what its classes have in common shows in features.")
    return Judged(
        "fine",
        f"No two classes have a cosine above {SHARED:g}, none is mostly answered as another"
        + ("" if tail is None else ", and rare classes are not shown to be served worse than frequent ones")
        + ". How near the network is to neural collapse is neither a defect nor a merit.",
    )


MOST_SETTLE = 0.95
"""Share of samples that must settle: the others' answers are those of a network cut off at some depth."""

TURNED = 0.05
"""Share of answers that may change when the solver goes on, before the model is called weak."""

AGREES = 0.5
"""Cosine to the exact gradient below which a step goes more across than uphill: 60 degrees."""


def implicit(converged: Interval[float], changed: Interval[float] | None, cosine: float) -> Judged:
    """Judge whether an implicit layer settles, whether that matters to the answers, and its gradient.

    Args:
        converged: share of the samples whose residual fell below the tolerance.
        changed: share of the answers that are others when the solver goes on; None where that was not asked.
        cosine: mean cosine of the layer's own gradient to the exact one; NaN where there is none.
    """
    if changed is not None and changed.low > TURNED:
        return Judged(
            "weak",
            f"{percent(changed.value)} of the answers change when the solver goes on, surely more than "
            f"{percent(TURNED)}: the answers are those of the step at which it is cut off, not of an equilibrium.",
        )
    if cosine <= 0:
        return Judged(
            "weak",
            f"The gradient has a cosine of {brief(cosine)} to the exact one: training, attacks and saliency maps that "
            "follow it go downhill or nowhere.",
        )
    if converged.value < MOST_SETTLE:
        return Judged(
            "watch",
            f"{percent(converged.value)} of the samples settle, fewer than {percent(MOST_SETTLE)}: what is said of "
            "equilibria holds for these alone.",
        )
    if changed is not None and changed.value > 1 - MOST_SETTLE:
        return Judged("watch", f"{percent(changed.value)} of the answers change when the solver goes on.")
    if cosine < AGREES:
        return Judged(
            "watch",
            f"The gradient has a cosine of {brief(cosine)} to the exact one, below {AGREES:g}: training, attacks and "
            "saliency maps that follow it go more across than uphill, and attacks may look weaker than they are.",
        )
    if math.isnan(cosine):
        return Judged("fine", f"At least {percent(MOST_SETTLE)} of the samples settle.")
    return Judged(
        "fine",
        f"At least {percent(MOST_SETTLE)} of the samples settle, and the gradient's cosine to the exact one is not "
        f"below {AGREES:g}.",
    )


SETTLED = 0.1
"""Largest distance of a rate from the equilibrium's equation, on average, up to which rates count as settled."""


def settled(residual: float, best: float, steps: int, most: int) -> Judged:
    """Judge how far spiking rates are from the equilibrium that training assumes.

    Args:
        residual: mean distance after the model's own number of steps.
        best: the least mean distance with as many steps or more.
        steps: the model's own.
        most: steps tried at most.
    """
    if residual <= SETTLED:
        return Judged(
            "fine",
            f"On average no rate lies more than {brief(SETTLED)} from the equilibrium's equation, whose gradient "
            "training follows.",
        )
    if best <= SETTLED:
        return Judged(
            "watch",
            f"Not at equilibrium: a rate lies more than {brief(SETTLED)} away on average, so training follows the "
            f"gradient of another point than the one {count(steps, 'step')} reach; with more steps the same model "
            "settles.",
        )
    more = f"not even after {count(most, 'step')}" if most > steps else "and there are no more steps to try"
    return Judged(
        "watch" if most <= steps else "weak",
        f"Not at equilibrium: a rate lies more than {brief(SETTLED)} away on average, {more}; the gradients of "
        "training are those of a point that the model does not reach.",
    )


def concept_maps(*, steady: bool, unused: float, residual: float) -> Judged:
    """Judge how a matrix-decomposition layer works; what its atoms show is a description and not judged.

    Args:
        steady: whether every evaluation starts at the same atoms.
        unused: share of the atoms that carry nothing.
        residual: |X - D C^T| / |X| after the last step.
    """
    if not steady:
        return Judged(
            "watch",
            "Each evaluation starts at new random atoms: the same input gets another answer each time, and the number "
            "of an atom means nothing from one input to the next.",
        )
    if unused > UNUSED:
        return Judged("watch", f"{percent(unused)} of the atoms are never used, more than {percent(UNUSED)}.")
    if residual > LOST_FEATURES:
        return Judged(
            "watch",
            f"The atoms leave {percent(residual)} of the features' length unexplained, more than "
            f"{percent(LOST_FEATURES)}: little of what the layer is given gets through it.",
        )
    return Judged(
        "noted",
        "The layer starts the same at each evaluation, its atoms are used and explain its features. What they follow "
        "is a description: an atom that follows no class is no defect.",
    )
