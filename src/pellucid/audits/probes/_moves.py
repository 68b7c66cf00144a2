"""Flows, turns with shifts, and both at once: what a robustness probe attacks beside balls, and what it finds there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from pellucid.attacks import PGD, Flow, GridSearch, IntegratedSpatial, RandomSearch, RotateTranslate, Spatial
from pellucid.core import Model, OnStep, Padding, Perturbed, Space, Stream, Subject, Work
from pellucid.metrics import RadiusAttack, RobustnessCurve, attacked, robustness_curve

from .._samples import draw
from .._wording import brief, count, percent
from . import _balls
from ._balls import CHECKED, TOLERATED, ZERO_GRADIENTS, Check, repeatable

MOVES = ("flow", "rt", "spatial")
SHARES = (0.25, 0.5, 0.75, 1.0)
"""Shares of the limits at which accuracy is told."""

GRID, SMALL_GRID = (31, 5, 5), (11, 3, 3)
"""Angles, shifts down and shifts right; every candidate of the small grid is one of the full grid."""

SPATIAL_STEPS, SPATIAL_STARTS = 10, 10
BISECTIONS = 6
COARSE = 0.05
"""Share of samples that random turns may fool between the points of a grid."""


@dataclass(frozen=True)
class Limits:
    """How far pictures may be moved: bent and shifted in pixels, turned in degrees; and what comes in at the edge."""

    flow_px: float
    max_deg: float
    max_px: float
    padding: Padding

    @classmethod
    def of(cls, subject: Subject, flow_px: float | None, max_deg: float, max_px: float | None, padding: str) -> Limits:
        """Return the limits for a subject's images; sizes that are not given grow with the image from 32 pixels on."""
        side = min(subject.inputs.shape[2:])
        return cls(
            0.3 * max(1.0, side / 32) if flow_px is None else flow_px,
            max_deg,
            float(max(1, round(side * 3 / 32))) if max_px is None else max_px,
            cast(Padding, padding),
        )


@dataclass(frozen=True)
class Move:
    """One way to move pictures; sizes are shares of its limits, so that 1 is the whole budget."""

    norm: str
    limits: Limits
    grid: tuple[int, int, int]
    radii: tuple[float, ...] = SHARES
    reference: float = 1.0

    @property
    def who(self) -> str:
        """The attack, in words."""
        angles, down, right = self.grid
        return {
            "flow": f"PGD with {_balls.STEPS} steps on the flow",
            "rt": f"a search over {angles} angles x {down} x {right} shifts, before and after the turn",
            "spatial": f"a joint ascent of flow, angle and shifts, {SPATIAL_STEPS} steps, begun at the best of the "
            "others",
        }[self.norm]

    @property
    def short(self) -> str:
        """The attack's name."""
        return {"flow": "PGD on the flow", "rt": "the grid search", "spatial": "the integrated attack"}[self.norm]

    @property
    def allowed(self) -> str:
        """What is allowed, in words."""
        most = self.limits
        bend = f"bending by up to {brief(most.flow_px)} px"
        turn = f"turning by up to {brief(most.max_deg)} degrees and shifting by up to {brief(most.max_px)} px"
        both = f"{turn.replace(' and ', ', ')} and {bend}"
        return {"flow": bend, "rt": turn, "spatial": both}[self.norm]

    def size(self, share: float) -> str:
        """Return a share in words."""
        return percent(share) + " of the limits"

    def space(self, share: float) -> Space:
        """Return the moves within a share of the limits."""
        most = self.limits
        if self.norm == "flow":
            return Flow(most.flow_px * share, padding=most.padding)
        if self.norm == "rt":
            return RotateTranslate(most.max_deg, most.max_px, padding=most.padding, share=share)
        return Spatial(most.flow_px, most.max_deg, most.max_px, padding=most.padding, share=share)

    def attack(self, share: float) -> RadiusAttack:
        """Return the attack within a share of the limits."""
        space = self.space(share)
        if isinstance(space, RotateTranslate):
            return GridSearch(space, grid=self.grid)
        if isinstance(space, Flow):
            return PGD(space, steps=_balls.STEPS)
        most = self.limits
        return IntegratedSpatial(
            most.flow_px,
            most.max_deg,
            most.max_px,
            padding=most.padding,
            share=share,
            steps=SPATIAL_STEPS,
            starts=SPATIAL_STARTS,
            early_stop=True,
        )


@dataclass(frozen=True)
class Swept:
    """What every turn of the grid did: `params` `(c, 3)`, and `hits` `(N, c)`, the model is wrong."""

    params: Tensor
    hits: Tensor


# -- what it costs ------------------------------------------------------------------------------------------------


def needed(kinds: Sequence[str]) -> tuple[str, ...]:
    """Return what must be run: the integrated attack begins at the winners of the other two."""
    return MOVES if "spatial" in kinds else tuple(kind for kind in MOVES if kind in kinds)


def cost_moves(n: int, moves: Sequence[Move], *, surrogates: int) -> int:
    """Return the most evaluations that `n` samples can cost, checks and pictures included."""
    each, checking = 0, 0
    for move in moves:
        full = move.attack(1.0).cost
        if move.norm == "rt":
            each += len(_grid(move))
            # Random turns beside the grid, the same grid with other edges, and the model asked twice.
            checking += _balls.DRAWS + 1 + len(_candidates(SMALL_GRID, move)) + 2 + 2
        elif move.norm == "flow":
            each += 1 + sum(move.attack(share).cost for share in SHARES) + BISECTIONS
            few = PGD(move.space(1.0), steps=_balls.FEW_STEPS).cost
            checking += full + _balls.DRAWS + 1 + few + full + 2 + surrogates * (full + 1)
        else:
            each += 1 + len(SHARES) * (full + 2) + BISECTIONS
            checking += _balls.DRAWS + 1 + 2
        each += 1 if n else 0  # what the model answers to the pictures that are shown
    return n * each + min(n, CHECKED) * checking


def _grid(move: Move) -> Tensor:
    attack = move.attack(1.0)
    assert isinstance(attack, GridSearch)
    return attack.candidates()


def _candidates(grid: tuple[int, int, int], move: Move) -> Tensor:
    space = move.space(1.0)
    assert isinstance(space, RotateTranslate)
    return GridSearch(space, grid=grid).candidates()


# -- the attacks --------------------------------------------------------------------------------------------------


def found_moves(
    subject: Subject, moves: Sequence[Move], batch: int, rng: Stream, work: Work, *, chunk: int
) -> tuple[dict[str, RobustnessCurve], Swept | None]:
    """Return the curve of each move over shares of its limits, and what each turn of the grid did."""
    assert subject.labels is not None
    labels = subject.labels
    by_name = {move.norm: move for move in moves}

    def compute(rows: Tensor, on_step: OnStep) -> dict[str, Tensor]:
        x, y, ids = subject.inputs[rows], labels[rows], subject.ids[rows]
        found: dict[str, Tensor] = {}
        for position, move in enumerate(moves):

            def step(done: int, total: int, position: int = position) -> None:
                on_step(round(1000 * (position + done / max(1, total))), 1000 * len(moves))

            bound = rng.child(move.norm).at(ids)
            if move.norm == "rt":
                found |= _turned(subject.model, move, x, y, bound, subject.device)
                step(1, 1)
                continue
            attack_at, unit = move.attack, 1.0
            if move.norm == "flow":
                unit = move.limits.flow_px
                attack_at = lambda px, move=move, unit=unit: move.attack(px / unit)  # type: ignore[misc] # noqa: E731
            else:
                attack_at = _Begun(move, by_name["flow"], found, ids).attack
            curve = robustness_curve(
                subject.model,
                x,
                y,
                attack_at,
                [share * unit for share in SHARES],
                rng=bound,
                bisections=BISECTIONS,
                batch_size=batch,
                on_step=step,
            )
            smallest, params = curve.smallest / unit, curve.params
            if move.norm == "spatial":
                smallest, params = _never_weaker(move, smallest, params, found, x)
            spent = torch.zeros(len(rows), dtype=torch.int64)
            spent[0] = curve.evaluations  # only their sum means anything
            found |= {
                f"{move.norm}.smallest": smallest,
                f"{move.norm}.params": params,
                f"{move.norm}.attacked": curve.attacked,
                f"{move.norm}.zero_gradients": curve.zero_gradients,
                f"{move.norm}.evaluations": spent,
            }
        return {name: value for name, value in found.items() if not name.startswith("rt.best")}

    key = f"{list(moves)}|{rng.seed}"
    done = work.map("moves", subject.ids, compute, chunk=chunk, key=key)
    curves = {
        move.norm: RobustnessCurve.of(
            SHARES,
            smallest=done[f"{move.norm}.smallest"],
            params=done[f"{move.norm}.params"],
            attacked=done[f"{move.norm}.attacked"],
            zero_gradients=done[f"{move.norm}.zero_gradients"],
            evaluations=int(done[f"{move.norm}.evaluations"].sum()),
        )
        for move in moves
    }
    if "rt" not in by_name:
        return curves, None
    space = by_name["rt"].space(1.0)
    assert isinstance(space, RotateTranslate)
    params = torch.as_tensor(done["rt.grid"][0])
    return curves, Swept(params, done["rt.hits"])


def _turned(model: Model, move: Move, x: Tensor, y: Tensor, rng: Stream, device: torch.device) -> dict[str, Tensor]:
    """Return what every turn of the grid does to some samples, and the best one within each share of the limits."""
    attack = move.attack(1.0)
    assert isinstance(attack, GridSearch)
    sweep = attack.sweep(model, x.to(device), y.to(device), rng=rng)
    grid, hits, loss = sweep.params.cpu(), sweep.success.cpu(), sweep.loss.double().cpu()
    size = attack.space.size(x, grid).double()
    best = []
    for share in SHARES:
        allowed = (size <= share + 1e-9)[:, None]
        # Ranked by (fooled, loss): see `Candidates`.
        rank = torch.where(hits & allowed, loss, -torch.inf)
        calm = torch.where(allowed, loss, -torch.inf)
        best.append(torch.where((hits & allowed).any(0), rank.argmax(0), calm.argmax(0)))
    smallest = torch.where(hits, size[:, None], torch.inf)
    least = smallest.amin(0)
    # Of the smallest turns that fool the model, the one of the highest loss.
    chosen = torch.where(smallest <= least, loss, -torch.inf).argmax(0)
    fooled = least.isfinite() & (least > 0)
    count_ = torch.zeros(len(x), dtype=torch.int64)
    spent = count_.clone()
    spent[0] = sweep.evaluations
    return {
        "rt.smallest": least,
        "rt.params": torch.where(fooled[:, None], grid[chosen], 0.0),
        "rt.attacked": count_ + 1,
        "rt.zero_gradients": count_,
        "rt.evaluations": spent,
        "rt.hits": hits.T.contiguous(),
        "rt.grid": grid.expand(len(x), *grid.shape).contiguous(),
        "rt.best": torch.stack([grid[rows] for rows in best], dim=1),
    }


def _never_weaker(
    move: Move, smallest: Tensor, params: Tensor, found: dict[str, Tensor], x: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the smallest of the joint move and its parts: a turn or a flow alone is a joint move too."""
    space = move.space(1.0)
    assert isinstance(space, Spatial)
    for name in ("rt", "flow"):
        size, part = found[f"{name}.smallest"], found[f"{name}.params"].to(params)
        joined = space.join(part, None, x) if name == "rt" else space.join(None, part, x)
        less = size < smallest
        smallest = torch.where(less, size, smallest)
        params = torch.where(less[:, None], joined.to(params), params)
    return smallest, params


@dataclass(frozen=True)
class _Begun:
    """The integrated attack, begun at the best turn and the flow that were found within the same share."""

    move: Move
    flow: Move
    found: dict[str, Tensor]
    ids: Tensor

    def attack(self, share: float) -> RadiusAttack:
        """Return the attack within a share of the limits."""
        whole = self.move.attack(share)
        assert isinstance(whole, IntegratedSpatial)
        return _From(whole, self.found["rt.best"][:, SHARES.index(share)], self.found["flow.params"], self.ids)


@dataclass(frozen=True)
class _From:
    """An integrated attack with starts of its own for each sample."""

    whole: IntegratedSpatial
    turns: Tensor
    flows: Tensor
    ids: Tensor

    @property
    def space(self) -> Space:
        return self.whole.space

    @property
    def cost(self) -> int:
        return self.whole.cost + 2

    def __call__(
        self,
        model: Model,
        x: Tensor,
        y: Tensor,
        *,
        rng: Stream,
        start: Tensor | None = None,
        target: Tensor | None = None,
    ) -> Perturbed:
        assert rng.ids is not None
        place = {int(name): row for row, name in enumerate(self.ids.tolist())}
        rows = torch.tensor([place[int(name)] for name in rng.ids.tolist()])
        starts = (self.turns[rows].to(x.device), self.flows[rows].to(x.device))
        return self.whole(model, x, y, rng=rng, start=start, starts=starts, target=target)


# -- whether it can be trusted ------------------------------------------------------------------------------------


def sane_move(
    subject: Subject, move: Move, curve: RobustnessCurve, swept: Swept | None, rng: Stream, *, batch_size: int
) -> tuple[list[Check], str, int]:
    """Return the checks of a grid search or an integrated attack, a note on the edges, and what they cost."""
    assert subject.labels is not None
    rows = draw(subject, CHECKED, rng=rng.child("samples"), among=curve.correct.nonzero()[:, 0])
    checks: list[Check] = []
    if move.norm == "spatial":
        steps = int(curve.attacked.sum()) * (2 * SPATIAL_STEPS)
        share = int(curve.zero_gradients.sum()) / steps if steps else 0.0
        checks.append(
            Check(
                "gradients are not zero",
                f"{percent(share)} of at most {count(steps, 'gradient step')} had a gradient of exactly zero",
                share <= ZERO_GRADIENTS,
                f"{percent(share)} of the gradients are exactly zero, so that the attack is blind",
            )
        )
    if not len(rows):
        return checks, "", 0
    part = subject.take(rows)
    assert part.labels is not None
    x, y, bound = part.inputs, part.labels, rng.at(part.ids)
    search = RandomSearch(move.space(1.0), draws=_balls.DRAWS)
    drawn = attacked(subject.model, x, y, search, rng=bound.child("search"), batch_size=batch_size)
    fooled = curve.smallest[rows].isfinite()
    beaten = int((drawn.success & ~fooled).sum())
    between = "between the points of the grid" if move.norm == "rt" else "by random search alone"
    checks.append(
        Check(
            "random search is not better",
            f"{move.short} fools {percent(float(fooled.double().mean()))}, random search "
            f"{percent(float(drawn.success.double().mean()))}; {count(beaten, 'sample')} {between}",
            beaten <= (COARSE if move.norm == "rt" else TOLERATED) * len(rows),
            f"random search fools samples that {move.short} does not",
        )
    )
    again, twice = repeatable(subject, drawn.inputs, batch_size=batch_size)
    checks.append(again)
    spent = drawn.evaluations + twice
    if move.norm != "rt" or swept is None:
        return checks, "", spent
    note, edges = _edges(subject, move, swept, rows, bound, batch_size=batch_size)
    return checks, note, spent + edges


def _edges(
    subject: Subject, move: Move, swept: Swept, rows: Tensor, rng: Stream, *, batch_size: int
) -> tuple[str, int]:
    """Return what other edges do: zeros that come in at the corners tell a model that a picture was turned."""
    other: Padding = "reflect" if move.limits.padding != "reflect" else "zeros"
    part = subject.take(rows)
    assert part.labels is not None
    space = RotateTranslate(move.limits.max_deg, move.limits.max_px, padding=other)
    search = GridSearch(space, grid=SMALL_GRID, early_stop=True)
    beside = attacked(subject.model, part.inputs, part.labels, search, rng=rng.child("edges"), batch_size=batch_size)
    small = {tuple(round(v, 4) for v in row) for row in _candidates(SMALL_GRID, move).tolist()}
    same = torch.tensor([tuple(round(v, 4) for v in row) in small for row in swept.params.tolist()])
    here = float(swept.hits[rows][:, same].any(1).double().mean())
    there = float(beside.success.double().mean())
    angles, down, right = SMALL_GRID
    return (
        f"What comes in at the edges matters: with {_EDGES[move.limits.padding]} the {angles} x {down} x {right} turns "
        f"and shifts fool {percent(here)} of {count(len(rows), 'sample')}, with {_EDGES[other]} {percent(there)}.",
        beside.evaluations,
    )


_EDGES = {"zeros": "zeros", "border": "the border repeated", "reflect": "the picture mirrored"}
