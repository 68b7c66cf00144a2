"""What takes the place of absent players: one baseline, or the average over many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Marginal:
    """Averages a coalition's worth over many baselines, the rows of `samples`, in place of choosing one.

    The worth is averaged, not the input: each coalition costs one evaluation per sample.

    Args:
        samples: `(K, ...)`, each fits one input.

    Example:
        >>> import torch
        >>> Marginal(torch.zeros(8, 3)).samples.shape[0]
        8
    """

    samples: Tensor

    def __post_init__(self) -> None:
        if not self.samples.ndim or not len(self.samples):
            raise ValueError(f"Marginal needs samples (K, ...) with K >= 1, got shape {tuple(self.samples.shape)}")


Fill = str | Tensor | Marginal


def check_fill(fill: Fill, names: Sequence[str]) -> None:
    """Raise a `ValueError` unless `fill` is a tensor, a `Marginal` or one of the names that these players know."""
    if isinstance(fill, str) and fill not in names:
        known = ", ".join(f'"{name}"' for name in names)
        raise ValueError(f"fill must be {known}, a tensor or Marginal(samples), got {fill!r}")


def mean_of(background: Tensor | None, kind: str) -> Tensor:
    """Return the mean over a batch of inputs, float64."""
    if background is None:
        raise ValueError(f'fill="mean" needs background=, a batch of {kind}; or choose fill="zero" or a tensor')
    return background.detach().to(torch.float64).mean(0)


def fitted(baseline: Tensor | Marginal, x: Tensor) -> tuple[Tensor, int]:
    """Return a baseline in the input's own type, with the number of backgrounds (0 for one baseline).

    Raises:
        ValueError: it does not fit the input, or it has fractions where the input holds integers.
    """
    values, backgrounds = (baseline.samples, len(baseline.samples)) if isinstance(baseline, Marginal) else (baseline, 0)
    values = values.detach()
    if values.is_floating_point() and not x.is_floating_point():
        raise ValueError(
            f"the input holds integers ({x.dtype}) but the baseline has {values.dtype}; fill with integers, or play on "
            "embeddings"
        )
    one = values.shape[1:] if backgrounds else values.shape
    try:
        torch.broadcast_to(torch.empty(one, device="meta"), x.shape)
    except RuntimeError:
        raise ValueError(
            f"the baseline has shape {tuple(one)}, which does not fit an input of {tuple(x.shape)}"
        ) from None
    if backgrounds:  # rows must keep their own axis when they meet an input of more axes
        values = values.reshape(backgrounds, *(1,) * (x.ndim - len(one)), *one)
    return values.to(x.dtype), backgrounds


def image_baseline(x: Tensor, fill: Fill, background: Tensor | None, sigma: tuple[float, float]) -> Tensor | Marginal:
    """Return what an absent part of an image `(C, H, W)` shows; `sigma` is the blur's width, in rows and columns."""
    if not isinstance(fill, str):
        return fill
    if fill == "zero":
        return torch.zeros(1, 1, 1, dtype=x.dtype, device=x.device)
    if fill == "blur":
        height, width = x.shape[1:]
        down, across = (_gaussian(size, s).to(x.device) for size, s in zip((height, width), sigma, strict=True))
        return (down @ x.detach().to(torch.float64) @ across.T).to(x.dtype if x.is_floating_point() else torch.float64)
    return mean_of(background, "images").mean((1, 2), keepdim=True)


def _gaussian(size: int, sigma: float) -> Tensor:
    """A smoothing matrix whose rows sum to one, so that borders need no padding."""
    at = torch.arange(size, dtype=torch.float64)
    weights = torch.exp(-0.5 * ((at[:, None] - at[None, :]) / sigma) ** 2)
    return weights / weights.sum(1, keepdim=True)
