"""Tables and images in Parquet files, and data sets that the library `datasets` saved to disk (Arrow files).

Nothing but the file itself is opened: an image that is only named by a path is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import torch

from pellucid.core import DataError, Dataset, MissingExtra, decode_image, first_line, read_json, sniff

from ._images import Fit, check_bytes, joined, stacked
from ._limits import MAX_BYTES, MAX_COLUMNS, MAX_PIXELS, MAX_ROWS
from ._rows import spread
from ._tables import Columns, as_features, as_labels, assembled, label_column, numbers, told

EXTRA = "pip install 'pellucid[arrow]'"
_ROWS = 1024  # rows held at once while reading


class Parquet(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="parquet"):
    """A Parquet file, or a folder with files `train*.parquet` and `test*.parquet`; needs pyarrow.

    One column holds the labels, as texts or whole numbers. The others are numbers, or one of them holds images: PNG or
    JPEG bytes, or a struct with the field `bytes`, as Hugging Face writes them. Class names are read from Hugging
    Face's metadata where there are any.

    Args:
        path: the file or the folder.
        label: the label column; if not given the one named label, target or class, else the last.
        limit: keep at most so many samples, equally many per class, first rows first.
        image_size: height and width that images are brought to: shorter side resized, middle cut out.
        channels: 1 makes images gray, 3 makes them color.
    """

    path: str
    label: str | None = None
    limit: int | None = None
    image_size: tuple[int, int] | None = None
    channels: Literal[1, 3] | None = None

    def load(self, split: str) -> Dataset:
        """Return the split: rows `(N, D)`, or uint8 images `(N, C, H, W)`.

        Raises:
            MissingExtra: pyarrow is not installed.
            DataError: no such split, or the file is not as described; the text names row and column.
        """
        path = Path(self.path)
        tables = {key: _parquet(files) for key, files in parquet_files(path, split).items()}
        fit = Fit(self.image_size, self.channels)
        return _loaded(tables, split, name=path.resolve().stem, label=self.label, limit=self.limit, fit=fit)


class HuggingFace(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="hugging-face"
):
    """A folder that `save_to_disk` of the library `datasets` wrote; needs pyarrow, not `datasets`.

    The columns are read as those of `Parquet`.

    Args:
        path: the folder of a `Dataset`, or of a `DatasetDict` with the splits train and test.
        label: the label column; if not given the one named label, target or class, else the last.
        limit: keep at most so many samples, equally many per class, first rows first.
        image_size: height and width that images are brought to: shorter side resized, middle cut out.
        channels: 1 makes images gray, 3 makes them color.
    """

    path: str
    label: str | None = None
    limit: int | None = None
    image_size: tuple[int, int] | None = None
    channels: Literal[1, 3] | None = None

    def load(self, split: str) -> Dataset:
        """Return the split: rows `(N, D)`, or uint8 images `(N, C, H, W)`.

        Raises:
            MissingExtra: pyarrow is not installed.
            DataError: no such split, or the folder is not as described; the text names row and column.
        """
        path = Path(self.path)
        tables = {key: _saved(folder) for key, folder in _saved_folders(path, split).items()}
        fit = Fit(self.image_size, self.channels)
        return _loaded(tables, split, name=path.resolve().name, label=self.label, limit=self.limit, fit=fit)


# -- what is read: columns, and batches of rows -------------------------------------------------------------------


@dataclass(frozen=True)
class _Table:
    """One split of a table, not read yet.

    Args:
        source: file or folder, for errors.
        schema: columns and types, as pyarrow knows them.
        rows: how many.
        features: what Hugging Face says of the columns, by name.
        batches: reads some columns, in batches of rows.
    """

    source: str
    schema: Any
    rows: int
    features: dict[str, Any]
    batches: Callable[[Sequence[str]], Iterator[Any]]


def _arrow(module: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError:
        raise MissingExtra(f"reading Parquet and Arrow files needs pyarrow, which is not installed: {EXTRA}") from None


def parquet_columns(
    paths: Sequence[Path], columns: Sequence[str], *, texts: bool = False
) -> tuple[list[str], list[list[Any]]]:
    """Return the names of the columns of Parquet files, and the values of some of them.

    Args:
        paths: files with the same columns, one after the other.
        columns: whose values to return, as Python objects.
        texts: name only the columns of texts.
    """
    found, types = _parquet(paths), _arrow("pyarrow.types")
    fields = [found.schema.field(name) for name in found.schema.names]
    names = [f.name for f in fields if not texts or types.is_string(f.type) or types.is_large_string(f.type)]
    values: list[list[Any]] = [[] for _ in columns]
    for batch in found.batches(columns) if columns else ():
        for column, held in zip(columns, values, strict=True):
            kind = batch.column(column)
            held.extend((kind.dictionary_decode() if types.is_dictionary(kind.type) else kind).to_pylist())
    return names, values


def parquet_files(path: Path, split: str) -> dict[str, list[Path]]:
    """Return the files of each split: `train*` and `test*` in a folder, or one file for the test."""
    if not path.is_dir():
        if split != "test":
            raise DataError(f"{path} is not divided for training; put train.parquet and test.parquet into one folder")
        return {"test": [path]}
    found = {key: sorted(path.glob(f"{key}*.parquet")) for key in ("train", "test")}
    if not found.get(split):
        raise DataError(f"{path} has no {split}.parquet; it needs files train*.parquet and test*.parquet")
    return {key: files for key, files in found.items() if files}


def _parquet(paths: Sequence[Path]) -> _Table:
    parquet = _arrow("pyarrow.parquet")
    rows, source = 0, str(paths[0])
    schema: Any = None
    for path in paths:
        sniff(path)  # says so when it is missing, or no file
        with _Reading(path), parquet.ParquetFile(path) as file:
            _check_parquet(file.metadata, path)
            rows += file.metadata.num_rows
            if schema is not None and file.schema_arrow.names != schema.names:
                raise DataError(f"{paths[0]} and {path} have different columns")
            schema = schema if schema is not None else file.schema_arrow
    _check_shape(rows, schema, source)

    def batches(columns: Sequence[str]) -> Iterator[Any]:
        for path in paths:
            with _Reading(path), parquet.ParquetFile(path) as file:
                yield from file.iter_batches(batch_size=_ROWS, columns=list(columns))

    return _Table(source, schema, rows, _features((schema.metadata or {}).get(b"huggingface")), batches)


def _check_parquet(metadata: Any, path: Path) -> None:
    """Refuse a file whose own account of itself cannot be read within memory."""
    unpacked = sum(metadata.row_group(k).total_byte_size for k in range(metadata.num_row_groups))
    rows = sum(metadata.row_group(k).num_rows for k in range(metadata.num_row_groups))
    if unpacked > MAX_BYTES or unpacked < 0:
        raise DataError(f"{path} unpacks to {unpacked:,} bytes, more than the {MAX_BYTES:,} allowed")
    if rows != metadata.num_rows:
        raise DataError(f"{path} is a damaged Parquet file: it counts its rows in two ways")


def _saved_folders(path: Path, split: str) -> dict[str, Path]:
    if (path / "dataset_dict.json").is_file():
        held: dict[str, Any] = read_json(path / "dataset_dict.json", dict[str, Any])
        listed = held.get("splits")
        names = [name for name in listed if isinstance(name, str)] if isinstance(listed, list) else []
        if split not in names:
            raise DataError(f"{path} has the splits {', '.join(names) or 'none'}, not {split!r}")
        return {key: path / key for key in ("train", "test") if key in names} | {split: path / _plain(split, path)}
    if split != "test":
        raise DataError(f"{path} is one split, not divided for training; save a DatasetDict with train and test")
    return {"test": path}


def _saved(folder: Path) -> _Table:
    ipc = _arrow("pyarrow.ipc")
    arrow = _arrow("pyarrow")
    state: dict[str, Any] = read_json(folder / "state.json", dict[str, Any])
    info: dict[str, Any] = read_json(folder / "dataset_info.json", dict[str, Any])
    if state.get("_indices_data_files"):
        raise DataError(f"{folder} keeps its rows in another order; save it again after flatten_indices()")
    listed = state.get("_data_files")
    if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed) or not listed:
        raise DataError(f"{folder / 'state.json'} names no data files")
    paths = [folder / _plain(str(entry.get("filename", "")), folder) for entry in listed]
    rows = 0
    schema: Any = None
    for path in paths:
        sniff(path)
        with _Reading(path), arrow.memory_map(str(path)) as mapped, ipc.open_stream(mapped) as stream:
            schema = schema if schema is not None else stream.schema
            if stream.schema.names != schema.names:
                raise DataError(f"{paths[0]} and {path} have different columns")
            for batch in stream:
                batch.validate(full=True)
                rows += batch.num_rows
    _check_shape(rows, schema, str(folder))

    def batches(columns: Sequence[str]) -> Iterator[Any]:
        for path in paths:
            with _Reading(path), arrow.memory_map(str(path)) as mapped, ipc.open_stream(mapped) as stream:
                for batch in stream:
                    for start in range(0, batch.num_rows, _ROWS):
                        yield batch.select(list(columns)).slice(start, _ROWS)

    features = info.get("features")
    return _Table(str(folder), schema, rows, features if isinstance(features, dict) else {}, batches)


def _plain(name: str, folder: Path) -> str:
    """Refuse a file name that leads out of the folder."""
    if not name or Path(name).name != name or name in (".", "..") or "\\" in name or ":" in name:
        raise DataError(f"{folder} names the file {name!r}, which does not lie in it")
    return name


class _Reading:
    """Turns what pyarrow says of a damaged file into one sentence."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None or not isinstance(error, Exception) or isinstance(error, DataError | MemoryError):
            return
        arrow = _arrow("pyarrow")
        if isinstance(error, arrow.ArrowException | OSError | ValueError | TypeError | OverflowError):
            raise DataError(f"{self.path} is no Parquet or Arrow file, or damaged: {first_line(error)}") from None


def _features(raw: bytes | None) -> dict[str, Any]:
    """Return what Hugging Face's metadata say of the columns; nothing if they are not as expected."""
    try:
        found = json.loads(raw or b"{}")["info"]["features"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _check_shape(rows: int, schema: Any, source: str) -> None:
    if len(schema.names) > MAX_COLUMNS or rows > MAX_ROWS:
        raise DataError(
            f"{source} has {rows:,} rows and {len(schema.names):,} columns, more than the {MAX_ROWS:,} and "
            f"{MAX_COLUMNS:,} allowed"
        )
    if len(set(schema.names)) < len(schema.names):
        raise DataError(f"{source} has several columns of one name")
    if rows == 0:
        raise DataError(f"{source} holds 0 rows")


# -- from columns to data sets ------------------------------------------------------------------------------------


def _loaded(
    tables: dict[str, _Table], split: str, *, name: str, label: str | None, limit: int | None, fit: Fit
) -> Dataset:
    chosen = tables[split]
    column = label_column(chosen.schema.names, label, chosen.source)
    pictures = [n for n in chosen.schema.names if n != column and _holds_images(chosen, n)]
    classes = _class_names(chosen, column)
    if not pictures:
        if fit != Fit():
            raise DataError(f"image_size and channels are for images, but {chosen.source} holds no column of images")
        parts = {key: _numbers(table, column) for key, table in tables.items()}
        return assembled(parts, split, name=name, limit=limit, names=classes)
    if len(pictures) > 1:
        raise DataError(f"{chosen.source} has several columns of images: {', '.join(pictures)}; keep one")
    return _images(tables, split, pictures[0], column, name=name, classes=classes, limit=limit, fit=fit)


def _holds_images(table: _Table, name: str) -> bool:
    types = _arrow("pyarrow.types")
    kind = table.schema.field(name).type
    if types.is_struct(kind):
        return "bytes" in [kind.field(k).name for k in range(kind.num_fields)]
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _class_names(table: _Table, column: str) -> tuple[str, ...]:
    feature = table.features.get(column)
    names = feature.get("names") if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" else None
    return tuple(str(name) for name in names) if isinstance(names, list) else ()


def _numbers(table: _Table, column: str) -> Columns:
    """Read all columns, of which all but the labels must be numbers."""
    types = _arrow("pyarrow.types")
    names = [name for name in table.schema.names if name != column]
    for name in names:
        kind = table.schema.field(name).type
        if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)):
            raise DataError(
                f"{table.source}: the column {name!r} holds {kind}; features must be numbers, so turn it into numbers, "
                "or name the label column (--label)"
            )
    check_bytes(table.rows, 4 * len(names))
    parts: list[list[np.ndarray]] = [[] for _ in names]
    labels: list[np.ndarray] = []
    row = 0
    for batch in table.batches([*names, column]):
        for k, name in enumerate(names):
            values = _column(batch, name, row, table.source)
            if not np.isfinite(values).all():
                at = row + int(np.nonzero(~np.isfinite(values))[0][0])
                raise DataError(
                    f"{table.source}: row {at} has no finite value in the column {name!r}; remove or fill it"
                )
            parts[k].append(values)
        labels.append(_labels(batch, column, row, table.source))
        row += batch.num_rows
    features = as_features([np.concatenate(part) for part in parts], table.source)
    return Columns(table.source, features, tuple(names), column, np.concatenate(labels))


def _column(batch: Any, name: str, row: int, source: str) -> np.ndarray:
    values = batch.column(name)
    _check_whole(values, name, row, source)
    found: np.ndarray = np.asarray(values.to_numpy(zero_copy_only=False), dtype=np.float64)
    return found


def _labels(batch: Any, column: str, row: int, source: str) -> np.ndarray:
    types = _arrow("pyarrow.types")
    values = batch.column(column)
    if types.is_dictionary(values.type):
        values = values.dictionary_decode()
    _check_whole(values, column, row, source)
    kind = values.type
    if types.is_string(kind) or types.is_large_string(kind):
        return np.array(values.to_pylist(), dtype=np.str_)
    if types.is_integer(kind) or types.is_boolean(kind):
        return np.asarray(values.to_numpy(zero_copy_only=False)).astype(np.int64)
    if types.is_floating(kind):
        found = as_labels([repr(value) for value in values.to_pylist()])
        if found.dtype.kind == "i":
            return found
    raise DataError(
        f"{source}: the column {column!r} holds {kind}; labels are texts or whole numbers: name the column that holds "
        "them (--label)"
    )


def _check_whole(values: Any, name: str, row: int, source: str) -> None:
    if values.null_count:
        at = row + int(np.nonzero(np.asarray(values.is_null()))[0][0])
        raise DataError(f"{source}: row {at} has no value in the column {name!r}; fill or remove it")


def _images(
    tables: dict[str, _Table],
    split: str,
    column: str,
    label: str,
    *,
    name: str,
    classes: tuple[str, ...],
    limit: int | None,
    fit: Fit,
) -> Dataset:
    chosen = tables[split]
    raw = {key: _all_labels(table, label) for key, table in tables.items()}
    empty = torch.empty(len(raw[split]), 0)
    names, numbered, note = numbers(raw, Columns(chosen.source, empty, (), label, raw[split]), classes)
    labels = numbered[split]
    if len(torch.unique(labels)) < 2:
        raise DataError(f"{chosen.source} has samples of one class only; an audit compares at least two classes")
    rows = spread(labels, limit)
    wanted = set(rows.tolist())
    inputs, done = stacked(_decoded(chosen, column, wanted), fit=fit, count=len(wanted))
    return Dataset(
        inputs,
        labels[rows],
        class_names=names,
        name=name,
        modality="image",
        ids=rows,
        note=joined([told(label), note, done]),
    )


def _all_labels(table: _Table, column: str) -> np.ndarray:
    row, parts = 0, []
    for batch in table.batches([column]):
        parts.append(_labels(batch, column, row, table.source))
        row += batch.num_rows
    return np.concatenate(parts)


def _decoded(table: _Table, column: str, wanted: set[int]) -> Iterator[tuple[str, np.ndarray]]:
    """Decode the images of some rows; reading stops after the last of them."""
    row, last = 0, max(wanted)
    for batch in table.batches([column]):
        values = batch.column(column)
        for k in range(batch.num_rows):
            if row + k in wanted:
                what = f"{table.source}: row {row + k}"
                yield (
                    f"row {row + k}",
                    decode_image(_bytes(values[k].as_py(), what, column), name=what, max_pixels=MAX_PIXELS),
                )
        row += batch.num_rows
        if row > last:
            return


def _bytes(value: Any, what: str, column: str) -> bytes:
    if isinstance(value, dict):
        if value.get("bytes") is None and value.get("path"):
            raise DataError(
                f"{what} only names the file of its image; store the images themselves (cast_column with Image(), then "
                "save again with embedded files)"
            )
        value = value.get("bytes")
    if not isinstance(value, bytes):
        raise DataError(f"{what} has no image in the column {column!r}; remove the row")
    return value
