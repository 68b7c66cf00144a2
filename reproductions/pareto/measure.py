"""Attack the networks that run.py trained once more, with today's attacks, and put the figures into results.

python reproductions/pareto/measure.py [--runs runs/pareto,runs/pareto-again] [--arm mgda] [--limit 500]

A network is looked for in the last of these folders first. Weights over time stay as they were in training.
"""

import argparse
import json
from pathlib import Path

import torch

from pellucid.core import Stream, write_json
from pellucid.data import sample, unit
from pellucid.metrics import robustness_profile
from pellucid.training import Run

RESULTS = Path(__file__).resolve().parent / "results"

parser = argparse.ArgumentParser()
parser.add_argument("--runs", default="runs/pareto")
parser.add_argument("--arm", action="append")
parser.add_argument("--limit", type=int, default=500)
parser.add_argument("--out", type=Path, default=RESULTS)
wish = parser.parse_args()

for path in sorted(RESULTS.glob("*-[0-9].json")):
    found = json.loads(path.read_text(encoding="utf-8"))
    if wish.arm and found["arm"] not in wish.arm:
        continue
    folder = next(at for runs in reversed(wish.runs.split(",")) if (at := Path(runs) / path.stem).is_dir())
    run = Run.open(folder)
    settings = run.recipe.test.attacks
    images = sample(run.test_set, wish.limit, rng=Stream(0).child("test limit"))
    x, y = unit(images.inputs), torch.as_tensor(images.labels)
    attacks = {name: attack.build(early_stop=True) for name, attack in settings.items()}
    profile = robustness_profile(run.model, x, y, attacks, rng=run.rng.at(images.ids), bisections=0)
    shares = [("accuracy", "clean accuracy", profile.clean)]
    for k, name in enumerate(profile.names):
        here = type(profile.accuracy)(*(float(part[k]) for part in vars(profile.accuracy).values()))
        shares.append((f"robust_accuracy[{name}]", f"accuracy under {settings[name]}", here))
    figures = [
        {"name": name, "label": f"{label}, {len(y)} test samples", "n": len(y)} | {**vars(share)}
        for name, label, share in shares
    ]
    wish.out.mkdir(parents=True, exist_ok=True)
    write_json(wish.out / path.name, found | {"figures": figures, "run": folder.as_posix()})
    print(path.stem, {figure["name"]: round(figure["value"], 3) for figure in figures}, flush=True)
