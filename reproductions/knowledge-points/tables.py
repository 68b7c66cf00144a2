"""Print the tables of the README from what run.py left: means and standard deviations over seeds.

python reproductions/knowledge-points/tables.py [--results DIR] [--network vgg]
"""

import argparse
from pathlib import Path
from statistics import mean, stdev

from pellucid.core import read_json

parser = argparse.ArgumentParser()
parser.add_argument("--results", type=Path, default=Path(__file__).resolve().parent / "results")
parser.add_argument("--network", default="vgg")
wish = parser.parse_args()
runs = [read_json(path) for path in sorted(wish.results.glob(f"{wish.network}-*.json"))]
if not runs:
    raise SystemExit(f"there are no results in {wish.results}; run run.py first")


def over(*keys: str | int, scale: float = 1.0, digits: int = 2) -> str:
    """Return mean and standard deviation over seeds of what lies under these keys, as text."""
    found = []
    for run in runs:
        value = run
        for key in keys:
            value = value[key]
        if value is not None:
            found.append(scale * value)
    if not found:
        return "-"
    spread = f" ± {stdev(found):.{digits}f}" if len(found) > 1 else ""
    return f"{mean(found):.{digits}f}{spread}"


layers = list(runs[0]["trained"]["layers"])
print(f"{len(runs)} seeds: {', '.join(str(run['seed']) for run in runs)}\n")
print(f"Accuracy {over('accuracy', scale=100, digits=1)} %. Correlation of length with entropy:")
print(f"{over('trained', 'certainty')}, principal components {over('trained', 'pca')}.\n")

print("| epoch | accuracy % | " + " | ".join(f"{name}: points, reliable, share %" for name in layers) + " |")
print("|---|---" + "|---" * len(layers) + "|")
for epoch in runs[0]["epochs"]:
    cells = [over("epochs", epoch, "accuracy", scale=100, digits=1)]
    for name in layers:
        at = {
            key: over("epochs", epoch, "layers", name, key, scale=scale, digits=digits)
            for key, scale, digits in (("count", 1, 1), ("reliable", 1, 1), ("ratio", 100, 0))
        }
        cells.append(", ".join(at.values()))
    print(f"| {epoch} | " + " | ".join(cells) + " |")

for attack in ("attack 2/255", "attack 8/255"):
    print(f"\n{attack}: fooled {over(attack, 'fooled', scale=100, digits=0)} %\n")
    print("| layer | turn (1 - cos) | change of length | new points % | points before | after |")
    print("|---|---|---|---|---|---|")
    for name in layers:
        cells = [
            over(attack, "layers", name, "orientation", scale=1, digits=3),
            over(attack, "layers", name, "strength", scale=1, digits=3),
            over(attack, "layers", name, "new_share", scale=100, digits=0),
            *(over(attack, "layers", name, "count", k, scale=1, digits=1) for k in (0, 1)),
        ]
        print(f"| {name} | " + " | ".join(cells) + " |")

print(
    "\n| network | accuracy % | "
    + " | ".join(f"{name}: points, share %, turned from the teacher" for name in layers)
    + " |"
)
print("|---|---" + "|---" * len(layers) + "|")
for arm, word in (("trained", "teacher"), ("taught", "student, taught"), ("alone", "student, on labels")):
    accuracy = over(*(("accuracy",) if arm == "trained" else (arm, "accuracy")), scale=100, digits=1)
    cells = []
    for name in layers:
        turned = "" if arm == "trained" else f", {over(arm, 'apart', name, 'turned', scale=1, digits=2)}"
        count, share = (
            over(arm, "layers", name, key, scale=scale, digits=1) for key, scale in (("count", 1), ("ratio", 100))
        )
        cells.append(f"{count}, {share}{turned}")
    print(f"| {word} | {accuracy} | " + " | ".join(cells) + " |")
