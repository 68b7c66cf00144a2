"""Neural collapse of the shipped Fashion-MNIST networks, on the data they learned from and on the test set.

Training images are the first of each class. Pairs of classes are named by the cosine of their centered means.

python reproductions/neural-collapse/run.py [--limit N]
"""

import argparse
from pathlib import Path

import torch

from pellucid import data, models
from pellucid.core import write_json
from pellucid.metrics import Collapse, neural_collapse

parser = argparse.ArgumentParser()
parser.add_argument("--limit", type=int, default=10_000, help="samples of each split, equally many per class")
wish = parser.parse_args()
RESULTS = Path(__file__).resolve().parent / "results"


def numbers(found: Collapse, accuracy: float, names: tuple[str, ...]) -> dict[str, object]:
    """Return the measures, their standard errors and the three closest pairs of classes."""
    weights = found.weights
    cosines = found.means.cosines.triu(1)
    pairs = [divmod(place, len(names)) for place in cosines.flatten().argsort(descending=True)[:3].tolist()]
    return {
        **{name: value for name, value in found.numbers().items() if value == value},
        "stderr": {name: error for name, error in found.stderr.items() if error == error},
        "nc4": {end: getattr(found.nc4, end) for end in ("value", "low", "high")},
        "classifier": {k: getattr(weights, k) for k in ("equinorm", "equiangle", "max_angle", "closest", "gram")},
        "closest_pairs": [[names[a], names[b], float(cosines[a, b])] for a, b in pairs],
        "accuracy": accuracy,
        "samples": int(found.counts.sum()),
    }


for name in ("fashion-standard", "fashion-robust"):
    model, means, result = models.load(name).model, None, {}
    for split in ("train", "test"):
        part = data.load("fashion-mnist", split=split, limit=wish.limit)
        found = neural_collapse(model, part.inputs, part.labels, means=means)
        means = found.class_means if means is None else means  # of the training data, for both
        with torch.no_grad():
            right = (model(part.inputs).argmax(1) == part.labels).double().mean()
        result[split] = numbers(found, float(right), part.class_names)
    RESULTS.mkdir(exist_ok=True)
    write_json(RESULTS / f"{name}.json", result)
    print(name, {split: round(part["nc1"], 3) for split, part in result.items()}, flush=True)
