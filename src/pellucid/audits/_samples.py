"""Which samples a probe looks at, and how a sample becomes a picture."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pellucid.core import NOBODY, Mark, Picture, Stream, Subject


def draw(subject: Subject, n: int, *, rng: Stream, among: Tensor | None = None) -> Tensor:
    """Draw `n` row numbers, as evenly over the classes as they allow, in ascending order; of masks by the lot alone.

    A sample's place in the queue depends on (stream, sample id) alone, so a draw of 8 is part of a draw of 16.

    Args:
        subject: whose samples.
        n: how many; all of them when there are fewer.
        rng: where chance comes from.
        among: row numbers to draw from; all rows if not given.
    """
    rows = torch.arange(len(subject)) if among is None else among
    queue = rng.at(subject.ids[rows]).bits((len(rows),)).argsort(stable=True)
    rows = rows[queue]
    if subject.labels is not None and not subject.dense:  # an image of many pixels has no class of its own
        labels = subject.labels[rows]
        turn = torch.zeros(len(rows), dtype=torch.int64)
        for label in range(subject.n_classes):
            own = labels == label
            turn[own] = torch.arange(int(own.sum()))
        rows = rows[turn.argsort(stable=True)]
    return rows[:n].sort().values


def ids_of(subject: Subject, rows: Tensor | None = None) -> tuple[int, ...]:
    """Return the sample ids of some rows as plain integers."""
    ids = subject.ids if rows is None else subject.ids[rows]
    return tuple(int(i) for i in ids)


def picture(
    x: Tensor,
    *,
    title: str,
    bounds: tuple[float, float] | None,
    caption: str = "",
    grid: tuple[int, int] | None = None,
    owner: Tensor | None = None,
    marks: tuple[Mark, ...] = (),
    arrows: tuple[tuple[float, float, float, float], ...] = (),
) -> Picture:
    """Return one image `(C, H, W)` as a picture; images without known bounds are stretched to their own range.

    Args:
        x, title, caption, grid, marks, arrows: see `Picture`.
        bounds: of the images.
        owner: `(H, W)`, the player of each pixel, negative for none, where players are segments.
    """
    x = x.detach().float().cpu()
    low, high = bounds if bounds is not None else (float(x.min()), float(x.max()))
    scaled = ((x - low) / (high - low if high > low else 1.0)).clamp(0, 1) * 255
    pixels = scaled.round().to(torch.uint8)
    shown = pixels.permute(1, 2, 0) if len(pixels) == 3 else pixels.float().mean(0).round().to(torch.uint8)
    owners = None if owner is None else torch.where(owner < 0, NOBODY, owner).to(torch.uint8).cpu().numpy()
    return Picture(
        pixels=np.ascontiguousarray(shown.numpy()),
        title=title,
        caption=caption,
        grid=grid,
        owners=owners,
        marks=marks,
        arrows=arrows,
    )
