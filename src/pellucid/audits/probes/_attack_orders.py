"""Through interactions of how many input parts does an attack act?"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple, final

import torch
from torch import Tensor

from pellucid.attacks import BALLS, PGD
from pellucid.core import (
    ALONE,
    Advice,
    Effort,
    Finding,
    Interval,
    Masker,
    Measure,
    Need,
    OnStep,
    Provenance,
    Space,
    Stream,
    Subject,
    Table,
    Work,
    bootstrap,
    nearest,
    number,
    numbers,
)
from pellucid.explain import (
    AttackOrders,
    AttackPairs,
    CorrectionRate,
    attack_orders,
    correction_rate,
    cost_attack_orders,
    cost_order_detector,
    order_detector,
    orders_of,
    recoverability,
)
from pellucid.metrics import attacked

from .._batches import forwards, kept
from .._players import (
    absence_in_words,
    cells,
    feature_players,
    features,
    is_image,
    is_large,
    players_in_words,
    spread,
    usual_in_words,
)
from .._samples import draw, ids_of
from .._wording import brief, count, in_percent, percent
from ._accuracy import NO_LABELS
from ._attack_order_exhibits import Parts, exhibits

STEPS = 20
GRID = 8
MOST_PLAYERS = 256
FEWEST = 8
"""Samples below which the parts of a drop are not told."""

TRIED = 4
"""Samples that are attacked for each one that is taken apart: wrong answers and attacks that fail are passed over."""

LOW, HIGH = 0.3, 0.7
"""Shares of the other parts present between which a context is neither small nor large."""

ALPHAS = (None, 0.1, 0.2, 0.3)
DETECTOR_RATIOS = (0.3, 0.7, 0.9, 1.0)
PAIR_RATIOS = (0.2, 0.5, 0.7, 0.9)
DEFAULT = {"bounded": ("linf", 8 / 255), "table": ("linf", 0.1), "free": ("linf", 0.1)}


class _Rung(NamedTuple):
    samples: int
    chains: int
    pairs: int
    contexts: int

    def settings(self, players: int) -> AttackPairs | None:
        """Return which pairs to measure: none of the first or last order, whose one context agrees with itself."""
        inner = tuple(r for r in PAIR_RATIOS if 0 < orders_of(players, (r,))[0] < players - 2)
        return AttackPairs(self.pairs, self.contexts, ratios=inner) if inner else None


LADDER = (_Rung(8, 12, 2, 8), _Rung(12, 24, 4, 12), _Rung(16, 32, 6, 16), _Rung(24, 64, 8, 16), _Rung(32, 100, 8, 24))
QUICK = 2
"""How many rungs of the ladder a quick audit climbs beyond the first."""


@final
@dataclass(frozen=True)
class AttackOrderings:
    """The drop of the score under PGD, taken apart by interaction order, and what known defences do against it.

    Args:
        attack: norm and radius, such as linf:8/255 or l2:0.5, in the unit of the inputs (of tables: in standard
            deviations). If not given, linf with 8/255 of the range of images, a tenth of a deviation elsewhere.
        grid: cells per side of the players of images.
        samples: samples to take apart, at least 8. If not given, as many as the budget pays, up to 32.

    Raises:
        ValueError: a setting that is none of these.
    """

    name: str = field(default="attack-orders", repr=False)
    question: str = field(default="Through interactions of how many input parts does an attack act?", repr=False)
    attack: str = field(default="", kw_only=True)
    grid: int = field(default=GRID, kw_only=True)
    samples: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.attack:
            _read(self.attack)
        if self.grid < 2:
            raise ValueError(f"grid must have at least 2 cells per side, got {self.grid}")
        if self.samples is not None and self.samples < FEWEST:
            raise ValueError(f"samples must be at least {FEWEST}, got {self.samples}")

    def need(self, subject: Subject, *, effort: Effort) -> Need:
        """An attack on four times as many samples as are taken apart."""
        if subject.labels is None:
            return Need(0, 0, skip=NO_LABELS)
        if not subject.differentiable:
            return Need(0, 0, skip=f"needs gradients, and {subject.name} gives none")
        if subject.modality not in ("image", "tabular") or (subject.modality == "image" and not is_image(subject)):
            return Need(0, 0, skip=f"takes attacks on images and tables apart, not on inputs of {subject.modality}")
        if len(subject) < FEWEST:
            return Need(0, 0, skip=f"needs at least {FEWEST} samples, got {len(subject)}")
        players = self._players(subject)
        if not 2 <= players <= MOST_PLAYERS:
            return Need(0, 0, skip=f"needs 2 to {MOST_PLAYERS} players, and {subject.data_name} has {players}")
        if is_image(subject) and self.grid > min(subject.inputs.shape[2:]):
            return Need(0, 0, skip=f"the images are smaller than the grid of {self.grid} x {self.grid} cells")
        if not is_image(subject) and not bool((spread(subject) > 0).any()):
            return Need(0, 0, skip="all inputs are the same: there is no scale to choose a radius from")
        rungs = self._rungs(subject)
        top = rungs[min(QUICK, len(rungs) - 1)] if effort == "quick" else rungs[-1]
        return Need(
            self._cost(subject, rungs[0]),
            self._cost(subject, top),
            memory=4 * 64 * 16 * subject.inputs[0].numel(),
            remark=f"takes fewer than {top.samples} samples apart, with more sampling noise"
            if rungs[0].samples < top.samples
            else "draws fewer chains: more sampling noise",
        )

    def _players(self, subject: Subject) -> int:
        return self.grid**2 if is_image(subject) else len(feature_players(subject))

    def _rungs(self, subject: Subject) -> list[_Rung]:
        """Return what may be measured, from the least to the most; large images take fewer chains."""
        ladder: tuple[_Rung, ...] = LADDER[:2] if is_large(subject) else LADDER
        if self.samples is not None:
            ladder = tuple(rung._replace(samples=self.samples) for rung in ladder)
        return [rung._replace(samples=min(rung.samples, len(subject))) for rung in ladder]

    def _cost(self, subject: Subject, rung: _Rung) -> int:
        """Return the most evaluations of a rung."""
        n, m, tried = self._players(subject), rung.samples, self._tried(subject, rung)
        attack = PGD(_space(subject, self.attack), steps=STEPS).cost
        apart = cost_attack_orders(n, samples=m, chains=rung.chains, pairs=rung.settings(n))
        spotting = cost_order_detector(n, samples=m, ratios=DETECTOR_RATIOS, contexts=1)
        corrections = 2 * m * len(ALPHAS) if is_image(subject) else 0
        return 1 + tried * (1 + attack) + apart + spotting + corrections + m * attack

    def _tried(self, subject: Subject, rung: _Rung) -> int:
        return min(len(subject), TRIED * rung.samples)

    def __call__(self, subject: Subject, budget: int, rng: Stream, *, work: Work = ALONE) -> list[Finding]:
        """Answer in one finding."""
        rungs = self._rungs(subject)
        rung = max((r for r in rungs if self._cost(subject, r) <= budget), key=rungs.index, default=rungs[0])
        tried = subject.take(draw(subject, self._tried(subject, rung), rng=rng.child("samples")))
        assert tried.labels is not None
        attack = PGD(_space(subject, self.attack), steps=STEPS)
        x_adv, right, fooled, spent = _attacked(tried, attack, kept(subject), rng, work.part(0.0, 0.2))
        usable = (right & fooled).nonzero()[:, 0]
        counts = _Counts(len(tried), int((~right).sum()), int((right & ~fooled).sum()))
        if len(usable) < FEWEST:
            work.on_step(1, 1)
            return [self._too_few(tried, attack, counts, len(usable), spent)]
        rows = draw(tried, rung.samples, rng=rng.child("usable"), among=usable)
        part = tried.take(rows)
        parts = self._measured(part, x_adv[rows], attack, rung, rng, work.part(0.2, 0.99))
        work.on_step(1, 1)
        return [self._finding(part, parts, attack, counts, spent, rng.child("intervals"))]

    # -- numbers --------------------------------------------------------------------------------------------------

    def _masker(self, subject: Subject) -> Masker:
        return cells(subject, (self.grid, self.grid)) if is_image(subject) else features(subject)

    def _measured(self, subject: Subject, x_adv: Tensor, attack: PGD, rung: _Rung, rng: Stream, work: Work) -> Parts:
        assert subject.labels is not None
        x, y, masker, bound = subject.inputs, subject.labels, self._masker(subject), rng.at(subject.ids)
        orders = attack_orders(
            subject.model,
            x,
            x_adv,
            y,
            masker,
            chains=rung.chains,
            pairs=rung.settings(self._players(subject)),
            bounds=None,  # the attack keeps them; features of tables have none
            rng=bound,
            work=work.part(0.0, 0.8),
        )
        spotted = order_detector(
            subject.model,
            x,
            x_adv,
            masker,
            ratios=DETECTOR_RATIOS,
            contexts=1,
            bounds=None,
            rng=bound,
            work=work.part(0.8, 0.95),
        )
        work.need_all("what known defences do")
        recovered = recoverability(subject.model, x, x_adv, y, attack, rng=bound)
        corrected: tuple[CorrectionRate, ...] = ()
        if is_image(subject):
            corrected = tuple(correction_rate(subject.model, x_adv, y, alpha=a, x=x, rng=bound) for a in ALPHAS)
        return Parts(orders, spotted, recovered, corrected)

    # -- findings -------------------------------------------------------------------------------------------------

    def _finding(
        self, subject: Subject, parts: Parts, attack: PGD, counts: _Counts, spent: int, rng: Stream
    ) -> Finding:
        orders = parts.orders
        drops = _drops(orders, rng)
        high, chains = drops["high"], int(orders.chains.max())
        settings = self._settings(subject, attack) | {
            "value": "log probability of the true class",
            "orders": f"{len(orders.edges) - 1} ranges, "
            + (f"{chains} chains of nested coalitions per sample" if chains else "every coalition evaluated"),
            "interval": "bootstrap over samples, 1000 draws, 95%",
        }
        return Finding(
            probe=self.name,
            name="attack-orders",
            question=self.question,
            answer=_answer(subject, orders, drops, _acts(orders, rng), self._text(subject)),
            measure=Measure(
                name="high_order_drop",
                label=f"part of the drop by interactions with at least {HIGH:.0%} of the other parts present",
                value=in_percent(high.value),
                low=in_percent(high.low),
                high=in_percent(high.high),
                unit="%",
            ),
            level="noted",
            reason="Which orders an attack acts through is neither good nor bad by itself: compare a model with one "
            "that was trained against attacks.",
            advice=Advice(
                text="Audit a model trained against attacks in the same way, and compare the two.",
                command="pellucid compare NORMAL ROBUST",
            ),
            measures=tuple(_measures(parts, drops, rng)),
            exhibits=exhibits(subject, parts, self._masker(subject)(subject.inputs[0]), high=HIGH),
            provenance=Provenance(
                seed=0,
                evaluations=spent + parts.evaluations,
                sample_ids=ids_of(subject),
                settings=settings,
            ),
            references=("arXiv:2111.03536",),
            cautions=(
                *_cautions(subject, counts, len(subject)),
                *(_CLOSURE,) * (orders.closure_error > 1e-4 * float(orders.total.abs().mean())),
            ),
        )

    def _too_few(self, subject: Subject, attack: PGD, counts: _Counts, usable: int, spent: int) -> Finding:
        enough = counts.right >= FEWEST
        norm, radius = _radius(subject, self.attack)
        larger = f"--set attack-orders.attack={norm}:{2 * radius:.3g}"
        why = (
            f"the attack within {self._text(subject)} turns {usable} of {counts.right} right answers wrong, and at "
            f"least {FEWEST} are needed to say through which interactions it acts: audit this model, and any you "
            f"compare it with, at a larger radius, such as {larger}."
            if enough
            else f"the model gets {counts.right} of {count(counts.tried, 'sample')} right without any attack; at least "
            f"{FEWEST} that an attack then turns wrong are needed to say through which interactions it acts."
        )
        rows = (("tried", counts.tried), ("wrong without attack", counts.wrong), ("resisted", counts.resisted))
        return Finding(
            probe=self.name,
            name="attack-orders",
            question=self.question,
            answer=f"Not told: {why}",
            measure=Measure(
                name="high_order_drop",
                label=f"part of the drop by interactions with at least {HIGH:.0%} of the other parts present",
                value=None,
                unit="%",
            ),
            level="noted",
            reason="There is nothing to take apart; "
            + (
                "robust models need a larger radius until enough samples are fooled."
                if enough
                else "attacks are explained on samples that the model gets right."
            ),
            exhibits=(
                Table(
                    title="What became of the samples", columns=("samples", "number"), rows=(*rows, ("fooled", usable))
                ),
            ),
            provenance=Provenance(
                seed=0, evaluations=spent, sample_ids=ids_of(subject), settings=self._settings(subject, attack)
            ),
            references=("arXiv:2111.03536",),
        )

    def _text(self, subject: Subject) -> str:
        norm, radius = _radius(subject, self.attack)
        unit = "" if is_image(subject) else " standard deviations"
        return f"{norm} radius {brief(radius)}{unit}"

    def _settings(self, subject: Subject, attack: PGD) -> dict[str, str | int | float | bool | None]:
        masker = self._masker(subject)
        return {
            "attack": f"PGD, {attack.steps} steps",
            "radius": self._text(subject)
            + ("" if is_image(subject) else f" of each feature in {usual_in_words(subject)}"),
            "players": players_in_words(subject, masker(subject.inputs[0])),
            "absent players": absence_in_words(subject),
        }


class _Counts(NamedTuple):
    """What became of the samples that were drawn."""

    tried: int
    wrong: int
    resisted: int

    @property
    def right(self) -> int:
        return self.tried - self.wrong


_CLOSURE = "The parts miss the drop by more than a ten-thousandth: the model's answers do not repeat exactly."


def _attacked(subject: Subject, attack: PGD, batch: int, rng: Stream, work: Work) -> tuple[Tensor, Tensor, Tensor, int]:
    """Return attacked inputs, who is right without and fooled under attack, and the evaluations spent."""
    assert subject.labels is not None
    labels = subject.labels

    def compute(rows: Tensor, on_step: OnStep) -> dict[str, Tensor]:
        part = subject.take(rows)
        right = part.logits(batch_size=forwards(subject)).argmax(1) == labels[rows]
        found = attacked(
            subject.model, part.inputs, labels[rows], attack, rng=rng.child("attack").at(part.ids), batch_size=batch
        )
        spent = torch.zeros(len(rows), dtype=torch.int64)
        spent[0] = found.evaluations + len(rows)  # only their sum means anything
        return {"inputs": found.inputs, "right": right, "fooled": found.success, "spent": spent}

    key = f"{attack}|{rng.seed}"
    done = work.map("attack-orders-attack", subject.ids, compute, chunk=min(batch, 50), key=key)
    return done["inputs"], done["right"], done["fooled"], int(done["spent"].sum()) + 1  # one told the batch


def _read(text: str) -> tuple[str, float]:
    """Return norm and radius of a setting such as linf:8/255."""
    *_, norm, size = ("", *text.removeprefix("pgd:").split(":", 1))
    if norm not in BALLS:
        raise ValueError(
            f"attack must be a norm and a radius such as linf:8/255, got {text!r}; {nearest(norm, BALLS)}norms are "
            f"{', '.join(BALLS)}"
        )
    try:
        top, _, bottom = size.partition("/")
        radius = float(top) / float(bottom or 1)
    except (ValueError, ZeroDivisionError):
        radius = math.nan
    if not (math.isfinite(radius) and radius > 0):
        raise ValueError(f"attack must name a radius above 0, such as linf:8/255, got {text!r}")
    return norm, radius


def _radius(subject: Subject, text: str) -> tuple[str, float]:
    if text:
        return _read(text)
    if not is_image(subject):
        return DEFAULT["table"]
    if subject.bounds is None:
        norm, share = DEFAULT["free"]
        deviations = subject.usual.flatten(1).double().std(0, correction=0)
        return norm, share * float(deviations[deviations > 0].median()) if bool((deviations > 0).any()) else share
    norm, share = DEFAULT["bounded"]
    return norm, share * (subject.bounds[1] - subject.bounds[0])


def _space(subject: Subject, text: str) -> Space:
    norm, radius = _radius(subject, text)
    return BALLS[norm](radius, bounds=subject.bounds, scale=None if is_image(subject) else spread(subject))


# -- words and measures ---------------------------------------------------------------------------------------------


_RANGES = ("single", "low", "middle", "high")


def _sums(orders: AttackOrders) -> Tensor:
    """Return what single players and small, middle and large contexts lose, and the drop, `(N, 5)`."""
    low, high = ~orders.above(LOW), orders.above(HIGH)
    ranges = (orders.utilities[:, group].sum(1) for group in (low, ~low & ~high, high))
    return torch.stack([orders.first_order, *ranges, orders.total], dim=1)


def _parts_of(sums: Tensor) -> Tensor:
    """Return which part of the mean drop each range makes, `(4,)`."""
    mean = sums.mean(0)
    return mean[:-1] / mean[-1]


def _drops(orders: AttackOrders, rng: Stream) -> dict[str, Interval[Tensor]]:
    """Return which part of the mean drop single players and small, middle and large contexts make."""
    found = bootstrap(_sums(orders), rng=rng.child("drops"), statistic=_parts_of)
    return {name: Interval(found.value[k], found.low[k], found.high[k]) for k, name in enumerate(_RANGES)}


def _acts(orders: AttackOrders, rng: Stream) -> str:
    """Say which range carries the attack: one that leads the next by more than other samples could undo."""
    first, second = _parts_of(_sums(orders)).argsort(descending=True)[:2].tolist()

    def lead(rows: Tensor) -> Tensor:
        part = _parts_of(rows)
        return torch.stack([part[first], part[first] - part[second]])

    found = bootstrap(_sums(orders), rng=rng.child("drops"), statistic=lead)
    if float(found.low.min()) <= 0:
        return "No range of orders clearly carries this attack"
    if float(found.value[0]) > 0.5:
        return f"This attack acts mostly {_ACTS[_RANGES[first]]}"
    return f"This attack acts more {_ACTS[_RANGES[first]]} than through any other range, but not mostly"


_ACTS = {
    "single": "through single parts",
    "low": f"through interactions of few parts (less than {LOW:.0%} of the others present)",
    "middle": f"through interactions in contexts of {LOW:.0%} to {HIGH:.0%} of the other parts",
    "high": f"through interactions of many parts (at least {HIGH:.0%} of the others present)",
}


def _answer(subject: Subject, orders: AttackOrders, drops: dict[str, Interval[Tensor]], acts: str, radius: str) -> str:
    whole = "image" if is_image(subject) else "row"
    below = [name for name in drops if float(drops[name].high) < 0]
    undone = " Parts below 0 work against the attack." if below else ""
    share = {name: percent(float(found.value)) for name, found in drops.items()}
    high = drops["high"]
    return (
        f"{acts}. Of a drop of {brief(float(orders.total.mean()))} in the log probability of the true class, "
        f"{share['high']} (95% interval {percent(float(high.low))} to {percent(float(high.high))}) come from "
        f"interactions with at least {HIGH:.0%} of the {whole} as context, {share['middle']} from {LOW:.0%} to "
        f"{HIGH:.0%}, {share['low']} from less, and {share['single']} from single parts alone. The attack is PGD "
        f"within {radius}, on {count(len(orders.total), 'sample')} that it turns from right to wrong.{undone}"
    )


def _measures(parts: Parts, drops: dict[str, Interval[Tensor]], rng: Stream) -> list[Measure]:
    orders = parts.orders
    total = bootstrap(orders.total, rng=rng.child("total"))
    labels = {
        "single": "part of the drop by single parts alone",
        "low": f"part of the drop by interactions with less than {LOW:.0%} of the other parts present",
        "middle": f"part of the drop by interactions with {LOW:.0%} to {HIGH:.0%} of the other parts present",
    }
    made = [_share(f"{name}_order_drop", label, drops[name]) for name, label in labels.items()]
    made.append(
        Measure(
            name="score_drop",
            label="drop of the log probability of the true class under attack",
            value=number(total.value),
            low=number(total.low),
            high=number(total.high),
            samples=numbers(orders.total),
        )
    )
    made.append(
        _share(
            "high_order_change",
            f"share of the change of mean interactions that lies at {HIGH:.0%} of the other parts present and above",
            orders.share_above(HIGH),
        )
    )
    if orders.pairs is not None:
        agreement = orders.pairs.disentanglement()
        made += [
            Measure(
                name=f"disentanglement[{name}]",
                label=f"agreement of contexts of {float(orders.pairs.ratios[0]):.0%} of the others, {name} inputs",
                value=number(agreement.value[0, side]),
                low=number(agreement.low[0, side]),
                high=number(agreement.high[0, side]),
                usual=f"{float(orders.pairs.floor[0]):.2g} where contexts do not agree at all",
            )
            for side, name in enumerate(("normal", "attacked"))
        ]
    area = parts.detector.auroc["interquartile"]
    made.append(
        Measure(
            name="detector_auroc",
            label="area under the curve of a detector by leave-one-out attributions",
            value=number(area.value[-1]),
            low=number(area.low[-1]),
            high=number(area.high[-1]),
            usual="0.5 by chance",
        )
    )
    made.append(
        _share("recovered", "attacked samples that an attack back leads near the original", parts.recovery.near)
    )
    for alpha, found in zip(ALPHAS, parts.corrections, strict=False):
        what = "cutout" if alpha is None else f"{alpha:g}"
        made.append(_share(f"corrected[{what}]", f"attacked samples right again with {found.treatment}", found.rate))
    return made


def _share(name: str, label: str, share: Interval[Tensor] | Interval[float]) -> Measure:
    return Measure(
        name=name,
        label=label,
        value=in_percent(share.value),
        low=in_percent(share.low),
        high=in_percent(share.high),
        unit="%",
    )


def _cautions(subject: Subject, counts: _Counts, used: int) -> tuple[str, ...]:
    said = [
        f"Of {count(counts.tried, 'sample')} tried, the model got {counts.wrong} wrong without any attack and "
        f"{counts.resisted} resisted; {used} of the others are taken apart.",
        "The log probability saturates for sure answers and has no lower end: part of what high orders lose is this "
        "curvature. The log odds beside it do not saturate.",
        "Players and fill decide the orders: compare models only with the same ones.",
        "Masked inputs lie off the data the model was trained on; the orders describe the model there too.",
    ]
    if is_image(subject):
        said.append("The defences are diagnostics of this one attack: an attack that knows of them can pass them.")
    return tuple(said)
