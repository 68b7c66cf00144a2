"""Optimizers and learning-rate schedules, as a recipe names them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Annotated

import msgspec
import torch
from msgspec import Meta
from torch import nn

Rate = Annotated[float, Meta(gt=0)]
Share = Annotated[float, Meta(ge=0, le=1)]


class Adam(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="adam"):
    """Adam with decoupled weight decay (AdamW)."""

    lr: Rate = 1e-3
    weight_decay: Annotated[float, Meta(ge=0)] = 0.0

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Return the optimizer of these parameters."""
        return torch.optim.AdamW(parameters, lr=self.lr, weight_decay=self.weight_decay)


class SGD(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="sgd"):
    """Stochastic gradient descent with momentum, Nesterov's unless `nesterov` is false."""

    lr: Rate = 0.1
    momentum: Annotated[float, Meta(ge=0, lt=1)] = 0.9
    nesterov: bool = True
    weight_decay: Annotated[float, Meta(ge=0)] = 0.0

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Return the optimizer of these parameters."""
        return torch.optim.SGD(
            parameters,
            lr=self.lr,
            momentum=self.momentum,
            nesterov=self.nesterov and self.momentum > 0,
            weight_decay=self.weight_decay,
        )


# A schedule is a pure function of how far training is, so a checkpoint needs to keep no state of it.


class Constant(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="constant"):
    """The optimizer's own rate throughout."""

    def factor(self, progress: float) -> float:
        """Return what the rate is multiplied by when `progress` (0 to 1) of the steps are done."""
        return 1.0


class Exponential(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="exponential"
):
    """Down from the optimizer's rate to `final` of it, by the same factor in every step."""

    final: Annotated[float, Meta(gt=0, le=1)] = 0.1

    def factor(self, progress: float) -> float:
        """Return what the rate is multiplied by when `progress` (0 to 1) of the steps are done."""
        return float(self.final**progress)


class OneCycle(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="one-cycle"
):
    """Linearly up to the optimizer's rate at `peak` of the steps, then linearly down to `final` of it."""

    peak: Share = 0.3
    final: Share = 0.0

    def factor(self, progress: float) -> float:
        """Return what the rate is multiplied by when `progress` (0 to 1) of the steps are done."""
        if progress < self.peak:
            return progress / self.peak
        left = 1.0 if self.peak >= 1 else (1 - progress) / (1 - self.peak)
        return self.final + (1 - self.final) * left


class Steps(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="steps"):
    """Linearly up during `warmup` of the steps, then at the optimizer's rate, times `drop` after each of `at`.

    Args:
        at: shares of the training after which the rate falls.
        drop: what it is multiplied by each time.
        warmup: share of the training in which it rises.
    """

    at: tuple[Share, ...] = (0.8, 0.9)
    drop: Annotated[float, Meta(gt=0, le=1)] = 0.1
    warmup: Annotated[float, Meta(ge=0, lt=1)] = 0.0

    def factor(self, progress: float) -> float:
        """Return what the rate is multiplied by when `progress` (0 to 1) of the steps are done."""
        if progress < self.warmup:
            return progress / self.warmup
        return float(self.drop ** sum(progress > edge for edge in self.at))


class Cosine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="cosine"):
    """Linearly up during `warmup` of the steps, then down to zero along half a cosine."""

    warmup: Annotated[float, Meta(ge=0, lt=1)] = 0.05

    def factor(self, progress: float) -> float:
        """Return what the rate is multiplied by when `progress` (0 to 1) of the steps are done."""
        if progress < self.warmup:
            return progress / self.warmup
        return 0.5 * (1 + math.cos(math.pi * (progress - self.warmup) / (1 - self.warmup)))


OPTIMIZERS: Mapping[str, type[Adam] | type[SGD]] = MappingProxyType({"adam": Adam, "sgd": SGD})
SCHEDULES: Mapping[str, type[Constant] | type[Cosine] | type[Exponential] | type[OneCycle] | type[Steps]] = (
    MappingProxyType(
        {"constant": Constant, "cosine": Cosine, "exponential": Exponential, "one-cycle": OneCycle, "steps": Steps}
    )
)
