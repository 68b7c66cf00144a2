"""Attack the networks that run.py trained: accuracy under PGD with 20 steps on 500 test images, per regime and seed.

python reproductions/bottleneck/robustness.py [--out RUNS]      (minutes; what is in results is not attacked again)
"""

import argparse
from pathlib import Path

import torch

from pellucid.attacks import PGD, Linf
from pellucid.core import Stream, bootstrap, evaluating, write_json
from pellucid.training import Recipe, train

parser = argparse.ArgumentParser()
parser.add_argument("--out", type=Path, default=Path("runs/bottleneck"))
wish = parser.parse_args()
RESULTS = Path(__file__).resolve().parent / "results"
RADII = (0, 1, 2, 4)  # in 1/255

for path in sorted(RESULTS.glob("[!r]*-cifar10-[0-9].json")):  # spectra, not this program's own results
    name, _, seed = path.stem.rpartition("-")
    target = RESULTS / f"robustness-{path.stem}.json"
    if target.exists():
        continue
    run = train(Recipe.load(name, overrides=(f"seed={seed}",)), wish.out / path.stem)  # finished: opened, not trained
    subject, found = run.subject("test", 500), {}
    for radius in RADII:
        attack, right = PGD(Linf(radius / 255, bounds=(0, 1))) if radius else None, []
        for rows in torch.arange(len(subject)).split(100):
            part = subject.take(rows)
            x, rng = part.inputs, Stream(int(seed)).child("pgd").at(part.ids)
            if attack is not None:
                x = attack(run.model, x, part.labels, rng=rng).inputs
            with evaluating(run.model), torch.no_grad():
                right.append(run.model(x).argmax(1) == part.labels)
        kept = bootstrap(torch.cat(right).double(), rng=Stream(0))
        found[str(radius)] = {end: float(getattr(kept, end)) for end in ("value", "low", "high")}
    write_json(
        target, {"attack": "linf, PGD with 20 steps, radius in 1/255", "samples": len(subject), "accuracy": found}
    )
    print(path.stem, {radius: round(kept["value"], 3) for radius, kept in found.items()}, flush=True)
