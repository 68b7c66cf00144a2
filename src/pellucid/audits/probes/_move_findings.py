"""What is said and shown of flows, of turns with shifts, and of both at once."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pellucid.attacks import RotateTranslate, Spatial
from pellucid.core import (
    Axis,
    Curve,
    Exhibit,
    Finding,
    Gallery,
    Heatmap,
    Line,
    Measure,
    Provenance,
    Stream,
    Subject,
    Table,
    bootstrap,
    evaluating,
    number,
    numbers,
    wilson,
)
from pellucid.metrics import RobustnessCurve

from .. import _levels
from .._advice import recipe
from .._samples import ids_of, picture
from .._wording import brief, count, in_percent, listed, percent
from . import _balls
from ._balls import Check, sanity
from ._moves import SMALL_GRID, SPATIAL_STARTS, SPATIAL_STEPS, Move, Swept, sane_move

VICTIMS = 4
ARROWS = 14
"""Arrows along each side of a picture."""

QUESTIONS = {
    "flow": "Does bending the picture a little fool the model?",
    "rt": "Does turning and shifting the picture fool the model?",
    "spatial": "Do turning, shifting and bending together fool the model?",
}
TITLES = {"flow": "flow", "rt": "rotation and translation", "spatial": "flow, rotation and translation at once"}
RECIPES = {"flow": "flow-fashion-mnist", "rt": "rt-fashion-mnist", "spatial": "pareto-fashion-mnist"}
ADVICE = {
    "flow": "Train against pictures that are bent a little, found by the attack in each step; smooth distortions as "
    "augmentation are cheaper and help less.",
    "rt": "Train against the worst of ten random turns and shifts of each picture; at least augment with as much "
    "turning and shifting as the use will bring.",
    "spatial": "Train against several attacks at once, pixel noise, bending and turning, weighted by one dial.",
}


def move_finding(
    subject: Subject,
    move: Move,
    curve: RobustnessCurve,
    swept: Swept | None,
    rng: Stream,
    *,
    floor: float,
    batch_size: int,
) -> tuple[Finding, bool]:
    """Return the finding of one move, and whether its number can be trusted."""
    note = ""
    if move.norm == "flow":
        checks, checking = sanity(subject, move, curve, rng.child("checks"), batch_size=batch_size)
    else:
        checks, note, checking = sane_move(subject, move, curve, swept, rng.child("checks"), batch_size=batch_size)
    failed = [check for check in checks if not check.holds]
    clean, correct = float(curve.correct.double().mean()), int(curve.correct.sum())
    held = ~curve.smallest.isfinite()
    judged = _levels.robustness(
        wilson(correct, len(subject)),
        wilson(int(held.sum()), correct) if correct else None,
        _LIMITS[move.norm],
        n=correct,
        floor=floor,
        trusted=not failed,
    )
    shown, looking = _gallery(subject, move, curve)
    cautions = ["Accuracy under an attack is an upper bound of the robust accuracy: a stronger one may find more."]
    if failed:
        cautions.append(
            f"A sanity check failed ({listed(check.trouble for check in failed)}): the robust accuracy cannot be "
            "trusted."
        )
    if note:
        cautions.append(note)
    if move.norm != "flow" and move.limits.max_deg >= 15:
        cautions.append(
            "Classes that depend on the orientation, such as 6 and 9, need smaller limits: --set robustness.max_deg=10."
        )
    finding = Finding(
        probe="robustness",
        name=f"robustness-{move.norm}",
        question=QUESTIONS[move.norm],
        answer=_answer(move, curve, clean, len(subject), failed),
        measure=robust_accuracy(move.norm, f"accuracy under {move.allowed}", held),
        level=judged.level,
        reason=judged.reason,
        advice=None
        if judged.level == "fine" or not correct
        else recipe(subject, ADVICE[move.norm], f"pellucid train {RECIPES[move.norm]} --out runs/{move.norm}"),
        measures=(
            Measure(
                name=f"attacked_sample_accuracy[{move.norm}]",
                label=f"accuracy without attack on the samples attacked by {TITLES[move.norm]}",
                value=in_percent(clean),
                unit="%",
                better="higher",
                samples=numbers(curve.correct.double()),
            ),
            _smallest(move, curve, rng.child("interval")),
        ),
        exhibits=(*_exhibits(move, curve, clean, len(subject), floor, checks, swept), *shown),
        provenance=Provenance(
            seed=0,
            evaluations=curve.evaluations + checking + looking,
            sample_ids=ids_of(subject),
            settings=_settings(move),
        ),
        references=("arXiv:2111.01996", *_SOURCES[move.norm]),
        cautions=tuple(cautions),
    )
    return finding, not failed


_LIMITS = {
    "flow": "the limits of the flow",
    "rt": "the limits of angle and shift",
    "spatial": "the limits of angle, shift and flow",
}
_SOURCES = {"flow": ("arXiv:1801.02612",), "rt": ("arXiv:1712.02779",), "spatial": ()}


def robust_accuracy(name: str, label: str, held: Tensor) -> Measure:
    """Return the share of samples that an attack leaves right, as a measure."""
    share = wilson(int(held.sum()), len(held))
    return Measure(
        name=f"robust_accuracy[{name}]",
        label=label,
        value=in_percent(share.value),
        low=in_percent(share.low),
        high=in_percent(share.high),
        unit="%",
        better="higher",
        samples=numbers(held.double()),
    )


def _answer(move: Move, curve: RobustnessCurve, clean: float, n: int, failed: list[Check]) -> str:
    if clean == 0:
        return "The model is wrong on every sample without any attack, so there is nothing to attack."
    at = curve.accuracy
    value, low, high = (float(v[-1]) for v in (at.value, at.low, at.high))
    before, after = percent(clean), percent(value)
    change = f"leaves the accuracy at {before}" if before == after else f"lowers the accuracy from {before} to {after}"
    what = move.allowed[0].upper() + move.allowed[1:]
    answer = (
        f"{what} {change}. The attack is {move.who}, on {count(n, 'sample')}; the 95% interval is {percent(low)} to "
    )
    answer += f"{percent(high)}."
    found = curve.smallest[curve.correct].sort().values
    middle = float(found[(len(found) - 1) // 2])
    if math.isfinite(middle):
        answer += f" Half of the samples it gets right are fooled within {move.size(middle)}."
    else:
        answer += " Most samples it gets right withstand it."
    if failed:
        answer += f" But do not trust this number: {listed(check.trouble for check in failed)}."
    return answer


def _smallest(move: Move, curve: RobustnessCurve, rng: Stream) -> Measure:
    capped = curve.smallest.clamp(max=1.0)
    interval = bootstrap(capped, rng=rng)
    return Measure(
        name=f"smallest_radius[{move.norm}]",
        label=f"mean smallest fooling share of the limits, {TITLES[move.norm]} (0 if wrong anyway, at most 1)",
        value=number(interval.value),
        low=number(interval.low),
        high=number(interval.high),
        better="higher",
        samples=numbers(capped),
    )


def _settings(move: Move) -> dict[str, str | int | float | bool | None]:
    most = move.limits
    settings: dict[str, str | int | float | bool | None] = {"attack": move.who, "padding": most.padding}
    if move.norm in ("flow", "spatial"):
        settings |= {"flow": f"at most {brief(most.flow_px)} px"}
    if move.norm in ("rt", "spatial"):
        settings |= {"angle": f"at most {brief(most.max_deg)} degrees", "shift": f"at most {brief(most.max_px)} px"}
    if move.norm == "flow":
        settings |= {"steps": _balls.STEPS, "loss": "cross-entropy"}
    if move.norm == "spatial":
        settings |= {"steps": SPATIAL_STEPS, "random starts": SPATIAL_STARTS, "loss": "cross-entropy"}
    return settings | {
        "random search": f"{_balls.DRAWS} draws",
        "shares of the limits": ", ".join(map(brief, move.radii)),
    }


# -- pictures -----------------------------------------------------------------------------------------------------


def _exhibits(
    move: Move,
    curve: RobustnessCurve,
    clean: float,
    n: int,
    floor: float,
    checks: list[Check],
    swept: Swept | None,
) -> list[Exhibit]:
    grid = " On the grid, the shares are those of its candidates." if move.norm == "rt" else ""
    shown: list[Exhibit] = [
        Curve(
            title=f"Accuracy under attack ({TITLES[move.norm]})",
            x=Axis("share of the limits", "%"),
            y=Axis("accuracy", "%"),
            lines=(
                Line(
                    name=f"under {move.short}",
                    x=numbers((0.0, *move.radii)),
                    y=numbers((clean, *curve.accuracy.value)),
                    low=numbers((clean, *curve.accuracy.low)),
                    high=numbers((clean, *curve.accuracy.high)),
                ),
                Line(name="always the most frequent class", x=(0.0, 1.0), y=(floor, floor), role="reference"),
            ),
            caption=f"Share of {count(n, 'sample')} that are not fooled within each share of the limits "
            f"({move.allowed}), with 95% intervals.{grid}",
        ),
    ]
    if move.norm == "rt" and swept is not None:
        shown.append(_map(move, swept, n))
    shown.append(
        Table(
            title="Sanity checks of the attack",
            columns=("check", "found", "verdict"),
            rows=tuple((check.name, check.found, "holds" if check.holds else "FAILS") for check in checks),
            caption="Within the whole limits, on samples the model gets right. Where a check fails, the attack misses "
            "what others find and robustness is overestimated.",
        )
    )
    return shown


def _map(move: Move, swept: Swept, n: int) -> Heatmap:
    """Return the accuracy at each angle and length of the shift, the mean over its directions."""
    # Of the turns with a shift after them: a shift before the turn is another length in rows and columns after it.
    apart = [2 * move.limits.max_px / max(1, points - 1) for points in move.grid[1:]]
    steps = swept.params[:, 1:] / swept.params.new_tensor(apart).clamp(min=1e-9)
    after = ((steps - steps.round()).abs() < 1e-3).all(1)
    right = 1 - swept.hits[:, after].double().mean(0)
    angle = swept.params[after, 0].double()
    shift = swept.params[after, 1:].double().abs().amax(1)
    angles = sorted({round(float(a), 3) for a in angle})
    angles = angles[:: max(1, (len(angles) - 1) // (SMALL_GRID[0] - 1))]  # few enough to be written on
    shifts = sorted({round(float(s), 3) for s in shift})
    values = [
        [number(right[((angle - a).abs() < 1e-2) & ((shift - s).abs() < 1e-2)].mean()) for a in angles] for s in shifts
    ]
    return Heatmap(
        title="Accuracy by angle and shift",
        rows=tuple(f"{brief(s)} px" for s in shifts),
        columns=tuple(f"{a:+.0f}" if a else "0" for a in angles),
        values=tuple(tuple(row) for row in values),
        row_label="shift",
        column_label="degrees, positive turns counter-clockwise",
        unit="%",
        caption=f"Share of {count(n, 'sample')} that are right when all are turned by one angle, then shifted alike; "
        "the larger of the shifts down and right counts, and its directions are averaged. The attack picks "
        "the worst cell for each sample by itself, and also shifts before it turns.",
    )


def _gallery(subject: Subject, move: Move, curve: RobustnessCurve) -> tuple[tuple[Exhibit, ...], int]:
    """Return pairs of pictures before and after, from the easiest victim to the hardest, and what they cost."""
    assert subject.labels is not None
    fooled = (curve.correct & curve.smallest.isfinite()).nonzero()[:, 0]
    order = fooled[curve.smallest[fooled].argsort(stable=True)]
    rows = order[torch.linspace(0, max(0, len(order) - 1), min(VICTIMS, len(order))).long()]
    if not len(rows):
        return (), 0
    part, params = subject.take(rows), curve.params[rows]
    assert part.labels is not None
    changed = move.space(1.0).render(part.inputs, params.to(torch.promote_types(part.inputs.dtype, torch.float32)))
    with evaluating(part.model), torch.no_grad():
        answers = part.model(changed.to(part.device)).argmax(1).cpu()
    pictures = []
    for k in range(len(part)):
        true, answer = (part.class_names[int(c[k])] for c in (part.labels, answers))
        rigid, flow = _parts(move, params[k], part.inputs.shape[-2:])
        pictures.append(picture(part.inputs[k], title=true, caption=f"sample {int(part.ids[k])}", bounds=part.bounds))
        pictures.append(
            picture(
                changed[k],
                title=f"taken for {answer}",
                caption=_moved(move, rigid, flow),
                bounds=part.bounds,
                arrows=() if flow is None else _arrows(flow),
            )
        )
    sequence = " What is named first is done first." if move.norm != "flow" else ""
    arrows = " Arrows show where the flow moves the picture's content." if move.norm != "rt" else ""
    return (
        Gallery(
            title=f"Smallest changes found that fool the model ({TITLES[move.norm]})",
            pictures=tuple(pictures),
            caption="Pairs of an image and its changed version, from the sample easiest to fool to the hardest one "
            f"fooled.{sequence}{arrows}",
        ),
    ), len(rows)


def _parts(move: Move, params: Tensor, side: torch.Size) -> tuple[Tensor | None, Tensor | None]:
    """Return angle with shifts, and flow `(2, H, W)`, of one sample; None for what the move has not, or all zeros."""
    rigid = None if move.norm == "flow" else params[:3]
    flow = None if move.norm == "rt" else (params if move.norm == "flow" else params[3:].reshape(2, *side))
    empty = flow is not None and not bool(flow.any())
    return rigid, None if empty else flow


def _moved(move: Move, rigid: Tensor | None, flow: Tensor | None) -> str:
    words = []
    if rigid is not None:
        space = move.space(1.0)
        assert isinstance(space, RotateTranslate | Spatial)
        shift, first = (space.rigid if isinstance(space, Spatial) else space).counted(rigid[None])
        angle, (down, right) = float(rigid[0]), shift[0].tolist()
        if abs(angle) >= 0.05:
            words.append(f"turned {abs(angle):.1f} degrees {'counter-clockwise' if angle > 0 else 'clockwise'}")
        shifts = []
        if abs(down) >= 0.05:
            shifts.append(f"{abs(down):.1f} px {'down' if down > 0 else 'up'}")
        if abs(right) >= 0.05:
            shifts.append(f"{abs(right):.1f} px {'right' if right > 0 else 'left'}")
        words = [*shifts, *words] if bool(first) else [*words, *shifts]
    if flow is not None:
        words.append(f"bent by up to {brief(float(flow.abs().amax()))} px")
    return ", ".join(words) or "not moved"


def _arrows(flow: Tensor) -> tuple[tuple[float, float, float, float], ...]:
    """Return arrows along which content moves: output pixel p shows what lay at p + flow, so that moves to p."""
    height, width = flow.shape[-2:]
    step = max(1, -(-max(height, width) // ARROWS))
    return tuple(
        (c + float(flow[1, r, c]), r + float(flow[0, r, c]), -float(flow[1, r, c]), -float(flow[0, r, c]))
        for r in range(step // 2, height, step)
        for c in range(step // 2, width, step)
    )
