"""The final measurement of a trained model on its test split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from pellucid.attacks import IntegratedSpatial
from pellucid.core import Dataset, OnStep, Stream, evaluating, silent, wilson
from pellucid.data import sample, unit
from pellucid.metrics import frequency_groups

from ._attack import AttackSettings
from ._dense import dense_test
from ._parallel import Parallel
from ._recipe import FinalTest

_LONG = 5  # how many times as frequent as the rarest class the most frequent one is in a long tail
_GROUPS = {"head": "most frequent classes", "medium": "classes between", "tail": "rarest classes"}


@dataclass(frozen=True)
class _Pass:
    """One measurement: the figure's name and label, the attack if any, and where its chance comes from."""

    name: str
    label: str
    attack: AttackSettings | None
    purpose: tuple[str, ...] = ()


def final_test(
    model: nn.Module,
    dataset: Dataset,
    test: FinalTest,
    *,
    class_counts: Sequence[int],
    parallel: Parallel,
    rng: Stream,
    on_step: OnStep = silent,
) -> list[dict[str, Any]]:
    """Return figures of a model card: accuracy, and accuracy under the recipe's attacks, with Wilson intervals.

    Of images with a class for every pixel they are those of `dense_test`.

    Where the rarest class has at most a fifth of the training samples of the most frequent one (`class_counts`), the
    accuracy of frequent, medium and rare classes is given too.
    """
    dataset, what = _limited(dataset, test.limit)
    if dataset.dense:
        return dense_test(
            model, dataset, what=what, batch_size=test.batch_size, parallel=parallel, rng=rng, on_step=on_step
        )
    passes = [_Pass("accuracy", f"clean accuracy, {what}", None)]
    if test.attack is not None:
        name = f"robust_accuracy[{test.attack.budget}]"
        passes.append(_Pass(name, f"accuracy under {test.attack}, {what}", test.attack, ("test",)))
    for key, attack in test.attacks.items():
        label = f"accuracy under {attack}, {what}"
        passes.append(_Pass(f"robust_accuracy[{key}]", label, attack, ("test", key)))
    rows = parallel.slice(torch.arange(len(dataset)))
    right = torch.zeros(len(passes), len(class_counts), dtype=torch.float64, device=parallel.device)
    done = 0
    for part in torch.split(rows, test.batch_size):
        winners: list[Tensor] = []
        for place, step in sorted(enumerate(passes), key=lambda pair: _is_whole(pair[1])):
            wrong = _wrong(model, dataset, part, step, rng, winners)
            right[place].index_add_(0, dataset.labels[part.to(wrong.device)], (~wrong).double())
            done += len(part)
            on_step(done, len(rows) * len(passes))
    figures = []
    right = parallel.total(right).cpu()
    for step, count in zip(passes, right.sum(1).tolist(), strict=True):
        figures.append(_figure(step.name, step.label, int(count), len(dataset)))
    return figures + _by_frequency(right[0], dataset, class_counts)


def _by_frequency(right: Tensor, dataset: Dataset, class_counts: Sequence[int]) -> list[dict[str, Any]]:
    """Return the accuracy of head, medium and tail, for long-tailed training data."""
    if len(class_counts) < 2 or _LONG * min(class_counts) > max(class_counts):
        return []
    held = torch.bincount(dataset.labels.cpu(), minlength=len(class_counts))
    figures = []
    for name, classes in frequency_groups(class_counts)._asdict().items():
        rows = list(classes)
        if classes and int(held[rows].sum()):
            numbers = [class_counts[k] for k in classes]
            many = f"{max(numbers):,}" if min(numbers) == max(numbers) else f"{min(numbers):,} to {max(numbers):,}"
            label = f"accuracy on the {_GROUPS[name]} ({many} training samples each)"
            figures.append(_figure(f"accuracy_{name}", label, int(right[rows].sum()), int(held[rows].sum())))
    return figures


def _figure(name: str, label: str, right: int, n: int) -> dict[str, Any]:
    share = wilson(right, n)
    entry = {"value": float(share.value), "low": float(share.low), "high": float(share.high)}
    return {"name": name, "label": label, "n": n, **entry}


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
