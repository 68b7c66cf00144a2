"""A report with everything in it that can be in one, made from drawn numbers: realistic, odd and hostile."""

from __future__ import annotations

import math

import numpy as np

from pellucid.core import (
    Advice,
    Axis,
    Curve,
    Edge,
    Finding,
    Gallery,
    Graph,
    Heatmap,
    Line,
    Mark,
    Measure,
    Node,
    Picture,
    Provenance,
    Table,
)
from pellucid.reports import Comparison, Difference, Failed, Planned, Report, Skipped, SubjectCard

HOSTILE = "<script>alert('owned')</script><img src=x onerror=alert(1)>"
CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    HOSTILE,
    "מעיל גשם",
    "Ankle boot with a name that somebody did not keep short",
    "鞋 & “bag”",
)
FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


def garment(seed: int, size: int = 28, *, color: bool = False) -> np.ndarray:
    """A small gray or colored picture with a shape in it."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[0:size, 0:size] / (size - 1) - 0.5
    width = 0.18 + 0.15 * draw.random() + 0.12 * np.sin(6 * y + draw.random() * 6)
    shape = np.clip((width - np.abs(x)) * 12, 0, 1) * (np.abs(y) < 0.42) * (0.6 + 0.4 * draw.random((size, size)))
    gray = (255 * shape).astype(np.uint8)
    return np.stack([gray, gray // 2, 255 - gray], axis=-1) if color else gray


def provenance(**settings: object) -> Provenance:
    return Provenance(
        seed=0,
        evaluations=123_456,
        sample_ids=tuple(range(0, 500, 5)),
        settings={"steps": 20, "step_size": 0.125, "loss": "cross_entropy", "exact": True, "limit": None, **settings},
        versions={"torch": "2.13.0", "numpy": "2.3.0"},
    )


def accuracy(classes: tuple[str, ...] = CLASSES) -> Finding:
    draw = np.random.default_rng(1)
    confusion = draw.integers(0, 4, (10, 10)).astype(float) + np.diag(draw.integers(30, 50, 10))
    shares = tuple(float(v) for v in confusion.diagonal() / confusion.sum(1))
    return Finding(
        probe="accuracy",
        name="accuracy",
        question="How often is the model right on these samples, and where is it wrong?",
        answer=f"It is right on 91.4% of the samples; {classes[6]} is its hardest class.",
        measure=Measure(
            name="accuracy",
            label="Accuracy",
            value=91.4,
            low=88.6,
            high=93.6,
            unit="%",
            better="higher",
            usual="90 to 93% for small networks on this data",
        ),
        level="fine",
        reason="Fine: the accuracy is at least twice that of always answering the most frequent class.",
        advice=Advice(text="Look at the confident mistakes below: some labels may be wrong."),
        measures=(
            Measure(name="majority_floor", label="Always answering the most frequent class", value=10.0, unit="%"),
            Measure(
                name="worst_class_accuracy",
                label="Accuracy on the hardest class",
                value=74.0,
                low=60.4,
                high=84.1,
                unit="%",
                better="higher",
            ),
            Measure(name="undefined", label="A number that is not defined here", value=None),
        ),
        exhibits=(
            Curve(
                title="Accuracy by class",
                x=Axis("Class"),
                y=Axis("Accuracy", "%"),
                bars=True,
                categories=classes,
                lines=(
                    Line(
                        name="Accuracy",
                        x=(),
                        y=shares,
                        low=tuple(v - 0.06 for v in shares),
                        high=tuple(min(1.0, v + 0.05) for v in shares),
                    ),
                ),
                caption="The thin lines are 95% Wilson intervals.",
            ),
            Heatmap(
                title="Confusion: true class by answered class",
                rows=classes,
                columns=classes,
                row_label="true class",
                column_label="answer",
                values=tuple(tuple(map(float, row)) for row in confusion),
                caption="Counts.",
            ),
            Gallery(
                title="Confident mistakes",
                pictures=tuple(
                    Picture(
                        pixels=garment(k),
                        title=f"{classes[k % 10]} taken for {classes[(k + 3) % 10]}",
                        caption=f"{99 - k}% sure, sample {17 * k}",
                    )
                    for k in range(10)
                ),
            ),
        ),
        provenance=provenance(),
        references=("1708.07747",),
    )


def calibration() -> Finding:
    edges = tuple((k + 0.5) / 15 for k in range(15))
    return Finding(
        probe="calibration",
        name="calibration",
        question="Do its probabilities mean what they say?",
        answer="It is somewhat too sure of itself: where it says 90%, it is right in 84% of the cases.",
        measure=Measure(
            name="ece", label="Expected calibration error", value=4.7, low=3.4, high=6.6, unit="%", better="lower"
        ),
        level="watch",
        reason="Watch: the error is between 3 and 10%. Above that, thresholds on the probability mislead.",
        advice=Advice(
            text="Fit a temperature on held-out data, then audit again.",
            command="pellucid audit my_model.py:calibrated fashion-mnist --probe calibration --out audit-2",
        ),
        exhibits=(
            Curve(
                title="Reliability",
                x=Axis("Stated probability", "%"),
                y=Axis("Share that is right", "%"),
                lines=(
                    Line(name="Perfect", x=(0.0, 1.0), y=(0.0, 1.0), role="reference"),
                    Line(
                        name="Model",
                        x=edges,
                        y=(None, None, *(v**1.25 for v in edges[2:])),
                        low=(None, None, *(max(0.0, v**1.25 - 0.08) for v in edges[2:])),
                        high=(None, None, *(min(1.0, v**1.25 + 0.08) for v in edges[2:])),
                    ),
                ),
            ),
            Table(
                title="Samples by stated probability",
                columns=("Stated", "Samples", "Right"),
                units=("", "", "%"),
                rows=(("0 to 50%", 12, 0.333), ("50 to 90%", 61, 0.705), ("90 to 100%", 427, 0.951), ("none", 0, None)),
            ),
        ),
        provenance=provenance(bins=15),
        references=("1706.04599",),
    )


def robustness() -> Finding:
    radii = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3)
    pgd = tuple(0.914 * math.exp(-14 * r) for r in radii)
    drawn = tuple(0.914 * math.exp(-1.2 * r) for r in radii)
    return Finding(
        probe="robustness",
        name="robustness",
        question="How much may an adversary change an image before the answer turns?",
        answer="At a radius of 0.1 it keeps 22.5% of its right answers; half of them are lost at 0.05 already.",
        measure=Measure(
            name="robust_accuracy[linf,0.1]",
            label="Accuracy under PGD, linf radius 0.1",
            value=22.5,
            low=19.1,
            high=26.4,
            unit="%",
            better="higher",
            usual="0 to 10% without, 70 to 80% with adversarial training",
        ),
        level="weak",
        reason="Weak: less than half of the clean accuracy is left at the radius this data is usually attacked with.",
        advice=Advice(
            text="Train adversarially; the shipped recipe reaches 76% at this radius in some minutes.",
            command="pellucid train recipes/fashion-robust.toml --out runs/robust",
        ),
        measures=tuple(
            Measure(
                name=f"robust_accuracy[{space},{r}]",
                label=f"Accuracy under PGD, {space} radius {r}",
                value=100 * v,
                low=100 * max(0, v - 0.04),
                high=100 * v + 4,
                unit="%",
                better="higher",
            )
            for space in ("linf", "l2")
            for r, v in zip(radii, pgd, strict=True)
        ),
        exhibits=(
            Curve(
                title="Accuracy under attack, linf",
                x=Axis("Radius"),
                y=Axis("Accuracy", "%"),
                lines=(
                    Line(
                        name="PGD, 20 steps",
                        x=radii,
                        y=pgd,
                        low=tuple(max(0.0, v - 0.04) for v in pgd),
                        high=tuple(v + 0.04 for v in pgd),
                    ),
                    Line(
                        name="Random search, 20 draws",
                        x=radii,
                        y=drawn,
                        low=tuple(v - 0.03 for v in drawn),
                        high=tuple(min(1.0, v + 0.03) for v in drawn),
                    ),
                    Line(name="Always the most frequent class", x=(0.0, 0.3), y=(0.1, 0.1), role="reference"),
                ),
                caption="Shaded: 95% Wilson intervals. An attack that finds less than random search would be broken.",
            ),
            Curve(
                title="Smallest radius that turns the answer",
                x=Axis("Radius", scale="log"),
                y=Axis("Samples"),
                lines=(
                    Line(
                        name="Share",
                        x=tuple(10 ** (k / 250 - 3.0) for k in range(1000)),
                        y=tuple(500 / (1 + math.exp(-(k - 500) / 90)) for k in range(1000)),
                    ),
                ),
            ),
            Gallery(
                title="Attacked images",
                pictures=tuple(
                    Picture(pixels=garment(40 + k, 32, color=True), title=f"{FASHION[k]}", caption="turned at 0.06")
                    for k in range(6)
                ),
            ),
        ),
        provenance=provenance(space="linf, l2"),
        references=("1706.06083", "1802.00420", "Carlini and others, a web page without a number"),
        cautions=(
            "PGD gives an upper bound: a stronger attack may find more.",
            "500 samples: the intervals are some points wide.",
        ),
    )


def bottleneck() -> Finding:
    ratios = tuple(k / 20 for k in range(21))
    strength = tuple(0.4 + 3 * (r - 0.45) ** 2 for r in ratios)
    draw = np.random.default_rng(2)
    return Finding(
        probe="bottleneck",
        name="bottleneck",
        question="Which interaction complexities does the model use?",
        answer="Mostly very simple and very complex ones: middle orders carry 21% of the strength.",
        measure=Measure(
            name="middle_share",
            label="Share of middle orders",
            value=0.213,
            low=0.197,
            high=0.231,
            better="neither",
            usual="0.15 to 0.3 for convolutional networks",
        ),
        level="fine",
        reason="Fine: this shape is usual; it is information, not a fault.",
        exhibits=(
            Curve(
                title="Strength by order",
                x=Axis("Order, share of all players", "%"),
                y=Axis("Strength relative to the mean"),
                lines=(
                    Line(
                        name="Model",
                        x=ratios,
                        y=strength,
                        low=tuple(v - 0.08 for v in strength),
                        high=tuple(v + 0.1 for v in strength),
                    ),
                    Line(name="Sampling noise", x=ratios, y=tuple(0.15 + 0.1 * r for r in ratios), role="noise"),
                ),
            ),
            Heatmap(
                title="Order by sample",
                rows=tuple(f"sample {k}" for k in range(24)),
                columns=tuple(f"{r:.2f}" for r in ratios),
                diverging=True,
                values=tuple(tuple(None if k == 3 else float(v) for v in draw.normal(0, 1, 21)) for k in range(24)),
                row_label="sample",
                column_label="order",
            ),
            Heatmap(
                title="Which cells interact",
                rows=("1", "2", "3"),
                columns=("1", "2", "3", "4"),
                diverging=True,
                values=tuple(
                    tuple(None if (r, c) == (1, 1) else float(v) for c, v in enumerate(row))
                    for r, row in enumerate(draw.normal(0, 0.02, (3, 4)))
                ),
                row_label="row of the grid",
                column_label="column of the grid",
                caption="Mean interaction with all other cells.",
            ),
        ),
        provenance=provenance(grid="8 x 8"),
        references=("2111.06236", "2009.11729"),
    )


def graph(
    names: tuple[str, ...] = FASHION, *, patterns: int = 14, picture: Picture | None = None, title: str = "Graph"
) -> Graph:
    """A graph of patterns of drawn players, two shared parts among them."""
    draw = np.random.default_rng(patterns)
    n = len(names)
    shared = ((0, 1), (2, 3, 4)) if n >= 5 else ()
    nodes = [Node(id="score", label="Sandal", layer=0, kind="root", weight=6.02, detail="A detail")]
    edges: list[Edge] = []
    for k in range(patterns):
        own = tuple(sorted(draw.choice(n, 1 + k % min(4, n), replace=False).tolist()))
        inside = [c for c, part in enumerate(shared) if k % 3 == c]
        weight = float(draw.normal() * 3 / (1 + k) ** 0.3)
        kind = "or" if k % 7 == 3 else "pattern"
        parts = sorted({*own, *(p for c in inside for p in shared[c])})
        label = " + ".join(names[p] for p in parts)
        nodes.append(Node(id=f"p{k}", label=label, layer=1, kind=kind, weight=weight, noise=0.05, players=tuple(parts)))
        edges += [Edge("score", f"p{k}"), *(Edge(f"p{k}", f"c{c}") for c in inside)]
        edges += [Edge(f"p{k}", f"i{p}") for p in own if not any(p in shared[c] for c in inside)]
    for c, part in enumerate(shared):
        label = " + ".join(names[p] for p in part)
        nodes.append(Node(id=f"c{c}", label=label, layer=2, kind="coalition", players=part))
        edges += [Edge(f"c{c}", f"i{p}") for p in part]
    trends = ("above", "below", "equal")
    for p, name in enumerate(names):
        value = "" if picture is not None else f"{p + 0.5:.2f}"
        nodes.append(
            Node(id=f"i{p}", label=name, layer=3, kind="player", value=value, trend=trends[p % 3], players=(p,))
        )
    return Graph(
        title=title,
        layers=("score", "what each pattern adds", "parts shared by patterns", "parts"),
        nodes=tuple(nodes),
        edges=tuple(edges),
        caption="14 patterns of 1,023 explain 95.2% of the variance.",
        unit="log odds",
        picture=picture,
    )


def concepts() -> Finding:
    return Finding(
        probe="concepts",
        name="concepts",
        question="Which combinations of regions make its answers?",
        answer="14 combinations explain 96% of the answer's variance over all 4,096 masked versions of a sample.",
        measure=Measure(
            name="explained",
            label="Explained variance, mean of 4 samples",
            value=96.2,
            low=95.1,
            high=97.0,
            unit="%",
            better="higher",
        ),
        level="fine",
        reason="Fine: few patterns reproduce the model on nearly all masked inputs.",
        exhibits=(
            Gallery(
                title="The strongest concepts of four samples",
                pictures=tuple(
                    Picture(
                        pixels=garment(70 + k),
                        title=FASHION[k],
                        caption=f"log-odds {3.1 + k:.1f}; 12 players",
                        grid=(4, 3),
                        marks=tuple(
                            Mark(
                                cells=tuple(
                                    np.random.default_rng(9 * k + m).choice(12, 1 + m % 3, replace=False).tolist()
                                ),
                                weight=(2.31 - 0.4 * m) * (-1) ** (m % 3 == 2),
                                label=f"{1 + m % 3} of 12 regions together" if m % 3 else "alone",
                            )
                            for m in range(5)
                        ),
                    )
                    for k in range(4)
                ),
            ),
            Curve(
                title="Explained variance by number of patterns",
                x=Axis("Patterns kept"),
                y=Axis("Explained variance", "%"),
                lines=tuple(
                    Line(
                        name=FASHION[k],
                        x=tuple(float(i) for i in range(1, 81)),
                        y=tuple(1 - math.exp(-i / (4 + 3 * k)) for i in range(1, 81)),
                    )
                    for k in range(4)
                ),
            ),
            Table(
                title="Patterns of sample 12",
                columns=("Regions", "Effect", "Rank", "Of all strength"),
                units=("", "", "", "%"),
                rows=tuple((f"{k}, {k + 3}", 2.31 / (k + 1) * (-1) ** k, k + 1, 0.31 / (k + 1)) for k in range(20)),
            ),
            graph(
                tuple(f"r{k // 4 + 1}c{k % 4 + 1}" for k in range(12)),
                picture=Picture(pixels=garment(70), title="answer: Sandal", grid=(3, 4)),
                title="What makes Sandal: sample 12",
            ),
            graph(CLASSES, patterns=9, title=f"What makes {HOSTILE}"),
        ),
        provenance=provenance(grid="3 x 4"),
        references=("2111.06206",),
    )


def diversity() -> Finding:
    layers = tuple(f"features.{k}.conv" for k in range(6))
    return Finding(
        probe="feature-diversity",
        name="feature-diversity",
        question="Do different samples look different inside?",
        answer="Yes: the features of different classes become less alike layer by layer.",
        measure=Measure(
            name="similarity",
            label="Mean cosine similarity at the last layer",
            value=0.31,
            low=0.29,
            high=0.33,
            better="lower",
        ),
        level="fine",
        reason="Fine: below 0.9 in every layer.",
        exhibits=(
            Curve(
                title="Similarity by layer",
                x=Axis("Layer"),
                y=Axis("Mean cosine similarity"),
                bars=True,
                categories=layers,
                lines=(
                    Line(name="Within classes", x=(), y=(0.9, 0.85, 0.8, 0.76, None, 0.7)),
                    Line(name="Between classes", x=(), y=(0.88, 0.79, 0.66, 0.5, 0.4, 0.31)),
                    Line(name="At the start of training", x=(), y=(0.97,) * 6, role="reference"),
                ),
            ),
            Curve(title="Nothing measured", x=Axis("Step"), y=Axis("Loss"), lines=()),
            Table(title="No dead units", columns=("Layer", "Dead"), rows=(), units=("", "%")),
            Heatmap(title="No cells", rows=(), columns=(), values=()),
            Gallery(title="No pictures", pictures=(), caption="All samples are answered right."),
        ),
        provenance=provenance(),
        references=("2112.00980",),
    )


def report(*, classes: tuple[str, ...] = CLASSES, model: str = "fashion-standard", complete: bool = True) -> Report:
    """An audit with all kinds of exhibits."""
    findings = (accuracy(classes), calibration(), robustness(), bottleneck(), concepts(), diversity())
    return Report(
        pellucid_version="0.1.0",
        subject=SubjectCard(
            model=model,
            data="fashion-mnist",
            modality="image",
            n_samples=500,
            n_classes=10,
            class_names=classes,
            input_shape=(1, 28, 28),
            parameters=341_098,
            digests={"model": "ab" * 32, "data": "cd" * 32},
            notes=("The 500 images are the balanced sample that ships with Pellucid, not the full test set.",),
        ),
        settings={"budget": 400_000, "seed": 0, "quick": False, "samples": None},
        plan=tuple(
            Planned(
                probe=f.probe,
                question=f.question,
                least=1000 * k,
                wanted=20_000 * k,
                granted=10_000 * k,
                memory=3 * 2**20 * 17**k,
                remark="exact" if k % 2 else "",
            )
            for k, f in enumerate(findings)
        ),
        findings=findings,
        skipped=(
            Skipped(
                probe="transfer",
                question="Do attacks on another model carry over?",
                reason="There is no second model; give one with --surrogate.",
            ),
        ),
        failed=()
        if complete
        else (Failed(probe="broken", question="Does it work?", error="ZeroDivisionError: division by zero"),),
        complete=complete,
        command="pellucid audit fashion-standard fashion-mnist --budget 400000 --seed 0",
    )


def comparison() -> Comparison:
    """Two audits of which the second is much more robust."""
    before, after = report(classes=FASHION), report(classes=FASHION, model="fashion-robust")
    first = before.findings[2].exhibits[0]
    assert isinstance(first, Curve)
    curve = Curve(
        title="Accuracy under attack, linf",
        x=first.x,
        y=first.y,
        caption="Shaded: 95% intervals.",
        lines=(
            Line(
                name="fashion-standard",
                x=first.lines[0].x,
                y=first.lines[0].y,
                low=first.lines[0].low,
                high=first.lines[0].high,
            ),
            Line(
                name="fashion-robust",
                x=first.lines[1].x,
                y=first.lines[1].y,
                low=first.lines[1].low,
                high=first.lines[1].high,
            ),
        ),
    )

    def difference(
        label: str, a: float | None, b: float | None, verdict: str, *, unit: str = "%", p: float | None = 0.003
    ) -> Difference:
        known = a is not None and b is not None
        return Difference(
            probe="robustness" if "PGD" in label else "accuracy",
            name=label,
            label=label,
            before=Measure(name=label, label=label, value=a, unit=unit),
            after=Measure(name=label, label=label, value=b, unit=unit),
            difference=b - a if known else None,
            low=b - a - 3 if known else None,
            high=b - a + 3 if known else None,
            p_value=p,
            n=500 if p is not None else 0,
            test="McNemar, exact" if p is not None else "",
            verdict=verdict,
        )

    return Comparison(
        before=before,
        after=after,
        differences=(
            difference("Accuracy", 91.4, 85.2, "worse"),
            difference("Accuracy under PGD, linf radius 0.1", 22.5, 76.1, "better", p=1e-9),
            difference("Expected calibration error", 4.7, 4.9, "no clear difference", p=0.71),
            difference("Share of middle orders", 0.213, 0.371, "changed", unit="", p=None),
            difference("Accuracy on a class that is not there", None, 40.0, "no clear difference", p=None),
        ),
        exhibits=(curve,),
        answer="fashion-robust keeps 53.6 points more of its right answers under attack and loses 6.2 points without.",
        cautions=("The two audits rest on the same 500 samples.",),
        command="pellucid compare audit-standard audit-robust --out compare",
    )
