"""Masks: a class for every pixel of an image."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from pellucid.core import IGNORED, DataError

from ._limits import MAX_CLASSES

UNKNOWN = 255
"""What stands for "no label" in masks of bytes, as in most published ones."""


def masks(values: Any, what: str = "masks") -> Int[Tensor, "n h w"]:
    """Return masks as an audit and a training take them: int64, with `core.IGNORED` where a pixel has no label.

    Among bytes (uint8) 255 stands for no label, since they have no -100.

    Args:
        values: whole numbers `(N, H, W)`, a tensor or an array.
        what: what to call them in an error.

    Raises:
        DataError: no whole numbers, another shape, or a class below 0 that is not -100.

    Example:
        >>> masks(torch.tensor([[[0, 1], [255, 2]]], dtype=torch.uint8)).tolist()
        [[[0, 1], [-100, 2]]]
    """
    found = values.detach().cpu() if isinstance(values, Tensor) else torch.from_numpy(_array(values, what))
    if found.ndim != 3 or 0 in found.shape:
        raise DataError(f"{what} must be one class per pixel, shape (N, H, W), got {tuple(found.shape)}")
    if found.is_complex() or (found.is_floating_point() and not bool((found == found.floor()).all())):
        raise DataError(f"{what} must be classes, whole numbers; it holds {found.dtype} with fractions or NaN")
    done = found.long()
    if found.dtype == torch.uint8:
        done[found == UNKNOWN] = IGNORED
    known = done[done != IGNORED]
    if known.numel() and int(known.min()) < 0:
        raise DataError(f"{what} must count classes from 0, and {IGNORED} for no label, got {int(known.min())}")
    if known.numel() and int(known.max()) >= MAX_CLASSES:
        raise DataError(f"{what} must count classes from 0 to less than {MAX_CLASSES:,}, got {int(known.max())}")
    return done


def _array(values: Any, what: str) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise DataError(f"{what} must be classes, whole numbers, got {array.dtype}")
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int64)  # torch knows little of the wide unsigned types
    return np.array(array.astype(array.dtype.newbyteorder("=")))  # a copy: arrays of files are often read-only
