"""One distortion after another, such as a turn of the picture and then noise on its pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.core import Space, Stream


@final
@dataclass(frozen=True, init=False)
class Chain:
    """The first space distorts the input, the second what came out, and so on; params are all theirs, flat `(b, P)`.

    Each part is projected knowing what the parts before it made of the input.

    Args:
        spaces: two spaces or more, in the order of their action.
        share: the share of every part's budget that may be used.

    Raises:
        ValueError: fewer than two spaces, or a share that is negative or not finite.

    Example:
        >>> from pellucid.attacks import Linf, RotateTranslate
        >>> x = torch.rand(2, 3, 8, 8)
        >>> Chain(RotateTranslate(), Linf(0.03)).zeros(x).shape
        torch.Size([2, 195])
    """

    spaces: tuple[Space, ...]
    share: float

    def __init__(self, *spaces: Space, share: float = 1.0) -> None:
        if len(spaces) < 2:
            raise ValueError(f"a chain needs two spaces or more, got {len(spaces)}")
        if not (math.isfinite(share) and share >= 0):
            raise ValueError(f"share must be a finite number of at least 0, got {share!r}")
        object.__setattr__(self, "spaces", spaces)
        object.__setattr__(self, "share", share)

    @property
    def parts(self) -> tuple[Space, ...]:
        """The spaces within the share that may be used."""
        return tuple(space.scaled(self.share) for space in self.spaces)

    def split(self, x: Tensor, params: Tensor) -> list[Tensor]:
        """Return each space's own params."""
        shapes = [space.zeros(x[:1].detach()).shape[1:] for space in self.spaces]
        flat = torch.split(params, [math.prod(shape) for shape in shapes], dim=1)
        return [part.reshape(len(params), *shape) for part, shape in zip(flat, shapes, strict=True)]

    def zeros(self, x: Tensor) -> Tensor:
        """Return the parameters that leave `x` unchanged: all zeros, at least float32."""
        return _flat([space.zeros(x) for space in self.spaces])

    def sample(self, x: Tensor, rng: Stream) -> Tensor:
        """Return a random start of every part, each drawn knowing what the parts before it made of the input."""
        drawn = []
        with torch.no_grad():
            for position, space in enumerate(self.parts):
                drawn.append(space.sample(x, rng.child("part", position)))
                x = space.render(x, drawn[-1])
        return _flat(drawn)

    def render(self, x: Tensor, params: Tensor) -> Tensor:
        """Return `x` distorted by one part after another, in the dtype of `x`."""
        steps = zip(self.parts, self.split(x, params), strict=True)
        return reduce(lambda made, step: step[0].render(made, step[1]), steps, x)

    def ascent(self, x: Tensor, grad: Tensor, size: float) -> Tensor:
        """Return every part's steepest step, `size` of its own budget."""
        steps = zip(self.parts, self.split(x, grad), strict=True)
        return _flat([space.ascent(x, part, size) for space, part in steps])

    def project(self, x: Tensor, params: Tensor) -> Tensor:
        """Return every part's nearest parameters within its budget, given what the parts before it make of `x`."""
        near = []
        with torch.no_grad():
            for space, part in zip(self.parts, self.split(x, params), strict=True):
                near.append(space.project(x, part))
                x = space.render(x, near[-1])
        return _flat(near)

    @property
    def budget(self) -> float:
        """The share of every part's budget that may be used."""
        return self.share

    def scaled(self, factor: float) -> Chain:
        """Return the same chain with `factor` times the share of every part's budget."""
        return Chain(*self.spaces, share=self.share * factor)

    def size(self, x: Tensor, params: Tensor) -> Float[Tensor, " b"]:
        """Return the largest of the shares that each sample uses of the parts' budgets."""
        shares = []
        for space, part in zip(self.spaces, self.split(x, params), strict=True):
            size = space.size(x, part)
            shares.append(torch.where(size == 0, 0, size / space.budget))
        return torch.stack(shares).amax(0)


def _flat(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([part.flatten(1) for part in parts], dim=1)
