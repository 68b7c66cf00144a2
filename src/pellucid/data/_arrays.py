"""Inputs and labels as arrays in one `.npz` file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor

from pellucid.core import IGNORED, DataError, Dataset, read_arrays

from ._masks import UNKNOWN, masks
from ._rows import spread

MAX_CLASSES = 1_000_000
_KEYS = "`inputs` and `labels`, or `x` and `y`, or these with _train and _test at the end"


class Arrays(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="npz"):
    """A `.npz` file with `inputs` (or `x`) and `labels` (or `y`), or `x_train`, `y_train`, `x_test`, `y_test`.

    Inputs of two axes are rows of a table; of three or four they are images: `(N, H, W)`, `(N, C, H, W)` or
    `(N, H, W, C)`, as uint8 from 0 to 255 or as floats from 0 to 1. Labels are class numbers from 0, or names of the
    classes; a class for every pixel of images is `(N, H, W)`, or has one channel more, where -100, and 255 among bytes,
    stand for no label. An array `class_names` of text is optional, as is `feature_names` for tables.

    Args:
        path: the file.
        limit: keep at most so many samples, equally many per class, first rows first.
    """

    path: str
    limit: int | None = None

    def load(self, split: str) -> Dataset:
        """Return the split; images have shape `(N, C, H, W)`.

        Raises:
            DataError: the file or an array in it is not as described; the text says which and what to do.
        """
        path = Path(self.path)
        held = read_arrays(path)
        x_key, y_key = _keys(held, split, path)
        arrays, named = _numbered(held, y_key, path)
        inputs = arrays[x_key]
        labels = _labels(arrays[y_key], f"{path}: {y_key}", dense=inputs.ndim > 2)
        found = _table(inputs, f"{path}: {x_key}") if inputs.ndim == 2 else _images(inputs, f"{path}: {x_key}")
        unknown = _unknown(arrays[y_key], labels)
        _check_rows(found.values, labels, path, unknown=bool(unknown))
        names = named or _names(arrays, "class_names", int(labels.max()) + 1, path, at_least=True)
        width = found.values.shape[1] if inputs.ndim == 2 else 0
        rows = spread(labels, self.limit)
        return Dataset(
            found.values[rows],
            labels[rows],
            class_names=names,
            name=path.stem,
            modality="tabular" if inputs.ndim == 2 else "image",
            ids=rows,
            bounds=None if inputs.ndim == 2 else (0.0, 1.0),
            note="; ".join(part for part in (found.note, unknown) if part),
            feature_names=_names(arrays, "feature_names", width, path) if width else (),
            background=_background(arrays, path, width) if width else None,
        )


@dataclass(frozen=True)
class _Inputs:
    values: Tensor
    note: str = ""


def _keys(arrays: Mapping[str, np.ndarray], split: str, path: Path) -> tuple[str, str]:
    pairs = [("inputs", "labels"), ("x", "y")]
    for x, y in pairs:
        if f"{x}_{split}" in arrays and f"{y}_{split}" in arrays:
            return f"{x}_{split}", f"{y}_{split}"
    for x, y in pairs:
        if x in arrays and y in arrays:
            if split == "train":
                raise DataError(f"{path} is not divided for training; name its arrays x_train, y_train, x_test, y_test")
            return x, y
    lone = [x for x, _ in pairs if x in arrays or f"{x}_{split}" in arrays]
    if lone:
        raise DataError(
            f"{path} holds {lone[0]} but no {dict(pairs)[lone[0]]} for {split}; add that array, one class per sample, "
            f"as in np.savez(path, {lone[0]}=..., {dict(pairs)[lone[0]]}=...)"
        )
    raise DataError(f"{path} must hold {_KEYS} (asked for: {split}); it holds {', '.join(sorted(arrays)) or 'nothing'}")


def _background(arrays: Mapping[str, np.ndarray], path: Path, width: int) -> Tensor | None:
    """Return the training rows of a table; None where the file has none."""
    key = next((key for key in ("inputs_train", "x_train") if key in arrays), None)
    if key is None:
        return None
    if arrays[key].ndim != 2 or arrays[key].shape[1] != width:
        raise DataError(f"{path}: {key} must have {width} columns like the other split, got shape {arrays[key].shape}")
    rows = _table(arrays[key], f"{path}: {key}").values
    if not rows.isfinite().all():
        raise DataError(f"{path}: {key} holds NaN or infinity; remove or repair it")
    return rows


def _numbered(
    arrays: Mapping[str, np.ndarray], key: str, path: Path
) -> tuple[Mapping[str, np.ndarray], tuple[str, ...]]:
    """Return arrays with labels that count classes where they name them, and the names; none where they count already.

    The names are those in `class_names`, else those of all splits together in the order of the alphabet.
    """
    if arrays[key].dtype.kind != "U":
        return arrays, ()
    labels = {k: v for k, v in arrays.items() if k.partition("_")[0] == key.partition("_")[0] and v.dtype.kind == "U"}
    everything = np.concatenate([part.reshape(-1) for part in labels.values()])
    values = np.unique(everything)
    names = _names(arrays, "class_names", 0, path, at_least=True) or tuple(map(str, values))
    if len(names) > min(MAX_CLASSES, max(2, len(everything) // 2)) and "class_names" not in arrays:
        raise DataError(
            f"{path}: {key} has {len(names):,} different texts for {len(everything):,} samples, too many for classes"
        )
    place = {name: number for number, name in enumerate(names)}
    if strangers := [str(name) for name in values if str(name) not in place]:
        raise DataError(f"{path}: {key} names the class {strangers[0]!r}, which is not in class_names; add it there")
    told = {
        k: np.array([place[str(name)] for name in part.reshape(-1)]).reshape(part.shape) for k, part in labels.items()
    }
    return {**arrays, **told}, names


def _unknown(given: np.ndarray, labels: Tensor) -> str:
    """Say where bytes were read as no label."""
    return "pixels of 255 in the masks are read as without a label" if labels.ndim == 3 and _holds(given) else ""


def _holds(given: np.ndarray) -> bool:
    return given.dtype == np.uint8 and bool((given == UNKNOWN).any())


def _labels(labels: np.ndarray, what: str, *, dense: bool) -> Tensor:
    if dense and labels.ndim > 2 and len(labels) == 0:
        raise DataError(f"{what} holds 0 masks; store one for each image")
    if dense and labels.ndim == 4 and 1 in (labels.shape[1], labels.shape[3]):
        labels = labels[:, 0] if labels.shape[1] == 1 else labels[..., 0]
    if dense and labels.ndim == 3:
        return masks(labels, what)
    if dense and labels.ndim == 4:
        axis = 1 if labels.shape[1] < labels.shape[3] else 3
        raise DataError(
            f"{what} has shape {labels.shape}; give masks, one class per pixel, shape (N, H, W), such as by "
            f"labels.argmax({axis})"
        )
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.dtype.kind == "f" and np.isfinite(labels).all() and (labels == np.floor(labels)).all():
        labels = labels.clip(-1, MAX_CLASSES).astype(np.int64)
    if labels.dtype.kind == "f":
        raise DataError(f"{what} holds NaN or numbers with fractions; an audit asks about classes, counted from 0")
    if labels.ndim == 2 and labels.dtype.kind in "iub":
        raise DataError(f"{what} has shape {labels.shape}; give one class per sample, such as by labels.argmax(1)")
    if labels.ndim != 1 or labels.dtype.kind not in "iub":
        raise DataError(
            f"{what} must be a vector of whole numbers or texts, one class per sample; "
            f"got {labels.dtype} {labels.shape}"
        )
    if len(labels) and int(labels.min()) < 0:
        raise DataError(f"{what} must count classes from 0, got {int(labels.min())}")
    if len(labels) and int(labels.max()) >= MAX_CLASSES:
        raise DataError(f"{what} must count classes from 0 to less than {MAX_CLASSES:,}, got {int(labels.max())}")
    return torch.from_numpy(labels.astype(np.int64))


def _table(inputs: np.ndarray, what: str) -> _Inputs:
    if inputs.dtype.kind not in "fiub":
        raise DataError(f"{what} must hold numbers, got {inputs.dtype}")
    return _Inputs(torch.from_numpy(inputs.astype(np.float32)))


def _images(inputs: np.ndarray, what: str) -> _Inputs:
    shape = inputs.shape
    if inputs.ndim == 3:
        inputs = inputs[:, None]
    elif inputs.ndim != 4:
        raise DataError(f"{what} must have 2 axes (table) or 3 or 4 axes (images), got shape {shape}")
    elif shape[1] not in (1, 3):
        if shape[3] not in (1, 3):
            raise DataError(f"{what} must be images with 1 or 3 channels, second or last axis; got shape {shape}")
        inputs = inputs.transpose(0, 3, 1, 2)
    if inputs.dtype == np.uint8:
        return _Inputs(torch.from_numpy(np.ascontiguousarray(inputs)), "uint8 pixels scaled to [0, 1]")
    if inputs.dtype.kind != "f":
        raise DataError(f"{what} must be uint8 pixels or floats in [0, 1], got {inputs.dtype}; store it as uint8")
    values = torch.from_numpy(np.ascontiguousarray(inputs, dtype=np.float32))
    low, high = (float(values.min()), float(values.max())) if values.numel() else (0.0, 1.0)
    if high > 2 and low >= 0:
        raise DataError(f"{what} holds floats up to {high:g}; divide by 255, or store 0-255 images as uint8")
    if low < 0 or high > 1:
        raise DataError(f"{what} lies in [{low:g}, {high:g}], not [0, 1]; store the images before normalization")
    return _Inputs(values)


def _check_rows(values: Tensor, labels: Tensor, path: Path, *, unknown: bool) -> None:
    if len(values) != len(labels):
        raise DataError(f"{path} has {len(values)} inputs but {len(labels)} labels; give one label per input")
    if len(labels) == 0:
        raise DataError(f"{path} holds 0 samples")
    if labels.ndim == 3 and labels.shape[1:] != values.shape[2:]:
        pixels = " x ".join(map(str, values.shape[2:]))
        raise DataError(
            f"{path} has masks of {labels.shape[1]} x {labels.shape[2]} pixels for images of {pixels}; bring both to "
            "one size (masks without interpolation)"
        )
    if len(torch.unique(labels[labels != IGNORED])) < 2:
        held = labels[labels != IGNORED]
        unit = "samples" if labels.ndim == 1 else "pixels"
        what = "pixels without a label" if not len(held) else f"{unit} of class {int(held[0])}"
        hint = "; 255 among bytes stands for no label, so number the classes 0, 1, ..." if unknown else ""
        raise DataError(f"{path} has {what} only; an audit compares at least two classes{hint}")
    if values.is_floating_point():
        bad = (~values.isfinite()).flatten(1).any(1).nonzero()
        if len(bad):
            raise DataError(f"{path}: sample {int(bad[0])} holds NaN or infinity; remove or repair it")


def _names(
    arrays: Mapping[str, np.ndarray], key: str, count: int, path: Path, *, at_least: bool = False
) -> tuple[str, ...]:
    """Return the names in an optional array; none when it is absent, since the classes of a sample may not be all."""
    if key not in arrays:
        return ()
    names = arrays[key]
    if names.ndim != 1 or names.dtype.kind != "U" or len(names) < count or (not at_least and len(names) != count):
        raise DataError(f"{path}: {key} must be {count} texts, got {names.dtype} of shape {names.shape}")
    return tuple(str(name) for name in names)
