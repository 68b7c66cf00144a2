"""What an image classifier relies on: its accuracy when the parts change places, and when frequencies are missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pellucid.core import (
    ALONE,
    DataError,
    Interval,
    Model,
    ModelError,
    OnStep,
    PairedTest,
    Stream,
    Work,
    check_pictures,
    device_of,
    evaluating,
    mcnemar,
    wilson,
)

Images = Float[Tensor, "samples channels height width"]
Kind = Literal["shuffled", "low-pass", "high-pass"]

GRIDS = (2, 4)
RADII = (0.125, 0.25, 0.5)


# -- views of an image -----------------------------------------------------------------------------------------------


def patch_shuffled(x: Images, grid: int, *, rng: Stream) -> Images:
    """Cut each image into `grid` x `grid` equal patches and give every patch the place of another.

    The order is a random cycle through all patches, each sample's own: no patch keeps its place. Pixels beyond the
    last whole patch, at the right and at the bottom, stay where they are. Textures within patches survive, the
    arrangement does not.

    Args:
        x: images.
        grid: patches per side; 1 changes nothing.
        rng: bind it to sample ids with `rng.at(ids)`.

    Raises:
        DataError: no images.
        ValueError: fewer than one patch per side, or more than pixels.
    """
    check_pictures(x)
    n, channels, height, width = x.shape
    if not 1 <= grid <= min(height, width):
        raise ValueError(f"grid must be 1 to {min(height, width)} patches per side, got {grid}")
    h, w = height // grid, width // grid
    order = rng.child("shuffle", grid).bits((n, grid**2)).argsort(dim=1, stable=True)
    source = torch.empty_like(order).scatter_(1, order, order.roll(1, 1)).to(x.device)
    whole = x[:, :, : grid * h, : grid * w].reshape(n, channels, grid, h, grid, w)
    patches = whole.permute(0, 2, 4, 1, 3, 5).reshape(n, grid**2, channels, h, w)
    moved = patches.gather(1, source[:, :, None, None, None].expand_as(patches))
    result = x.clone()
    result[:, :, : grid * h, : grid * w] = (
        moved.reshape(n, grid, grid, channels, h, w).permute(0, 3, 1, 4, 2, 5).reshape(n, channels, grid * h, grid * w)
    )
    return result


def low_pass(x: Images, radius: float) -> Images:
    """Keep only the coarse structure: the frequencies up to `radius` times the Nyquist frequency, in every direction.

    Args:
        x: images.
        radius: share of the Nyquist frequency, half a cycle per pixel; 0 keeps the mean alone, 1.5 everything.

    Raises:
        DataError: no images.
        ValueError: a radius that is not a number from 0 on.
    """
    check_pictures(x)
    if not 0 <= radius < float("inf"):
        raise ValueError(f"radius must be a share of the Nyquist frequency from 0 on, got {radius!r}")
    precise = x.double()
    rows, columns = (
        torch.fft.fftfreq(side, dtype=torch.float64, device=x.device).abs() / 0.5 for side in precise.shape[2:]
    )
    keep = (rows[:, None].square() + columns.square()).sqrt() <= radius + 1e-12
    passed: Tensor = torch.fft.ifft2(torch.fft.fft2(precise) * keep).real
    return passed.to(x.dtype)


def high_pass(x: Images, radius: float) -> Images:
    """Keep only the fine structure: `x` minus `low_pass(x, radius)`, which has mean 0 in every channel."""
    return x - low_pass(x, radius)


# -- accuracy on them ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reliance:
    """Accuracy on images whose parts changed places or whose frequencies are partly missing.

    Args:
        kinds: of each view: "shuffled", "low-pass" or "high-pass".
        settings: of each view: patches per side, or radius as a share of the Nyquist frequency.
        clean: accuracy on the images as they are.
        accuracy: accuracy `(V,)` on each view with Wilson's 95% interval.
        difference: per view, its accuracy minus the clean one on the same images.
        answers: `(N, V)` classes answered.
        correct: `(N, V)` whether they are right.
        clean_correct: `(N,)` whether the answer to the image as it is is right.
        evaluations: model evaluations spent.
    """

    kinds: tuple[Kind, ...]
    settings: tuple[float, ...]
    clean: Interval[float]
    accuracy: Interval[Tensor]
    difference: tuple[PairedTest, ...]
    answers: Int[Tensor, "N V"]
    correct: Bool[Tensor, "N V"]
    clean_correct: Bool[Tensor, " N"]
    evaluations: int

    @property
    def names(self) -> tuple[str, ...]:
        """What to call each view."""
        return tuple(
            f"shuffled {setting:g}x{setting:g}" if kind == "shuffled" else f"{kind} {setting:g}"
            for kind, setting in zip(self.kinds, self.settings, strict=True)
        )

    def at(self, kind: Kind, setting: float) -> int:
        """Return the number of a view.

        Raises:
            ValueError: no such view was measured.
        """
        for number, view in enumerate(zip(self.kinds, self.settings, strict=True)):
            if view == (kind, setting):
                return number
        raise ValueError(f"no view is {kind} {setting:g}; measured are {', '.join(self.names)}")

    def lost(self, view: int) -> Interval[float]:
        """Return which share of the images that are right as they are is wrong in a view; NaN where none is right."""
        right = self.clean_correct
        return wilson(int((right & ~self.correct[:, view]).sum()), int(right.sum()))


def cost_reliance(samples: int, *, views: int = len(GRIDS) + 2 * len(RADII)) -> int:
    """Return the evaluations that `reliance` spends: one for each image as it is and one for each of its views."""
    return samples * (1 + views)


def reliance(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    grids: Sequence[int] = GRIDS,
    low: Sequence[float] = RADII,
    high: Sequence[float] = RADII,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    rng: Stream,
    batch_size: int = 256,
    work: Work = ALONE,
) -> Reliance:
    """Does the model need the arrangement of the parts, the coarse structure, or fine detail?

    Accuracy on images whose patches changed places (a model that knows objects by their shape fails, one that knows
    them by local texture does not), on low-passed images (one that needs texture and edges fails) and on high-passed
    ones (one that needs brightness and coarse shape fails). High-passed images get their mean back; all views are cut
    to `bounds`.

    Args:
        model: maps `(b, C, H, W)` to logits `(b, K)`; its own device is used.
        x: images `(N, C, H, W)`.
        y: true labels `(N,)`.
        grids: patches per side of the shuffled views.
        low, high: radii of the low-passed and the high-passed views, as shares of the Nyquist frequency.
        bounds: least and greatest legal value; None for none.
        rng: bind it to sample ids with `rng.at(ids)`.
        batch_size: images per forward.
        work: how it is watched, kept and shared out.

    Raises:
        DataError: no images, or labels that do not fit.
        ModelError: the model returns no `(b, K)` logits, or NaN.
        ValueError: no view at all, or a setting that fits no image.
    """
    check_pictures(x)
    if y.shape != (len(x),) or y.dtype != torch.int64:
        raise DataError(f"y must be int64 of shape ({len(x)},), got {y.dtype} of shape {tuple(y.shape)}")
    views: list[tuple[Kind, float]] = [("shuffled", grid) for grid in grids]
    views += [("low-pass", radius) for radius in low]
    views += [("high-pass", radius) for radius in high]
    if not views:
        raise ValueError("name at least one grid or radius: there is nothing to compare with the clean images")
    for kind, setting in views:
        view_of(x[:1], kind, setting, bounds=bounds, rng=Stream(0))  # a setting that does not fit is told at once
    ids = torch.arange(len(x)) if rng.ids is None else rng.ids.cpu()
    if len(ids) != len(x):
        raise ValueError(f"rng is bound to {len(ids)} samples but x holds {len(x)}")
    device = device_of(model)

    def compute(rows: Tensor, on_step: OnStep) -> dict[str, Tensor]:
        part, own = x[rows].to(device), rng.at(ids[rows])
        found = [_answers(model, part, ids[rows])]
        for kind, setting in views:
            seen = view_of(part, kind, setting, bounds=bounds, rng=own)
            found.append(_answers(model, seen, ids[rows]))
            on_step(len(found), 1 + len(views))
        return {"answers": torch.stack(found, 1)}

    key = f"{views}|{bounds}|{rng.seed}"
    given = work.map("reliance", ids, compute, chunk=batch_size, key=key)["answers"]
    right = given == y.cpu()[:, None]
    clean, seen = right[:, 0], right[:, 1:]
    return Reliance(
        kinds=tuple(kind for kind, _ in views),
        settings=tuple(float(setting) for _, setting in views),
        clean=wilson(int(clean.sum()), len(x)),
        accuracy=wilson(seen.sum(0), len(x)),
        difference=tuple(mcnemar(clean, seen[:, k]) for k in range(len(views))),
        answers=given[:, 1:],
        correct=seen,
        clean_correct=clean,
        evaluations=cost_reliance(len(x), views=len(views)),
    )


def view_of(x: Images, kind: Kind, setting: float, *, bounds: tuple[float, float] | None, rng: Stream) -> Images:
    """Return what `reliance` shows the model: shuffled, or low- or high-passed with its mean, within `bounds`."""
    if kind == "shuffled":
        if setting != int(setting):
            raise ValueError(f"grid must be a whole number of patches per side, got {setting!r}")
        seen = patch_shuffled(x, int(setting), rng=rng)
    elif kind == "low-pass":
        seen = low_pass(x, setting)
    else:
        seen = high_pass(x, setting) + x.mean((2, 3), keepdim=True)
    return seen if bounds is None else seen.clamp(*bounds)


def _answers(model: Model, x: Tensor, ids: Tensor) -> Tensor:
    with evaluating(model, precise=False), torch.no_grad():
        logits = model(x)
    if not (isinstance(logits, Tensor) and logits.ndim == 2 and len(logits) == len(x) and logits.shape[1] > 1):
        raise ModelError(f"the model must return logits of shape ({len(x)}, K) with K >= 2")
    broken = (~logits.isfinite()).any(1).nonzero()
    if len(broken):
        raise ModelError(f"the model gives NaN or infinity for sample {int(ids[int(broken[0])])}")
    return logits.argmax(1).cpu()
