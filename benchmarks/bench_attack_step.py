"""What does a PGD step cost beyond its pass forward and back, on a network that takes 20 ms and more a step?

    python benchmarks/bench_attack_step.py [--rounds 9] [--batch 8] [--width 96] [--steps 20] [--note] [--device cpu]

Whole attacks (start, every step, the last iterate) over as many bare passes, in three spaces, alternately, on a CNN of
three layers for 32 x 32 pictures, untrained: time does not depend on what was learned. The last iterate costs one
forward pass more.
"""

from __future__ import annotations

import argparse
from functools import partial

import torch
from _interleaved import TIMING_HEAD, interleave, markdown_table, write_note
from bench_attacks import bare
from torch import nn

from pellucid.attacks import L2, PGD, Flow, Linf
from pellucid.core import Stream


def network(width: int) -> nn.Module:
    """Return a network of which nearly all time goes into convolutions."""
    with Stream(0).child("weights").forked():
        return nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(2 * width, 10),
        )


def main() -> None:
    """Run what the flags ask for and print it; `--note` also writes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--note", action="store_true", help="write a dated note to benchmarks/results")
    settings = parser.parse_args()
    model = network(settings.width).to(settings.device).eval().requires_grad_(False)
    x = Stream(0).child("x").uniform((settings.batch, 3, 32, 32), device=settings.device)
    y = model(x).argmax(1)
    reference = f"{settings.steps} bare passes"
    runs = {reference: bare(model, x, y, settings.steps)}
    for space in (Linf(8 / 255), L2(0.5), Flow(0.3)):
        attack = PGD(space, steps=settings.steps)
        runs[f"PGD, {type(space).__name__}"] = partial(attack, model, x, y, rng=Stream(0))
    timings = [timing.row() for timing in interleave(runs, reference=reference, rounds=settings.rounds).values()]
    what = f"a CNN of width {settings.width}; batch of {len(x)} pictures of 32 x 32, {settings.steps} steps, one start."
    sections = {"PGD over bare passes forward and back": f"{what}\n\n{markdown_table(TIMING_HEAD, timings)}"}
    print("\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items()))
    if settings.note:
        print(write_note("attack-step", sections, packages=("numpy",)))


if __name__ == "__main__":
    main()
