"""The findings of an explanation: one over all samples, and one for each with its pictures, bars and tables."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from msgspec.structs import replace
from torch import Tensor

from pellucid.core import (
    Axis,
    Curve,
    Exhibit,
    Finding,
    Gallery,
    Heatmap,
    Line,
    Mark,
    Measure,
    Picture,
    Provenance,
    Stream,
    Subject,
    Table,
    bootstrap,
    number,
    numbers,
)
from pellucid.explain import Explanation

from .._players import is_image
from .._samples import ids_of, picture
from .._wording import brief, count, percent

MOST_MARKS, MOST_BARS, MOST_ROWS = 4, 10, 20
REASON = "An explanation describes what the model does; it is neither good nor bad."
CAUTIONS = (
    "Inputs with absent players lie off the data that the model was trained on; the numbers describe the model there.",
    "Other players or another fill give other numbers: they explain one score under one baseline, not causes in the "
    "world.",
)
REFERENCES = {
    "SV": ("Shapley 1953",),
    "SII": ("Grabisch and Roubens 1999",),
    "STII": ("arXiv:1902.05622",),
    "FSII": ("arXiv:2203.00870",),
    "FBII": ("arXiv:2203.00870",),
    "k-SII": ("arXiv:2209.04012",),
    "Moebius": ("arXiv:2111.06206",),
}


@dataclass(frozen=True, eq=False)
class Told:
    """The numbers of an explanation and what to call things.

    Args:
        subject: the samples explained.
        classes: `(N,)`, whose score.
        found: one explanation per sample.
        names: what to call the players of each sample.
        noun: what one player and several are called.
        unit: what the score is called.
        predicted: whether the classes are what the model answers.
        settings: every setting that changes the numbers.
    """

    subject: Subject
    classes: Tensor
    found: tuple[Explanation, ...]
    names: tuple[tuple[str, ...], ...]
    noun: tuple[str, str]
    unit: str
    predicted: bool
    settings: dict[str, str | int | float | bool | None]

    def class_name(self, k: int) -> str:
        """Return the name of the class whose score is explained on the k-th sample."""
        return self.subject.class_names[int(self.classes[k])]

    def set_name(self, k: int, players: tuple[int, ...]) -> str:
        """Return what to call some players of the k-th sample together."""
        return " and ".join(self.names[k][p] for p in players)

    def short_name(self, k: int, players: tuple[int, ...]) -> str:
        """Return the same in little room: cells are r1c2."""
        grid, names = self.found[k].grid, self.names[k]
        if grid is not None:
            names = tuple(f"r{p // grid[1] + 1}c{p % grid[1] + 1}" for p in range(len(names)))
        return " + ".join(names[p] for p in players)


def _strongest(one: Explanation, most: int) -> list[tuple[int, tuple[int, ...], float]]:
    """Return the row, the players and the number of the strongest interactions, the constant left out."""
    sets, values = one.interactions.players, one.interactions.values
    rows = [row for row in values.abs().argsort(descending=True, stable=True).tolist() if sets[row]]
    return [(row, sets[row], float(values[row])) for row in rows[:most]]


def _first_up(text: str) -> str:
    return text[:1].upper() + text[1:]


def _signed(value: float) -> str:
    return f"{'+' if value >= 0 else '-'}{brief(abs(value))}"


# -- one sample ---------------------------------------------------------------------------------------------------


def sample_finding(told: Told, k: int) -> Finding:
    """Return the finding about one sample."""
    one, name, subject = told.found[k], told.class_name(k), told.subject
    sample = int(subject.ids[k])
    question = f"Why does the model answer {name} on sample {sample}?"
    if not told.predicted:
        question = f"What speaks for and against {name} on sample {sample}?"
    return Finding(
        probe="explain",
        name=f"explain-{sample}",
        question=question,
        answer=_answer(told, k),
        measure=Measure(
            name=f"score[{sample}]",
            label=f"{told.unit} of {name} on sample {sample}, {brief(one.empty)} with all {told.noun[1]} absent",
            value=number(one.score),
        ),
        level="noted",
        reason=REASON,
        exhibits=tuple(_exhibits(told, k)),
        provenance=Provenance(
            seed=0,
            evaluations=one.evaluations + told.predicted,
            sample_ids=(sample,),
            settings=told.settings | {"numerical noise": f"{one.floor:.2g}"},
        ),
        references=REFERENCES.get(one.interactions.index, ()),
        cautions=CAUTIONS,
    )


def _answer(told: Told, k: int) -> str:
    one, name, names = told.found[k], told.class_name(k), told.names[k]
    shares, noise = one.shapley, torch.maximum(torch.tensor(3 * one.floor), 2 * one.shapley_stderr)
    best, worst = int(shares.argmax()), int(shares.argmin())
    parts = count(one.n_players, *told.noun)
    moved = bool(((one.interactions.values.abs() > one.noise())[1:]).any()) or bool((shares.abs() > noise).any())
    if not moved:
        return f"The {told.unit} of {name} does not change when {told.noun[1]} are absent, beyond what noise explains."
    said = []
    if shares[best] > noise[best]:
        said.append(f"{names[best]} adds most to the {told.unit} of {name} ({_signed(float(shares[best]))})")
    if shares[worst] < -noise[worst]:
        said.append(f"{names[worst]} takes most away ({_signed(float(shares[worst]))})")
    text = f"Of {parts}, {' and '.join(said)}." if said else f"No {told.noun[0]} alone moves the {told.unit} of {name}."
    pairs = [(row, players, v) for row, players, v in _strongest(one, len(one.stderr)) if len(players) > 1]
    if pairs and abs(pairs[0][2]) > float(one.noise()[pairs[0][0]]):
        _, players, value = pairs[0]
        what = "more" if value > 0 else "less"
        text += f" {_first_up(told.set_name(k, players))} add {brief(abs(value))} {what} together than apart."
    label = told.subject.labels
    if label is not None and told.predicted and int(label[k]) != int(told.classes[k]):
        text += f" The true class is {told.subject.class_names[int(label[k])]}."
    return text


def _exhibits(told: Told, k: int) -> list[Exhibit]:
    one = told.found[k]
    exhibits: list[Exhibit] = []
    if is_image(told.subject):
        exhibits.append(_pictures(told, k))
    if one.grid is not None:
        exhibits.append(_map(told, k))
    return [*exhibits, _bars(told, k), _table(told, k)]


def _pictures(told: Told, k: int) -> Gallery:
    one, subject = told.found[k], told.subject
    title = f"{'answer' if told.predicted else 'class'}: {told.class_name(k)}"
    noise, tinted = one.noise(), _tinted(told, k)
    colors = f"Blue is for, orange against. Each {told.noun[0]} has the color of its Shapley value."
    if one.grid is None:
        plain = picture(subject.inputs[k], title=title, bounds=subject.bounds)
        return Gallery(title="What speaks for and against it", pictures=(plain, tinted), caption=colors)
    shown = [found for found in _strongest(one, 4 * MOST_MARKS) if abs(found[2]) > float(noise[found[0]])]
    marks = tuple(
        Mark(cells=players, weight=value, label="together" if len(players) > 1 else "")
        for _, players, value in shown[:MOST_MARKS]
    )
    caption = (
        f"the {count(len(marks), 'strongest number', 'strongest numbers')}" if marks else "nothing above the noise"
    )
    marked = picture(subject.inputs[k], title=title, caption=caption, bounds=subject.bounds, grid=one.grid, marks=marks)
    return Gallery(
        title="What speaks for and against it",
        pictures=(marked, tinted),
        caption=f"{colors} Left, what several {told.noun[1]} have is theirs together, beyond their parts.",
    )


def _tinted(told: Told, k: int) -> Picture:
    """Return the image with each player's area in the color of its share."""
    one, subject = told.found[k], told.subject
    plain = picture(subject.inputs[k], title="", bounds=subject.bounds).pixels.astype(np.float64)
    gray = plain if plain.ndim == 2 else plain.mean(-1)
    largest = float(one.shapley.abs().max()) or 1.0
    owner = one.owner.expand(*gray.shape) if one.owner.ndim == 2 else one.owner
    share = torch.where(owner >= 0, one.shapley[owner.clamp_min(0)] / largest, 0.0).numpy()
    color = np.where(share[..., None] >= 0, np.array([0.0, 114.0, 178.0]), np.array([213.0, 94.0, 0.0]))
    weight = 0.75 * np.abs(share)[..., None]
    pixels = np.rint((1 - weight) * gray[..., None] + weight * color).clip(0, 255).astype(np.uint8)
    best, worst = float(one.shapley.max()), float(one.shapley.min())
    return Picture(pixels=pixels, title=f"share of each {told.noun[0]}", caption=f"{_signed(worst)} to {_signed(best)}")


def _map(told: Told, k: int) -> Heatmap:
    one = told.found[k]
    assert one.grid is not None
    rows, columns = one.grid
    return Heatmap(
        title="Share of each cell",
        rows=tuple(str(r + 1) for r in range(rows)),
        columns=tuple(str(c + 1) for c in range(columns)),
        values=tuple(numbers(line) for line in one.shapley.view(rows, columns)),
        row_label="row",
        column_label="column",
        unit=told.unit,
        diverging=True,
        caption=f"Shapley values: they add up to {_signed(one.score - one.empty)}, what all cells together add."
        + ("" if one.exact else f" Standard error about {brief(float(one.shapley_stderr.mean()))}."),
    )


def _bars(told: Told, k: int) -> Curve:
    one = told.found[k]
    shown, noise = _strongest(one, MOST_BARS), one.noise()
    values = [v for _, _, v in shown]
    errors = [1.96 * float(one.stderr[row]) for row, _, _ in shown]
    x = numbers(range(len(shown)))
    sampled = not one.exact
    bars = Line(
        name=one.interactions.index,
        x=x,
        y=numbers(values),
        low=numbers(v - e for v, e in zip(values, errors, strict=True)) if sampled else (),
        high=numbers(v + e for v, e in zip(values, errors, strict=True)) if sampled else (),
    )
    lines = [bars]
    if any(abs(v) < 20 * float(noise[row]) for row, _, v in shown):  # else the marks would all lie on the axis
        floor = [float(noise[row]) * (1 if v >= 0 else -1) for row, _, v in shown]
        lines.append(Line(name="noise", x=x, y=numbers(floor), role="noise"))
    return Curve(
        title="The strongest interactions" if one.order != 1 else f"The strongest {told.noun[1]}",
        x=Axis(f"{told.noun[0]} or group of {told.noun[1]}" if one.order != 1 else told.noun[0]),
        y=Axis("what it adds", told.unit),
        lines=tuple(lines),
        bars=True,
        categories=tuple(told.short_name(k, players) for _, players, _ in shown),
        caption=_index_in_words(one)
        + (" r1c2 is the cell in row 1, column 2." if one.grid is not None else "")
        + (" With 95% intervals." if sampled else ""),
    )


def _index_in_words(one: Explanation) -> str:
    name, several = one.interactions.index, one.order != 1
    text = {
        "SV": "Shapley values: fair shares of the whole score.",
        "BV": "Banzhaf values: what each adds to a random coalition.",
        "SII": "Shapley values of singles, and of several what they add together, averaged over orders of arrival.",
        "BII": "What players add together in a random coalition.",
        "CHII": "Chaining interactions.",
        "Co-Moebius": "What players add together when all others are present.",
        "Moebius": "Harsanyi dividends: what players add together when all others are absent. They sum to the score.",
        "STII": "Shapley-Taylor interactions: they sum to the score.",
        "FSII": "The best fit to the score by Shapley weights; it sums to the score.",
        "FBII": "The best fit to the score over all coalitions.",
        "k-SII": "Shapley interactions made to sum to the score.",
    }[name]
    return "Shapley values: fair shares of the whole score." if name == "SII" and not several else text


def _table(told: Told, k: int) -> Table:
    one, noise = told.found[k], told.found[k].noise()
    shown = _strongest(one, MOST_ROWS)
    columns = ["players", "size", one.interactions.index]
    if not one.exact:
        columns.append("standard error")
    columns.append("noise")
    rows = []
    for row, players, value in shown:
        error = [] if one.exact else [number(one.stderr[row])]
        rows.append((told.short_name(k, players), len(players), number(value), *error, brief(float(noise[row]))))
    total = len(one.stderr) - 1
    more = f" The strongest {len(rows)} of {total:,}; explanation.json has all." if total > len(rows) else ""
    return Table(
        title="All numbers" if not more else "The strongest numbers",
        columns=tuple(columns),
        rows=tuple(rows),
        caption=f"In {told.unit}. Smaller than the noise: it cannot be told from {_noise_in_words(one)}.{more}",
    )


def _noise_in_words(one: Explanation) -> str:
    return "rounding" if one.exact else "sampling"


# -- all samples --------------------------------------------------------------------------------------------------


def summary_finding(told: Told, rng: Stream) -> Finding:
    """Return the finding over all samples."""
    found, n = told.found, len(told.found)
    shares = [one.shares() for one in found]
    alike = len({one.n_players for one in found}) == 1
    known = [share for share in shares if share is not None]
    singles = torch.tensor([float(share[1]) for share in known], dtype=torch.float64)
    gain = torch.tensor([one.score - one.empty for one in found], dtype=torch.float64)
    whole = _mean(
        "score_gain",
        f"{told.unit} with all {told.noun[1]} present minus all absent, mean over samples",
        gain,
        rng.child("gain"),
    )
    headline, measures = whole, tuple[Measure, ...]()
    if len(singles):
        per_sample = numbers([torch.nan if share is None else float(share[1]) for share in shares])
        additive = _mean(
            "additive_share",
            f"variance over all masked versions that single {told.noun[1]} make, mean over samples",
            100 * singles,
            rng.child("additive"),
        )
        headline = replace(additive, unit="%", usual="100% for a sum of single parts", samples=per_sample)
        measures = (whole,)
    return Finding(
        probe="explain",
        name="explain",
        question=f"How do {told.noun[1]} make the score, over {count(n, 'sample')}?",
        answer=_summary(told, singles, gain),
        measure=headline,
        level="noted",
        reason=REASON,
        measures=measures,
        exhibits=tuple(_summary_exhibits(told, known if alike else [], rng)),
        provenance=Provenance(
            seed=0,
            evaluations=sum(one.evaluations for one in found) + told.predicted * n,
            sample_ids=ids_of(told.subject),
            settings=told.settings,
        ),
        references=REFERENCES.get(found[0].interactions.index, ()),
        cautions=CAUTIONS,
    )


def _mean(name: str, label: str, values: Tensor, rng: Stream) -> Measure:
    found = bootstrap(values, rng=rng)
    return Measure(
        name=name,
        label=label,
        value=number(found.value),
        low=number(found.low),
        high=number(found.high),
        samples=numbers(values),
    )


def _summary(told: Told, singles: Tensor, gain: Tensor) -> str:
    text = (
        f"The {told.unit} of the {'answer' if told.predicted else 'class'} is {brief(float(gain.mean()))} higher on "
        f"average with all {told.noun[1]} present than with all absent."
    )
    if len(singles):
        text += (
            f" Single {told.noun[1]} make {percent(float(singles.mean()))} of its variance over all masked versions, "
            f"{told.noun[1]} together the other {percent(1 - float(singles.mean()))}."
        )
    return text


def _summary_exhibits(told: Told, shares: list[Tensor], rng: Stream) -> list[Exhibit]:
    exhibits: list[Exhibit] = []
    if shares:
        made = torch.stack(shares)[:, 1:]
        exhibits.append(_variance(told, made, rng.child("variance")))
    if len({one.n_players for one in told.found}) == 1:
        exhibits.append(_curve(told, rng.child("curve")))
    return [*exhibits, _samples(told)]


def _variance(told: Told, shares: Tensor, rng: Stream) -> Curve:
    found = bootstrap(shares, rng=rng)
    sizes = shares.shape[1]
    return Curve(
        title="How many parts work together",
        x=Axis(f"{told.noun[1]} in an interaction"),
        y=Axis("share of the variance", "%"),
        lines=(
            Line(
                name="mean over samples",
                x=numbers(range(1, sizes + 1)),
                y=numbers(found.value),
                low=numbers(found.low),
                high=numbers(found.high),
            ),
        ),
        bars=True,
        categories=tuple(str(size) for size in range(1, sizes + 1)),
        caption="The variance of the score over all masked versions, by how many parts must be looked at together "
        "(squared Walsh coefficients). A sum of single parts has all of it at 1.",
    )


def _curve(told: Told, rng: Stream) -> Curve:
    first = told.found[0]
    curves = torch.stack([one.curve for one in told.found])
    found = bootstrap(curves, rng=rng)
    x = numbers(first.sizes.double() / first.n_players)
    noise = torch.stack([torch.maximum(torch.tensor(3 * one.floor), 2 * one.curve_stderr) for one in told.found])
    lines = [
        Line(name="mean over samples", x=x, y=numbers(found.value), low=numbers(found.low), high=numbers(found.high))
    ]
    if float(noise.mean(0).max()) > 0.01 * float(found.value.max() - found.value.min()):
        lines.append(Line(name="noise", x=x, y=numbers(noise.mean(0)), role="noise"))
    return Curve(
        title=f"The score as {told.noun[1]} come in",
        x=Axis(f"{told.noun[1]} present", "%"),
        y=Axis("mean score", told.unit),
        lines=tuple(lines),
        caption=f"The mean over all choices of so many {told.noun[1]}. A straight line means that they add up; a late "
        "rise, that they are needed together; an early one, that few of them are enough.",
    )


def _samples(told: Told) -> Table:
    subject, rows = told.subject, []
    for k, one in enumerate(told.found):
        best = int(one.shapley.abs().argmax())
        share = one.shares()
        label = () if subject.labels is None else (subject.class_names[int(subject.labels[k])],)
        rows.append(
            (
                int(subject.ids[k]),
                *label,
                told.class_name(k),
                number(one.score),
                number(one.empty),
                told.names[k][best],
                number(one.shapley[best]),
                None if share is None else number(share[1]),
            )
        )
    true = () if subject.labels is None else ("true class",)
    what = "answer" if told.predicted else "class explained"
    return Table(
        title="Sample by sample",
        columns=(
            "sample",
            *true,
            what,
            "score",
            "with all absent",
            f"strongest {told.noun[0]}",
            "its share",
            "singles",
        ),
        rows=tuple(rows),
        units=("", *("" for _ in true), "", "", "", "", "", "%"),
        caption=f"Scores are {told.unit}. The share is a Shapley value; singles: variance that single {told.noun[1]} "
        "make.",
    )
