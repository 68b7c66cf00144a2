"""Fashion-MNIST (Xiao, Rasul, Vollgraf 2017, arXiv:1708.07747): 70,000 gray images of clothes, 28 x 28, ten classes.

MIT license, (c) 2017 Zalando SE. The package holds a sample of 500 test images; the rest is looked for on this machine.
"""

from __future__ import annotations

import gzip
import hashlib
from functools import lru_cache
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor

from pellucid.core import DataError, DataMissing, Dataset

from ._places import places

CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
COUNTS = {"train": 60_000, "test": 10_000}
HOMES = (
    "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",  # digests make plain http safe
)
SAMPLE = Path(__file__).parent / "samples" / "fashion-mnist.npz"
SAMPLE_SHA256 = "1f8c701f451bcc2566bba02a841f4a5603e2877e6c9bb5b7d092363b7f1158ae"

DECODED = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
"""SHA-256 of the decoded files: packers compress differently, the content is one."""

PACKED = {
    "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
}
"""SHA-256 of the files at the official home."""

_PREFIX = {"train": "train", "test": "t10k"}


class FashionMNIST(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="fashion-mnist"):
    """The whole of Fashion-MNIST, from this machine; its files are checked against known digests."""

    def load(self, split: str) -> Dataset:
        """Return "train" (60,000) or "test" (10,000) with uint8 images `(N, 1, 28, 28)`.

        Raises:
            DataMissing: the files are in none of the places; the text names the command that gets them.
            DataError: a file is damaged or is another data set's.
        """
        if split not in COUNTS:
            raise DataError(f"fashion-mnist has the splits train and test, not {split!r}")
        folder = find()
        if folder is None:
            raise DataMissing(
                "the full Fashion-MNIST is not on this machine; get it with `pellucid data get fashion-mnist` (30 MB), "
                "or name the folder that holds it in the environment variable PELLUCID_DATA"
            )
        images, labels = read(folder, split)
        return _dataset(images, labels, torch.arange(len(labels)), "")


def find() -> Path | None:
    """Return the first folder that holds the four files, packed or not; None when there is none."""
    return next((place for place in places("fashion-mnist") if all(_file(place, stem) for stem in DECODED)), None)


def read(folder: Path, split: str) -> tuple[Tensor, Tensor]:
    """Return the images (uint8, `(N, 1, 28, 28)`) and labels (int64) of one split, digests checked."""
    count, prefix = COUNTS[split], _PREFIX[split]
    images = _decode(folder, f"{prefix}-images-idx3-ubyte", 16 + count * 784)[16:]
    labels = _decode(folder, f"{prefix}-labels-idx1-ubyte", 8 + count)[8:]
    return images.reshape(count, 1, 28, 28), labels.long()


def load_sample() -> Dataset:
    """Return the shipped sample: of each class the first 50 images of the test split, 500 in all."""
    raw = SAMPLE.read_bytes()
    if hashlib.sha256(raw).hexdigest() != SAMPLE_SHA256:
        raise DataError(f"{SAMPLE} is damaged; install Pellucid again")
    with np.load(SAMPLE, allow_pickle=False) as arrays:
        images, labels, ids = (torch.from_numpy(arrays[key]) for key in ("inputs", "labels", "ids"))
    note = (
        "the shipped sample of 500 test images (50 per class): the full set is absent, "
        "`pellucid data get fashion-mnist` gets it"
    )
    return _dataset(images, labels.long(), ids.long(), note)


def _dataset(images: Tensor, labels: Tensor, ids: Tensor, note: str) -> Dataset:
    return Dataset(images, labels, class_names=CLASSES, name="fashion-mnist", modality="image", ids=ids, note=note)


def _file(folder: Path, stem: str) -> Path | None:
    return next((path for path in (folder / f"{stem}.gz", folder / stem) if path.is_file()), None)


def _decode(folder: Path, stem: str, size: int) -> Tensor:
    path = _file(folder, stem)
    if path is None:
        raise DataMissing(f"{folder / stem}.gz is missing; get it with `pellucid data get fashion-mnist`")
    stat = path.stat()
    return _decoded(path, stem, size, stat.st_size, stat.st_mtime_ns)


# Four entries hold one whole set; the file's size and time are part of the key, so a changed file is read again.
@lru_cache(maxsize=4)
def _decoded(path: Path, stem: str, size: int, _stored: int, _modified: int) -> Tensor:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            raw = file.read(size + 1)
    except (OSError, EOFError) as error:
        raise DataError(
            f"{path} cannot be read ({error}); remove it and run `pellucid data get fashion-mnist`"
        ) from error
    if hashlib.sha256(raw).hexdigest() != DECODED[stem]:
        raise DataError(
            f"{path} is not Fashion-MNIST's {stem}, or it is damaged; remove it and run "
            "`pellucid data get fashion-mnist`"
        )
    return torch.from_numpy(np.frombuffer(raw, dtype=np.uint8).copy())
