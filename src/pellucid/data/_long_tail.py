"""Subsets in which some classes are frequent and others rare, as long-tailed benchmarks take them."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
import torch
from jaxtyping import Int
from msgspec import Meta
from torch import Tensor

from pellucid.core import DataError, Dataset, Stream

from ._rows import turns
from ._sample import take

Shape = Literal["exp", "step"]


def long_tail_counts(most: int, n_classes: int, ratio: float, shape: Shape = "exp") -> tuple[int, ...]:
    """How many samples has each class of a long tail? "exp": int(most * ratio^(k / (K - 1))) for k = 0 .. K - 1.

    "step": `most` for the first half of the classes and int(most * ratio) for the others; of an odd number of classes
    the one in the middle is rare.

    Args:
        most: samples of the most frequent class.
        n_classes: K, at least 2.
        ratio: of the rarest to the most frequent class, in (0, 1].
        shape: see above.

    Raises:
        DataError: a number is out of range, or the rarest class would be empty.

    Example:
        >>> long_tail_counts(5000, 10, 0.005)
        (5000, 2775, 1540, 854, 474, 263, 146, 81, 45, 25)
    """
    if n_classes < 2:
        raise DataError(f"a long tail needs at least two classes, got {n_classes}")
    if not 0 < ratio <= 1:
        raise DataError(f"ratio must lie in (0, 1], got {ratio:g}; it is the rarest class over the most frequent")
    if shape not in ("exp", "step"):
        raise DataError(f"shape must be exp or step, got {shape!r}")
    last = n_classes - 1
    if shape == "exp":
        shares = [ratio ** (k / last) for k in range(n_classes)]
    else:
        shares = [1.0 if k < n_classes // 2 else ratio for k in range(n_classes)]
    # 6000 * 0.01 is 60, whatever its last bit says.
    counts = tuple(int(most * share + 1e-9) for share in shares)
    if counts[-1] < 1:
        raise DataError(
            f"ratio {ratio:g} of {most} samples leaves less than one for the rarest class; use a larger ratio, or more "
            "samples"
        )
    return counts


def long_tailed(
    labels: Int[Tensor, " n"], ratio: float, *, rng: Stream, shape: Shape = "exp", ids: Int[Tensor, " n"] | None = None
) -> Int[Tensor, " m"]:
    """Which rows make a long-tailed subset? Class 0 keeps all its samples, the last class `ratio` as many.

    The counts are those of `long_tail_counts`; the most frequent class has as many samples as the smallest class of
    `labels`. Which samples of a class are taken first is a pure function of the stream and their ids, so the subset of
    a smaller ratio lies within that of a larger one.

    Args:
        labels: of the whole set, classes 0 to K - 1, each there.
        ratio: of the rarest to the most frequent class, in (0, 1].
        rng: where chance comes from.
        shape: "exp" or "step".
        ids: names of the samples; row numbers if not given.

    Returns:
        Row numbers in ascending order.

    Raises:
        DataError: a class has no samples, or the ratio does not fit.

    Example:
        >>> labels = torch.arange(30) % 3
        >>> rows = long_tailed(labels, 0.1, rng=Stream(0))
        >>> torch.bincount(labels[rows]).tolist()
        [10, 3, 1]
    """
    if labels.ndim != 1 or labels.is_floating_point() or len(labels) == 0 or int(labels.min()) < 0:
        raise DataError("labels must be one class number per sample, counted from 0")
    held = torch.bincount(labels.cpu())
    if int(held.min()) == 0:
        raise DataError(f"class {int(held.argmin())} has no samples; a long tail needs some of every class")
    counts = torch.tensor(long_tail_counts(int(held.min()), len(held), ratio, shape))
    names = torch.arange(len(labels)) if ids is None else ids.cpu()
    lot = rng.child("long tail").at(names).bits((len(names), 1))[:, 0]
    order = lot.argsort(stable=True)
    here = labels.cpu()[order]
    return order[turns(here) < counts[here]].sort().values


class LongTail(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A long-tailed subset of the training samples, see `long_tailed`.

    Args:
        ratio: of the rarest to the most frequent class.
        shape: "exp" falls from class to class by the same factor; "step" has frequent and rare classes only.
        seed: which samples are taken; apart from the recipe's seed, so that seeds share their data.

    Example:
        >>> from pellucid.data import synthetic_images
        >>> tail = LongTail(ratio=0.1)(synthetic_images(64, rng=Stream(0)))
        >>> torch.bincount(tail.labels).tolist()
        [16, 7, 3, 1]
    """

    ratio: Annotated[float, Meta(gt=0, le=1)]
    shape: Shape = "exp"
    seed: int = 0

    def __call__(self, dataset: Dataset) -> Dataset:
        """Return the subset; ids keep naming the rows of the whole set.

        Raises:
            DataError: a class has no samples, or the ratio does not fit.
        """
        rng = Stream(self.seed)
        return take(dataset, long_tailed(dataset.labels, self.ratio, rng=rng, shape=self.shape, ids=dataset.ids))
