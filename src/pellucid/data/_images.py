"""Bringing images to one size and number of channels, and many of them into one tensor."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pellucid.core import DataError, Dataset

from ._limits import MAX_BYTES

_CHUNK = 64
_GRAY = torch.tensor([0.299, 0.587, 0.114])  # ITU-R 601, what Pillow takes


@dataclass(frozen=True)
class Fit:
    """The size and number of channels that images shall have; None keeps what they have.

    Args:
        size: height and width in pixels: the shorter side is resized (with antialiasing) and the middle cut out.
        channels: 1 for gray, 3 for color.
    """

    size: tuple[int, int] | None = None
    channels: int | None = None

    def __post_init__(self) -> None:
        if self.size is not None and not all(1 <= side <= 8192 for side in self.size):
            raise DataError(f"image_size must be from 1 to 8,192 pixels, got {self.size[0]} x {self.size[1]}")
        if self.channels not in (None, 1, 3):
            raise DataError(f"channels must be 1 or 3, got {self.channels}")

    def image(self, image: np.ndarray) -> np.ndarray:
        """Return one image, uint8 `(H, W)` or `(H, W, 3)`, as it shall be."""
        from PIL import Image

        gray = image.ndim == 2
        if self.size == image.shape[:2] and self.channels in (None, 1 if gray else 3):
            return image
        picture = Image.fromarray(image)
        if self.size is not None and self.size != image.shape[:2]:
            height, width = self.size
            picture = picture.crop(_middle(image.shape[0], image.shape[1], height / width))
            picture = picture.resize((width, height), Image.Resampling.BILINEAR)
        if self.channels is not None:
            picture = picture.convert("L" if self.channels == 1 else "RGB")
        fitted: np.ndarray = np.asarray(picture)
        return fitted

    def batch(self, images: Tensor) -> Tensor:
        """Return images `(N, C, H, W)`, uint8 or float, as they shall be."""
        if self.channels is not None and images.shape[1] != self.channels:
            images = _channels(images, self.channels)
        if self.size is None or tuple(images.shape[2:]) == self.size:
            return images
        check_bytes(len(images), images.shape[1] * self.size[0] * self.size[1] * images.element_size())
        left, top, right, bottom = _middle(images.shape[2], images.shape[3], self.size[0] / self.size[1])
        cut = images[:, :, top:bottom, left:right]
        done = torch.empty(*images.shape[:2], *self.size, dtype=images.dtype)
        for start in range(0, len(images), _CHUNK):
            part = cut[start : start + _CHUNK].float()
            part = F.interpolate(part, self.size, mode="bilinear", antialias=True, align_corners=False)
            done[start : start + _CHUNK] = part.round() if images.dtype == torch.uint8 else part
        return done

    def masks(self, masks: Tensor) -> Tensor:
        """Return masks `(N, H, W)` cut out and resized like their images, each pixel with the class of the nearest."""
        if self.size is None or tuple(masks.shape[1:]) == self.size:
            return masks
        left, top, right, bottom = _middle(masks.shape[1], masks.shape[2], self.size[0] / self.size[1])
        rows, columns = (
            ((torch.arange(side) + 0.5) * ((end - start) / side)).long() + start
            for side, start, end in ((self.size[0], top, bottom), (self.size[1], left, right))
        )
        return masks[:, rows[:, None], columns]

    def dataset(self, dataset: Dataset) -> Dataset:
        """Return a data set of images with its inputs as they shall be, and a note of what was done."""
        if self == Fit():
            return dataset
        if dataset.modality != "image":
            what = "texts" if dataset.modality == "text" else "rows of a table"
            raise DataError(f"image_size and channels are for images, but {dataset.name} holds {what}")
        before = tuple(dataset.inputs.shape[1:])
        inputs = self.batch(dataset.inputs)
        done = self.note(before, tuple(inputs.shape[1:]))
        labels = self.masks(dataset.labels) if dataset.dense else dataset.labels
        note = "; ".join(part for part in (dataset.note, done) if part)
        return replace(dataset, inputs=inputs, labels=labels, note=note)

    def note(self, before: tuple[int, ...], after: tuple[int, ...]) -> str:
        """Say what was done to images of one shape `(C, H, W)`; nothing if they are as they were."""
        parts = []
        if before[1:] != after[1:]:
            parts.append(f"resized from {before[2]} x {before[1]} to {after[2]} x {after[1]} pixels")
        if before[0] != after[0]:
            parts.append("color images made gray" if after[0] == 1 else "gray images repeated in three channels")
        return ", ".join(parts)


def fit_images(dataset: Dataset, *, image_size: tuple[int, int] | None = None, channels: int | None = None) -> Dataset:
    """Return a data set of images brought to one size or number of channels; its note says what was done.

    Args:
        dataset: images `(N, C, H, W)`.
        image_size: height and width: the shorter side is resized, with antialiasing, and the middle cut out.
        channels: 1 makes them gray, 3 makes them color.

    Raises:
        DataError: it holds a table, or the images would not fit in memory.

    Example:
        >>> from pellucid.data import load
        >>> fit_images(load("synthetic-images", limit=8), image_size=(6, 6), channels=3).inputs.shape
        torch.Size([8, 3, 6, 6])
    """
    return Fit(image_size, channels).dataset(dataset)


def _middle(height: int, width: int, ratio: float) -> tuple[int, int, int, int]:
    """Return the largest box in the middle with height / width = `ratio`: left, top, right, bottom, in whole pixels."""
    cut_width = max(1, round(min(width, height / ratio)))
    cut_height = max(1, round(min(height, width * ratio)))
    left, top = (width - cut_width) // 2, (height - cut_height) // 2
    return left, top, left + cut_width, top + cut_height


def _channels(images: Tensor, channels: int) -> Tensor:
    if channels == 3:
        return images.expand(-1, 3, -1, -1).contiguous()
    gray = torch.einsum("nchw,c->nhw", images.float(), _GRAY)[:, None]
    return gray.round().to(images.dtype) if images.dtype == torch.uint8 else gray


def check_bytes(count: int, each: int) -> None:
    """Refuse samples that would not fit in memory, before they are made."""
    if count * each > MAX_BYTES:
        raise DataError(
            f"{count:,} samples of {each:,} bytes do not fit in memory; read at most {MAX_BYTES // each:,} (limit)"
        )


def stacked(images: Iterable[tuple[str, np.ndarray]], *, fit: Fit, count: int) -> tuple[Tensor, str]:
    """Return images as one tensor `(N, C, H, W)`, and a note of what was done to them.

    Args:
        images: name and uint8 pixels, `(H, W)` or `(H, W, 3)`, of each; read one after the other.
        fit: what they shall become.
        count: how many there are, at most.

    Raises:
        DataError: they have several sizes and `fit` names none, or do not fit in memory.
    """
    held: list[np.ndarray] = []
    names: list[str] = []
    changed: set[tuple[int, ...]] = set()
    for name, image in images:
        fitted = fit.image(image)
        check_bytes(count, fitted.nbytes)
        if held and fitted.shape[:2] != held[0].shape[:2]:
            sizes = f"{names[0]} is {_size(held[0])} and {name} is {_size(fitted)}"
            raise DataError(
                f"the images have several sizes: {sizes} pixels; give one with image_size "
                "(--input-size 3x224x224), which resizes the shorter side and cuts out the middle"
            )
        if fitted.shape[:2] != image.shape[:2]:
            changed.add(image.shape[:2])
        held.append(fitted)
        names.append(name)
    gray = [k for k, image in enumerate(held) if image.ndim == 2]
    mixed = 0 < len(gray) < len(held)
    if mixed:
        check_bytes(len(held), 3 * held[0].shape[0] * held[0].shape[1])
        held = [image if image.ndim == 3 else np.repeat(image[:, :, None], 3, axis=2) for image in held]
    tensor = torch.from_numpy(np.stack(held))
    tensor = tensor[:, None] if tensor.ndim == 3 else tensor.permute(0, 3, 1, 2).contiguous()
    return tensor, _told(changed, tensor, f"{len(gray)} gray among color images, read as color" if mixed else "")


def _told(changed: set[tuple[int, ...]], tensor: Tensor, mixed: str) -> str:
    parts = [mixed] if mixed else []
    if changed:
        height, width = min(changed)
        before = f"{width} x {height}" if len(changed) == 1 else f"{len(changed)} sizes"
        parts.append(f"images resized from {before} to {tensor.shape[3]} x {tensor.shape[2]} pixels")
    return "; ".join(parts)


def joined(parts: Sequence[str]) -> str:
    """Return the notes that say something as one."""
    return "; ".join(part for part in parts if part)


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]} x {image.shape[0]}"
