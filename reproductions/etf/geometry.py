"""Neural collapse of the arms that run.py trained: NC1 to NC4 on the training samples and on 2,000 test samples.

Class means for NC4 are those of the training samples. Cosines between class means of test samples are kept too.

python reproductions/etf/geometry.py [--data fashion-mnist] [--runs runs/etf]        (after run.py; a minute)
"""

import argparse
from pathlib import Path

import torch

from pellucid.core import write_json
from pellucid.metrics import Collapse, neural_collapse
from pellucid.training import Run

ARMS = ("ce", "ce-balanced", "logit-adjusted", "etf-ce", "etf-dr")
KEPT = ("nc1", "cdnv", "nc3", "minority_means", "minority")

parser = argparse.ArgumentParser()
parser.add_argument("--data", choices=("fashion-mnist", "cifar10", "cifar10-full", "cifar100-full"), required=True)
parser.add_argument("--seeds", default="0,1,2")
parser.add_argument("--runs", type=Path, default=Path("runs/etf"))
wish = parser.parse_args()


def numbers(found: Collapse) -> dict[str, float]:
    """Return the measures by name."""
    means = {f"means.{name}": getattr(found.means, name) for name in ("equinorm", "equiangle", "max_angle", "closest")}
    return {name: getattr(found, name) for name in KEPT} | means | {"nc4": found.nc4.value}


result = {}
for arm in ARMS:
    for seed in wish.seeds.split(","):
        run = Run.open(wish.runs / f"{wish.data}-{arm}-{seed}")
        counts = torch.tensor(run.card["class_counts"])
        train, test = run.subject("train"), run.subject("test", 2000)
        seen = neural_collapse(run.model, train.inputs, train.labels, frequencies=counts)
        found = neural_collapse(run.model, test.inputs, test.labels, means=seen.class_means, frequencies=counts)
        cosines = [[round(value, 3) for value in row] for row in found.means.cosines.tolist()]
        entry = {"train": numbers(seen), "test": numbers(found), "cosines": cosines}
        result.setdefault(arm, {})[seed] = entry
        print(arm, seed, {split: round(entry[split]["nc1"], 3) for split in ("train", "test")}, flush=True)
write_json(Path(__file__).resolve().parent / "results" / f"geometry-{wish.data}.json", result)
