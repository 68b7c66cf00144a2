"""Images with maps over them: masks, answers and atoms as the exhibit `Overlays` takes them."""

from __future__ import annotations

import torch
from torch import Tensor

from pellucid.core import IGNORED, NOBODY, Overlaid, Overlay

from ._samples import picture


def laid_over(
    x: Tensor, overlays: tuple[Overlay, ...], *, title: str, bounds: tuple[float, float] | None, caption: str = ""
) -> Overlaid:
    """Return one image `(C, H, W)` with maps over it."""
    pixels = picture(x, title=title, bounds=bounds).pixels
    return Overlaid(pixels=pixels, title=title, caption=caption, overlays=overlays)


def mask_map(label: str, mask: Tensor, *, caption: str = "") -> Overlay:
    """Return a mask `(H, W)` as a map of classes; those beyond 254 are shown as none."""
    values = torch.where((mask == IGNORED) | (mask >= NOBODY), NOBODY, mask).to(torch.uint8).contiguous()
    return Overlay(label=label, values=values.cpu().numpy(), caption=caption, classes=True)


def strength_map(label: str, values: Tensor, *, most: float, caption: str = "") -> Overlay:
    """Return values `(h, w)` as a map of strengths from 0 to `most`; what is below 0 is shown as 0."""
    scaled = (values / most if most > 0 else values * 0).clamp(0, 1) * 255
    return Overlay(label=label, values=scaled.round().to(torch.uint8).contiguous().cpu().numpy(), caption=caption)
