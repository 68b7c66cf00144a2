"""Common corruptions: what cameras, transmission and storage do to pictures, at five severities, and the accuracy left.

The strengths are those of CIFAR-10-C for images of at most 64 pixels a side and those of ImageNet-C for larger ones
(Hendrycks and Dietterich 2019, arXiv:1903.12261). Lengths in pixels grow with small images from 32 pixels on, and are
in proportion to 224 pixels in larger ones. The code is our own, so numbers are near those of the published files and
not the same. Left out: fog, frost and snow, which need rendered clouds and photographs; glass blur, which is slow to do
one swap after the other; elastic transforms, which the attacks with flows cover.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from pellucid.core import (
    ALONE,
    DataError,
    Interval,
    Model,
    OnStep,
    PairedTest,
    Stream,
    Work,
    bootstrap,
    check_pictures,
    device_of,
    nearest,
    paired_difference,
    warp,
    wilson,
)

from ._logits import answers

Images = Float[Tensor, "samples channels height width"]
Change = Callable[[Tensor, float, float, Stream], Tensor]
"""Changes images in [0, 1]: images, the two numbers of its strength, a stream bound to the samples."""

SEVERITIES = (1, 2, 3, 4, 5)
SMALL = 64
"""Pixels of the longer side up to which the strengths are those of CIFAR-10-C."""

_SIDES = {"small": 32, "large": 224}
"""The images that lengths in pixels are given for."""


class Corruption(NamedTuple):
    """One kind of corruption.

    Args:
        group: noise, blur, light or digital.
        words: what it does, in a few words.
        small, large: its two numbers at each severity, for images of at most 64 pixels a side and for larger ones.
        change: what does it.
    """

    group: str
    words: str
    small: tuple[tuple[float, float], ...]
    large: tuple[tuple[float, float], ...]
    change: Change


# -- noise ---------------------------------------------------------------------------------------------------------


def _gaussian_noise(x: Tensor, deviation: float, _: float, rng: Stream) -> Tensor:
    return x + deviation * rng.normal(x.shape, device=x.device, dtype=x.dtype)


def _shot_noise(x: Tensor, photons: float, _: float, rng: Stream) -> Tensor:
    """Counts of photons, `photons` of them at full brightness; each sample has a generator of its own."""
    seeds = rng.bits((len(x),)).tolist()
    rates = (photons * x).cpu()
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    counts = [torch.poisson(rate, generator=own) for rate, own in zip(rates, generators, strict=True)]
    return torch.stack(counts).to(x) / photons


def _impulse_noise(x: Tensor, share: float, _: float, rng: Stream) -> Tensor:
    """Salt and pepper: elements that are stuck at the least or the greatest value, half of them each."""
    drawn = rng.uniform(x.shape, device=x.device)
    return torch.where(drawn < share / 2, 0.0, torch.where(drawn < share, 1.0, x))


# -- blur ----------------------------------------------------------------------------------------------------------


def _defocus_blur(x: Tensor, radius: float, softness: float, _: Stream) -> Tensor:
    """A disc in place of each point, its edge softened by a small Gaussian; pixels count by how far it covers them."""
    reach, parts = math.ceil(radius + 0.5), 8
    fine = (torch.arange((2 * reach + 1) * parts, dtype=x.dtype, device=x.device) + 0.5) / parts - 0.5 - reach
    covered = (fine[:, None].square() + fine.square() <= radius**2).to(x)
    disc = functional.avg_pool2d(covered[None], parts)[0]
    if radius <= 0.5:  # within one pixel
        disc = torch.zeros_like(disc)
        disc[reach, reach] = 1
    if softness > 0:
        half = 1 if radius <= 8 else 2
        soft = torch.exp(-torch.arange(-half, half + 1, dtype=x.dtype, device=x.device).square() / (2 * softness**2))
        disc = functional.conv2d(disc[None, None], (soft[:, None] * soft)[None, None], padding=2 * half)[0, 0]
    return _filtered(x, disc / disc.sum())


def _filtered(x: Tensor, kernel: Tensor) -> Tensor:
    """Every channel filtered alike; beyond its edges the picture goes on as it ends."""
    half = kernel.shape[0] // 2
    padded = functional.pad(x, (half, half, half, half), mode="replicate")
    single = padded.flatten(0, 1)[:, None]
    return functional.conv2d(single, kernel[None, None]).reshape(x.shape)


def _motion_blur(x: Tensor, radius: float, deviation: float, rng: Stream) -> Tensor:
    """A tail behind each point, in a direction of each sample's own, at most 45 degrees off the horizontal."""
    angle = rng.uniform((len(x),), low=-math.pi / 4, high=math.pi / 4, device=x.device, dtype=x.dtype)
    along = torch.stack((-angle.sin(), angle.cos()), 1)
    places = torch.arange(2 * math.ceil(radius) + 1, dtype=torch.float64)
    weights = torch.exp(-places.square() / (2 * deviation**2)) if deviation > 0 else (places == 0).double()
    weights = torch.where(weights > 1e-4, weights, 0.0)
    weights /= weights.sum()
    total = weights[0].item() * x
    for place, weight in zip(places[1:].tolist(), weights[1:].tolist(), strict=True):
        if weight > 0:
            total = total + weight * warp(x, shift=place * along, padding="border")
    return total


def _zoom_blur(x: Tensor, most: float, step: float, _: Stream) -> Tensor:
    """The mean of the picture and of it enlarged in steps, as from a lens that moves while it looks."""
    zooms = torch.arange(round((most - 1) / step), dtype=torch.float64) * step + 1
    total = x
    for zoom in zooms.tolist():
        scale = torch.tensor([[1 / zoom, 0, 0], [0, 1 / zoom, 0]], dtype=x.dtype, device=x.device)
        grid = functional.affine_grid(scale[None], [1, *x.shape[1:]], align_corners=False).expand(len(x), -1, -1, -1)
        total = total + functional.grid_sample(x, grid, padding_mode="border", align_corners=False)
    return total / (len(zooms) + 1)


# -- light ---------------------------------------------------------------------------------------------------------


def _brightness(x: Tensor, more: float, _: float, __: Stream) -> Tensor:
    """The brightest channel of each pixel gains `more`, the others in proportion: hue and saturation stay."""
    value = x.amax(1, keepdim=True)
    brighter = (value + more).clamp(0, 1)
    return torch.where(value > 0, x * (brighter / value.clamp(min=1e-12)), brighter)


def _contrast(x: Tensor, share: float, _: float, __: Stream) -> Tensor:
    mean = x.mean((2, 3), keepdim=True)
    return mean + share * (x - mean)


# -- digital -------------------------------------------------------------------------------------------------------


def _pixelate(x: Tensor, share: float, _: float, __: Stream) -> Tensor:
    """Fewer pixels, each the mean of those it replaces, shown at the old size."""
    fewer = (max(1, int(x.shape[2] * share)), max(1, int(x.shape[3] * share)))
    return functional.interpolate(functional.adaptive_avg_pool2d(x, fewer), size=x.shape[2:], mode="nearest-exact")


def _jpeg(x: Tensor, quality: float, _: float, __: Stream) -> Tensor:
    """Stored as JPEG and read again, in memory; images of neither one nor three channels one channel at a time."""
    from PIL import Image  # not needed to import the package

    def stored(pixels: np.ndarray) -> np.ndarray:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=int(quality))
        with Image.open(file) as image:
            return np.asarray(image)

    pixels = (255 * x).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    if pixels.shape[3] == 3:
        read = np.stack([stored(np.ascontiguousarray(one)) for one in pixels])
    else:
        channels = [[stored(np.ascontiguousarray(one[..., c])) for c in range(pixels.shape[3])] for one in pixels]
        read = np.stack([np.stack(one, axis=-1) for one in channels])
    return torch.from_numpy(read).permute(0, 3, 1, 2).to(x) / 255


def _one(*strengths: float) -> tuple[tuple[float, float], ...]:
    return tuple((strength, 0.0) for strength in strengths)


CORRUPTIONS: Mapping[str, Corruption] = MappingProxyType(
    {
        "gaussian-noise": Corruption(
            "noise",
            "noise of a sensor in low light",
            _one(0.04, 0.06, 0.08, 0.09, 0.10),
            _one(0.08, 0.12, 0.18, 0.26, 0.38),
            _gaussian_noise,
        ),
        "shot-noise": Corruption(
            "noise", "too few photons", _one(500, 250, 100, 75, 50), _one(60, 25, 12, 5, 3), _shot_noise
        ),
        "impulse-noise": Corruption(
            "noise",
            "elements stuck at black or white",
            _one(0.01, 0.02, 0.03, 0.05, 0.07),
            _one(0.03, 0.06, 0.09, 0.17, 0.27),
            _impulse_noise,
        ),
        "defocus-blur": Corruption(
            "blur",
            "out of focus",
            ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
            ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
            _defocus_blur,
        ),
        "motion-blur": Corruption(
            "blur",
            "the camera moves",
            ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
            ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
            _motion_blur,
        ),
        "zoom-blur": Corruption(
            "blur",
            "the camera moves toward the object",
            ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
            ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
            _zoom_blur,
        ),
        "brightness": Corruption(
            "light", "too bright", _one(0.05, 0.1, 0.15, 0.2, 0.3), _one(0.1, 0.2, 0.3, 0.4, 0.5), _brightness
        ),
        "contrast": Corruption(
            "light", "low contrast", _one(0.75, 0.5, 0.4, 0.3, 0.15), _one(0.4, 0.3, 0.2, 0.1, 0.05), _contrast
        ),
        "pixelate": Corruption(
            "digital", "fewer pixels", _one(0.95, 0.9, 0.85, 0.75, 0.65), _one(0.6, 0.5, 0.4, 0.3, 0.25), _pixelate
        ),
        "jpeg": Corruption("digital", "stored as JPEG", _one(80, 65, 58, 50, 40), _one(25, 18, 15, 10, 7), _jpeg),
    }
)
"""The common corruptions by name."""

_IN_PIXELS = {"defocus-blur": (True, False), "motion-blur": (True, True)}
"""Which numbers of a strength are lengths in pixels."""


def corruption_strength(name: str, severity: int, shape: Sequence[int]) -> tuple[float, float]:
    """Return the two numbers that say how strong a corruption is for images whose shape ends in height and width.

    Raises:
        ValueError: an unknown corruption, or a severity that is not 1 to 5.
    """
    if name not in CORRUPTIONS:
        raise ValueError(
            f"{name!r} is no corruption; {nearest(name, CORRUPTIONS)}the corruptions are {', '.join(CORRUPTIONS)}"
        )
    if severity not in SEVERITIES:
        raise ValueError(f"severity must be a whole number from 1 to 5, got {severity!r}")
    side = max(shape[-2:])
    size = "small" if side <= SMALL else "large"
    strength = (CORRUPTIONS[name].small if size == "small" else CORRUPTIONS[name].large)[severity - 1]
    longer = _IN_PIXELS.get(name, (False, False))
    scale = side / _SIDES[size] if size == "large" else max(1.0, side / _SIDES[size])
    first, second = (s * scale if pixels else s for s, pixels in zip(strength, longer, strict=True))
    return first, second


def corrupted(x: Images, name: str, severity: int, *, bounds: tuple[float, float] = (0.0, 1.0), rng: Stream) -> Images:
    """What would the image look like with this corruption?

    Args:
        x: images within `bounds`.
        name: one of `CORRUPTIONS`.
        severity: 1 (mild) to 5 (severe); 0 changes nothing.
        bounds: values of black and of full brightness.
        rng: bind it to sample ids with `rng.at(ids)`: a sample looks the same in every batch. The same noise, stronger,
            is met at the next severity.

    Returns:
        Images within `bounds`, on the device and of the type of `x`.

    Raises:
        DataError: no images, or values that are not finite or lie outside `bounds`.
        ValueError: an unknown corruption or severity, or bounds in the wrong order.

    Example:
        >>> x = Stream(0).uniform((2, 3, 8, 8))
        >>> dark = corrupted(x, "contrast", 5, rng=Stream(0))
        >>> bool(dark.std() < x.std())
        True
    """
    low, high = _checked(x, bounds)
    if severity == 0 and name in CORRUPTIONS:
        return x
    first, second = corruption_strength(name, severity, x.shape)
    work = x.dtype if x.dtype in (torch.float32, torch.float64) else torch.float32
    unit = ((x.to(work) - low) / (high - low)).clamp(0, 1)
    changed = CORRUPTIONS[name].change(unit, first, second, rng.child("corruption", name)).clamp(0, 1)
    return (low + (high - low) * changed).clamp(low, high).to(x.dtype)


def _checked(x: Tensor, bounds: tuple[float, float]) -> tuple[float, float]:
    low, high = float(bounds[0]), float(bounds[1])
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"bounds must be two finite numbers, the lower first, got {bounds}")
    check_pictures(x)
    least, most = (float(end) for end in x.aminmax())
    slack = 1e-6 * (high - low)
    if not (least >= low - slack and most <= high + slack):  # false for NaN too
        raise DataError(
            f"images lie in [{least:g}, {most:g}] but the bounds are [{low:g}, {high:g}]; corruptions are defined by "
            "the brightness of a picture, so undo a normalization or give its bounds"
        )
    return low, high


# -- accuracy ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CorruptionAccuracy:
    """Accuracy under each corruption at each severity.

    Args:
        names: the corruptions.
        severities: their severities.
        clean: accuracy without corruption.
        accuracy: accuracy `(C, S)` with Wilson's 95% interval.
        by_name: accuracy `(C,)`, the mean over severities, with a bootstrap interval over samples.
        mean: the mean over corruptions and severities.
        kept: of the samples right without corruption, the mean share of corruptions they stay right under; NaN if none
            is right.
        drop: mean accuracy minus clean accuracy, on the same samples.
        answers: `(N, C, S)` classes answered.
        correct: `(N, C, S)` whether they are right.
        clean_correct: `(N,)` whether the answer without corruption is right.
        evaluations: model evaluations spent.
    """

    names: tuple[str, ...]
    severities: tuple[int, ...]
    clean: Interval[float]
    accuracy: Interval[Tensor]
    by_name: Interval[Tensor]
    mean: Interval[Tensor]
    kept: Interval[Tensor]
    drop: PairedTest
    answers: Int[Tensor, "N C S"]
    correct: Bool[Tensor, "N C S"]
    clean_correct: Bool[Tensor, " N"]
    evaluations: int


def cost_corruption_accuracy(samples: int, *, names: int = len(CORRUPTIONS), severities: int = 5) -> int:
    """Return the evaluations that `corruption_accuracy` spends: one clean, and one per corruption and severity."""
    return samples * (1 + names * severities)


def corruption_accuracy(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    bounds: tuple[float, float] = (0.0, 1.0),
    names: Sequence[str] = tuple(CORRUPTIONS),
    severities: Sequence[int] = SEVERITIES,
    rng: Stream,
    batch_size: int = 256,
    work: Work = ALONE,
) -> CorruptionAccuracy:
    """How accurate is the model on pictures that went through common corruptions?

    The mean of the accuracies over all corruptions and severities is 1 - mCE without the division by a reference
    network (arXiv:1903.12261).

    Args:
        model: maps `(b, C, H, W)` to logits `(b, K)`; its own device is used.
        x: images `(N, C, H, W)` within `bounds`.
        y: true labels `(N,)`.
        bounds: values of black and of full brightness.
        names: which of `CORRUPTIONS`.
        severities: which of 1 to 5.
        rng: bind it to sample ids with `rng.at(ids)`.
        batch_size: images per forward.
        work: how it is watched, kept and shared out.

    Raises:
        DataError: no images, images outside `bounds`, or labels that do not fit.
        ModelError: the model returns no `(b, K)` logits, or NaN.
        ValueError: an unknown corruption or severity.
    """
    _checked(x, bounds)
    if y.shape != (len(x),) or y.dtype != torch.int64:
        raise DataError(f"y must be int64 of shape ({len(x)},), got {y.dtype} of shape {tuple(y.shape)}")
    names, severities = tuple(names), tuple(severities)
    if not names or not severities:
        raise ValueError("names and severities must each hold at least one entry")
    for name in names:
        for severity in severities:
            corruption_strength(name, severity, x.shape)
    ids = torch.arange(len(x)) if rng.ids is None else rng.ids.cpu()
    if len(ids) != len(x):
        raise ValueError(f"rng is bound to {len(ids)} samples but x holds {len(x)}")
    device = device_of(model)

    def compute(rows: Tensor, on_step: OnStep) -> dict[str, Tensor]:
        own, part, total = rng.at(ids[rows]), x[rows].to(device), len(names) * len(severities)
        found = [answers(model, part, ids[rows]).cpu()]
        for name in names:
            for severity in severities:
                changed = corrupted(part, name, severity, bounds=bounds, rng=own)
                found.append(answers(model, changed, ids[rows]).cpu())
                on_step(len(found) - 1, total)
        shape = (len(rows), len(names), len(severities))
        return {"clean": found[0], "answers": torch.stack(found[1:], 1).reshape(shape)}

    key = f"{names}|{severities}|{bounds}|{rng.seed}"
    done = work.map("corruptions", ids, compute, chunk=batch_size, key=key)
    labels = y.cpu()
    return _summed(names, severities, labels, done["clean"], done["answers"], rng.child("interval"))


def _summed(
    names: tuple[str, ...], severities: tuple[int, ...], y: Tensor, clean: Tensor, given: Tensor, rng: Stream
) -> CorruptionAccuracy:
    n = len(y)
    right, before = given == y[:, None, None], clean == y
    shares = right.double()
    each = shares.mean((1, 2))
    nothing = torch.full((), torch.nan, dtype=torch.float64)
    kept = bootstrap(each[before], rng=rng.child("kept")) if before.any() else Interval(nothing, nothing, nothing)
    return CorruptionAccuracy(
        names=names,
        severities=severities,
        clean=wilson(int(before.sum()), n),
        accuracy=wilson(right.sum(0), n),
        by_name=bootstrap(shares.mean(2), rng=rng.child("names")),
        mean=bootstrap(each, rng=rng.child("mean")),
        kept=kept,
        drop=paired_difference(before.double(), each, rng=rng.child("drop")),
        answers=given,
        correct=right,
        clean_correct=before,
        evaluations=cost_corruption_accuracy(n, names=len(names), severities=len(severities)),
    )
