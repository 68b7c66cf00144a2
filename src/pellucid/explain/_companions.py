"""What an order spectrum means for a model: does it need the layout of its input, and does it generalize?

Both tests go with the order loss (arXiv:2111.06236): networks of high orders gain more from a kept layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from pellucid.core import (
    ALONE,
    Interval,
    Masker,
    Model,
    OnStep,
    Stream,
    Work,
    bootstrap,
    device_of,
    evaluating,
    silent,
)
from pellucid.games import ModelGame, logit

from ._samples import check_samples

SHARES = tuple(k / 10 for k in range(10))
CHUNK = 16


@dataclass(frozen=True, eq=False)
class StructureTest:
    """Accuracy while cells are removed, at random or from the edge inwards.

    Args:
        shares: `(S,)`, share of the cells that is removed.
        random: accuracy `(S,)` when cells are removed in random order, with 95 % bootstrap intervals over samples.
        layout: the same when peripheral cells are removed first, so that the middle keeps its layout.
        area: the area between the two curves over the shares, layout minus random: how much a kept layout is worth.
        per_sample: `(N,)`, the area of each sample; their mean is the area.
        evaluations: model evaluations spent.
    """

    shares: Float[Tensor, " shares"]
    random: Interval[Tensor]
    layout: Interval[Tensor]
    area: Interval[Tensor]
    per_sample: Float[Tensor, " samples"]
    evaluations: int


@dataclass(frozen=True)
class GapTest:
    """Mean cross entropy on training and test samples, in nats, with 95 % bootstrap intervals.

    Args:
        train, test: the two losses.
        gap: test minus train.
        evaluations: model evaluations spent.
    """

    train: Interval[Tensor]
    test: Interval[Tensor]
    gap: Interval[Tensor]
    evaluations: int


def structure_test(
    model: Model,
    x: Float[Tensor, "samples *input"],
    y: Int[Tensor, " samples"],
    masker: Masker,
    *,
    shares: Sequence[float] = SHARES,
    rng: Stream,
    on_step: OnStep = silent,
    work: Work = ALONE,
) -> StructureTest:
    """How much does the model gain when the layout of what is left is kept?

    Accuracy with a share of the cells removed at random, against the same share removed from the edge inwards (by
    distance from the middle, ties row by row); the score is the area between the two curves.

    Args:
        model: maps a batch to logits.
        x: images.
        y: labels.
        masker: cells of a grid, such as `Patches(8, background=x)`.
        shares: shares of the cells that are removed, increasing, at least two.
        rng: bound to the samples' ids, else row numbers are the ids; each sample has one random order.
        on_step: progress in evaluations.
        work: keeps and shares out samples over processes.

    Raises:
        ValueError: the players form no grid, or the shares do not increase within [0, 1].
    """
    ids = check_samples(x, y, rng)
    if len(shares) < 2 or list(shares) != sorted(set(shares)) or shares[0] < 0 or shares[-1] > 1:
        raise ValueError(f"shares must increase from at least 0 to at most 1, got {list(shares)}")
    grid, n = masker(x[0]).grid, masker(x[0]).count
    if grid is None:
        raise ValueError("the structure test needs cells on a grid; use Patches")
    cells = torch.arange(n)
    row, column = cells // grid[1] - (grid[0] - 1) / 2, cells % grid[1] - (grid[1] - 1) / 2
    edge_first = (-(row / grid[0]).square() - (column / grid[1]).square()).argsort(stable=True).argsort()
    counts = torch.tensor([int(share * n + 1e-9) for share in shares])
    each = 2 * len(shares)

    def compute(rows: Tensor, tell: OnStep) -> dict[str, Tensor]:
        found = []
        for place, k in enumerate(rows.tolist()):
            random = rng.at(ids[k : k + 1]).child("structure").bits((1, n))[0].argsort(dim=-1, stable=True).argsort()
            ranks = torch.stack([random, edge_first])
            keep = (ranks[:, None, :] >= counts[None, :, None]).flatten(0, 1)
            game = ModelGame(model, x[k], masker, logit(0))
            with evaluating(model), torch.no_grad():
                z = torch.cat([model(game.masked(part)).cpu() for part in torch.split(keep, game.batch_size)])
            answer = z.argmax(1) if z.shape[1] > 1 else (z[:, 0] > 0).long()
            found.append((answer == int(y[k])).double().view(2, -1))
            tell(each * (place + 1), each * len(rows))
            on_step(each * (k + 1), each * len(x))
        return {"right": torch.stack(found)}

    key = f"{n}|{grid}|{tuple(shares)}|{rng.seed}"
    right = work.map("structure", ids, compute, chunk=CHUNK, key=key)["right"]
    at = torch.tensor(shares, dtype=torch.float64)

    def area(rows: Tensor) -> Tensor:
        accuracy = rows.mean(0)
        return torch.trapezoid(accuracy[1] - accuracy[0], at)

    chance = Stream(rng.seed).child("structure", "bootstrap")
    random_curve, layout_curve = (bootstrap(right[:, which], rng=chance) for which in (0, 1))
    areas = torch.trapezoid(right[:, 1] - right[:, 0], at)
    whole = bootstrap(right, rng=chance, statistic=area)
    return StructureTest(at, random_curve, layout_curve, whole, areas, each * len(x))


def gap_test(
    model: Model,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    *,
    rng: Stream,
    batch_size: int = 256,
) -> GapTest:
    """How much larger is the loss on test samples than on training samples?

    Args:
        model: maps a batch to logits.
        train, test: inputs and labels of each.
        rng: draws the bootstrap.
        batch_size: samples per forward pass.
    """
    losses = [_losses(model, *part, batch_size) for part in (train, test)]
    chance = rng.child("gap")
    low, high = (bootstrap(values, rng=chance.child(k)) for k, values in enumerate(losses))
    both = torch.cat(losses)
    shown = torch.cat([torch.zeros(len(losses[0])), torch.ones(len(losses[1]))]).double()

    def gap(rows: Tensor) -> Tensor:
        loss, held = rows.T
        difference: Tensor = (loss * held).sum() / held.sum() - (loss * (1 - held)).sum() / (1 - held).sum()
        return difference

    rows = torch.stack([both, shown], dim=1)
    return GapTest(low, high, bootstrap(rows, rng=chance.child("difference"), statistic=gap), len(both))


def _losses(model: Model, x: Tensor, y: Tensor, batch_size: int) -> Tensor:
    device, parts = device_of(model), []
    with evaluating(model), torch.no_grad():
        for inputs, labels in zip(torch.split(x, batch_size), torch.split(y, batch_size), strict=True):
            z = model(inputs.to(device)).double().cpu()
            z = torch.cat([torch.zeros_like(z), z], dim=1) if z.shape[1] == 1 else z
            parts.append(F.cross_entropy(z, labels.cpu(), reduction="none"))
    return torch.cat(parts)
