"""What does a PGD step cost beyond its pass forward and back, on a network that takes 20 ms and more a step?

    python benchmarks/bench_attack_step.py [--rounds 15] [--batch 8] [--width 96] [--steps 20] [--note] [--device cpu]

(a step) What one gradient step adds to its pass forward and back, in milliseconds: the second half of an attack of
twice the steps minus as many bare passes, on one linear layer, where next to nothing else takes time; and that over one
bare pass of the convolutional network below. (whole) Whole attacks over as many bare passes, alternately, on a CNN of
three layers for 32 x 32 pictures, untrained: time does not depend on what was learned. A whole attack also looks at its
last iterate, at the input itself where no iterate fooled the network, and again at near ties: up to three passes
forward whatever the number of steps. Seconds are those of the processor: on a shared
machine the clock on the wall also counts what others do.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median, quantiles

import torch
from _interleaved import TIMING_HEAD, interleave, markdown_table, write_note
from bench_attacks import bare
from torch import Tensor, nn

from pellucid.attacks import L2, PGD, Flow, Linf
from pellucid.core import Space, Stream

Clock = Callable[[], float]


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


def added(spaces: Sequence[Space], x: Tensor, *, steps: int, rounds: int, clock: Clock) -> dict[str, list[float]]:
    """Return the milliseconds that one gradient step adds to its bare pass, round by round, by space."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 10)).to(x.device).eval().requires_grad_(False)
    y = model(x).argmax(1)
    runs = {"bare": bare(model, x, y, steps)}
    for space in spaces:
        for times in (1, 2):
            attack = PGD(space, steps=times * steps, step_size=2.5 / steps)
            runs[f"{_name(space)} {times}"] = partial(attack, model, x, y, rng=Stream(0))
    seconds = {
        name: timing.seconds for name, timing in interleave(runs, reference="bare", rounds=rounds, clock=clock).items()
    }
    return {
        _name(space): [
            1e3 * (twice - once - passes) / steps
            for once, twice, passes in zip(
                seconds[f"{_name(space)} 1"], seconds[f"{_name(space)} 2"], seconds["bare"], strict=True
            )
        ]
        for space in spaces
    }


def _name(space: Space) -> str:
    return f"PGD, {type(space).__name__}"


def main() -> None:
    """Run what the flags ask for and print it; `--note` also writes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
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
    # Other work on a GPU is rare, and its time is no time of the processor.
    clock = time.perf_counter if settings.device.startswith("cuda") else time.process_time
    spaces = (Linf(8 / 255), L2(0.5), Flow(0.3))
    for space in spaces:
        attack = PGD(space, steps=settings.steps, step_size=2.5 / settings.steps)
        runs[_name(space)] = partial(attack, model, x, y, rng=Stream(0))
    timings = interleave(runs, reference=reference, rounds=settings.rounds, clock=clock)
    one = 1e3 * timings[reference].second / settings.steps
    extra = added(spaces, x, steps=settings.steps, rounds=4 * settings.rounds, clock=clock)
    rows = [
        (name, f"{median(ms):.2f}", f"{quantiles(ms)[0]:.2f} to {quantiles(ms)[2]:.2f}", f"{1 + median(ms) / one:.3f}")
        for name, ms in extra.items()
    ]
    network_row = f"a bare pass of the CNN of width {settings.width}: {one:.1f} ms"
    what = f"batch of {len(x)} pictures of 32 x 32, one start; {network_row}"
    head = ("what", "ms added (median)", "middle half of the rounds", "over a bare pass of the CNN")
    whole = markdown_table(TIMING_HEAD, [timing.row() for timing in timings.values()])
    sections = {
        "One gradient step": f"{what}.\n\n{markdown_table(head, rows)}",
        f"A whole attack of {settings.steps} steps": f"{what}.\n\n{whole}",
    }
    print("\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items()))
    if settings.note:
        print(write_note("attack-step", sections, packages=("numpy",)))


if __name__ == "__main__":
    main()
