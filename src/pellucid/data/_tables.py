"""From named columns to a data set: which column holds the labels, and whether the others are numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pellucid.core import DataError, Dataset, nearest

from ._images import joined
from ._limits import MAX_CLASSES
from ._rows import spread

LABELS = ("label", "target", "class")


@dataclass(frozen=True)
class Columns:
    """One split of a table.

    Args:
        source: the file, for errors.
        features: `(N, D)` float32.
        names: of the features.
        label: name of the label column.
        labels: `(N,)`: texts, or whole numbers.
    """

    source: str
    features: Tensor
    names: tuple[str, ...]
    label: str
    labels: np.ndarray


def label_column(names: Sequence[str], wanted: str | None, source: str) -> str:
    """Return the label column: the one asked for, else the one named label, target or class, else the last.

    Raises:
        DataError: it is not there, several columns qualify, or there is no other column.
    """
    if wanted is not None:
        if wanted not in names:
            raise DataError(f"{source} has no column {wanted!r}; {nearest(wanted, names)}it has {_listed(names)}")
        return wanted
    if len(names) < 2:
        raise DataError(f"{source} has {len(names)} column; a table needs features and a label column")
    found = [name for name in names if name.strip().lower() in LABELS]
    if len(found) > 1:
        raise DataError(f"{source} has the columns {' and '.join(found)}; say which holds the labels (--label)")
    return found[0] if found else names[-1]


def told(label: str) -> str:
    """Say which column holds the labels, where its name does not."""
    return "" if label.strip().lower() in LABELS else f"labels from the column {label}"


def assembled(
    parts: Mapping[str, Columns], split: str, *, name: str, limit: int | None, names: Sequence[str] = ()
) -> Dataset:
    """Return a split as a data set; the background is the split "train", where there is one.

    Args:
        parts: the splits that are there; their labels are numbered together.
        split: the one to return.
        name: of the data set.
        limit: keep at most so many samples, equally many per class, first rows first.
        names: of the classes, where the file says them.
    """
    _check_alike(parts)
    chosen = parts[split]
    classes, numbered, note = numbers({key: part.labels for key, part in parts.items()}, chosen, names)
    labels = numbered[split]
    if len(labels) == 0:
        raise DataError(f"{chosen.source} holds 0 samples")
    if len(torch.unique(labels)) < 2:
        raise DataError(f"{chosen.source} has samples of one class only; an audit compares at least two classes")
    rows = spread(labels, limit)
    return Dataset(
        chosen.features[rows],
        labels[rows],
        class_names=classes,
        name=name,
        modality="tabular",
        ids=rows,
        bounds=None,
        note=joined([told(chosen.label), note]),
        feature_names=chosen.names,
        background=parts["train"].features if "train" in parts else None,
    )


def numbers(
    labels: Mapping[str, np.ndarray], chosen: Columns, names: Sequence[str]
) -> tuple[tuple[str, ...], dict[str, Tensor], str]:
    """Return class names, the labels of each split as numbers from 0, and a note of how they were numbered."""
    where = f"{chosen.source}: column {chosen.label!r}"
    everything = np.concatenate(list(labels.values()))
    if everything.dtype.kind in "iu":
        low, high = (int(everything.min()), int(everything.max())) if len(everything) else (0, 0)
        if low == 0:
            if high >= MAX_CLASSES:
                raise DataError(f"{where} counts up to {high:,}; name the column that holds classes (--label)")
            if names and high >= len(names):
                raise DataError(f"{where} holds the class {high}, but there are {len(names)} class names")
            return tuple(names), {key: torch.from_numpy(part.astype(np.int64)) for key, part in labels.items()}, ""
    values = np.unique(everything)
    if len(values) > min(MAX_CLASSES, max(2, len(everything) // 2)):
        raise DataError(
            f"{where} has {len(values):,} values in {len(everything):,} rows, too many for classes; name the column "
            "that holds the labels (--label)"
        )
    numbered = {key: torch.from_numpy(np.searchsorted(values, part).astype(np.int64)) for key, part in labels.items()}
    shown = tuple(str(value) for value in values)
    note = f"labels {_listed(shown)} are the classes 0 to {len(shown) - 1}" if values.dtype.kind in "iu" else ""
    return shown, numbered, note


def as_labels(texts: Sequence[str]) -> np.ndarray:
    """Return labels read as text: whole numbers if all of them are, else the texts."""
    found = np.array([text.strip() for text in texts], dtype=np.str_)
    try:
        values = found.astype(np.float64)
    except ValueError:
        return found
    whole = np.isfinite(values) & (values == np.round(values)) & (np.abs(values) < 2**53)
    return values.astype(np.int64) if bool(whole.all()) else found


def as_features(columns: Sequence[np.ndarray], source: str) -> Tensor:
    """Return columns as `(N, D)` float32; a value too large for it is refused."""
    matrix = np.empty((len(columns[0]) if columns else 0, len(columns)), dtype=np.float32)
    for k, column in enumerate(columns):
        with np.errstate(over="ignore"):
            matrix[:, k] = column
    if not np.isfinite(matrix).all():
        row = int(np.nonzero(~np.isfinite(matrix).all(axis=1))[0][0])
        raise DataError(f"{source}: sample {row} holds a value beyond single precision; scale the column")
    return torch.from_numpy(matrix)


def _check_alike(parts: Mapping[str, Columns]) -> None:
    (first, *others) = parts.values()
    for other in others:
        if other.names != first.names or other.label != first.label:
            raise DataError(
                f"{first.source} and {other.source} have different columns; give both the same in one order"
            )
        if (other.labels.dtype.kind in "iu") != (first.labels.dtype.kind in "iu"):
            raise DataError(f"{first.source} and {other.source} have labels of different kinds, numbers and texts")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more
