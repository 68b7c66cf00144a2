"""The parts of the reproduction: each function measures one result; size 0 is the full size."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import known
import torch
from networks import tabular, tabular_network
from sparse import SCENES
from torch import Tensor

from pellucid.core import Interval, Stream, Work, bootstrap
from pellucid.explain import BaselineSettings, concept_similarity, learn_baseline, sparsity
from pellucid.games import Features, Patches

Found = dict[str, Any]


def ends(interval: Interval[Tensor]) -> list[float]:
    """Return a number with its interval."""
    return [float(interval.value), float(interval.low), float(interval.high)]


def averaged(rows: list[dict[str, float]]) -> Found:
    """Return the mean of each column over the rows, with its bootstrap interval."""
    columns = {name: torch.tensor([row[name] for row in rows], dtype=torch.float64) for name in rows[0]}
    means = {name: ends(bootstrap(values, rng=Stream(0).child(name))) for name, values in columns.items()}
    return {"count": len(rows), "means": means, "rows": rows}


def add_mul(size: int) -> Found:
    """IoU of known patterns of sums of products."""
    return averaged([known.add_mul(seed) for seed in range(size or 100)])


def and_or(size: int) -> Found:
    """IoU of known patterns of sums of ANDs and ORs."""
    return averaged([known.and_or_sum(seed) for seed in range(size or 100)])


def learned(size: int) -> Found:
    """Whether the pattern that a network has learned is its strongest."""
    kinds = {"MLP-5": False, "ResMLP-5": True}
    found = {
        name: averaged([known.learned(seed, residual=residual) for seed in range(size or 5)])
        for name, residual in kinds.items()
    }
    return {name: part["means"] for name, part in found.items()} | {"rows": [part["rows"] for part in found.values()]}


def seeds(name: str) -> Callable[[int], Found]:
    """Jaccard of the concepts of two seeds, of standard and of adversarially trained networks."""

    def measure(size: int) -> Found:
        x, _, test, labels, names = tabular(name)
        seen, pairs = test[:20], size or 5
        found: Found = {"pairs": pairs, "samples": len(seen)}
        for kind, robust in (("standard", False), ("robust", True)):
            networks = [tabular_network(name, seed, robust=robust) for seed in range(2 * pairs)]
            right = [float((network(test).argmax(1) == labels).double().mean()) for network in networks]
            each = torch.stack(
                [
                    concept_similarity(
                        networks[2 * k],
                        networks[2 * k + 1],
                        seen,
                        labels[:20],
                        Features(background=x, names=names),
                        rng=Stream(k),
                    ).per_sample
                    for k in range(pairs)
                ]
            )
            found[kind] = {
                "jaccard": ends(bootstrap(each.mean(1), rng=Stream(0))),  # pairs are what was drawn
                "per_pair": each.mean(1).tolist(),
                "accuracy": sum(right) / len(right),
            }
        return found

    return measure


BOXES = {
    "box, 0.05 sd": {"radius": 0.05},
    "box, 0.5 sd": {"radius": 0.5},
    "ball, 0.01 variance": {"radius": 0.01, "shape": "ball"},
}


def baselines(name: str) -> Callable[[int], Found]:
    """The sum of |effect| before and after learning the baseline."""

    def measure(size: int) -> Found:
        scene = SCENES[name][2](size or 10)
        masker = scene.masker
        if isinstance(masker, Patches):  # fewer players: 151 tables per sample
            masker = Patches((3, 3), background=masker.background)
        assert isinstance(masker, Features | Patches)
        assert masker.background is not None
        spread = masker.background.double().std(0)
        found: Found = {}
        for label, how in BOXES.items():
            scale = spread.square() if "variance" in label else spread
            learned = [
                learn_baseline(
                    scene.model,
                    x,
                    masker,
                    target=int(y),
                    value=scene.value,
                    settings=BaselineSettings(scale=scale, **how),
                )
                for x, y in zip(scene.x, scene.y, strict=True)
            ]
            share = torch.tensor([one.l1_after / one.l1_before for one in learned], dtype=torch.float64)
            found[label] = {
                "after over before": ends(bootstrap(share, rng=Stream(0))),
                "lower": int((share < 1).sum()),
                "samples": len(learned),
                "before": [one.l1_before for one in learned],
                "after": [one.l1_after for one in learned],
                "score absent": [[one.score_absent_before, one.score_absent] for one in learned],
                "distance": [one.distance for one in learned],
            }
        return found

    return measure


def sparse(name: str) -> Callable[[int], Found]:
    """Explained variance against the number of patterns, for AND and for AND and OR patterns."""

    def measure(size: int) -> Found:
        modality, samples, make = SCENES[name]
        scene = make(size or samples)
        found: Found = {"modality": modality, "samples": len(scene.x)}
        work = Work(folder=Path("runs/aog") / name)
        for logic in ("and", "and-or"):
            result = sparsity(
                scene.model,
                scene.x,
                scene.y,
                scene.masker,
                value=scene.value,
                logic=logic,
                rng=Stream(0).at(scene.ids),
                work=work,
            )
            found[logic] = {
                "players": sorted({graph.n_players for graph in result.graphs}),
                "needed": ends(result.needed),
                "explained": ends(result.explained),
                "strong": ends(result.strong),
                "l1": ends(result.l1),
                "ratio": sum(graph.ratio_explained for graph in result.graphs) / len(result.graphs),
                "sparse": result.sparse,
                "noise": result.noise,
                "counts": result.counts.tolist(),
                "curve": result.curve.tolist(),
                "strengths": result.strengths.tolist(),
                "needed per sample": [graph.needed for graph in result.graphs],
            }
        return found

    return measure
