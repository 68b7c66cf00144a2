"""Train a small classifier with each layer between its convolutions, or a segmenter with each head.

python reproductions/hamburger/run.py --part layers|heads|balanced [--seeds 0,1,2] [--arms nmf,cd] [--quick]

All arms of a part have as many weights. What is in results is not trained again. Then: figures.py.
"""

import argparse
import time
from pathlib import Path
from statistics import median

import torch
from torch.nn import functional as F

from pellucid.core import Stream, write_json
from pellucid.training import Recipe, train

LAYERS = {kind: (f"model.context={kind}",) for kind in ("none", "attention", "nmf", "vq", "cd")}
LAYERS |= {f"nmf, {k} steps": (f"model.steps={k}",) for k in (0, 1, 3)}
LAYERS |= {f"{kind}, unrolled": (f"model.context={kind}", "model.gradient=unrolled") for kind in ("nmf", "vq", "cd")}
HEADS = {"conv": ("model.head=conv",), "attention": ("model.head=attention",)}
HEADS |= {kind: ("model.head=light-ham", f"model.ham={kind}") for kind in ("nmf", "vq", "cd")}
PARTS = {"layers": ("hamburger-fashion-mnist", (), LAYERS)}
PARTS |= {"heads": ("light-ham-blue-marble", ("epochs=6",), HEADS)}
PARTS |= {"balanced": ("light-ham-blue-marble", ("epochs=6", "objective.class_balance=counts"), HEADS)}
QUICK = ("limit=64", "epochs=1", "test.limit=32")


def costs(models, x, y, rounds):
    """Return seconds of a training step, in turn so that a busy minute hits all, and what autograd keeps of it."""
    seconds = {arm: [] for arm in models}
    for turn in range(rounds + 1):
        for arm, model in models.items():
            begun = time.perf_counter()
            F.cross_entropy(model.train()(x), y).backward()
            seconds[arm] += [time.perf_counter() - begun] if turn else []
    return {arm: {"seconds": median(seconds[arm]), "kept": kept(models[arm], x)} for arm in models}


def kept(model, x):
    """Return the bytes that autograd keeps of a forward pass for the backward pass, parameters aside."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    found = {}

    def pack(value):
        found[value.untyped_storage().data_ptr()] = value.untyped_storage()
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        out = model(x)  # noqa: F841 - holds the graph until all is counted
    return sum(storage.nbytes() for place, storage in found.items() if place not in own)


parser = argparse.ArgumentParser()
parser.add_argument("--part", choices=PARTS, required=True)
parser.add_argument("--seeds", default="0,1,2")
parser.add_argument("--arms", default="", help="only these, with commas between them")
parser.add_argument("--quick", action="store_true")
parser.add_argument("--out", type=Path, default=Path("runs/hamburger"))
parser.add_argument("--results", type=Path, default=Path(__file__).resolve().parent / "results")
wish = parser.parse_args()
name, fixed, arms = PARTS[wish.part]
arms = {arm: changes for arm, changes in arms.items() if not wish.arms or arm in wish.arms.split(",")}
for seed in wish.seeds.split(","):
    target = wish.results / f"{wish.part}-{seed}.json"
    if target.exists():
        continue
    found, models = {}, {}
    for arm, changes in arms.items():
        recipe = Recipe.load(name, overrides=(f"seed={seed}", *fixed, *changes, *(QUICK if wish.quick else ())))
        run = train(recipe, wish.out / f"{wish.part}-{arm.replace(', ', '-').replace(' ', '-')}-{seed}")
        models[arm] = run.model
        found[arm] = {
            "figures": dict(run.figures),
            "parameters": sum(p.numel() for p in run.model.parameters()),
            "minutes": run.card["minutes"],
        }
        print(arm, seed, {key: round(value, 3) for key, value in run.figures.items()}, flush=True)
    x = recipe.data.load("train").inputs[: recipe.batch_size]
    x = x.float() / 255 if x.dtype == torch.uint8 else x
    with torch.no_grad():
        classes, *places = models[arm].eval()(x).shape[1:]
    y = (Stream(0).uniform((len(x), *places)) * classes).long()
    for arm, cost in costs(models, x, y, 1 if wish.quick else 15).items():
        found[arm] |= cost
    wish.results.mkdir(parents=True, exist_ok=True)
    write_json(target, {"arms": found, "hardware": run.card["hardware"], "batch": len(x)})
