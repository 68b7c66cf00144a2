"""Trade-offs between several numbers: which models does no other beat everywhere, and how much do they cover?"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def pareto_front(points: Float[Tensor, "n m"], *, maximize: bool = True) -> Bool[Tensor, " n"]:
    """Which points does no other point beat?

    A point is dominated when another is at least as good in every column and better in one. Equal points do not
    dominate each other: all of them stay.

    Args:
        points: one row per model, one column per number.
        maximize: larger is better; False where smaller is.

    Returns:
        True for the points of the front.

    Raises:
        ValueError: a number is not finite.

    Example:
        >>> pareto_front(torch.tensor([[0.9, 0.1], [0.8, 0.5], [0.7, 0.4]]))
        tensor([ True,  True, False])
    """
    values = _finite(points) if maximize else -_finite(points)
    no_worse = (values[:, None] >= values[None]).all(2)  # row i against column j
    better = (values[:, None] > values[None]).any(2)
    return ~(no_worse & better).any(0)


def hypervolume(points: Float[Tensor, "n m"], reference: Sequence[float] | Tensor, *, maximize: bool = True) -> float:
    """How much of the space do the points dominate?

    The exact volume of all values that are at least as good as the reference and that some point reaches: one number
    by which fronts compare. It grows with every point that is added to the front.

    Args:
        points: one row per model, one column per number; those that are nowhere better than the reference add nothing.
        reference: the worst value of each number, such as an accuracy of 0.
        maximize: larger is better; False where smaller is.

    Raises:
        ValueError: a number is not finite, or the reference has not one value per column.

    Example:
        >>> round(hypervolume(torch.tensor([[0.9, 0.1], [0.8, 0.5]]), [0.0, 0.0]), 12)
        0.41
    """
    values = _finite(points)
    worst = torch.as_tensor(reference, dtype=torch.float64, device=values.device)
    if worst.shape != values.shape[1:] or not bool(worst.isfinite().all()):
        raise ValueError(
            f"reference must be {values.shape[1]} finite numbers, one per column, got {tuple(worst.shape)}"
        )
    room = values - worst if maximize else worst - values
    return _volume(room[(room > 0).all(1)])


def _volume(room: Tensor) -> float:
    """Return the volume of the union of boxes [0, room] by slicing along the last axis."""
    if len(room) == 0:
        return 0.0
    if room.shape[1] == 1:
        return float(room.max())
    room = room[pareto_front(room)]
    room = room[room[:, -1].argsort(descending=True)]
    heights = [*room[:, -1].tolist(), 0.0]
    total = 0.0
    for k in range(len(room)):
        thickness = heights[k] - heights[k + 1]
        if thickness > 0:
            total += thickness * _volume(room[: k + 1, :-1])
    return total


def _finite(points: Tensor) -> Tensor:
    values = points.detach().to(torch.float64)
    if not bool(values.isfinite().all()):
        raise ValueError("points must be finite; leave out models without a number")
    return values
