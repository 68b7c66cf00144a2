"""Fashion-MNIST (Xiao, Rasul, Vollgraf 2017, arXiv:1708.07747): 70,000 gray images of clothes, 28 x 28, ten classes.

MIT license, (c) 2017 Zalando SE. The package holds a sample of 500 test images; the rest is looked for on this machine.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import ClassVar

import msgspec
import numpy as np
import torch

from pellucid.core import DataError, Dataset

from ._facts import Facts
from ._homes import WebFile, WebFiles
from ._mnist import SIZES, load_split

SAMPLE = Path(__file__).parent / "samples" / "fashion-mnist.npz"
SAMPLE_SHA256 = "1f8c701f451bcc2566bba02a841f4a5603e2877e6c9bb5b7d092363b7f1158ae"

_PACKED = {
    "train-images-idx3-ubyte.gz": WebFile(
        26_421_880, "sha256:3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"
    ),
    "train-labels-idx1-ubyte.gz": WebFile(
        29_515, "sha256:a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"
    ),
    "t10k-images-idx3-ubyte.gz": WebFile(
        4_422_102, "sha256:346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"
    ),
    "t10k-labels-idx1-ubyte.gz": WebFile(
        5_148, "sha256:67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"
    ),
}

FACTS = Facts(
    name="fashion-mnist",
    summary="60,000 + 10,000 gray images of clothes, 28 x 28, 10 classes",
    license="MIT",
    url="https://github.com/zalandoresearch/fashion-mnist",
    classes=(
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
    ),
    counts={"train": 60_000, "test": 10_000},
    digests={
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
    sizes=SIZES,
    homes=(
        WebFiles("https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/", _PACKED),
        WebFiles("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/", _PACKED),  # digests make http safe
    ),
)


class FashionMNIST(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="fashion-mnist"):
    """The whole of Fashion-MNIST, from this machine; its files are checked against known digests."""

    facts: ClassVar[Facts] = FACTS

    def load(self, split: str) -> Dataset:
        """Return "train" (60,000) or "test" (10,000) with uint8 images `(N, 1, 28, 28)`.

        Raises:
            DataMissing: the files are in none of the places; the text names the command that gets them.
            DataError: a file is damaged or is another data set's.
        """
        return load_split(self.facts, split)


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
    return Dataset(
        images,
        labels.long(),
        class_names=FACTS.classes,
        name=FACTS.name,
        modality="image",
        ids=ids.long(),
        note=note,
    )
