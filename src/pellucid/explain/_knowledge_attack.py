"""What an attack does to knowledge points: where samples and regions move, step by step (arXiv:2111.03505)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MappingProxyType

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pellucid.attacks import cross_entropy
from pellucid.core import DataError, OnStep, Space, Stream, device_of, evaluating, silent

from ._knowledge import KnowledgePoints, LayerKnowledge, Watcher
from ._knowledge_regions import RegionPoints, region_points

MOVES = MappingProxyType(
    {
        0: "neither",
        1: "turned at full length",
        2: "turned through zero",
        3: "came out of nothing",
        4: "faded",
    }
)
"""What an attack does to a region, by number."""
_CLOSE, _LONG, _KEPT, _SHORT, _NOTHING, _SURE = 0.9, 1.0, 1.2, 1.0, 0.5, 0.5


@dataclass(frozen=True)
class LayerUnderAttack:
    """How one layer's regions moved.

    Args:
        name: of the layer.
        vectors: h `(T + 1, N, H, W, dim)` along the attack, in units of the mean length without it.
        before, after: knowledge points without the attack and at its end; reliable still means the true class.
        moves: `(N, H, W)`, keys of `MOVES`.
    """

    name: str
    vectors: Float[Tensor, "t n h w e"]
    before: RegionPoints
    after: RegionPoints
    moves: Int[Tensor, "n h w"]

    @property
    def orientation(self) -> float:
        """Mean of 1 - cos between each region after and before: how far directions turned."""
        return float((1 - F.cosine_similarity(self.vectors[-1], self.vectors[0], dim=-1)).mean())

    @property
    def strength(self) -> float:
        """Mean absolute change of the length of a region's vector."""
        return float((self.vectors[-1].norm(dim=-1) - self.vectors[0].norm(dim=-1)).abs().mean())

    @property
    def new_share(self) -> float:
        """Share of the knowledge points after the attack that were none before it; NaN without any."""
        after = self.after.mask
        return float((after & ~self.before.mask).sum()) / int(after.sum()) if bool(after.any()) else math.nan


@dataclass(frozen=True)
class KnowledgeUnderAttack:
    """How samples and regions moved.

    Args:
        samples: g `(T + 1, N, dim)` along the attack.
        answers: the network's answers `(T + 1, N)`.
        fooled: which samples were answered rightly before and wrongly at the end.
        layers: one per layer.
        evaluations: model evaluations spent.
    """

    samples: Float[Tensor, "t n e"]
    answers: Int[Tensor, "t n"]
    fooled: Bool[Tensor, " n"]
    layers: tuple[LayerUnderAttack, ...]
    evaluations: int


def knowledge_under_attack(
    model: nn.Module,
    x: Tensor,
    y: Int[Tensor, " n"],
    found: KnowledgePoints,
    space: Space,
    *,
    steps: int = 10,
    batch_size: int = 256,
    rng: Stream | None = None,
    on_step: OnStep = silent,
) -> KnowledgeUnderAttack:
    """What does an attack do to the knowledge points of a network?

    Gradient ascent on the cross-entropy from the unchanged inputs, in steps of 2.5 / steps of the budget; samples and
    regions of each iterate are placed where `found` puts them. 3 steps + 1 evaluations per sample, and ten in all.

    Args:
        model: the network that `found` is about; it is run in eval mode and given back as it was.
        x: inputs `(N, ...)` inside the space's bounds.
        y: true classes.
        found: from `knowledge_points`, of these or other samples.
        space: what the attack may change, such as `attacks.Linf(8 / 255)`.
        steps: of the attack.
        batch_size: samples per forward.
        rng: where the attack starts inside the space; at the unchanged inputs if not given.
        on_step: progress in steps.

    Raises:
        DataError: lengths differ.

    Example:
        >>> from pellucid.attacks import Linf
        >>> from pellucid.explain import knowledge_points
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
        >>> x, y = Stream(0).uniform((12, 1, 8, 8)), torch.arange(12) % 3
        >>> found = knowledge_points(net, x, y, rng=Stream(0))
        >>> knowledge_under_attack(net, x, y, found, Linf(0.1), steps=3).samples.shape
        torch.Size([4, 12, 3])
    """
    if len(x) != len(y) or not len(x):
        raise DataError(f"give one label for each sample, got {len(x)} samples and {len(y)} labels")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    names, device = [layer.name for layer in found.layers], device_of(model)
    x, y = x.to(device), y.to(device)
    params = space.zeros(x) if rng is None else space.sample(x, rng)
    watch = Watcher(model, x, names, found.settings)
    places, answers = [], []
    paths: dict[str, list[Tensor]] = {name: [] for name in names}
    for step in range(steps + 1):
        inputs = space.render(x, params) if step or rng is not None else x
        seen = watch(inputs, batch_size=batch_size)
        places.append(found.samples.transform(seen.samples).cpu())
        answers.append(seen.logits.argmax(1).cpu())
        for layer in found.layers:
            paths[layer.name].append(layer.embedding.transform(seen.maps[layer.name]).cpu())
        if step < steps:
            slope = torch.cat([_slope(model, space, x[i], params[i], y[i]) for i in _batches(len(x), batch_size)])
            params = space.project(x, params + space.ascent(x, slope, 2.5 / steps))
        on_step(step, steps)
    said = torch.stack(answers)
    parts = []
    for layer in found.layers:
        vectors = torch.stack(paths[layer.name])
        ends = [region_points(layer.embedding, h, y.cpu(), tau=found.settings.tau) for h in (vectors[0], vectors[-1])]
        moves = _moves(vectors, layer, said[0], said[-1])
        parts.append(LayerUnderAttack(layer.name, vectors, ends[0], ends[1], moves))
    truth = y.cpu()
    fooled = (said[0] == truth) & (said[-1] != truth)
    return KnowledgeUnderAttack(torch.stack(places), said, fooled, tuple(parts), watch.evaluations + 2 * steps * len(x))


def _moves(vectors: Tensor, layer: LayerKnowledge, first: Tensor, last: Tensor) -> Int[Tensor, "n h w"]:
    """Sort regions by how they moved, a being the answer before and b the answer at the end."""
    directions = layer.embedding.samples_.class_directions_.cpu()
    length = vectors.norm(dim=-1)
    along = F.cosine_similarity(vectors[0], directions[first][:, None, None], dim=-1)
    q = layer.embedding.posterior(vectors[-1].to(layer.embedding.projection_)).cpu()
    b = q.gather(-1, last[:, None, None, None].expand(*q.shape[:3], 1))[..., 0]
    shortest = length.amin(0)
    sure = (b > _SURE) & (first != last)[:, None, None]
    strong = (along > _CLOSE) & (length[0] > _LONG)
    found = torch.zeros(vectors.shape[1:4], dtype=torch.int64)
    # From the weakest claim to the strongest: a later line wins.
    found[strong & (length[-1] < _SHORT)] = 4
    found[(length[0] < _NOTHING) & sure] = 3
    found[strong & sure & (shortest < _SHORT)] = 2
    found[strong & sure & (shortest > _KEPT)] = 1
    return found


def _slope(model: nn.Module, space: Space, x: Tensor, params: Tensor, y: Tensor) -> Tensor:
    with evaluating(model), torch.enable_grad():
        params = params.detach().requires_grad_()
        loss = cross_entropy(model(space.render(x, params)), y).sum()
        (slope,) = torch.autograd.grad(loss, params)
    return slope.detach()


def _batches(n: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, n, size)]
