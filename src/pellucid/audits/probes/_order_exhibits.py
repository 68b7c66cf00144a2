"""What stands beside an order spectrum: the theory curve, the weights of an order loss, the strongest pairs."""

from __future__ import annotations

import torch
from torch import Tensor

from pellucid.core import Axis, Curve, Gallery, Line, Mark, Subject, numbers
from pellucid.explain import BottleneckSpectrum
from pellucid.games import learning_strength, order_weights

from .._players import is_image
from .._samples import picture

PAIRS_DRAWN = 3


def theory_line(ratios: Tensor, relative: Tensor, n_players: int) -> Line:
    """Return how strongly each order would be learned in theory, scaled to the first measured order."""
    theory = learning_strength(n_players, (ratios * (n_players - 2)).round().long())
    scaled = theory / theory[0] * relative[0]
    name = f"theory for {n_players} parts, from the first order"
    return Line(name=name, x=numbers(ratios), y=numbers(scaled), role="reference")


def omega_curves(subject: Subject) -> tuple[Curve, ...]:
    """Return how the order loss that the model was trained with weighs the orders; nothing without such a loss."""
    objective = subject.objective
    if objective.get("kind") != "interaction-order":
        return ()
    grid, lines = objective["grid"], []
    cells = grid**2 if isinstance(grid, int) else grid[0] * grid[1]
    n = cells if is_image(subject) else subject.inputs.shape[1]
    for part in (objective, *objective.get("also", ())):
        omega = order_weights(n, part["low"], part["high"])
        ratios = torch.arange(n - 1, dtype=torch.float64) / max(1, n - 2)
        name = f"{part['mode']} {part['low']:g} to {part['high']:g}"
        lines.append(Line(name=name, x=numbers(ratios), y=numbers(omega / omega.max())))
    return (
        Curve(
            title="Orders that the training's order loss weighs",
            x=Axis("share of the other parts present", "%"),
            y=Axis("weight / largest weight"),
            lines=tuple(lines),
            caption=f"The model was trained with an order loss on {n} parts. A range of orders also holds lower ones: "
            "its weights are a tent with the peak at the range's lower end.",
        ),
    )


def pairs_on_images(subject: Subject, result: BottleneckSpectrum) -> tuple[Gallery, ...]:
    """Return the first image with the pairs that interact most on it, in contexts of three sizes."""
    if result.grid is None:
        return ()
    orders = result.orders.tolist()
    pictures = []
    for order in sorted({orders[0], orders[len(orders) // 2], orders[-1]}):
        pairs = result.strongest_pairs(order, sample=0, k=PAIRS_DRAWN)
        marks = tuple(Mark(cells=(i, j), weight=value, label=f"{value:+.2g}") for i, j, value in pairs)
        title = f"{order / max(1, result.n_players - 2):.0%} of the others present"
        pictures.append(picture(subject.inputs[0], bounds=subject.bounds, title=title, grid=result.grid, marks=marks))
    return (
        Gallery(
            title="Pairs that interact most on one image",
            pictures=tuple(pictures),
            caption="Of the measured pairs of the first sample; the number is the interaction in log odds.",
        ),
    )
