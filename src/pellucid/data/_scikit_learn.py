"""Small data sets that come with scikit-learn: the images `digits` and three tables.

Their authors gave no split, so one is drawn here, once and for all: a quarter of each class is the test split.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import lru_cache
from typing import Any, ClassVar

import msgspec
import numpy as np
import torch
from torch import Tensor

from pellucid.core import DataError, Dataset, MissingExtra, Stream

from ._facts import Facts
from ._rows import turns

TEST_SHARE = 0.25
EXTRA = "pip install 'pellucid[tabular]'"
_UCI = "CC BY 4.0"


def _facts(name: str, summary: str, classes: tuple[str, ...], counts: tuple[int, int], digest: str, url: str) -> Facts:
    return Facts(
        name=name,
        summary=summary,
        license=_UCI,
        url=f"https://archive.ics.uci.edu/dataset/{url}",
        classes=classes,
        counts={"train": counts[0], "test": counts[1]},
        digests={"arrays": digest},
        package="scikit-learn",
    )


class Digits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="digits"):
    """Handwritten digits (Alpaydin, Kaynak 1998), 8 x 8 gray pixels in [0, 1]; comes with scikit-learn."""

    facts: ClassVar[Facts] = _facts(
        "digits",
        "1,347 + 450 gray images of handwritten digits, 8 x 8, 10 classes",
        tuple(str(digit) for digit in range(10)),
        (1347, 450),
        "f6d9e39f37dc45d327f6db33428ee58970ccceabb2535a5c179de35886b70443",
        "80/optical+recognition+of+handwritten+digits",
    )

    def load(self, split: str) -> Dataset:
        """Return the split with images `(N, 1, 8, 8)`; the note says how it was drawn.

        Raises:
            MissingExtra: scikit-learn is not installed.
        """
        self.facts.check_split(split)
        inputs, labels, _ = _arrays(self.facts, "load_digits")
        rows = _rows(self.facts, labels, split)
        images = (inputs / 16).reshape(-1, 1, 8, 8)
        return Dataset(
            images[rows],
            labels[rows],
            class_names=self.facts.classes,
            name=self.facts.name,
            modality="image",
            ids=rows,
            note=_note(split),
        )


class Iris(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="iris"):
    """Lengths and widths of iris flowers of three species (Fisher 1936); comes with scikit-learn."""

    facts: ClassVar[Facts] = _facts(
        "iris",
        "114 + 36 rows, 4 measures of iris flowers, 3 classes",
        ("setosa", "versicolor", "virginica"),
        (114, 36),
        "aa06b8008ceba42efc654be0f83fdafc786239c9e8f13146044d078f5aab8f23",
        "53/iris",
    )

    def load(self, split: str) -> Dataset:
        """Return the split with rows `(N, 4)`; the background is the training split, the note says how it was drawn.

        Raises:
            MissingExtra: scikit-learn is not installed.
        """
        return _table(self.facts, "load_iris", split)


class Wine(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="wine"):
    """Chemical analyses of wines from three cultivars (Aeberhard, Forina 1992); comes with scikit-learn."""

    facts: ClassVar[Facts] = _facts(
        "wine",
        "133 + 45 rows, 13 chemical measures of wines, 3 classes",
        ("cultivar 1", "cultivar 2", "cultivar 3"),
        (133, 45),
        "3a28849ef2366c4b9d4e382b3fa5624a66f693c04d7fdcf43c529bbb0bb338d7",
        "109/wine",
    )

    def load(self, split: str) -> Dataset:
        """Return the split with rows `(N, 13)`; the background is the training split, the note says how it was drawn.

        Raises:
            MissingExtra: scikit-learn is not installed.
        """
        return _table(self.facts, "load_wine", split)


class BreastCancer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="breast-cancer"):
    """Cell nuclei of breast masses in Wisconsin (Wolberg, Street, Mangasarian 1993); comes with scikit-learn.

    Ten properties of the nuclei, each as mean, standard error and worst value over the image: these three columns are
    one group.
    """

    facts: ClassVar[Facts] = _facts(
        "breast-cancer",
        "427 + 142 rows, 30 measures of cell nuclei in 10 groups, 2 classes",
        ("malignant", "benign"),
        (427, 142),
        "25e2eb7b7a8745b1bde5ba18bc4969983d2e2f403291ecd5bde4a29ef30c3859",
        "17/breast+cancer+wisconsin+diagnostic",
    )

    def load(self, split: str) -> Dataset:
        """Return the split with rows `(N, 30)`; the background is the training split, the note says how it was drawn.

        Raises:
            MissingExtra: scikit-learn is not installed.
        """
        table = _table(self.facts, "load_breast_cancer", split)
        properties = [name.removeprefix("mean ") for name in table.feature_names[:10]]
        groups = {name: (column, column + 10, column + 20) for column, name in enumerate(properties)}
        return replace(table, groups=groups)


def verify_arrays(facts: Facts) -> None:
    """Check the arrays of a set that comes with scikit-learn against their digest."""
    _arrays(facts, f"load_{facts.name.replace('-', '_')}")


def _table(facts: Facts, function: str, split: str) -> Dataset:
    facts.check_split(split)
    inputs, labels, names = _arrays(facts, function)
    rows = _rows(facts, labels, split)
    return Dataset(
        inputs[rows],
        labels[rows],
        class_names=facts.classes,
        name=facts.name,
        modality="tabular",
        ids=rows,
        bounds=None,
        note=_note(split),
        feature_names=names,
        background=inputs[_rows(facts, labels, "train")],
    )


@lru_cache(maxsize=8)
def _arrays(facts: Facts, function: str) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Return inputs (float32), labels and column names, checked against the digest."""
    try:
        from sklearn import datasets
    except ImportError:
        raise MissingExtra(f"{facts.name} comes with scikit-learn, which is not installed: {EXTRA}") from None
    found: Any = getattr(datasets, function)()
    inputs, labels = np.ascontiguousarray(found.data, dtype="<f8"), np.ascontiguousarray(found.target, dtype="<i8")
    if hashlib.sha256(inputs.tobytes() + labels.tobytes()).hexdigest() != facts.digests["arrays"]:
        raise DataError(f"{facts.name} of this scikit-learn is not the one Pellucid knows; install another")
    names = tuple(str(name) for name in found.feature_names)
    return torch.from_numpy(inputs.astype(np.float32)), torch.from_numpy(labels.astype(np.int64)), names


def _rows(facts: Facts, labels: Tensor, split: str) -> Tensor:
    """Return the rows of a split: within each class, a fixed lot decides."""
    lot = Stream(0).child("split", facts.name).uniform((len(labels), 1), dtype=torch.float64)[:, 0]
    shuffled = lot.argsort(stable=True)
    turn = torch.empty_like(shuffled)
    turn[shuffled] = turns(labels[shuffled])
    tested = turn < (TEST_SHARE * labels.bincount()).round()[labels]
    return (tested if split == "test" else ~tested).nonzero()[:, 0]


def _note(split: str) -> str:
    return f"the {split} split of a fixed division by Pellucid, whose test split is a quarter of each class"
