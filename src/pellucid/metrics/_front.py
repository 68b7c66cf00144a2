"""Trade-offs between several numbers: which models does no other beat everywhere, and how much do they cover?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pellucid.core import Number, Panel, showing


class FrontModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model of a front.

    Args:
        label: the setting it was trained with, as text, such as "0.25".
        seed: root of its chance.
        folder: where it lies, relative to the front's file.
        values, low, high: what was measured of it, by axis, with the ends of the 95 % interval.
        member: whether no other model beats it.
        steps, weights: the weight of each term of its training at some of the steps; empty where they never change.
    """

    label: str
    seed: int
    folder: str
    values: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    member: bool = False
    steps: tuple[int, ...] = ()
    weights: dict[str, tuple[float, ...]] = {}


def _panel(front: Front) -> Panel:
    return Panel(
        f"{front.name} over {front.over}",
        facts=(
            ("hypervolume", front.hypervolume),
            ("models that no other beats", f"{sum(model.member for model in front.models)} of {len(front.models)}"),
        ),
        columns=(front.over, "seed", *front.axes, "not beaten"),
        rows=tuple(
            (model.label, model.seed, *(f"{value:.1%}" for value in model.values), "yes" if model.member else "")
            for model in front.models
        ),
    )


@showing(_panel)
class Front(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Models that differ in one setting and in the seed, and how they trade one number against another.

    Args:
        name: of the recipe.
        over: the setting that differs, such as "weighting.rho".
        data: what they were trained and measured on.
        samples: how many samples were measured.
        axes, descriptions: the numbers, all shares of which larger is better, in short and in words.
        models: all of them, in the order of the settings.
        hypervolume: what all models together dominate, from 0 on every axis.
        by_seed: the same for the models of each seed.
        correlation: Spearman's, between each two axes over all models; None where an axis does not vary.
        complete: whether all models that were asked for are there.
    """

    name: str
    over: str
    data: str
    samples: int
    axes: tuple[str, ...]
    descriptions: tuple[str, ...]
    models: tuple[FrontModel, ...]
    hypervolume: float
    by_seed: dict[str, float]
    correlation: tuple[tuple[Number, ...], ...]
    complete: bool = True

    @classmethod
    def of(
        cls,
        models: Sequence[FrontModel],
        *,
        name: str,
        over: str,
        data: str,
        samples: int,
        axes: Mapping[str, str],
        complete: bool = True,
    ) -> Front:
        """Return the front of at least one model.

        Args:
            models: `member` is set here.
            name, over, data, samples, complete: see the class.
            axes: description by name of the axis, in the order of the models' values.
        """
        points = torch.tensor([model.values for model in models], dtype=torch.float64)
        zero, seeds = [0.0] * len(axes), [model.seed for model in models]
        members = pareto_front(points).tolist()
        return cls(
            name=name,
            over=over,
            data=data,
            samples=samples,
            axes=tuple(axes),
            descriptions=tuple(axes.values()),
            models=tuple(msgspec.structs.replace(m, member=flag) for m, flag in zip(models, members, strict=True)),
            hypervolume=hypervolume(points, zero),
            by_seed={
                str(seed): hypervolume(points[[k for k, other in enumerate(seeds) if other == seed]], zero)
                for seed in sorted(set(seeds))
            },
            correlation=rank_correlation(points),
            complete=complete,
        )


def rank_correlation(points: Float[Tensor, "n m"]) -> tuple[tuple[Number, ...], ...]:
    """Which numbers rise together over the points, and which trade against each other?

    Spearman's correlation of each two columns, ties with their mean rank; None where a column does not vary.

    Example:
        >>> rank_correlation(torch.tensor([[0.9, 0.1], [0.8, 0.5], [0.7, 0.6]]))
        ((1.0, -1.0), (-1.0, 1.0))
    """
    from scipy.stats import rankdata

    ranks = rankdata(_finite(points).cpu().numpy(), axis=0)
    ranks = ranks - ranks.mean(0)
    sizes = np.sqrt((ranks**2).sum(0))
    products = ranks.T @ ranks
    return tuple(
        tuple(
            round(float(products[i, j] / (sizes[i] * sizes[j])), 12) if sizes[i] * sizes[j] > 0 else None
            for j in range(len(sizes))
        )
        for i in range(len(sizes))
    )


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
        >>> round(hypervolume(torch.tensor([[0.9, 0.1], [0.8, 0.5]]), [0.0, 0.0]), 6)
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
