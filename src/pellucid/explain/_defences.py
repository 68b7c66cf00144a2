"""Known defences, explained by interactions: detection, recovery, reduced rank, dropped pixels (arXiv:2111.03536).

Each is a diagnostic of a model under a given attack, not a defence to rely on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from pellucid.core import ALONE, Attack, Game, Interval, Masker, Model, OnStep, Stream, Work, bootstrap, wilson
from pellucid.games import ModelGame, ValueOf, log_probability

from ._attacked import check_attacked
from ._samples import predicted

DETECTOR_RATIOS = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)

Spread = Literal["interquartile", "deviation"]

_TOGETHER = 8
"""Players added to one context: they share its evaluation."""


# -- detection by attributions of one order -------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class OrderDetector:
    """How well the spread of attributions tells attacked inputs from normal ones, by the size of the contexts.

    Args:
        orders: `(M,)`, context sizes k; n-1 is leaving one player out.
        ratios: `(M,)`, k / (n - 1).
        auroc: `(M,)` for each spread, area under the curve of normal against attacked, on halves of the samples that
            did not choose the direction; 95 % bootstrap interval over samples.
        spread: `(N, M, 2)` by name of the spread: normal, attacked.
        evaluations: model evaluations spent.
    """

    orders: Int[Tensor, " orders"]
    ratios: Float[Tensor, " orders"]
    auroc: dict[Spread, Interval[Tensor]]
    spread: dict[Spread, Float[Tensor, "samples orders 2"]]
    evaluations: int


def cost_order_detector(
    n_players: int, *, samples: int, ratios: Sequence[float] = DETECTOR_RATIOS, contexts: int = 4
) -> int:
    """Return the exact number of evaluations of `order_detector`."""
    return 2 * samples * (1 + sum(_cost_of_order(n_players, k, contexts) for k in _orders(n_players, ratios)))


def order_detector(
    model: Model,
    x: Float[Tensor, "samples *input"],
    x_adv: Float[Tensor, "samples *input"],
    masker: Masker,
    *,
    ratios: Sequence[float] = DETECTOR_RATIOS,
    contexts: int = 4,
    value: ValueOf = log_probability,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    rng: Stream,
    work: Work = ALONE,
) -> OrderDetector:
    """Do attributions tell attacked inputs from normal ones, and of which order? AUROC of their spread, per order.

    phi^k(i) is the mean over k other players S of v(S+i) - v(S), v the score of the class that the model answers to the
    whole input: a detector does not know which input is attacked. Its spread over the players i is one number per
    input. k = n-1 is leaving one player out, the attribution that detectors use; it is the only one that holds the
    interactions of the highest order.

    Args:
        model: maps a batch to logits.
        x: normal inputs.
        x_adv: attacked inputs, one per normal one.
        masker: cuts an input into players.
        ratios: context sizes as shares of n - 1.
        contexts: contexts per player and order; orders 0 and n-1 have one and are exact.
        value: makes the score of a class.
        bounds: least and greatest legal input value; None for inputs without bounds.
        rng: bound to the samples' ids, else row numbers are the ids.
        work: how the computation is watched, kept and shared out.

    Raises:
        DataError: an attacked input is not finite, outside `bounds`, or unlike its normal one in shape or type.
        ValueError: fewer than four samples, or a ratio outside [0, 1].
    """
    ids = check_attacked(x, x_adv, torch.zeros(len(x), dtype=torch.int64), bounds, rng)
    if len(x) < 4:
        raise ValueError(f"a detector needs at least 4 samples, two per half, got {len(x)}")
    n = masker(x[0]).count
    orders = _orders(n, ratios)
    answers = torch.stack([predicted(model, x), predicted(model, x_adv)], dim=1)

    def compute(rows: Tensor, on_step: OnStep) -> dict[str, Tensor]:
        k = int(rows)  # one sample is one chunk
        bound = rng.at(ids[k : k + 1]).child("order-detector")
        sides = []
        for side, one in enumerate((x[k], x_adv[k])):
            game = ModelGame(model, one, masker, value(int(answers[k, side])))
            phi = torch.stack([_attributions(game, order, contexts, bound.child(order)) for order in orders])
            ends = phi.quantile(torch.tensor([0.25, 0.75], dtype=phi.dtype), dim=1)
            sides.append(torch.stack([ends[1] - ends[0], phi.std(1, correction=1)], dim=1))
            on_step(side + 1, 2)
        return {"spread": torch.stack(sides, dim=1)[None]}  # (1, orders, normal or attacked, kind)

    key = f"{orders}|{contexts}|{getattr(value, '__name__', value)}|{rng.seed}"
    spread = work.map("order-detector", ids, compute, chunk=1, key=key)["spread"]
    kinds: tuple[Spread, Spread] = ("interquartile", "deviation")
    of_kind = {kind: spread[..., number] for number, kind in enumerate(kinds)}
    halves = rng.at(ids).child("halves").bits((len(x),)).argsort().argsort() % 2 == 0
    chance = Stream(rng.seed).child("order-detector", "bootstrap")
    return OrderDetector(
        orders=torch.tensor(orders),
        ratios=torch.tensor(orders, dtype=torch.float64) / max(1, n - 1),
        auroc={kind: _detection(values, halves, chance) for kind, values in of_kind.items()},
        spread=of_kind,
        evaluations=cost_order_detector(n, samples=len(x), ratios=ratios, contexts=contexts),
    )


def _orders(n_players: int, ratios: Sequence[float]) -> tuple[int, ...]:
    if n_players < 2:
        raise ValueError(f"the attributions of {n_players} player have no spread; use a finer grid")
    if not ratios or min(ratios) < 0 or max(ratios) > 1:
        raise ValueError(f"ratios must lie between 0 and 1, got {list(ratios)}")
    return tuple(sorted({int((n_players - 1) * r + 1e-9) for r in ratios}))


def _group(n: int, order: int) -> int:
    return min(_TOGETHER, n - order)


def _cost_of_order(n: int, order: int, contexts: int) -> int:
    if order in (0, n - 1):
        return n + 1
    return contexts * (n + ceil(n / _group(n, order)))


def _attributions(game: Game, order: int, contexts: int, rng: Stream) -> Float[Tensor, " n"]:
    """Return phi^k of all players, each from as many contexts.

    A round lays the players out in a random circle and cuts it into groups; the k players that follow a group are a
    context for each of its members. Seen from one member they are k uniform others.
    """
    n = game.n_players
    if order in (0, n - 1):
        keep = torch.eye(n, dtype=torch.bool)
        keep = torch.cat([torch.zeros(1, n, dtype=torch.bool), keep])
        worth = game(~keep if order else keep)
        return worth[0] - worth[1:] if order else worth[1:] - worth[0]
    group, total = _group(n, order), torch.zeros(n, dtype=torch.float64)
    circles = rng.bits((1, contexts, n))[0].argsort(dim=1, stable=True)
    rows, members = [], []
    for circle in circles:
        twice = torch.cat([circle, circle])
        for start in range(0, n, group):
            end = min(start + group, n)
            base = torch.zeros(n, dtype=torch.bool)
            base[twice[end : end + order]] = True
            added = circle[start:end]
            keep = base.repeat(1 + len(added), 1)
            keep[torch.arange(1, 1 + len(added)), added] = True
            rows.append(keep)
            members.append(added)
    worth = torch.cat([game(part) for part in torch.split(torch.cat(rows), 4096)])
    for part, added in zip(torch.split(worth, [len(r) for r in rows]), members, strict=True):
        total[added] += part[1:] - part[0]
    return total / contexts


def auroc(negative: Float[Tensor, " a"], positive: Float[Tensor, " b"]) -> float:
    """Return the chance that a positive score is above a negative one, ties counted half."""
    above = (positive[:, None] > negative[None]).double().mean()
    return float(above + (positive[:, None] == negative[None]).double().mean() / 2)


def _detection(spread: Tensor, halves: Tensor, rng: Stream) -> Interval[Tensor]:
    """Return the AUROC per order; each half of the samples chooses the direction for the other."""

    def directions(rows: Tensor) -> list[bool]:
        return [auroc(rows[:, m, 0], rows[:, m, 1]) >= 0.5 for m in range(rows.shape[1])]

    turned = {True: directions(spread[~halves]), False: directions(spread[halves])}

    def area(rows: Tensor) -> Tensor:
        mine = rows[:, :, 2].bool()
        areas = []
        for half in (True, False):
            part = rows[mine[:, 0] == half]
            if len(part):
                each = [auroc(part[:, m, 0], part[:, m, 1]) for m in range(rows.shape[1])]
                areas.append([a if up else 1 - a for a, up in zip(each, turned[half], strict=True)])
        return torch.tensor(areas, dtype=torch.float64).mean(0)

    marked = torch.cat([spread, halves[:, None, None].expand(-1, spread.shape[1], 1).to(spread)], dim=2)
    return bootstrap(marked, rng=rng, statistic=area, resamples=200)


# -- recovery by an attack back towards the true class ---------------------------------------------------------------


@dataclass(frozen=True)
class Recovery:
    """How near an attack back towards the true class comes to the normal input.

    Args:
        near: share of samples for which the recovered input is at most as far from the normal one as the attacked was.
        restored: share of samples that the model gets right after recovery.
        attack_distance: `(N,)`, Euclidean length from the normal to the attacked input.
        recovered_distance: `(N,)`, Euclidean length from the normal to the recovered input.
        inputs: `(N, ...)`, the recovered inputs.
        evaluations: model evaluations spent.
    """

    near: Interval[float]
    restored: Interval[float]
    attack_distance: Float[Tensor, " samples"]
    recovered_distance: Float[Tensor, " samples"]
    inputs: Tensor
    evaluations: int


def recoverability(
    model: Model,
    x: Float[Tensor, "samples *input"],
    x_adv: Float[Tensor, "samples *input"],
    y: Int[Tensor, " samples"],
    attack: Attack,
    *,
    rng: Stream,
) -> Recovery:
    """Does an attack back towards the true class come near the normal input? It does where few ways lead there.

    The recovered input is what a targeted attack finds around the ATTACKED input. High: it is at most as far from the
    normal input as the attacked one was.

    Args:
        model: maps a batch to logits.
        x: normal inputs.
        x_adv: attacked inputs, one per normal one.
        y: true classes, the attack's targets.
        attack: such as the one that made `x_adv`; its ball is centered at the attacked input.
        rng: bound to the samples' ids, else row numbers are the ids.
    """
    check_attacked(x, x_adv, y, None, rng)
    found = attack(model, x_adv, y, rng=rng.child("recover"), target=y)
    inputs = found.inputs.detach().to(x.device)
    before, after = (_length(other - x) for other in (x_adv, inputs))
    near, right = int((after <= before).sum()), int(found.success.sum())
    return Recovery(wilson(near, len(x)), wilson(right, len(x)), before, after, inputs, found.evaluations)


def _length(change: Tensor) -> Float[Tensor, " samples"]:
    return change.flatten(1).double().square().sum(1).sqrt()


# -- reduced rank and frequencies ------------------------------------------------------------------------------------


def rank_reduced(
    x: Float[Tensor, "samples channels height width"], fraction: float
) -> Float[Tensor, "samples channels height width"]:
    """What is left of images of lower rank? Each channel truncated to its largest singular values.

    Args:
        x: images.
        fraction: kept share of the full rank, min(height, width); at least one value stays.

    Raises:
        ValueError: `fraction` is not in (0, 1].
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be above 0 and at most 1, got {fraction}")
    left, values, right = torch.linalg.svd(x.double(), full_matrices=False)
    kept = max(1, round(fraction * values.shape[-1]))
    whole: Tensor = (left[..., :kept] * values[..., None, :kept]) @ right[..., :kept, :]
    return whole.to(x.dtype)


def fourier_rings(x: Float[Tensor, "samples channels height width"]) -> Float[Tensor, "samples rings"]:
    """How much of an image lies at each frequency? The Euclidean norm of its Fourier transform on rings.

    Ring r holds the frequencies (h, w) with h^2 + w^2 nearest to r^2, all corners among them, so that the squares of
    all rings sum to the squares of all pixels.
    """
    magnitude = torch.fft.fft2(x.double(), norm="ortho").abs().square().sum(1)
    height, width = x.shape[2:]
    h, w = (torch.fft.fftfreq(size, d=1 / size, dtype=torch.float64) for size in (height, width))
    ring = (h[:, None].square() + w[None].square()).sqrt().round().long().flatten()
    total = torch.zeros(len(x), int(ring.max()) + 1, dtype=torch.float64)
    return total.index_add_(1, ring, magnitude.flatten(1).cpu()).sqrt()


def fisher_ratio(first: Float[Tensor, "a *rest"], second: Float[Tensor, "b *rest"]) -> Float[Tensor, "*rest"]:
    """How far apart are two groups? The variance between their means over the mean variance within them."""
    between = ((first.mean(0) - second.mean(0)) / 2).square()
    return between / ((first.var(0, correction=1) + second.var(0, correction=1)) / 2)


# -- dropped pixels --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CorrectionRate:
    """How often attacked inputs get their true class back once some pixels are gone.

    Args:
        rate: share of attacked inputs that the model then gets right.
        kept: share of the normal inputs that stay right under the same treatment; None if none were given.
        treatment: what was done to the inputs.
        evaluations: model evaluations spent.
    """

    rate: Interval[float]
    kept: Interval[float] | None
    treatment: str
    evaluations: int


def correction_rate(
    model: Model,
    x_adv: Float[Tensor, "samples channels height width"],
    y: Int[Tensor, " samples"],
    *,
    alpha: float | None = None,
    x: Float[Tensor, "samples channels height width"] | None = None,
    rng: Stream,
) -> CorrectionRate:
    """How often does an attacked image get its true class back once some pixels are gone?

    Dropping pixels deletes the interactions of the highest orders (`dropout_weights`), so an attack that acts through
    them is undone. Cutting out one square of the same kind of area deletes fewer of them.

    Args:
        model: maps a batch to logits.
        x_adv: attacked images, which the model gets wrong.
        y: true classes.
        alpha: share of the pixels to drop at random, filled from their surroundings; None cuts out one square of half
            the side instead.
        x: normal images, to see what the same treatment costs them.
        rng: which pixels go, bound to the samples' ids, else row numbers are the ids.

    Example:
        >>> import torch
        >>> images, y = torch.rand(4, 1, 8, 8), torch.zeros(4, dtype=torch.int64)
        >>> found = correction_rate(lambda x: x.mean((2, 3)).expand(-1, 2), images, y, alpha=0.2, rng=Stream(0))
        >>> found.treatment, found.evaluations
        ('20% of the pixels dropped', 4)
    """

    def treated(images: Tensor) -> Tensor:
        return cutout(images, rng=rng) if alpha is None else input_dropout(images, alpha, rng=rng)

    def right(images: Tensor) -> Interval[float]:
        return wilson(int((predicted(model, treated(images)) == y.cpu()).sum()), len(y))

    name = "one square of half the side cut out" if alpha is None else f"{alpha:.0%} of the pixels dropped"
    kept = None if x is None else right(x)
    return CorrectionRate(right(x_adv), kept, name, len(y) * (1 if x is None else 2))


def input_dropout(
    x: Float[Tensor, "samples channels height width"], alpha: float, *, rng: Stream
) -> Float[Tensor, "samples channels height width"]:
    """Return images without a share of their pixels, drawn at random; each shows the mean of kept pixels around it.

    The window around a dropped pixel grows until it holds a kept one. The share is rounded to whole pixels.

    Args:
        x: images.
        alpha: share of the pixels to drop, at least 0 and below 1.
        rng: which pixels go, bound to the samples' ids, else row numbers are the ids.

    Raises:
        ValueError: `alpha` is not in [0, 1).
    """
    if not 0 <= alpha < 1:
        raise ValueError(f"alpha must be at least 0 and below 1, got {alpha}")
    height, width = x.shape[2:]
    dropped = min(round(alpha * height * width), height * width - 1)
    ranks = rng.child("input-dropout").bits((len(x), height * width)).argsort(dim=1, stable=True).argsort(1)
    kept = (ranks >= dropped).view(len(x), 1, height, width).to(x.device)
    return torch.where(kept, x, _surroundings(x, kept))


def _surroundings(x: Tensor, kept: Bool[Tensor, "samples one height width"]) -> Tensor:
    """Return the mean of the kept pixels in the smallest window that holds one."""
    filled, known, reach = x, kept, 0
    weights, values = kept.to(x), torch.where(kept, x, 0.0)
    while not bool(known.all()):
        reach += 1
        side = 2 * reach + 1
        # The pooled means have one divisor, so it cancels in their quotient; padding adds to neither.
        count = F.avg_pool2d(weights, side, stride=1, padding=reach)
        mean = F.avg_pool2d(values, side, stride=1, padding=reach) / count.clamp_min(1e-12)
        found = ~known & (count > 0)
        filled, known = torch.where(found, mean, filled), known | found
    return filled


def cutout(
    x: Float[Tensor, "samples channels height width"], *, rng: Stream
) -> Float[Tensor, "samples channels height width"]:
    """Return images without one square of half their side, at a random place; it shows the mean of the rest.

    Args:
        x: images.
        rng: where the square lies, bound to the samples' ids, else row numbers are the ids.
    """
    height, width = x.shape[2:]
    tall, wide = max(1, height // 2), max(1, width // 2)
    stream = rng.child("cutout")
    top = stream.child("top").integers(height - tall + 1, (len(x), 1, 1, 1))
    left = stream.child("left").integers(width - wide + 1, (len(x), 1, 1, 1))
    rows, columns = torch.arange(height).view(1, 1, -1, 1), torch.arange(width).view(1, 1, 1, -1)
    gone = ((rows >= top) & (rows < top + tall) & (columns >= left) & (columns < left + wide)).to(x.device)
    rest = torch.where(gone, 0.0, x).sum((2, 3), keepdim=True) / (~gone).sum((2, 3), keepdim=True)
    return torch.where(gone, rest, x)


def dropout_weights(n_players: int, kept: int) -> tuple[float, Float[Tensor, " orders"]]:
    """What does dropping players at random take from a score? Weights of the first-order part and of each order.

    v(N) - f(k) = first * n (f(1) - f(0)) + sum over orders m of weight_m I^m, exactly, with k players kept: orders
    above k-2 are deleted, (n-1-m) being all they add, and each lower order loses the same n-k.

    Args:
        n_players: n, at least 2.
        kept: k, from 0 to n: floor((1 - alpha) n) when a share alpha is dropped.

    Returns:
        1 - k/n, and the weights `(n-1,)`.

    Example:
        >>> first, weights = dropout_weights(4, 2)
        >>> first, weights.tolist()
        (0.5, [2.0, 2.0, 1.0])
    """
    if n_players < 2 or not 0 <= kept <= n_players:
        raise ValueError(f"need two players and 0 to n of them kept, got n = {n_players} and {kept} kept")
    m = torch.arange(n_players - 1, dtype=torch.float64)
    weights = torch.where(m <= kept - 2, torch.full_like(m, n_players - kept), n_players - 1 - m)
    return 1 - kept / n_players, weights
