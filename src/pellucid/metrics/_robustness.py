"""How does accuracy fall as the allowed distortion grows, and what is the smallest that fools each sample?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pellucid.core import (
    DataError,
    Interval,
    Model,
    OnStep,
    Perturbed,
    Space,
    Stream,
    device_of,
    silent,
    wilson,
)

from ._logits import answers


@runtime_checkable
class RadiusAttack(Protocol):
    """An attack within one budget that can start from given parameters, such as `PGD` and `RandomSearch`."""

    @property
    def space(self) -> Space:
        """The distortions it searches."""
        ...

    @property
    def cost(self) -> int:
        """Evaluations per sample."""
        ...

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
        """Attack a batch, starting at `start` if given."""
        ...


@dataclass(frozen=True)
class RobustnessCurve:
    """Accuracy against the allowed distortion; every error counted is one that was seen.

    Args:
        radii: `(R,)` ascending, in the space's own unit.
        accuracy: share of samples not fooled within each radius, with Wilson's 95 % interval; each `(R,)`. An upper
            bound of the true robust accuracy, falling in the radius by construction.
        smallest: smallest radius that was seen to fool each sample `(N,)`: 0 for a clean error, infinity for none.
        params: parameters that do so `(N, ...)`, on the CPU; zeros for clean errors and samples not fooled.
        correct: right on the clean input `(N,)`.
        attacked: attacks per sample `(N,)`.
        zero_gradients: steps with an exactly zero gradient, per sample `(N,)`.
        evaluations: model evaluations spent, a gradient counted as two.
    """

    radii: Float[Tensor, " R"]
    accuracy: Interval[Tensor]
    smallest: Float[Tensor, " N"]
    params: Tensor
    correct: Bool[Tensor, " N"]
    attacked: Int[Tensor, " N"]
    zero_gradients: Int[Tensor, " N"]
    evaluations: int

    @classmethod
    def of(
        cls,
        radii: Sequence[float],
        *,
        smallest: Float[Tensor, " N"],
        params: Tensor,
        attacked: Int[Tensor, " N"],
        zero_gradients: Int[Tensor, " N"],
        evaluations: int,
    ) -> RobustnessCurve:
        """Make the curve of samples that were attacked one batch after the other, wherever that was."""
        grid = torch.tensor(list(radii), dtype=torch.float64)
        held = (smallest[None, :] > grid[:, None]).sum(1)
        return cls(
            radii=grid,
            accuracy=wilson(held, len(smallest)),
            smallest=smallest,
            params=params,
            correct=smallest > 0,
            attacked=attacked,
            zero_gradients=zero_gradients,
            evaluations=evaluations,
        )

    def fooled(self, radius: float) -> Bool[Tensor, " N"]:
        """Return which samples the model gets wrong within `radius`."""
        return self.smallest <= radius


def robustness_curve(
    model: Model,
    x: Tensor,
    y: Tensor,
    attack_at: Callable[[float], RadiusAttack],
    radii: Sequence[float],
    *,
    rng: Stream,
    bisections: int = 8,
    batch_size: int = 256,
    on_step: OnStep = silent,
) -> RobustnessCurve:
    """How does accuracy fall as distortions grow, and how small a distortion fools each sample?

    Radii are attacked in ascending order. A sample that was fooled stays fooled; the others begin the next radius from
    the best distortion found so far, scaled up. Along the direction that fooled a sample, bisection then finds how
    far one can go back; the smallest distortion that still fools the model is kept, never one that was not tried.

    Args:
        model: maps `(b, ...)` to logits `(b, K)`; its own device is used.
        x: inputs `(N, ...)`.
        y: true labels `(N,)`.
        attack_at: the attack for a radius, such as `lambda eps: PGD(Linf(eps))`.
        radii: strictly ascending, at least 0.
        rng: source of random starts; bind it to sample ids with `rng.at(ids)`.
        bisections: halvings of each fooling direction; 0 keeps the attack's own distortion.
        batch_size: samples per forward.
        on_step: progress in samples times radii.

    Raises:
        ValueError: radii are not ascending, or a setting is out of range.
        ModelError: the model gives NaN or wrong shapes.
        DataError: no samples, or inputs outside the space's bounds.

    Example:
        >>> from pellucid.attacks import PGD, Linf
        >>> model = lambda x: torch.cat([x - 0.5, 0.5 - x], dim=1)
        >>> x, y, radii = torch.tensor([[0.75]]), torch.tensor([0]), [0.1, 0.2, 0.3]
        >>> curve = robustness_curve(model, x, y, lambda eps: PGD(Linf(eps)), radii, rng=Stream(0))
        >>> curve.accuracy.value, curve.smallest.round(decimals=2)
        (tensor([1., 1., 0.], dtype=torch.float64), tensor([0.2500], dtype=torch.float64))
    """
    steps = _checked(x, y, radii, bisections, batch_size)
    attacks = [attack_at(radius) for radius in radii]
    walk = _Walk(model, x, y, rng, bisections)
    for rows in torch.split(torch.arange(len(x)), batch_size):
        walk.clean(rows)
    total = len(x) * len(steps)
    for number, (attack, growth) in enumerate(zip(attacks, steps, strict=True)):
        alive = walk.smallest.isinf().nonzero()[:, 0]
        if radii[number] > 0 and len(alive):
            for rows in torch.split(alive, batch_size):
                walk.attack(attack, rows, growth, radii[number])
                on_step(number * len(x) + int(rows[-1]) + 1, total)
        on_step((number + 1) * len(x), total)
    params = walk.known(attacks[-1].space)
    found = walk.smallest.isfinite().view(-1, *[1] * (params.ndim - 1))
    return RobustnessCurve.of(
        radii,
        smallest=walk.smallest,
        params=torch.where(found, params, 0),
        attacked=walk.attacked,
        zero_gradients=walk.zero_gradients,
        evaluations=walk.evaluations,
    )


def robustness_evaluations(
    n_samples: int, attack_at: Callable[[float], RadiusAttack], radii: Sequence[float], *, bisections: int = 8
) -> int:
    """Return the most evaluations that `robustness_curve` can spend: every sample right and fooled only at the end."""
    attacks = sum(attack_at(radius).cost for radius in radii if radius > 0)
    return n_samples * (1 + attacks + bisections)


def _checked(x: Tensor, y: Tensor, radii: Sequence[float], bisections: int, batch_size: int) -> list[float]:
    """Return how much each radius exceeds the one before it."""
    if x.ndim < 2 or len(x) == 0:
        raise DataError(f"x must hold at least one sample, got shape {tuple(x.shape)}")
    if y.shape != (len(x),) or y.dtype != torch.int64:
        raise DataError(f"y must be int64 of shape ({len(x)},), got {y.dtype} of shape {tuple(y.shape)}")
    if not radii or not radii[0] >= 0 or not all(a < b for a, b in pairwise(radii)):
        raise ValueError(f"radii must be ascending numbers of at least 0, got {list(radii)}")
    if bisections < 0 or batch_size < 1:
        raise ValueError(f"bisections must be >= 0 and batch_size >= 1, got {bisections} and {batch_size}")
    return [1.0, *(b / a if a > 0 else 1.0 for a, b in pairwise(radii))]


class _Walk:
    """What is known about each sample while the radius grows; kept on the CPU, computed on the model's device."""

    def __init__(self, model: Model, x: Tensor, y: Tensor, rng: Stream, bisections: int) -> None:
        self.model, self.x, self.y, self.bisections = model, x.detach(), y, bisections
        self.device = device_of(model)
        self.ids = torch.arange(len(x)) if rng.ids is None else rng.ids.cpu()
        if len(self.ids) != len(x):
            raise ValueError(f"rng is bound to {len(self.ids)} samples but x holds {len(x)}")
        self.rng = rng
        self.smallest = torch.full((len(x),), torch.inf, dtype=torch.float64)
        self.params: Tensor | None = None  # of the space's own shape, known after the first attack
        self.attacked = torch.zeros(len(x), dtype=torch.int64)
        self.zero_gradients = torch.zeros(len(x), dtype=torch.int64)
        self.evaluations = 0

    def clean(self, rows: Tensor) -> None:
        """Mark clean errors: they need no distortion."""
        x, y = self.x[rows].to(self.device), self.y[rows].to(self.device)
        self.smallest[rows[self._wrong(x, y, rows).cpu()]] = 0.0

    def attack(self, attack: RadiusAttack, rows: Tensor, growth: float, radius: float) -> None:
        """Attack some samples within one radius, starting where the last radius ended."""
        x, y = self.x[rows].to(self.device), self.y[rows].to(self.device)
        warm = None
        if self.params is not None and bool(self.attacked[rows].all()):
            warm = self.params[rows].to(self.device) * growth
        found = attack(self.model, x, y, rng=self.rng.at(self.ids[rows]), start=warm)
        self.evaluations += found.evaluations
        self.attacked[rows] += 1
        self.zero_gradients[rows] += found.zero_gradients.cpu()
        known = self.known(attack.space)
        known[rows] = found.params.to(known)
        hit = found.success.nonzero()[:, 0]
        if len(hit):
            self._shrink(attack.space, x[hit], y[hit], found.params[hit], rows[hit.cpu()])
            # A radius such as 0.05 can round up in float32; the attack was within it all the same.
            self.smallest[rows[hit.cpu()]] = self.smallest[rows[hit.cpu()]].clamp(max=radius)

    def known(self, space: Space) -> Tensor:
        """Return the parameters of all samples; those of a sample that was not attacked are zeros."""
        if self.params is None:
            one = space.zeros(self.x[:1])
            self.params = one.new_zeros((len(self.x), *one.shape[1:]))
        return self.params

    def _shrink(self, space: Space, x: Tensor, y: Tensor, params: Tensor, rows: Tensor) -> None:
        """Go back along the fooling direction as far as the model stays wrong."""
        size, kept, spent = shrunk(self.model, space, x, y, params, self.ids[rows], bisections=self.bisections)
        self.evaluations += spent
        self.smallest[rows] = size.cpu()
        known = self.known(space)
        known[rows] = kept.to(known)

    def _wrong(self, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        self.evaluations += len(x)
        return answers(self.model, x, self.ids[rows]) != y


def shrunk(
    model: Model, space: Space, x: Tensor, y: Tensor, params: Tensor, ids: Tensor, *, bisections: int
) -> tuple[Float[Tensor, " b"], Tensor, int]:
    """Go back along fooling directions as far as the model stays wrong.

    Returns:
        The sizes, the params, and the evaluations spent.
    """

    def share(part: Tensor) -> Tensor:
        return part.to(params.dtype).view(-1, *[1] * (params.ndim - 1)) * params

    low = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    high = torch.ones_like(low)
    for _ in range(bisections):
        middle = (low + high) / 2
        wrong = answers(model, space.render(x, share(middle)), ids) != y
        low, high = torch.where(wrong, low, middle), torch.where(wrong, middle, high)
    kept = share(high)
    return space.size(x, kept).double(), kept, bisections * len(x)
