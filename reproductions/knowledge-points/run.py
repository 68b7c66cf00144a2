"""Follow knowledge points over training, layers, an attack and distillation, on small networks of CIFAR-10.

python reproductions/knowledge-points/run.py [--seeds 0,1,2] [--limit 6000] [--epochs 6] [--samples 200]
The full setting, on a GPU: --network timm:tf_efficientnet_lite0.in1k --size 224 --grid 14 --samples 500 --limit 50000
--epochs 10 --lr 0.01 --layers blocks.2,blocks.4,blocks.6 --device cuda
"""

import argparse
import time
from pathlib import Path

import torch
from networks import accuracy, resized, train, vgg
from torch import nn

from pellucid.attacks import Linf
from pellucid.core import Stream, write_json
from pellucid.data import load, sample, unit
from pellucid.explain import MOVES, KnowledgeSettings, knowledge_points, knowledge_under_attack

parser = argparse.ArgumentParser()
parser.add_argument("--seeds", default="0,1,2")
parser.add_argument("--network", default="vgg")
parser.add_argument("--layers", default="conv1,conv2,conv3")
parser.add_argument("--limit", type=int, default=6000)
parser.add_argument("--epochs", type=int, default=6)
parser.add_argument("--lr", type=float, default=0.1)
parser.add_argument("--size", type=int)
parser.add_argument("--grid", type=int, default=8)
parser.add_argument("--samples", type=int, default=200)
parser.add_argument("--attacked", type=int, default=50)
parser.add_argument("--device", default="cpu")
parser.add_argument("--results", type=Path, default=Path(__file__).resolve().parent / "results")
wish = parser.parse_args()


def network(seed: int, widths: tuple[int, ...]) -> nn.Module:
    """Return a fresh network, or a pretrained one with a new head."""
    if wish.network == "vgg":
        return vgg(widths, rng=Stream(seed).child("init", *widths)).to(wish.device)
    import timm

    return timm.create_model(wish.network.removeprefix("timm:"), pretrained=True, num_classes=10).to(wish.device)


def in_numbers(found) -> dict:
    """Return what is kept of knowledge points."""
    layers = {
        layer.name: {
            "count": layer.points.count,
            "reliable": float(layer.points.reliable_counts.double().mean()),
            "ratio": layer.points.ratio,
            "kl": [float(layer.embedding.losses_[0]), float(layer.embedding.losses_[-1])],
            "importance_kl": [float(layer.importance.losses_[0]), float(layer.importance.losses_[-1])],
        }
        for layer in found.layers
    }
    kl = [float(found.samples.losses_[0]), float(found.samples.losses_[-1])]
    return {"certainty": found.certainty, "pca": found.certainty_pca, "kl": kl, "layers": layers, "note": found.note}


def in_attack(moved) -> dict:
    """Return what is kept of an attack."""
    layers = {}
    for layer in moved.layers:
        kinds = layer.moves[moved.fooled].flatten()
        layers[layer.name] = {
            "orientation": layer.orientation,
            "strength": layer.strength,
            "new_share": layer.new_share,
            "count": [layer.before.count, layer.after.count],
            "ratio": [layer.before.ratio, layer.after.ratio],
            "moves": {name: int((kinds == k).sum()) for k, name in MOVES.items()},
        }
    return {"fooled": float(moved.fooled.double().mean()), "layers": layers}


def beside(student, teacher) -> dict:
    """Return how far the regions of two networks lie apart, layer by layer."""
    apart = {}
    for a, b in zip(student.layers, teacher.layers, strict=True):
        h, t = a.points.vectors, b.points.vectors
        apart[a.name] = {
            "turned": float((1 - torch.cosine_similarity(h, t, dim=-1)).mean()),
            "length": float((h.norm(dim=-1) - t.norm(dim=-1)).abs().mean()),
        }
    return apart


for seed in map(int, wish.seeds.split(",")):
    target = wish.results / f"{wish.network.replace(':', '-')}-{seed}.json"
    if target.exists():
        continue
    begun, layers, rng = time.perf_counter(), wish.layers.split(","), Stream(seed)
    data = sample(load("cifar10", split="train"), wish.limit, rng=Stream(0).child("limit"))
    held = sample(load("cifar10"), max(1000, wish.samples), rng=rng.child("held out"))
    many, truth = resized(unit(held.inputs), wish.size).to(wish.device), held.labels
    x, y = many[: wish.samples], truth[: wish.samples]
    settings = KnowledgeSettings(grid=wish.grid)
    how = {"layers": layers, "settings": settings, "rng": Stream(seed).child("knowledge")}

    teacher = network(seed, (16, 32, 64))
    keep = sorted({0, 1, wish.epochs // 2, wish.epochs})
    schooling = {"epochs": wish.epochs, "lr": wish.lr, "size": wish.size, "rng": rng.child("train")}
    kept = train(teacher, data.inputs, data.labels, keep=keep, **schooling)
    found = {"seed": seed, "accuracy": accuracy(teacher, many, truth), "epochs": {}, "seconds": {}}
    found["seconds"]["training"] = time.perf_counter() - begun
    final = knowledge_points(teacher, x, y, **how)
    found["seconds"]["knowledge"] = time.perf_counter() - begun - found["seconds"]["training"]
    found["trained"] = in_numbers(final)
    for epoch, weights in kept.items():
        if epoch == wish.epochs:
            found["epochs"][str(epoch)] = {"accuracy": found["accuracy"], **found["trained"]}
            continue
        earlier = network(seed, (16, 32, 64))
        earlier.load_state_dict(weights)
        earlier.eval()
        points = knowledge_points(earlier, x, y, beside=final, **how)
        found["epochs"][str(epoch)] = {"accuracy": accuracy(earlier, many, truth), **in_numbers(points)}
    for name, eps in (("2/255", 2 / 255), ("8/255", 8 / 255)):
        few = slice(0, wish.attacked)
        found[f"attack {name}"] = in_attack(knowledge_under_attack(teacher, x[few], y[few], final, Linf(eps), steps=10))
    for arm, guide in (("taught", teacher), ("alone", None)):
        student = network(seed, (8, 16, 32))
        train(student, data.inputs, data.labels, teacher=guide, **schooling)
        points = knowledge_points(student, x, y, beside=final, **how)
        found[arm] = {"accuracy": accuracy(student, many, truth), **in_numbers(points), "apart": beside(points, final)}
    found["seconds"]["all"] = time.perf_counter() - begun
    wish.results.mkdir(parents=True, exist_ok=True)
    write_json(target, found)
    print(f"seed {seed}: accuracy {found['accuracy']:.1%}, {found['seconds']['all']:.0f} s", flush=True)
