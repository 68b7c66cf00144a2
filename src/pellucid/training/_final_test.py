"""The final measurement of a trained model on its whole test split."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from pellucid.core import Attack, Dataset, OnStep, Stream, evaluating, silent, wilson
from pellucid.data import unit

from ._parallel import Parallel
from ._recipe import FinalTest


def final_test(
    model: nn.Module, dataset: Dataset, test: FinalTest, *, parallel: Parallel, rng: Stream, on_step: OnStep = silent
) -> list[dict[str, Any]]:
    """Return figures of a model card: accuracy, and accuracy under the recipe's attack, with Wilson intervals."""
    rows = parallel.slice(torch.arange(len(dataset)))
    passes: list[tuple[str, str, Attack | None]] = [("accuracy", "clean accuracy, full test set", None)]
    if test.attack is not None:
        name = f"robust_accuracy[{test.attack.space},{test.attack.eps:g}]"
        passes.append((name, f"accuracy under {test.attack}, full test set", test.attack.build()))
    figures, done = [], 0
    for name, label, attack in passes:
        right = torch.zeros((), dtype=torch.float64, device=parallel.device)
        for part in torch.split(rows, test.batch_size):
            right += _right(model, dataset, part.to(dataset.inputs.device), attack, rng)
            done += len(part)
            on_step(done, len(rows) * len(passes))
        share = wilson(int(parallel.total(right)), len(dataset))
        entry = {"value": float(share.value), "low": float(share.low), "high": float(share.high)}
        figures.append({"name": name, "label": label, "n": len(dataset), **entry})
    return figures


def _right(model: nn.Module, dataset: Dataset, rows: torch.Tensor, attack: Attack | None, rng: Stream) -> torch.Tensor:
    x, y = unit(dataset.inputs[rows]), dataset.labels[rows]
    if attack is not None:
        found = attack(model, x, y, rng=rng.child("test").at(dataset.ids[rows]))
        return (~found.success).sum()
    with evaluating(model), torch.no_grad():
        right: torch.Tensor = (model(x).argmax(1) == y).sum()
    return right
