"""Which groups of pixels of a perturbation work together, where do they lie, and what do they do? (arXiv:2108.06895)

Blocks of a few pixels are joined into components level by level, strongest interaction first and without overlap. An
interaction is that of `coalition_interactions`; which candidates are worth asking is found by gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import ceil
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pellucid.core import Model, ModelError, OnStep, Stream, device_of, evaluating, silent
from pellucid.games import ModelGame

from ._attack_interactions import Definition, LogitGap, coalition_interactions, perturbation_game

Merge = Literal["greedy", "linkage"]

_PATCH = 7
"""Blocks per side of the patches in which the first level is searched: 8 x 8 patches at 224 pixels."""

_LEAST_SHARE = 12
"""A component has at most a twelfth of all blocks."""

_TOP_SQUARES, _TOP_GROUPS, _HEADED = 0.2, 0.5, 0.9
_NEAREST = 3
_ELEMENTS_PER_BATCH = 1 << 18


@dataclass(frozen=True, eq=False)
class Component:
    """A group of pixels of a perturbation that work together.

    Args:
        mask: `(H, W)` bool, its pixels.
        blocks: the blocks it joins.
        interaction: how much more the group is worth as one than its blocks one by one, in logits.
        stderr: standard error of the interaction over contexts.
        foreground: share of its pixels on the object.
        drop_true: how much the group lowers the logit of the true class: z_y without the group minus z_y.
        gain_target: how much it raises the logit of the target: z_t minus z_t without the group.
    """

    mask: Bool[Tensor, "h w"]
    blocks: tuple[int, ...]
    interaction: float
    stderr: float
    foreground: float
    drop_true: float
    gain_target: float

    @property
    def in_foreground(self) -> bool:
        """Whether more than half of its pixels lie on the object."""
        return self.foreground > 0.5

    @property
    def lowers_true(self) -> bool:
        """Whether it changes the true class's logit more than the target's."""
        return abs(self.drop_true) > abs(self.gain_target)


@dataclass(frozen=True, eq=False)
class PerturbationComponents:
    """The components of one perturbation, strongest interaction first.

    Args:
        components: disjoint groups.
        all_removed: what removing all of them does: `(drop_true, gain_target)`.
        object_mask: `(H, W)` bool, the pixels counted as the object.
        object_source: where that mask is from: "given", or "border contrast" for the saliency-based default.
        grid: rows and columns of blocks.
        definition: which interaction was measured.
        merge: how blocks were joined.
        evaluations: model evaluations spent, a gradient counted as two.
    """

    components: tuple[Component, ...]
    all_removed: tuple[float, float]
    object_mask: Bool[Tensor, "h w"]
    object_source: Literal["given", "border contrast"]
    grid: tuple[int, int]
    definition: Definition
    merge: Merge
    evaluations: int

    @property
    def foreground_share(self) -> float:
        """Share of components that lie on the object with more than half of their pixels; NaN without components."""
        return _share([c.in_foreground for c in self.components])

    @property
    def lowering_share(self) -> float:
        """Share of components that mainly lower the true class; NaN without components."""
        return _share([c.lowers_true for c in self.components])

    def normalized(self) -> tuple[tuple[float, float], ...]:
        """Return `(drop_true, gain_target)` of each component as parts of what removing all of them does."""
        drop, gain = (whole or float("nan") for whole in self.all_removed)
        return tuple((c.drop_true / drop, c.gain_target / gain) for c in self.components)

    def owner(self) -> Int[Tensor, "h w"]:
        """Return the component of each pixel, -1 for none."""
        owner = torch.full(self.object_mask.shape, -1, dtype=torch.int64)
        for k, component in enumerate(self.components):
            owner[component.mask] = k
        return owner


def _share(marks: Sequence[bool]) -> float:
    return sum(marks) / len(marks) if marks else float("nan")


def border_contrast(x: Float[Tensor, "c h w"]) -> Bool[Tensor, "h w"]:
    """Where is the object, if nobody says? The pixels whose colors differ most from those of the image's border.

    A saliency of the image alone, so that it knows nothing of the model or the attack: the distance of each pixel's
    color from the mean color of the border, in standard deviations of the border, smoothed and cut in two by Otsu's
    threshold. It fails where the object touches much of the border or looks like it.

    Args:
        x: one image.
    """
    image = x.detach().double().cpu()
    _, height, width = image.shape
    rim = max(1, round(min(height, width) / 16))
    frame = torch.ones(height, width, dtype=torch.bool)
    frame[rim : height - rim, rim : width - rim] = False
    colors = image[:, frame]
    center, spread = colors.mean(1)[:, None, None], colors.std(1)[:, None, None]
    distance = ((image - center) / (spread + 1e-3 * float(image.std()) + 1e-12)).square().sum(0).sqrt()
    side = 2 * max(1, round(min(height, width) / 32)) + 1
    padded = torch.nn.functional.pad(distance[None, None], [side // 2] * 4, mode="replicate")
    smooth = torch.nn.functional.avg_pool2d(padded, side, stride=1)[0, 0]
    return smooth > _otsu(smooth.flatten())


def _otsu(values: Tensor) -> float:
    """Return the threshold that leaves the least variance within the two parts."""
    ordered = values.sort().values
    count = torch.arange(1, len(ordered), dtype=torch.float64)
    below, total = ordered.cumsum(0)[:-1], ordered.sum()
    left, right = below / count, (total - below) / (len(ordered) - count)
    between = count * (len(ordered) - count) * (left - right).square()
    return float(ordered[int(between.argmax())])


def block_size(height: int, width: int) -> int:
    """Return the side of a block in pixels that fits an image: 4 at 224 pixels, as in the paper, 2 at 32 and below."""
    return max(2, round(4 * min(height, width) / 224))


def perturbation_components(
    model: Model,
    x: Float[Tensor, "c h w"],
    delta: Float[Tensor, "c h w"],
    y: int,
    target: int,
    *,
    block: int | None = None,
    levels: Sequence[int] = (4, 16, 64),
    definition: Definition = "shapley",
    merge: Merge = "greedy",
    contexts: int = 16,
    mask: Bool[Tensor, "h w"] | None = None,
    rng: Stream,
    on_step: OnStep = silent,
) -> PerturbationComponents:
    """Which pixels of this perturbation work together, and to do what?

    The worth of a set of blocks is z_t - z_y of the image perturbed on them alone. 1. Gradients at random partial
    perturbations estimate the interactions of neighboring blocks, all pairs from one backward pass each. 2. In each
    patch of about 7 x 7 blocks the 2 x 2 squares that these put first are measured by `coalition_interactions`; the
    strongest are accepted without overlap. 3. From level to level four neighboring components become one, again the
    strongest first. Blocks that are not accepted at a level are dropped. "linkage", which is ours and fixes no sizes,
    instead joins neighboring groups by average linkage on the gradients' estimates while these are above average.

    Args:
        model: maps a batch of images to logits.
        x: one image.
        delta: its perturbation.
        y: the true class.
        target: the class that the attack pushes up, usually what the model answers to `x + delta`.
        block: side of a block in pixels; `block_size` if not given.
        levels: blocks per component, level by level, each four times the one before; levels above a twelfth of all
            blocks are left out, the first one never.
        definition: which interaction, see `coalition_interactions`.
        merge: how blocks are joined.
        contexts: random contexts per measured candidate, an even number.
        mask: the object's pixels; `border_contrast(x)` if not given, which is a guess.
        rng: where contexts come from; bound to at most one sample.
        on_step: progress in evaluations, of an estimated total.

    Returns:
        Disjoint components, strongest |interaction| first.

    Raises:
        ValueError: shapes or classes that do not fit, levels that are not 4, 16, 64, ..., or a perturbation of zeros.
        ModelError: the model gives no gradients.
    """
    _check(x, delta, y, target, levels, merge, mask)
    rng = (rng if rng.ids is not None else rng.at([0])).child("components")
    height, width = x.shape[1:]
    side = block_size(height, width) if block is None else block
    if not 1 <= side <= min(height, width) // 2:
        raise ValueError(f"block must be from 1 to half of the image's {min(height, width)} pixels, got {side}")
    grid = (ceil(height / side), ceil(width / side))
    game = perturbation_game(model, x, delta, LogitGap(target, y), grid=grid)
    asked = _Asked(game, definition, contexts, rng.child("contexts"), on_step)
    pairs = _pairs_by_gradient(game, delta, rng.child("gradients"), asked)
    find = _greedy if merge == "greedy" else _linked
    groups = find(grid, pairs, _fitting(levels, grid), asked)
    object_mask = border_contrast(x) if mask is None else mask.cpu()
    found, all_removed = _read(game, groups, asked, y, target, object_mask)
    on_step(asked.evaluations, asked.evaluations)
    source: Literal["given", "border contrast"] = "border contrast" if mask is None else "given"
    return PerturbationComponents(found, all_removed, object_mask, source, grid, definition, merge, asked.evaluations)


def _fitting(levels: Sequence[int], grid: tuple[int, int]) -> list[int]:
    fitting = [size for size in levels if size * _LEAST_SHARE <= grid[0] * grid[1]]
    return fitting or list(levels[:1])


def cost_perturbation_components(
    height: int,
    width: int,
    *,
    block: int | None = None,
    levels: Sequence[int] = (4, 16, 64),
    contexts: int = 16,
) -> int:
    """Return the most evaluations that `perturbation_components` spends on one image with the "shapley" definition.

    Args:
        height, width: of the image in pixels.
        block, levels, contexts: see `perturbation_components`; its `merge="greedy"`.
    """
    side = block_size(height, width) if block is None else block
    grid = (ceil(height / side), ceil(width / side))
    total, groups = 2 * _SCREENED, 0
    for squares in _patches(grid):
        top = ceil(_TOP_SQUARES * len(squares))
        total += contexts * 6 * min(len(squares), 2 * top)
        groups += top
    for size in _fitting(levels, grid)[1:]:
        groups = min(groups, grid[0] * grid[1] // (size // 4))  # without overlap
        total += contexts * (size + 2) * ceil(_HEADED * groups)
        groups = ceil(_TOP_GROUPS * groups)
    return total + 2 + groups


def _check(
    x: Tensor, delta: Tensor, y: int, target: int, levels: Sequence[int], merge: str, mask: Tensor | None
) -> None:
    if x.ndim != 3 or delta.shape != x.shape:
        raise ValueError(f"x and delta must both be one image (C, H, W), got {tuple(x.shape)} and {tuple(delta.shape)}")
    if y == target:
        raise ValueError(f"the target is the true class {y}; give the class that the attack pushes up")
    if not levels or levels[0] != 4 or any(b != 4 * a for a, b in pairwise(levels)):
        raise ValueError(f"levels must be 4, 16, 64, ... blocks, got {list(levels)}")
    if merge not in ("greedy", "linkage"):
        raise ValueError(f"merge must be 'greedy' or 'linkage', got {merge!r}")
    if mask is not None and (mask.dtype != torch.bool or mask.shape != x.shape[1:]):
        raise ValueError(f"mask must be bool of shape {tuple(x.shape[1:])}, got {mask.dtype} {tuple(mask.shape)}")
    if not bool(delta.any()):
        raise ValueError("delta is zero everywhere; give the perturbation of a successful attack")


@dataclass
class _Asked:
    """What is asked of the game, counted."""

    game: ModelGame
    definition: Definition
    contexts: int
    rng: Stream
    on_step: OnStep
    evaluations: int = 0
    known: dict[tuple[int, ...], tuple[float, float]] = field(default_factory=dict)

    def interactions(self, groups: list[tuple[int, ...]]) -> Tensor:
        """Return the interaction of each group; one that is known is not measured again."""
        new = sorted({group for group in groups if group not in self.known})
        if new:
            found = coalition_interactions(
                self.game, new, definition=self.definition, contexts=self.contexts, rng=self.rng
            )
            self.spend(found.evaluations)
            for group, value, error in zip(new, found.values.tolist(), found.stderr.tolist(), strict=True):
                self.known[group] = (value, error)
        return torch.tensor([self.known[group][0] for group in groups], dtype=torch.float64)

    def spend(self, evaluations: int) -> None:
        self.evaluations += evaluations
        # Nobody knows how many candidates there will be: the watcher sees a part that never reaches the whole.
        self.on_step(self.evaluations, 2 * self.evaluations)


# -- screening ----------------------------------------------------------------------------------------------------

_SCREENED = 64
"""Gradients at random partial perturbations; 64 of them rank neighbors well enough to drop the weaker half."""


def _pairs_by_gradient(game: ModelGame, delta: Tensor, rng: Stream, asked: _Asked) -> Tensor:
    """Estimate the interaction of all pairs of blocks from gradients at random halves of the perturbation, `(n, n)`.

    Player i's gradient g_i(S) stands for v(S+i) - v(S), so the interaction of i and j is the mean of g_i where j is
    present minus that where j is absent. Second derivatives would be zero almost everywhere in a network of ReLUs.
    """
    n = game.n_players
    half = rng.bits((1, _SCREENED // 2, n))[0] < 0
    keep = torch.cat([half, ~half])
    slopes = []
    owner = game.players.owner.flatten()
    change = delta.detach().to(device_of(game.model))
    for part in torch.split(keep, max(1, _ELEMENTS_PER_BATCH // delta.numel())):
        shown = game.masked(part).detach().requires_grad_()
        with evaluating(game.model, precise=False), torch.enable_grad():
            worth = game.value(game.model(shown))
            if not worth.requires_grad:
                raise ModelError("the model's output does not depend on its input by any gradient")
            (grad,) = torch.autograd.grad(worth.sum(), shown)
        along = (grad * change).sum(1).flatten(1).double().cpu()
        slopes.append(torch.zeros(len(part), n, dtype=torch.float64).index_add_(1, owner, along))
    asked.spend(2 * len(keep))
    slope, sign = torch.cat(slopes), keep.double() * 2 - 1
    pairs = 2 * (sign.T @ (slope - slope.mean(0))) / len(keep)
    pairs = (pairs + pairs.T) / 2
    pairs.fill_diagonal_(0)
    return pairs


# -- joining ------------------------------------------------------------------------------------------------------


def _greedy(grid: tuple[int, int], pairs: Tensor, levels: list[int], asked: _Asked) -> list[tuple[int, ...]]:
    groups: list[tuple[int, ...]] = []
    for level, _ in enumerate(levels):
        groups = _squares(grid, pairs, asked) if level == 0 else _fours(groups, grid, asked)
    return groups


def _patches(grid: tuple[int, int]) -> list[list[tuple[int, ...]]]:
    """Return the 2 x 2 squares of blocks of each patch."""
    columns = grid[1]
    patches: list[list[tuple[int, ...]]] = [
        [
            (top := r * columns + c, top + 1, top + columns, top + columns + 1)
            for r in rows.tolist()[:-1]
            for c in cols.tolist()[:-1]
        ]
        for rows in torch.arange(grid[0]).tensor_split(max(1, round(grid[0] / _PATCH)))
        for cols in torch.arange(grid[1]).tensor_split(max(1, round(grid[1] / _PATCH)))
    ]
    return [squares for squares in patches if squares]


def _squares(grid: tuple[int, int], pairs: Tensor, asked: _Asked) -> list[tuple[int, ...]]:
    """Accept the strongest 2 x 2 squares of each patch without overlap."""
    kept = []
    for squares in _patches(grid):
        index = torch.tensor(squares)
        guess = pairs[index[:, :, None], index[:, None, :]].sum((1, 2)).abs()
        most = guess.argsort(descending=True, stable=True)[: 2 * ceil(_TOP_SQUARES * len(squares))]
        kept.append(([squares[k] for k in most.tolist()], ceil(_TOP_SQUARES * len(squares))))
    # All patches are asked together, so that batches are full.
    asked.interactions([square for squares, _ in kept for square in squares])
    return [square for squares, top in kept for square in _accepted(squares, top, asked)]


def _fours(groups: list[tuple[int, ...]], grid: tuple[int, int], asked: _Asked) -> list[tuple[int, ...]]:
    """Join components with their three nearest ones: the strongest first, without overlap."""
    if len(groups) <= _NEAREST:
        return []
    place = torch.tensor([[divmod(p, grid[1]) for p in group] for group in groups], dtype=torch.float64).mean(1)
    nearest = torch.cdist(place, place).argsort(dim=1, stable=True)[:, : 1 + _NEAREST].tolist()
    heads = range(ceil(_HEADED * len(groups))) if _HEADED < 1 else range(len(groups))
    order = sorted(range(len(groups)), key=lambda k: -abs(asked.known[groups[k]][0]))
    candidates = sorted({tuple(sorted(p for k in nearest[order[head]] for p in groups[k])) for head in heads})
    return _accepted(candidates, ceil(_TOP_GROUPS * len(candidates)), asked)


def _accepted(candidates: list[tuple[int, ...]], top: int, asked: _Asked) -> list[tuple[int, ...]]:
    strength = asked.interactions(candidates).abs()
    taken: set[int] = set()
    chosen = []
    for k in strength.argsort(descending=True, stable=True)[:top].tolist():
        if taken.isdisjoint(candidates[k]):
            taken.update(candidates[k])
            chosen.append(candidates[k])
    return chosen


def _linked(grid: tuple[int, int], pairs: Tensor, levels: list[int], asked: _Asked) -> list[tuple[int, ...]]:
    """Join neighboring blocks by average linkage on |I| while a link is stronger than the average neighbors' link."""
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    place = torch.tensor([divmod(p, grid[1]) for p in range(grid[0] * grid[1])])
    near = (place[:, None] - place[None]).abs().amax(2) == 1
    link = torch.where(near, pairs.abs(), 0)
    most = float(link.max()) or 1.0
    joined = linkage(squareform((most - link).fill_diagonal_(0).numpy(), checks=False), method="average")
    labels = fcluster(joined, most - float(link[near].mean()), criterion="distance").tolist()
    groups: dict[int, list[int]] = {}
    for p, label in enumerate(labels):
        groups.setdefault(label, []).append(p)
    largest = levels[-1] if levels else 4
    clusters = [tuple(group) for group in groups.values() if 2 <= len(group) <= largest]
    asked.interactions(clusters)
    return clusters


# -- reading ------------------------------------------------------------------------------------------------------


def _read(
    game: ModelGame, groups: list[tuple[int, ...]], asked: _Asked, y: int, target: int, object_mask: Tensor
) -> tuple[tuple[Component, ...], tuple[float, float]]:
    """Remove each component, and all of them, from the whole perturbation, and see what the logits do."""
    groups = sorted(groups, key=lambda group: (-abs(asked.known[group][0]), group))
    keep = torch.ones(2 + len(groups), game.n_players, dtype=torch.bool)
    for k, group in enumerate(groups):
        keep[1 + k, list(group)] = keep[-1, list(group)] = False
    logits = _logits(game, keep)
    asked.spend(len(keep))
    drop, gain = logits[1:, y] - logits[0, y], logits[0, target] - logits[1:, target]
    owner = torch.broadcast_to(game.players.owner.cpu(), object_mask.shape)
    masks = [torch.isin(owner, torch.tensor(group)) for group in groups]
    components = tuple(
        Component(
            mask=mask,
            blocks=group,
            interaction=asked.known[group][0],
            stderr=asked.known[group][1],
            foreground=float(object_mask[mask].double().mean()),
            drop_true=float(drop[k]),
            gain_target=float(gain[k]),
        )
        for k, (group, mask) in enumerate(zip(groups, masks, strict=True))
    )
    return components, (float(drop[-1]), float(gain[-1]))


def _logits(game: ModelGame, keep: Tensor) -> Tensor:
    with evaluating(game.model), torch.no_grad():
        parts = [game.model(game.masked(part)) for part in torch.split(keep, game.batch_size)]
    return torch.cat(parts).double().cpu()
