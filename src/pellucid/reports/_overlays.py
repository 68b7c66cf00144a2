"""From images under maps to what draws them: every map is one small PNG with colors of its own. Pure data to data.

Strengths run from black over red to a light yellow, the more opaque the stronger; classes have colors that color-blind
people tell apart too, as long as there are few. Both lie over the image in gray, so that no color of the image is taken
for one of the map.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from pellucid.core import NOBODY, Overlaid, Overlay, Overlays

from ._pictures import png_url

LARGEST_IMAGE = 320
LARGEST_MAP = 48
FEW = 8  # maps of one image, which may be finer
LARGEST_CLASSES = 192  # borders between classes should stay sharp
LEVELS = 32
"""Strengths that are told apart on the page: more of them nobody sees, and they would be stored."""

COLORS = (
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#f0e442", "#56b4e9", "#d55e00", "#7f3c8d", "#a5aa99", "#4b4b8f",
    "#80ba5a", "#e73f74",
)  # fmt: skip
"""Of classes: those of Okabe and Ito (2008) first, which color-blind people tell apart."""

NOTHING = "#8a8a8a"
"""Where there is no class."""

_INFERNO = (
    (0, 0, 4), (31, 12, 72), (85, 15, 109), (136, 34, 106), (186, 54, 85), (227, 89, 51), (249, 140, 10),
    (249, 201, 50), (252, 255, 164),
)  # fmt: skip
_FAINTEST, _STRONGEST = 0.35, 0.9  # opacity of the weakest and of the strongest value


@dataclass(frozen=True)
class DrawnMap:
    """One map: its label, what is said of it, its PNG as a data URL, and whether it holds classes."""

    label: str
    caption: str
    url: str
    classes: bool


@dataclass(frozen=True)
class DrawnImage:
    """One image with its maps; sizes in pixels, the unit of the drawing; the map of number `first` is shown first."""

    title: str
    caption: str
    url: str
    width: int
    height: int
    maps: tuple[DrawnMap, ...]
    first: int


@dataclass(frozen=True)
class DrawnOverlays:
    """Images under maps ready for the page.

    Args:
        images: in their order.
        keys: name and color of each class that occurs.
        ramp: colors of strengths from the weakest to the strongest, for their scale; empty without such maps.
        size: class of the thumbnails: the more of them, the smaller.
    """

    images: tuple[DrawnImage, ...]
    keys: tuple[tuple[str, str], ...]
    ramp: tuple[str, ...]
    size: str


def drawn_overlays(overlays: Overlays) -> DrawnOverlays:
    """Return what a page shows of images under maps."""
    maps = [overlay for picture in overlays.pictures for overlay in picture.overlays]
    most = max((len(picture.overlays) for picture in overlays.pictures), default=0)
    seen = sorted({int(value) for overlay in maps if overlay.classes for value in np.unique(overlay.values)})
    colors = class_colors(len(overlays.classes))
    keys = tuple((overlays.classes[k], colors[k]) for k in seen if k != NOBODY)
    return DrawnOverlays(
        images=tuple(_image(picture, colors) for picture in overlays.pictures),
        keys=(*keys, ("no label", NOTHING)) if NOBODY in seen else keys,
        ramp=tuple(_hex(_strength(k / 10)) for k in range(11)) if any(not o.classes for o in maps) else (),
        size=next(size for least, size in ((40, "crowd"), (20, "many"), (0, "")) if most >= least),
    )


def overlays_problem(overlays: Overlays) -> str:
    """Return the first thing that keeps images under maps from being drawn; empty if nothing."""
    for picture in overlays.pictures:
        pixels = picture.pixels
        if pixels.dtype != np.uint8 or 0 in pixels.shape or pixels.shape[2:] not in ((), (3,)) or pixels.ndim < 2:
            return f"picture {picture.title!r} must be uint8 (H, W) or (H, W, 3), got {_kind(pixels)}"
        if not picture.overlays:
            return f"picture {picture.title!r} has no map over it; show it in a gallery"
        for overlay in picture.overlays:
            values = overlay.values
            if values.dtype != np.uint8 or values.ndim != 2 or 0 in values.shape:
                return f"map {overlay.label!r} of {picture.title!r} must be uint8 (h, w), got {_kind(values)}"
            known = values[values != NOBODY]
            if overlay.classes and known.size and int(known.max()) >= len(overlays.classes):
                return (
                    f"map {overlay.label!r} of {picture.title!r} holds class {int(known.max())}, and there are "
                    f"{len(overlays.classes)} names of classes"
                )
    return ""


def class_colors(count: int) -> tuple[str, ...]:
    """Return a color for each class; beyond the named ones they come again, lighter and darker."""
    colors = list(COLORS)
    for share, end in ((0.5, 255), (0.45, 0), (0.75, 255), (0.7, 0)):
        colors += [_hex(_mixed(_rgb(color), share, end)) for color in COLORS]
    return tuple(colors[k % len(colors)] for k in range(count))


def _kind(array: np.ndarray) -> str:
    return f"{array.dtype} {tuple(array.shape)}"


def _image(picture: Overlaid, colors: Sequence[str]) -> DrawnImage:
    height, width = picture.pixels.shape[:2]
    finest = LARGEST_CLASSES if len(picture.overlays) <= FEW else LARGEST_MAP
    strengths = [k for k, overlay in enumerate(picture.overlays, start=1) if not overlay.classes]
    return DrawnImage(
        title=picture.title,
        caption=picture.caption,
        url=_photograph(picture.pixels),
        width=width,
        height=height,
        maps=tuple(
            DrawnMap(overlay.label, overlay.caption, _map_url(overlay, colors, finest), overlay.classes)
            for overlay in picture.overlays
        ),
        first=strengths[0] if strengths else 1,
    )


def _photograph(pixels: np.ndarray) -> str:
    """Return an image as a data URL: PNG where that is small, as of drawings and digits, else JPEG."""
    image = Image.fromarray(pixels)
    if max(image.size) > LARGEST_IMAGE:
        image.thumbnail((LARGEST_IMAGE, LARGEST_IMAGE), Image.Resampling.LANCZOS)
    exact = png_url(image)
    if len(exact) < 12_000:
        return exact
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _map_url(overlay: Overlay, colors: Sequence[str], finest: int) -> str:
    """Return a map as a PNG with a palette: what it shows is in its bytes, how it looks in its colors."""
    if overlay.classes:
        image = _shrunk(overlay.values, LARGEST_CLASSES, Image.Resampling.NEAREST)
        palette = [channel for color in colors[:NOBODY] for channel in _rgb(color)]
        palette += [0] * (3 * NOBODY - len(palette)) + list(_rgb(NOTHING))
        return _paletted(np.asarray(image), palette, [])
    image = _shrunk(overlay.values, finest, Image.Resampling.BOX)
    levels = np.rint(np.asarray(image, dtype=float) / 255 * (LEVELS - 1)).astype(np.uint8)
    shares = [k / (LEVELS - 1) for k in range(LEVELS)]
    palette = [channel for share in shares for channel in _strength(share)]
    opacity = [round(255 * (_FAINTEST + (_STRONGEST - _FAINTEST) * share)) for share in shares]
    return _paletted(levels, palette, opacity)


def _shrunk(values: np.ndarray, most: int, way: Image.Resampling) -> Image.Image:
    image = Image.fromarray(np.ascontiguousarray(values))
    shrink = most / max(image.size)
    if shrink >= 1:
        return image
    return image.resize((max(1, round(shrink * image.width)), max(1, round(shrink * image.height))), way)


def _paletted(values: np.ndarray, palette: list[int], opacity: list[int]) -> str:
    image = Image.fromarray(values).convert("P")
    image.putpalette(palette)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True, **({"transparency": bytes(opacity)} if opacity else {}))
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _strength(share: float) -> tuple[int, int, int]:
    place = share * (len(_INFERNO) - 1)
    k = min(int(place), len(_INFERNO) - 2)
    red, green, blue = (round(a + (place - k) * (b - a)) for a, b in zip(_INFERNO[k], _INFERNO[k + 1], strict=True))
    return red, green, blue


def _mixed(color: tuple[int, int, int], share: float, end: int) -> tuple[int, int, int]:
    red, green, blue = (round(channel + share * (end - channel)) for channel in color)
    return red, green, blue


def _rgb(color: str) -> tuple[int, int, int]:
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


def _hex(color: tuple[int, int, int]) -> str:
    return "#" + "".join(f"{channel:02x}" for channel in color)
