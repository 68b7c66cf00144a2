"""Data sets made by a formula, so that tests and first steps need no files."""

from __future__ import annotations

from typing import Annotated

import msgspec
import torch
from msgspec import Meta

from pellucid.core import IGNORED, DataError, Dataset, Stream

from ._graphs import pack_graphs

Count = Annotated[int, Meta(ge=1)]
Classes = Annotated[int, Meta(ge=2)]


def synthetic_images(n: int, *, rng: Stream, classes: int = 4, size: int = 12, channels: int = 1) -> Dataset:
    """Return `n` noisy images in [0, 1], `(n, channels, size, size)`: the class is where a bright bar stands.

    Class k of K has its bar at the height `(k + 1/2) / K` of the image, one K-th thick, at contrast 0.5 on noise.
    """
    ids = torch.arange(n)
    rng = rng.at(ids)
    labels = ids % classes
    row = (torch.arange(size) * classes) // size
    bar = (row[None, :] == labels[:, None]).float()[:, None, :, None]
    noise = rng.child("pixels").uniform((n, channels, size, size))
    return Dataset(
        (0.4 * noise + 0.5 * bar).clamp(0, 1),
        labels,
        class_names=tuple(f"bar {k}" for k in range(classes)),
        name="synthetic-images",
        modality="image",
        ids=ids,
    )


def synthetic_scenes(n: int, *, rng: Stream, size: int = 32, noise: float = 0.3) -> Dataset:
    """Return `n` noisy color images `(n, 3, size, size)` of a sea with one round island, and on it a round lake.

    Sea and lake have the same color, so a pixel alone cannot tell them apart: the lake is what lies in the land. Each
    pixel has a class, but for those of a thin border between them, which are `IGNORED`.
    """
    if size < 16:
        raise DataError(f"an island with a lake needs 16 pixels or more, got {size}")
    ids = torch.arange(n)
    rng = rng.at(ids)
    drawn = rng.child("places").uniform((n, 6))[:, :, None, None]
    places = (torch.arange(size) + 0.5) / size
    down, across = places[None, :, None], places[None, None, :]
    radius = 0.2 + 0.15 * drawn[:, 0]
    y, x = radius + (1 - 2 * radius) * drawn[:, 1], radius + (1 - 2 * radius) * drawn[:, 2]
    shore = (down - y) ** 2 + (across - x) ** 2 - radius**2
    inner = radius * (0.3 + 0.3 * drawn[:, 3])
    free = 0.6 * (radius - inner)
    bank = (down - y - free * (drawn[:, 4] - 0.5)) ** 2 + (across - x - free * (drawn[:, 5] - 0.5)) ** 2 - inner**2
    masks = torch.where(bank < 0, 2, torch.where(shore < 0, 1, 0))
    color = torch.tensor([[0.2, 0.3, 0.6], [0.5, 0.5, 0.3], [0.2, 0.3, 0.6]])[masks].permute(0, 3, 1, 2)
    grain = rng.child("pixels").uniform((n, 3, size, size))
    thin = 0.004
    masks = masks.where((shore.abs() > thin) & (bank.abs() > thin), IGNORED)
    return Dataset(
        (color + noise * (grain - 0.5)).clamp(0, 1),
        masks,
        class_names=("sea", "land", "lake"),
        name="synthetic-scenes",
        modality="image",
        ids=ids,
    )


def synthetic_table(n: int, *, rng: Stream, features: int = 6, noise: float = 0.1) -> Dataset:
    """Return `n` rows of normal features `(n, features)`; the class is the sign of x0 + x1 x2 with noise.

    The rule has one additive part and one pure interaction, which tells methods that see interactions from others.
    """
    ids = torch.arange(n)
    rng = rng.at(ids)
    x = rng.child("features").normal((n, features))
    score = x[:, 0] + x[:, 1] * x[:, 2] + noise * rng.child("noise").normal((n, 1))[:, 0]
    return Dataset(
        x,
        (score > 0).long(),
        class_names=("negative", "positive"),
        name="synthetic-table",
        modality="tabular",
        ids=ids,
        bounds=None,
        feature_names=tuple(f"x{j}" for j in range(features)),
    )


def synthetic_graphs(n: int, *, rng: Stream, nodes: int = 6, noise: float = 0.1) -> Dataset:
    """Return `n` chains of nodes as graphs `(n, nodes, nodes + 3)`: the class is told at one end, asked at the other.

    Node 0 has the feature (1, 0, 0), the last node (0, 1, 0) or (0, 0, 1) by the class, and those between noise in the
    last two features: only what reaches from one end of the chain to the other can tell the class.
    """
    if nodes < 2:
        raise DataError(f"a chain needs at least 2 nodes, got {nodes}")
    if not noise > 0:
        raise DataError(f"noise must be above 0, or the nodes between have no features, got {noise:g}")
    ids = torch.arange(n)
    labels = ids % 2
    chain = torch.diag(torch.ones(nodes - 1), 1)
    features = torch.zeros(n, nodes, 3)
    features[:, 1:-1, 1:] = noise * (0.1 + 0.9 * rng.at(ids).child("nodes").uniform((n, nodes - 2, 2)))
    features[:, 0, 0] = 1
    features[ids, -1, 1 + labels] = 1
    return Dataset(
        pack_graphs([chain + chain.T] * n, list(features)),
        labels,
        class_names=("first", "second"),
        name="synthetic-graphs",
        modality="graph",
        ids=ids,
        bounds=None,
    )


class SyntheticGraphs(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="synthetic-graphs"
):
    """`synthetic_graphs` as a source; `n` training graphs and as many for the test."""

    n: Count = 128
    nodes: Annotated[int, Meta(ge=2)] = 6
    noise: Annotated[float, Meta(gt=0)] = 0.1
    seed: int = 0

    def load(self, split: str) -> Dataset:
        """Return the split; each name of a split gives its own draw."""
        rng = Stream(self.seed).child("synthetic", split)
        return synthetic_graphs(self.n, rng=rng, nodes=self.nodes, noise=self.noise)


class SyntheticImages(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="synthetic-images"
):
    """`synthetic_images` as a source; `n` training images and as many for the test."""

    n: Count = 512
    classes: Classes = 4
    size: Count = 12
    channels: Count = 1
    seed: int = 0

    def load(self, split: str) -> Dataset:
        """Return the split; each name of a split gives its own draw."""
        rng = Stream(self.seed).child("synthetic", split)
        return synthetic_images(self.n, rng=rng, classes=self.classes, size=self.size, channels=self.channels)


class SyntheticScenes(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="synthetic-scenes"
):
    """`synthetic_scenes` as a source; `n` training images and as many for the test."""

    n: Count = 256
    size: Annotated[int, Meta(ge=16)] = 32
    noise: Annotated[float, Meta(ge=0)] = 0.3
    seed: int = 0

    def load(self, split: str) -> Dataset:
        """Return the split; each name of a split gives its own draw."""
        rng = Stream(self.seed).child("synthetic", split)
        return synthetic_scenes(self.n, rng=rng, size=self.size, noise=self.noise)


class SyntheticTable(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="synthetic-table"
):
    """`synthetic_table` as a source; `n` training rows and as many for the test."""

    n: Count = 512
    features: Annotated[int, Meta(ge=3)] = 6
    noise: Annotated[float, Meta(ge=0)] = 0.1
    seed: int = 0

    def load(self, split: str) -> Dataset:
        """Return the split; each name of a split gives its own draw."""
        rng = Stream(self.seed).child("synthetic", split)
        return synthetic_table(self.n, rng=rng, features=self.features, noise=self.noise)
