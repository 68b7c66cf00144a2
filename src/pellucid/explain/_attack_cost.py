"""What does an attack cost that may touch only some regions? The games behind `attack_attribution`.

A search is given, for each row, where the perturbation may live and where to start, and returns what it reached. Costs
are what the attacker wants low: the size of the smallest perturbation that fools, or the margin that a perturbation of
fixed size leaves.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf, isfinite
from typing import Literal, Protocol, final, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pellucid.attacks import L2, Linf, MinimumNorm
from pellucid.core import Model, ModelError, Stream, device_of, evaluating, margin

Bounds = tuple[float, float] | None

_PAPER_SIDE, _PAPER_BORDER = 112, 8


@dataclass(frozen=True)
class Reached:
    """What a search reached, row by row: costs, perturbations, model evaluations in all."""

    cost: Float[Tensor, " b"]
    delta: Tensor
    evaluations: int


@runtime_checkable
class AttackUtility(Protocol):
    """What an attack wants, and how it is searched."""

    @property
    def unit(self) -> str:
        """What costs are measured in."""
        ...

    @property
    def needs_border(self) -> bool:
        """Whether an attack that may touch nothing has no finite cost."""
        ...

    def evaluations(self, *, thorough: bool) -> int:
        """Return what one row of one search costs."""
        ...

    def search(
        self,
        model: Model,
        x: Tensor,
        y: Tensor,
        target: Tensor | None,
        *,
        mask: Tensor,
        start: Tensor | None,
        rng: Stream,
        thorough: bool,
    ) -> Reached:
        """Search each row where its mask is 1; never worse than its start. `thorough` takes more time."""
        ...

    def worst(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return the cost to count where nothing was found."""
        ...


@final
@dataclass(frozen=True)
class MinimumCost:
    """The size of the smallest perturbation that fools, found by `attacks.MinimumNorm`.

    Args:
        norm: "l2" or "linf".
        steps: gradient steps after each region that is set free, from the best perturbation so far.
        end_steps: gradient steps for the two ends, nothing free but the border and everything free.
        bounds: least and greatest legal input value.
        scale: how far each element of one input usually spreads, broadcastable to one input; sizes are in its units.

    Raises:
        ValueError: fewer than one step, or an unknown norm.
    """

    norm: Literal["l2", "linf"] = "l2"
    steps: int = field(default=15, kw_only=True)
    end_steps: int = field(default=200, kw_only=True)
    bounds: Bounds = field(default=(0.0, 1.0), kw_only=True)
    scale: Tensor | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        _check_steps(self.steps, self.end_steps)
        self._attack(thorough=False)

    @property
    def unit(self) -> str:
        """The norm."""
        return self.norm

    @property
    def needs_border(self) -> bool:
        """A perturbation of nothing never fools."""
        return True

    def _attack(self, *, thorough: bool) -> MinimumNorm:
        steps, restarts = (self.end_steps, 2) if thorough else (self.steps, 1)
        return MinimumNorm(self.norm, steps=steps, bounds=self.bounds, scale=self.scale, restarts=restarts)

    def evaluations(self, *, thorough: bool) -> int:
        """Return what one row of one search costs."""
        return self._attack(thorough=thorough).cost

    def search(
        self,
        model: Model,
        x: Tensor,
        y: Tensor,
        target: Tensor | None,
        *,
        mask: Tensor,
        start: Tensor | None,
        rng: Stream,
        thorough: bool,
    ) -> Reached:
        """Find the smallest perturbation of each row; infinity where none fools."""
        found = self._attack(thorough=thorough)(model, x, y, rng=rng, start=start, target=target, mask=mask)
        return Reached(found.norm.double(), found.params, found.evaluations)

    def worst(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return the size of the largest perturbation inside mask and bounds; infinity without bounds."""
        if self.bounds is None:
            return torch.full((len(x),), inf, dtype=torch.float64, device=x.device)
        reach = torch.maximum(x - self.bounds[0], self.bounds[1] - x).double() * mask
        if self.scale is not None:
            scale = self.scale.to(reach)
            reach = torch.where(scale > 0, reach / scale, 0)
        flat = reach.flatten(1)
        return flat.amax(1) if self.norm == "linf" else flat.square().sum(1).sqrt()


@final
@dataclass(frozen=True)
class ReachedMargin:
    """The margin that perturbations of a fixed size leave, found by projected gradient steps: cheaper than a cost.

    The margin is z_y minus the largest other logit, or with a target the largest other logit minus z_target; below 0
    the attack succeeds.

    Args:
        space: the perturbations allowed, an `attacks.Linf` or `attacks.L2` ball; regions further restrict them.
        steps: gradient steps after each region that is set free, from the best perturbation so far.
        end_steps: gradient steps for the two ends.

    Raises:
        ValueError: fewer than one step.
    """

    space: Linf | L2 = field(default_factory=lambda: Linf(8 / 255))
    steps: int = field(default=10, kw_only=True)
    end_steps: int = field(default=50, kw_only=True)

    def __post_init__(self) -> None:
        _check_steps(self.steps, self.end_steps)

    @property
    def unit(self) -> str:
        """Margins are differences of logits."""
        return "logits"

    @property
    def needs_border(self) -> bool:
        """Without any perturbation the margin is that of the input."""
        return False

    def evaluations(self, *, thorough: bool) -> int:
        """Return what one row of one search costs."""
        return 2 * (self.end_steps if thorough else self.steps) + 1

    def search(
        self,
        model: Model,
        x: Tensor,
        y: Tensor,
        target: Tensor | None,
        *,
        mask: Tensor,
        start: Tensor | None,
        rng: Stream,
        thorough: bool,
    ) -> Reached:
        """Lower the margin of each row; its least value on the way counts."""
        steps = self.end_steps if thorough else self.steps
        delta = self.space.zeros(x) if start is None else self.space.project(x, start * mask)
        best, kept, spent = torch.full((len(x),), inf, dtype=torch.float64, device=x.device), delta, 0
        with evaluating(model, precise=False), torch.enable_grad():
            for step in range(steps + 1):
                leaf = delta.detach().requires_grad_(step < steps)
                left = _margin(model(self.space.render(x, leaf)), y, target)
                spent += len(x) * (2 if step < steps else 1)
                lower = left.detach().double() < best
                best = torch.where(lower, left.detach().double(), best)
                kept = torch.where(_rows(lower, delta), leaf.detach(), kept)
                if step == steps:
                    break
                if not left.requires_grad:
                    raise ModelError("the model's output does not depend on its input by any gradient")
                (grad,) = torch.autograd.grad(-left.sum(), leaf)
                delta = self.space.project(x, delta + self.space.ascent(x, grad * mask, 2.5 / steps) * mask)
        if not bool(best.isfinite().all()):
            row = int((~best.isfinite()).nonzero()[0])
            name = row if rng.ids is None else int(rng.ids[row])
            raise ModelError(f"the model gives NaN or infinity for sample {name} under attack; repair the weights")
        return Reached(best, kept, spent)

    def worst(self, x: Tensor, mask: Tensor) -> Tensor:
        """Every search reaches some margin."""
        return torch.full((len(x),), inf, dtype=torch.float64, device=x.device)


def _margin(z: Tensor, y: Tensor, target: Tensor | None) -> Tensor:
    z = z if z.dtype == torch.float64 else z.float()
    return margin(z, y) if target is None else -margin(z, target)


def _check_steps(steps: int, end_steps: int) -> None:
    if min(steps, end_steps) < 1:
        raise ValueError(f"steps and end_steps must be at least 1, got {steps} and {end_steps}")


def _rows(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.ndim - 1))


# -- regions ------------------------------------------------------------------------------------------------------


def attack_regions(
    height: int, width: int, grid: int | tuple[int, int] = 8, *, border: int | None = None
) -> Int[Tensor, "h w"]:
    """Return which region owns each pixel: a grid inside an always free border, whose pixels have -1.

    Sizes are those of `numpy.array_split`: where the grid does not divide the inside, the first rows and columns are
    one pixel larger. Nothing is cropped.

    Args:
        height, width: of the image in pixels.
        grid: regions per side, or (rows, columns).
        border: width of the free border in pixels; 8 pixels at 112, as in the paper, and in proportion, at least 1.

    Raises:
        ValueError: the inside has fewer pixels than regions.

    Example:
        >>> attack_regions(5, 5, 2, border=1).tolist()[1]
        [-1, 0, 0, 1, -1]
    """
    rows, columns = (grid, grid) if isinstance(grid, int) else grid
    rim = max(1, round(_PAPER_BORDER * min(height, width) / _PAPER_SIDE)) if border is None else border
    inside = (height - 2 * rim, width - 2 * rim)
    if rim < 0 or min(rows, columns) < 1 or rows > inside[0] or columns > inside[1]:
        raise ValueError(
            f"{rows} x {columns} regions do not fit an image of {height} x {width} pixels with a border of {rim}"
        )
    owner = torch.full((height, width), -1, dtype=torch.int64)
    row, column = (
        torch.cat([torch.full((len(part),), k) for k, part in enumerate(torch.arange(size).tensor_split(count))])
        for size, count in zip(inside, (rows, columns), strict=True)
    )
    owner[rim : height - rim, rim : width - rim] = row[:, None] * columns + column[None, :]
    return owner


def free_elements(keep: Bool[Tensor, "c n"], owner: Int[Tensor, "..."], like: Tensor) -> Tensor:
    """Return where a perturbation may live, `(c, ...)` of 0 and 1 that broadcasts over `like`'s elements."""
    always = torch.ones(len(keep), 1, dtype=torch.bool, device=keep.device)
    free = torch.cat([keep, always], dim=1)[:, owner.flatten().to(keep.device)]
    lead = like.ndim - 1 - owner.ndim
    return free.view(len(keep), *[1] * lead, *owner.shape).to(device=like.device, dtype=like.dtype)


def touched(delta: Tensor, owner: Int[Tensor, "..."], count: int) -> Bool[Tensor, "b n"]:
    """Return which regions each perturbation changes at all."""
    axes = tuple(range(1, delta.ndim - owner.ndim))
    size = delta.detach().abs()
    flat = (size.amax(axes) if axes else size).flatten(1)
    whole = torch.zeros(len(flat), count + 1, dtype=flat.dtype, device=flat.device)
    index = (owner.flatten() % (count + 1)).to(flat.device)  # -1 counts into a column that is dropped
    return whole.index_add_(1, index, flat)[:, :count] > 0


def allowed_least(
    keep: Bool[Tensor, "k n"], used: Bool[Tensor, "j n"], cost: Float[Tensor, " j"]
) -> Float[Tensor, " k"]:
    """Return the least cost among the perturbations that each coalition allows.

    A perturbation that changes only the regions `used` is open to every coalition that holds them. So a search that
    happens to do better for one coalition counts for the larger ones too, and more freedom never costs more.
    """
    forbidden = used.float() @ (~keep).float().T > 0
    return torch.where(forbidden, inf, cost[:, None]).amin(0)


def cap_of(worst: float, cost: Float[Tensor, " j"]) -> float:
    """Return what a search without success counts: `worst`, or the dearest success on that input if it cost more.

    A set that allows nothing that fools must not look cheaper than a larger one that does.
    """
    found = cost[cost.isfinite()]
    return max(worst, float(found.max())) if len(found) else worst


# -- the game -----------------------------------------------------------------------------------------------------


class AttackGame:
    """The game of an attack on one input: worth of a coalition is minus what the attack costs inside its regions.

    Each coalition is searched by itself, thoroughly; perturbations found for smaller coalitions count too. For few
    regions; `attack_attribution` walks along paths instead, which is far cheaper.

    Args:
        model: maps a batch to logits.
        x: one input, without batch axis.
        y: its class.
        utility: what the attack wants, such as `MinimumCost("l2")`.
        regions: `owner` of each element, from `attack_regions`; -1 is always free.
        target: the class to reach; any other class than `y` if not given.
        rng: bound to at most one sample.

    Raises:
        ModelError: no perturbation of what is always free fools the model, and there are no bounds to cap the cost.
    """

    def __init__(
        self,
        model: Model,
        x: Tensor,
        y: int,
        utility: AttackUtility,
        *,
        regions: Int[Tensor, "..."],
        target: int | None = None,
        rng: Stream,
    ) -> None:
        self.model, self.utility, self.owner = model, utility, regions
        self.n_players = int(regions.max()) + 1
        device = device_of(model)
        self._x, self._y = x.detach()[None].to(device), torch.tensor([y], device=device)
        self._target = None if target is None else torch.tensor([target], device=device)
        self._rng = rng if rng.ids is not None else rng.at([0])
        self._used = torch.zeros(0, self.n_players, dtype=torch.bool)
        self._cost = torch.zeros(0, dtype=torch.float64)
        self.evaluations = 0

    @property
    def cost(self) -> int:
        """Model evaluations per coalition."""
        return self.utility.evaluations(thorough=True)

    def __call__(self, keep: Bool[Tensor, "c n"]) -> Float[Tensor, " c"]:
        rows = len(keep)
        x, y = self._x.expand(rows, *self._x.shape[1:]), self._y.expand(rows)
        mask = free_elements(keep.to(x.device), self.owner, x)
        found = self.utility.search(
            self.model,
            x,
            y,
            None if self._target is None else self._target.expand(rows),
            mask=mask,
            start=None,
            rng=self._rng.at(self._rng.ids.expand(rows) if self._rng.ids is not None else [0] * rows),
            thorough=True,
        )
        self.evaluations += found.evaluations
        self._used = torch.cat([self._used, touched(found.delta, self.owner, self.n_players).cpu()])
        self._cost = torch.cat([self._cost, found.cost.cpu()])
        least = allowed_least(keep.cpu(), self._used, self._cost)
        capped = self.utility.worst(self._x, free_elements(torch.zeros_like(keep[:1]), self.owner, self._x))
        worth = -torch.where(least.isfinite(), least, cap_of(float(capped), self._cost))
        if not all(map(isfinite, worth.tolist())):
            raise ModelError("no perturbation fools the model, and without bounds there is no largest cost to count")
        return worth.to(keep.device)
