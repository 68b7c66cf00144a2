"""From the text a user types, or a recipe's kind, to a data set."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import get_args

from pellucid.core import DataError, DataMissing, Dataset

from ._arrays import Arrays
from ._cifar import CIFAR10
from ._fashion_mnist import FashionMNIST, load_sample
from ._folder import ImageFolder
from ._mnist import MNIST
from ._rows import spread
from ._sample import take, unit
from ._scikit_learn import BreastCancer, Digits, Iris, Wine
from ._synthetic import SyntheticImages, SyntheticTable

NamedSource = FashionMNIST | MNIST | CIFAR10 | Digits | Iris | Wine | BreastCancer | SyntheticImages | SyntheticTable
"""Sources that are data sets by themselves, known by their kind."""

FileSource = ImageFolder | Arrays
"""Sources that read the user's own files."""

AnySource = NamedSource | FileSource
"""Every kind of source: a recipe's `[data]` table is one of them."""

SOURCES: Mapping[str, type[AnySource]] = MappingProxyType(
    {str(source.__struct_config__.tag): source for source in get_args(AnySource)}
)
"""Sources by kind; a recipe's `[data]` table holds the kind and the source's own settings."""

_NAMED: Mapping[str, NamedSource] = MappingProxyType(
    {str(source.__struct_config__.tag): source() for source in get_args(NamedSource)}
)


def load(spec: str, *, split: str = "test", skip_corrupt: bool = False, limit: int | None = None) -> Dataset:
    """Return a data set ready for a model: float inputs, images in [0, 1].

    Args:
        spec: "fashion-mnist" (the shipped sample of the test split when the full set is absent; the note says so),
            "synthetic-images", "synthetic-table", a folder of class folders, or a `.npz` file.
        split: "train" or "test".
        skip_corrupt: leave out images that cannot be read instead of stopping.
        limit: at most so many samples, equally many per class, first ones first.

    Raises:
        DataMissing: a named set is not on this machine.
        DataError: no such name or path, or the data are not as they must be.
    """
    if limit is not None and limit < 1:
        raise DataError(f"limit must be at least 1, got {limit}")
    dataset = _load(spec, split, skip_corrupt, limit)
    if limit is not None and len(dataset) > limit:
        dataset = take(dataset, spread(dataset.labels, limit))
    return replace(dataset, inputs=unit(dataset.inputs))


def _load(spec: str, split: str, skip_corrupt: bool, limit: int | None) -> Dataset:
    if spec in _NAMED:
        try:
            return _NAMED[spec].load(split)
        except DataMissing:
            if spec != "fashion-mnist" or split != "test":
                raise
            return load_sample()
    path = Path(spec)
    if path.is_dir():
        return ImageFolder(path=spec, skip_corrupt=skip_corrupt, limit=limit).load(split)
    if path.exists() or path.suffix == ".npz":
        return Arrays(path=spec, limit=limit).load(split)
    near = difflib.get_close_matches(spec, _NAMED, n=1)
    hint = f"did you mean {near[0]}?" if near else f"the names are {', '.join(_NAMED)}"
    raise DataError(f"there is no data set, folder or .npz file {spec!r}; {hint}")
