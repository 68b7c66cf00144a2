"""What do a matrix decomposition and attention cost, by tokens: time, memory and multiply-adds?

    OMP_NUM_THREADS=1 python benchmarks/bench_hamburger.py [--rounds 5] [--quick] [--long] [--note]

Features of 512 channels at 1,024, 4,096 and 16,384 positions, one sample. The core is what mixes positions: the
decomposition (64 atoms, 6 steps), `scaled_dot_product_attention` (8 heads), or efficient attention (Shen et al. 2021, 8
heads), which is linear in the positions as the decomposition is. The block adds the linear maps before and after,
BatchNorm and the sum: two maps of 512 to 512 channels around a decomposition, four around attention. (a) Time, in turn;
(b) the peak of resident memory beyond what was there before, in a process of its own, and what autograd keeps for the
backward pass; (c) multiply-adds by formula. `--long` adds the cores at 65,536 positions of 64 channels, forward alone.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable

import torch
from _interleaved import Timing, interleave, markdown_table, peak_resident, write_note
from torch import Tensor, nn
from torch.nn import functional as F

from pellucid.nn import Hamburger, MatrixDecomposition

CHANNELS, RANK, STEPS, HEADS = 512, 64, 6, 8
NAMES = ("attention", "efficient attention", "nmf", "vq", "cd")
SIZES = (1024, 4096, 16384)
PARTS = [(part, training) for part in ("core", "block") for training in (False, True)]


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Softmax attention by torch's own kernel; (1, heads, n, d / heads) each."""
    return F.scaled_dot_product_attention(query, key, value)


def efficient(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Efficient attention: the softmax of keys over positions makes d / heads summaries of the values first."""
    return query.softmax(-1) @ (key.softmax(-2).mT @ value)


MIXERS = {"attention": attention, "efficient attention": efficient}


class AttentionBlock(nn.Module):
    """The block of a Hamburger with attention inside: four maps, normalization, sum and ReLU."""

    def __init__(self, channels: int, heads: int, mix: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.maps, self.out = nn.Conv1d(channels, 3 * channels, 1), nn.Conv1d(channels, channels, 1, bias=False)
        self.norm, self.heads, self.mix = nn.BatchNorm1d(channels), heads, mix

    def forward(self, x: Tensor) -> Tensor:
        """Return features (1, channels, n) with context."""
        # Contiguous: otherwise torch takes no fused kernel and forms the whole table of weights.
        parts = (part.unflatten(1, (self.heads, -1)).mT.contiguous() for part in self.maps(x).chunk(3, dim=1))
        return F.relu(x + self.norm(self.out(self.mix(*parts).mT.flatten(1, 2))))


class Case:
    """One way at one size: what is timed, and what it keeps."""

    def __init__(self, name: str, part: str, n: int, *, training: bool, channels: int = CHANNELS) -> None:
        torch.manual_seed(0)
        heads = max(1, channels // 64)
        ham = name not in MIXERS
        self.training = training
        self.leaves: list[Tensor] = []
        if part == "block":
            made = Hamburger(channels, _ham(name, channels)) if ham else AttentionBlock(channels, heads, MIXERS[name])
            inputs = [torch.randn(1, channels, n, 1) if ham else torch.randn(1, channels, n)]
            self.leaves = list(made.parameters())
            self.run: Callable[..., Tensor] = made
        elif ham:
            inputs, self.run = [torch.rand(1, channels, n, 1)], _ham(name, channels)
        else:
            inputs, self.run = [torch.randn(1, heads, n, channels // heads) for _ in range(3)], MIXERS[name]
        self.inputs = [x.requires_grad_(training) for x in inputs]
        self.v = torch.randn(1, channels * n)

    def __call__(self) -> None:
        """Run once: forward, and in training backward to the inputs and the weights."""
        with torch.set_grad_enabled(self.training):
            out = self.run(*self.inputs)
            if self.training:
                torch.autograd.grad(out, [*self.inputs, *self.leaves], self.v.view(out.shape))

    def kept(self) -> int:
        """Bytes that autograd keeps of a forward pass, weights and inputs aside, each tensor counted once."""
        own = {leaf.untyped_storage().data_ptr() for leaf in (*self.leaves, *self.inputs)}
        found: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            out = self.run(*self.inputs)
        del out
        return sum(size for place, size in found.items() if place not in own)


def _ham(kind: str, channels: int) -> MatrixDecomposition:
    return MatrixDecomposition(channels, RANK, kind=kind, steps=STEPS, relu=kind == "nmf")


def multiply_adds(name: str, part: str, n: int, channels: int = CHANNELS) -> int:
    """Return the multiply-adds of a forward pass, as the products of matrices have them."""
    d, r = channels, RANK
    heads = max(1, d // 64)
    if name == "attention":
        core = 2 * n * n * d
    elif name == "efficient attention":
        core = 2 * n * d * d // heads
    elif name == "nmf":
        core = STEPS * (2 * n * d * r + 2 * n * r * r + 2 * d * r * r) + 3 * n * d * r + n * r * r + d * r * r
    else:
        core = STEPS * 2 * n * d * r + 2 * n * d * r + (2 * d * r * r if name == "cd" else 0)
    maps = 2 if name in ("nmf", "vq", "cd") else 4
    return core + (maps * n * d * d if part == "block" else 0)


def times(part: str, *, training: bool, rounds: int, quick: bool) -> str:
    """(a) and (c) Seconds in turn, and multiply-adds."""
    rows = []
    for n in SIZES[:1] if quick else SIZES:
        runs: dict[str, Callable[[], object]] = {name: Case(name, part, n, training=training) for name in NAMES}
        once = n > SIZES[1]
        found = interleave(runs, reference="attention", rounds=1 if once else rounds, warmup=0 if once else 1)
        rows += [_row(timing, part, n) for timing in found.values()]
    return markdown_table(HEAD, rows)


HEAD = ("what", "median ms", "time over attention", "range", "G multiply-adds, forward", "over attention")


def _row(timing: Timing, part: str, n: int, channels: int = CHANNELS) -> tuple[str, ...]:
    name, *rest = timing.row()
    own, whole = multiply_adds(name, part, n, channels), multiply_adds("attention", part, n, channels)
    return f"{n:,} positions: {name}", *rest, f"{own / 1e9:.2f}", f"{own / whole:.3f}"


def long() -> str:
    """The cores at 65,536 positions of 64 channels."""
    n, channels = 65536, 64
    runs: dict[str, Callable[[], object]] = {
        name: Case(name, "core", n, training=False, channels=channels) for name in NAMES
    }
    found = interleave(runs, reference="attention", rounds=1, warmup=0)
    return markdown_table(HEAD, [_row(timing, "core", n, channels) for timing in found.values()])


def memory(*, quick: bool) -> str:
    """(b) Peak of resident memory in a process of its own, and what autograd keeps."""
    rows = []
    for n in SIZES[:1] if quick else SIZES:
        for name in NAMES:
            row = [f"{n:,} positions: {name}"]
            for part, training in PARTS:
                command = [sys.executable, __file__, "--peak", name, part, str(n), str(int(training))]
                found = subprocess.run(command, check=True, capture_output=True, text=True)
                row.append(f"{int(found.stdout.split()[-1]) / 1e6:.0f}")
            row += [f"{Case(name, part, n, training=True).kept() / 1e6:.1f}" for part in ("core", "block")]
            rows.append(row)
    head = [f"peak MB, {part}, {'training' if training else 'forward'}" for part, training in PARTS]
    return markdown_table(("what", *head, "kept MB, core", "kept MB, block"), rows)


def peak(name: str, part: str, n: int, *, training: bool) -> None:
    """Print the peak of resident memory of one run beyond what was there before, in bytes."""
    Case(name, part, 256, training=training)()  # imports, threads, kernels
    case = Case(name, part, n, training=training)
    print(peak_resident(case))


def main() -> None:
    """Measure, print and perhaps note."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="1,024 positions alone, to see that everything runs")
    parser.add_argument("--long", action="store_true", help="the cores at 65,536 positions of 64 channels too")
    parser.add_argument("--note", action="store_true", help="write the dated note")
    parser.add_argument("--peak", nargs=4, metavar=("NAME", "PART", "POSITIONS", "TRAINING"))
    wish = parser.parse_args()
    if wish.peak:
        name, part, n, training = wish.peak
        peak(name, part, int(n), training=bool(int(training)))
        return
    about = (
        f"{CHANNELS} channels, one sample, float32; {RANK} atoms, {STEPS} steps, one-step gradient; attention of "
        f"{HEADS} heads. Training is forward and backward. At {SIZES[-1]:,} positions one round."
    )
    sections = {"Setting": about}
    for part, training in PARTS:
        title = f"Time of the {part}, {'training' if training else 'forward'}"
        sections[title] = times(part, training=training, rounds=wish.rounds, quick=wish.quick)
        print(f"\n{title}\n\n{sections[title]}", flush=True)
    sections["Memory"] = memory(quick=wish.quick)
    print(f"\nMemory\n\n{sections['Memory']}", flush=True)
    if wish.long:
        sections["65,536 positions of 64 channels, core, forward"] = long()
    if wish.note:
        print(write_note("hamburger", sections, packages=()))


if __name__ == "__main__":
    main()
