"""Linear maps whose largest gain is bounded: of the map itself, not of its reshaped kernel."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_input

from pellucid.core import device_of, evaluating

LinearMap = nn.Linear | nn.Conv2d | nn.ConvTranspose2d
FIRST_ITERATIONS = 50
"""The vectors start at random: by then they are near the singular pair, and a few per step keep them there."""

ITERATIONS = 4
"""Per pass in training; each takes one sample through the map and back, little beside a batch in many time steps."""

_TINY = 1e-12


@final
class SpectralBound(nn.Module):
    """How can a map's largest gain stay below a bound while it is trained?

    The weight is `W = clamp(g, -bound, bound) W0 / s(W0)` with the learned scale g, which starts at `s(W0)` or the
    bound, and s the largest singular value by power iteration. For a convolution that is the gain of the convolution
    itself, on inputs of the given size. The reshaped kernel, which many programs normalize instead, can have a value as
    many times smaller as the kernel has pixels on a side.

    Power iteration comes from below, so right after a large step of an optimizer the gain may exceed the bound by a
    percent or so, until the next passes in training have followed.

    Args:
        map: a linear layer, a convolution, or a transposed convolution with zero padding.
        bound: largest gain.
        of: "operator" bounds the map itself; "kernel" the reshaped kernel `(out, in k k)`, for reproduction.
        size: height and width of the map's inputs; needed for convolutions and "operator".

    Raises:
        ValueError: a bound that is not positive, or no size where one is needed.
        TypeError: another kind of layer.

    Example:
        >>> bounded = SpectralBound(nn.Conv2d(4, 4, 5, padding=2, bias=False), bound=1.0, size=(8, 8))
        >>> bounded.gain() < 1.05
        True

    Source: arXiv:2109.14247, with the norm of the convolution in place of the kernel's.
    """

    vector: Tensor

    def __init__(
        self,
        map: nn.Module,
        *,
        bound: float = 1.0,
        of: Literal["operator", "kernel"] = "operator",
        size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(map, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            raise TypeError(f"map must be nn.Linear, nn.Conv2d or nn.ConvTranspose2d, got {type(map).__name__}")
        if not (math.isfinite(bound) and bound > 0):
            raise ValueError(f"bound must be a positive number, got {bound}")
        if getattr(map, "padding_mode", "zeros") != "zeros" or isinstance(getattr(map, "padding", 0), str):
            raise ValueError("map must pad with zeros, by numbers of pixels")
        if of == "operator" and not isinstance(map, nn.Linear) and size is None:
            raise ValueError("size is needed for a convolution: height and width of its inputs, such as (14, 14)")
        self.map: LinearMap = map
        self.bound, self.of, self.size = bound, of, size
        self._held: Tensor | None = None
        weight = map.weight.detach()
        self.register_buffer("vector", torch.randn(self._vector_shape(), dtype=weight.dtype))
        self._iterate(weight, FIRST_ITERATIONS)
        self.scale = nn.Parameter(self._value(weight).clamp(max=bound))

    def _vector_shape(self) -> tuple[int, ...]:
        if self.of == "kernel" or isinstance(self.map, nn.Linear):
            return (self.map.weight[0].numel(),)
        assert self.size is not None  # checked above
        return (1, self.map.in_channels, *self.size)

    @property
    def weight(self) -> Tensor:
        """The bounded weight; each reading in training mode follows the weight by a few power iterations."""
        if self._held is not None:
            return self._held
        weight = self.map.weight
        if self.training:
            self._iterate(weight.detach(), ITERATIONS)
        scale: Tensor = _Within.apply(self.scale, self.bound)  # type: ignore[no-untyped-call]
        return scale * weight / self._value(weight)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Compute the weight once for all passes inside the block."""
        if self._held is not None:
            yield
            return
        self._held = self.weight
        try:
            yield
        finally:
            self._held = None

    def forward(self, x: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        """Return the bounded map of `x`."""
        return self._applied(x, self.weight, self.map.bias)

    def gain(self, iterations: int = 200) -> float:
        """Return the largest gain of the map as it is now, measured on inputs of its size; sizes do not change it much.

        Args:
            iterations: of the power iteration, which comes from below.
        """
        if self.of == "kernel" and not isinstance(self.map, nn.Linear) and self.size is None:
            raise ValueError("the gain of a convolution depends on the size of its inputs; give `size`")
        if isinstance(self.map, nn.Linear):
            shape: tuple[int, ...] = (self.map.in_features,)
        else:
            assert self.size is not None
            shape = (self.map.in_channels, *self.size)
        return operator_norm(self, shape, iterations=iterations)

    def extra_repr(self) -> str:
        """What torch prints beside the map."""
        return f"bound={self.bound:g}, of={self.of}"

    @torch.no_grad()
    def _iterate(self, weight: Tensor, times: int) -> None:
        v = self.vector
        for _ in range(times):
            v = self._adjoint(_normed(self._times(v, weight)), weight)
            v = _normed(v)
        self.vector.copy_(v)

    def _value(self, weight: Tensor) -> Tensor:
        """Return the singular value at the held vector; its gradient is that of the value itself."""
        v = self.vector.clone()  # the buffer moves on before the backward pass
        image = self._times(v, weight)
        with torch.no_grad():
            u = _normed(image)
        return (u * image).sum().clamp_min(_TINY)

    def _times(self, v: Tensor, weight: Tensor) -> Tensor:
        if v.ndim == 1:
            return weight.flatten(1) @ v
        return self._applied(v, weight, None)

    def _adjoint(self, u: Tensor, weight: Tensor) -> Tensor:
        if self.vector.ndim == 1:
            return weight.flatten(1).T @ u
        map = self.map
        if isinstance(map, nn.ConvTranspose2d):
            return F.conv2d(u, weight, None, map.stride, map.padding, map.dilation, map.groups)
        assert isinstance(map, nn.Conv2d)
        return conv2d_input(self.vector.shape, weight, u, map.stride, map.padding, map.dilation, map.groups)  # type: ignore[no-any-return, no-untyped-call]

    def _applied(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        map = self.map
        if isinstance(map, nn.Linear):
            return F.linear(x, weight, bias)
        if isinstance(map, nn.ConvTranspose2d):
            return F.conv_transpose2d(
                x,
                weight,
                bias,
                map.stride,
                map.padding,  # type: ignore[arg-type]
                map.output_padding,
                map.groups,
                map.dilation,
            )
        return F.conv2d(x, weight, bias, map.stride, map.padding, map.dilation, map.groups)


class _Within(torch.autograd.Function):
    """The scale within the bound. At the bound the gradient that leads inwards passes; a clamp would hold it there."""

    @staticmethod
    def forward(ctx: Any, scale: Tensor, bound: float) -> Tensor:
        ctx.save_for_backward(scale)
        ctx.bound = bound
        return scale.clamp(-bound, bound)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (scale,) = ctx.saved_tensors
        passes = (scale.abs() < ctx.bound) | (grad * scale > 0)
        return grad * passes, None


def operator_norm(
    map: Callable[[Tensor], Tensor], shape: tuple[int, ...], *, iterations: int = 100, seed: int = 0
) -> float:
    """Return the largest gain of an affine map on inputs of a shape, by power iteration, from below.

    Args:
        map: an affine module or function of batches `(B, *shape)`; one in training mode is asked in eval mode.
        shape: of one input.
        iterations: at most; stops when the value no longer moves.
        seed: of the random start.

    Example:
        >>> round(operator_norm(lambda x: 3 * x + 1, (5,)), 6)
        3.0
    """
    parameter = next(map.parameters(), None) if isinstance(map, nn.Module) else None
    dtype = torch.get_default_dtype() if parameter is None else parameter.dtype
    generator = torch.Generator().manual_seed(seed)
    v = torch.randn((1, *shape), generator=generator, dtype=dtype).to(device_of(map))
    value = 0.0
    with evaluating(map), torch.enable_grad():
        zero = torch.zeros_like(v, requires_grad=True)
        image = map(zero)
        # The adjoint of an affine map is the same everywhere: one graph serves all iterations.
        offset = image.detach()
        v = _normed(v)
        for _ in range(iterations):
            with torch.no_grad():
                u = map(v) - offset
                before, value = value, float(u.norm())
            if value < _TINY or abs(value - before) <= 1e-6 * value:
                break
            (w,) = torch.autograd.grad(image, zero, u / value, retain_graph=True)
            v = _normed(w)
    return value


def _normed(x: Tensor) -> Tensor:
    normed: Tensor = x / torch.linalg.vector_norm(x).clamp_min(_TINY)
    return normed
