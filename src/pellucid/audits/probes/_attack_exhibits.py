"""What shows where an attack works: maps of regions, groups of pixels in colors, tables, and how fast shares add up."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from pellucid.core import Axis, Curve, Exhibit, Gallery, Line, Mark, Picture, Subject, Table, number, numbers
from pellucid.explain import attack_regions

from .._players import player_names
from .._samples import picture
from .._wording import count

MOST_COMPONENTS = 64
SHOWN = 4
MAGNIFIED = 20


@dataclass(frozen=True, eq=False)
class Attacked:
    """What is measured of the attacked samples, samples first; NaN where one could not be attacked.

    Args:
        values: `(N, norms, n)` attributions.
        none, full, capped: `(N, norms)`, costs of the ends and share of searches without success.
        alike: `(N, 2)`, likeness of the attributions in both norms, and of the perturbations.
        delta: `(N, C, H, W)`, the smallest perturbation in the first norm.
        answer: `(N,)`, what the model answers to it.
        groups: `(N, H, W)`, component of each pixel, -1 for none.
        traits: `(N, components, 5)`: interaction, standard error, share on the object, drop of the true class, gain of
            the answer.
        evaluations, grouping: `(N,)`, model evaluations in all and those for the components; only sums mean anything.
    """

    values: Tensor
    none: Tensor
    full: Tensor
    capped: Tensor
    alike: Tensor
    delta: Tensor
    answer: Tensor
    groups: Tensor
    traits: Tensor
    evaluations: Tensor
    grouping: Tensor

    @classmethod
    def empty(cls, subject: Subject, norms: tuple[str, ...], regions: int) -> Attacked:
        """Return what is known of samples before they are attacked."""
        n, x = len(subject), subject.inputs

        def unknown(*shape: int) -> Tensor:
            return torch.full((n, *shape), torch.nan, dtype=torch.float64)

        return cls(
            values=unknown(len(norms), regions),
            none=unknown(len(norms)),
            full=unknown(len(norms)),
            capped=unknown(len(norms)),
            alike=unknown(2),
            delta=torch.zeros_like(x),
            answer=torch.full((n,), -1),
            groups=torch.full((n, *x.shape[2:]), -1),
            traits=unknown(MOST_COMPONENTS, 5),
            evaluations=torch.zeros(n, dtype=torch.int64),
            grouping=torch.zeros(n, dtype=torch.int64),
        )

    def tensors(self) -> dict[str, Tensor]:
        """Return all parts by name."""
        return {part.name: getattr(self, part.name) for part in fields(self)}

    def take(self, rows: Tensor) -> Attacked:
        """Return some of the samples."""
        return Attacked(**{name: tensor[rows] for name, tensor in self.tensors().items()})


# -- regions ------------------------------------------------------------------------------------------------------


def region_exhibits(
    subject: Subject, found: Attacked, grid: tuple[int, int], norms: tuple[str, ...]
) -> tuple[Exhibit, ...]:
    """Return the maps of the first samples, how fast the regions' shares add up, and all samples in numbers."""
    return (_maps(subject, found, grid, norms), _shares(found, norms), _samples(subject, found, grid, norms))


def _maps(subject: Subject, found: Attacked, grid: tuple[int, int], norms: tuple[str, ...]) -> Gallery:
    owner = attack_regions(subject.inputs.shape[2], subject.inputs.shape[3], grid)
    pictures = []
    for k in range(min(SHOWN, len(subject))):
        pictures += _before_and_after(subject, found, k)
        for position, norm in enumerate(norms):
            shares = found.values[k, position] / found.values[k, position].sum()
            pictures.append(
                picture(
                    subject.inputs[k],
                    title=f"what regions save an attack ({norm})",
                    caption=f"{norm} cost: border alone {float(found.none[k, position]):.3g}, whole image "
                    f"{float(found.full[k, position]):.3g}",
                    bounds=subject.bounds,
                    owner=owner,
                    marks=tuple(
                        Mark(cells=(r,), weight=number(100 * share)) for r, share in enumerate(shares.tolist())
                    ),
                )
            )
    return Gallery(
        title="Regions that make an attack cheap",
        pictures=tuple(pictures),
        caption="Each region's percentage of what an attack saves when it may touch all regions and not the border "
        "alone. The border, without color, is always free.",
    )


def _before_and_after(subject: Subject, found: Attacked, k: int) -> list[Picture]:
    assert subject.labels is not None
    true = subject.class_names[int(subject.labels[k])]
    name = subject.class_names[int(found.answer[k])] if int(found.answer[k]) >= 0 else "another class"
    x, delta = subject.inputs[k].double(), found.delta[k].double()
    low, high = subject.bounds if subject.bounds is not None else (float(x.min()), float(x.max()))
    most = float(delta.abs().max())
    times = max(1, min(MAGNIFIED, int((high - low) / 2 / most))) if most else MAGNIFIED
    return [
        picture(subject.inputs[k], title=true, caption=f"sample {int(subject.ids[k])}", bounds=subject.bounds),
        picture(
            (low + high) / 2 + times * delta,
            title="its change" if times == 1 else f"its change, {times} times",
            caption=f"the smallest l2 change found; then taken for {name}",
            bounds=(low, high),
        ),
    ]


def _shares(found: Attacked, norms: tuple[str, ...]) -> Curve:
    n = found.values.shape[2]
    at = numbers(range(n + 1))
    lines = []
    for position, norm in enumerate(norms):
        ordered = found.values[:, position].sort(1, descending=True).values
        whole = (ordered.cumsum(1) / ordered.sum(1, keepdim=True)).nan_to_num().mean(0)
        lines.append(Line(name=norm, x=at, y=(0.0, *numbers(whole))))
    alike = Line(name="all regions alike", x=(0.0, float(n)), y=(0.0, 1.0), role="reference")
    return Curve(
        title="How few regions make an attack cheap",
        x=Axis("strongest regions"),
        y=Axis("share of the saving", "%"),
        lines=(*lines, alike),
        caption="Mean over samples, each with its own strongest regions.",
    )


def _samples(subject: Subject, found: Attacked, grid: tuple[int, int], norms: tuple[str, ...]) -> Table:
    assert subject.labels is not None
    names = player_names(subject, grid, grid[0] * grid[1])
    rows = []
    for k in range(len(subject)):
        for position, norm in enumerate(norms):
            top = found.values[k, position].argsort(descending=True, stable=True)[:3].tolist()
            rows.append(
                (
                    int(subject.ids[k]),
                    subject.class_names[int(subject.labels[k])],
                    norm,
                    number(found.none[k, position]),
                    number(found.full[k, position]),
                    ", ".join(names[r] for r in top),
                    number(found.capped[k, position]),
                )
            )
    return Table(
        title="What attacks cost",
        columns=(
            "sample",
            "true class",
            "norm",
            "cost with the border alone",
            "cost with everything",
            "strongest regions",
            "searches without success",
        ),
        units=("", "", "", "", "", "", "%"),
        rows=tuple(rows),
        caption="Costs are in the unit of the inputs; for linf times 255 in gray levels where inputs lie in 0 to 1.",
    )


# -- groups of pixels ---------------------------------------------------------------------------------------------


def group_exhibits(subject: Subject, found: Attacked) -> tuple[Exhibit, ...]:
    """Return the components of the first samples in colors, and all of them in numbers."""
    pictures = []
    some = (found.groups >= 0).flatten(1).any(1).nonzero()[:, 0].tolist()
    for k in some[:SHOWN]:
        traits = found.traits[k][found.traits[k, :, 0].isfinite()]
        pictures += _before_and_after(subject, found, k)
        pictures.append(
            picture(
                subject.inputs[k],
                title="groups that act together",
                caption=f"{count(len(traits), 'group')}; the number is what each raises the wrong class less what it "
                "lowers the true one",
                bounds=subject.bounds,
                owner=found.groups[k],
                marks=tuple(
                    Mark(cells=(c,), weight=number(gain.abs() - drop.abs()))
                    for c, (drop, gain) in enumerate(traits[:, 3:])
                ),
            )
        )
    gallery = Gallery(
        title="Groups of pixels that work together",
        pictures=tuple(pictures),
        caption="Groups with a number above 0 mainly raise the wrong class, those below 0 mainly lower the true one: "
        "logits, when a group is taken out of the whole perturbation.",
    )
    return gallery, _groups(subject, found, some)


def _groups(subject: Subject, found: Attacked, some: list[int]) -> Table:
    rows = []
    for k in some:
        for c, (interaction, error, share, drop, gain) in enumerate(found.traits[k].tolist()):
            pixels = int((found.groups[k] == c).sum())
            if not pixels:
                break
            does = "lowers the true class" if abs(drop) > abs(gain) else "raises the wrong class"
            rows.append((int(subject.ids[k]), pixels, interaction, error, share, drop, gain, does))
    return Table(
        title="The groups in numbers",
        columns=(
            "sample",
            "pixels",
            "interaction",
            "standard error",
            "on the object",
            "lowers the true class by",
            "raises the wrong class by",
            "mainly",
        ),
        units=("", "", "", "", "%", "", "", ""),
        rows=tuple(rows),
        caption="Strongest interaction first. All in logits; an interaction is what a group is worth as one, beyond "
        "its blocks one by one.",
    )
