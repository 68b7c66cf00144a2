"""What objectives do with batches whose inputs are mixes of two samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.core import IGNORED, Batch, Dataset

from .._parallel import averaged


def mixed(loss: Callable[[Tensor], Tensor], batch: Batch) -> Float[Tensor, " b"]:
    """Return the loss of each sample: that of its label, or the two labels' losses in the shares of the mix.

    Args:
        loss: one number per sample for labels `(b,)`.
        batch: may be mixed or not.
    """
    if batch.others is None or batch.shares is None:
        return loss(batch.labels)
    return batch.shares * loss(batch.labels) + (1 - batch.shares) * loss(batch.others)


def accuracy(logits: Tensor, batch: Batch) -> Tensor:
    """Return the share of right answers, among labelled pixels where these have labels.

    Of a mix each label counts as much as its sample.
    """
    answers = logits.detach().argmax(1)
    if batch.labels.ndim == 3:
        known = batch.labels != IGNORED
        right = (answers == batch.labels) & known
        return right.sum() / averaged(known.sum().float()).clamp_min(1)
    return mixed(lambda labels: (answers == labels).float(), batch).mean()


def counts_of(data: Dataset) -> tuple[int, ...]:
    """Return how many samples each class of a data set has; of masks, how many pixels.

    Raises:
        ValueError: a class has none.
    """
    held = torch.bincount(data.labels[data.labels != IGNORED].cpu(), minlength=len(data.class_names)).tolist()
    if 0 in held:
        what = "pixels" if data.dense else "samples"
        raise ValueError(f"class {held.index(0)} has no training {what}, so it cannot be weighted by their number")
    return tuple(held)


def check_counts(counts: Sequence[int], data: Dataset) -> None:
    """Refuse numbers of training samples that are not one per class.

    Raises:
        ValueError: see above.
    """
    if counts and len(counts) != len(data.class_names):
        raise ValueError(f"counts has {len(counts)} numbers, but {data.name} has {len(data.class_names)} classes")


def along(values: Float[Tensor, " k"], logits: Tensor) -> Tensor:
    """Return one value per class so that it goes with the second axis of logits `(b, k, ...)`."""
    return values.view(-1, *[1] * (logits.ndim - 2))


def on(counts: tuple[int, ...], like: Tensor) -> Int[Tensor, " k"]:
    """Return counts as a tensor beside another."""
    return torch.tensor(counts, dtype=torch.int64, device=like.device)
