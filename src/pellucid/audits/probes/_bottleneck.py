"""Does the model combine input parts in simple, middle or complex contexts?"""

from __future__ import annotations

import math
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
    Heatmap,
    Line,
    Masker,
    Measure,
    Need,
    OnStep,
    Players,
    Provenance,
    Stream,
    Subject,
    Work,
    bootstrap,
    number,
    numbers,
)
from pellucid.explain import (
    FULL,
    QUICK,
    BottleneckSpectrum,
    SpectrumSettings,
    bottleneck,
    cost_bottleneck,
    cost_signed_order_curve,
    fit_bottleneck,
    signed_order_curve,
)
from pellucid.games import ModelGame, log_odds, pair_interactions, table

from .. import _levels
from .._players import (
    MOST_EXACT,
    absence_in_words,
    answers,
    cells,
    feature_players,
    features,
    is_image,
    is_large,
    kind_of_players,
    player_names,
    players_in_words,
    value_in_words,
)
from .._samples import draw, ids_of
from .._wording import brief, count
from ._order_exhibits import omega_curves, pairs_on_images, theory_line
from ._pairs import pair_exhibits
from ._signed_orders import ORDER_CAUTIONS, signed_finding

COARSE, FINE = 8, 16
"""Cells per side for images up to 64 pixels, and above."""

EXACT_SAMPLES = {"quick": 16, "full": 32}
FALLBACK_SAMPLES, FALLBACK_LEAST, FALLBACK_BINS = 16, 4, 10
FALLBACK_PERMUTATIONS, FALLBACK_MOST = 20, 100
FEWEST = 8
"""Samples below which nothing is concluded about the model."""

MIDDLE = (0.2, 0.8)
MOST_FEATURES = 256


@dataclass(frozen=True)
class _Spectrum:
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
    maps: tuple[Exhibit, ...] = ()


@dataclass(frozen=True)
class _Reading:
    """What a spectrum says: is there a bottleneck (None: cannot be told), where, how deep and why; the doubt if any."""

    found: bool | None
    middle: int
    depth: float
    why: str
    doubt: str = ""


@final
@dataclass(frozen=True)
class Bottleneck:
    """The order spectrum with its noise floor; the signed size curve where the budget does not reach."""

    name: str = "bottleneck"
    question: str = "Does the model combine input parts in simple, middle or complex contexts?"

    def need(self, subject: Subject, *, effort: Effort) -> Need:
        """The spectrum for what is wanted; the signed size curve for the least."""
        players = _players(subject)
        if isinstance(players, str):
            return Need(0, 0, skip=players)
        total = len(subject)
        if _is_exact(players):
            one = 2**players.count + 1
            n = min(EXACT_SAMPLES[effort], total)
            return Need(
                min(FALLBACK_LEAST, total) * one,
                n * one,
                memory=8 * 8 * 2**players.count,
                remark=f"measures fewer than {n} samples",
            )
        least = min(FALLBACK_LEAST, total) * _fallback_cost(players.count)
        first = _spectrum_cost(players, subject, QUICK)
        if effort == "quick":
            each, n = (FALLBACK_PERMUTATIONS, FEWEST) if is_large(subject) else (FALLBACK_MOST, FALLBACK_SAMPLES)
            look = min(n, total) * _fallback_cost(players.count, each)
            wanted, remark = max(least, min(first, look)), f"the signed size curve; the spectrum needs {first:,}"
        else:
            wanted = max(least, _spectrum_cost(players, subject, FULL))
            remark = f"fewer samples, pairs or contexts; below {first:,} the signed size curve stands in"
        return Need(least, wanted, memory=64 * 2**20, remark=remark)

    def __call__(self, subject: Subject, budget: int, rng: Stream, *, work: Work = ALONE) -> list[Finding]:
        """Answer in one finding."""
        players = _players(subject)
        assert isinstance(players, Players)  # else `need` skips
        masker = _masker(subject)
        if _is_exact(players):
            n = min(EXACT_SAMPLES["full"], len(subject), budget // (2**players.count + 1))
            part = subject.take(draw(subject, n, rng=rng.child("samples")))
            return [self._finding(part, players, _exact(part, masker, rng, work), rng)]
        most = min(FULL.samples, len(subject))
        settings = fit_bottleneck(players, budget - most, samples=len(subject))
        if settings is None:
            return [self._fallback(subject, masker, players, budget, rng, work)]
        part = subject.take(draw(subject, settings.samples, rng=rng.child("samples")))
        result = bottleneck(
            part.model,
            part.inputs,
            _classes(part),
            masker,
            settings=settings,
            rng=rng.child("spectrum").at(part.ids),
            work=work,
        )
        return [self._finding(part, players, _sampled(part, result, settings.contexts), rng)]

    def _finding(self, subject: Subject, players: Players, s: _Spectrum, rng: Stream) -> Finding:
        reading = _read(s)
        judged = _levels.bottleneck(reading.found, reading.why)
        return Finding(
            probe=self.name,
            name="bottleneck",
            question=self.question,
            answer=_answer(s, reading),
            measure=_center(s, rng.child("center")),
            level=judged.level,
            reason=judged.reason,
            advice=_advice(reading),
            measures=tuple(_measures(s, reading)),
            exhibits=(*_exhibits(s, players), *omega_curves(subject)),
            provenance=Provenance(
                seed=0,
                evaluations=s.evaluations + _looked(subject),
                sample_ids=ids_of(subject),
                settings={
                    "players": players_in_words(subject, players),
                    "absent players": absence_in_words(subject),
                    "value": value_in_words(subject),
                    "method": s.method,
                    "normalize": "mean over the measured orders",
                    "interval": "bootstrap over samples, 1000 draws, 95%",
                },
            ),
            references=("arXiv:2111.06236",),
            cautions=ORDER_CAUTIONS,
        )

    def _fallback(
        self, subject: Subject, masker: Masker, players: Players, budget: int, rng: Stream, work: Work
    ) -> Finding:
        n = min(FALLBACK_SAMPLES, len(subject), budget // _fallback_cost(players.count))
        part = subject.take(draw(subject, n, rng=rng.child("samples")))
        permutations = max(
            count
            for count in range(FALLBACK_PERMUTATIONS, FALLBACK_MOST + 1)
            if n * _fallback_cost(players.count, count) <= budget
        )
        curve = signed_order_curve(
            part.model,
            part.inputs,
            _classes(part),
            masker,
            permutations=permutations,
            bins=FALLBACK_BINS,
            rng=rng.child("signed").at(part.ids),
            work=work,
        )
        needed = _spectrum_cost(players, subject, QUICK)
        return signed_finding(
            self.name,
            self.question,
            part,
            players,
            curve,
            needed=needed,
            looked=_looked(part),
            rng=rng.child("interval"),
        )


# -- what it costs ------------------------------------------------------------------------------------------------


def _players(subject: Subject) -> Players | str:
    """Return the players of the first input, or why there are none."""
    if is_image(subject):
        height, width = subject.inputs.shape[2:]
        if height * width < 4:
            return f"images of {height} x {width} pixels have too few parts to combine"
        return _masker(subject)(subject.inputs[0])
    if subject.inputs.ndim != 2:
        return f"inputs of shape {tuple(subject.inputs.shape[1:])} are neither images nor rows of a table"
    n = len(feature_players(subject))
    kinds = kind_of_players(subject)
    if n < 4:
        return f"{count(n, 'feature', kinds)} make too few orders to compare; at least 4 are needed"
    if n > MOST_FEATURES:
        return f"{n} {kinds} are too many players; choose or group them to at most {MOST_FEATURES}"
    return _masker(subject)(subject.inputs[0])


def _masker(subject: Subject) -> Masker:
    if not is_image(subject):
        return features(subject)
    height, width = subject.inputs.shape[2:]
    side = FINE if is_large(subject) else COARSE
    return cells(subject, (min(side, height), min(side, width)))


def _is_exact(players: Players) -> bool:
    return players.grid is None and players.count <= MOST_EXACT


def _spectrum_cost(players: Players, subject: Subject, settings: SpectrumSettings) -> int:
    """Return the evaluations of the quick or full spectrum, with one look at each sample's answer."""
    fitted = fit_bottleneck(players, 10**12, samples=len(subject), most=settings)
    assert fitted is not None  # that budget pays for everything
    return cost_bottleneck(players, fitted) + min(FULL.samples, len(subject))


def _fallback_cost(n_players: int, permutations: int = FALLBACK_PERMUTATIONS) -> int:
    """Return the evaluations of the signed curve of one sample, with one look at its answer."""
    return cost_signed_order_curve(n_players, samples=1, permutations=permutations, bins=FALLBACK_BINS) + 1


def _classes(subject: Subject) -> Tensor:
    return answers(subject) if subject.labels is None else subject.labels


def _looked(subject: Subject) -> int:
    return len(subject) if subject.labels is None else 0


# -- the spectrum -------------------------------------------------------------------------------------------------


def _sampled(subject: Subject, result: BottleneckSpectrum, contexts: int) -> _Spectrum:
    pairs = result.pairs.shape[1]
    return _Spectrum(
        ratios=result.ratios,
        strength=result.strength,
        low=result.low,
        high=result.high,
        floor=result.floor,
        relative=result.relative,
        relative_low=result.relative_low,
        relative_high=result.relative_high,
        per_sample=result.per_sample,
        evaluations=result.evaluations,
        method=f"{pairs} neighboring pairs per sample, {contexts} shared contexts per pair and order",
        maps=_maps(subject, result),
    )


def _exact(subject: Subject, masker: Masker, rng: Stream, work: Work) -> _Spectrum:
    """Measure every pair in every context, from the whole table of each sample's game."""
    classes = _classes(subject)

    def compute(rows: Tensor, on_step: OnStep) -> dict[str, Tensor]:
        k = int(rows)  # one sample is one chunk
        game = ModelGame(subject.model, subject.inputs[k], masker, log_odds(int(classes[k])))
        worth = table(game, on_step=on_step)
        measured = pair_interactions(worth)
        # Four values of deviation d, half a unit in the last place, differ by sqrt(2 / pi) * 2 d without interaction.
        rounding = (2 / math.pi) ** 0.5 * torch.finfo(game.dtype).eps * float(worth.abs().max())
        found = measured.values.abs().mean(0)
        strength = torch.where(found >= _levels.FLOORS_NEEDED * rounding, found, 0.0)
        return {"strength": strength[None], "pairs": measured.pairs[None], "every": measured.values[None]}

    measured = work.map("bottleneck", subject.ids, compute, chunk=1, key="exact")
    values, spent = measured["strength"], len(subject) * 2 ** masker(subject.inputs[0]).count
    orders = values.shape[1]
    ratios = torch.arange(orders, dtype=torch.float64) / max(1, orders - 1)
    strength = bootstrap(values, rng=rng.child("strength"))
    relative = bootstrap(values, rng=rng.child("strength"), statistic=lambda rows: rows.mean(0) / rows.mean())
    names = player_names(subject, None, 0)
    return _Spectrum(
        ratios=ratios,
        strength=strength.value,
        low=strength.low,
        high=strength.high,
        floor=torch.zeros(orders, dtype=torch.float64),
        relative=relative.value,
        relative_low=relative.low,
        relative_high=relative.high,
        per_sample=values,
        evaluations=spent,
        method="exact: every pair in every context; a strength within rounding counts as 0",
        maps=pair_exhibits(names, measured["pairs"], measured["every"], ratios) if bool(values.any()) else (),
    )


def _read(s: _Spectrum) -> _Reading:
    """Apply the rule: the middle below half of both ends, intervals apart, nothing lost in the noise floor."""
    inside = ((s.ratios >= MIDDLE[0] - 1e-9) & (s.ratios <= MIDDLE[1] + 1e-9)).nonzero()[:, 0]
    ends = torch.tensor([0, len(s.ratios) - 1])
    middle = int(inside[s.strength[inside].argmin()]) if len(inside) else len(s.ratios) // 2
    weaker = float(s.strength[ends].min())
    depth = float(s.strength[middle]) / weaker if weaker > 0 else math.nan
    if not float(s.strength.max()) > 0:
        return _Reading(False, middle, math.nan, "The model uses no pair interactions, so there is nothing to compare.")
    compared = torch.cat([ends, torch.tensor([middle])])
    lost = s.strength[compared] < _levels.FLOORS_NEEDED * s.floor[compared]
    if bool(lost.any()):
        where = ", ".join(f"{float(r):.0%}" for r in s.ratios[compared[lost]])
        return _Reading(
            None,
            middle,
            depth,
            f"At {where} of the other parts present the strength is below {_levels.FLOORS_NEEDED:g} times the noise "
            "floor: with so few contexts it cannot be told from noise, and no conclusion is drawn.",
            "The weakest of these are too close to the noise floor for a conclusion.",
        )
    rule = (
        f"The rule: weakest between {MIDDLE[0]:.0%} and {MIDDLE[1]:.0%} of the other parts, below "
        f"{_levels.DEPTH_OF_BOTTLENECK:g} times both ends, intervals apart, above the noise floor."
    )
    deep = depth < _levels.DEPTH_OF_BOTTLENECK
    shallow = f"The middle is {brief(depth)} times the weaker end"
    if deep and not bool((s.high[middle] < s.low[ends]).all()):
        known = bool(s.low[compared].isfinite().all())
        trouble = "their intervals overlap" if known else "one sample gives no intervals"
        doubt = f"That looks like a bottleneck, but {trouble}, so more samples must decide."
        return _Reading(None, middle, depth, f"{shallow}, but {trouble}. {rule}", doubt)
    if len(s.per_sample) < FEWEST:
        few = count(len(s.per_sample), "sample")
        return _Reading(None, middle, depth, f"{shallow}, on {few} only. {rule}", f"{few} cannot speak for the model.")
    return _Reading(deep, middle, depth, f"{shallow}. {rule}")


# -- words --------------------------------------------------------------------------------------------------------


def _answer(s: _Spectrum, reading: _Reading) -> str:
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
        return f"{shape} {reading.doubt}"
    if reading.found:
        return (
            "The model combines parts in very small and in nearly complete contexts and hardly in between: a "
            f"bottleneck. {shape}"
        )
    strongest = float(s.ratios[int(s.relative.argmax())])
    side = "simple contexts" if strongest < MIDDLE[0] else "nearly complete contexts"
    lead = "contexts of middle size" if MIDDLE[0] <= strongest <= MIDDLE[1] else side
    return f"The model combines parts most in {lead}; there is no bottleneck between. {shape}"


def _advice(reading: _Reading) -> Advice | None:
    if reading.found is None:
        return Advice(
            text="Spend more evaluations on this question alone: more samples narrow the intervals, and more contexts "
            "lower the noise floor.",
            command="pellucid audit MODEL DATA --probe bottleneck --budget 1000000",
        )
    if reading.found:
        return Advice(
            text="A bottleneck is usual in trained networks. Compare it with a model trained otherwise: reliance on "
            "few parts goes along with robustness, reliance on complete contexts with the layout of the object.",
            command="pellucid compare RUN_A RUN_B",
        )
    return None


# -- numbers and pictures -----------------------------------------------------------------------------------------


def _center(s: _Spectrum, rng: Stream) -> Measure:
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


def _measures(s: _Spectrum, reading: _Reading) -> list[Measure]:
    measures = [
        Measure(
            name="bottleneck_depth",
            label="weakest middle strength over the weaker end's",
            value=number(reading.depth),
            usual="below 0.5 is a bottleneck",
        )
    ]
    for k, ratio in enumerate(s.ratios.tolist()):
        measures.append(
            Measure(
                name=f"interaction_strength[{ratio:.2f}]",
                label=f"interaction strength with {ratio:.0%} of the other parts present",
                value=number(s.strength[k]),
                low=number(s.low[k]),
                high=number(s.high[k]),
                unit="log odds",
                samples=numbers(s.per_sample[:, k]),
            )
        )
    return measures


def _exhibits(s: _Spectrum, players: Players) -> tuple[Exhibit, ...]:
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
    if mean > 0:
        relative.append(theory_line(s.ratios, s.relative, players.count))
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
            "Inside the band a value cannot be told from sampling noise. The theory curve is an idealization: how "
            "strongly each order would be learned if different contexts pulled independently.",
        ),
        Curve(
            title="Interaction strength by order",
            x=axis,
            y=Axis("mean |interaction|", "log odds"),
            lines=tuple(strength),
            caption="The same without normalization: this is the one to compare between models.",
        ),
        *s.maps,
    )


def _maps(subject: Subject, result: BottleneckSpectrum) -> tuple[Exhibit, ...]:
    """Return where interactions are strong: on the grid for contexts of three sizes, or by pairs of features."""
    if result.grid is None:
        names = player_names(subject, None, result.n_players)
        return pair_exhibits(names, result.pairs, result.interactions, result.ratios)
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
            unit="log odds",
            caption="Mean strength of the measured pairs that each cell is part of, over all samples.",
        )
        for order in sorted(set(chosen))
    )
    return (*heat, *pairs_on_images(subject, result))
