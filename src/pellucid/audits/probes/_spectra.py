"""What an order spectrum says: its judgement by the rule, its words, its numbers and its charts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from msgspec.structs import replace
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
    contexts: int | None = None

    @property
    def lost(self) -> Tensor:
        """Which orders cannot be told from noise: strength below twice the noise floor."""
        return self.strength < _levels.FLOORS_NEEDED * self.floor


@dataclass(frozen=True)
class Reading:
    """What a spectrum says: is there a bottleneck (None: cannot be told), where, how deep and why; the doubt if any.

    `lost` says that numbers which matter are lost in the noise: the answer then quotes none. `more` says what would
    decide; `low` and `high` are the ends of the depth's interval.
    """

    found: bool | None
    middle: int
    depth: float
    why: str
    doubt: str = ""
    lost: bool = False
    more: str = ""
    low: float = math.nan
    high: float = math.nan


def judged(s: Spectrum, rng: Stream) -> Reading:
    """Apply the rule: the middle below half of both ends, intervals apart, nothing lost in the noise floor.

    There is no bottleneck only where the interval of the depth excludes one half; all else is undecided.
    """
    inside = ((s.ratios >= MIDDLE[0] - 1e-9) & (s.ratios <= MIDDLE[1] + 1e-9)).nonzero()[:, 0]
    ends = torch.tensor([0, len(s.ratios) - 1])
    middle = int(inside[s.strength[inside].argmin()]) if len(inside) else len(s.ratios) // 2
    between = f"between {MIDDLE[0]:.0%} and {MIDDLE[1]:.0%} of the other parts"
    if not float(s.strength.max()) > 0:
        return Reading(False, middle, math.nan, "The model uses no pair interactions, so there is nothing to compare.")
    if not len(inside):
        none = f"No order {between} was measured"
        doubt = f"{none}, so nothing can be said about a bottleneck."
        return Reading(None, middle, math.nan, f"{none}.", doubt, more=f"measure orders {between}")
    weaker = float(s.strength[ends].min())
    depth = float(s.strength[middle]) / weaker if weaker > 0 else math.nan
    # One rule for every conclusion: an order lost in the noise could be weaker than it looks, or not the strongest.
    if bool(s.lost.any()):
        where = ", ".join(f"{float(r):.0%}" for r in s.ratios[s.lost])
        return Reading(
            None,
            middle,
            depth,
            f"At {where} of the other parts present the strength is below {_levels.FLOORS_NEEDED:g} times the noise "
            "floor: with so few contexts it cannot be told from noise, and no conclusion is drawn.",
            f"With {where} of the other parts present interactions are too close to the noise floor for a conclusion.",
            lost=True,
            more=_contexts_for_floor(s),
        )
    half = _levels.DEPTH_OF_BOTTLENECK
    rule = (
        f"The rule: weakest {between}, below {half:g} times both ends, intervals apart, all orders above "
        f"{_levels.FLOORS_NEEDED:g} times the noise floor; no bottleneck where the interval excludes {half:g}."
    )
    likely, low, high = _depth(s, inside, ends, rng)
    shallow = f"The middle is {brief(depth)} times the weaker end" if weaker > 0 else "One end uses no interactions"
    if math.isfinite(low) and weaker > 0:
        ends_at = f"{brief(low)} to {brief(high)}" if math.isfinite(high) else f"{brief(low)} or more"
        shallow += f" (95% interval {ends_at}, noise included)"

    def reading(found: bool | None, why: str, doubt: str = "", more: str = "") -> Reading:
        return Reading(found, middle, depth, f"{why}. {rule}", doubt, more=more, low=low, high=high)

    deep = depth < half
    if deep and not bool((s.high[middle] < s.low[ends]).all()):
        known = bool(s.low[ends].isfinite().all())
        trouble = "their intervals overlap" if known else "one sample gives no intervals"
        doubt = f"That looks like a bottleneck, but {trouble}, so more samples must decide."
        return reading(None, f"{shallow}, but {trouble}", doubt, _samples_for_gap(s, middle, ends))
    if len(s.per_sample) < FEWEST:
        few = count(len(s.per_sample), "sample")
        doubt = f"{few} cannot speak for the model."
        return reading(None, f"{shallow}, on {few} only", doubt, f"at least {FEWEST} samples")
    if deep or low > half:
        return reading(deep, shallow)
    doubt = (
        "Whether that is a bottleneck is undecided: the middle may lie on either side of "
        f"{half:g} times the weaker end."
    )
    return reading(None, f"{shallow}, so it is undecided", doubt, _to_decide(s, middle, ends, likely, low))


def _depth(s: Spectrum, inside: Tensor, ends: Tensor, rng: Stream) -> tuple[float, float, float]:
    """Return the depth without what noise may add to its middle, and the interval of the depth over samples.

    A mean of absolute values S with noise of floor f may be as small as the root of S^2 - f^2 without the noise. The
    lower end takes that for the middle, the upper end for the ends of the curve.
    """

    def depths(rows: Tensor) -> Tensor:
        raw = rows.mean(0)
        least = (raw.square() - s.floor.square()).clamp_min(0).sqrt()
        pairs = ((least, raw), (raw, least))
        return torch.stack([m[inside].min() / e[ends].min().clamp_min(1e-300) for m, e in pairs])

    found = bootstrap(s.per_sample, rng=rng, statistic=depths)
    high = float(found.high[1])
    # Where the end may be nothing but noise, nothing bounds the depth from above.
    return float(found.value[0]), float(found.low[0]), high if high < _ENDLESS else math.inf


_ENDLESS = 100.0
MOST_SAMPLES = 10_000
"""Samples beyond which the advice does not go."""


def _samples(needed: float) -> str:
    if not needed <= MOST_SAMPLES:
        return f"more than {MOST_SAMPLES:,} samples, so close is it"
    return f"about {math.ceil(needed):,} samples, if the strengths stay as they are"


def _contexts_for_floor(s: Spectrum) -> str:
    """Return the contexts that lift the lost orders above the floor, which falls with the root of their number."""
    if s.contexts is None:
        return "a more precise computation"
    known = s.lost & (s.strength > 0)
    if not bool(known.any()):
        return "many more contexts per pair and order"
    ratio = float((_levels.FLOORS_NEEDED * s.floor[known] / s.strength[known]).max())
    return f"at least {math.ceil(s.contexts * ratio**2):,} contexts per pair and order instead of {s.contexts}"


def _samples_for_gap(s: Spectrum, middle: int, ends: Tensor) -> str:
    """Return the samples at which the intervals of the middle and the ends come apart."""
    widths = (s.high[middle] - s.strength[middle]) + (s.strength[ends] - s.low[ends])
    needed = float((widths / (s.strength[ends] - s.strength[middle])).square().max()) * len(s.per_sample)
    return _samples(needed) if math.isfinite(needed) else f"at least {FEWEST} samples"


def _to_decide(s: Spectrum, middle: int, ends: Tensor, likely: float, low: float) -> str:
    """Return what lifts the lower end of the depth's interval above one half."""
    half = _levels.DEPTH_OF_BOTTLENECK
    if likely > half:
        return _samples(len(s.per_sample) * ((likely - low) / (likely - half)) ** 2)
    room = float(s.strength[middle] ** 2 - (half * s.strength[ends].min()) ** 2)
    if s.contexts is None or room <= 0:
        return f"more than {MOST_SAMPLES:,} samples, so close is it"
    needed = math.ceil(s.contexts * float(s.floor[middle]) ** 2 / room) + 1
    return f"more than {needed:,} contexts per pair and order instead of {s.contexts}, and more samples"


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
            f"lower the noise floor. It would take {reading.more}.",
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
    if bool(s.lost.all()):
        noise = f"undefined here: no strength is above {_levels.FLOORS_NEEDED:g} times the noise floor"
        return Measure(name=name, label=label, value=None, usual=noise)
    few = f"; {int(s.lost.sum())} of {len(s.lost)} orders are within the noise, and their noise counts in this number"
    partly = few if bool(s.lost.any()) else ""
    interval = bootstrap(known, rng=rng)
    return Measure(
        name=name,
        label=label,
        value=number(interval.value),
        low=number(interval.low),
        high=number(interval.high),
        usual=f"{brief(float(s.ratios.mean()))} if all measured orders were equally strong{partly}",
        samples=numbers(centers),
    )


def measures(s: Spectrum, reading: Reading) -> list[Measure]:
    """Return the depth of the middle, the strength at each order, and the players of the theory curve."""
    found = [
        Measure(
            name="bottleneck_depth",
            label="weakest middle strength over the weaker end's",
            value=number(reading.depth),
            low=number(reading.low),
            high=number(reading.high),
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
        *((log_curve(s.ratios, s.relative, players.count, s.effective),) if mean > 0 and not s.lost.all() else ()),
        *s.maps,
    )


def maps(subject: Subject, result: BottleneckSpectrum, unit: str) -> tuple[Exhibit, ...]:
    """Return where interactions are strong: on the grid for contexts of three sizes, or by pairs of features."""
    lost = result.strength < _levels.FLOORS_NEEDED * result.floor
    noise = f" The mean is below {_levels.FLOORS_NEEDED:g} times the noise floor: what differs here is chance."
    if result.grid is None:
        names = player_names(subject, None, result.n_players)
        shown = pair_exhibits(names, result.pairs, result.interactions, result.ratios, unit=unit)
        if not bool(lost.all()):
            return shown
        return tuple(replace(one, title=f"{one.title} (noise)", caption=one.caption + noise) for one in shown)
    rows, columns = result.grid
    orders = result.orders.tolist()
    chosen = sorted({orders[0], orders[len(orders) // 2], orders[-1]})
    marked = {order: bool(lost[orders.index(order)]) for order in chosen}
    heat = tuple(
        Heatmap(
            title=f"Where parts interact, {order / (result.n_players - 2):.0%} of the others present"
            + (" (noise)" if marked[order] else ""),
            rows=tuple(str(r + 1) for r in range(rows)),
            columns=tuple(str(c + 1) for c in range(columns)),
            values=tuple(numbers(line) for line in result.pairs_heatmap(order)),
            row_label="row of the grid",
            column_label="column",
            unit=unit,
            caption="Mean strength of the measured pairs that each cell is part of, over all samples."
            + (noise if marked[order] else ""),
        )
        for order in chosen
    )
    return (*heat, *pairs_on_images(subject, result, unit))
