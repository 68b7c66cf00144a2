"""What the report shows of an attack taken apart by interaction order."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from pellucid.core import Axis, Curve, Exhibit, Heatmap, Interval, Line, Players, Subject, Table, number, numbers
from pellucid.explain import AttackOrders, CorrectionRate, OrderDetector, PairAttackOrders, Recovery

from .._wording import brief


@dataclass(frozen=True, eq=False)
class Parts:
    """Everything that was measured of the attacked samples."""

    orders: AttackOrders
    detector: OrderDetector
    recovery: Recovery
    corrections: tuple[CorrectionRate, ...]

    @property
    def evaluations(self) -> int:
        """Model evaluations spent on them."""
        known = self.orders.evaluations + self.detector.evaluations + self.recovery.evaluations
        return known + sum(found.evaluations for found in self.corrections)


def exhibits(subject: Subject, parts: Parts, players: Players, *, high: float) -> tuple[Exhibit, ...]:
    """Return the waterfall, the curves, the defences and the context maps.

    Args:
        subject: the samples that were taken apart.
        parts: what was measured of them.
        players: of one sample.
        high: share of the other parts from which on a context is large.
    """
    orders, pairs = parts.orders, parts.orders.pairs
    return (
        _waterfall(orders),
        _curves(orders),
        *([] if pairs is None else [_agreement(pairs)]),
        _areas(parts.detector),
        _defences(parts),
        *([] if pairs is None else _maps(pairs, players)),
    )


def _waterfall(orders: AttackOrders) -> Curve:
    edges = (orders.edges.double() / max(1, orders.n_players - 1)).tolist()
    names = ["single parts", *(f"{a:.0%} to {b:.0%}" for a, b in pairwise(edges)), "total"]
    if bool(orders.baseline_change.any()):
        names.insert(0, "baseline")
    lines = [_bars("log probability", orders), *([] if orders.beside is None else [_bars("log odds", orders.beside)])]
    return Curve(
        title="The drop of the score, taken apart",
        x=Axis("share of the other parts present"),
        y=Axis("part of the drop"),
        lines=tuple(lines),
        bars=True,
        categories=tuple(names),
        caption="What single parts lose alone, what the interactions of each range of orders lose, and their sum, the "
        "drop of the score of the true class; means over samples with 95% intervals. The means add up exactly.",
    )


def _bars(name: str, orders: AttackOrders) -> Line:
    columns = [orders.first_order[:, None], orders.utilities, orders.total[:, None]]
    if bool(orders.baseline_change.any()):
        columns.insert(0, orders.baseline_change[:, None])
    values = torch.cat(columns, dim=1)
    mean, error = values.mean(0), 1.96 * values.std(0, correction=1) / len(values) ** 0.5
    at = numbers(range(len(mean)))
    return Line(name=name, x=at, y=numbers(mean), low=numbers(mean - error), high=numbers(mean + error))


def _line(name: str, x: Tensor, band: Interval[Tensor]) -> Line:
    return Line(name=name, x=numbers(x), y=numbers(band.value), low=numbers(band.low), high=numbers(band.high))


def _curves(orders: AttackOrders) -> Curve:
    return Curve(
        title="Mean interaction of all pairs, by order",
        x=Axis("share of the other parts present", "%"),
        y=Axis("mean interaction, in log probability"),
        lines=(
            _line("normal inputs", orders.ratios, orders.order_curve("normal")),
            _line("attacked inputs", orders.ratios, orders.order_curve("attacked")),
        ),
        caption="Signed: where interactions of opposite sign cancel, the curve is near 0. Bands are 95% intervals over "
        "samples.",
    )


def _agreement(pairs: PairAttackOrders) -> Curve:
    found = pairs.disentanglement()
    sides = [Interval(found.value[:, k], found.low[:, k], found.high[:, k]) for k in range(2)]
    contexts = 1 / float(pairs.floor.min()) ** 2
    left = int(pairs.left_out.sum())
    return Curve(
        title="Do contexts agree on how pairs interact?",
        x=Axis("share of the other parts present", "%"),
        y=Axis("disentanglement"),
        lines=(
            _line("normal inputs", pairs.ratios, sides[0]),
            _line("attacked inputs", pairs.ratios, sides[1]),
            Line(name="no agreement at all", x=numbers(pairs.ratios), y=numbers(pairs.floor), role="reference"),
        ),
        caption="1: a pair interacts with the same sign in every context, in favor of one class; the dashed line is "
        f"what {contexts:.0f} contexts without any agreement give, 1 / sqrt(contexts)."
        + (f" {left} pairs that do not interact at all are left out." if left else ""),
    )


def _areas(detector: OrderDetector) -> Curve:
    names = {"interquartile": "interquartile range", "deviation": "standard deviation"}
    x = detector.ratios
    return Curve(
        title="Do attributions of this order tell attacked inputs from normal ones?",
        x=Axis("share of the other parts present", "%"),
        y=Axis("area under the curve"),
        lines=(
            *(_line(names[kind], x, found) for kind, found in detector.auroc.items()),
            Line(name="chance", x=numbers(x), y=(0.5,) * len(x), role="reference"),
        ),
        caption="By the spread of the attributions of all parts, in contexts of so many others; at 100% it is leaving "
        "one part out. The direction is chosen on one half of the samples and judged on the other.",
    )


def _defences(parts: Parts) -> Table:
    recovery = parts.recovery
    rows: list[tuple[str, float | None, float | None, float | None, float | None, str]] = [
        (
            found.treatment,
            number(found.rate.value),
            number(found.rate.low),
            number(found.rate.high),
            None if found.kept is None else number(found.kept.value),
            "",
        )
        for found in parts.corrections
    ]
    lengths = (float(recovery.attack_distance.mean()), float(recovery.recovered_distance.mean()))
    rows.append(
        (
            "attack back to the true class",
            number(recovery.restored.value),
            number(recovery.restored.low),
            number(recovery.restored.high),
            None,
            f"{recovery.near.value:.0%} near the original; mean distance {brief(lengths[1])}, of the attack "
            f"{brief(lengths[0])}",
        )
    )
    return Table(
        title="What undoes the attack",
        columns=("treatment", "right again", "low", "high", "normal inputs still right", "remark"),
        rows=tuple(rows),
        units=("", "%", "%", "%", "%", ""),
        caption="Share of the attacked samples that the model gets right afterwards, with its 95% interval. Dropped "
        "pixels show the mean of those around them; a cut-out square shows the mean of the rest.",
    )


def _maps(pairs: PairAttackOrders, players: Players) -> tuple[Heatmap, ...]:
    """Return who is present when strong pairs interact, at the lowest and the highest order."""
    if players.grid is None:
        return ()
    rows, columns = players.grid
    made = []
    for order in sorted({int(pairs.orders[0]), int(pairs.orders[-1])}):
        found = pairs.context_map(order, "attacked").view(rows, columns)
        whole = (100 * found / (float(found.abs().max()) or 1.0)).round()
        made.append(
            Heatmap(
                title=f"Context of the strongest pairs, {order / max(1, pairs.n_players - 2):.0%} of others present",
                rows=tuple(str(r + 1) for r in range(rows)),
                columns=tuple(str(c + 1) for c in range(columns)),
                values=tuple(numbers(row) for row in whole),
                row_label="row",
                column_label="column",
                diverging=True,
                caption="Attacked inputs: which cells are present when a pair interacts as it does on average, above "
                "what contexts of that size hold; in percent of the strongest cell.",
            )
        )
    return tuple(made)
