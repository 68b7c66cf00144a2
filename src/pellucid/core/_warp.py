"""Move a picture's pixels by a flow, a rotation and a shift: one bilinear resampling, exact where nothing moves."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ._errors import DataError

Padding = Literal["zeros", "border", "reflect"]
"""What lies outside a picture: zeros, its edge pixels continued, or the picture mirrored at its edge pixels."""

PADDINGS: tuple[str, ...] = get_args(Padding)


def warp(
    x: Float[Tensor, "b c h w"],
    *,
    flow: Tensor | None = None,
    deg: Tensor | float = 0.0,
    shift: Tensor | tuple[float, float] = (0.0, 0.0),
    padding: Padding = "zeros",
) -> Float[Tensor, "b c h w"]:
    """Return each picture rotated, then shifted, then bent by its flow, in one bilinear resampling.

    Output pixel p shows the input at

        s = c + R (p - c - shift) + flow[p],    R = [[cos, sin], [-sin, cos]],    c = ((H - 1) / 2, (W - 1) / 2),

    with positions (row, column) in pixels, so that nothing shears when H differs from W. A turn by 90 degrees equals
    `torch.rot90(x, 1, (-2, -1))`: counter-clockwise on the screen; a positive shift moves the picture down and right.
    Where nothing moves, and for whole pixels, the result is exact. Differentiable in everything.

    Positions are computed in float32 at least, whatever the dtype of `x`: in bfloat16 they would be half a pixel off at
    column 128.

    Args:
        x: pictures `(b, C, H, W)`, floating point.
        flow: pixels `(b, 2, H, W)`, rows then columns, by which each output pixel looks elsewhere; None for no flow.
        deg: degrees, one number or `(b,)`.
        shift: pixels (rows, columns), one pair or `(b, 2)`.
        padding: what lies outside the picture. "zeros" is the value 0, which is black only where 0 is the least value.

    Raises:
        DataError: `x` holds no pictures.
        ValueError: flow, angles or shifts do not fit `x`, or the padding is unknown.

    Example:
        >>> picture = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
        >>> warp(picture, shift=(1, 0))
        tensor([[[[0., 0.],
                  [1., 2.]]]])
    """
    check_pictures(x)
    if padding not in PADDINGS:
        raise ValueError(f"padding must be one of {', '.join(PADDINGS)}, got {padding!r}")
    parts = [part for part in (flow, deg, shift) if isinstance(part, Tensor)]
    dtype = torch.float32
    for part in (x, *parts):
        dtype = torch.promote_types(dtype, part.dtype)
    rows, columns = _positions(x, flow, deg, shift, dtype)
    return _sampled(x.to(dtype), rows, columns, padding).to(x.dtype)


def check_pictures(x: Tensor) -> None:
    """Raise a `DataError` unless `x` is a batch of pictures."""
    if not x.is_floating_point() or x.ndim != 4 or x.numel() == 0:
        raise DataError(
            f"only pictures (b, C, H, W) of floating point can be bent, turned or shifted, got {x.dtype} "
            f"{tuple(x.shape)}; distort other inputs by Linf or L2"
        )


def _positions(
    x: Tensor, flow: Tensor | None, deg: Tensor | float, shift: Tensor | tuple[float, float], dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return the rows and columns to look at, each `(b or 1, H, W)`."""
    samples, height, width = len(x), x.shape[-2], x.shape[-1]
    plain = not isinstance(deg, Tensor) and not isinstance(shift, Tensor) and (deg, *shift) == (0, 0, 0)
    if flow is not None and plain:
        # The same numbers without the turn: an attack that bends asks for them at every step.
        rows = torch.arange(height, device=x.device, dtype=dtype)[:, None]
        return _bent(x, rows[None], torch.arange(width, device=x.device, dtype=dtype)[None, None], flow, dtype)
    turn = _per_sample(deg, (), samples, "deg", x, dtype)[:, None, None]
    moved = _per_sample(shift, (2,), samples, "shift", x, dtype)[:, :, None, None]
    middle = ((height - 1) / 2, (width - 1) / 2)
    down = (torch.arange(height, device=x.device, dtype=dtype) - middle[0])[:, None] - moved[:, 0]
    right = torch.arange(width, device=x.device, dtype=dtype) - middle[1] - moved[:, 1]
    cos, sin = torch.cos(turn * (math.pi / 180)), torch.sin(turn * (math.pi / 180))
    rows = middle[0] + cos * down + sin * right
    columns = middle[1] - sin * down + cos * right
    return (rows, columns) if flow is None else _bent(x, rows, columns, flow, dtype)


def _bent(x: Tensor, rows: Tensor, columns: Tensor, flow: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the positions moved by the flow."""
    expected = (len(x), 2, *x.shape[-2:])
    if flow.shape != expected:
        raise ValueError(f"flow must have shape {expected}, got {tuple(flow.shape)}")
    bend = flow.to(x.device, dtype)
    return rows + bend[:, 0], columns + bend[:, 1]


def _per_sample(
    value: Tensor | tuple[float, float] | float,
    tail: tuple[int, ...],
    samples: int,
    name: str,
    x: Tensor,
    dtype: torch.dtype,
) -> Tensor:
    """Return `(b, *tail)`, or `(1, *tail)` for what all samples share."""
    given = torch.as_tensor(value, device=x.device).to(dtype)
    if given.shape == tail:
        return given[None]
    if given.shape != (samples, *tail):
        raise ValueError(f"{name} must have shape {tail} or {(samples, *tail)}, got {tuple(given.shape)}")
    return given


def _sampled(x: Tensor, rows: Tensor, columns: Tensor, padding: Padding) -> Tensor:
    """Return the values at fractional positions.

    Written out instead of `grid_sample`, which scales positions to [-1, 1] and back: that rounds whole pixels to
    fractions, and divides by 0 for a side of one pixel.
    """
    if padding == "zeros":
        # A ring of zeros, so that the picture fades out over one pixel; nothing further out differs from the ring.
        x, rows, columns = F.pad(x, (1, 1, 1, 1)), rows + 1, columns + 1
    height, width = x.shape[-2:]
    if padding == "reflect":
        rows, columns = _mirrored(rows, height), _mirrored(columns, width)
    rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    with torch.no_grad():
        top, left = rows.floor(), columns.floor()
        corner = top.long() * width + left.long()
        below = (top < height - 1).long() * width
        beside = (left < width - 1).long()
    down, right = (rows - top)[:, None], (columns - left)[:, None]
    upper = torch.lerp(_taken(x, corner), _taken(x, corner + beside), right)
    lower = torch.lerp(_taken(x, corner + below), _taken(x, corner + below + beside), right)
    return torch.lerp(upper, lower, down)


def _taken(x: Tensor, index: Tensor) -> Tensor:
    """Return the pixels of the flat index `(b or 1, H, W)` from every channel."""
    flat = x.flatten(2)
    if len(index) == 1:
        found = flat.index_select(2, index.flatten())
    else:
        found = flat.gather(2, index.flatten(1)[:, None].expand(-1, flat.shape[1], -1))
    return found.reshape(*x.shape[:2], *index.shape[1:])


def _mirrored(position: Tensor, size: int) -> Tensor:
    """Fold positions into the picture, mirrored at the centers of its edge pixels."""
    if size == 1:
        return position * 0
    period = 2 * (size - 1)
    folded = position.remainder(period)
    return torch.where(folded > size - 1, period - folded, folded)
