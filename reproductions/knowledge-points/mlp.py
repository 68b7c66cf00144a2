"""Does length stand for certainty in a multilayer perceptron of CIFAR-10, better than three principal components do?

python reproductions/knowledge-points/mlp.py [--seeds 0,1,2] [--limit 5000] [--epochs 12] [--samples 500]

The check of the method on its own: four linear layers with batch normalization, the features before the last one, 500
test images; temperatures 4, as the authors, and 1. About a minute a seed on one quiet core.
"""

import argparse
import time
from pathlib import Path

import torch
from networks import train
from torch import nn

from pellucid.core import Stream, write_json
from pellucid.data import load, sample, unit
from pellucid.explain import SampleEmbedding
from pellucid.explain._knowledge_samples import certainty, principal, soft_labels

parser = argparse.ArgumentParser()
parser.add_argument("--seeds", default="0,1,2")
parser.add_argument("--limit", type=int, default=5000)
parser.add_argument("--epochs", type=int, default=12)
parser.add_argument("--samples", type=int, default=500)
parser.add_argument("--results", type=Path, default=Path(__file__).resolve().parent / "results")
wish = parser.parse_args()


def mlp(*, rng: Stream) -> nn.Sequential:
    """Three hidden layers of 256 with batch normalization before their activations."""
    with rng.forked():
        parts, before = [nn.Flatten()], 3 * 32 * 32
        for _ in range(3):
            parts += [nn.Linear(before, 256, bias=False), nn.BatchNorm1d(256), nn.ReLU()]
            before = 256
        return nn.Sequential(*parts, nn.Linear(before, 10))


for seed in map(int, wish.seeds.split(",")):
    target = wish.results / f"mlp-{seed}.json"
    if target.exists():
        continue
    begun, rng = time.process_time(), Stream(seed)
    data = sample(load("cifar10", split="train"), wish.limit, rng=Stream(0).child("limit"))
    held = sample(load("cifar10"), wish.samples, rng=rng.child("held out"))
    net = mlp(rng=rng.child("init"))
    train(net, data.inputs, data.labels, epochs=wish.epochs, rng=rng.child("train"))
    with torch.no_grad():
        f = net[:-1](unit(held.inputs))
        z = net[-1](f)
    found = {"seed": seed, "accuracy": float((z.argmax(1) == held.labels).double().mean()), "fits": {}}
    for temperature in (4.0, 1.0):
        p = soft_labels(z, temperature)
        fitted = SampleEmbedding(temperature=temperature).fit(f, z, rng=rng.child("fit"))
        q = fitted.posterior(fitted.embedding_)
        found["fits"][f"T = {temperature:g}"] = {
            "kl": [len(f) * float(fitted.losses_[k]) for k in (0, -1)],
            "certainty": certainty(fitted.embedding_, p),
            "pca": certainty(principal(f), p),
            "agreement": float((q.argmax(1) == p.argmax(1)).double().mean()),
        }
    found["seconds"] = time.process_time() - begun
    wish.results.mkdir(parents=True, exist_ok=True)
    write_json(target, found)
    print(f"seed {seed}: {found}", flush=True)
