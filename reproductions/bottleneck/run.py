"""Measure the order spectrum, and change it with the order loss; `figures.py` draws what this writes.

python reproductions/bottleneck/run.py --part a|b|c [--seed S] [--samples N] [--out RUNS]
"""

import argparse
from pathlib import Path

import torch
from digits import digits_network

from pellucid.core import Stream, write_json
from pellucid.explain import FULL, BottleneckSpectrum, bottleneck, exact_bottleneck
from pellucid.games import Patches
from pellucid.training import Recipe, train

parser = argparse.ArgumentParser()
parser.add_argument("--part", choices="abc", required=True)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--samples", type=int, default=32)
parser.add_argument("--out", type=Path, default=Path("runs/bottleneck"))
wish = parser.parse_args()
RESULTS = Path(__file__).resolve().parent / "results"
RECIPES = {
    "b": ["standard-cifar10"],
    "c": ["standard-cifar10", "low-order-cifar10", "high-order-cifar10", "middle-order-cifar10"],
}


def record(name: str, spectrum: BottleneckSpectrum, **more: float) -> None:
    """Write the numbers of a spectrum as JSON, one file per network and seed."""
    columns = ("ratios", "strength", "low", "high", "floor", "relative", "relative_low", "relative_high", "per_sample")
    numbers = {column: getattr(spectrum, column).tolist() for column in columns} | more
    numbers |= {"players": spectrum.n_players, "effective_players": spectrum.effective_players()}
    center = {end: float(getattr(spectrum.center, end)) for end in ("value", "low", "high")}
    numbers |= {"center": center, "theory": spectrum.theory.tolist(), "evaluations": spectrum.evaluations}
    RESULTS.mkdir(exist_ok=True)
    write_json(RESULTS / f"{name}-{wish.seed}.json", numbers)
    print(f"{name}, seed {wish.seed}: center {center['value']:.4f}, accuracy {more['accuracy']:.4f}", flush=True)


for name in RECIPES.get(wish.part, []):
    if (RESULTS / f"{name}-{wish.seed}.json").exists():
        continue  # measured already; a training that was finished is opened, one that was interrupted goes on
    run = train(Recipe.load(name, overrides=(f"seed={wish.seed}",)), wish.out / f"{name}-{wish.seed}")
    subject, train_set = run.subject("test", wish.samples), run.subject("train", 2000)
    cells = Patches(8, background=train_set.inputs)
    rng = Stream(wish.seed).child("spectrum").at(subject.ids)
    spectrum = bottleneck(run.model, subject.inputs, subject.labels, cells, settings=FULL, rng=rng)
    record(name, spectrum, accuracy=run.figures["accuracy"], minutes=run.card["minutes"])
if wish.part == "a":
    model, x, y, accuracy = digits_network(wish.seed)
    chosen = torch.arange(len(x) - wish.samples, len(x))
    rng = Stream(wish.seed).at(chosen)
    spectrum = exact_bottleneck(model, x[chosen], y[chosen], Patches(4, background=x), rng=rng)
    record("digits", spectrum, accuracy=accuracy)
