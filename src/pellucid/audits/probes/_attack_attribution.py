"""Which regions of an input make attacking it cheap, and which of the changed pixels work together?"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, final

import torch
from torch import Tensor

from pellucid.core import (
    ALONE,
    DataError,
    Effort,
    Finding,
    Interval,
    Measure,
    Need,
    OnStep,
    Provenance,
    Stream,
    Subject,
    Table,
    Work,
    bootstrap,
    evaluating,
    number,
    numbers,
)
from pellucid.explain import (
    AttackAttribution,
    MinimumCost,
    attack_attribution,
    attack_regions,
    cost_attack_attribution,
    cost_perturbation_components,
    map_iou,
    perturbation_components,
)

from .._batches import forwards
from .._players import is_image, is_large
from .._samples import draw, ids_of
from .._wording import brief, count, in_percent, listed, percent
from ._accuracy import NO_LABELS
from ._attack_exhibits import MOST_COMPONENTS, Attacked, group_exhibits, region_exhibits

NORMS = ("l2", "linf")
LARGE_BLOCKS = 16
"""Perturbations of large images are cut into at most 16 x 16 blocks."""


class _Rung(NamedTuple):
    """How much is spent: samples, pairs of paths, steps on a path and at its ends, contexts of a group of pixels."""

    samples: int
    permutations: int
    steps: int
    end_steps: int
    contexts: int


LADDER = (
    _Rung(2, 2, 6, 40, 4),
    _Rung(4, 2, 6, 40, 4),
    _Rung(4, 2, 8, 60, 8),
    _Rung(4, 4, 15, 100, 16),
    _Rung(8, 4, 15, 100, 16),
)
LARGE_LADDER = (_Rung(1, 2, 6, 40, 4), _Rung(1, 4, 15, 100, 8), _Rung(4, 4, 15, 100, 8))
QUICK = {False: 2, True: 1}
"""The rung that a quick audit asks for, of usual and of large images."""

FEWEST_SPREAD = 4
"""Samples below which no interval is told: the draws of two or three do not say how far others would lie."""

TRIED = 3
"""Samples whose answer is looked at for each one that is attacked: wrong answers are passed over."""

REFERENCES = ("arXiv:2108.06895", "arXiv:2102.12827")


@final
@dataclass(frozen=True)
class AttackAttributions:
    """Shapley values of regions for what attacks cost, in both norms, and the groups of pixels of one perturbation.

    Args:
        grid: rows and columns of regions inside the always free border.

    Raises:
        ValueError: fewer than two regions.
    """

    name: str = field(default="attack-attribution", repr=False)
    question: str = field(default="Which regions make attacking the model cheap?", repr=False)
    grid: tuple[int, int] = field(default=(4, 4), kw_only=True)

    def __post_init__(self) -> None:
        if min(self.grid) < 1 or math.prod(self.grid) < 2:
            raise ValueError(f"grid must have at least 2 regions, got {self.grid[0]} x {self.grid[1]}")

    def need(self, subject: Subject, *, effort: Effort) -> Need:
        """Two norms and the components of a few samples."""
        if subject.labels is None:
            return Need(0, 0, skip=NO_LABELS)
        if not is_image(subject):
            return Need(
                0,
                0,
                skip=f"needs images: regions are cells inside a border that an attack may always touch, and "
                f"{subject.data_name} has none",
            )
        if not subject.differentiable:
            return Need(0, 0, skip=f"needs gradients, and {subject.name} gives none")
        try:
            attack_regions(*_sides(subject), self.grid)
        except ValueError as error:
            return Need(0, 0, skip=str(error))
        ladder = _ladder(subject)
        wanted = ladder[-1 if effort == "full" else QUICK[is_large(subject)]]
        return Need(
            self._cost(subject, ladder[0]),
            self._cost(subject, wanted),
            memory=4 * 64 * 16 * subject.inputs[0].numel(),
            remark=f"attacks fewer than {wanted.samples} samples, or by fewer paths and steps: less sure numbers",
        )

    def _cost(self, subject: Subject, rung: _Rung) -> int:
        return self._each(subject, rung) * min(rung.samples, len(subject))

    def _each(self, subject: Subject, rung: _Rung) -> int:
        """Return the most evaluations that one attacked sample can cost."""
        regions = sum(
            cost_attack_attribution(math.prod(self.grid), _how(subject, norm, rung), permutations=rung.permutations)
            for norm in NORMS
        )
        groups = cost_perturbation_components(*_sides(subject), block=_block(subject), contexts=rung.contexts)
        return TRIED + regions + 1 + groups

    def __call__(self, subject: Subject, budget: int, rng: Stream, *, work: Work = ALONE) -> list[Finding]:
        """Answer in two findings: regions, and groups of pixels."""
        ladder = _ladder(subject)
        paid = [rung for rung in ladder if self._cost(subject, rung) <= budget]
        if not paid:
            raise DataError("no sample can be attacked within the budget")  # `need` asked for more
        rung = paid[-1]
        n = min(ladder[-1].samples, budget // self._each(subject, rung))
        asked = subject.take(draw(subject, TRIED * n, rng=rng.child("samples")))
        assert asked.labels is not None
        right = (asked.logits(batch_size=forwards(subject)).argmax(1) == asked.labels).nonzero()[:, 0]
        if not len(right):
            work.on_step(1, 1)
            why = "The model classifies none of the drawn samples correctly, so there is nothing to attack."
            return [self._nothing(asked, why, len(asked))]
        part = asked.take(draw(asked, n, rng=rng.child("attacked"), among=right))
        found = self._measured(part, rung, rng, work)
        work.on_step(1, 1)
        spent = len(asked) + int(found.evaluations.sum())
        attacked = found.full.isfinite().all(1).nonzero()[:, 0]
        if not len(attacked):
            return [self._nothing(part, "No perturbation was found that fools the model on any sample.", spent)]
        whole, kept = part.take(attacked), found.take(attacked)
        alone = spent - int(kept.grouping.sum()) if bool((kept.groups >= 0).any()) else spent
        findings = [self._regions(whole, kept, rung, alone, len(part), rng.child("intervals"))]
        if alone < spent:
            findings.append(self._components(whole, kept, rung, spent - alone, rng.child("intervals")))
        return findings

    # -- numbers --------------------------------------------------------------------------------------------------

    def _measured(self, subject: Subject, rung: _Rung, rng: Stream, work: Work) -> Attacked:
        def compute(rows: Tensor, on_step: OnStep) -> dict[str, Tensor]:
            part = subject.take(rows)
            found = Attacked.empty(part, NORMS, math.prod(self.grid))
            self._attack(part, found, rung, rng.child("attacks").at(part.ids), on_step)
            return found.tensors()

        key = f"{self.grid}|{tuple(rung)}|{rng.seed}"
        done = work.part(0.0, 0.99).map(self.name, subject.ids, compute, chunk=1 if is_large(subject) else 4, key=key)
        return Attacked(**done)

    def _attack(self, subject: Subject, found: Attacked, rung: _Rung, rng: Stream, on_step: OnStep) -> None:
        """Fill in everything about some samples."""
        assert subject.labels is not None
        x, y, made = subject.inputs, subject.labels, {}
        for position, norm in enumerate(NORMS):

            def step(done: int, total: int, position: int = position) -> None:
                on_step(round(1000 * (position + done / max(1, total)) / 3), 1000)

            made[norm] = self._one_norm(subject, norm, rung, rng, Work(on_step=step), found, position)
        first, second = (made[norm] for norm in NORMS)
        if first is None or second is None:
            return
        _compare(first, second, found.alike)
        found.delta[first.rows] = first.delta.to(found.delta)
        with evaluating(subject.model), torch.no_grad():
            answers = subject.model((x + found.delta)[first.rows].to(subject.device)).argmax(1).cpu()
        found.evaluations[first.rows] += 1
        found.answer[first.rows] = answers
        for place, k in enumerate(first.rows.tolist()):
            if int(answers[place]) != int(y[k]):  # else rounding put the answer back: it lies at the very boundary
                _group(subject, k, found, rung, rng.at(subject.ids[k : k + 1]))
            on_step(round(1000 * (2 + (place + 1) / len(first.rows)) / 3), 1000)

    def _one_norm(
        self, subject: Subject, norm: str, rung: _Rung, rng: Stream, work: Work, found: Attacked, position: int
    ) -> AttackAttribution | None:
        """Attribute the cost in one norm; None where no sample was fooled."""
        assert subject.labels is not None
        how = _how(subject, norm, rung)
        try:
            made = attack_attribution(
                subject.model,
                subject.inputs,
                subject.labels,
                regions=self.grid,
                utility=how,
                permutations=rung.permutations,
                rng=rng,
                work=work,
            )
        except DataError:  # the search has been paid for
            price = cost_attack_attribution(math.prod(self.grid), how, permutations=rung.permutations)
            found.evaluations.add_(price)
            return None
        found.evaluations[0] += made.evaluations
        found.values[made.rows, position] = made.values
        found.none[made.rows, position] = made.cost_none
        found.full[made.rows, position] = made.cost_full
        found.capped[made.rows, position] = made.capped
        return made

    # -- findings -------------------------------------------------------------------------------------------------

    def _regions(self, subject: Subject, found: Attacked, rung: _Rung, spent: int, tried: int, rng: Stream) -> Finding:
        regions = math.prod(self.grid)
        few = max(1, regions // 4)
        shares = (found.values.sort(2, descending=True).values[:, :, :few].sum(2) / found.values.sum(2)).nan_to_num()
        saved = 1 - found.full / found.none
        measures = [
            _measure(
                f"attack_concentration[{norm}]",
                f"share of what regions save an attack ({norm}) that the strongest {few} of {regions} make",
                shares[:, k],
                rng.child("concentration", norm),
                share=True,
                usual=f"{few / regions:.0%} if all regions were alike",
            )
            for k, norm in enumerate(NORMS)
        ]
        for k, norm in enumerate(NORMS):
            measures += [
                _measure(
                    f"attack_cost[{norm}]",
                    f"smallest change found that fools the model ({norm}), mean over samples",
                    found.full[:, k],
                    rng.child("cost", norm),
                    better="higher",
                ),
                _measure(
                    f"attack_saving[{norm}]",
                    f"how much cheaper an attack ({norm}) on the whole image is than on its border alone",
                    saved[:, k],
                    rng.child("saving", norm),
                    share=True,
                ),
            ]
        for k, (what, label) in enumerate(
            (("attribution_likeness", "attributions"), ("perturbation_likeness", "perturbations"))
        ):
            text = f"likeness of the {label} in l2 and linf, sum of minima over maxima (1: the same map)"
            measures.append(_measure(what, text, found.alike[:, k], rng.child(what)))
        return Finding(
            probe=self.name,
            name="attack-attribution",
            question=self.question,
            answer=_answer(found, shares[:, 0], saved[:, 0], few, regions),
            measure=measures[0],
            level="noted",
            reason=NOTED,
            measures=tuple(measures[1:]),
            exhibits=region_exhibits(subject, found, self.grid, NORMS),
            provenance=Provenance(
                seed=0,
                evaluations=spent,
                sample_ids=ids_of(subject),
                settings={
                    "regions": f"grid {self.grid[0]} x {self.grid[1]} inside a border that is always free",
                    "cost": "size of the smallest perturbation found that changes the answer",
                    "norms": ", ".join(NORMS),
                    "attack": "fast minimum-norm, started from the best of the regions before",
                    "steps": rung.steps,
                    "steps at the ends": rung.end_steps,
                    "paths": 2 * rung.permutations,
                },
            ),
            references=REFERENCES,
            cautions=_cautions(found, rung, len(subject), tried),
        )

    def _components(self, subject: Subject, found: Attacked, rung: _Rung, spent: int, rng: Stream) -> Finding:
        traits = found.traits
        known = traits[:, :, 0].isfinite()
        has = known.any(1)
        lowers = torch.where(known, (traits[:, :, 3].abs() > traits[:, :, 4].abs()).double(), torch.nan)
        object_share = torch.where(known, traits[:, :, 2], torch.nan)
        measures = [
            _measure(
                "attack_lowers_true",
                "share of a perturbation's components that mainly lower the true class, mean over samples",
                lowers.nanmean(1),
                rng.child("lowers"),
                share=True,
            ),
            _measure(
                "attack_foreground",
                "share of the components' pixels on the object (guessed by border contrast), mean over samples",
                object_share.nanmean(1),
                rng.child("foreground"),
                share=True,
            ),
        ]
        total = int(known.sum())
        groups = f"{count(int(has.sum()), 'sample')} hold {count(total, 'group')} of pixels that act together"
        # The same means over samples as the measures, not shares of all groups: samples differ in how many they hold.
        lower, place = (float(part.nanmean(1).nanmean()) for part in (lowers, object_share))
        does = {0.0: "All mainly raise the wrong class", 1.0: "All mainly lower the true class"}.get(
            lower,
            f"In the mean over samples {percent(lower)} of a sample's groups mainly lower the true class, the others "
            "raise the wrong one",
        )
        answer = (
            f"The l2 perturbations of {groups}. {does}, and {percent(place)} of their pixels lie on what looks like "
            "the object."
        )
        block = _block(subject)
        return Finding(
            probe=self.name,
            name="attack-components",
            question="Which changed pixels work together, where do they lie and what do they do?",
            answer=answer,
            measure=measures[0],
            level="noted",
            reason=NOTED,
            measures=tuple(measures[1:]),
            exhibits=group_exhibits(subject, found),
            provenance=Provenance(
                seed=0,
                evaluations=spent,
                sample_ids=ids_of(subject),
                settings={
                    "perturbation": "smallest l2 found",
                    "worth": "logit of the wrong answer minus logit of the true class",
                    "block": "2 pixels" if block is None else f"{block} pixels",
                    "interaction": "Shapley interaction of a group as one",
                    "contexts": rung.contexts,
                    "object": "border contrast: a guess from the image's colors",
                },
            ),
            references=REFERENCES[:1],
            cautions=(
                "Where the object lies is guessed from how its colors differ from those at the image's border; give a "
                "mask to explain.perturbation_components to know.",
            ),
        )

    def _nothing(self, subject: Subject, why: str, spent: int) -> Finding:
        assert subject.labels is not None
        rows = tuple((int(i), subject.class_names[int(y)]) for i, y in zip(subject.ids, subject.labels, strict=True))
        return Finding(
            probe=self.name,
            name="attack-attribution",
            question=self.question,
            answer=why,
            measure=Measure(
                name=f"attack_concentration[{NORMS[0]}]",
                label=f"share of what regions save an attack ({NORMS[0]}) that the strongest quarter makes",
                value=None,
                unit="%",
            ),
            level="noted",
            reason=NOTED,
            exhibits=(Table(title="Samples looked at", columns=("sample", "true class"), rows=rows),),
            provenance=Provenance(
                seed=0, evaluations=spent, sample_ids=ids_of(subject), settings={"norms": ", ".join(NORMS)}
            ),
            references=REFERENCES,
        )


NOTED = "A description: it says what an attack on this model uses, and no share of it is good or bad by itself."


def _sides(subject: Subject) -> tuple[int, int]:
    return subject.inputs.shape[2], subject.inputs.shape[3]


def _ladder(subject: Subject) -> tuple[_Rung, ...]:
    return LARGE_LADDER if is_large(subject) else LADDER


def _how(subject: Subject, norm: str, rung: _Rung) -> MinimumCost:
    name: Literal["l2", "linf"] = "l2" if norm == "l2" else "linf"
    return MinimumCost(name, steps=rung.steps, end_steps=rung.end_steps, bounds=subject.bounds)


def _block(subject: Subject) -> int | None:
    """Return the side of a block, None for the usual one."""
    return math.ceil(max(_sides(subject)) / LARGE_BLOCKS) if is_large(subject) else None


def _compare(first: AttackAttribution, second: AttackAttribution, alike: Tensor) -> None:
    """Fill in how alike the maps of both norms are, for the samples that were fooled in both."""
    places = [{row: place for place, row in enumerate(made.rows.tolist())} for made in (first, second)]
    changes = first.perturbation(), second.perturbation()
    for row in sorted(set(places[0]) & set(places[1])):
        at = [place[row] for place in places]
        for column, (a, b) in enumerate(((first.values, second.values), changes)):
            one, other = a[at[0]], b[at[1]]
            if bool(one.max() > one.min()) and bool(other.max() > other.min()):
                alike[row, column] = map_iou(one, other)


def _group(subject: Subject, k: int, found: Attacked, rung: _Rung, rng: Stream) -> None:
    assert subject.labels is not None
    own = perturbation_components(
        subject.model,
        subject.inputs[k].to(subject.device),
        found.delta[k].to(subject.device),
        int(subject.labels[k]),
        int(found.answer[k]),
        block=_block(subject),
        contexts=rung.contexts,
        rng=rng,
    )
    found.grouping[k] += own.evaluations
    found.evaluations[k] += own.evaluations
    owner = own.owner()
    found.groups[k] = torch.where(owner < MOST_COMPONENTS, owner, -1)
    for c, part in enumerate(own.components[:MOST_COMPONENTS]):
        row = (part.interaction, part.stderr, part.foreground, part.drop_true, part.gain_target)
        found.traits[k, c] = torch.tensor(row, dtype=torch.float64)


def _measure(
    name: str,
    label: str,
    values: Tensor,
    rng: Stream,
    *,
    share: bool = False,
    better: str = "neither",
    usual: str = "",
) -> Measure:
    """Return the mean over samples with its bootstrap interval; samples without the number are left out of it."""
    known = values[values.isfinite()]
    nothing = torch.tensor(torch.nan)
    few = len(known) < FEWEST_SPREAD
    found = Interval(known.mean(), nothing, nothing) if few else bootstrap(known, rng=rng)
    say = in_percent if share else number
    return Measure(
        name=name,
        label=label,
        value=say(found.value),
        low=say(found.low),
        high=say(found.high),
        unit="%" if share else "",
        usual=usual,
        better="higher" if better == "higher" else "neither",
        samples=numbers(values),  # shares as they are, also where the measure is in percent
    )


def _answer(found: Attacked, shares: Tensor, saved: Tensor, few: int, regions: int) -> str:
    cost, alike = float(found.full[:, 0].mean()), found.alike.nanmean(0)
    text = (
        f"An attack that may change the whole image needs an l2 change of {brief(cost)} on average, "
        f"{percent(float(saved.mean()))} less than one that may touch the border alone. The strongest {few} of "
        f"{regions} regions of an image make {percent(float(shares.mean()))} of that saving."
    )
    if not bool(alike.isfinite().all()):
        return text
    more = "more" if float(alike[0]) > float(alike[1]) else "no more"
    return text + (
        f" The regions found in l2 and in linf resemble each other {more} than the perturbations themselves do "
        f"({float(alike[0]):.2f} against {float(alike[1]):.2f})."
    )


def _cautions(found: Attacked, rung: _Rung, attacked: int, tried: int) -> tuple[str, ...]:
    cautions = []
    best = LADDER[-1]
    if (rung.permutations, rung.steps) < (best.permutations, best.steps):
        cautions.append(
            f"The budget paid for {2 * rung.permutations} paths with {rung.steps} steps at each set instead of "
            f"{2 * best.permutations} with {best.steps}: costs are less exact upper limits, and shares of regions vary "
            "more. A larger --budget sharpens them."
        )
    if attacked < 8:
        narrow = "; intervals from so few are too narrow" if attacked >= FEWEST_SPREAD else ""
        cautions.append(f"{count(attacked, 'sample')} cannot stand for all{narrow}.")
    if attacked < tried:
        cautions.append(
            f"No attack was found in both norms on {tried - attacked} of {tried} samples, which are left out."
        )
    capped = [norm for k, norm in enumerate(NORMS) if float(found.capped[:, k].mean()) > 0.05]
    if capped:
        cautions.append(
            f"More than 5% of the searches in {listed(capped)} found nothing that fools and count with the largest "
            "possible change."
        )
    return tuple(cautions)
