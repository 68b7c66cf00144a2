"""The final measurement of a trained model on its test split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from pellucid.attacks import IntegratedSpatial
from pellucid.core import Dataset, OnStep, Stream, evaluating, silent, wilson
from pellucid.data import sample, unit

from ._attack import AttackSettings
from ._parallel import Parallel
from ._recipe import FinalTest


@dataclass(frozen=True)
class _Pass:
    """One measurement: the figure's name and label, the attack if any, and where its chance comes from."""

    name: str
    label: str
    attack: AttackSettings | None
    purpose: tuple[str, ...] = ()


def final_test(
    model: nn.Module, dataset: Dataset, test: FinalTest, *, parallel: Parallel, rng: Stream, on_step: OnStep = silent
) -> list[dict[str, Any]]:
    """Return figures of a model card: accuracy, and accuracy under the recipe's attacks, with Wilson intervals."""
    dataset, what = _limited(dataset, test.limit)
    passes = [_Pass("accuracy", f"clean accuracy, {what}", None)]
    if test.attack is not None:
        name = f"robust_accuracy[{test.attack.budget}]"
        passes.append(_Pass(name, f"accuracy under {test.attack}, {what}", test.attack, ("test",)))
    for key, attack in test.attacks.items():
        label = f"accuracy under {attack}, {what}"
        passes.append(_Pass(f"robust_accuracy[{key}]", label, attack, ("test", key)))
    rows = parallel.slice(torch.arange(len(dataset)))
    right = torch.zeros(len(passes), dtype=torch.float64, device=parallel.device)
    done = 0
    for part in torch.split(rows, test.batch_size):
        winners: list[Tensor] = []
        for place, step in sorted(enumerate(passes), key=lambda pair: _is_whole(pair[1])):
            wrong = _wrong(model, dataset, part, step, rng, winners)
            right[place] += (~wrong).sum()
            done += len(part)
            on_step(done, len(rows) * len(passes))
    figures = []
    for step, count in zip(passes, parallel.total(right).tolist(), strict=True):
        share = wilson(int(count), len(dataset))
        entry = {"value": float(share.value), "low": float(share.low), "high": float(share.high)}
        figures.append({"name": step.name, "label": step.label, "n": len(dataset), **entry})
    return figures


def _limited(dataset: Dataset, limit: int | None) -> tuple[Dataset, str]:
    """Return the samples to measure on and what they are, in words."""
    if limit is None or limit >= len(dataset):
        return dataset, "full test set"
    return sample(dataset, limit, rng=Stream(0).child("test limit")), f"{limit:,} test samples"


def _is_whole(step: _Pass) -> bool:
    """Whether others may have to be measured before this one."""
    return step.attack is not None and step.attack.space == "spatial"


def _wrong(
    model: nn.Module, dataset: Dataset, rows: Tensor, step: _Pass, rng: Stream, winners: list[Tensor]
) -> Bool[Tensor, " b"]:
    """Return which samples the model gets wrong; flows and turns that are found are put into `winners`."""
    here = rows.to(dataset.inputs.device)
    x, y = unit(dataset.inputs[here]), dataset.labels[here]
    if step.attack is None:
        with evaluating(model), torch.no_grad():
            wrong: Tensor = model(x).argmax(1) != y
        return wrong
    attack = step.attack.build(early_stop=True, classes=len(dataset.class_names))
    stream = rng.child(*step.purpose).at(dataset.ids[rows])
    if isinstance(attack, IntegratedSpatial):
        # What its parts found it can do too: without them its accuracy could be above theirs.
        return attack(model, x, y, rng=stream, starts=winners).success
    found = attack(model, x, y, rng=stream)
    if step.attack.space in ("flow", "rotate-translate"):
        winners.append(found.params)
    return found.success
