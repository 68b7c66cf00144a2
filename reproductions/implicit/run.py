"""Train implicit networks with each way to pass the gradient, beside explicit ones that cost as much.

python reproductions/implicit/run.py --part pictures|graphs|text|mdeq [--seeds 0,1,2] [--quick]
"""

import argparse
import time
import warnings
from pathlib import Path
from statistics import median

import torch
from torch.nn import functional as F

from pellucid.core import Stream, write_json
from pellucid.data import sample, unit
from pellucid.explain import equilibria
from pellucid.nn import gradient_agreement
from pellucid.training import Recipe, train

WAYS = ("upg", "npg", "exact", "one-step")
PICTURES = {way: (f"model.backward.mode={way}",) for way in WAYS}
PICTURES |= {"explicit, 10 cells": ("model.depth=10",), "explicit, 2 cells": ("model.depth=2",)}
GRAPHS = {"upg": (), "exact": ("model.backward.mode=exact",), "explicit, 3 steps": ("model.depth=3",)}
TEXT = {
    "upg": ("implicit-movie-snippets", ()),
    "one-step": ("implicit-movie-snippets", ("model.backward.mode=one-step",)),
    "explicit, 1 block": ("implicit-movie-snippets", ("model.depth=1",)),
    "explicit, 9 blocks": ("implicit-movie-snippets", ("model.depth=9",)),
    "text-cnn": ("movie-snippets-classifier", ("optimizer.lr=4e-3",)),  # as the others: its own is for 8 epochs
}


def pictures(seed, quick):
    """Train all arms in lockstep on the same batches, so that a busy machine slows each as much."""
    samples, epochs, every, tests = (128, 1, 2, 100) if quick else (2560, 3, 20, 2000)
    recipes = {
        arm: Recipe.load("implicit-fashion-mnist", overrides=(f"seed={seed}", *c)) for arm, c in PICTURES.items()
    }
    recipe = recipes["upg"]
    data = sample(recipe.data.load("train"), samples, rng=Stream(0).child("limit"))
    test = sample(recipe.data.load("test"), tests, rng=Stream(0).child("test limit"))
    x, y, size = unit(data.inputs), data.labels, recipe.batch_size
    rng = Stream(seed).child("train")
    models, optimizers = {}, {}
    for arm, one in recipes.items():
        with rng.child("init").forked():
            models[arm] = one.model.build()
        optimizers[arm] = one.optimizer.build(list(models[arm].parameters()))
    found = {arm: {"seconds": [], "steps": [], "settled": [], "loss": [], "cosine": []} for arm in models}
    total = epochs * (samples // size)
    for step in range(total):
        if step % (samples // size) == 0:
            order = rng.child("order", step).permutations(samples, 1)[0]
        rows = order[step % (samples // size) * size :][:size]
        for arm, model in models.items():
            if step % every == 0 and arm in WAYS[:2] + WAYS[3:]:
                cosine = gradient_agreement(
                    model.equilibrium, lambda m=model: F.cross_entropy(m(x[:32]), y[:32])
                ).cosine
                found[arm]["cosine"].append([step, cosine])
            for group in optimizers[arm].param_groups:
                group["lr"] = recipe.optimizer.lr * recipe.schedule.factor((step + 1) / total)
            begun = time.perf_counter()
            loss = F.cross_entropy(model(x[rows]), y[rows])
            optimizers[arm].zero_grad()
            loss.backward()
            optimizers[arm].step()
            found[arm]["seconds"].append(time.perf_counter() - begun)
            found[arm]["loss"].append(loss.item())
            if arm in WAYS:
                found[arm]["steps"].append(model.equilibrium.last.steps.float().mean().item())
                found[arm]["settled"].append(model.equilibrium.last.converged.float().mean().item())
    for arm, model in models.items():
        kept = kept_bytes(model, x[:size], y[:size])
        model.eval()
        with torch.no_grad():
            begun = time.perf_counter()
            logits = torch.cat([model(part) for part in unit(test.inputs).split(250)])
            answering = (time.perf_counter() - begun) / len(test)
        parameters = sum(p.numel() for p in model.parameters())
        accuracy = (logits.argmax(1) == test.labels).float().mean().item()
        found[arm] |= {"accuracy": accuracy, "parameters": parameters, "kept": kept / size, "answering": answering}
        found[arm] |= {"step_seconds": median(found[arm].pop("seconds"))}
        if arm in WAYS:
            (view,) = equilibria(model, unit(test.inputs[:32]), test.labels[:32], few=4, rng=Stream(seed))
            found[arm]["ways"] = {m.name: [m.together, m.evaluations, m.kept] for m in view.modes}
            found[arm] |= {"settled_test": view.converged.float().mean().item(), "radius": view.radius.mean().item()}
            found[arm] |= {"cell_evaluations": view.cell_evaluations, "changed": view.changed.float().mean().item()}
    return found


def kept_bytes(model, x, y):
    """Count what autograd keeps of one step for the backward pass, parameters aside."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def pack(value):
        kept[value.untyped_storage().data_ptr()] = value.untyped_storage()
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        loss = F.cross_entropy(model.train()(x), y)  # noqa: F841 - holds the graph until all is counted
    return sum(storage.nbytes() for place, storage in kept.items() if place not in own)


def graphs(seed, quick, out):
    """Train on one fifth more of both sets of graphs with every seed."""
    found = {}
    for name in ("implicit-mutag", "implicit-worm-connectome"):
        for arm, changes in GRAPHS.items():
            fixed = (f"seed={seed}", f"data.fold={seed % 5}", f"epochs={1 if quick else 40}")
            run = train(Recipe.load(name, overrides=(*fixed, *changes)), out / f"{name}-{arm[:8]}-{seed}")
            found[f"{name}: {arm}"] = figures(run, seed)
    return found


def figures(run, seed):
    """Return what a run learned, and whether its equilibria settle on 32 test samples."""
    parameters = sum(p.numel() for p in run.model.parameters())  # the card counts running averages too
    found = {"accuracy": run.figures["accuracy"], "minutes": run.card["minutes"], "parameters": parameters}
    if hasattr(run.model, "equilibrium"):
        subject = run.subject("test", 32)
        (view,) = equilibria(run.model, subject.inputs, subject.labels, few=4, rng=Stream(seed))
        found["ways"] = {m.name: [m.together, m.evaluations, m.kept] for m in view.modes}
        found |= {"settled": view.converged.float().mean().item(), "radius": view.radius.mean().item()}
        found |= {"changed": view.changed.float().mean().item(), "steps": view.steps.float().mean().item()}
    return found


def mdeq(seed, quick, out):
    """Train the small multiscale network on 3,000 pictures."""
    fixed = (f"seed={seed}", f"limit={128 if quick else 3000}", f"test.limit={100 if quick else 2000}")
    return {"mdeq": figures(train(Recipe.load("mdeq-fashion-mnist", overrides=fixed), out / f"mdeq-{seed}"), seed)}


def text(seed, quick, out):
    """Train on sentences, implicit and not."""
    found = {}
    for arm, (name, changes) in TEXT.items():
        fixed = (f"seed={seed}", "epochs=3", *(("limit=256", "test.limit=200") if quick else ()))
        run = train(Recipe.load(name, overrides=(*fixed, *changes)), out / f"{name}-{arm}-{seed}")
        found[arm] = figures(run, seed)
    return found


parser = argparse.ArgumentParser()
parser.add_argument("--part", choices=("pictures", "graphs", "text", "mdeq"), required=True)
parser.add_argument("--seeds", default="0,1,2")
parser.add_argument("--quick", action="store_true")
parser.add_argument("--out", type=Path, default=Path("runs/implicit"))
parser.add_argument("--results", type=Path, default=Path(__file__).resolve().parent / "results")
wish = parser.parse_args()
warnings.simplefilter("ignore", RuntimeWarning)  # of single samples that do not settle: the share is recorded
wish.results.mkdir(parents=True, exist_ok=True)
for seed in map(int, wish.seeds.split(",")):
    target = wish.results / f"{wish.part}-{seed}.json"
    if not target.exists():
        begun = time.perf_counter()
        more = () if wish.part == "pictures" else (wish.out,)
        found = {"pictures": pictures, "graphs": graphs, "text": text, "mdeq": mdeq}[wish.part](seed, wish.quick, *more)
        write_json(target, {"arms": found, "minutes": round((time.perf_counter() - begun) / 60, 2)})
        print(target.name, "written", flush=True)
