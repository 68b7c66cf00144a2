"""What an order spectrum says: its judgement by the rule, its words, its numbers and its charts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.core import (
    Advice,
    Axis,
    Curve,
    Exhibit,
    Heatmap,
    Line,
    Measure,
    Players,
    Stream,
    Subject,
    bootstrap,
    number,
    numbers,
)
from pellucid.explain import BottleneckSpectrum

from .. import _levels
from .._players import player_names
from .._wording import brief, count
from ._order_exhibits import log_curve, pairs_on_images
from ._pairs import pair_exhibits

FEWEST = 8
"""Samples below which nothing is concluded about the model."""

MIDDLE = (0.2, 0.8)
RECIPES_FOR = ("cifar10", "fashion-mnist")
"""Data sets that recipes with an order loss are ready for."""


@dataclass(frozen=True)
class Spectrum:
    """Interaction strength by order, sampled or exact; all `(M,)` but `per_sample (N, M)`."""

    ratios: Tensor
    strength: Tensor
    low: Tensor
    high: Tensor
    floor: Tensor
    relative: Tensor
    relative_low: Tensor
    relative_high: Tensor
    per_sample: Tensor
    evaluations: int
    method: str
    unit: str = "log odds"
    normalize: str = "measured"
    effective: int | None = None
    maps: tuple[Exhibit, ...] = ()


@dataclass(frozen=True)
class Reading:
    """What a spectrum says: is there a bottleneck (None: cannot be told), where, how deep and why; the doubt if any.

    `lost` says that numbers which matter are lost in the noise: the answer then quotes none.
    """

    found: bool | None
    middle: int
    depth: float
    why: str
    doubt: str = ""
    lost: bool = False


def judged(s: Spectrum) -> Reading:
    """Apply the rule: the middle below half of both ends, intervals apart, nothing lost in the noise floor."""
    inside = ((s.ratios >= MIDDLE[0] - 1e-9) & (s.ratios <= MIDDLE[1] + 1e-9)).nonzero()[:, 0]
    ends = torch.tensor([0, len(s.ratios) - 1])
    middle = int(inside[s.strength[inside].argmin()]) if len(inside) else len(s.ratios) // 2
    weaker = float(s.strength[ends].min())
    depth = float(s.strength[middle]) / weaker if weaker > 0 else math.nan
    if not float(s.strength.max()) > 0:
        return Reading(False, middle, math.nan, "The model uses no pair interactions, so there is nothing to compare.")
    deep = depth < _levels.DEPTH_OF_BOTTLENECK
    # Without a bottleneck the claim is about all orders: one lost in the noise could be weak, or not be the strongest.
    compared = torch.cat([ends, torch.tensor([middle])]) if deep else torch.arange(len(s.ratios))
    lost = s.strength[compared] < _levels.FLOORS_NEEDED * s.floor[compared]
    if bool(lost.any()):
        where = ", ".join(f"{float(r):.0%}" for r in s.ratios[compared[lost]])
        return Reading(
            None,
            middle,
            depth,
            f"At {where} of the other parts present the strength is below {_levels.FLOORS_NEEDED:g} times the noise "
            "floor: with so few contexts it cannot be told from noise, and no conclusion is drawn.",
            f"With {where} of the other parts present interactions are too close to the noise floor for a conclusion.",
            lost=True,
        )
    rule = (
        f"The rule: weakest between {MIDDLE[0]:.0%} and {MIDDLE[1]:.0%} of the other parts, below "
        f"{_levels.DEPTH_OF_BOTTLENECK:g} times both ends, intervals apart, above the noise floor."
    )
    shallow = f"The middle is {brief(depth)} times the weaker end"
    if deep and not bool((s.high[middle] < s.low[ends]).all()):
        known = bool(s.low[compared].isfinite().all())
        trouble = "their intervals overlap" if known else "one sample gives no intervals"
        doubt = f"That looks like a bottleneck, but {trouble}, so more samples must decide."
        return Reading(None, middle, depth, f"{shallow}, but {trouble}. {rule}", doubt)
    if len(s.per_sample) < FEWEST:
        few = count(len(s.per_sample), "sample")
        return Reading(None, middle, depth, f"{shallow}, on {few} only. {rule}", f"{few} cannot speak for the model.")
    return Reading(deep, middle, depth, f"{shallow}. {rule}")


# -- words --------------------------------------------------------------------------------------------------------


def in_words(s: Spectrum, reading: Reading) -> str:
    """Return what a spectrum says in a sentence or two."""
    if not float(s.strength.max()) > 0:
        measured = "" if "exact" in s.method else " at the measured orders"
        single = ": its score is a sum of single parts" if "exact" in s.method else ""
        return f"The model uses no interactions between pairs of input parts{measured}{single}."
    first, last = float(s.relative[0]), float(s.relative[-1])
    shape = (
        f"Interactions of two parts have {brief(first)} times the average strength when all others are absent, "
        f"{brief(float(s.relative[reading.middle]))} times with {float(s.ratios[reading.middle]):.0%} of them present, "
        f"and {brief(last)} times with all present."
    )
    if reading.found is None:
        return reading.doubt if reading.lost else f"{shape} {reading.doubt}"
    if reading.found:
        return (
            "The model combines parts in very small and in nearly complete contexts and hardly in between: a "
            f"bottleneck. {shape}"
        )
    strongest = float(s.ratios[int(s.relative.argmax())])
    side = "simple contexts" if strongest < MIDDLE[0] else "nearly complete contexts"
    lead = "contexts of middle size" if MIDDLE[0] <= strongest <= MIDDLE[1] else side
    return f"The model combines parts most in {lead}; there is no bottleneck between. {shape}"


def advice_on(subject: Subject, reading: Reading) -> Advice | None:
    """Return what to do about it."""
    if reading.found is None:
        return Advice(
            text="Spend more evaluations on this question alone: more samples narrow the intervals, and more contexts "
            "lower the noise floor.",
            command="pellucid audit MODEL DATA --probe bottleneck --budget 1000000 --set bottleneck.settings=auto",
        )
    if not reading.found:
        return None
    usual = "A bottleneck is usual in trained networks."
    if subject.objective.get("kind") == "interaction-order":
        return Advice(
            text=f"{usual} This model was trained with an order loss: compare it with one that was trained without.",
            command="pellucid compare RUN_A RUN_B",
        )
    text = (
        f"{usual} An order loss moves it: low-order networks were usually more robust in the paper, high-order ones "
        "used more of the layout. Train one and compare; both may cost accuracy."
    )
    if subject.data_name in RECIPES_FOR:
        return Advice(text=text, command=f"pellucid train low-order-{subject.data_name} --out runs/low-order")
    return Advice(
        text=f"{text} The shipped recipe is for other data: write your own from it.",
        command="pellucid recipes show low-order-cifar10",
    )


# -- numbers and pictures -----------------------------------------------------------------------------------------


def center(s: Spectrum, rng: Stream) -> Measure:
    """Return the strength-weighted mean order: one number per sample that two models can be compared on."""
    total = s.per_sample.sum(1)
    centers = torch.where(total > 0, (s.per_sample * s.ratios).sum(1) / total, torch.nan)
    known = centers[centers.isfinite()]
    name, label = "mean_order", "mean share of the other parts present, weighted by interaction strength"
    if not len(known):
        return Measure(name=name, label=label, value=None)
    interval = bootstrap(known, rng=rng)
    return Measure(
        name=name,
        label=label,
        value=number(interval.value),
        low=number(interval.low),
        high=number(interval.high),
        usual=f"{brief(float(s.ratios.mean()))} if all measured orders were equally strong",
        samples=numbers(centers),
    )


def measures(s: Spectrum, reading: Reading) -> list[Measure]:
    """Return the depth of the middle, the strength at each order, and the players of the theory curve."""
    found = [
        Measure(
            name="bottleneck_depth",
            label="weakest middle strength over the weaker end's",
            value=number(reading.depth),
            usual="below 0.5 is a bottleneck",
        )
    ]
    for k, ratio in enumerate(s.ratios.tolist()):
        found.append(
            Measure(
                name=f"interaction_strength[{ratio:.2f}]",
                label=f"interaction strength with {ratio:.0%} of the other parts present",
                value=number(s.strength[k]),
                low=number(s.low[k]),
                high=number(s.high[k]),
                unit=s.unit,
                samples=numbers(s.per_sample[:, k]),
            )
        )
    found.append(
        Measure(
            name="effective_players",
            label="parts for which the theory curve follows the measured one best (describes a shape, counts nothing)",
            value=s.effective,
            usual="4 to 64 are tried; undefined where fewer than three orders rise above the noise",
        )
    )
    return found


def exhibits(s: Spectrum, players: Players) -> tuple[Exhibit, ...]:
    """Return the relative curve, the one without normalization, the theory beside it, and the maps."""
    x = numbers(s.ratios)
    axis = Axis("share of the other parts present", "%")
    mean = float(s.strength.mean())
    floor = _levels.FLOORS_NEEDED * s.floor
    noisy = bool((s.floor > 0).any())
    relative = [
        Line(
            name="relative strength",
            x=x,
            y=numbers(s.relative),
            low=numbers(s.relative_low),
            high=numbers(s.relative_high),
        ),
        Line(name="average", x=(x[0], x[-1]), y=(1.0, 1.0), role="reference"),
    ]
    strength = [Line(name="strength", x=x, y=numbers(s.strength), low=numbers(s.low), high=numbers(s.high))]
    if noisy:
        name = f"{_levels.FLOORS_NEEDED:g} x noise floor"
        strength.append(Line(name=name, x=x, y=numbers(floor), role="noise"))
        if mean > 0:
            relative.append(Line(name=name, x=x, y=numbers(floor / mean), role="noise"))
    return (
        Curve(
            title="Relative interaction strength by order",
            x=axis,
            y=Axis("strength / mean strength"),
            lines=tuple(relative),
            caption="1 is the average order. Left: two parts alone; right: two parts with all others present. "
            "Inside the band a value cannot be told from sampling noise.",
        ),
        Curve(
            title="Interaction strength by order",
            x=axis,
            y=Axis("mean |interaction|", s.unit),
            lines=tuple(strength),
            caption="The same without normalization: this is the one to compare between models.",
        ),
        *((log_curve(s.ratios, s.relative, players.count, s.effective),) if mean > 0 else ()),
        *s.maps,
    )


def maps(subject: Subject, result: BottleneckSpectrum, unit: str) -> tuple[Exhibit, ...]:
    """Return where interactions are strong: on the grid for contexts of three sizes, or by pairs of features."""
    if result.grid is None:
        names = player_names(subject, None, result.n_players)
        return pair_exhibits(names, result.pairs, result.interactions, result.ratios, unit=unit)
    rows, columns = result.grid
    orders = result.orders.tolist()
    chosen = [orders[0], orders[len(orders) // 2], orders[-1]]
    heat = tuple(
        Heatmap(
            title=f"Where parts interact, {order / (result.n_players - 2):.0%} of the others present",
            rows=tuple(str(r + 1) for r in range(rows)),
            columns=tuple(str(c + 1) for c in range(columns)),
            values=tuple(numbers(line) for line in result.pairs_heatmap(order)),
            row_label="row of the grid",
            column_label="column",
            unit=unit,
            caption="Mean strength of the measured pairs that each cell is part of, over all samples.",
        )
        for order in sorted(set(chosen))
    )
    return (*heat, *pairs_on_images(subject, result, unit))
