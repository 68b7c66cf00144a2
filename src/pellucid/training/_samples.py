"""Which samples a recipe trains on, and which of them are held out."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from pellucid.core import DataError, Dataset, RecipeError, Stream
from pellucid.data import sample, take

from ._recipe import Recipe


def training_samples(recipe: Recipe) -> Dataset:
    """Return the training samples: no more than the recipe's limit, and of these its long tail.

    Raises:
        RecipeError: the long tail does not fit the data.
    """
    data = recipe.data.load("train")
    if recipe.limit is not None and recipe.limit < len(data):
        data = sample(data, recipe.limit, rng=Stream(0).child("limit"))  # not the recipe's seed: seeds shall compare
    for key, given in (("long_tail", recipe.long_tail), ("held_out", recipe.held_out)):
        if given and data.dense:
            raise RecipeError(
                f"{key} chooses by the class of an image, but every pixel has one in {data.name}; leave it out"
            )
    if recipe.long_tail is None:
        return data
    try:
        return recipe.long_tail(data)
    except DataError as error:
        raise RecipeError(f"long_tail: {error}") from None


def parted(recipe: Recipe, data: Dataset) -> tuple[Dataset, Dataset | None]:
    """Return the samples to train on, and those held out: the recipe's share of each class, one at least.

    A class with a single sample keeps it for training.
    """
    if not recipe.held_out:
        return data, None
    lot = Stream(0).child("held out").at(data.ids).bits((len(data), 1))[:, 0].argsort(stable=True)
    kept: list[Tensor] = []
    for label in torch.unique(data.labels).tolist():
        rows = lot[data.labels[lot] == label]
        kept.append(rows[: min(len(rows) - 1, max(1, int(recipe.held_out * len(rows))))])
    out = torch.cat(kept)
    rest = torch.ones(len(data), dtype=torch.bool)
    rest[out] = False
    return take(data, rest.nonzero()[:, 0]), take(data, out.sort().values)


def class_counts(data: Dataset) -> Int[Tensor, " k"]:
    """Return how many samples each class has."""
    return torch.bincount(data.labels.cpu(), minlength=len(data.class_names))
