"""What each range of interaction orders adds to a score, for a few thousand evaluations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.core import ALONE, Masker, Model, OnStep, Stream, Work, bootstrap
from pellucid.games import ModelGame, ValueOf, bin_sizes, cost_size_curve, log_odds, size_curve

from ._samples import check_samples


def signed_edges(n_players: int, bins: int) -> list[int]:
    """Return the edges that cut the orders 0..n-2 into at most `bins` bins of about equal width."""
    if n_players < 2 or bins < 1:
        raise ValueError(f"need at least two players and one bin, got {n_players} and {bins}")
    return sorted({round(k * (n_players - 1) / bins) for k in range(bins + 1)})


def cost_signed_order_curve(n_players: int, *, samples: int, permutations: int, bins: int = 10) -> int:
    """Return the exact number of evaluations of `signed_order_curve`."""
    sizes = bin_sizes(signed_edges(n_players, bins), n_players)
    return samples * cost_size_curve(n_players, sizes=sizes, permutations=permutations)


@dataclass(frozen=True, eq=False)
class SignedCurve:
    """What each range of orders adds to the score, with its sign; weak and strong pairs may cancel in it.

    Args:
        edges: `(B+1,)` orders; bin k holds the orders edges[k] .. edges[k+1]-1.
        first_order: `(N,)`, what players add alone, per sample.
        utilities: `(N, B)`, what the pair interactions of each bin add; with `first_order` they sum to `total`.
        total: `(N,)`, v(N) - v(empty).
        mean, stderr, low, high: `(B,)`, over samples; the interval is a 95 % bootstrap.
        noise: `(B,)`, standard error that sampling chains leaves in `mean`.
        n_players: n.
        evaluations: model evaluations spent.
    """

    edges: Int[Tensor, " edges"]
    first_order: Float[Tensor, " samples"]
    utilities: Float[Tensor, "samples bins"]
    total: Float[Tensor, " samples"]
    mean: Float[Tensor, " bins"]
    stderr: Float[Tensor, " bins"]
    low: Float[Tensor, " bins"]
    high: Float[Tensor, " bins"]
    noise: Float[Tensor, " bins"]
    n_players: int
    evaluations: int


def signed_order_curve(
    model: Model,
    x: Float[Tensor, "samples *input"],
    y: Int[Tensor, " samples"],
    masker: Masker,
    *,
    value: ValueOf = log_odds,
    permutations: int = 16,
    bins: int = 10,
    rng: Stream,
    work: Work = ALONE,
) -> SignedCurve:
    """What does each range of interaction orders add to the score? A signed curve for a few thousand evaluations.

    The mean interaction of all pairs at order m is f(m+2) - 2 f(m+1) + f(m), f(k) being the mean worth of k players, so
    that no pairs need evaluating. Unlike a spectrum it shows sums, in which signs cancel.

    Args:
        model: maps a batch to logits.
        x: inputs.
        y: the class whose score is explained, per input.
        masker: cuts an input into players.
        value: makes the value function of a class.
        permutations: chains of nested coalitions per input.
        bins: ranges of orders.
        rng: bound to the samples' ids, else row numbers are the ids.
        work: how the computation is watched, kept and shared out.
    """
    ids = check_samples(x, y, rng)
    n = masker(x[0]).count
    edges = signed_edges(n, bins)

    def compute(rows: Tensor, on_step: OnStep) -> dict[str, Tensor]:
        k = int(rows)  # one sample is one chunk
        game = ModelGame(model, x[k], masker, value(int(y[k])))
        bound = rng.at(ids[k : k + 1]).child("signed-order-curve")
        sizes = bin_sizes(edges, n)
        curve = size_curve(game, sizes=sizes, permutations=permutations, rng=bound, on_step=on_step)
        binned = curve.bins(edges)
        found = {
            "utilities": binned.values,
            "errors": binned.stderr,
            "alone": curve.first_order().values,
            "gain": curve.f[-1] - curve.f[0],
        }
        return {name: tensor[None] for name, tensor in found.items()}

    key = f"{permutations}|{edges}|{rng.seed}"
    found = work.map("signed-order-curve", ids, compute, chunk=1, key=key)
    utilities = found["utilities"]
    chance = Stream(rng.seed).child("signed-order-curve", "bootstrap")
    interval = bootstrap(utilities, rng=chance)
    deviation = utilities.std(0, correction=1) if len(x) > 1 else torch.full_like(interval.value, torch.nan)
    return SignedCurve(
        edges=torch.tensor(edges),
        first_order=found["alone"],
        utilities=utilities,
        total=found["gain"],
        mean=interval.value,
        stderr=deviation / len(x) ** 0.5,
        low=interval.low,
        high=interval.high,
        noise=found["errors"].square().mean(0).sqrt() / len(x) ** 0.5,
        n_players=n,
        evaluations=cost_signed_order_curve(n, samples=len(x), permutations=permutations, bins=bins),
    )
