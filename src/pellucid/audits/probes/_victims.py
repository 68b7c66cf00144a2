"""What fools the model, before and after: pictures of images, rows of tables."""

from __future__ import annotations

import torch
from torch import Tensor

from pellucid.core import Exhibit, Gallery, Subject, Table, evaluating, log_odds
from pellucid.metrics import RobustnessCurve

from .._players import feature_names, is_image
from .._samples import picture
from ._balls import Ball

VICTIMS = 4
EACH = {"image": 1, "tabular": 3}
"""Samples shown, and evaluations for each: what the model answers now, and for tables the gradient at the row."""

FEATURES_SHOWN = 5


def victims(subject: Subject, made: Ball, curve: RobustnessCurve) -> tuple[tuple[Exhibit, ...], int]:
    """Return what shows the smallest changes found that fool the model, from the easiest victim to the hardest.

    Also returns the evaluations spent.
    """
    fooled = (curve.correct & curve.smallest.isfinite()).nonzero()[:, 0]
    order = fooled[curve.smallest[fooled].argsort(stable=True)]
    rows = order[torch.linspace(0, max(0, len(order) - 1), min(VICTIMS, len(order))).long()]
    if not len(rows) or not (is_image(subject) or made.scale is not None):
        return (), 0
    part = subject.take(rows)
    changed = made.space(made.radii[-1]).render(part.inputs, curve.params[rows].to(part.inputs))
    with evaluating(part.model), torch.no_grad():
        answers = part.model(changed.to(part.device)).argmax(1).cpu()
    sizes = curve.smallest[rows].tolist()
    spent = len(rows) * (1 if made.blind else EACH[subject.modality])
    if made.scale is None:
        return (_gallery(part, made, changed, answers, sizes),), spent
    return (_table(part, made, changed, answers, sizes),), spent


def _gallery(subject: Subject, made: Ball, changed: Tensor, answers: Tensor, sizes: list[float]) -> Gallery:
    assert subject.labels is not None
    pictures = []
    for k in range(len(subject)):
        pictures.append(
            picture(
                subject.inputs[k],
                title=subject.class_names[int(subject.labels[k])],
                caption=f"sample {int(subject.ids[k])}",
                bounds=subject.bounds,
            )
        )
        pictures.append(
            picture(
                changed[k],
                title=f"taken for {subject.class_names[int(answers[k])]}",
                caption=f"{made.norm} size {made.size(sizes[k])}",
                bounds=subject.bounds,
            )
        )
    return Gallery(
        title=f"Smallest changes found that fool the model ({made.norm})",
        pictures=tuple(pictures),
        caption="Pairs of an image and its changed version, from the sample easiest to fool to the hardest one fooled.",
    )


def _table(subject: Subject, made: Ball, changed: Tensor, answers: Tensor, sizes: list[float]) -> Table:
    assert subject.labels is not None
    assert made.scale is not None
    names = feature_names(subject)
    rows: list[tuple[str | int | float | None, ...]] = []
    before, after = subject.inputs.double(), changed.double()
    moved = torch.where(made.scale > 0, (after - before) / made.scale, 0)
    effects = torch.where(moved != 0, -moved.abs(), 0.0) if made.blind else _slope(subject) * (after - before)
    for k in range(len(subject)):
        true, answer = (subject.class_names[int(c[k])] for c in (subject.labels, answers))
        most = effects[k].argsort(stable=True)[:FEATURES_SHOWN].tolist()
        rows += [
            (
                int(subject.ids[k]),
                f"{true}, taken for {answer}",
                made.size(sizes[k]),
                names[column],
                f"{float(before[k, column]):.5g}",
                f"{float(after[k, column]):.5g}",
                f"{float(moved[k, column]):+.2g} sd",
                None if made.blind else float(effects[k, column]),
            )
            for column in most
        ]
    shown = min(FEATURES_SHOWN, len(names))
    return Table(
        title=f"Smallest changes found that fool the model ({made.norm})",
        columns=("sample", "answer", f"{made.norm} size", "feature", "before", "after", "change", "effect"),
        rows=tuple(rows),
        caption=f"From the sample easiest to fool to the hardest one fooled, each with the {shown} changes that count "
        "most. sd is the feature's standard deviation"
        + (
            "; the largest changes, as the model gives no gradients that tell their effects."
            if made.blind
            else "; the effect is on the log odds of the true class, to first order at the row as it was."
        ),
    )


def _slope(subject: Subject) -> Tensor:
    """Return the gradient of the log odds of each sample's true class at its input; two evaluations each."""
    assert subject.labels is not None
    x = subject.inputs.detach().to(subject.device).requires_grad_()
    with evaluating(subject.model, precise=False), torch.enable_grad():
        score = log_odds(subject.model(x), subject.labels.to(x.device)).sum()
        (slope,) = torch.autograd.grad(score, x)
    return slope.double().cpu()
