"""What neural collapse is computed from: sums over features, in two passes.

Sums are kept in float64 about a fixed center, so that features far from the origin lose no digits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pellucid.core import Interval, wilson

Weighting = Literal["class", "sample"]

_CUT = 1e-10  # of the largest: eigenvalues of the scatter between classes below it are rounding
_ONE_PLACE = 1e-13  # of the squared lengths: squared distances below it are rounding
_FEW = 256  # classes or features up to which a singular value decomposition is quick
_CHUNK = 2**19  # numbers held in float64 at once: more leave the caches


@dataclass
class First:
    """Sums of the first pass, of features minus `center`."""

    center: Tensor  # (d,)
    counts: Tensor  # (K,) float64
    sums: Tensor  # (K, d)
    squares: Tensor  # (K,) sums of squared lengths
    rates: Tensor | None  # (K,) weight of a sample in `scatter`
    scatter: Tensor | None  # (d, d)

    @classmethod
    def start(cls, center: Tensor, classes: int, rates: Tensor | None) -> First:
        d = len(center)
        return cls(
            center,
            center.new_zeros(classes),
            center.new_zeros(classes, d),
            center.new_zeros(classes),
            None if rates is None else rates.to(center.device),
            None if rates is None else center.new_zeros(d, d),
        )

    def copy(self) -> First:
        parts = (self.center, self.counts, self.sums, self.squares, self.rates, self.scatter)
        return First(*(None if part is None else part.clone() for part in parts))  # type: ignore[arg-type]

    def add(self, h: Tensor, y: Tensor) -> None:
        h = h - self.center  # in float64, as the center is
        self.counts += torch.bincount(y, minlength=len(self.counts))
        self.sums.index_add_(0, y, h)
        self.squares.index_add_(0, y, torch.linalg.vecdot(h, h))
        if self.scatter is not None and self.rates is not None:
            h = h * self.rates[y].sqrt()[:, None]
            self.scatter.addmm_(h.T, h)

    def merge(self, other: First) -> None:
        """Add sums about another center: h - c = (h - c') + (c' - c)."""
        device = self.center.device
        move = other.center.to(device) - self.center
        counts, sums = other.counts.to(device), other.sums.to(device)
        if self.scatter is not None and self.rates is not None and other.scatter is not None:
            moved = torch.outer(move, self.rates @ sums)
            self.scatter += other.scatter.to(device) + moved + moved.T
            self.scatter += float(self.rates @ counts) * torch.outer(move, move)
        self.squares += other.squares.to(device) + 2 * sums @ move + counts * move.dot(move)
        self.sums += sums + counts[:, None] * move
        self.counts += counts

    def means(self) -> Tensor:
        """Class means minus `center`; NaN for a class without samples."""
        return self.sums / torch.where(self.counts > 0, self.counts, math.nan)[:, None]

    def shares(self, weighting: Weighting) -> Tensor:
        """Weight of each class in the means over classes."""
        there = (self.counts > 0).double()
        return there / there.sum() if weighting == "class" else self.counts / self.counts.sum()

    def centered(self, weighting: Weighting) -> Tensor:
        """Class means minus their mean, `(K, d)`; NaN for a class without samples."""
        means = self.means()
        return means - self.shares(weighting) @ means.nan_to_num(0)

    def variances(self) -> Tensor:
        """Mean squared distance to the own class mean, `(K,)`; NaN for a class without samples."""
        means = self.means()
        return (self.squares / self.counts - means.square().sum(1)).clamp_min(0)

    def cdnv(self) -> float:
        there = self.counts > 0
        means, v = self.centered("class")[there], self.variances()[there]
        pairs = upper(len(means), means.device)
        both = (v[:, None] + v[None])[pairs]
        sizes = means.square().sum(1)
        sizes = (sizes[:, None] + sizes[None])[pairs]
        apart = sizes - 2 * (means @ means.T)[pairs]
        # Two classes at one place, up to rounding, cannot be told apart, whatever their scatter.
        return float(torch.where(apart > _ONE_PLACE * sizes, both / (2 * apart), math.inf).mean())

    def axes(self, weighting: Weighting) -> Tensor:
        """Directions between the classes over their spread, `(d, r)`: the square root of pinv(S_B)."""
        there = self.counts > 0
        scaled: Tensor = self.shares(weighting)[there].sqrt()[:, None] * self.centered(weighting)[there]
        if min(scaled.shape) <= _FEW:
            _, sizes, directions = torch.linalg.svd(scaled, full_matrices=False)
            kept = sizes.square() > _CUT * sizes.amax().square()
            axes: Tensor = directions[kept] / sizes[kept][:, None]
            return axes.T
        # The same from the smaller Gram matrix, several times as fast for hundreds of classes.
        wide = len(scaled) <= scaled.shape[1]
        squares, vectors = torch.linalg.eigh(scaled @ scaled.T if wide else scaled.T @ scaled)
        kept = squares > _CUT * squares.amax()
        squares, vectors = squares[kept], vectors[:, kept]
        return scaled.T @ (vectors / squares) if wide else torch.div(vectors, squares.sqrt())

    def dense_nc1(self, weighting: Weighting) -> float:
        assert self.scatter is not None
        assert self.rates is not None
        means = self.means().nan_to_num(0)
        within = self.scatter - means.T @ ((self.rates * self.counts)[:, None] * means)
        axes = self.axes(weighting)
        if axes.shape[1] == 0:
            return math.inf
        return max(0.0, float(torch.einsum("dr,de,er->", axes, within, axes))) / int((self.counts > 0).sum())


@dataclass
class Second:
    """Sums of the second pass."""

    center: Tensor
    project: Tensor  # (d, r + K): axes between classes, then class means to compare with
    places: Tensor  # (K, r): class means along the axes
    offsets: Tensor  # (K,): half squared lengths of the means compared with, infinite for absent ones
    counts: Tensor
    spread: Tensor  # (K,) sums of squared distances along the axes
    differ: int = 0
    compared: int = 0

    @classmethod
    def start(cls, first: First, weighting: Weighting, train: Tensor | None) -> Second:
        if int((first.counts > 0).sum()) < 2:
            raise ValueError("the first pass saw fewer than two classes")
        axes, own = first.axes(weighting), first.means()
        means = own if train is None else double(train).to(own.device) - first.center
        half = torch.where(means.isfinite().all(1), means.square().sum(1) / 2, math.inf)
        means = means.nan_to_num(0, 0, 0)
        zeros = torch.zeros_like(first.counts)
        return cls(
            first.center,
            torch.cat([axes, means.T], 1),
            own.nan_to_num(0) @ axes,
            half,
            zeros,
            zeros.clone(),
        )

    def add(self, h: Tensor, y: Tensor, logits: Tensor | None) -> None:
        rank = self.places.shape[1]
        h = h - self.center
        seen = h @ (self.project if logits is not None else self.project[:, :rank])
        away = seen[:, :rank] - self.places[y]
        self.counts += torch.bincount(y, minlength=len(self.counts))
        self.spread.index_add_(0, y, torch.linalg.vecdot(away, away))
        if logits is not None:
            nearest = (seen[:, rank:] - self.offsets).argmax(1)
            self.differ += int((nearest != logits.argmax(1).to(nearest.device)).sum())
            self.compared += len(y)

    def merge(self, other: Second) -> None:
        self.counts += other.counts.to(self.counts.device)
        self.spread += other.spread.to(self.spread.device)
        self.differ += other.differ
        self.compared += other.compared

    def nc1(self, first: First, weighting: Weighting) -> float:
        if self.places.shape[1] == 0:
            return math.inf
        there = self.counts > 0
        each = torch.where(there, self.spread / self.counts.clamp_min(1), 0)
        return float(first.shares(weighting) @ each) / int(there.sum())

    def nc4(self) -> Interval[float]:
        if not self.compared:
            return Interval(math.nan, math.nan, math.nan)
        return wilson(self.differ, self.compared)


def upper(k: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return rows and columns of the pairs of k things."""
    places = torch.triu_indices(k, k, offset=1, device=device)
    return places[0], places[1]


def double(h: Tensor) -> Tensor:
    """Return float64, on the CPU where the device has none."""
    return (h.cpu() if h.device.type == "mps" else h).double()


def chunks(h: Tensor) -> list[slice]:
    """Return slices of rows that are small in float64."""
    size = max(1, _CHUNK // max(1, h.shape[1]))
    return [slice(at, at + size) for at in range(0, len(h), size)]
