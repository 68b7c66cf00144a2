"""Texts from the user's own files: a column of a table, the lines of a file, or one file per text."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from pellucid.core import DataError, Dataset, first_line, nearest, path_kind, read_text, sniff

from ._arrow import parquet_columns, parquet_files
from ._csv import delimiter, split_files
from ._folder import SPLITS, class_folders, folders, images_in, split_folder
from ._images import joined
from ._limits import MAX_LETTERS, MAX_TEXT, MAX_TEXTS
from ._rows import spread
from ._tables import LABELS, Columns, as_labels, numbers, told

TEXT_COLUMNS = ("text", "sentence", "review")
TEXT_SUFFIXES = (".txt", ".jsonl")
_TABLES = (".csv", ".tsv", ".jsonl", ".parquet")


class Texts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="texts"):
    """Texts, with or without labels.

    From a CSV, TSV, JSON lines or Parquet file: one column holds the texts, one the labels. From a `.txt` file: one
    text per line, without labels. From a folder: `train` and `test` files of one of these kinds, or one folder of
    `.txt` files per class.

    Args:
        path: the file or the folder.
        text: the column of the texts; if not given the one named text, sentence or review.
        label: the label column; if not given the one named label, target or class, else the last other one, if any.
        limit: keep at most so many texts, equally many per class, first ones first.
    """

    path: str
    text: str | None = None
    label: str | None = None
    limit: int | None = None

    def load(self, split: str) -> Dataset:
        """Return the split with its texts; inputs are `(N, 0)` until they are tokenized.

        Raises:
            DataError: no such split, or the file is not as described; the text names the row.
            MissingExtra: Parquet files need pyarrow.
        """
        path = Path(self.path)
        if path.is_dir() and _suffix(path) == ".txt":
            return self._classes(path, split)
        suffix = _suffix(path)
        if suffix == ".parquet":
            parts = {key: self._parquet(files) for key, files in parquet_files(path, split).items()}
        else:
            parts = {key: self._read(file) for key, file in split_files(path, split, suffix).items()}
        return self._dataset(parts, split, path.resolve().stem)

    def _read(self, path: Path) -> _Read:
        if not path.is_file():
            raise DataError(f"{path} does not exist")
        if path.stat().st_size == 0:
            raise DataError(f"{path} is empty")
        suffix = path.suffix.lower()
        if suffix == ".txt":
            if self.text or self.label:
                raise DataError(f"{path} holds one text per line and no columns, so there is none to choose")
            return _Read(str(path), tuple(_lines(path)), None, "")
        names, rows = _json_lines(path) if suffix == ".jsonl" else _csv(path)
        return self._table(path, names, lambda chosen: [[row[names.index(n)] for row in rows] for n in chosen])

    def _parquet(self, paths: Sequence[Path]) -> _Read:
        names = parquet_columns(paths, ())[0]
        return self._table(paths[0], names, lambda chosen: parquet_columns(paths, chosen)[1])

    def _table(self, path: Path, names: Sequence[str], columns: Any) -> _Read:
        """Return the texts and labels of a table with these column names."""
        for wanted in (self.text, self.label):
            if wanted is not None and wanted not in names:
                raise DataError(f"{path} has no column {wanted!r}; {nearest(wanted, names)}it has {', '.join(names)}")
        text = self.text or _named(names, TEXT_COLUMNS, path, "--text-column")
        if text is None:
            raise DataError(f"{path} has no column named {', '.join(TEXT_COLUMNS)}; name it (--text-column)")
        others = [name for name in names if name != text]
        label = self.label or _named(others, LABELS, path, "--label") or (others[-1] if others else None)
        if label == text:
            raise DataError(f"{path}: the column {text!r} cannot hold both the texts and the labels")
        found = columns([text] if label is None else [text, label])
        texts = tuple(_text(value, row, path) for row, value in enumerate(found[0], start=1))
        if label is None:
            return _Read(str(path), texts, None, "")
        return _Read(str(path), texts, _labels(found[1], label, path), label)

    def _classes(self, root: Path, split: str) -> Dataset:
        folder = split_folder(root, split)
        names = class_folders(root, folder, _files, "no .txt file; remove the folder or add texts")
        listed = [(path, k) for k, name in enumerate(names) for path in _files(folder / name)]
        if len(listed) > MAX_TEXTS:
            raise DataError(f"{folder} holds {len(listed):,} texts, more than the {MAX_TEXTS:,} allowed")
        labels = torch.tensor([label for _, label in listed])
        rows = _two_classes(labels, str(folder), self.limit)
        texts = tuple(_text(_whole(listed[row][0]), None, listed[row][0]) for row in rows.tolist())
        return _made(texts, labels[rows], rows, names, root.resolve().name)

    def _dataset(self, parts: Mapping[str, _Read], split: str, name: str) -> Dataset:
        chosen = parts[split]
        if chosen.labels is None:
            rows = torch.arange(len(chosen.texts))[: self.limit]
            texts = tuple(chosen.texts[row] for row in rows.tolist())
            return _made(texts, torch.zeros(len(rows), dtype=torch.int64), rows, (), name, labelled=False)
        raw = {key: part.labels for key, part in parts.items() if part.labels is not None}
        empty = Columns(chosen.source, torch.empty(len(chosen.texts), 0), (), chosen.label, chosen.labels)
        classes, numbered, note = numbers(raw, empty, ())
        rows = _two_classes(numbered[split], chosen.source, self.limit)
        texts = tuple(chosen.texts[row] for row in rows.tolist())
        return _made(texts, numbered[split][rows], rows, classes, name, note=joined([told(chosen.label), note]))


@dataclass(frozen=True)
class _Read:
    """One split: texts, and labels as `_tables.numbers` takes them, where there are any."""

    source: str
    texts: tuple[str, ...]
    labels: np.ndarray | None
    label: str


def holds_texts(path: Path) -> bool:
    """Whether a table or a folder holds texts, by the names of its columns or the endings of its files."""
    try:
        if path.is_dir():
            suffix = _suffix(path)
            if suffix in ("", ".txt"):
                return suffix == ".txt"
            path = next(file for split in ("train", "test") for file in sorted(path.glob(f"{split}*{suffix}")))
        if path.suffix.lower() == ".jsonl":
            return True
        if path.suffix.lower() == ".parquet":
            return any(name.strip().lower() in TEXT_COLUMNS for name in parquet_columns([path], (), texts=True)[0])
        if path_kind(path) != "file":  # a pipe would wait for a writer for ever
            return False
        with path.open(encoding="utf-8-sig", newline="") as file:
            head = [file.readline(2**20), file.readline(2**20)]
        rows = list(csv.reader(head, delimiter=delimiter(head[0])))
    except (OSError, UnicodeDecodeError, csv.Error, DataError):
        return False  # its own reader says what is wrong
    if len(rows) < 2 or len(rows[0]) != len(rows[1]):
        return False
    named = zip(rows[0], rows[1], strict=True)
    return any(name.strip().lower() in TEXT_COLUMNS and not _is_number(value) for name, value in named)


def _suffix(path: Path) -> str:
    """Return the ending that tells how a file or a folder of files is read; "" where no texts are seen."""
    if not path.is_dir():
        return path.suffix.lower()
    for suffix in (*_TABLES, ".txt"):
        if any(next(path.glob(f"{split}*{suffix}"), None) for split in ("train", "test")):
            return suffix
    homes = folders(path)
    if homes and {home.name for home in homes} <= SPLITS:
        homes = [inner for home in homes for inner in folders(home)]
    return ".txt" if any(next(home.glob("*.txt"), None) and not images_in(home) for home in homes) else ""


def _named(names: Sequence[str], known: Sequence[str], path: Path, flag: str) -> str | None:
    found = [name for name in names if name.strip().lower() in known]
    if len(found) > 1:
        raise DataError(f"{path} has the columns {' and '.join(found)}; say which is meant ({flag})")
    return found[0] if found else None


def _two_classes(labels: torch.Tensor, source: str, limit: int | None) -> torch.Tensor:
    if len(torch.unique(labels)) < 2:
        raise DataError(f"{source} has texts of one class only; an audit compares at least two classes")
    return spread(labels, limit)


def _made(
    texts: tuple[str, ...],
    labels: torch.Tensor,
    rows: torch.Tensor,
    classes: tuple[str, ...],
    name: str,
    *,
    note: str = "",
    labelled: bool = True,
) -> Dataset:
    empty = torch.zeros(len(texts), 0, dtype=torch.int64)
    return Dataset(empty, labels, classes, name, "text", rows, bounds=None, note=note, texts=texts, labelled=labelled)


# -- files --------------------------------------------------------------------------------------------------------


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.glob("*.txt") if path.is_file() and not path.name.startswith("."))


def _whole(path: Path) -> str:
    return read_text(path, max_bytes=4 * MAX_LETTERS)


def _lines(path: Path) -> Iterator[str]:
    """Yield the lines of a file that hold something."""
    _check_text(path, "text")
    row = 0
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number in itertools.count(1):
                line = file.readline(MAX_LETTERS + 2)
                if not line:
                    break
                if line.strip():
                    row += 1
                    yield _text(line, number, path)
                if row > MAX_TEXTS:
                    raise DataError(f"{path} has more than the {MAX_TEXTS:,} texts allowed")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start} of a block); save it as UTF-8") from None
    if not row:
        raise DataError(f"{path} holds no text")


def _csv(path: Path) -> tuple[list[str], list[list[str]]]:
    _check_text(path, "CSV")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline(2**20)
            file.seek(0)
            lines = csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else delimiter(first), strict=True)
            names = [name.strip() for name in next(lines, [])]
            rows = [row for row in itertools.islice(lines, MAX_TEXTS + 1) if row]
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start} of a block); save it as UTF-8") from None
    except csv.Error as error:
        raise DataError(f"{path} is a damaged CSV file: {first_line(error)}") from None
    if len(rows) > MAX_TEXTS:
        raise DataError(f"{path} has more than the {MAX_TEXTS:,} rows allowed")
    if not rows:
        raise DataError(f"{path} holds a header and no rows")
    if len(set(names)) < len(names):
        raise DataError(f"{path} has two columns of one name; rename one")
    for k, row in enumerate(rows):
        if len(row) != len(names):
            raise DataError(f"{path}: row {k + 2} has {len(row)} values, but there are {len(names)} columns")
    return names, rows


def _json_lines(path: Path) -> tuple[list[str], list[list[Any]]]:
    names: list[str] = []
    rows: list[list[Any]] = []
    for number, line in enumerate(_lines(path), start=1):
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: line {number} is no JSON: {first_line(error)}") from None
        if not isinstance(found, dict):
            raise DataError(f"{path}: line {number} holds {type(found).__name__}; each line must be one JSON object")
        names = names or list(found)
        if set(found) != set(names):
            raise DataError(f"{path}: line {number} has other keys than the first line; give all lines the same")
        rows.append([found[name] for name in names])
    return names, rows


def _check_text(path: Path, what: str) -> None:
    if sniff(path) not in ("text", "json"):
        raise DataError(f"{path} is no {what} file in UTF-8")
    if path.stat().st_size > MAX_TEXT:
        raise DataError(f"{path} has {path.stat().st_size:,} bytes, more than the {MAX_TEXT:,} allowed; divide it")


def _text(value: object, row: int | None, path: Path) -> str:
    where = f"{path}" if row is None else f"{path}: row {row}"
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where} holds no text; fill or remove it")
    if len(value) > MAX_LETTERS:
        raise DataError(f"{where} has more than {MAX_LETTERS:,} letters; cut it")
    return value.strip()


def _labels(values: Sequence[Any], label: str, path: Path) -> np.ndarray:
    for row, value in enumerate(values, start=1):
        if value is None or str(value).strip() == "" or not isinstance(value, str | int | float):
            raise DataError(f"{path}: row {row} has no label in the column {label!r}; fill or remove it")
    return as_labels([str(value) for value in values])


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
