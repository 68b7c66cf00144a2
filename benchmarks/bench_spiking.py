"""Does the memory of training grow with the time steps? Beside snnTorch and SpikingJelly, with the time of a step.

    python benchmarks/bench_spiking.py [--rounds 5] [--quick] [--note]

One layer of leaky neurons with full feedback, 784 -> 400, a linear readout, cross-entropy; a training
step is a forward and a backward pass of a batch. (a) Memory at T = 10 to 1,000: what the gradient of the equilibrium
keeps must be the same at every T, surrogate gradients through time, ours and the peers', grow with T. Counted three
times: the peak of all tensors that are alive during a step, from torch's own allocator, and the bytes kept for the
backward pass, both exact; and the peak of resident memory beyond what was there before, in processes of their own,
which the system's allocator and its pages blur. (b) Seconds of a step, interleaved, at T = 5, 30 and 100.

The peers run their own leaky neurons with soft reset and their own surrogate, on the same sizes, batch and threshold.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import subprocess
import sys
from collections.abc import Callable

import torch
from _interleaved import TIMING_HEAD, interleave, markdown_table, peak_resident, write_note
from torch import Tensor, nn
from torch.nn import functional as F

from pellucid.nn import LIF, FeedbackSpiking, SpectralBound, Surrogate

INPUTS, NEURONS, CLASSES, BATCH = 784, 400, 10, 128
PEERS = {"snnTorch": "snntorch", "SpikingJelly": "spikingjelly"}


def step_of(name: str, steps: int) -> Callable[[], Tensor]:
    """Return a training step of one way of training."""
    torch.manual_seed(0)
    x, y = torch.rand(BATCH, INPUTS), torch.arange(BATCH) % CLASSES
    into, back, out = nn.Linear(INPUTS, NEURONS), nn.Linear(NEURONS, NEURONS, bias=False), nn.Linear(NEURONS, CLASSES)
    nn.init.uniform_(into.weight, 0, 0.01)
    if name in ("equilibrium", "through time"):
        way = Surrogate() if name == "through time" else None
        layer = FeedbackSpiking(into, SpectralBound(back), neuron=LIF(0.95, 2.0), time_steps=steps, backward=way)
        return _closed(lambda: out(layer(x)), y)
    if name == "snnTorch":
        import snntorch

        leaky = snntorch.Leaky(beta=0.95, threshold=2.0, reset_mechanism="subtract")

        def forward() -> Tensor:
            current, spikes = into(x), torch.zeros(BATCH, NEURONS)
            membrane, total = leaky.init_leaky(), torch.zeros(BATCH, NEURONS)
            for _ in range(steps):
                spikes, membrane = leaky(current + back(spikes), membrane)
                total = total + spikes
            return out(total / steps)

        return _closed(forward, y)
    from spikingjelly.activation_based import functional, neuron

    node = neuron.LIFNode(tau=20.0, decay_input=False, v_threshold=2.0, v_reset=None)

    def forward_jelly() -> Tensor:
        functional.reset_net(node)
        current, spikes, total = into(x), torch.zeros(BATCH, NEURONS), torch.zeros(BATCH, NEURONS)
        for _ in range(steps):
            spikes = node(current + back(spikes))
            total = total + spikes
        return out(total / steps)

    return _closed(forward_jelly, y)


def _closed(forward: Callable[[], Tensor], y: Tensor) -> Callable[[], Tensor]:
    def step() -> Tensor:
        loss = F.cross_entropy(forward(), y)
        loss.backward()
        return loss.detach()

    return step


def names() -> list[str]:
    """Return what is compared: the peers that are installed, too."""
    return [
        "equilibrium",
        "through time",
        *(name for name, package in PEERS.items() if importlib.util.find_spec(package)),
    ]


def peak(name: str, steps: int) -> None:
    """Print the peak of resident memory of one training step beyond what was there before, in bytes."""
    step_of(name, 2)()  # imports, threads, gradients
    step = step_of(name, steps)
    print(peak_resident(step))


def alive(times: list[int]) -> str:
    """(a) Peak of the tensors alive in a training step, beyond those before it: exact, allocation by allocation."""
    rows = []
    for name in names():
        sizes = [_peak_of_tensors(step_of(name, steps)) for steps in times]
        rows.append((name, *(f"{size / 1e6:.3f}" for size in sizes), f"{sizes[-1] / sizes[0]:.3f}"))
    return markdown_table(
        ("MB of tensors at the peak", *(f"T = {steps:,}" for steps in times), "last over first"), rows
    )


def _peak_of_tensors(step: Callable[[], Tensor]) -> int:
    step()  # the parameters' gradients are there from now on
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    assert profiler.profiler is not None
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return max(itertools.accumulate(event.nbytes() for event in events))


def memory(times: list[int], repeats: int) -> str:
    """(a) Peak of resident memory by time steps."""
    rows = []
    for name in names():
        sizes = []
        for steps in times:
            command = [sys.executable, __file__, "--peak", name, str(steps)]
            runs = [subprocess.run(command, check=True, capture_output=True, text=True) for _ in range(repeats)]
            sizes.append([int(run.stdout.split()[-1]) / 1e6 for run in runs])
        rows.append((name, *(f"{min(each):.1f} to {max(each):.1f}" for each in sizes)))
    table = markdown_table(("MB resident at the peak", *(f"T = {steps:,}" for steps in times)), rows)
    return (
        f"{table}\n\nFrom least to most of {repeats} processes: the spread at one T is that of the system's allocator."
    )


def kept(times: list[int]) -> str:
    """(a) Bytes that a forward pass keeps for the backward pass: exact, and the same on every machine."""
    rows = []
    for name in names():
        sizes = []
        for steps in times:
            storages: dict[int, Tensor] = {}

            def keep(tensor: Tensor, held: dict[int, Tensor] = storages) -> Tensor:
                held[tensor.untyped_storage().data_ptr()] = tensor
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                step_of(name, steps)()
            sizes.append(sum(tensor.untyped_storage().nbytes() for tensor in storages.values()))
        rows.append((name, *(f"{size / 1e6:.2f}" for size in sizes), f"{sizes[-1] / sizes[0]:.3f}"))
    return markdown_table(("MB kept for backward", *(f"T = {steps:,}" for steps in times), "last over first"), rows)


def seconds(times: list[int], rounds: int) -> str:
    """(b) Time of a training step."""
    parts = []
    for steps in times:
        timings = interleave({name: step_of(name, steps) for name in names()}, reference="equilibrium", rounds=rounds)
        parts.append(f"T = {steps}\n\n{markdown_table(TIMING_HEAD, [timing.row() for timing in timings.values()])}")
    return "\n\n".join(parts)


def main() -> None:
    """Measure and print; a note is written where asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--note", action="store_true", help="write benchmarks/results/spiking_HARDWARE_DATE.md")
    parser.add_argument("--peak", nargs=2, metavar=("NAME", "T"))
    wish = parser.parse_args()
    if wish.peak:
        peak(wish.peak[0], int(wish.peak[1]))
        return
    times = [10, 40] if wish.quick else [10, 100, 1000]
    what = f"784 -> {NEURONS} leaky neurons with feedback, batch {BATCH}"
    sections = {
        f"Peak of the tensors in a training step: {what}": alive(times),
        "What is kept for the backward pass": kept(times),
        "Peak of resident memory of a training step": memory(times, 1 if wish.quick else 5),
        "Time of a training step": seconds([5] if wish.quick else [5, 30, 100], wish.rounds),
    }
    for title, text in sections.items():
        print(f"## {title}\n\n{text}\n")
    if wish.note:
        print(write_note("spiking", sections, packages=tuple(PEERS[name] for name in names() if name in PEERS)))


if __name__ == "__main__":
    main()
