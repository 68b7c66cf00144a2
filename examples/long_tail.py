"""Train on long-tailed classes with a learned last layer and with a fixed simplex, and compare rare classes.

For data of your own leave `long_tail` out: it only makes a long tail of balanced data.
"""

from pellucid.metrics import neural_collapse
from pellucid.training import Recipe, train

COMMON = {
    "epochs": 15,
    "batch_size": 16,
    "data": {"kind": "digits"},
    "long_tail": {"ratio": 0.05},
    "optimizer": {"kind": "adam", "lr": 0.01},
    "schedule": {"kind": "one-cycle"},
}
NETWORK = {"kind": "small-cnn", "image_size": 8, "channels": [8, 16], "hidden": 32, "mean": 0.3, "std": 0.38}
ARMS = {
    "learned": {"model": NETWORK, "objective": {"kind": "standard"}},
    "fixed": {"model": {**NETWORK, "head": "etf"}, "objective": {"kind": "dot-regression"}, "held_out": 0.05},
}

for name, settings in ARMS.items():
    run = train(Recipe.parse({"name": name, **COMMON, **settings}), f"runs/{name}")
    shares = ", ".join(f"{key.removeprefix('accuracy_')} {value:.3f}" for key, value in run.figures.items())
    print(f"{name}: {shares}")
    subject = run.subject("test")
    geometry = neural_collapse(run.model, subject.inputs, subject.labels)
    print(f"  class means: cosine off the simplex by {geometry.means.max_angle:.2f} on average; nc1 {geometry.nc1:.2f}")
    for note in run.card["notes"]:
        print(f"  {note}")
