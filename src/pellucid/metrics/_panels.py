"""What metrics show of themselves in a notebook and in a terminal."""

from __future__ import annotations

from pellucid.core import Panel, Spark, numbers, showing

from ._calibration import Calibration
from ._classification import Classification
from ._collapse import Collapse
from ._diversity import FeatureDiversity
from ._robustness import RobustnessCurve


def _classification(result: Classification) -> Panel:
    accuracy, classes = result.accuracy, result.per_class
    parts = (classes.value, classes.low, classes.high)
    return Panel(
        "Accuracy",
        facts=(
            ("accuracy", f"{accuracy.value:.1%} ({accuracy.low:.1%} to {accuracy.high:.1%})"),
            ("always the most frequent class", f"{result.majority_floor:.1%}"),
            ("samples", len(result.correct)),
        ),
        columns=("class", "samples", "recall", "low", "high"),
        rows=tuple(
            zip(range(len(result.support)), result.support.tolist(), *(numbers(part) for part in parts), strict=True)
        ),
    )


def _calibration(result: Calibration) -> Panel:
    filled = (result.count > 0).nonzero()[:, 0].tolist()
    edges, count = result.edges.tolist(), result.count.tolist()
    confidence, accuracy = numbers(result.mean_confidence), numbers(result.accuracy.value)
    low, high = numbers(result.accuracy.low), numbers(result.accuracy.high)
    return Panel(
        "Calibration",
        facts=(
            ("expected calibration error", f"{result.ece:.1%}"),
            ("by chance alone", f"{result.floor:.1%}"),
            ("overconfidence", f"{result.overconfidence:.1%}"),
            ("Brier score", result.brier),
            ("log loss", result.nll),
        ),
        columns=("confidence", "samples", "mean confidence", "accuracy", "low", "high"),
        rows=tuple(
            (f"{edges[k]:.2f} to {edges[k + 1]:.2f}", count[k], confidence[k], accuracy[k], low[k], high[k])
            for k in filled
        ),
        curve=Spark((accuracy, confidence), low, high, "Accuracy and confidence by bin"),
    )


def _robustness(result: RobustnessCurve) -> Panel:
    accuracy = result.accuracy
    value, low, high = (numbers(part) for part in (accuracy.value, accuracy.low, accuracy.high))
    return Panel(
        "Accuracy under attack",
        facts=(
            ("samples", len(result.smallest)),
            ("right without attack", f"{float(result.correct.double().mean()):.1%}"),
            ("evaluations", result.evaluations),
        ),
        columns=("radius", "accuracy", "low", "high"),
        rows=tuple(zip(numbers(result.radii), value, low, high, strict=True)),
        curve=Spark((value,), low, high, "Accuracy by radius, with its 95% interval"),
    )


def _diversity(result: FeatureDiversity) -> Panel:
    rows = zip(result.layers, result.kinds, result.similarity, strict=True)
    return Panel(
        "Similarity of features of different samples",
        result.note,
        facts=(("layers", len(result.layers)), ("evaluations", result.evaluations)),
        columns=("layer", "kind", "all pairs", "same class", "different classes", "all zero"),
        rows=tuple((name, kind, s.all, s.intra, s.inter, s.dead_fraction) for name, kind, s in rows),
        curve=Spark(
            (numbers(s.all for s in result.similarity), numbers(result.reference)), label="Similarity by layer"
        ),
    )


def _collapse(result: Collapse) -> Panel:
    def row(name: str, value: float, ideal: float, key: str = "") -> tuple[str, float, float | None, float]:
        return name, value, result.stderr.get(key), ideal

    means, weights = result.means, result.weights
    rows = [
        row("NC1, scatter within classes over between", result.nc1, 0, "nc1"),
        row("CDNV, the same by pairs of classes", result.cdnv, 0, "cdnv"),
        row("NC2 of class means, lengths", means.equinorm, 0, "means.equinorm"),
        row("NC2 of class means, angles", means.equiangle, 0, "means.equiangle"),
        row("NC2 of class means, from the widest angle", means.max_angle, 0, "means.max_angle"),
    ]
    if weights is not None:
        rows += [
            row("NC2 of the classifier, lengths", weights.equinorm, 0),
            row("NC2 of the classifier, angles", weights.equiangle, 0),
            row("NC2 of the classifier, from the widest angle", weights.max_angle, 0),
            row("NC3, classifier beside class means", result.nc3, 0, "nc3"),
        ]
    rows.append(row("NC4, disagreement with the nearest mean", result.nc4.value, 0))
    return Panel(
        "Neural collapse",
        facts=(("layer", result.layer or "features"), ("samples", int(result.counts.sum()))),
        columns=("measure", "value", "standard error", "ideal"),
        rows=tuple(rows),
        notes=result.notes,
    )


showing(_classification)(Classification)
showing(_calibration)(Calibration)
showing(_collapse)(Collapse)
showing(_robustness)(RobustnessCurve)
showing(_diversity)(FeatureDiversity)
