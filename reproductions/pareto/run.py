"""Train one network per arm and seed on Fashion-MNIST, each from the seed's warm start, and attack them all.

python reproductions/pareto/run.py --seed 0 [--arm pareto-0.5] [--out RUNS] [--quick]

What is in results is not trained again, and an interrupted training goes on. Then: figures.py.
"""

import argparse
import json
from pathlib import Path

from pellucid.core import write_json
from pellucid.training import Recipe, train

# Recipe and changes by arm; the last three are the dial.
ARMS = {
    **{name: (f"{name}-fashion-mnist", ()) for name in ("standard", "pgd", "rt", "flow")},
    **{kind: ("pareto-fashion-mnist", (f"weighting.kind={kind}",)) for kind in ("uniform", "mgda", "max")},
    **{f"pareto-{rho}": ("pareto-fashion-mnist", (f"weighting.rho={rho}",)) for rho in (0.25, 0.5, 0.75)},
}
QUICK = ("limit=640", "epochs=1", "test.limit=40", "batch_size=32")

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, required=True)
parser.add_argument("--arm", choices=ARMS, action="append")
parser.add_argument("--out", type=Path, default=Path("runs/pareto"))
parser.add_argument("--quick", action="store_true", help="a minute for all arms, only to see that it runs")
wish = parser.parse_args()
RESULTS = wish.out / "results" if wish.quick else Path(__file__).resolve().parent / "results"

# The warm start: plain training on 10,000 images from random weights.
more = QUICK if wish.quick else ("limit=10_000", "epochs=4")
scratch = Recipe.load("standard-fashion-mnist", overrides=("name=start", "start=", f"seed={wish.seed}", *more))
start = train(scratch, wish.out / f"start-{wish.seed}").folder.path

for arm in wish.arm or ARMS:
    target = RESULTS / f"{arm}-{wish.seed}.json"
    if target.exists():
        continue
    name, changes = ARMS[arm]
    own = (f"name={arm}", f"start={start.as_posix()}", f"seed={wish.seed}", *(QUICK if wish.quick else ()))
    run = train(Recipe.load(name, overrides=(*changes, *own)), wish.out / f"{arm}-{wish.seed}")
    steps = [json.loads(line) for line in (run.folder.path / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    kept = [{key: value for key, value in step.items() if key.startswith("weight_")} for step in steps]
    RESULTS.mkdir(parents=True, exist_ok=True)
    write_json(target, {"arm": arm, "seed": wish.seed, "figures": run.card["figures"], "weights": kept})
    print(target.stem, {figure: round(value, 3) for figure, value in run.figures.items()}, flush=True)
