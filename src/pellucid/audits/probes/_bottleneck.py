"""Does the model combine input parts in simple, middle or complex contexts?"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import final

import torch
from torch import Tensor

from pellucid.core import (
    ALONE,
    Effort,
    Finding,
    Masker,
    Need,
    PellucidError,
    Players,
    Provenance,
    Stream,
    Subject,
    Work,
    bootstrap,
    nearest,
)
from pellucid.explain import (
    FULL,
    OFFICIAL,
    QUICK,
    SpectrumSettings,
    bottleneck,
    cost_bottleneck,
    cost_signed_order_curve,
    exact_bottleneck,
    fit_bottleneck,
    signed_order_curve,
)
from pellucid.games import VALUES, ValueOf

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
    is_text,
    kind_of_players,
    player_names,
    players_in_words,
    value_in_words,
)
from .._samples import draw, ids_of
from .._wording import count
from ._order_exhibits import omega_curves
from ._pairs import pair_exhibits
from ._signed_orders import ORDER_CAUTIONS, signed_finding
from ._spectra import FEWEST, Spectrum, advice_on, center, exhibits, in_words, judged, maps, measures
from ._structure import cost_structure, structure_finding

PRESETS = {"quick": QUICK, "full": FULL, "official": OFFICIAL}
UNITS = {"log_odds": "log odds", "log_probability": "log probability", "logit": "logit"}
"""Values of the authors' code, and their units."""

COARSE, FINE = 8, 16
"""Cells per side for images up to 64 pixels, and above."""

EXACT_SAMPLES = {"quick": 16, "full": 32}
FALLBACK_SAMPLES, FALLBACK_LEAST, FALLBACK_BINS = 16, 4, 10
FALLBACK_PERMUTATIONS, FALLBACK_MOST = 20, 100
MOST_FEATURES = 256


@final
@dataclass(frozen=True)
class Bottleneck:
    """The order spectrum with its noise floor; the signed size curve where the budget does not reach.

    Args:
        settings: "quick", "full" or "official" (the authors' measurement, 44 million evaluations), or
            `explain.SpectrumSettings`: measured whole or not at all. "auto": the richest that the budget pays, up to
            "full". A table of few features is measured exactly; the settings then choose the samples alone.
        grid: cells per side, or 3x4 rows and columns. If not given, 8 for images up to 64 pixels and 16 above, and 16
            for "official".
        normalize: what the relative strength divides by: "measured", the mean over the measured orders, or "uniform",
            over the range of orders. If not given, as the settings say.
        only_correct: leave out samples that the model classifies wrongly. If not given, as the settings say.
        value: the score that is explained: log_odds, log_probability or logit of the class.

    Raises:
        ValueError: a setting that is none of these.
    """

    name: str = field(default="bottleneck", repr=False)
    question: str = field(
        default="Does the model combine input parts in simple, middle or complex contexts?", repr=False
    )
    settings: str | SpectrumSettings = field(default="auto", kw_only=True)
    grid: int | tuple[int, int] | None = field(default=None, kw_only=True)
    normalize: str | None = field(default=None, kw_only=True)
    only_correct: bool | None = field(default=None, kw_only=True)
    value: str = field(default="log_odds", kw_only=True)

    def __post_init__(self) -> None:
        if isinstance(self.settings, str):
            _one_of("settings", self.settings, ("auto", *PRESETS))
        if self.normalize is not None:
            _one_of("normalize", self.normalize, ("measured", "uniform"))
        _one_of("value", self.value, tuple(UNITS))
        sides = self.grid if isinstance(self.grid, tuple) else (self.grid,)
        if any(side is not None and side < 2 for side in sides):
            raise ValueError(f"grid must have at least 2 cells per side, got {self.grid}")

    def need(self, subject: Subject, *, effort: Effort) -> Need:
        """The spectrum for what is wanted; the signed size curve for the least."""
        players = self._players(subject)
        if isinstance(players, str):
            return Need(0, 0, skip=players)
        total = len(subject)
        beside = cost_structure(subject, effort)
        if _is_exact(players):
            one = 2**players.count + 1
            n = min(EXACT_SAMPLES[effort] if self.settings == "auto" else self._most.samples, total)
            return Need(
                min(FALLBACK_LEAST, total) * one,
                n * one,
                memory=8 * 8 * 2**players.count,
                remark=f"measures fewer than {n} samples",
            )
        if self.settings != "auto":
            whole = self._cost(players, subject, self._most)
            return Need(whole, whole + beside, memory=64 * 2**20, remark="the structure test is left out")
        least = min(FALLBACK_LEAST, total) * _fallback_cost(players.count)
        first = self._cost(players, subject, self._with(QUICK))
        if effort == "quick":
            each, n = (FALLBACK_PERMUTATIONS, FEWEST) if is_large(subject) else (FALLBACK_MOST, FALLBACK_SAMPLES)
            look = min(n, total) * _fallback_cost(players.count, each)
            wanted, remark = max(least, min(first, look)), f"the signed size curve; the spectrum needs {first:,}"
        else:
            wanted = max(least, self._cost(players, subject, self._most))
            remark = f"fewer samples, pairs or contexts; below {first:,} the signed size curve stands in"
        return Need(least, wanted + beside, memory=64 * 2**20, remark=remark)

    def __call__(self, subject: Subject, budget: int, rng: Stream, *, work: Work = ALONE) -> list[Finding]:
        """Answer in one finding, and in a second one what a kept layout is worth to the model."""
        players = self._players(subject)
        assert isinstance(players, Players)  # else `need` skips
        masker = self._masker(subject)
        found = [self._order_finding(subject, players, masker, budget, rng, work)]
        left = budget - found[0].provenance.evaluations
        if structure := structure_finding(self.name, subject, masker, left, rng.child("structure"), work):
            found.append(structure)
        return found

    def _order_finding(
        self, subject: Subject, players: Players, masker: Masker, budget: int, rng: Stream, work: Work
    ) -> Finding:
        if _is_exact(players):
            n = min(self._most.samples, len(subject), budget // (2**players.count + 1))
            part, dropped = self._drawn(subject, n, rng)
            return self._finding(part, players, self._exact(part, masker, rng, work), dropped, rng)
        looks = min(self._most.samples, len(subject))
        fitted: SpectrumSettings | None = self._most
        if self.settings == "auto":
            fitted = fit_bottleneck(players, budget - looks, samples=len(subject), most=self._most)
        if fitted is None:
            return self._fallback(subject, masker, players, budget, rng, work)
        part, dropped = self._drawn(subject, min(fitted.samples, len(subject)), rng)
        return self._finding(part, players, self._sampled(part, masker, fitted, rng, work), dropped, rng)

    def _drawn(self, subject: Subject, n: int, rng: Stream) -> tuple[Subject, int]:
        """Return the samples to measure, and how many were left out because the model classifies them wrongly."""
        part = subject.take(draw(subject, n, rng=rng.child("samples")))
        if not self._most.only_correct or part.labels is None:
            return part, 0
        right = (answers(part) == part.labels).nonzero()[:, 0]
        if not len(right):
            raise PellucidError(
                f"the model classifies none of the {count(n, 'sample')} correctly; --set "
                "bottleneck.only_correct=false takes wrong ones too"
            )
        return part.take(right), n - len(right)

    # -- what is measured -------------------------------------------------------------------------------------------

    @property
    def _most(self) -> SpectrumSettings:
        """The richest settings that are wanted."""
        chosen = FULL if self.settings == "auto" else self.settings
        return self._with(PRESETS[chosen] if isinstance(chosen, str) else chosen)

    def _with(self, settings: SpectrumSettings) -> SpectrumSettings:
        if self.normalize is not None:
            settings = replace(settings, normalize=self.normalize)  # type: ignore[arg-type]
        if self.only_correct is not None:
            settings = replace(settings, only_correct=self.only_correct)
        return settings

    @property
    def _value(self) -> ValueOf:
        return VALUES[self.value]

    def _players(self, subject: Subject) -> Players | str:
        """Return the players of the first input, or why there are none."""
        if is_image(subject):
            height, width = subject.inputs.shape[2:]
            if height * width < 4:
                return f"images of {height} x {width} pixels have too few parts to combine"
            rows, columns = self._cells(subject)
            if rows > height or columns > width:
                return f"images of {height} x {width} pixels are smaller than the grid of {rows} x {columns} cells"
            return self._masker(subject)(subject.inputs[0])
        if is_text(subject):
            return "compares orders over the same players in every input, and texts have their own words each"
        if subject.inputs.ndim != 2:
            return f"inputs of shape {tuple(subject.inputs.shape[1:])} are neither images nor rows of a table"
        n = len(feature_players(subject))
        kinds = kind_of_players(subject)
        if n < 4:
            return f"{count(n, 'feature', kinds)} make too few orders to compare; at least 4 are needed"
        if n > MOST_FEATURES:
            return f"{n} {kinds} are too many players; choose or group them to at most {MOST_FEATURES}"
        return self._masker(subject)(subject.inputs[0])

    def _cells(self, subject: Subject) -> tuple[int, int]:
        """Return rows and columns: those that were asked for, else the settings', else as the images' size wants."""
        height, width = subject.inputs.shape[2:]
        asked = self.grid if self.grid is not None else self._most.grid
        if asked is None:
            side = FINE if is_large(subject) else COARSE
            return min(side, height), min(side, width)
        return asked if isinstance(asked, tuple) else (asked, asked)

    def _masker(self, subject: Subject) -> Masker:
        return cells(subject, self._cells(subject)) if is_image(subject) else features(subject)

    def _cost(self, players: Players, subject: Subject, settings: SpectrumSettings) -> int:
        """Return the evaluations of a whole spectrum, with one look at each sample's answer."""
        samples = min(settings.samples, len(subject))
        return cost_bottleneck(players, replace(settings, samples=samples)) + samples

    def _sampled(
        self, subject: Subject, masker: Masker, settings: SpectrumSettings, rng: Stream, work: Work
    ) -> Spectrum:
        result = bottleneck(
            subject.model,
            subject.inputs,
            _classes(subject),
            masker,
            settings=replace(settings, only_correct=False),  # done
            value=self._value,
            rng=rng.child("spectrum").at(subject.ids),
            work=work,
        )
        pairs, unit = result.pairs.shape[1], UNITS[self.value]
        sharing = "shared contexts" if settings.pairs is None else "contexts of its own"
        return Spectrum(
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
            method=f"{pairs} neighboring pairs per sample, {settings.contexts} {sharing} per pair and order",
            unit=unit,
            normalize=result.normalize,
            effective=result.effective_players(),
            maps=maps(subject, result, unit),
            contexts=settings.contexts,
        )

    def _exact(self, subject: Subject, masker: Masker, rng: Stream, work: Work) -> Spectrum:
        """Measure every pair in every context, from the whole table of each sample's game."""
        chosen = self._most
        result = exact_bottleneck(
            subject.model,
            subject.inputs,
            _classes(subject),
            masker,
            normalize=chosen.normalize,
            value=self._value,
            rng=rng.child("spectrum").at(subject.ids),
            work=work,
        )
        # Rounding is no interaction: without this an additive model would have a spectrum of rounding errors.
        found = result.per_sample
        values = torch.where(found >= _levels.FLOORS_NEEDED * result.floor_per_sample, found, 0.0)
        weights = result.weights
        strength = bootstrap(values, rng=rng.child("strength"))
        relative = bootstrap(
            values, rng=rng.child("strength"), statistic=lambda rows: rows.mean(0) / (rows.mean(0) * weights).sum()
        )
        unit, names = UNITS[self.value], player_names(subject, None, 0)
        shown = pair_exhibits(names, result.pairs, result.interactions, result.ratios, unit=unit)
        return Spectrum(
            ratios=result.ratios,
            strength=strength.value,
            low=strength.low,
            high=strength.high,
            floor=torch.zeros_like(result.floor),
            relative=relative.value,
            relative_low=relative.low,
            relative_high=relative.high,
            per_sample=values,
            evaluations=result.evaluations,
            method="exact: every pair in every context; a strength within rounding counts as 0",
            unit=unit,
            normalize=chosen.normalize,
            effective=result.effective_players() if bool(values.any()) else None,
            maps=shown if bool(values.any()) else (),
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
            value=self._value,
            permutations=permutations,
            bins=FALLBACK_BINS,
            rng=rng.child("signed").at(part.ids),
            work=work,
        )
        return signed_finding(
            self.name,
            self.question,
            part,
            players,
            curve,
            unit=UNITS[self.value],
            needed=self._cost(players, subject, self._with(QUICK)),
            looked=_looked(part),
            rng=rng.child("interval"),
        )

    def _finding(self, subject: Subject, players: Players, s: Spectrum, dropped: int, rng: Stream) -> Finding:
        reading = judged(s, rng.child("depth"))
        level = _levels.bottleneck(reading.found, reading.why)
        chosen = self._most.only_correct and subject.labels is not None
        left_out = f" Of {len(subject) + dropped} samples {dropped} were left out: the model classifies them wrongly."
        return Finding(
            probe=self.name,
            name="bottleneck",
            question=self.question,
            answer=in_words(s, reading) + (left_out if chosen else ""),
            measure=center(s, rng.child("center")),
            level=level.level,
            reason=level.reason,
            advice=advice_on(subject, reading),
            measures=tuple(measures(s, reading)),
            exhibits=(*exhibits(s, players), *omega_curves(subject)),
            provenance=Provenance(
                seed=0,
                evaluations=s.evaluations + _looked(subject) + (len(subject) + dropped if chosen else 0),
                sample_ids=ids_of(subject),
                settings={
                    "players": players_in_words(subject, players),
                    "absent players": absence_in_words(subject),
                    "value": value_in_words(subject, UNITS[self.value]),
                    "method": s.method,
                    "normalize": "mean over the measured orders"
                    if s.normalize == "measured"
                    else "mean over the range of orders, by the trapezoid rule",
                    "interval": "bootstrap over samples, 1000 draws, 95%",
                    "samples": f"{len(subject)}, correctly classified ones only" if chosen else len(subject),
                },
            ),
            references=("arXiv:2111.06236",),
            cautions=ORDER_CAUTIONS,
        )


def _one_of(setting: str, given: str, known: tuple[str, ...]) -> None:
    if given not in known:
        raise ValueError(f"there is no {setting} {given!r}; {nearest(given, known)}known are {', '.join(known)}")


def _is_exact(players: Players) -> bool:
    return players.grid is None and players.count <= MOST_EXACT


def _fallback_cost(n_players: int, permutations: int = FALLBACK_PERMUTATIONS) -> int:
    """Return the evaluations of the signed curve of one sample, with one look at its answer."""
    return cost_signed_order_curve(n_players, samples=1, permutations=permutations, bins=FALLBACK_BINS) + 1


def _classes(subject: Subject) -> Tensor:
    return answers(subject) if subject.labels is None else subject.labels


def _looked(subject: Subject) -> int:
    return len(subject) if subject.labels is None else 0
