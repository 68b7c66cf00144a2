"""What a sweep of trainings found, as a report: the trade-offs, which models no other beats, and the weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pellucid.core import Axis, Curve, Exhibit, Finding, Heatmap, Line, Measure, Provenance, Table, versions
from pellucid.metrics import Front, FrontModel, hypervolume
from pellucid.reports import Report, SubjectCard

PROBE = "front"
PARETO = "2111.01996"


def front_report(front: Front, card: SubjectCard, *, command: str = "") -> Report:
    """Return the report of a front: `save` writes it as JSON and as one page.

    Args:
        front: from `training.sweep`.
        card: what was trained, in words and numbers.
        command: the command that makes the same front again.
    """
    from pellucid import __version__

    seeds = sorted({model.seed for model in front.models})
    return Report(
        pellucid_version=__version__,
        subject=card,
        settings={"over": front.over, "values": ", ".join(_labels(front)), "seeds": ", ".join(map(str, seeds))},
        findings=(_finding(front),),
        complete=front.complete,
        command=command,
    )


def _finding(front: Front) -> Finding:
    members = [model for model in front.models if model.member]
    seeds = len(front.by_seed)
    spread = "" if seeds < 2 else f"; per seed {min(front.by_seed.values()):.3g} to {max(front.by_seed.values()):.3g}"
    return Finding(
        probe=PROBE,
        name=PROBE,
        question=f"What can be gained, and at what price, by {front.over}?",
        answer=" ".join(_sentences(front, members)),
        measure=Measure(
            name="hypervolume",
            label="hypervolume",
            value=front.hypervolume,
            usual=f"share of all possible accuracies on {len(front.axes)} axes that some model reaches{spread}",
            better="higher",
        ),
        measures=_areas(front),
        level="noted",
        reason="A trade-off is a choice, not a fault: which model of a front is best depends on what it is for.",
        provenance=Provenance(
            seed=front.models[0].seed,
            evaluations=0,
            sample_ids=(),
            settings=dict(zip(front.axes, front.descriptions, strict=True)),
            versions=versions(),
        ),
        exhibits=(*_scatters(front), _models(front), *_correlation(front), *_weights(front)),
        references=(PARETO,),
        cautions=_cautions(front),
    )


def _areas(front: Front) -> tuple[Measure, ...]:
    """What the models reach on the first axis and one other: the volume on all axes is a product of many shares."""
    points = torch.tensor([model.values for model in front.models], dtype=torch.float64)
    return tuple(
        Measure(
            name=f"area[{axis}]",
            label=f"area of {front.axes[0]} against {axis}",
            value=100 * hypervolume(points[:, [0, place]], [0.0, 0.0]),
            unit="%",
            better="higher",
        )
        for place, axis in enumerate(front.axes)
        if place
    )


def _sentences(front: Front, members: Sequence[FrontModel]) -> list[str]:
    count = len(front.models)
    said = [
        f"No other model beats {len(members)} of the {count} models on all of {_listed(front.axes)}."
        if count > 1
        else "There is one model, so nothing to compare."
    ]
    key = front.over.rpartition(".")[2]
    for place, axis in enumerate(front.axes):
        means = {label: _mean(front, label, place) for label in _labels(front)}
        best, worst = max(means, key=lambda label: means[label]), min(means, key=lambda label: means[label])
        if best != worst and place < 5:
            said.append(
                f"{axis.capitalize()} accuracy is highest at {key} = {best} ({means[best]:.1%}) and lowest at "
                f"{key} = {worst} ({means[worst]:.1%})."
            )
    against = [
        (value, front.axes[i], front.axes[j])
        for i, row in enumerate(front.correlation)
        for j, value in enumerate(row)
        if i < j and value is not None and value < -0.5
    ]
    if against and count > 2:
        value, one, other = min(against)
        said.append(f"{one.capitalize()} and {other} trade against each other most (rank correlation {value:.2f}).")
    return said


def _cautions(front: Front) -> tuple[str, ...]:
    said = ["Accuracy under an attack is an upper bound: a better attack can only lower it."]
    if len(front.by_seed) == 1:
        said.append("One seed: differences between settings may be chance. Give more with --seeds.")
    widths = [high - low for model in front.models for low, high in zip(model.low, model.high, strict=True)]
    said.append(
        f"Each accuracy rests on {front.samples:,} samples, the same for all models; its 95% interval is up to "
        f"{100 * max(widths):.0f} points wide, so a model can leave the front by chance."
    )
    if not front.complete:
        said.append("The sweep was interrupted: some models are missing.")
    return tuple(said)


def _scatters(front: Front) -> list[Exhibit]:
    """One picture per axis beside the first: a point per model, a color per setting, and the front's outline."""
    made: list[Exhibit] = []
    for place in range(1, len(front.axes)):
        lines = []
        for label in _labels(front):
            models = [model for model in front.models if model.label == label]
            lines.append(
                Line(
                    name=f"{front.over.rpartition('.')[2]} = {label}",
                    x=tuple(model.values[0] for model in models),
                    y=tuple(model.values[place] for model in models),
                    low=tuple(model.low[place] for model in models),
                    high=tuple(model.high[place] for model in models),
                    role="points",
                )
            )
        outline = _outline(front, place)
        if len(outline) > 1:
            x, y = zip(*outline, strict=True)
            lines.append(Line(name="not beaten on these two", x=x, y=y, role="reference"))
        made.append(
            Curve(
                title=f"{front.axes[0].capitalize()} against {front.axes[place]}",
                x=Axis(f"{front.axes[0]} accuracy", "%"),
                y=Axis(f"{front.axes[place]} accuracy", "%"),
                lines=tuple(lines),
                caption=f"Up and right is better; one point per seed. Upwards: {front.descriptions[place]}.",
            )
        )
    return made


def _outline(front: Front, place: int) -> list[tuple[float, float]]:
    """Return the points that none beats on the first axis and this one, from left to right."""
    points = sorted({(model.values[0], model.values[place]) for model in front.models}, reverse=True)
    kept: list[tuple[float, float]] = []
    for point in points:
        if not kept or point[1] > kept[-1][1]:
            kept.append(point)
    return kept[::-1]


def _models(front: Front) -> Table:
    return Table(
        title="All models",
        columns=(front.over, "seed", *front.axes, "not beaten", "folder"),
        rows=tuple(
            (model.label, model.seed, *model.values, "yes" if model.member else "no", model.folder)
            for model in front.models
        ),
        units=("", "", *("%" for _ in front.axes), "", ""),
        caption="Not beaten: no other model is at least as good on every axis and better on one.",
    )


def _correlation(front: Front) -> list[Exhibit]:
    if len(front.models) < 3:
        return []
    return [
        Heatmap(
            title="Which accuracies rise together",
            rows=front.axes,
            columns=front.axes,
            values=front.correlation,
            diverging=True,
            caption=f"Spearman's rank correlation over {len(front.models)} models; below 0 the two trade against each "
            "other.",
        )
    ]


def _weights(front: Front) -> list[Exhibit]:
    """The weights over time, a picture per setting: its first seed."""
    made: list[Exhibit] = []
    for label in _labels(front):
        model = next(model for model in front.models if model.label == label)
        if not model.weights:
            continue
        made.append(
            Curve(
                title=f"Weights over time, {front.over.rpartition('.')[2]} = {label}",
                x=Axis("step"),
                y=Axis("weight", "%"),
                lines=tuple(
                    Line(name=name, x=tuple(map(float, model.steps)), y=values)
                    for name, values in model.weights.items()
                ),
                caption=f"How much each term of the objective counted, seed {model.seed}.",
            )
        )
    return made


def _labels(front: Front) -> list[str]:
    return list(dict.fromkeys(model.label for model in front.models))


def _mean(front: Front, label: str, place: int) -> float:
    values = [model.values[place] for model in front.models if model.label == label]
    return sum(values) / len(values)


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
