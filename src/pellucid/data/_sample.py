"""A few samples of a data set, drawn so that every class is there."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from pellucid.core import DataError, Dataset, Stream

from ._rows import turns


def unit(inputs: Tensor) -> Tensor:
    """Return inputs as a model takes them: uint8 pixels scaled to [0, 1], floats as they are."""
    return inputs.float() / 255 if inputs.dtype == torch.uint8 else inputs


def take(dataset: Dataset, rows: Int[Tensor, " n"]) -> Dataset:
    """Return the rows of a data set, in the given order; ids keep naming the source's rows."""
    texts = tuple(dataset.texts[row] for row in rows.tolist()) if dataset.texts else ()
    inputs, labels = dataset.inputs[rows], dataset.labels[rows]
    return replace(dataset, inputs=inputs, labels=labels, ids=dataset.ids[rows], texts=texts)


def sample(dataset: Dataset, n: int, *, rng: Stream) -> Dataset:
    """Return `n` samples, as equal in number per class as the data allows, in the data set's order.

    Of images with a class for every pixel the lot alone decides.

    The order in which samples are preferred is a pure function of the stream and their ids, so a larger draw contains
    the smaller one. A class with too few samples gives all it has and the others fill up.

    Raises:
        DataError: `n` is below 1 or above the number of samples.
    """
    if not 1 <= n <= len(dataset):
        raise DataError(f"{dataset.name} has {len(dataset)} samples; ask for 1 to {len(dataset)}, not {n}")
    lot = rng.child("sample").at(dataset.ids).uniform((len(dataset), 1), dtype=torch.float64)[:, 0]
    shuffled = lot.argsort(stable=True)
    # Class by class in turn; within one turn the lot decides, so that a remainder is not always the low classes'.
    order = shuffled[turns(dataset.labels[shuffled]).argsort(stable=True)]
    return take(dataset, order[:n].sort().values)
