"""What does PGD cost beyond its gradients, and how does it compare with foolbox's?

    python benchmarks/bench_attacks.py [--rounds 15] [--batch 256] [--steps 20] [--peers] [--note] [--device cpu]

(d) PGD of 20 steps on the small CNN over 20 bare passes forward and back to the input, in both norms; with `--peers`
foolbox's PGD at the same radius, steps, step length and start, its time and the accuracy it leaves. The network is the
shipped `fashion-standard` on the shipped test images where both exist, else a CNN trained for a few seconds on
synthetic images.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from _interleaved import TIMING_HEAD, interleave, markdown_table, write_note
from torch import Tensor, nn
from torch.nn import functional as F

from pellucid import data, models
from pellucid.attacks import L2, PGD, Linf
from pellucid.core import Stream
from pellucid.nn.models import SmallCNN

SPACES = {"linf": Linf(0.03), "l2": L2(0.4)}


def subject(device: str, samples: int) -> tuple[nn.Module, Tensor, Tensor, str]:
    """Return a trained network, samples and labels, and what they are."""
    if "fashion-standard" in models.SHIPPED:
        images = data.load("fashion-mnist", limit=samples)
        model, x, y = models.load("fashion-standard").model, images.inputs, images.labels
        x = x.float() / 255 if x.dtype == torch.uint8 else x
        name = f"fashion-standard on {len(images)} images of {images.name}"
    else:
        model, x, y = trained(samples)
        name = "a SmallCNN trained on synthetic images (no shipped network yet)"
    return model.to(device).eval().requires_grad_(False), x.to(device), y.to(device), name


def trained(samples: int) -> tuple[nn.Module, Tensor, Tensor]:
    """Train the small CNN for 40 steps on noisy copies of ten patterns."""
    rng = Stream(0).child("bench")
    patterns = rng.child("patterns").uniform((10, 1, 28, 28), low=0.42, high=0.58)
    y = rng.child("labels").integers(10, (samples,))
    x = (patterns[y] + 0.3 * rng.child("noise").normal((samples, 1, 28, 28))).clamp(0, 1)
    with rng.child("weights").forked():
        model = SmallCNN()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for step in range(40):
        rows = (torch.arange(64) + 64 * step) % samples
        loss = F.cross_entropy(model(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model, x, y


def bare(model: nn.Module, x: Tensor, y: Tensor, steps: int) -> Callable[[], object]:
    """Return the passes alone: forward, cross-entropy, back to the input; parameters frozen."""

    def run() -> None:
        for _ in range(steps):
            leaf = x.detach().requires_grad_()
            torch.autograd.grad(F.cross_entropy(model(leaf), y, reduction="sum"), leaf)

    return run


def foolbox_attack(model: nn.Module, x: Tensor, y: Tensor, norm: str, steps: int) -> Callable[[], Tensor]:
    """Return foolbox's attack at our settings; it gives which samples were fooled."""
    import foolbox

    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=x.device)
    kind = {"linf": foolbox.attacks.LinfPGD, "l2": foolbox.attacks.L2PGD}[norm]
    attack = kind(rel_stepsize=2.5 / steps, steps=steps)

    def run() -> Tensor:
        fooled: Tensor = attack(wrapped, x, y, epsilons=SPACES[norm].eps)[2]
        return fooled

    return run


def main() -> None:
    """Run what the flags ask for and print it; `--note` also writes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--peers", action="store_true", help="also time foolbox")
    parser.add_argument("--note", action="store_true", help="write a dated note to benchmarks/results")
    settings = parser.parse_args()
    model, x, y, name = subject(settings.device, settings.batch)
    timings, accuracies = [], []
    for norm, space in SPACES.items():
        attack = PGD(space, steps=settings.steps)

        def ours(attack: PGD = attack) -> Tensor:
            return attack(model, x, y, rng=Stream(0)).success

        reference = f"{settings.steps} bare passes"
        runs: dict[str, Callable[[], object]] = {
            reference: bare(model, x, y, settings.steps),
            f"pellucid PGD {norm}": ours,
        }
        found = {"pellucid": ours}
        if settings.peers:
            theirs = foolbox_attack(model, x, y, norm, settings.steps)
            runs[f"foolbox PGD {norm}"] = found["foolbox"] = theirs
        timings += [timing.row() for timing in interleave(runs, reference=reference, rounds=settings.rounds).values()]
        accuracies += [
            (f"{who} PGD {norm}", f"{space.eps:g}", f"{100 * (1 - float(run().double().mean())):.1f} %")
            for who, run in found.items()
        ]
    what = (
        f"{name}; batch of {len(x)}, {settings.steps} steps of 2.5 / {settings.steps} of the radius, one random start."
    )
    sections = {
        "Time over bare passes forward and back": f"{what}\n\n{markdown_table(TIMING_HEAD, timings)}",
        "Accuracy left": markdown_table(("attack", "radius", "accuracy"), accuracies),
    }
    print("\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items()))
    if settings.note:
        print(write_note("attacks", sections, packages=("numpy", *(["foolbox"] if settings.peers else []))))


if __name__ == "__main__":
    main()
