"""The order loss: encourage or suppress a range of interaction orders (arXiv:2111.06236).

A random permutation of a sample's players gives nested coalitions S1 in S2 of k1 and k2 players. Their difference
du = v(S2) - (k2/k1) v(S1) + (k2/k1 - 1) v(empty), with the logits as v, holds the orders that `games.order_weights`
says. Encouraged, du must tell the classes apart; penalized, it must not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Literal

import msgspec
import torch
from jaxtyping import Float, Int
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from pellucid.core import Batch, Dataset, Players, Stream
from pellucid.games import Features, Patches, nested_sizes

Share = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=1)]
Mode = Literal["encourage", "penalize"]
_TRACKS = "track_running_stats"


class OrderRange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A range of interaction orders and what training does to it.

    Args:
        low, high: the range, as shares of the players.
        mode: "penalize": du shall say nothing about the class; "encourage": it shall tell the class.
    """

    low: Share
    high: Share
    mode: Mode = "penalize"

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"an order range needs low < high, got low={self.low:g}, high={self.high:g}")

    @property
    def term(self) -> str:
        """The name of the term in logs and weightings, such as `order_penalize_0.7_1.0`."""
        return f"order_{self.mode}_{float(self.low)}_{float(self.high)}"

    def loss(self, du: Float[Tensor, "b k"], labels: Int[Tensor, " b"]) -> Tensor:
        """Return the cross entropy of softmax(du), or minus its entropy, which lies in [-log k, 0]; mean, in nats."""
        if self.mode == "encourage":
            return F.cross_entropy(du, labels)
        logs = du.log_softmax(1)
        return (logs.exp() * logs).sum(1).mean()


class InteractionOrder(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="interaction-order"
):
    """Cross entropy at the samples, the term `clean`, with one more term per order range.

    The masked inputs go through the network as it is being trained: dropout stays on, batch normalization uses the
    statistics of the masked batch, and its running statistics stay those of the clean pass.

    Args:
        low, high, mode: the range, see `OrderRange`. A range that starts at 0 starts at nobody: what players add
            alone is then in it too, see `games.nested_sizes`. A low end above 0 must hold one player at least.
        grid: cells per side of an image, or (rows, columns); the columns of a table are players each by itself.
        fill: what an absent cell shows: "mean" (per channel, over the training data; zero after a normalization by
            the same mean), "zero" (in the model's input space), or numbers, one per channel.
        samples: permutations per sample and step, over which du is averaged.
        empty_term: with (k2/k1 - 1) v(empty), which cancels single players exactly; False is what the authors' code
            computes.
        also: further ranges, each with its own term; weights come from the recipe's weighting.

    Example:
        >>> InteractionOrder(0.7, 1.0, "penalize", grid=8).ranges[0].term
        'order_penalize_0.7_1.0'
    """

    low: Share
    high: Share
    mode: Mode = "penalize"
    grid: int | tuple[int, int] = 16  # bounds on both branches of the union crash msgspec 0.22
    fill: Literal["mean", "zero"] | tuple[float, ...] = "mean"
    samples: Count = 1
    empty_term: bool = True
    also: tuple[OrderRange, ...] = ()

    def __post_init__(self) -> None:
        names = [part.term for part in self.ranges]
        if len(set(names)) < len(names):
            raise ValueError(f"the order ranges must differ, got {', '.join(names)}")

    @property
    def ranges(self) -> tuple[OrderRange, ...]:
        """All ranges, the objective's own first."""
        return (OrderRange(self.low, self.high, self.mode), *self.also)

    def fitted(self, data: Dataset) -> InteractionOrder:
        """Return the objective with the fill that "mean" stands for on this training data.

        Raises:
            ValueError: grid or ranges do not fit the inputs.
        """
        inputs = data.inputs
        fill = self.fill
        if fill == "mean":
            axes = (0, 2, 3) if inputs.ndim == 4 else (0,)
            count = inputs.numel() // inputs.shape[1]
            scale = 255 if inputs.dtype == torch.uint8 else 1
            total = inputs.sum(axes, dtype=torch.float64) / scale
            fill = tuple(float(value) for value in total / count)
        fit = msgspec.structs.replace(self, fill=fill)
        n = fit.players(inputs[0].float()).count
        for part in fit.ranges:
            if nested_sizes(n, part.low, part.high)[0] == 0 and part.low > 0:
                raise ValueError(
                    f"low={part.low:g} of {n} parts is less than one part; give low=0, which also trains what parts "
                    "add alone, or at least one part, or use a finer grid"
                )
        return fit

    def players(self, x: Tensor) -> Players:
        """Return the players of one input."""
        if self.fill == "mean":
            raise ValueError('fill="mean" needs the training data: call fitted(dataset) first, or give one number each')
        if x.ndim not in (1, 3):
            raise ValueError(f"orders need images (C, H, W) or rows of a table (D,), got shape {tuple(x.shape)}")
        fill = torch.zeros(1) if isinstance(self.fill, str) else torch.tensor(self.fill)
        if x.ndim == 1:
            return Features(fill=fill)(x)
        return Patches(self.grid, fill=fill.view(-1, 1, 1))(x)

    def __call__(self, model: nn.Module, batch: Batch, *, rng: Stream) -> Mapping[str, Tensor]:
        """Return the terms of one batch; `rng` is bound to the batch's ids."""
        x, labels = batch.inputs, batch.labels
        clean = _logits(model, x)
        players = self.players(x[0])
        sizes = [nested_sizes(players.count, part.low, part.high) for part in self.ranges]
        worth = self._worth(model, x, clean, players, {k for pair in sizes for k in pair}, rng.child("permutations"))
        terms = {"clean": F.cross_entropy(clean, labels), "accuracy": _accuracy(clean, labels)}
        for part, (k1, k2) in zip(self.ranges, sizes, strict=True):
            ratio = k2 / k1 if k1 else 0.0
            du = worth[k2] - ratio * worth[k1] if k1 else worth[k2]
            if self.empty_term or k1 == 0:
                du = du + (ratio - 1) * worth[0]
            du = du.view(self.samples, -1, du.shape[1]).mean(0)
            terms[part.term] = part.loss(du, labels)
            name = part.term.replace("order", "order_accuracy", 1) if self.also else "order_accuracy"
            terms[name] = _accuracy(du, labels)
        return terms

    def _worth(
        self, model: nn.Module, x: Tensor, clean: Tensor, players: Players, sizes: set[int], rng: Stream
    ) -> dict[int, Tensor]:
        """Return logits by coalition size: `(samples * b, k)`, permutation by permutation, and `(1, k)` of size 0."""
        rounds, n = self.samples, players.count
        ranks = rng.bits((len(x), rounds, n), device=x.device).argsort(dim=2, stable=True).argsort(dim=2)
        ranks = ranks.transpose(0, 1).flatten(0, 1)
        owner, baseline = players.owner.to(x.device), players.baseline.to(x)
        copies = x.repeat(rounds, *[1] * (x.ndim - 1))
        shape = (len(ranks), *[1] * (x.ndim - 1 - owner.ndim), *owner.shape)
        masked = {k: torch.where((ranks < k)[:, owner].view(shape), copies, baseline) for k in sorted(sizes - {0, n})}
        if 0 in sizes or self.empty_term:
            masked[0] = baseline.expand_as(x[0])[None]
        with _frozen_statistics(model) as shared:
            worth = _apart(model, masked, x) if shared else _together(model, masked)
        # With all players present the input is the sample itself: its logits are there already.
        return worth | {n: clean.repeat(rounds, 1)}


def _logits(model: nn.Module, x: Tensor) -> Tensor:
    """Return logits of at least two classes in full precision; one logit z is read as (0, z)."""
    z: Tensor = model(x)
    z = z if z.dtype == torch.float64 else z.float()
    return torch.cat([torch.zeros_like(z), z], dim=1) if z.shape[1] == 1 else z


def _accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.detach().argmax(1) == labels).float().mean()


def _together(model: nn.Module, parts: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """Return the logits of each part, from one forward pass."""
    if not parts:
        return {}
    z = _logits(model, torch.cat(list(parts.values())))
    return dict(zip(parts, torch.split(z, [len(part) for part in parts.values()]), strict=True))


def _apart(model: nn.Module, parts: Mapping[int, Tensor], x: Tensor) -> dict[int, Tensor]:
    """Return the logits of each part from a forward pass of its own, so that they do not share batch statistics.

    The empty coalition is one input without statistics: it rides along with the smallest coalitions, or with the
    samples themselves.
    """
    inner = {k: part for k, part in parts.items() if k}
    found: dict[int, Tensor] = {}
    for place, (k, part) in enumerate((inner or ({-1: x} if parts else {})).items()):
        company = {0: parts[0]} if place == 0 and 0 in parts else {}
        found |= _together(model, {k: part} | company)
    return found


@contextmanager
def _frozen_statistics(model: nn.Module) -> Iterator[bool]:
    """Keep running statistics as they are inside the block; yields whether any layer mixes the samples of a batch."""
    # A training layer that does not track uses the batch's statistics all the same, and writes nothing; instance
    # normalization writes to its buffers even then, as long as it has them.
    layers = [m for m in model.modules() if m.training and getattr(m, _TRACKS, None) is True]
    kept = [(m, m.running_mean, m.running_var) for m in layers if isinstance(m, nn.modules.instancenorm._InstanceNorm)]
    mixes = any(m.training and isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
    try:
        for layer in layers:
            setattr(layer, _TRACKS, False)
        for instance, _, _ in kept:
            instance.running_mean = instance.running_var = None
        yield mixes
    finally:
        for layer in layers:
            setattr(layer, _TRACKS, True)
        for instance, mean, variance in kept:
            instance.running_mean, instance.running_var = mean, variance
