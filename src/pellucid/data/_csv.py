"""Tables in CSV files."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np

from pellucid.core import DataError, Dataset, first_line, sniff

from ._images import check_bytes
from ._limits import MAX_COLUMNS, MAX_ROWS, MAX_TEXT
from ._tables import Columns, as_features, as_labels, assembled, label_column

MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?", "-"})
NO_LABEL = frozenset({"", "n/a", "nan", "null", "?"})  # "none", "na" and "-" may be classes
_CHUNK = 20_000


class CSV(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="csv"):
    """A table in a CSV file, or a folder with `train.csv` and `test.csv`.

    The first row names the columns; values are separated by commas, semicolons, tabs or bars. One column holds the
    labels, as texts or whole numbers, and all others hold numbers.

    Args:
        path: the file or the folder.
        label: the label column; if not given the one named label, target or class, else the last.
        limit: keep at most so many samples, equally many per class, first rows first.
    """

    path: str
    label: str | None = None
    limit: int | None = None

    def load(self, split: str) -> Dataset:
        """Return the split with rows `(N, D)`; the background is the training split, where there is one.

        Raises:
            DataError: no such split, or the file is not as described; the text names row and column.
        """
        path = Path(self.path)
        files = split_files(path, split, ".csv")
        parts = {key: read_csv(file, label=self.label) for key, file in files.items()}
        return assembled(parts, split, name=path.resolve().stem, limit=self.limit)


def split_files(path: Path, split: str, suffix: str) -> dict[str, Path]:
    """Return the file of each split: `train` and `test` in a folder, or one file for the test."""
    if not path.is_dir():
        if split != "test":
            raise DataError(f"{path} is not divided for training; put train{suffix} and test{suffix} into one folder")
        return {"test": path}
    files = {key: path / f"{key}{suffix}" for key in ("train", "test") if (path / f"{key}{suffix}").is_file()}
    if split not in files:
        raise DataError(f"{path} has no {split}{suffix}; it needs train{suffix} and test{suffix}")
    return files


def read_csv(path: Path, *, label: str | None) -> Columns:
    """Return the columns of a CSV file, checked."""
    found = sniff(path)
    size = path.stat().st_size
    if size == 0:
        raise DataError(f"{path} is empty")
    if found not in ("text", "json"):
        raise DataError(f"{path} is no CSV file in UTF-8 text")
    if size > MAX_TEXT:
        raise DataError(f"{path} has {size:,} bytes, more than the {MAX_TEXT:,} allowed for CSV; convert it to Parquet")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline(2**20)
            file.seek(0)
            return _read(csv.reader(file, delimiter=delimiter(first), strict=True), path, label)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start} of a block); save it as UTF-8") from None
    except csv.Error as error:
        raise DataError(f"{path} is a damaged CSV file: {first_line(error)}") from None


def delimiter(line: str) -> str:
    """Return what separates the values of a line: the most frequent of comma, semicolon, tab and bar."""
    return max(",;\t|", key=line.count)


def _read(lines: Iterator[list[str]], path: Path, label: str | None) -> Columns:
    header = [name.strip() for name in next(lines, [])]
    _check_header(header, path)
    labels_in = label_column(header, label, str(path))
    at = header.index(labels_in)
    features: list[np.ndarray] = []
    labels: list[str] = []
    row = 2  # as a spreadsheet counts: the header is row 1
    while chunk := list(itertools.islice(lines, _CHUNK)):
        chunk = _checked(chunk, header, row, path)
        labels.extend(values[at] for values in chunk)
        for k, value in enumerate(labels[-len(chunk) :]):
            if value.strip().lower() in NO_LABEL:
                raise DataError(f"{path}: row {row + k} has no label in the column {labels_in!r}; remove the row")
        features.append(_numbers(chunk, header, at, row, path))
        row += len(chunk)
        if row > MAX_ROWS:
            raise DataError(f"{path} has more than the {MAX_ROWS:,} rows allowed")
        check_bytes(row, 4 * len(header))
    if not labels:
        raise DataError(f"{path} holds a header and no rows")
    matrix = np.concatenate(features)
    return Columns(
        str(path),
        as_features(list(matrix.T), str(path)),
        tuple(name for k, name in enumerate(header) if k != at),
        labels_in,
        as_labels(labels),
    )


def _check_header(header: list[str], path: Path) -> None:
    if len(header) > MAX_COLUMNS:
        raise DataError(f"{path} has {len(header):,} columns, more than the {MAX_COLUMNS:,} allowed")
    if not any(header):
        raise DataError(f"{path} has no header; its first row must name the columns")
    if header[0] == "" and all(header[1:]):
        raise DataError(f"{path}: the first column has no name, as pandas writes an index; save it with index=False")
    if "" in header:
        raise DataError(f"{path}: column {header.index('') + 1} has no name in the first row")
    if len(set(header)) < len(header):
        repeated = next(name for k, name in enumerate(header) if header.index(name) < k)
        raise DataError(f"{path} has two columns named {repeated!r}; rename one")
    if all(_number(name) is not None for name in header):
        raise DataError(f"{path} has no header: its first row holds numbers; add a row that names the columns")


def _checked(chunk: list[list[str]], header: list[str], row: int, path: Path) -> list[list[str]]:
    """Refuse rows of another length; empty rows at the end are left out."""
    while chunk and not chunk[-1]:
        chunk.pop()
    for k, values in enumerate(chunk):
        if len(values) != len(header):
            raise DataError(f"{path}: row {row + k} has {len(values)} values, but there are {len(header)} columns")
    return chunk


def _numbers(chunk: list[list[str]], header: list[str], at: int, row: int, path: Path) -> np.ndarray:
    cells = [values[:at] + values[at + 1 :] for values in chunk]
    try:
        matrix = np.array(cells, dtype=np.float64).reshape(len(cells), len(header) - 1)
    except ValueError:
        raise _culprit(chunk, header, at, row, path) from None
    if not np.isfinite(matrix).all():
        raise _culprit(chunk, header, at, row, path)
    return matrix


def _culprit(chunk: list[list[str]], header: list[str], at: int, row: int, path: Path) -> DataError:
    """Return the error for the first cell that is no number."""
    for k, values in enumerate(chunk):
        for column, text in enumerate(values):
            if column == at or _number(text) is not None:
                continue
            name = header[column]
            if text.strip().lower() in MISSING:
                return DataError(f"{path}: row {row + k} has no value in the column {name!r}; fill or remove it")
            shown = text if len(text) <= 40 else f"{text[:37]}..."
            return DataError(
                f"{path}: row {row + k} holds {shown!r} in the column {name!r}; features must be finite numbers, so "
                "turn texts into numbers, or name the label column (--label)"
            )
    return DataError(f"{path} holds values that are no numbers")


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if np.isfinite(value) else None
