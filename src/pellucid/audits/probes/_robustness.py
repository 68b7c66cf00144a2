"""How small a change of the input fools the model, and can that number be trusted?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import final

import msgspec
import torch
from torch import Tensor

from pellucid.attacks import PGD, RandomSearch
from pellucid.core import (
    ALONE,
    PADDINGS,
    DataError,
    Effort,
    Finding,
    Need,
    OnStep,
    Stream,
    Subject,
    Work,
)
from pellucid.metrics import RobustnessCurve, robustness_curve, robustness_evaluations

from .._batches import MEMORY, kept
from .._players import is_image, is_large, spread
from .._samples import draw
from .._wording import listed
from ._accuracy import NO_LABELS
from ._ball_findings import ball_finding, majority, unlike
from ._balls import CHECKED, DRAWS, FEW_STEPS, STEPS, Ball
from ._move_findings import move_finding
from ._moves import GRID, MOVES, SMALL_GRID, Limits, Move, cost_moves, found_moves, needed
from ._profile_findings import Row, cost_ensemble, ensemble_check, ensemble_finding, found_ensemble, profile_finding
from ._victims import EACH, VICTIMS

WANTED = {"quick": 64, "full": 200}
LEAST = 20
FINE = 64
"""Samples below which turns are searched on the small grid, so that the budget pays for more of them."""

LARGE_WANTED, LARGE_LEAST = {"quick": 8, "full": 64}, 4
"""Samples to attack, and for large images, whose every evaluation costs a hundred times as much."""

LINF_SHARES = (2 / 255, 4 / 255, 8 / 255, 16 / 255, 0.1, 0.2)
L2_SHARES = (0.005, 0.01, 0.02, 0.04, 0.06, 0.1)
"""Radii for images in known bounds: shares of the range, for l2 of the range times the root of the input's size."""

REFERENCE = {"linf": 8 / 255, "l2": 0.01}
UNBOUNDED_SHARES = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
UNBOUNDED_REFERENCE = 0.1
"""For images without bounds the unit is the median of their elements' standard deviations."""

DEVIATIONS = {"linf": (0.05, 0.1, 0.2, 0.3, 0.5, 1.0), "l2": (0.1, 0.25, 0.5, 1.0, 2.0, 4.0)}
DEVIATIONS_REFERENCE = {"linf": 0.1, "l2": 0.25}
"""Radii for tables, in standard deviations of each feature."""

NORMS = ("linf", "l2")
ATTACKS = (*NORMS, *MOVES, "ensemble")
MOVED, LARGE_MOVED = 64, 16
"""Most samples that are bent, turned and shifted where nobody asked for it, and of large images."""

NO_IMAGES = "bending, turning and shifting need images, and {} has none"
BLIND = "it needs gradients, and {} gives none"


@final
@dataclass(frozen=True)
class Robustness:
    """Accuracy under attack: pixel noise in two norms, bending, turning and shifting; and can these be trusted?

    Args:
        radii: more radii to attack beside the usual ones, by norm ("linf", "l2"), in the unit of the inputs; for tables
            in standard deviations. Each is a measure of its own: `robust_accuracy[linf,0.1]`.
        attacks: which of linf, l2, flow, rt, spatial and ensemble. If not given, linf and l2, and on images flow, rt
            and spatial with fewer samples and a coarser grid where the budget has room for them.
        flow_px: how far the flow may bend, in pixels; 0.3 if not given, more for images above 32 pixels.
        max_deg: how far pictures may be turned, in degrees.
        max_px: how far pictures may be shifted, in pixels; about a tenth of the side if not given.
        padding: what comes in at the edges of turned pictures: zeros, border or reflect.

    Raises:
        ValueError: an unknown attack, a radius that is not a positive number, or a limit that is out of range.
    """

    name: str = field(default="robustness", repr=False)
    question: str = field(default="How small a change of the input fools the model?", repr=False)
    radii: Mapping[str, tuple[float, ...]] = field(default_factory=dict, kw_only=True, hash=False)
    attacks: tuple[str, ...] = field(default=(), kw_only=True)
    flow_px: float | None = field(default=None, kw_only=True)
    max_deg: float = field(default=30.0, kw_only=True)
    max_px: float | None = field(default=None, kw_only=True)
    padding: str = field(default="zeros", kw_only=True)

    def __post_init__(self) -> None:
        for attack in self.attacks:
            if attack not in ATTACKS:
                raise ValueError(f"attacks are {listed(ATTACKS, most=6)}, got {attack!r}")
        for norm, radii in self.radii.items():
            if norm not in NORMS:
                raise ValueError(f"norms are {listed(NORMS)}, got {norm!r}")
            if self.attacks and norm not in self.attacks:
                raise ValueError(f"radii are given for {norm}, which attacks leaves out; add it to attacks")
            for radius in radii:
                if not (math.isfinite(radius) and radius > 0):
                    raise ValueError(f"a radius must be a positive number, got {radius!r} for {norm}")
        for name in ("flow_px", "max_deg", "max_px"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be a positive number, got {value!r}")
        if self.padding not in PADDINGS:
            raise ValueError(f"padding must be one of {', '.join(PADDINGS)}, got {self.padding!r}")

    def need(self, subject: Subject, *, effort: Effort) -> Need:
        """Two norms, six radii, twenty steps, the moves of images, and the sanity checks."""
        if subject.labels is None:
            return Need(0, 0, skip=NO_LABELS)
        if subject.modality == "text":
            return Need(0, 0, skip="attacks change numbers a little, and words are no numbers")
        plan, total = self._plan(subject), len(subject)
        if not plan.balls and not plan.moves:
            still = bool((subject.inputs == subject.inputs[:1]).all())
            same = "all inputs are the same: there is no scale to choose a radius from"
            return Need(0, 0, skip=same if still else "; ".join(plan.left_out.values()) or same)
        large = is_large(subject)
        most = min(total, (LARGE_WANTED if large else WANTED)[effort])
        wanted = _cost(most, subject, plan)
        least = _cost(min(most, LARGE_LEAST if large else LEAST), subject, _coarse(plan))
        if plan.optional and effort == "full":
            wanted += _cost_moves(min(most, _moved(subject)), subject, plan)
        width = subject.inputs[0].numel()
        return Need(
            least,
            wanted,
            memory=min(MEMORY, 64 * 4 * width * min(256, total)),
            remark=("bends, turns and shifts fewer images, or none; then " if plan.optional else "")
            + f"attacks fewer than {most} samples: wider intervals",
        )

    def __call__(self, subject: Subject, budget: int, rng: Stream, *, work: Work = ALONE) -> list[Finding]:
        """Answer in one finding per attack, and one for all of them."""
        plan = self._plan(subject)
        if _cost(min(FINE, len(subject)), subject, plan) > budget:
            plan = _coarse(plan)
        n, moved = _affordable(budget, subject, plan)
        samples = rng.child("samples")
        part = subject.take(draw(subject, n, rng=samples))
        batch = kept(subject)
        chunk = min(batch, TOGETHER)
        curves = _curves(part, plan.balls, batch, rng, work.part(0.0, 0.6 if plan.moves else 0.9))
        drawn = unlike(subject, part)
        ensemble: dict[str, Tensor] = {}
        names: tuple[str, ...] = ()
        first = next((ball for ball in plan.balls if ball.norm == "linf"), None)
        if plan.ensemble and first is not None:
            ensemble, names = found_ensemble(part, first, batch, rng, work.part(0.6, 0.7), chunk=chunk)
        findings, rows = [], []
        for made, curve in zip(plan.balls, curves, strict=True):
            more = []
            if ensemble and made is first:
                more = [ensemble_check(made, curve, ensemble["fooled"] | ~curve.correct)]
            finding, trusted = ball_finding(
                part, made, curve, rng.child(made.norm), more=more, drawn=drawn, batch_size=batch
            )
            findings.append(finding)
            rows.append(Row(made.norm, f"radius {made.size(made.reference)}", _within(curve, made.reference), trusted))
        if ensemble and first is not None:
            curve = curves[plan.balls.index(first)]
            findings.append(ensemble_finding(part, first, curve, ensemble, names, majority(part)))
            sizes = torch.where(ensemble["fooled"], first.reference, torch.inf).double()
            rows.append(Row("ensemble", f"radius {first.size(first.reference)}", sizes, True))
        if moved:
            few = subject.take(draw(subject, moved, rng=samples))
            found, swept = found_moves(few, plan.moves, batch, rng, work.part(0.7, 0.9), chunk=chunk)
            place = {int(name): row for row, name in enumerate(part.ids.tolist())}
            same = torch.tensor([place[int(name)] for name in few.ids.tolist()])
            rows = [replace(row, smallest=row.smallest[same]) for row in rows]
            correct = next(iter(found.values())).correct
            for move in plan.moves:
                finding, trusted = move_finding(
                    few,
                    move,
                    found[move.norm],
                    swept if move.norm == "rt" else None,
                    rng.child(move.norm),
                    floor=majority(few),
                    batch_size=batch,
                )
                findings.append(finding)
                rows.append(Row(move.norm, move.allowed, found[move.norm].smallest, trusted))
            profile = profile_finding(few, correct, rows, floor=majority(few), left_out=plan.left_out)
            # Whoever asks for attacks by name reads their table first; an audit begins with its usual numbers.
            findings = [*findings, profile] if plan.optional else [profile, *findings]
        elif plan.left_out:
            out = tuple(f"Left out: {name}, because {why}." for name, why in plan.left_out.items())
            findings[0] = msgspec.structs.replace(findings[0], cautions=(*findings[0].cautions, *out))
        # One evaluation told how many samples a batch can hold: the profile bears it, or else the first finding.
        if not moved:
            spent = msgspec.structs.replace(findings[0].provenance, evaluations=findings[0].provenance.evaluations + 1)
            findings[0] = msgspec.structs.replace(findings[0], provenance=spent)
        work.on_step(1, 1)
        return findings

    def _plan(self, subject: Subject) -> _Plan:
        """Return which attacks this subject gets, and why it does not get the others."""
        asked = self.attacks or (*NORMS, *MOVES)
        norms = [norm for norm in NORMS if norm in asked or (norm == "linf" and "ensemble" in asked)]
        balls = [ball.with_radii(self.radii.get(ball.norm, ())) for ball in _balls(subject) if ball.norm in norms]
        blind = not subject.differentiable
        left_out = {}
        if blind and "ensemble" in asked:
            left_out["ensemble"] = BLIND.format(subject.name)
        kinds = [kind for kind in MOVES if kind in asked]
        if kinds and not is_image(subject):
            left_out |= dict.fromkeys(kinds, NO_IMAGES.format(subject.data_name)) if self.attacks else {}
            left_out |= {} if self.attacks else {"flow, rt and spatial": NO_IMAGES.format(subject.data_name)}
            kinds = []
        if blind:
            left_out |= {kind: BLIND.format(subject.name) for kind in kinds if kind != "rt"}
            kinds = [kind for kind in kinds if kind == "rt"]
        moves = []
        if kinds:
            limits = Limits.of(subject, self.flow_px, self.max_deg, self.max_px, self.padding)
            moves = [Move(kind, limits, GRID if self.attacks else SMALL_GRID) for kind in needed(kinds)]
        return _Plan(balls, moves, "ensemble" in asked and not blind, left_out, optional=not self.attacks)


@dataclass(frozen=True)
class _Plan:
    """Which attacks a subject gets; `optional` moves run only where the budget has room beside the balls."""

    balls: list[Ball]
    moves: list[Move]
    ensemble: bool
    left_out: dict[str, str]
    optional: bool


def _coarse(plan: _Plan) -> _Plan:
    """Return the plan with turns on the small grid."""
    return replace(plan, moves=[replace(move, grid=SMALL_GRID) for move in plan.moves])


def _within(curve: RobustnessCurve, radius: float) -> Tensor:
    """Return the smallest radii, infinity beyond a radius."""
    return torch.where(curve.smallest <= radius, curve.smallest, torch.inf)


# -- the attacks --------------------------------------------------------------------------------------------------

TOGETHER = 50
"""Most samples attacked at once, so that several processes find a share each."""


def _curves(subject: Subject, plans: list[Ball], batch: int, rng: Stream, work: Work) -> list[RobustnessCurve]:
    """Return the curve of each norm; all norms of a sample are one piece of work."""
    assert subject.labels is not None
    labels = subject.labels
    if not plans:
        return []

    def compute(rows: Tensor, on_step: OnStep) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for position, made in enumerate(plans):

            def step(done: int, total: int, position: int = position) -> None:
                on_step(round(1000 * (position + done / max(1, total))), 1000 * len(plans))

            curve = robustness_curve(
                subject.model,
                subject.inputs[rows],
                labels[rows],
                made.attack,
                made.radii,
                rng=rng.child(made.norm).child("curve").at(subject.ids[rows]),
                batch_size=batch,
                on_step=step,
            )
            spent = torch.zeros(len(rows), dtype=torch.int64)
            spent[0] = curve.evaluations  # only their sum means anything
            found |= {
                f"{made.norm}.smallest": curve.smallest,
                f"{made.norm}.params": curve.params,
                f"{made.norm}.attacked": curve.attacked,
                f"{made.norm}.zero_gradients": curve.zero_gradients,
                f"{made.norm}.evaluations": spent,
            }
        return found

    key = f"{[(made.norm, made.radii) for made in plans]}|{rng.seed}"
    done = work.map("robustness", subject.ids, compute, chunk=min(batch, TOGETHER), key=key)
    return [
        RobustnessCurve.of(
            made.radii,
            smallest=done[f"{made.norm}.smallest"],
            params=done[f"{made.norm}.params"],
            attacked=done[f"{made.norm}.attacked"],
            zero_gradients=done[f"{made.norm}.zero_gradients"],
            evaluations=int(done[f"{made.norm}.evaluations"].sum()),
        )
        for made in plans
    ]


# -- what it costs ------------------------------------------------------------------------------------------------


def _balls(subject: Subject) -> list[Ball]:
    """Return the usual radii in each norm, in the unit that fits the inputs; none where nothing varies."""
    bounds, width = subject.bounds, subject.inputs[0].numel()
    blind = not subject.differentiable
    if subject.modality == "tabular":
        scale = spread(subject)
        if not bool((scale > 0).any()):
            return []
        return [Ball(norm, DEVIATIONS[norm], DEVIATIONS_REFERENCE[norm], bounds, scale, blind) for norm in NORMS]
    if bounds is not None:
        span = bounds[1] - bounds[0]
        shares = {"linf": LINF_SHARES, "l2": L2_SHARES}
        reference = REFERENCE
    else:
        deviations = subject.usual.flatten(1).double().std(0, correction=0)
        moving = deviations[deviations > 0]
        if not len(moving):
            return []
        span = float(moving.median())
        shares = dict.fromkeys(NORMS, UNBOUNDED_SHARES)
        reference = dict.fromkeys(NORMS, UNBOUNDED_REFERENCE)
    units = {"linf": span, "l2": span * width**0.5}
    return [
        Ball(
            norm,
            tuple(units[norm] * share for share in shares[norm]),
            units[norm] * reference[norm],
            bounds,
            None,
            blind,
        )
        for norm in NORMS
    ]


def _cost(n: int, subject: Subject, plan: _Plan) -> int:
    """Return the most evaluations that `n` samples can cost, checks included; without moves that nobody asked for."""
    cost = 1
    for made in plan.balls:
        full = made.attack(made.reference).cost
        search = RandomSearch(made.space(made.reference), draws=DRAWS).cost
        climb = PGD(made.space(made.reference), steps=STEPS).cost
        checks = full + search + 2 + len(subject.surrogates) * (climb + 1)
        if not made.blind:
            checks += PGD(made.space(made.reference), steps=FEW_STEPS).cost + full
        shown = 1 if made.blind else EACH.get(subject.modality, 1)
        cost += robustness_evaluations(n, made.attack, made.radii) + min(n, VICTIMS) * shown + min(n, CHECKED) * checks
    if plan.ensemble:
        cost += sum(cost_ensemble(n, made, subject.n_classes) for made in plan.balls if made.norm == "linf")
    return cost if plan.optional else cost + _cost_moves(n, subject, plan)


def _cost_moves(n: int, subject: Subject, plan: _Plan) -> int:
    return cost_moves(n, plan.moves, surrogates=len(subject.surrogates))


def _moved(subject: Subject) -> int:
    return LARGE_MOVED if is_large(subject) else MOVED


def _affordable(budget: int, subject: Subject, plan: _Plan) -> tuple[int, int]:
    """Return how many samples are attacked, and how many of them are moved."""
    most = min(len(subject), WANTED["full"])
    n = max((n for n in range(1, most + 1) if _cost(n, subject, plan) <= budget), default=0)
    if not n:
        raise DataError("no sample can be attacked within the budget")  # `need` asked for more
    if not plan.moves or not plan.optional:
        return n, n if plan.moves else 0
    large = is_large(subject)
    if n < min(len(subject), (LARGE_WANTED if large else WANTED)["full"]):
        return n, 0
    n = min(n, (LARGE_WANTED if large else WANTED)["full"])
    room = budget - _cost(n, subject, plan)
    moved = max((m for m in range(min(n, _moved(subject)) + 1) if _cost_moves(m, subject, plan) <= room), default=0)
    return n, moved if moved >= min(n, LARGE_LEAST if large else LEAST) else 0
