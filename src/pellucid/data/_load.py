"""From the text a user types, or a recipe's kind, to a data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from pellucid.core import DataError, DataMissing, Dataset

from ._fashion_mnist import FashionMNIST, load_sample
from ._sample import unit
from ._synthetic import SyntheticImages, SyntheticTable

AnySource = type[FashionMNIST] | type[SyntheticImages] | type[SyntheticTable]

SOURCES: Mapping[str, AnySource] = MappingProxyType(
    {"fashion-mnist": FashionMNIST, "synthetic-images": SyntheticImages, "synthetic-table": SyntheticTable}
)
"""Sources by kind; a recipe's `[data]` table holds the kind and the source's own settings."""


def load(spec: str, *, split: str = "test") -> Dataset:
    """Return a data set ready for a model: float inputs, images in [0, 1].

    Args:
        spec: a name of `SOURCES`.
        split: "train" or "test".

    Raises:
        DataMissing: a named set is not on this machine.
        DataError: no such name.
    """
    if spec not in SOURCES:
        raise DataError(f"there is no data set {spec!r}; the names are {', '.join(sorted(SOURCES))}")
    try:
        dataset = SOURCES[spec]().load(split)
    except DataMissing:
        if spec != "fashion-mnist" or split != "test":
            raise
        dataset = load_sample()
    return replace(dataset, inputs=unit(dataset.inputs))
