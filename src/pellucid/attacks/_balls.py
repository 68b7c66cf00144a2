"""Additive distortions inside a norm ball: `params` is the difference that is added to the input.

Projection knows the input: it keeps `x + params` inside the legal bounds itself. If only rendering clipped, an element
at a bound could gather parameters that change nothing, and the attack would be weaker than it looks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.core import DataError, Space, Stream

Bounds = tuple[float, float] | None


@final
@dataclass(frozen=True, eq=False)
class Linf:
    """Every element moves by at most `eps`, or by at most `eps` times its own scale.

    Args:
        eps: the radius, in the unit of the inputs; with `scale` in units of the scale.
        bounds: least and greatest legal input value, None for unbounded features.
        scale: how far each element of one input usually spreads, such as the features' standard deviations `(D,)`;
            broadcastable to one input. An element of scale 0 is never changed.

    Raises:
        ValueError: `eps` is negative or not finite, the bounds are not in order, or a scale is negative or not finite.

    Example:
        >>> x = torch.tensor([[0.0, 0.5]])
        >>> Linf(0.1).project(x, torch.tensor([[-0.3, 0.3]]))
        tensor([[0.0000, 0.1000]])
    """

    eps: float
    bounds: Bounds = field(default=(0.0, 1.0), kw_only=True)
    scale: Tensor | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        _check_ball(self.eps, self.bounds, self.scale)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and _same_ball(self, other)

    def __hash__(self) -> int:
        return hash((self.eps, self.bounds))

    def zeros(self, x: Tensor) -> Tensor:
        """Return the difference that leaves `x` unchanged: all zeros, at least float32."""
        return _zeros(_inside(x, self.bounds, self.scale))

    def sample(self, x: Tensor, rng: Stream) -> Tensor:
        """Return differences drawn uniformly from the part of the cube that lies inside the bounds."""
        zeros = self.zeros(x)
        low, high = self._box(x)
        unit = rng.uniform(x.shape, device=x.device, dtype=zeros.dtype)
        return (low + (high - low) * unit).clamp(low, high)

    def render(self, x: Tensor, params: Tensor) -> Tensor:
        """Return `x + params` inside the bounds, in the dtype of `x`."""
        return _added(x, params, self.bounds)

    def ascent(self, x: Tensor, grad: Tensor, size: float) -> Tensor:
        """Return the step of greatest first-order gain: `size * eps` (times the scale) along the gradient's sign."""
        step = grad.sign().mul_(size * self.eps)
        return step if self.scale is None else step.mul_(self.scale.to(step))

    def project(self, x: Tensor, params: Tensor) -> Tensor:
        """Return the nearest difference within the radius that keeps `x` inside the bounds."""
        return params.clamp(*self._box(x))

    @property
    def budget(self) -> float:
        """The radius."""
        return self.eps

    def scaled(self, factor: float) -> Linf:
        """Return the same space with `factor` times the radius."""
        return replace(self, eps=self.eps * factor)

    def size(self, x: Tensor, params: Tensor) -> Float[Tensor, " b"]:
        """Return each sample's greatest absolute difference, in units of the scale."""
        return _in_units(params.detach(), self.scale).flatten(1).abs().amax(1)

    def _box(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return _room(x, self.bounds, most=self.eps, scale=self.scale)


@final
@dataclass(frozen=True, eq=False)
class L2:
    """The Euclidean length of the difference, each element divided by its scale, is at most `eps`.

    Args:
        eps: the radius, in the unit of the inputs; with `scale` in units of the scale.
        bounds: least and greatest legal input value, None for unbounded features.
        scale: how far each element of one input usually spreads, such as the features' standard deviations `(D,)`;
            broadcastable to one input. An element of scale 0 is never changed.

    Raises:
        ValueError: `eps` is negative or not finite, the bounds are not in order, or a scale is negative or not finite.

    Example:
        >>> x = torch.tensor([[0.0, 0.5]])
        >>> L2(0.1).project(x, torch.tensor([[-0.3, 0.3]]))
        tensor([[0.0000, 0.1000]])
    """

    eps: float
    bounds: Bounds = field(default=(0.0, 1.0), kw_only=True)
    scale: Tensor | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        _check_ball(self.eps, self.bounds, self.scale)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and _same_ball(self, other)

    def __hash__(self) -> int:
        return hash((self.eps, self.bounds))

    def zeros(self, x: Tensor) -> Tensor:
        """Return the difference that leaves `x` unchanged: all zeros, at least float32."""
        return _zeros(_inside(x, self.bounds, self.scale))

    def sample(self, x: Tensor, rng: Stream) -> Tensor:
        """Return differences of uniform direction and length, then projected into the bounds."""
        zeros = self.zeros(x)
        direction = rng.child("direction").normal(x.shape, device=x.device, dtype=zeros.dtype)
        unit = rng.child("radius").uniform((len(x), 1), device=x.device, dtype=torch.float64)
        if self.scale is not None:
            scale = self.scale.to(direction).expand(x.shape[1:])
            direction = direction * (scale > 0)
        # Uniform in the ball would be near its surface, where ascents of 20 steps fool fewer samples: 105 of 256 images
        # of fashion-standard at 0.4, by starts of uniform length 110, from the input itself 111.
        radius = self.eps * unit[:, 0]
        params = direction * _rows(radius / _norm(direction).clamp(min=1e-300), direction)
        return self.project(x, params if self.scale is None else params * scale)

    def render(self, x: Tensor, params: Tensor) -> Tensor:
        """Return `x + params` inside the bounds, in the dtype of `x`."""
        return _added(x, params, self.bounds)

    def ascent(self, x: Tensor, grad: Tensor, size: float) -> Tensor:
        """Return the step of greatest first-order gain: length `size * eps` along the gradient, none where it is 0.

        In units of the scale s the gradient is s * grad, and a step u of those units moves the input by s * u.
        """
        if self.scale is not None:
            scale = self.scale.to(grad)
            return replace(self, scale=None).ascent(x, grad * scale, size).mul_(scale)
        norm = _norm(grad)
        # In two halves: the factor for a gradient of 1e-40, from a very sure model, is too large for a float32.
        root = _rows(torch.where(norm > 0, size * self.eps / norm, 0).sqrt(), grad)
        return (grad * root).mul_(root)

    def project(self, x: Tensor, params: Tensor) -> Tensor:
        """Return the nearest difference within the radius that keeps `x` inside the bounds.

        The nearest point of a ball and a box that both hold 0 is `clip(c * params)`, where c <= 1 makes its length
        the radius (the conditions of Karush, Kuhn and Tucker). c grows from the value that would do without a box: each
        pass solves for it with the elements clipped so far, which is never too much, until no more are clipped. Every
        pass is inside both. With a scale, "nearest" is measured in its units, where the set is again a ball and a box.
        """
        if self.scale is None:
            return self._nearest(params, *_room(x, self.bounds))
        # At least float32, and 0 where the scale is 0: those elements never move.
        units = self.scale.to(params).expand(params.shape[1:])
        low, high = _room(x, self.bounds, scale=units)
        room = (torch.where(units > 0, edge / units, 0).expand_as(params) for edge in (low, high))
        kept = params.clamp(low, high)
        outside = (_length(_in_units(kept, units)) > self.eps).view(-1, *[1] * (params.ndim - 1))
        found = self._nearest(torch.where(units > 0, params / units, 0), *room) * units
        return torch.where(outside, found.clamp(low, high), kept)

    def _nearest(self, params: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Return the nearest point of the ball and the box, in the units in which the ball is round."""
        params = params.detach()
        inside = params.clamp(low, high)
        # A hair inside the sphere, so that rounding never makes a second projection shrink once more.
        precision = torch.finfo(params.dtype).eps
        radius = self.eps * (1 - 16 * precision)
        outside = _length(inside) > self.eps
        if not outside.any():
            return inside
        scale = torch.where(outside, radius / _length(params), 1)
        # The passes work in place: on a CPU fresh memory costs as much as the arithmetic.
        moved, held = torch.empty_like(inside), torch.empty_like(inside)
        while True:
            torch.mul(params, _rows(scale, params), out=moved)
            torch.clamp(moved, low, high, out=inside)
            # 1 or -1 where clipped, 0 where free; products of floats cost a fraction of masks on a CPU.
            clipped = moved.sub_(inside).sign_()
            torch.mul(inside, clipped, out=held)
            free = _length(torch.addcmul(inside, held, clipped, value=-1, out=moved), spent=True)
            fixed = _length(held, spent=True)
            growth = (radius**2 - fixed**2).clamp(min=0).sqrt() / free
            growing = outside & (growth > 1 + 64 * precision)
            if not growing.any():
                return inside
            scale = torch.where(growing, scale * growth, scale).clamp(max=1)

    @property
    def budget(self) -> float:
        """The radius."""
        return self.eps

    def scaled(self, factor: float) -> L2:
        """Return the same space with `factor` times the radius."""
        return replace(self, eps=self.eps * factor)

    def size(self, x: Tensor, params: Tensor) -> Float[Tensor, " b"]:
        """Return the Euclidean length of each sample's difference, in units of the scale."""
        return _norm(_in_units(params.detach(), self.scale)).to(params.dtype)


BALLS: Mapping[str, Callable[..., Space]] = MappingProxyType({"l2": L2, "linf": Linf})
"""Norm balls by the name that recipes and the command line use; each takes `eps`, `bounds` and `scale`."""


def _same_ball(a: Linf | L2, b: object) -> bool:
    """Whether two spaces of one kind allow the same distortions."""
    assert isinstance(b, Linf | L2)
    if (a.eps, a.bounds) != (b.eps, b.bounds) or (a.scale is None) != (b.scale is None):
        return False
    return a.scale is b.scale or (a.scale is not None and b.scale is not None and torch.equal(a.scale, b.scale))


def _in_units(params: Tensor, scale: Tensor | None) -> Tensor:
    """Return differences in units of the scale: 0 stays 0 where the scale is 0, and any other change is infinite."""
    return params if scale is None else torch.where(params == 0, 0, params / scale.to(params))


def _check_ball(eps: float, bounds: Bounds, scale: Tensor | None) -> None:
    if not (math.isfinite(eps) and eps >= 0):
        raise ValueError(f"eps must be a finite radius of at least 0, got {eps!r}")
    if bounds is not None and not (len(bounds) == 2 and bounds[0] < bounds[1]):
        raise ValueError(f"bounds must be (low, high) with low < high, or None for no bounds, got {bounds!r}")
    if scale is not None and not (scale.is_floating_point() and bool((scale.isfinite() & (scale >= 0)).all())):
        raise ValueError("scale must be finite numbers of at least 0, one per element of an input")


def _inside(x: Tensor, bounds: Bounds, scale: Tensor | None) -> Tensor:
    """Return `x`, or explain: inputs outside the bounds are usually normalized, and a radius then means nothing."""
    if not x.is_floating_point() or x.ndim < 2 or x.numel() == 0:
        raise DataError(f"x must be a non-empty floating point batch (b, ...), got {x.dtype} {tuple(x.shape)}")
    if bounds is not None:
        low, high = (float(edge) for edge in torch.aminmax(x))
        slack = 1e-6 * (bounds[1] - bounds[0])
        if not (low >= bounds[0] - slack and high <= bounds[1] + slack):
            raise DataError(
                f"inputs lie in [{low:g}, {high:g}] but the space's bounds are [{bounds[0]:g}, {bounds[1]:g}]; "
                "attack the inputs before normalization (put it into the model) or give the true bounds"
            )
    if scale is not None:
        try:
            scale.expand(x.shape[1:])
        except RuntimeError:
            raise DataError(
                f"the space's scale has shape {tuple(scale.shape)}, which does not fit inputs of {tuple(x.shape[1:])}"
            ) from None
    return x


def _zeros(x: Tensor) -> Tensor:
    return torch.zeros_like(x, dtype=torch.promote_types(x.dtype, torch.float32), requires_grad=False)


def _room(x: Tensor, bounds: Bounds, *, most: float = math.inf, scale: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the least and greatest difference that keep `x` inside the bounds; never excludes 0.

    `most` (times the scale) is the greatest one anywhere; an element of scale 0 has no room at all.
    """
    x = x.detach().to(torch.promote_types(x.dtype, torch.float32))
    if scale is None and bounds is not None:
        return (bounds[0] - x).clamp_(-most, 0), (bounds[1] - x).clamp_(0, most)
    edge = x.new_tensor(most)
    if scale is not None:
        scale = scale.to(x)
        edge = torch.where(scale > 0, edge * scale, 0)
    if bounds is None:
        return -edge, edge
    return (bounds[0] - x).clamp(max=0).maximum(-edge), (bounds[1] - x).clamp(min=0).minimum(edge)


def _added(x: Tensor, params: Tensor, bounds: Bounds) -> Tensor:
    moved = x.to(params.dtype) + params
    if bounds is not None:
        with torch.no_grad():
            # An input outside the bounds by rounding stays where it is: no difference, no change.
            low, high = x.clamp(max=bounds[0]), x.clamp(min=bounds[1])
            inside = moved.clamp(low.to(params.dtype), high.to(params.dtype))
        if not moved.requires_grad:
            return inside.to(x.dtype)
        # The gradient passes straight through: the sum of a projected difference can pass a bound by one rounding
        # step, and a clamp would then hide the gradient that leads back inside.
        moved = (moved - moved.detach()).add_(inside)
    return moved.to(x.dtype)


def _norm(v: Tensor) -> Float[Tensor, " b"]:
    """Euclidean length of each row in float64, so that tiny gradients do not vanish when squared."""
    length: Tensor = torch.linalg.vector_norm(v.flatten(1), dim=1, dtype=torch.float64)
    return length


def _length(v: Tensor, *, spent: bool = False) -> Float[Tensor, " b"]:
    """The same in the dtype of `v`: half the time, and the pairwise sum keeps the rounding error near 1e-7.

    With `spent` the memory of `v` may be used: nobody needs its values any more.
    """
    flat = v.flatten(1)
    return (flat.square_() if spent else flat.square()).sum(1).double().sqrt()


def _rows(factor: Tensor, like: Tensor) -> Tensor:
    return factor.to(like.dtype).view(-1, *[1] * (like.ndim - 1))
