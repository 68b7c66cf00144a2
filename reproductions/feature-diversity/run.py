"""Train the stuck network and its remedies on CIFAR-10, with features and gradients recorded.

python reproductions/feature-diversity/run.py --seeds 0,1,2 [--arm he] [--out RUNS] [--quick] [--full --device cuda]

What is in results is not trained again, and an interrupted training goes on. Then: figures.py.
"""

import argparse
import itertools
import math
from pathlib import Path

from pellucid.core import write_json
from pellucid.metrics import DiversityHistory
from pellucid.training import Recipe, train

SHORT = ("epochs=3",)
ARMS = {
    "plain": ("mlp-cifar10", ()),
    "standardize": ("mlp-cifar10-standardize", SHORT),
    "momentum": ("mlp-cifar10-momentum", SHORT),
    "he": ("mlp-cifar10-he", SHORT),
    "center": ("mlp-cifar10", (*SHORT, "model.norm=center")),
    "layer": ("mlp-cifar10", (*SHORT, "model.norm=layer")),
    "bias": ("mlp-cifar10", (*SHORT, "model.bias=torch")),
    "zero-bias": ("mlp-cifar10", (*SHORT, "model.bias=zero")),
}
# The full grid, for a GPU.
FULL = {
    f"{data}-{activation}-{depth}x{width}": (
        "mlp-cifar10-full",
        (
            f"data.kind={data}",
            f"model.inputs={inputs}",
            f"model.activation={activation}",
            f"model.depth={depth}",
            f"model.width={width}",
        ),
    )
    for (data, inputs), activation, depth, width in itertools.product(
        (("mnist", 784), ("cifar10", 3072)), ("relu", "tanh", "gelu"), (5, 9, 14, 20), (128, 256, 512, 1024)
    )
}
QUICK = ("limit=2_000", "epochs=2", "record.every=10", "record.gradients_every=20")

parser = argparse.ArgumentParser()
parser.add_argument("--seeds", default="0,1,2")
parser.add_argument("--arm", choices=ARMS | FULL, action="append")
parser.add_argument("--out", type=Path, default=Path("runs/feature-diversity"))
parser.add_argument("--device", default="cpu")
parser.add_argument("--full", action="store_true", help="the whole grid of depths, widths, activations and data")
parser.add_argument("--quick", action="store_true", help="a minute for all arms, only to see that it runs")
wish = parser.parse_args()
RESULTS = wish.out / "results" if wish.quick else Path(__file__).resolve().parent / "results"
arms = FULL if wish.full else ARMS


def table(values):
    """Return numbers with four digits; what is not finite as None."""
    return [[float(f"{v:.4g}") if math.isfinite(v) else None for v in row] for row in values.tolist()]


for seed, arm in itertools.product(wish.seeds.split(","), wish.arm or arms):
    target = RESULTS / f"{arm}-{seed}.json"
    if target.exists():
        continue
    name, changes = arms[arm]
    own = (*changes, f"name={arm}", f"seed={seed}", *(QUICK if wish.quick else ()))
    run = train(Recipe.load(name, overrides=own), wish.out / f"{arm}-{seed}", device=wish.device)
    history = DiversityHistory.read(run.folder.path)
    report = history.phase()
    seen, grads = history.measured
    losses = [loss or 0.0 for loss in history.losses]
    result = {
        "arm": arm,
        "seed": int(seed),
        "figures": run.card["figures"],
        "minutes": run.card["minutes"],
        "phase": {"lasted": report.phase.lasted, "ended": report.phase.end is not None, "trapped": report.trapped},
        "layers": history.head.layers,
        "steps": seen,
        "loss": [round(sum(losses[a:b]) / (b - a), 4) for a, b in itertools.pairwise(seen)],
        **{name: table(history.features(name)) for name in ("similarity", "intra", "size")},
        "gradient_steps": grads,
        **{
            f"gradient_{name}": table(history.gradients(name))
            for name in ("similarity", "intra", "dominance", "self_enhancement")
        },
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    write_json(target, result)
    print(target.stem, result["phase"], run.figures, run.card["minutes"], flush=True)
