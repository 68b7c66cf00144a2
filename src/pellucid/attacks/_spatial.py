"""Distortions that move pixels: local flows, turns with shifts of the whole picture, and both in one resampling.

Pixels are only mixed bilinearly: rendered pictures stay within the range of `x`, except that padding "zeros" lets the
value 0 in. Where 0 is not the least legal value (pictures normalized to mean 0), these
zeros are not black; "border" and "reflect" never leave the range.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal, final, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from pellucid.core import PADDINGS, Padding, Stream, check_pictures, warp

START = 1 / 6
"""Random flows begin within this share of the budget: 0.05 px of 0.3, so that the picture is not yet noise."""

First = Literal["turn", "shift", "either"]
"""Which move comes first, and so where the limit of the shift lies: beside the turned picture or beside the upright."""


@final
@dataclass(frozen=True)
class Flow:
    """Every output pixel looks up to `max_px` pixels elsewhere; params are the flow `(b, 2, H, W)`, rows then columns.

    Args:
        max_px: the greatest displacement in each of the two directions, in pixels.
        padding: what lies outside the picture.
        smooth: render with the flow averaged over 3 x 3 pixels, so that neighbors move alike.

    Raises:
        ValueError: `max_px` is negative or not finite, or the padding is unknown.

    Example:
        >>> x = torch.tensor([[[[0.0, 1.0, 0.0]]]])
        >>> flow = torch.zeros(1, 2, 1, 3)
        >>> flow[:, 1] = 0.25
        >>> Flow(0.3).render(x, flow)
        tensor([[[[0.2500, 0.7500, 0.0000]]]])
    """

    max_px: float = 0.3
    padding: Padding = field(default="zeros", kw_only=True)
    smooth: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        _check("max_px", self.max_px, self.padding)

    def zeros(self, x: Tensor) -> Tensor:
        """Return the flow that leaves `x` unchanged: all zeros, at least float32."""
        check_pictures(x)
        return _zeros(x, (2, *x.shape[-2:]))

    def sample(self, x: Tensor, rng: Stream) -> Tensor:
        """Return flows drawn uniformly within a sixth of the budget: further out the picture is noise already."""
        zeros = self.zeros(x)
        most = START * self.max_px
        return rng.uniform(zeros.shape, low=-most, high=most, device=x.device, dtype=zeros.dtype)

    def render(self, x: Tensor, params: Tensor) -> Tensor:
        """Return `x` bent by the flow, in the dtype of `x`."""
        if self.smooth:
            params = F.avg_pool2d(params, 3, stride=1, padding=1, count_include_pad=False)
        return warp(x, flow=params, padding=self.padding)

    def ascent(self, x: Tensor, grad: Tensor, size: float) -> Tensor:
        """Return the step of greatest first-order gain: `size * max_px` pixels along the gradient's sign."""
        return grad.sign().mul_(size * self.max_px)

    def project(self, x: Tensor, params: Tensor) -> Tensor:
        """Return the nearest flow within the budget."""
        return params.clamp(-self.max_px, self.max_px)

    @property
    def budget(self) -> float:
        """The greatest displacement, in pixels."""
        return self.max_px

    def scaled(self, factor: float) -> Flow:
        """Return the same space with `factor` times the displacement."""
        return replace(self, max_px=self.max_px * factor)

    def size(self, x: Tensor, params: Tensor) -> Float[Tensor, " b"]:
        """Return each sample's greatest displacement in one direction, in pixels."""
        return params.detach().flatten(1).abs().amax(1)


@final
@dataclass(frozen=True)
class RotateTranslate:
    """The picture turns and shifts as a whole; params are `(b, 3)`: degrees, pixels down, pixels right.

    Positive angles turn counter-clockwise, positive shifts move down and right. Params are those of a turn with a shift
    after it. A shift before the turn is one after it too, of the same length in another direction, and may then leave
    the square of the shifts that are allowed: by `max_px * (cos + sin)` in one direction. With `first="either"` both
    squares are allowed, so that nobody who moves pictures in the other order finds more.

    Args:
        max_deg: the greatest angle, in degrees.
        max_px: the greatest shift in each of the two directions, in pixels.
        padding: what lies outside the picture.
        share: the share of both that may be used.
        first: the limit is of a shift after the turn ("turn"), of one before it ("shift"), or of either.

    Raises:
        ValueError: a limit is negative or not finite, or padding or order are unknown.

    Example:
        >>> x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
        >>> RotateTranslate(max_deg=90).render(x, torch.tensor([[90.0, 0.0, 0.0]])).round()
        tensor([[[[2., 4.],
                  [1., 3.]]]])
    """

    max_deg: float = 30.0
    max_px: float = 3.0
    padding: Padding = field(default="zeros", kw_only=True)
    share: float = field(default=1.0, kw_only=True)
    first: First = field(default="either", kw_only=True)

    def __post_init__(self) -> None:
        _check("max_deg", self.max_deg, self.padding)
        _check("max_px", self.max_px, self.padding)
        _check("share", self.share, self.padding)
        check_first(self.first)

    def zeros(self, x: Tensor) -> Tensor:
        """Return the angle and shifts that leave `x` unchanged: all zeros, at least float32."""
        check_pictures(x)
        return _zeros(x, (3,))

    def sample(self, x: Tensor, rng: Stream) -> Tensor:
        """Return angles and shifts drawn uniformly from the budget."""
        zeros = self.zeros(x)
        unit = rng.uniform(zeros.shape, low=-1.0, high=1.0, device=x.device, dtype=zeros.dtype)
        params = unit * self.most(zeros)
        if self.first == "turn":
            return params
        swapped = after(params)
        if self.first == "shift":
            return swapped
        return torch.where(rng.child("first").integers(2, (len(x), 1), device=x.device) == 0, params, swapped)

    def render(self, x: Tensor, params: Tensor) -> Tensor:
        """Return `x` turned and shifted, in the dtype of `x`."""
        return warp(x, deg=params[:, 0], shift=params[:, 1:], padding=self.padding)

    def ascent(self, x: Tensor, grad: Tensor, size: float) -> Tensor:
        """Return the step of greatest first-order gain: `size` of each parameter's budget along its sign."""
        return grad.sign() * (size * self.most(grad))

    def project(self, x: Tensor, params: Tensor) -> Tensor:
        """Return the nearest angles within the budget, with the nearest shifts at these."""
        most = self.most(params)
        near = params.clamp(-most, most)
        if self.first == "turn":
            return near
        given = torch.cat([near[:, :1], params[:, 1:]], dim=1)
        upright = before(given)
        within = upright.clamp(-most, most)
        # Turned there and back, a shift at its limit is off by rounding: it stays as it is.
        inside = (upright.abs() <= most * (1 + _rounding(params))).all(1, keepdim=True)
        back = torch.where(inside, given, after(within))
        if self.first == "shift":
            return back
        nearer = (upright - within).square().sum(1) < (given - near).square().sum(1)
        return torch.where(nearer[:, None] | inside, back, near)

    @property
    def budget(self) -> float:
        """The share of both limits that may be used."""
        return self.share

    def scaled(self, factor: float) -> RotateTranslate:
        """Return the same space with `factor` times the share of its limits."""
        return replace(self, share=self.share * factor)

    def size(self, x: Tensor, params: Tensor) -> Float[Tensor, " b"]:
        """Return the largest of the shares of `max_deg` and `max_px` that each sample uses."""
        limits = params.new_tensor([self.max_deg, self.max_px, self.max_px])
        counted, _ = self.counted(params)
        return _shares(torch.cat([params[:, :1].detach(), counted], dim=1), limits).amax(1)

    def counted(self, params: Tensor) -> tuple[Float[Tensor, "b 2"], Bool[Tensor, " b"]]:
        """Return the shifts that the limit is of, and whether each comes before the turn."""
        params = params.detach()
        turned = params[:, 1:]
        # Less rounding, so that a shift at its limit is not beyond it once turned there and back.
        upright = before(params)[:, 1:] * (1 - _rounding(params))
        if self.first == "turn":
            return turned, torch.zeros(len(params), dtype=torch.bool, device=params.device)
        less = upright.abs().amax(1) < turned.abs().amax(1) * (1 - 2 * _rounding(params))
        comes_first = torch.ones_like(less) if self.first == "shift" else less
        return torch.where(comes_first[:, None], upright, turned), comes_first

    def most(self, like: Tensor) -> Float[Tensor, " 3"]:
        """Return the greatest angle and shifts allowed."""
        return like.new_tensor([self.max_deg, self.max_px, self.max_px]) * self.share


@final
@dataclass(frozen=True)
class Spatial:
    """The picture turns, shifts and bends in one resampling; params are `(b, 3 + 2HW)`: angle, shifts, then the flow.

    Args:
        flow_px: the greatest displacement of a pixel beyond the turn and shift, in each direction, in pixels.
        max_deg: the greatest angle, in degrees.
        max_px: the greatest shift in each of the two directions, in pixels.
        padding: what lies outside the picture.
        share: the share of all three that may be used.
        first: as for `RotateTranslate`.

    Raises:
        ValueError: a limit is negative or not finite, or padding or order are unknown.
    """

    flow_px: float = 0.3
    max_deg: float = 30.0
    max_px: float = 3.0
    padding: Padding = field(default="zeros", kw_only=True)
    share: float = field(default=1.0, kw_only=True)
    first: First = field(default="either", kw_only=True)

    def __post_init__(self) -> None:
        _check("flow_px", self.flow_px, self.padding)
        _check("max_deg", self.max_deg, self.padding)
        _check("max_px", self.max_px, self.padding)
        _check("share", self.share, self.padding)
        check_first(self.first)

    @property
    def flow(self) -> Flow:
        """The local part."""
        return Flow(self.flow_px * self.share, padding=self.padding)

    @property
    def rigid(self) -> RotateTranslate:
        """The global part."""
        return RotateTranslate(self.max_deg, self.max_px, padding=self.padding, share=self.share, first=self.first)

    def join(self, rigid: Tensor | None, flow: Tensor | None, x: Tensor) -> Tensor:
        """Return the params of an angle with shifts `(b, 3)` and a flow `(b, 2, H, W)`; None for none."""
        rigid = self.rigid.zeros(x) if rigid is None else rigid
        flow = self.flow.zeros(x) if flow is None else flow
        return torch.cat([rigid, flow.flatten(1)], dim=1)

    def zeros(self, x: Tensor) -> Tensor:
        """Return the parameters that leave `x` unchanged: all zeros, at least float32."""
        return self.join(None, None, x)

    def sample(self, x: Tensor, rng: Stream) -> Tensor:
        """Return angles and shifts drawn from their whole budget, and small flows."""
        return self.join(self.rigid.sample(x, rng.child("rigid")), self.flow.sample(x, rng.child("flow")), x)

    def render(self, x: Tensor, params: Tensor) -> Tensor:
        """Return `x` turned, shifted and bent, in the dtype of `x`."""
        flow = params[:, 3:].reshape(len(x), 2, *x.shape[-2:])
        return warp(x, flow=flow, deg=params[:, 0], shift=params[:, 1:3], padding=self.padding)

    def ascent(self, x: Tensor, grad: Tensor, size: float) -> Tensor:
        """Return the step of greatest first-order gain: `size` of each parameter's budget along its sign."""
        return grad.sign() * (size * self.most(grad))

    def project(self, x: Tensor, params: Tensor) -> Tensor:
        """Return the nearest parameters within the budget."""
        return torch.cat([self.rigid.project(x, params[:, :3]), self.flow.project(x, params[:, 3:])], dim=1)

    @property
    def budget(self) -> float:
        """The share of the limits that may be used."""
        return self.share

    def scaled(self, factor: float) -> Spatial:
        """Return the same space with `factor` times the share of its limits."""
        return replace(self, share=self.share * factor)

    def size(self, x: Tensor, params: Tensor) -> Float[Tensor, " b"]:
        """Return the largest of the shares of the three limits that each sample uses."""
        bent = _shares(params[:, 3:].detach(), params.new_tensor(self.flow_px)).amax(1)
        return torch.maximum(self.rigid.size(x, params[:, :3]), bent)

    def most(self, like: Tensor) -> Float[Tensor, " p"]:
        """Return the greatest value allowed of each parameter."""
        rigid, flow = self.rigid.most(like), self.flow_px * self.share
        return torch.cat([rigid, rigid.new_full((like.shape[1] - 3,), flow)])


def before(params: Float[Tensor, "b 3"]) -> Float[Tensor, "b 3"]:
    """Return each angle with the shift before the turn that does what the shift after it does."""
    return _turned(params, 1.0)


def after(params: Float[Tensor, "b 3"]) -> Float[Tensor, "b 3"]:
    """Return each angle with the shift after the turn that does what the shift before it does."""
    return _turned(params, -1.0)


def _turned(params: Tensor, sense: float) -> Tensor:
    angle, down, right = params.unbind(1)
    cos, sin = torch.cos(angle * (math.pi / 180)), torch.sin(angle * (sense * math.pi / 180))
    return torch.stack([angle, cos * down + sin * right, cos * right - sin * down], dim=1)


def _rounding(params: Tensor) -> float:
    return 16 * torch.finfo(params.dtype).eps


def check_first(first: str) -> None:
    """Raise a `ValueError` unless this is an order of turn and shift."""
    if first not in get_args(First):
        raise ValueError(f"first must be one of {', '.join(get_args(First))}, got {first!r}")


def _check(name: str, value: float, padding: str) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} must be a finite number of at least 0, got {value!r}")
    if padding not in PADDINGS:
        raise ValueError(f"padding must be one of {', '.join(PADDINGS)}, got {padding!r}")


def _zeros(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    return torch.zeros((len(x), *shape), device=x.device, dtype=torch.promote_types(x.dtype, torch.float32))


def _shares(params: Tensor, limits: Tensor) -> Tensor:
    """Return how much of each limit is used; nothing of a limit of 0 unless it is overstepped."""
    return torch.where(params == 0, 0, params.abs() / limits)
