"""Intervals and paired tests: how sure is a number, and is a difference more than chance?

All in float64. Chance comes from a `Stream`, so an interval is the same on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Generic, Literal, TypeVar, overload

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ._streams import Stream

T = TypeVar("T", float, Tensor)

_CHUNK = 2**22  # random numbers drawn at once


@dataclass(frozen=True)
class Interval(Generic[T]):
    """A number with the ends of its interval; all three are floats, or tensors of one shape."""

    value: T
    low: T
    high: T


@dataclass(frozen=True)
class PairedTest:
    """Whether two systems differ on the same samples.

    Args:
        difference: mean of b - a.
        low, high: ends of its 95 % interval.
        p_value: two-sided.
        n: number of pairs.
        test: the test's name and its interval's, for the report.
    """

    difference: float
    low: float
    high: float
    p_value: float
    n: int
    test: str


@overload
def wilson(successes: int, n: int, *, confidence: float = 0.95) -> Interval[float]: ...
@overload
def wilson(successes: Tensor, n: int | Tensor, *, confidence: float = 0.95) -> Interval[Tensor]: ...
def wilson(successes: int | Tensor, n: int | Tensor, *, confidence: float = 0.95) -> Interval[float] | Interval[Tensor]:
    """How large may a share be, seen `successes` times in `n`?

    Wilson's score interval (1927), (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n): sensible also for shares
    of 0 and 1. With n = 0 the share is NaN and the interval is [0, 1].
    """
    k = torch.as_tensor(successes, dtype=torch.float64)
    total = torch.as_tensor(n, dtype=torch.float64, device=k.device)
    if bool((k < 0).any() or (k > total).any()):
        raise ValueError(f"successes must lie between 0 and n, got {successes} of {n}")
    share = k / total
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    known, safe = total > 0, total.clamp(min=1)
    centre = (k + z**2 / 2) / (total + z**2)
    half = z / (total + z**2) * (k * (total - k) / safe + z**2 / 4).sqrt()
    low = torch.where(known & (k > 0), (centre - half).clamp(min=0), 0.0)
    high = torch.where(known & (k < total), (centre + half).clamp(max=1), 1.0)
    if isinstance(successes, Tensor) or isinstance(n, Tensor):
        return Interval(share, low, high)
    return Interval(float(share), float(low), float(high))


def bootstrap(
    values: Tensor,
    *,
    rng: Stream,
    groups: Int[Tensor, " N"] | None = None,
    resamples: int = 1000,
    statistic: Literal["mean"] | Callable[[Tensor], Tensor] = "mean",
    confidence: float = 0.95,
) -> Interval[Tensor]:
    """How far would the statistic move with other samples of the same kind?

    Percentile bootstrap: whole groups are drawn with replacement (Efron 1979; by group, because values of one group
    are not independent).

    Args:
        values: `(N, *b)`, one row per value.
        rng: source of the draws.
        groups: `(N,)` group of each row; every row is its own group if not given.
        resamples: number of bootstrap samples.
        statistic: "mean", or a function from `(n, *b)` rows to `(*b)`.
        confidence: coverage of the interval.

    Returns:
        Statistic of all rows and the ends of its interval, each `(*b)` float64. The ends are NaN with one group: one
        observation says nothing about spread.
    """
    if values.ndim < 1 or len(values) == 0:
        raise ValueError("values must hold at least one row")
    values = values.detach().to(torch.float64)
    owner, count = _group_numbers(groups, len(values), values.device)
    point = values.mean(0) if isinstance(statistic, str) else statistic(values)
    if count == 1:
        unknown = torch.full_like(point, torch.nan)
        return Interval(point, unknown, unknown)
    replicas: list[Tensor] = []
    for rows in torch.split(torch.arange(resamples), max(1, _CHUNK // count)):
        drawn = rng.at(rows).integers(count, (len(rows), count), device=values.device)
        if isinstance(statistic, str):
            replicas.append(_group_means(values, owner, drawn))
        else:
            members = [torch.nonzero(owner == group)[:, 0] for group in range(count)]
            replicas += [statistic(values[torch.cat([members[g] for g in row.tolist()])])[None] for row in drawn]
    tail = (1 - confidence) / 2
    ends = torch.tensor([tail, 1 - tail], dtype=torch.float64, device=values.device)
    low, high = torch.cat(replicas).quantile(ends, dim=0)
    return Interval(point, low, high)


def _group_numbers(groups: Tensor | None, rows: int, device: torch.device) -> tuple[Tensor, int]:
    """Return each row's group as a number from 0 and how many groups there are."""
    if groups is None:
        return torch.arange(rows, device=device), rows
    if groups.shape != (rows,):
        raise ValueError(f"groups must have shape ({rows},), got {tuple(groups.shape)}")
    names, owner = torch.unique(groups.to(device), return_inverse=True)
    return owner, len(names)


def _group_means(values: Tensor, owner: Tensor, drawn: Tensor) -> Tensor:
    """Return the mean of all rows of the drawn groups, `(resamples, *b)`; a group drawn twice counts twice."""
    count = drawn.shape[1]
    flat = values.flatten(1) if values.ndim > 1 else values[:, None]
    sums = flat.new_zeros(count, flat.shape[1]).index_add_(0, owner, flat)
    sizes = torch.bincount(owner, minlength=count).to(flat)
    times = flat.new_zeros(len(drawn), count).scatter_add_(1, drawn, torch.ones_like(drawn).to(flat))
    return ((times @ sums) / (times @ sizes)[:, None]).reshape(-1, *values.shape[1:])


def mcnemar(a: Bool[Tensor, " N"], b: Bool[Tensor, " N"], *, confidence: float = 0.95) -> PairedTest:
    """Does `b` succeed more often than `a` on the same samples?

    The exact McNemar test: of the samples on which the two disagree, is the split further from half than a fair coin
    would give? The interval of the difference of the two shares is Newcombe's for paired data (1998, Statistics in
    Medicine 17, method 10).
    """
    _check_pairs(a, b)
    n = len(a)
    a, b = a.bool(), b.bool()
    both, only_a, only_b = int((a & b).sum()), int((a & ~b).sum()), int((b & ~a).sum())
    neither = n - both - only_a - only_b
    low, high = _newcombe(both, only_a, only_b, neither, confidence)
    difference = (only_b - only_a) / n
    p_value = _sign_test(only_a, only_b)
    return PairedTest(difference, low, high, p_value, n, "exact McNemar test, Newcombe interval")


def _sign_test(a: int, b: int) -> float:
    """Return the chance that a fair coin splits a + b tosses at least as unevenly."""
    n = a + b
    tail, term = 0, 1
    for k in range(min(a, b) + 1):
        tail, term = tail + term, term * (n - k) // (k + 1)  # term: n choose k, exact in Python's integers
    return float(min(1.0, 2 * tail / 2**n))


def _newcombe(both: int, only_a: int, only_b: int, neither: int, confidence: float) -> tuple[float, float]:
    """Interval of share(b) - share(a): Wilson's two intervals, squared and added with their correlation."""
    n = both + only_a + only_b + neither
    first = wilson(both + only_b, n, confidence=confidence)
    second = wilson(both + only_a, n, confidence=confidence)
    product = (both + only_b) * (only_a + neither) * (both + only_a) * (only_b + neither)
    covariance = both * neither - only_a * only_b
    if product == 0:
        phi = 0.0
    elif covariance > 0:
        phi = max(covariance - n / 2, 0.0) / math.sqrt(product)  # Newcombe's continuity correction
    else:
        phi = covariance / math.sqrt(product)
    below_1, above_1 = first.value - first.low, first.high - first.value
    below_2, above_2 = second.value - second.low, second.high - second.value
    difference = (only_b - only_a) / n
    down = math.sqrt(max(0.0, below_1**2 - 2 * phi * below_1 * above_2 + above_2**2))
    up = math.sqrt(max(0.0, above_1**2 - 2 * phi * above_1 * below_2 + below_2**2))
    return max(-1.0, difference - down), min(1.0, difference + up)


def paired_difference(
    a: Float[Tensor, " N"], b: Float[Tensor, " N"], *, rng: Stream, flips: int = 9999, confidence: float = 0.95
) -> PairedTest:
    """Is `b` larger than `a` on the same samples, on average?

    The mean of b - a, its percentile bootstrap interval, and a sign-flip permutation test: if nothing differed, each
    difference could as well have the other sign. All sign patterns are tried when there are few enough, otherwise
    `flips` random ones.
    """
    _check_pairs(a, b)
    n = len(a)
    gain = (b.detach().to(torch.float64) - a.detach().to(torch.float64)).cpu()
    interval = bootstrap(gain, rng=rng.child("bootstrap"), confidence=confidence)
    # Sums that are equal on paper differ by rounding; the tie must count as "at least as far".
    observed = gain.sum().abs() - 1e-12 * gain.abs().sum()
    if 2**n <= flips + 1:
        signs = (torch.arange(2**n)[:, None] >> torch.arange(n)) & 1
        p_value = float(((2 * signs - 1).double() @ gain).abs().ge(observed).double().mean())
    else:
        hits, coins = 0, rng.child("flips")
        for rows in torch.split(torch.arange(flips), max(1, _CHUNK // n)):
            signs = coins.at(rows).integers(2, (len(rows), n))
            hits += int(((2 * signs - 1).double() @ gain).abs().ge(observed).sum())
        p_value = (1 + hits) / (1 + flips)
    test = "sign-flip permutation test, bootstrap interval"
    return PairedTest(float(interval.value), float(interval.low), float(interval.high), p_value, n, test)


def _check_pairs(a: Tensor, b: Tensor) -> None:
    if a.ndim != 1 or a.shape != b.shape or len(a) == 0:
        raise ValueError(
            f"a and b must be vectors of one length, at least 1, got {tuple(a.shape)} and {tuple(b.shape)}"
        )
