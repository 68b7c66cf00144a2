"""Training on images whose every pixel has a class: what a recipe may ask of them, and the final measurement."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from pellucid.core import Dataset, Interval, OnStep, RecipeError, Stream, evaluating, number, silent
from pellucid.data import unit
from pellucid.metrics import confusions, segmentation

from ._parallel import Parallel
from ._recipe import Recipe

_LOGITS = 2**24  # of one batch of the final measurement


def check_dense(recipe: Recipe, data: Dataset) -> None:
    """Refuse what is about one class per image.

    Raises:
        RecipeError: see above.
    """
    asked = f"every pixel has a class in {data.name}"
    if not getattr(recipe.objective, "dense", False):
        kind = recipe.to_dict()["objective"]["kind"]
        raise RecipeError(f'objective.kind = "{kind}" is about one class per image, but {asked}; use "standard"')
    for key, given, what in (
        ("augment.mixup", recipe.augment.mixup, "mixes the classes of two images"),
        ("test.attack", recipe.test.attack, "changes one answer per image"),
        ("test.attacks", recipe.test.attacks, "change one answer per image"),
        ("record", recipe.record, "compares images by their class"),
    ):
        if given:
            raise RecipeError(f"{key} {what}, but {asked}; leave it out")


def dense_test(
    model: nn.Module,
    dataset: Dataset,
    *,
    what: str,
    batch_size: int,
    parallel: Parallel,
    rng: Stream,
    on_step: OnStep = silent,
) -> list[dict[str, Any]]:
    """Return figures of a model card: mean IoU, share of right pixels, and the IoU of each class, over all images.

    Intervals are of a bootstrap over images.

    Args:
        model: answers with logits `(b, K, H, W)`.
        dataset: images with masks.
        what: which images these are, in words.
        batch_size: images at once, at most.
        parallel: this process among others.
        rng: draws the images of the bootstrap.
        on_step: told how many images are done.
    """
    classes = len(dataset.class_names)
    rows = parallel.slice(torch.arange(len(dataset)))
    counts = torch.zeros(len(dataset), classes, classes, dtype=torch.float64, device=parallel.device)
    done = 0
    most = max(1, min(batch_size, _LOGITS // (classes * dataset.labels[0].numel())))
    for part in torch.split(rows, most):
        here = part.to(dataset.inputs.device)
        with evaluating(model), torch.no_grad():
            answers = model(unit(dataset.inputs[here])).argmax(1)
        counts[here] = confusions(answers, dataset.labels[here], classes).to(counts)
        done += len(part)
        on_step(done, len(rows))
    found = segmentation(parallel.total(counts).cpu().long(), rng=rng)
    trivial = f"mean IoU of always answering {dataset.class_names[int(found.confusion.sum(1).argmax())]}, {what}"
    return [
        _figure("mean_iou", f"mean IoU over classes, {what}", found.mean_iou, len(dataset)),
        _figure("pixel_accuracy", f"share of right pixels, {what}", found.pixel_accuracy, len(dataset)),
        *(
            _figure(f"iou[{name}]", f"IoU of {name}, {what}", Interval(*ends), len(dataset))
            for name, *ends in zip(
                dataset.class_names,
                found.per_class.value.tolist(),
                found.per_class.low.tolist(),
                found.per_class.high.tolist(),
                strict=True,
            )
            if ends[0] == ends[0]  # a class that is neither there nor answered has none
        ),
        _figure("mean_iou_floor", trivial, Interval(found.floor, math.nan, math.nan), len(dataset)),
    ]


def _figure(name: str, label: str, found: Interval[float], n: int) -> dict[str, Any]:
    low, high = number(found.low), number(found.high)
    return {"name": name, "label": label, "n": n, "value": found.value, "low": low, "high": high}
