"""MUTAG (Debnath et al. 1991): 188 molecules as graphs of their atoms, and whether they cause mutations."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Annotated, ClassVar

import msgspec
import torch
from msgspec import Meta
from torch.nn import functional as F

from pellucid.core import Dataset

from ._facts import Facts
from ._graphs import pack_graphs
from ._homes import PyPIWheel, WebFile
from ._sample import take

ATOMS = ("C", "N", "O", "F", "I", "Cl", "Br")
FOLDS = 5

_FILES = {
    "MUTAG_A.txt": (76_940, "d9656ca7493f3445d737c711710bb36fd432dddd1c0ea32e1d4713c86ebd28e2"),
    "MUTAG_graph_indicator.txt": (11_532, "7d520a4d6c7961c0cdeabe076d8fe27e795b6d373485c9a2b744987e560a2056"),
    "MUTAG_graph_labels.txt": (439, "a1518ea39ba3426bd42f57396b9c4baffe68e9adc718caeeab0119c6591a5f2c"),
    "MUTAG_node_labels.txt": (6_742, "678f429965490e84dd27713017538c995fc05d1621beac910848b600015ee863"),
}

FACTS = Facts(
    name="mutag",
    summary="150 + 38 molecules as graphs of 10 to 28 atoms, mutagenic or not",
    license="not stated; published for research",
    url="https://chrsmrrs.github.io/datasets",
    classes=("not mutagenic", "mutagenic"),
    counts={"train": 150, "test": 38},
    digests={name: digest for name, (_, digest) in _FILES.items()},
    sizes={name: size for name, (size, _) in _FILES.items()},
    homes=(
        PyPIWheel(
            "grakel==0.1.11",
            WebFile(2_122_660, "sha256:f05f03c1ca23919bbb1e9d9132de4e1791e004cdd284a7e98d2897ac8495f0a7"),
            {f"grakel/tests/data/MUTAG/{name}": name for name in _FILES},
            {name: size for name, (size, _) in _FILES.items()},
            made_for=("cp311", "manylinux_2_28_x86_64"),
        ),
    ),
)


class Mutag(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="mutag"):
    """MUTAG from this machine; the files are checked against their known digests.

    Each node is an atom with its element as one of seven features; each edge is a bond of whatever kind. There is no
    official split: every fifth molecule by its number is for the test. Ids are the numbers of the molecules.

    Args:
        fold: which fifth is for the test.
    """

    facts: ClassVar[Facts] = FACTS
    fold: Annotated[int, Meta(ge=0, lt=FOLDS)] = 0

    def load(self, split: str) -> Dataset:
        """Return "train" (150 molecules, or 151) or "test" (38, or 37); inputs are `(N, 28, 28 + 7)`.

        Raises:
            DataMissing: the files are in none of the places; the text names the command that gets them.
            DataError: a file is damaged.
        """
        self.facts.check_split(split)
        folder = self.facts.find()
        if folder is None:
            raise self.facts.missing
        whole = _read(self.facts, folder, self.facts.state(folder, tuple(_FILES)))
        rows = ((whole.ids % FOLDS == self.fold) == (split == "test")).nonzero()[:, 0]
        return take(whole, rows)


@lru_cache(maxsize=1)  # size and time of the files are part of the key, so changed files are read again
def _read(facts: Facts, folder: Path, _state: tuple[tuple[str, int, int], ...]) -> Dataset:
    bonds, graph, label, atom = (_numbers(facts.read(folder, name)) for name in _FILES)
    owner = graph[:, 0] - 1
    counts = owner.bincount()
    first = counts.cumsum(0) - counts  # the files number the atoms through all graphs
    edges = bonds - 1
    adjacency = []
    for k, (start, count) in enumerate(zip(first.tolist(), counts.tolist(), strict=True)):
        own = edges[owner[edges[:, 0]] == k] - start
        matrix = torch.zeros(count, count)
        matrix[own[:, 0], own[:, 1]] = 1
        adjacency.append(matrix)
    features = torch.split(F.one_hot(atom[:, 0], len(ATOMS)).float(), counts.tolist())
    return Dataset(
        pack_graphs(adjacency, features),
        (label[:, 0] > 0).long(),
        class_names=facts.classes,
        name=facts.name,
        modality="graph",
        ids=torch.arange(len(counts)),
        bounds=None,
    )


def _numbers(raw: bytes) -> torch.Tensor:
    return torch.tensor([[int(part) for part in line.split(",")] for line in raw.decode().splitlines() if line])
