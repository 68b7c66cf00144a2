"""Train the five arms on long-tailed data, and measure accuracy by class frequency and the geometry of the features.

python reproductions/etf/run.py --data fashion-mnist|cifar10 --seeds 0,1,2 [--arm etf-dr] [--out RUNS] [--quick]

What is in results is not trained again, and an interrupted training goes on. Then: tables.py. On a GPU:
python reproductions/etf/run.py --data cifar10-full --seeds 0,1,2 --device cuda
"""

import argparse
from pathlib import Path

import torch

from pellucid.core import write_json
from pellucid.metrics import calibration, neural_collapse
from pellucid.training import Recipe, train

ARMS = ("ce", "ce-balanced", "logit-adjusted", "etf-ce", "etf-dr")
QUICK = ("limit=1000", "epochs=1", "test.limit=200", "long_tail.ratio=0.05")

parser = argparse.ArgumentParser()
parser.add_argument("--data", choices=("fashion-mnist", "cifar10", "cifar10-full", "cifar100-full"), required=True)
parser.add_argument("--seeds", default="0,1,2")
parser.add_argument("--arm", choices=ARMS, action="append")
parser.add_argument("--out", type=Path, default=Path("runs/etf"))
parser.add_argument("--device", default="cpu")
parser.add_argument("--quick", action="store_true", help="seconds per arm, only to see that it runs")
wish = parser.parse_args()
RESULTS = wish.out / "results" if wish.quick else Path(__file__).resolve().parent / "results"

for seed in wish.seeds.split(","):
    for arm in wish.arm or ARMS:
        target = RESULTS / f"{wish.data}-{arm}-{seed}.json"
        if target.exists():
            continue
        # held_out=0: all arms train on the same samples, so the temperature of the fixed heads stays 16.
        own = (f"seed={seed}", "held_out=0", *(QUICK if wish.quick else ()))
        recipe = Recipe.load(f"{arm}-lt-{wish.data}", overrides=own)
        run = train(recipe, wish.out / f"{wish.data}-{arm}-{seed}", device=wish.device)
        subject, counts = run.subject("test", 200 if wish.quick else 2000), run.card["class_counts"]
        found = neural_collapse(run.model, subject.inputs, subject.labels, frequencies=torch.tensor(counts))
        numbers = {"nc1": found.nc1, "max_angle": found.means.max_angle, "minority_means": found.minority_means}
        numbers |= {"minority": found.minority, "ece": calibration(subject.logits(), subject.labels).ece}
        more = {"arm": arm, "seed": int(seed), "minutes": run.card["minutes"], "hardware": run.card["hardware"]}
        RESULTS.mkdir(parents=True, exist_ok=True)
        write_json(target, {**more, "counts": counts, "figures": run.card["figures"], "geometry": numbers})
        print(target.stem, {name: round(value, 3) for name, value in run.figures.items()}, flush=True)
