"""How well do the answers of every pixel cover the areas of each class?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.core import IGNORED, DataError, Interval, Stream

_RESAMPLES, _CHUNK = 1000, 2**22


@dataclass(frozen=True)
class IoU:
    """Intersection over union of predicted and true areas.

    Args:
        per_class: pixels of a class that were found, over those that are of it or were said to be, `(..., K)`; NaN for
            a class that is in neither.
        mean: over the classes that are there, `(...)`; NaN where there is none.
    """

    per_class: Float[Tensor, "*n K"]
    mean: Float[Tensor, "*n"]


def confusion(pred: Tensor, labels: Tensor, n_classes: int, *, ignored: int = IGNORED) -> Int[Tensor, "K K"]:
    """How many pixels of each class got which answer? Row = true class, column = answer.

    Counts of parts of the data add up, so large data can be counted batch by batch.

    Args:
        pred: answered classes, whole numbers of any shape.
        labels: true classes of the same shape.
        n_classes: K.
        ignored: the label of pixels that do not count.

    Raises:
        DataError: shapes differ, or a class lies outside 0 to K - 1.

    Example:
        >>> confusion(torch.tensor([0, 1, 1, 0]), torch.tensor([0, 0, 1, -100]), 2)
        tensor([[1, 1],
                [0, 1]])
    """
    return confusions(pred.reshape(1, -1), labels.reshape(1, -1), n_classes, ignored=ignored)[0]


def confusions(pred: Tensor, labels: Tensor, n_classes: int, *, ignored: int = IGNORED) -> Int[Tensor, "N K K"]:
    """`confusion` of each image `(N, ...)` by itself, which says how much images differ.

    Example:
        >>> labels = torch.tensor([[[0, 1]], [[1, -100]]])
        >>> confusions(torch.ones_like(labels), labels, 2).tolist()
        [[[0, 1], [0, 1]], [[0, 0], [0, 1]]]
    """
    if pred.shape != labels.shape:
        raise DataError(f"pred and labels must have one shape, got {tuple(pred.shape)} and {tuple(labels.shape)}")
    if pred.is_floating_point() or labels.is_floating_point():
        raise DataError("pred and labels must be classes, whole numbers; of logits take argmax(1) first")
    labels = labels.to(pred.device)
    known = labels != ignored
    answer, truth = pred[known].long(), labels[known].long()
    for name, classes in (("pred", answer), ("labels", truth)):
        if classes.numel() and (int(classes.min()) < 0 or int(classes.max()) >= n_classes):
            low, high = int(classes.min()), int(classes.max())
            raise DataError(f"{name} must hold classes from 0 to {n_classes - 1}, got {low} to {high}")
    image = torch.arange(len(pred), device=pred.device).view(-1, *[1] * (pred.ndim - 1)).expand_as(pred)[known]
    cells = (image * n_classes + truth) * n_classes + answer
    return torch.bincount(cells, minlength=len(pred) * n_classes**2).view(len(pred), n_classes, n_classes)


def iou(confusion: Tensor) -> IoU:
    """How well do the predicted areas cover the true ones? Intersection over union of each class, and their mean.

    Of class k it is C_kk / (sum_j C_kj + sum_j C_jk - C_kk). A class that is neither in the labels nor among the
    answers does not count (Everingham et al. 2015, the measure of PASCAL VOC).

    Args:
        confusion: counts `(..., K, K)`, row = true class, column = answer; summed over images for the usual mean IoU.

    Raises:
        DataError: no square counts.

    Example:
        >>> iou(torch.tensor([[1, 1], [0, 1]])).per_class
        tensor([0.5000, 0.5000], dtype=torch.float64)
    """
    if confusion.ndim < 2 or confusion.shape[-1] != confusion.shape[-2] or confusion.is_complex():
        raise DataError(f"confusion must hold counts of shape (..., K, K), got {tuple(confusion.shape)}")
    counts = confusion.double()
    both = counts.diagonal(dim1=-2, dim2=-1)
    per_class = both / (counts.sum(-1) + counts.sum(-2) - both)  # 0 / 0 is NaN: the class is nowhere
    return IoU(per_class, per_class.nanmean(-1))


@dataclass(frozen=True)
class Segmentation:
    """How well a model answers for every pixel; all of it follows from the counts of each image.

    Args:
        confusions: counts of each image `(N, K, K)`, row = true class, column = answer.
        pixel_accuracy: share of labelled pixels that are right; with `mean_iou` an interval over images.
        mean_iou: IoU of the counts of all images, averaged over the classes that are there.
        per_class: IoU of each class `(K,)`, NaN for a class that is in neither labels nor answers.
        recall: share of each class's pixels that are right `(K,)`; NaN for a class without pixels.
        floor: mean IoU of always answering the most frequent class.
    """

    confusions: Int[Tensor, "N K K"]
    pixel_accuracy: Interval[float]
    mean_iou: Interval[float]
    per_class: Interval[Tensor]
    recall: Float[Tensor, " K"]
    floor: float

    @property
    def confusion(self) -> Int[Tensor, "K K"]:
        """Counts of all images together."""
        return self.confusions.sum(0)


def segmentation(confusions: Int[Tensor, "N K K"], *, rng: Stream) -> Segmentation:
    """How well does a model answer for every pixel? Intervals draw images, since pixels of one are alike.

    Args:
        confusions: counts of each image; see `confusion` and `confusions`.
        rng: draws the images of the bootstrap.

    Raises:
        DataError: no image has a labelled pixel.

    Example:
        >>> found = segmentation(torch.tensor([[[3, 1], [0, 4]], [[2, 0], [2, 4]]]), rng=Stream(0))
        >>> round(found.mean_iou.value, 3), round(found.pixel_accuracy.value, 3)
        (0.676, 0.812)
    """
    if not int(confusions.sum()):
        raise DataError("no pixel has a label, so nothing can be counted; give masks with classes")
    counts = confusions.double()
    total = counts.sum(0)
    support = total.sum(1)
    value = _measured(total)
    low, high = _ends(counts, rng=rng)
    constant = torch.zeros_like(total)
    constant[:, int(support.argmax())] = support
    return Segmentation(
        confusions=confusions,
        mean_iou=Interval(float(value[0]), float(low[0]), float(high[0])),
        pixel_accuracy=Interval(float(value[1]), float(low[1]), float(high[1])),
        per_class=Interval(value[2:], low[2:], high[2:]),
        recall=total.diagonal() / support,
        floor=float(iou(constant).mean),
    )


def _measured(counts: Float[Tensor, "*n K K"], whole: Tensor | None = None) -> Float[Tensor, "*n m"]:
    """Return the mean IoU, the share of right pixels and the IoU of each class.

    The mean is over the classes of `whole`, the IoU of all images, if given: a class that is nowhere keeps its own.
    """
    each = iou(counts).per_class
    mean = (each if whole is None else torch.where(each.isnan(), whole, each)).nanmean(-1)
    right = counts.diagonal(dim1=-2, dim2=-1).sum(-1) / counts.sum((-2, -1))
    return torch.cat([mean[..., None], right[..., None], each], -1)


def _ends(counts: Float[Tensor, "N K K"], *, rng: Stream) -> tuple[Tensor, Tensor]:
    """Return the ends of the 95 % percentile intervals of what is measured; NaN with one image.

    A draw without any pixel of a class says nothing of that class, and is left out of its interval; in the mean of that
    draw the class stands with its IoU of all images. A mean over fewer classes would be another quantity, and jump.
    """
    images = len(counts)
    whole = iou(counts.sum(0)).per_class
    if images == 1:
        unknown = torch.full_like(_measured(counts[0]), torch.nan)
        return unknown, unknown
    flat, replicas = counts.flatten(1), []
    for rows in torch.split(torch.arange(_RESAMPLES), max(1, _CHUNK // images)):
        drawn = rng.at(rows).integers(images, (len(rows), images), device=counts.device)
        times = flat.new_zeros(len(rows), images).scatter_add_(1, drawn, torch.ones_like(drawn).to(flat))
        replicas.append(_measured((times @ flat).reshape(-1, *counts.shape[1:]), whole))
    ends = torch.tensor([0.025, 0.975], dtype=torch.float64, device=counts.device)
    low, high = torch.cat(replicas).nanquantile(ends, dim=0)
    return low, high
