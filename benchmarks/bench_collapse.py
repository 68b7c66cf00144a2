"""What do the measures of neural collapse cost, beside one bare pass over cached features and beside dense formulas?

    python benchmarks/bench_collapse.py [--rounds 9] [--quick] [--note]

(a) Seconds of the processor over those of one sum over the features: the first pass alone (NC2, NC3, CDNV), both passes
with NC1 and NC4, one pass with a matrix of d x d (NC1 without the second pass), the formulas as they are written (class
by class in NumPy, two matrices of d x d and a pseudo-inverse, pairs in a loop), and the CDNV alone by kowalski, if
installed.
(b) Peak memory beyond the features, in a process of its own.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from _interleaved import TIMING_HEAD, interleave, markdown_table, write_note
from torch import Tensor

from pellucid.core import Stream
from pellucid.metrics import NeuralCollapse, simplex_geometry

SIZES = ((10_000, 64, 10), (10_000, 512, 10), (20_000, 512, 100), (10_000, 1280, 1000))
QUICK = ((1_000, 32, 5),)
DENSE_UP_TO = 512 * 100  # classes times width; the loop over pairs of 1,000 classes takes minutes


def data(n: int, d: int, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Features, labels and a classifier."""
    rng = Stream(n).child("bench")
    y = torch.arange(n) % k
    means = rng.child("means").normal((k, d))
    return means[y] + rng.child("noise").normal((n, d)), y, means - means.mean(0)


def first_pass(h: Tensor, y: Tensor, w: Tensor) -> dict[str, float]:
    """What one pass is enough for."""
    found = NeuralCollapse(len(w), h.shape[1])
    found.update(h, y)
    result = found.compute(w)
    return {"cdnv": result.cdnv, "nc3": result.nc3}


def two_passes(h: Tensor, y: Tensor, w: Tensor) -> dict[str, float]:
    """All measures."""
    found = NeuralCollapse(len(w), h.shape[1])
    found.update(h, y)
    found.second(h, y, h @ w.T)
    result = found.compute(w)
    return {"nc1": result.nc1, "cdnv": result.cdnv, "nc3": result.nc3, "nc4": result.nc4.value}


def one_pass(h: Tensor, y: Tensor, w: Tensor) -> dict[str, float]:
    """NC1 from a matrix of d x d, with the counts known in advance."""
    found = NeuralCollapse(len(w), h.shape[1], counts=torch.bincount(y))
    found.update(h, y)
    result = found.compute(w)
    return {"nc1": result.nc1, "cdnv": result.cdnv, "nc3": result.nc3}


def as_written(h: Tensor, y: Tensor, w: Tensor) -> dict[str, float]:
    """The same from the formulas as they are written."""
    features, labels, vectors = h.numpy().astype(np.float64), y.numpy(), w.numpy().astype(np.float64)
    k = len(vectors)
    parts = [features[labels == c] for c in range(k)]
    means = np.stack([part.mean(0) for part in parts])
    center = means.mean(0)
    within = sum((part - mean).T @ (part - mean) / len(part) for part, mean in zip(parts, means, strict=True)) / k
    between = sum(np.outer(mean - center, mean - center) for mean in means) / k
    variances = [((part - mean) ** 2).sum(1).mean() for part, mean in zip(parts, means, strict=True)]
    pairs = [
        (variances[i] + variances[j]) / (2 * ((means[i] - means[j]) ** 2).sum()) for i in range(k) for j in range(i)
    ]
    centered = means - center
    nearest = np.concatenate([((part[:, None] - means[None]) ** 2).sum(2).argmin(1) for part in parts])
    answers = np.concatenate([(part @ vectors.T).argmax(1) for part in parts])
    return {
        "nc1": float(np.trace(within @ np.linalg.pinv(between, rcond=1e-10)) / k),
        "cdnv": float(np.mean(pairs)),
        "nc3": float(((vectors / np.linalg.norm(vectors) - centered / np.linalg.norm(centered)) ** 2).sum()),
        "nc4": float((nearest != answers).mean()),
    }


def kowalski(h: Tensor, y: Tensor, w: Tensor) -> dict[str, float]:
    """The CDNV of the package kowalski."""
    from kowalski import to_per_class_list
    from kowalski.neural_collapse import class_distance_normalized_variance

    return {"cdnv": float(class_distance_normalized_variance(to_per_class_list(h, y)))}


WAYS: dict[str, Callable[[Tensor, Tensor, Tensor], dict[str, float]]] = {
    "first pass": first_pass,
    "both passes": two_passes,
    "one pass, d x d": one_pass,
    "as written": as_written,
    "kowalski": kowalski,
}


def ways(d: int, k: int) -> dict[str, Callable[[Tensor, Tensor, Tensor], dict[str, float]]]:
    """Return what can be run at this size, here."""
    left = dict(WAYS)
    if importlib.util.find_spec("kowalski") is None or importlib.util.find_spec("einops") is None:
        del left["kowalski"]
    if d * k > DENSE_UP_TO:
        left = {name: run for name, run in left.items() if name not in ("as written", "kowalski")}
    return left


def speed(n: int, d: int, k: int, rounds: int) -> str:
    """(a) Seconds of each way over a bare pass, and that all find the same numbers."""
    h, y, w = data(n, d, k)
    runs = ways(d, k)
    found = {name: run(h, y, w) for name, run in runs.items()}
    apart = max(
        abs(value - found["both passes"][name]) / max(1e-12, abs(found["both passes"][name]))
        for way, numbers in found.items()
        if way != "kowalski"
        for name, value in numbers.items()
    )
    timed = {"bare pass": lambda: h.sum(0), **{name: lambda run=run: run(h, y, w) for name, run in runs.items()}}
    timings = interleave(timed, reference="bare pass", rounds=rounds, warmup=1, clock=time.process_time)
    told = f"The ways agree to a relative {apart:.0e}"
    if "kowalski" in found:
        told += (
            f", kowalski's CDNV (in float32) to {abs(found['kowalski']['cdnv'] / found['both passes']['cdnv'] - 1):.0e}"
        )
    return f"{told}.\n\n{markdown_table(TIMING_HEAD, [timing.row() for timing in timings.values()])}"


def peak(way: str, n: int, d: int, k: int) -> None:
    """Print the peak memory of one way beyond the features, in bytes."""
    h, y, w = data(n, d, k)
    WAYS[way](h[: 2 * k], y[: 2 * k], w)  # imports and threads
    simplex_geometry(w)
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak starts anew from what is held now
    WAYS[way](h, y, w)
    print(_status("VmHWM") - before)


def _status(entry: str) -> int:
    """Return an entry of this process's status in bytes: VmRSS is held now, VmHWM the most so far."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines())
    return 1024 * int(lines[entry].split()[0])


def memory(sizes: tuple[tuple[int, int, int], ...]) -> str:
    """(b) Peak memory beyond the features."""
    rows = []
    for n, d, k in sizes:
        for way in ways(d, k):
            asked = [sys.executable, __file__, "--peak", way, str(n), str(d), str(k)]
            used = int(subprocess.run(asked, check=True, capture_output=True, text=True).stdout)
            rows.append((f"{n:,} x {d:,}, {k:,} classes", way, f"{used / 1e6:.0f}", f"{4e-6 * n * d:.0f}"))
    return markdown_table(("features", "what", "MB beyond the features", "MB of the features"), rows)


def main() -> None:
    """Measure, print and perhaps note."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that everything runs")
    parser.add_argument("--note", action="store_true", help="write the dated note")
    parser.add_argument("--peak", nargs=4, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.peak:
        peak(chosen.peak[0], *map(int, chosen.peak[1:]))
        return
    sizes = QUICK if chosen.quick else SIZES
    sections = {
        f"{n:,} features of width {d:,}, {k:,} classes": speed(n, d, k, chosen.rounds if d * k < 10**5 else 3)
        for n, d, k in sizes
    }
    if Path("/proc/self/clear_refs").exists():  # Linux
        sections["Peak memory"] = memory(sizes)
    for title, text in sections.items():
        print(f"\n{title}\n\n{text}")
    if chosen.note:
        print(write_note("collapse", sections, packages=("numpy", "kowalski")))


if __name__ == "__main__":
    main()
