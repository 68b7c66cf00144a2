"""The wiring of the worm C. elegans (White et al. 1986): which ganglion does a neuron lie in?"""

from __future__ import annotations

import csv
import io
import json
from functools import lru_cache
from pathlib import Path
from typing import Annotated, ClassVar

import msgspec
import torch
from msgspec import Meta
from torch import Tensor
from torch.nn import functional as F

from pellucid.core import Dataset

from ._facts import Facts
from ._graphs import pack_graphs
from ._homes import PyPIWheel, WebFile

FOLDS = 5

_WIRES, _GANGLIA = "aconnectome_white_1986_whole.csv", "aconnectome_ids_ganglia.json"
_FILES = {
    _WIRES: (64_492, "768d2b16557d768b51f81548f630adb45d76c1f99586e8fd4c90279293cc9dae"),
    _GANGLIA: (5_636, "e754fcb703b39b5f0db977d0b654ba2ac5ce09111f4e19aef3a85fb09ee2e0a2"),
}

CLASSES = (
    "anterior ganglion",
    "anterior pharyngeal bulb",
    "dorsal ganglion",
    "lateral ganglion",
    "ventral ganglion",
    "posterior pharyngeal bulb",
    "retrovesicular ganglion",
    "ventral nerve cord",
    "midbody neurons",
    "preanal ganglion",
    "dorsorectal ganglion",
    "lumbar ganglion",
)

FACTS = Facts(
    name="worm-connectome",
    summary="237 + 60 neurons of the worm C. elegans, each with its partners as a graph; 12 ganglia",
    license="GPL-3.0-or-later (the package); White et al. 1986",
    url="https://github.com/francescorandi/wormneuroatlas",
    classes=CLASSES,
    counts={"train": 237, "test": 60},
    digests={name: digest for name, (_, digest) in _FILES.items()},
    sizes={name: size for name, (size, _) in _FILES.items()},
    homes=(
        PyPIWheel(
            "wormneuroatlas==0.0.7.3",
            WebFile(37_760_635, "sha256:166289031784c9565f6b9205e30dc718bafbc092db3b46f1aef73d93dc4d1325"),
            {f"wormneuroatlas/data/{name}": name for name in _FILES},
            {name: size for name, (size, _) in _FILES.items()},
        ),
    ),
)


class WormConnectome(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="worm-connectome"
):
    """The wiring of C. elegans from this machine; the files are checked against their known digests.

    One sample is one neuron: the graph of it, which is node 0, and its partners, the most strongly tied ones where
    there are more than `partners`. An edge weighs log(1 + synapses), chemical and electrical ones in both directions
    together. A node's features are: whether it is the neuron that is asked about, log(1 + synapses) going out and
    coming in over the whole worm, and, of the training neurons only, the ganglion they lie in; the neuron that is asked
    about never tells its own. Neurons whose ganglion is not told, and muscles, are partners but no samples. There is no
    official split: every fifth neuron in the order of their names is for the test. Ids are places in that order.

    Args:
        fold: which fifth is for the test.
        partners: at most so many partners.
    """

    facts: ClassVar[Facts] = FACTS
    fold: Annotated[int, Meta(ge=0, lt=FOLDS)] = 0
    partners: Annotated[int, Meta(ge=1)] = 47

    def load(self, split: str) -> Dataset:
        """Return "train" (about 237 neurons) or "test" (about 60); inputs are `(N, n, n + 15)`, n = partners + 1.

        Raises:
            DataMissing: the files are in none of the places; the text names the command that gets them.
            DataError: a file is damaged.
        """
        self.facts.check_split(split)
        folder = self.facts.find()
        if folder is None:
            raise self.facts.missing
        worm = _read(self.facts, folder, self.facts.state(folder, tuple(_FILES)))
        known = worm.ganglion >= 0
        place = known.cumsum(0) - 1
        tested = known & (place % FOLDS == self.fold)
        asked = (tested if split == "test" else known & ~tested).nonzero()[:, 0]
        told = F.one_hot(worm.ganglion.clamp_min(0), len(CLASSES)) * (known & ~tested)[:, None]
        graphs = [_around(worm, told.float(), int(neuron), self.partners) for neuron in asked]
        return Dataset(
            pack_graphs([a for a, _ in graphs], [f for _, f in graphs], nodes=self.partners + 1),
            worm.ganglion[asked],
            class_names=CLASSES,
            name=self.facts.name,
            modality="graph",
            ids=place[asked],
            bounds=None,
        )


class _Worm(msgspec.Struct, frozen=True, eq=False):
    """All cells by name: synapses from row to column, and the ganglion of each or -1."""

    synapses: Tensor
    ganglion: Tensor


@lru_cache(maxsize=1)  # size and time of the files are part of the key, so changed files are read again
def _read(facts: Facts, folder: Path, _state: tuple[tuple[str, int, int], ...]) -> _Worm:
    lists = json.loads(facts.read(folder, _GANGLIA))
    ganglion = {cell: k for k, name in enumerate(CLASSES) for cell in lists[name]}
    rows = list(csv.DictReader(io.StringIO(facts.read(folder, _WIRES).decode()), delimiter="\t"))
    cells = sorted({row[end] for row in rows for end in ("pre", "post")})
    number = {cell: k for k, cell in enumerate(cells)}
    synapses = torch.zeros(len(cells), len(cells))
    for row in rows:
        synapses[number[row["pre"]], number[row["post"]]] += float(row["synapses"])
    return _Worm(synapses.fill_diagonal_(0), torch.tensor([ganglion.get(cell, -1) for cell in cells]))


def _around(worm: _Worm, told: Tensor, neuron: int, partners: int) -> tuple[Tensor, Tensor]:
    """Return adjacency and features of a neuron and its strongest partners."""
    both = worm.synapses + worm.synapses.T
    ties = both[neuron]
    near = ties.argsort(descending=True, stable=True)[: min(partners, int((ties > 0).sum()))]
    nodes = torch.cat([torch.tensor([neuron]), near])
    own = torch.zeros(len(nodes), 1)
    own[0] = 1
    totals = torch.stack([worm.synapses.sum(1), worm.synapses.sum(0)], dim=1).log1p()
    named = told[nodes]
    named[0] = 0
    return both[nodes][:, nodes].log1p(), torch.cat([own, totals[nodes], named], dim=1)
