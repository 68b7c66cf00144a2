"""Do robust networks' components lie on the object? Objects of known outline on noise, networks trained on them.

python reproductions/attack-attribution/objects.py [--seed S] [--samples K] [--steps T]
"""

import argparse
from pathlib import Path

import torch
from groups import described
from torch import Tensor, nn
from torch.nn import functional as F

from pellucid.attacks import PGD, Linf, MinimumNorm
from pellucid.core import Stream, evaluating, write_json
from pellucid.nn.models import SmallCNNSettings

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--samples", type=int, default=20)
parser.add_argument("--steps", type=int, default=400)
parser.add_argument("--results", type=Path, default=Path(__file__).resolve().parent / "results")
wish = parser.parse_args()
SIDE, BATCH, EPS = 32, 64, 8 / 255


def scenes(count: int, rng: Stream) -> tuple[Tensor, Tensor, Tensor]:
    """Draw images of a disk, a square, a triangle or a cross of random place, size and color on colored noise.

    The noise has a weak tint that tells the class too, as backgrounds of photographs do: a network may use either.
    """
    labels = rng.child("class").integers(4, (count, 1))[:, 0]
    noise = rng.child("noise").uniform((count, 3, SIDE, SIDE), low=0.2, high=0.8)
    tints = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]]) - 0.5
    noise = (noise + 0.06 * tints[labels][:, :, None, None]).clamp(0, 1)
    place = rng.child("place").uniform((count, 2), low=10, high=22)
    size = rng.child("size").uniform((count, 1, 1), low=6, high=9)
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    down, right = rows - place[:, :1, None], columns - place[:, 1:, None]
    far = torch.stack([down.abs(), right.abs()])
    shapes = torch.stack(
        [
            down.square() + right.square() <= size.square(),
            far.amax(0) <= 0.85 * size,
            (down <= 0.8 * size) & (right.abs() * 1.3 <= down + 0.9 * size),
            (far.amin(0) <= 0.3 * size) & (far.amax(0) <= size),
        ],
        dim=1,
    )
    mask = shapes[torch.arange(count), labels]
    color = rng.child("color").uniform((count, 3, 1, 1))
    speckle = rng.child("speckle").uniform((count, 3, SIDE, SIDE), low=-0.15, high=0.15)
    return torch.where(mask[:, None], (color + speckle).clamp(0, 1), noise), labels, mask


def trained(robust: bool, rng: Stream) -> nn.Module:
    """Train a network on fresh scenes, robust ones twice as long and on their PGD versions.

    The radius grows over the first half: from fresh weights the network would fall back to a constant answer.
    """
    with rng.child("weights").forked():
        model = SmallCNNSettings(
            in_channels=3, image_size=SIDE, channels=(16, 32), pooling=True, classes=4, mean=0.5, std=0.25
        ).build()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    steps = 2 * wish.steps if robust else wish.steps
    for step in range(steps):
        x, y, _ = scenes(BATCH, rng.child("batch", step))
        if robust:
            attack = PGD(Linf(EPS * min(1, 2 * step / steps)), steps=4, step_size=0.4)
            x = attack(model, x, y, rng=rng.child("attack", step)).inputs
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model.eval()


for name in ("standard", "robust"):
    target = wish.results / f"objects-{name}-{wish.seed}.json"
    if target.exists():
        continue
    root = Stream(wish.seed).child("objects")
    model = trained(name == "robust", root.child(name))
    x, y, masks = scenes(500, root.child("test"))
    with evaluating(model), torch.no_grad():
        right = model(x).argmax(1) == y
    attacked = PGD(Linf(EPS))(model, x, y, rng=root.child("pgd"))
    rows = right.nonzero()[: wish.samples, 0]
    rng = root.child("measure").at(rows)
    nearest = MinimumNorm("l2", steps=100)(model, x[rows], y[rows], rng=rng)
    found = described(model, x[rows], nearest.params, y[rows], masks=masks[rows], rng=rng)
    found |= {"accuracy": float(right.double().mean()), "pgd_accuracy": float((~attacked.success).double().mean())}
    found |= {"l2": nearest.norm.tolist()}
    wish.results.mkdir(parents=True, exist_ok=True)
    write_json(target, found)
    print(target.name, f"accuracy {found['accuracy']:.3f}, under PGD {found['pgd_accuracy']:.3f}", flush=True)
