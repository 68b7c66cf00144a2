"""Files in the layout of MNIST's: IDX, images and labels in two files, packed or not."""

from __future__ import annotations

import gzip
import io
import math
import zlib
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import torch

from pellucid.core import DataError, Dataset, first_line, sniff

from ._images import check_bytes
from ._limits import MAX_BYTES
from ._rows import spread

_PREFIXES = {"train": ("train",), "test": ("t10k", "test")}
_CHUNK = 2**20
_MOST_PACKED = 1040  # times that deflate can shrink what it packs


class IDX(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="idx"):
    """Gray images in an IDX file (`…images-idx3-ubyte`) with the labels beside it (`…labels-idx1-ubyte`).

    Args:
        path: the file of images, or a folder that holds both files; a folder may hold two pairs, whose names begin
            with `train` and with `t10k` or `test`. Files may be packed (`.gz`).
        limit: keep at most so many samples, equally many per class, first rows first.
    """

    path: str
    limit: int | None = None

    def load(self, split: str) -> Dataset:
        """Return the split with uint8 images `(N, 1, H, W)`.

        Raises:
            DataError: no such split, no labels, a damaged file, or images and labels do not fit.
        """
        path = Path(self.path)
        images_path = _images_file(path, split)
        labels_path = _labels_file(images_path)
        images = read_idx(images_path, axes=3)
        labels = torch.from_numpy(read_idx(labels_path, axes=1).astype(np.int64))
        if len(images) != len(labels):
            raise DataError(f"{images_path} has {len(images):,} images but {labels_path} has {len(labels):,} labels")
        if len(torch.unique(labels)) < 2:
            raise DataError(f"{labels_path} has samples of one class only; an audit compares at least two classes")
        rows = spread(labels, self.limit)
        return Dataset(
            torch.from_numpy(images)[rows, None],
            labels[rows],
            class_names=(),
            name=path.resolve().name,
            modality="image",
            ids=rows,
        )


def idx_files(folder: Path) -> list[Path]:
    """Return the files of images in a folder."""
    return sorted(path for path in folder.glob("*idx3*") if path.is_file() and "images" in path.name.lower())


def read_idx(path: Path, *, axes: int) -> np.ndarray:
    """Return the uint8 array in an IDX file; its size is checked before anything of it is read.

    Raises:
        DataError: missing, no IDX file, of other numbers or axes than asked for, truncated, or too long.
    """
    packed = sniff(path) == "gzip"
    held = path.stat().st_size
    try:
        with gzip.open(path) if packed else path.open("rb") as file:
            shape = _shape(file, path, axes)
            size = math.prod(shape)
            if size > MAX_BYTES or (packed and size > _MOST_PACKED * held):
                raise DataError(f"{path} claims {size:,} bytes of content, which it cannot hold or may not")
            if not packed and size != held - 4 - 4 * axes:
                raise DataError(f"{path} is damaged: its header says {size:,} bytes, it has {held - 4 - 4 * axes:,}")
            raw = _exactly(file, size, path)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be unpacked: {first_line(error)}") from None
    return np.frombuffer(raw, dtype=np.uint8).reshape(shape)


def _shape(file: io.BufferedIOBase, path: Path, axes: int) -> tuple[int, ...]:
    head = file.read(4)
    if len(head) < 4 or head[:2] != b"\0\0" or head[3] == 0:
        raise DataError(f"{path} is no IDX file")
    if head[2] != 8:
        raise DataError(f"{path} holds numbers of kind 0x{head[2]:02x}; only bytes (0x08) are read")
    if head[3] != axes:
        raise DataError(f"{path} has {head[3]} axes, but {'images' if axes == 3 else 'labels'} have {axes}")
    sizes = file.read(4 * axes)
    if len(sizes) < 4 * axes:
        raise DataError(f"{path} is truncated in its header; copy it again")
    shape = tuple(int.from_bytes(sizes[4 * k : 4 * k + 4], "big") for k in range(axes))
    if 0 in shape:
        raise DataError(f"{path} holds 0 samples, or samples of 0 pixels")
    check_bytes(shape[0], math.prod(shape[1:]))
    return shape


def _exactly(file: io.BufferedIOBase, size: int, path: Path) -> bytearray:
    """Read `size` bytes in pieces, so that a false size never claims memory."""
    raw = bytearray()
    while len(raw) < size:
        piece = file.read(min(_CHUNK, size - len(raw)))
        if not piece:
            raise DataError(f"{path} is truncated: it holds {len(raw):,} of {size:,} bytes; copy it again")
        raw += piece
    if file.read(1):
        raise DataError(f"{path} is damaged: it is longer than its header says")
    return raw


def _images_file(path: Path, split: str) -> Path:
    if not path.is_dir():
        if split != "test":
            raise DataError(f"{path} is not divided for training; name the folder that holds train and test files")
        return path
    files = idx_files(path)
    divided = [file for file in files if _begins(file, [p for names in _PREFIXES.values() for p in names])]
    if not divided and len(files) == 1 and split == "test":
        return files[0]
    chosen = [file for file in files if _begins(file, _PREFIXES.get(split, (split,)))]
    if len(chosen) != 1:
        names = ", ".join(file.name for file in files) or "none"
        raise DataError(f"{path} has no one file of images for the split {split!r}; it has {names}")
    return chosen[0]


def _begins(file: Path, prefixes: Sequence[str]) -> bool:
    return file.name.lower().startswith(tuple(prefixes))


def _labels_file(images: Path) -> Path:
    stem = images.name.removesuffix(".gz").replace("images", "labels").replace("idx3", "idx1")
    found = next((path for path in (images.with_name(stem), images.with_name(f"{stem}.gz")) if path.is_file()), None)
    if "images" not in images.name and "labels" in images.name:
        raise DataError(f"{images} is a file of labels; give the file of images beside it, or their folder")
    if stem == images.name.removesuffix(".gz") or found is None:
        raise DataError(
            f"{images} has no labels beside it; put {stem if 'labels' in stem else 'a file of labels'} there"
        )
    return found
