"""What the probe of neural collapse shows: measures beside their ideal values, matrices of cosines, close classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from pellucid.core import Axis, Curve, Exhibit, Heatmap, Interval, Line, Number, Subject, Table, number, numbers
from pellucid.metrics import Classification, Collapse, FrequencyGroups, Geometry

from .._levels import SHARED
from .._wording import brief, count, shortened

MOST_DRAWN = 40
"""Classes up to which all of them are in one matrix of cosines."""

MOST_NAMED = 12
"""Classes up to which a matrix shows their names and numbers."""

MOST_PAIRS = 12


@dataclass(frozen=True)
class Pair:
    """Two classes.

    Args:
        a, b: their numbers.
        means: cosine of their centered class means, None where these are not known.
        weights: cosine of their vectors in the classifier.
        a_as_b, b_as_a: shares of the samples of one class that are answered as the other; None where not known.
        merged: the class that is mostly answered as the other, and the other; None where neither is.
    """

    a: int
    b: int
    means: Number
    weights: float
    a_as_b: Number
    b_as_a: Number
    merged: tuple[int, int] | None

    @property
    def closest(self) -> float:
        """The larger of the two cosines."""
        return self.weights if self.means is None else max(self.means, self.weights)

    @property
    def shares(self) -> bool:
        """Whether the two share a direction."""
        return self.closest > SHARED


def exhibits_of(
    subject: Subject,
    weights: Geometry,
    found: Collapse | None,
    answers: Classification | None,
    *,
    groups: FrequencyGroups | None,
    accuracy: dict[str, Interval[float]],
    pairs: tuple[Pair, ...],
) -> tuple[Exhibit, ...]:
    """Return the exhibits in the order in which they are read."""
    exhibits: list[Exhibit] = [_against_ideal(weights, found, subject.n_classes)]
    if pairs:
        exhibits.append(_closest(subject, pairs, found is not None))
    if subject.n_classes > 2:
        for order, words, which in _orders(subject, weights, found, groups):
            if found is not None:
                exhibits.append(_matrix(f"Cosines of class means{which}", subject, found.means.cosines, order, words))
            title = f"Cosines of the classifier's vectors{which}"
            exhibits.append(_matrix(title, subject, weights.cosines, order, words))
    if accuracy and groups is not None:
        exhibits += [_by_group(groups, accuracy), _by_class(subject, groups, answers)]
    return tuple(exhibits)


def _against_ideal(weights: Geometry, found: Collapse | None, k: int) -> Table:
    rows: list[tuple[str | float | None, ...]] = []

    def add(what: str, value: float, ideal: float, key: str = "") -> None:
        error = None if found is None or not key else found.stderr.get(key)
        half = None if error is None else _rounded(1.96 * error)
        rows.append((what, _rounded(value), half, int(ideal) if ideal == int(ideal) else _rounded(ideal)))

    if found is not None:
        add("NC1: scatter within classes over that between them", found.nc1, 0, "nc1")
        add("CDNV: the same, pair by pair", found.cdnv, 0, "cdnv")
    for words, geometry, prefix in (
        ("class means", None if found is None else found.means, "means."),
        ("classifier", weights, ""),
    ):
        if geometry is not None:
            key = prefix and f"{prefix}equinorm"
            add(f"NC2, {words}: spread of the lengths", geometry.equinorm, 0, key)
            add(f"NC2, {words}: spread of the cosines", geometry.equiangle, 0, prefix and f"{prefix}equiangle")
            add(f"NC2, {words}: distance from the ideal cosine", geometry.max_angle, 0, prefix and f"{prefix}max_angle")
            add(
                f"NC2, {words}: largest cosine of two classes",
                geometry.closest,
                -1 / (k - 1),
                prefix and f"{prefix}closest",
            )
    if found is not None:
        add("NC3: distance of classifier and class means (0 to 4)", found.nc3, 0, "nc3")
        add("NC3: mean cosine of classifier and class means", found.alignment, 1, "alignment")
        half = (found.nc4.high - found.nc4.low) / 2
        rows.append(("NC4: share of answers unlike the nearest mean", _rounded(found.nc4.value), _rounded(half), 0))
    return Table(
        title="Measures of neural collapse and their ideal values",
        columns=("measure", "value", "95% ±", "ideal"),
        rows=tuple(rows),
        caption="At full collapse all samples of a class have one feature, class means and classifier vectors form the "
        "same simplex with the widest angles there are, and the nearest mean decides. The classifier's own geometry "
        "rests on no samples and is exact.",
    )


def _closest(subject: Subject, pairs: tuple[Pair, ...], told: bool) -> Table:
    names = subject.class_names
    shown = pairs[:MOST_PAIRS]
    if not told:
        return Table(
            title="Classes that are closest to sharing a direction",
            columns=("class", "other class", "cosine in the classifier"),
            rows=tuple((_short(names[p.a]), _short(names[p.b]), p.weights) for p in shown),
        )
    return Table(
        title="Classes that are closest to sharing a direction",
        columns=(
            "class", "other class", "cosine of means", "in the classifier", "first taken for other", "other for first",
        ),
        rows=tuple((_short(names[p.a]), _short(names[p.b]), p.means, p.weights, p.a_as_b, p.b_as_a) for p in shown),
        units=("", "", "", "", "%", "%"),
        caption="Ordered by the larger of the two cosines.",
    )  # fmt: skip


def _orders(
    subject: Subject, weights: Geometry, found: Collapse | None, groups: FrequencyGroups | None
) -> list[tuple[list[int], str, str]]:
    """Return the matrices to draw: their classes in order, words for the order, and what to add to the title."""
    k = subject.n_classes
    every = list(range(k)) if groups is None else [*groups.head, *groups.medium, *groups.tail]
    own = "in their own order, since how often each was trained on is unknown or about equal"
    words = own if groups is None else "ordered by training samples, most first"
    orders = []
    if k <= MOST_DRAWN:
        orders.append((every, f"Classes are {words}.", ""))
    if k > MOST_NAMED:
        cosines = np.fmax(weights.cosines.numpy(), -1.0 if found is None else found.means.cosines.numpy())
        chosen = _closest_classes(cosines)
        if groups is None:
            chosen, words = _alike(cosines[np.ix_(chosen, chosen)], chosen), "like ones side by side"
        else:
            chosen.sort(key=every.index)
        some = f"The {len(chosen)} of {count(k, 'class', 'classes')} in the closest pairs"
        orders.append((chosen, f"{some}, {words}.", f": the closest {len(chosen)} classes"))
    return orders


def _closest_classes(cosines: np.ndarray) -> list[int]:
    """Return the classes of the pairs with the largest cosines."""
    k, chosen = len(cosines), []
    above = np.where(np.triu(np.ones_like(cosines), 1) > 0, cosines, -np.inf)
    for place in np.argsort(-above, axis=None, kind="stable")[: MOST_NAMED**2].tolist():
        chosen += [c for c in divmod(place, k) if c not in chosen]
    return chosen[:MOST_NAMED]


def _alike(cosines: np.ndarray, classes: list[int]) -> list[int]:
    """Return the classes so that those with large cosines are neighbors."""
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    apart = 1 - (cosines + cosines.T) / 2
    np.fill_diagonal(apart, 0)
    return [classes[place] for place in leaves_list(linkage(squareform(apart, checks=False), "average"))]


def _matrix(title: str, subject: Subject, cosines: Tensor, order: list[int], words: str) -> Heatmap:
    names = tuple(_short(subject.class_names[c]) for c in order)
    ideal = brief(-1 / (subject.n_classes - 1))
    return Heatmap(
        title=title,
        rows=names,
        columns=names,
        values=tuple(numbers(row) for row in cosines[order][:, order].round(decimals=3)),
        row_label="class",
        column_label="class",
        diverging=True,
        caption=f"At full collapse every cosine off the diagonal is {ideal}. {words}",
    )


def _by_group(groups: FrequencyGroups, accuracy: dict[str, Interval[float]]) -> Curve:
    words = {"head": "frequent", "medium": "medium", "tail": "rare"}
    line = Line(
        name="accuracy",
        x=numbers(range(len(accuracy))),
        y=numbers(part.value for part in accuracy.values()),
        low=numbers(part.low for part in accuracy.values()),
        high=numbers(part.high for part in accuracy.values()),
    )
    return Curve(
        title="Accuracy on frequent, medium and rare classes",
        x=Axis("classes by training samples"),
        y=Axis("accuracy", "%"),
        lines=(line,),
        bars=True,
        categories=tuple(f"{words[name]} ({len(getattr(groups, name))})" for name in accuracy),
        caption="Thirds of the classes by their number of training samples, with 95% intervals.",
    )


def _by_class(subject: Subject, groups: FrequencyGroups, answers: Classification | None) -> Table:
    assert answers is not None  # as there are accuracies
    rows = []
    for group, classes in zip(("frequent", "medium", "rare"), groups, strict=True):
        for c in classes:
            share = number(answers.per_class.value[c]) if int(answers.support[c]) else None
            rows.append(
                (_short(subject.class_names[c]), group, subject.class_counts[c], int(answers.support[c]), share)
            )
    shown = rows if len(rows) <= MOST_DRAWN else [*rows[: MOST_DRAWN // 2], *rows[-MOST_DRAWN // 2 :]]
    return Table(
        title="Classes by training samples",
        columns=("class", "group", "training samples", "samples here", "accuracy"),
        rows=tuple(shown),
        units=("", "", "", "", "%"),
        caption="" if len(shown) == len(rows) else f"The {len(shown) // 2} most frequent and the rarest ones.",
    )


def _rounded(value: float) -> Number:
    """Return a number as a table shows it, with all digits of one that would vanish."""
    return number(round(value, 3) if abs(value) >= 1e-3 else value)


def _short(name: str) -> str:
    """Return a class name that fits beside a matrix; ImageNet's are lists of synonyms."""
    return shortened(name.split(",")[0], most=28)
