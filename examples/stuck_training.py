"""Is my training stuck? Record a deep network that stands still at its start, read the advice, and follow it.

python examples/stuck_training.py [OUT]
"""

import sys
from pathlib import Path

import torch
from torch import nn

from pellucid.audits import advise
from pellucid.core import Stream
from pellucid.data import synthetic_images
from pellucid.nn import insert_norm
from pellucid.training import DiversityRecorder

out = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/stuck")
out.mkdir(parents=True, exist_ok=True)
rng = Stream(0)
data = synthetic_images(192, rng=rng.child("data"), classes=3, size=8)
x, y = 2 * data.inputs.flatten(1) - 1, data.labels

with rng.child("weights").forked():
    layers = [nn.Linear(64, 32), nn.ReLU()]
    for _ in range(7):
        layers += [nn.Linear(32, 32), nn.ReLU()]
    plain = nn.Sequential(*layers, nn.Linear(32, 3))


def flat_steps(name: str, model: nn.Module) -> int:
    """Train a model with a recorder, and return for how many steps its loss stood still."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    file = out / f"{name}.jsonl"
    with DiversityRecorder(
        model, (x[:60], y[:60]), optimizer=optimizer, every=25, gradients_every=50, file=file, on_notice=print
    ) as recorder:
        for step in range(400):
            rows = torch.arange(8 * step, 8 * step + 8) % len(x)
            loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            recorder.step(loss)
    for remedy in advise(recorder.history)[:2]:
        print(f"  try {remedy.name}: {remedy.reason}")
    return recorder.phase().phase.lasted


copied = insert_norm(plain, "standardize")
print(f"plain: the loss stood still for {flat_steps('plain', plain)} steps")
print(f"standardized over the batch: {flat_steps('standardized', copied)} steps")
print(f"draw it: pellucid report {out / 'plain.jsonl'}")
