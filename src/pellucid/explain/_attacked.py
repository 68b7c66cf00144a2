"""Pairs of a normal and an attacked input: what they must be, and on which of them the attack succeeded."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool, Int
from torch import Tensor

from pellucid.core import DataError, Model, Stream

from ._samples import check_samples, predicted


def check_attacked(
    x: Tensor, x_adv: Tensor, y: Tensor, bounds: tuple[float, float] | None, rng: Stream
) -> Int[Tensor, " samples"]:
    """Return the ids of the samples, after checking that normal and attacked inputs belong together.

    Raises:
        DataError: an attacked input is not finite, outside `bounds`, or unlike its normal one in shape or type.
        ValueError: labels or the stream do not fit.
    """
    ids = check_samples(x, y, rng)
    if x_adv.shape != x.shape:
        raise DataError(f"x_adv has shape {tuple(x_adv.shape)} but x {tuple(x.shape)}; give one attacked input per row")
    if x_adv.dtype != x.dtype:
        raise DataError(f"x_adv is {x_adv.dtype} but x {x.dtype}; convert one, so that both mean the same")
    for name, inputs in (("x", x), ("x_adv", x_adv)):
        flat = inputs.flatten(1)
        broken = (~flat.isfinite()).any(1).nonzero()
        if len(broken):
            raise DataError(f"{name} holds NaN or infinity in sample {int(ids[broken[0, 0]])}; repair the attack")
        if bounds is None:
            continue
        slack = 1e-6 * (bounds[1] - bounds[0])
        outside = ((flat < bounds[0] - slack) | (flat > bounds[1] + slack)).any(1).nonzero()
        if len(outside):
            row = int(outside[0, 0])
            raise DataError(
                f"{name} lies in [{float(flat[row].min()):g}, {float(flat[row].max()):g}] in sample {int(ids[row])}, "
                f"outside the bounds [{bounds[0]:g}, {bounds[1]:g}]; clamp the attack, or give other bounds"
            )
    return ids


@dataclass(frozen=True, eq=False)
class UsablePairs:
    """On which samples an attack succeeded.

    Args:
        rows: `(M,)`, row numbers of samples that the model gets right, and wrong under attack.
        wrong: `(N,)` bool, wrong without any attack.
        resisted: `(N,)` bool, right without and under attack.
        evaluations: model evaluations spent.
    """

    rows: Int[Tensor, " usable"]
    wrong: Bool[Tensor, " samples"]
    resisted: Bool[Tensor, " samples"]
    evaluations: int


def usable_pairs(model: Model, x: Tensor, x_adv: Tensor, y: Int[Tensor, " samples"]) -> UsablePairs:
    """On which samples did the attack succeed? Those that the model gets right, and wrong under attack.

    What an attack changes is explained on these; the others are counted.

    Args:
        model: maps a batch to logits.
        x: normal inputs `(N, ...)`.
        x_adv: attacked inputs, one per normal one.
        y: labels.
    """
    labels = y.cpu()
    right, fooled = predicted(model, x) == labels, predicted(model, x_adv) != labels
    return UsablePairs((right & fooled).nonzero()[:, 0], ~right, right & ~fooled, 2 * len(x))
