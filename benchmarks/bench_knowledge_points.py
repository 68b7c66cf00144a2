"""How long do the fits behind knowledge points take, beside the one product that they cannot do without?

    OMP_NUM_THREADS=2 python benchmarks/bench_knowledge_points.py [--rounds 3] [--quick] [--note]

(a) The picture of 2,000 samples with 128 features and 10 classes, 2,000 steps (at most 10 s), beside three principal
components; (b) the regions of 200 samples with maps of 8 x 8 x 128, importance and embedding together (at most a minute
on two cores), beside the bare products of all regions with all regions that its 20 steps hold, and beside one step of
the authors' loop over samples j for one sample i, times the number of such steps.
"""

from __future__ import annotations

import argparse

import torch
from _interleaved import TIMING_HEAD, interleave, markdown_table, write_note
from torch import Tensor

from pellucid.core import Stream
from pellucid.explain import RegionEmbedding, RegionImportance, SampleEmbedding
from pellucid.explain._knowledge_samples import principal

CLASSES = 10


def drawn(n: int, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return features after a ReLU that carry a class, and logits."""
    rng, labels = Stream(0), torch.arange(n) % CLASSES
    centers = rng.child("centers").normal((CLASSES, shape[0]))
    noise = rng.child("noise").normal((n, *shape))
    features = (centers[labels].reshape(n, shape[0], *[1] * (len(shape) - 1)) + noise).relu()
    pooled = features if features.ndim == 2 else features.mean((2, 3))
    return features, pooled @ centers.T / shape[0] ** 0.5 * 3


def samples(rounds: int, n: int, steps: int) -> str:
    """(a) The picture of samples."""
    f, z = drawn(n, (128,))
    runs = {
        "principal components": lambda: principal(f),
        "samples": lambda: SampleEmbedding(steps=steps).fit(f, z, rng=Stream(1)),
        "samples, exact gradient": lambda: SampleEmbedding(steps=steps, exact=True).fit(f, z, rng=Stream(1)),
    }
    timings = interleave(runs, reference="principal components", rounds=rounds, warmup=1)
    return markdown_table(TIMING_HEAD, [timing.row() for timing in timings.values()])


def official_step(u: Tensor, others: Tensor, v: Tensor) -> Tensor:
    """Return the match of one sample's regions with each other sample in turn, as the authors' code does."""
    found = [((u * v)[:, None] * other[None]).sum(2).max(1).values for other in others]
    return torch.stack(found, 1)


def regions(rounds: int, n: int, side: int, channels: int) -> str:
    """(b) The regions of one layer."""
    maps, z = drawn(n, (channels, side, side))
    g = SampleEmbedding(steps=50).fit(maps.mean((2, 3)), z, rng=Stream(1))
    flat = maps.flatten(2).transpose(1, 2).contiguous()
    few = flat[: min(100, n)].reshape(-1, channels)

    def bare() -> None:
        for _ in range(20):
            for part in flat.split(4):
                part.reshape(-1, channels) @ few.T

    def fit() -> RegionEmbedding:
        weights = RegionImportance().fit(maps, z, rng=Stream(2))
        return RegionEmbedding().fit(maps, z, g, weights, rng=Stream(3))

    def loop() -> None:
        official_step(flat[0], flat[1:11], torch.full((channels,), 1 / channels))

    runs = {"bare products": bare, "importance and embedding": fit, "authors' loop, 10 others": loop}
    timings = interleave(runs, reference="bare products", rounds=rounds, warmup=1)
    table = markdown_table(TIMING_HEAD, [timing.row() for timing in timings.values()])
    return f"{table}\n\nThe authors' loop runs {20 * n * min(100, n) // 10:,} times over 10 others for the same steps."


def main() -> None:
    """Measure, print and perhaps note."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that everything runs")
    parser.add_argument("--note", action="store_true", help="write the dated note")
    chosen = parser.parse_args()
    n, steps, size = (200, 100, (20, 4, 16)) if chosen.quick else (2000, 2000, (200, 8, 128))
    sections = {
        f"The picture of {n:,} samples": samples(chosen.rounds, n, steps),
        f"The regions of {size[0]} samples, {size[1]} x {size[1]} x {size[2]}": regions(chosen.rounds, *size),
    }
    for title, text in sections.items():
        print(f"\n{title}\n\n{text}")
    if chosen.note:
        print(write_note("knowledge-points", sections, packages=("torch", "numpy")))


if __name__ == "__main__":
    main()
