"""Flows kept smooth by a penalty, not by a budget: the original flow attack (Xiao et al. 2018, arXiv:1801.02612)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.core import Model, Padding, Perturbed, Stream, margin

from ._candidates import Candidates, attackable, borrowed
from ._spatial import Flow

NO_BOUND = 1e6
"""Pixels; a flow is kept small by its penalty alone."""

SMOOTH = 1e-8
"""Under the root of the penalty: without it, its slope at equal neighbors, as in the flow 0, is not defined."""

BETAS, TINY = (0.9, 0.999), 1e-8
"""Of Adam (Kingma and Ba 2015)."""

STALE, BETTER = 20, 1e-3
"""A sample is done when this many steps have not lowered its objective by this share."""


@final
@dataclass(frozen=True)
class FlowPenalty:
    """What is the smoothest flow that makes the model err? Minimize, for each sample by itself,

        max(z_y - max_{k != y} z_k, -kappa) + tau * sum_p sum_{q next to p} sqrt(|w_p - w_q|^2 + 1e-8)

    by Adam from the flow 0. Of the iterates that fool the model the one with the least objective is kept. There is no
    budget: every sample is fooled sooner or later, and how uneven its flow is tells how hard that was (`roughness`).

    Each sample has its own objective, its own Adam and its own end, so its result does not depend on its batch. A sum
    over the batch with one stopping rule, as elsewhere, would.

    Args:
        tau: weight of the penalty, for flows in pixels.
        kappa: the lead of the wrong answer, in logits, beyond which more lead is worth nothing.
        steps: most gradient steps; a sample whose objective no longer falls ends earlier.
        step_px: length of Adam's steps, in pixels.
        padding: what lies outside the picture.

    Raises:
        ValueError: a setting is out of range.
    """

    tau: float = field(default=0.05, kw_only=True)
    kappa: float = field(default=0.0, kw_only=True)
    steps: int = field(default=200, kw_only=True)
    step_px: float = field(default=0.02, kw_only=True)
    padding: Padding = field(default="zeros", kw_only=True)

    def __post_init__(self) -> None:
        for name in ("tau", "kappa"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(f"{name} must be a finite number of at least 0, got {getattr(self, name)!r}")
        if self.steps < 0:
            raise ValueError(f"steps must be at least 0, got {self.steps}")
        if not (math.isfinite(self.step_px) and self.step_px > 0):
            raise ValueError(f"step_px must be a positive number of pixels, got {self.step_px!r}")

    @property
    def space(self) -> Flow:
        """All flows: its limit is out of reach."""
        return Flow(NO_BOUND, padding=self.padding)

    @property
    def cost(self) -> int:
        """Most evaluations per sample, a gradient counted as two."""
        return 2 * self.steps + 3

    def __call__(
        self,
        model: Model,
        x: Tensor,
        y: Tensor,
        *,
        rng: Stream,
        start: Tensor | None = None,
        target: Tensor | None = None,
    ) -> Perturbed:
        """Attack a batch; arguments and errors as for `PGD`. The loss reported is minus the objective.

        Nothing here is random; `rng` holds the samples' ids.
        """

        def lead(z: Float[Tensor, "b k"], aim: Tensor) -> Float[Tensor, " b"]:
            if target is None:
                return -margin(z, aim).clamp(min=-self.kappa)
            return -margin(z, aim).clamp(max=self.kappa)

        with borrowed(model):
            x, y = attackable(x, y)
            flow = self.space.zeros(x)
            if start is not None:
                flow = self.space.project(x, start.detach().to(flow))
            found = Candidates(model, self.space, lead, x, y, rng, target=target, penalty=self._penalty)
            self._descend(found, flow)
            if start is not None:
                found.try_inputs()
            return found.result()

    def _penalty(self, flow: Tensor) -> Float[Tensor, " b"]:
        return self.tau * roughness(flow)

    def _descend(self, found: Candidates, flow: Tensor) -> None:
        """Offer the iterates of Adam; samples whose objective stays where it is leave."""
        mean, square = torch.zeros_like(flow), torch.zeros_like(flow)
        mark = flow.new_full((len(flow),), -torch.inf)
        since = torch.zeros(len(flow), dtype=torch.int64, device=flow.device)
        for step in range(1, self.steps + 1):
            grad = found.slope(flow, trace=True)
            risen = found.best_loss > mark + BETTER * found.best_loss.abs()
            mark, since = torch.where(risen, found.best_loss, mark), torch.where(risen, 0, since + 1)
            mean = torch.lerp(grad, mean, BETAS[0])
            square = torch.lerp(grad.square(), square, BETAS[1])
            size = self.step_px * math.sqrt(1 - BETAS[1] ** step) / (1 - BETAS[0] ** step)
            flow = flow + size * mean / (square.sqrt() + TINY)
            flow, mean, square, mark, since = found.narrow(since < STALE, flow, mean, square, mark, since)
            if not len(found):
                return
        found.offer(flow, trace=True)


def roughness(flow: Float[Tensor, "b 2 h w"]) -> Float[Tensor, " b"]:
    """How unlike its neighbors' is each pixel's displacement? Sum of |w_p - w_q| over pixels and their four neighbors.

    Args:
        flow: in pixels; each pair of neighbors counts twice, once from either side.
    """
    down, right = flow.diff(dim=2), flow.diff(dim=3)
    pairs = [(part.square().sum(1) + SMOOTH).sqrt().flatten(1).sum(1) for part in (down, right)]
    return 2 * (pairs[0] + pairs[1])
