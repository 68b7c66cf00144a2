"""What stands beside an order spectrum: the theory curve, the weights of an order loss, the strongest pairs."""

from __future__ import annotations

import torch
from torch import Tensor

from pellucid.core import Axis, Curve, Gallery, Line, Mark, Subject, numbers
from pellucid.explain import BottleneckSpectrum
from pellucid.games import learning_strength, nested_sizes, order_weights

from .._players import is_image
from .._samples import picture

PAIRS_DRAWN = 3
EFFECTIVE = (4, 64)
"""Numbers of parts that `BottleneckSpectrum.effective_players` tries."""

SMALLEST = 1e-6
"""Least value that is drawn on a logarithmic axis: the theory falls to 1e-38 for 256 parts."""


def log_curve(ratios: Tensor, relative: Tensor, n_players: int, effective: int | None) -> Curve:
    """Return the measured curve and the theory's on a logarithmic axis, all as multiples of their first order."""
    x, lowest = numbers(ratios), 1.0

    def theory(n: int) -> Tensor:
        nonlocal lowest
        values = learning_strength(n, ratios * (n - 2)) if n != n_players else learning_strength(n, orders)
        lowest = min(lowest, float((values / values[0]).min()))
        return values / values[0]

    orders = (ratios * (n_players - 2)).round().long()
    start = float(relative[0]) or 1.0
    lines = [Line(name="measured", x=x, y=_drawn(relative / start))]
    lines.append(Line(name=f"theory for {n_players} parts", x=x, y=_drawn(theory(n_players)), role="reference"))
    best = ""
    if effective is not None and effective != n_players:
        lines.append(Line(name=f"theory for {effective} parts", x=x, y=_drawn(theory(effective)), role="reference"))
        best = f" With {effective} parts it comes closest to the measured one; that number describes a shape only."
        if effective in EFFECTIVE:
            best = f" Of {EFFECTIVE[0]} to {EFFECTIVE[1]} parts {effective} come closest, the end of that range; the "
            best += "number describes a shape only."
    hidden = f" Values below {SMALLEST:g} are not drawn: the theory falls to {lowest:.0e}." if lowest < SMALLEST else ""
    return Curve(
        title="Measured curve and theory",
        x=Axis("share of the other parts present", "%"),
        y=Axis("strength / strength of the first order", scale="log"),
        lines=tuple(lines),
        caption="The theory is an idealization, not a measurement: how strongly each order would be learned if the "
        f"gradients of different contexts were unrelated.{hidden}{best}",
    )


def _drawn(values: Tensor) -> tuple[float | None, ...]:
    return tuple(v if v is not None and v >= SMALLEST else None for v in numbers(values))


def omega_curves(subject: Subject) -> tuple[Curve, ...]:
    """Return how the order loss that the model was trained with weighs the orders; nothing without such a loss."""
    objective = subject.objective
    if objective.get("kind") != "interaction-order":
        return ()
    grid, lines = objective["grid"], []
    cells = grid**2 if isinstance(grid, int) else grid[0] * grid[1]
    n, alone = cells if is_image(subject) else subject.inputs.shape[1], False
    for part in (objective, *objective.get("also", ())):
        omega = order_weights(n, part["low"], part["high"])
        alone = alone or nested_sizes(n, part["low"], part["high"])[0] == 0
        ratios = torch.arange(n - 1, dtype=torch.float64) / max(1, n - 2)
        name = f"{part['mode']} {part['low']:g} to {part['high']:g}"
        lines.append(Line(name=name, x=numbers(ratios), y=numbers(omega / omega.max().clamp_min(1))))
    return (
        Curve(
            title="Orders that the training's order loss weighs",
            x=Axis("share of the other parts present", "%"),
            y=Axis("weight / largest weight"),
            lines=tuple(lines),
            caption=f"The model was trained with an order loss on {n} parts. A range of orders also holds lower ones: "
            "its weights are a tent with the peak at the range's lower end."
            + (" A range that starts at no part also holds what parts add alone." if alone else ""),
        ),
    )


def pairs_on_images(subject: Subject, result: BottleneckSpectrum, unit: str) -> tuple[Gallery, ...]:
    """Return the first image with the pairs that interact most on it, in contexts of three sizes."""
    if result.grid is None:
        return ()
    orders = result.orders.tolist()
    pictures = []
    for order in sorted({orders[0], orders[len(orders) // 2], orders[-1]}):
        pairs = result.strongest_pairs(order, sample=0, k=PAIRS_DRAWN)
        marks = tuple(Mark(cells=(i, j), weight=value, label=f"{value:+.2g}") for i, j, value in pairs)
        noise = float(result.floor_per_sample[0, orders.index(order)])
        title = f"{order / max(1, result.n_players - 2):.0%} of the others present, noise {noise:.1g}"
        pictures.append(picture(subject.inputs[0], bounds=subject.bounds, title=title, grid=result.grid, marks=marks))
    return (
        Gallery(
            title="Pairs that interact most on one image",
            pictures=tuple(pictures),
            caption=f"Of the measured pairs of the first sample; the number is the interaction in {unit}, noise "
            "what a pair without any would show on average.",
        ),
    )
