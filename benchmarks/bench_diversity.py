"""Does watching features and gradients slow a training down, and what does a common direction cost?

python benchmarks/bench_diversity.py [--steps 1000] [--rounds 3] [--quick] [--note]

Rows: 1,000 steps of the reference network (9 linear layers of width 256, batch 100) bare, with the recorder as it is,
and with gradients as often as features, in seconds of the processor. What a recorder does before the first step is
included and weighs more here than in a longer training. Then one common direction by the Gram matrix and by forming
every update.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable

import torch
from _interleaved import TIMING_HEAD, interleave, markdown_table, write_note
from torch.nn import functional as F

from pellucid.core import Stream
from pellucid.metrics import common_direction
from pellucid.nn.models import MLPSettings
from pellucid.training import DiversityRecorder


def training(steps: int, *, every: int | None = None, gradients_every: int = 200) -> Callable[[], object]:
    """Return a training of so many steps that can be run again and again; recorded where `every` is given."""
    rng = Stream(0)
    with rng.child("weights").forked():
        first = MLPSettings(bias="none").build()
    x, y = rng.child("x").uniform((2000, 3072)), rng.child("y").integers(10, (2000,))
    probe = (rng.child("probe").uniform((256, 3072)), torch.arange(256) % 10)

    def run() -> object:
        net = copy.deepcopy(first)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        recorder = None
        if every is not None:
            recorder = DiversityRecorder(net, probe, every=every, gradients_every=gradients_every)
            recorder.start(0)
        for step in range(steps):
            rows = torch.arange(100 * step, 100 * step + 100) % len(x)
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x[rows]), y[rows])
            loss.backward()
            optimizer.step()
            if recorder is not None:
                recorder.step(loss)
        return net

    return run


def formed(net: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, name: str) -> object:
    """Return the common direction from the stacked updates of all samples, one backward pass each."""
    weight = net.get_parameter(f"{name}.weight")
    rows = [torch.autograd.grad(F.cross_entropy(net(x[k : k + 1]), y[k : k + 1]), weight)[0] for k in range(len(x))]
    return torch.linalg.svd(torch.cat(rows).double(), full_matrices=False)[2][:3]


def main() -> None:
    """Measure, print and perhaps note."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="few steps and rounds, only to see that it runs")
    parser.add_argument("--note", action="store_true", help="write a dated note to benchmarks/results")
    wish = parser.parse_args()
    steps, rounds = (20, 1) if wish.quick else (wish.steps, wish.rounds)
    bare = f"{steps:,} steps, bare"
    training(20, every=10, gradients_every=10)()  # the first run of anything pays for warming up
    runs = {
        bare: training(steps),
        "recorded at the defaults (features every 50, gradients every 200)": training(steps, every=50),
        "features and gradients every 50": training(steps, every=50, gradients_every=50),
    }
    found = interleave(
        runs,
        reference=bare,
        rounds=rounds,
        warmup=0,
        clock=time.process_time,  # of a few percent, on a machine that may have other work
    )
    rng = Stream(1)
    with rng.child("weights").forked():
        net = MLPSettings(bias="none", inputs=256).build()
    n = 16 if wish.quick else 128
    x, y = rng.child("x").uniform((n, 256)), rng.child("y").integers(10, (n,))
    name = "one common direction, one backward pass and a Gram matrix"
    other = interleave(
        {
            name: lambda: common_direction(net, x, y, "linear4"),
            "the same from the stacked updates of all samples": lambda: formed(net, x, y, "linear4"),
        },
        reference=name,
        rounds=1 if wish.quick else 5,
        warmup=0 if wish.quick else 1,
    )
    sections = {
        "Training the reference network with and without the recorder": markdown_table(
            TIMING_HEAD, [timing.row() for timing in found.values()]
        ),
        f"The common direction of a layer of 256 x 256, {n} samples": markdown_table(
            TIMING_HEAD, [timing.row() for timing in other.values()]
        ),
    }
    for title, text in sections.items():
        print(f"\n{title}\n\n{text}")
    if wish.note:
        print(write_note("feature-diversity", sections, packages=()))


if __name__ == "__main__":
    main()
