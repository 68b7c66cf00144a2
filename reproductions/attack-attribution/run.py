"""Measure which regions and which groups of pixels attacks use, on pairs of standard and robust networks.

python reproductions/attack-attribution/run.py --part regions|components|cost [--network N] [--seed S] [--samples K]
"""

import argparse
from pathlib import Path

from groups import described

from pellucid.attacks import MinimumNorm
from pellucid.core import Stream, write_json
from pellucid.explain import MinimumCost, attack_attribution, map_iou
from pellucid.training import Recipe, train

parser = argparse.ArgumentParser()
parser.add_argument("--part", choices=("regions", "components", "cost"), required=True)
parser.add_argument("--network", choices=("standard-cifar10", "robust-cifar10"), default="standard-cifar10")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--samples", type=int, default=20)
parser.add_argument("--steps", type=int, default=30)
parser.add_argument("--out", type=Path, default=Path("runs/pairs"))
parser.add_argument("--results", type=Path, default=Path(__file__).resolve().parent / "results")
wish = parser.parse_args()
target = wish.results / f"{wish.part}-{wish.network}-{wish.seed}.json"
if target.exists():
    raise SystemExit(f"{target} is there already")

run = train(Recipe.load(wish.network, overrides=(f"seed={wish.seed}",)), wish.out / f"{wish.network}-{wish.seed}")
subject = run.subject("test", 4 * wish.samples)
right = (subject.logits().argmax(1) == subject.labels).nonzero()[: wish.samples, 0]
subject = subject.take(right)
model, x, y, rng = run.model, subject.inputs, subject.labels, Stream(wish.seed).at(subject.ids)
found = {"accuracy": run.figures["accuracy"], "ids": subject.ids.tolist()}
if wish.part == "components":
    nearest = MinimumNorm("l2", steps=100)(model, x, y, rng=rng)
    found |= described(model, x, nearest.params, y, rng=rng)
else:
    # The part "cost" is the paper's setting on few images: what does a full map cost here?
    grid, permutations, norms = (8, 8, ("l2",)) if wish.part == "cost" else (4, 4, ("l2", "linf"))
    made = {}
    for norm in norms:
        how, cells = MinimumCost(norm, steps=wish.steps), {"regions": grid, "border": 2}
        made[norm] = attack_attribution(model, x, y, utility=how, permutations=permutations, rng=rng, **cells)
        columns = ("values", "stderr", "floor", "cost_none", "cost_full", "slack", "capped", "rows")
        found[norm] = {name: getattr(made[norm], name).tolist() for name in columns}
        found[norm] |= {"evaluations": made[norm].evaluations, "norms": made[norm].perturbation().tolist()}
    if wish.part == "regions":
        both = sorted(set(found["l2"]["rows"]) & set(found["linf"]["rows"]))
        at = {norm: [found[norm]["rows"].index(row) for row in both] for norm in norms}
        pairs = list(zip(at["l2"], at["linf"], strict=True))
        found["attribution_iou"] = [map_iou(made["l2"].values[a], made["linf"].values[b]) for a, b in pairs]
        inside = {norm: made[norm].perturbation() for norm in norms}
        found["perturbation_iou"] = [map_iou(inside["l2"][a], inside["linf"][b]) for a, b in pairs]
wish.results.mkdir(parents=True, exist_ok=True)
write_json(target, found)
print(target.name, "written", flush=True)
