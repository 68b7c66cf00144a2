"""Square Attack (Andriushchenko et al. 2020, arXiv:1912.00049): random search that needs no gradient at all."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pellucid.core import Model, Perturbed, Stream

from ._balls import L2, Linf
from ._candidates import Candidates, attackable, borrowed
from ._losses import Loss, margin_loss

_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # of 10,000 queries: where the window's area halves


@final
@dataclass(frozen=True)
class Square:
    """Can random windows of full strength make the model err? A search by queries only: no gradient can mislead it.

    A query changes one random window of the best distortion so far; the change stays where it raises the loss. Linf:
    the window takes the whole radius, one random sign per channel. L2: the window takes over the length of a second
    window and what the bounds left unused. Windows shrink on the paper's schedule. They are squares of images
    `(b, c, h, w)`; of other inputs (tables, signals, sets) they are random sets of elements. Each sample draws its
    own, and a fooled sample makes no more queries.

    Args:
        space: a `Linf` or `L2` ball.
        queries: most queries per sample; 0 gives the inputs back.
        p_init: share of the elements that the first windows cover.
        loss: what a query must raise.

    Raises:
        TypeError: the space is neither `Linf` nor `L2`.
        ValueError: a setting is out of range.

    Example:
        >>> from pellucid.attacks import Linf, Square
        >>> identity = lambda x: x
        >>> attack = Square(Linf(0.2), queries=50)
        >>> attack(identity, torch.tensor([[0.6, 0.4]]), torch.tensor([0]), rng=Stream(0)).success
        tensor([True])
    """

    space: Linf | L2
    queries: int = field(default=5000, kw_only=True)
    p_init: float = field(default=0.8, kw_only=True)
    loss: Loss = field(default=margin_loss, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.space, Linf | L2):
            raise TypeError(f"space must be a Linf or L2 ball, got {type(self.space).__name__}; use RandomSearch there")
        if self.queries < 0:
            raise ValueError(f"queries must be at least 0, got {self.queries}")
        if not 0 < self.p_init <= 1:
            raise ValueError(f"p_init must be a share above 0 and at most 1, got {self.p_init}")

    @property
    def cost(self) -> int:
        """Most evaluations per sample."""
        return 1 if self._idle else self.queries + 3

    @property
    def _idle(self) -> bool:
        return self.queries == 0 or self.space.eps == 0

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
        """Attack a batch; arguments and errors as for `PGD`. `start` replaces the first point, random stripes."""
        with borrowed(model), torch.no_grad():
            x, y = attackable(x, y)
            zeros = self.space.zeros(x)
            found = Candidates(model, self.space, self.loss, x, y, rng, target=target, early_stop=True)
            if self._idle:
                return found.result(zeros)
            shape = tuple(x.shape[1:]) if x.ndim == 4 else (1, 1, x[0].numel())
            windows = _Windows(self.space, shape, image=x.ndim == 4)
            found.offer(
                windows.first(x, found.stream("first")) if start is None else self.space.project(x, start.to(zeros))
            )
            for query in range(self.queries):
                found.drop()
                if not len(found):
                    break
                share = self.p_init * _shrunk(query / self.queries)
                found.offer(windows.changed(found.x, found.best, share, found.stream("query", query)))
            found.try_inputs()
            return found.result()


class _Windows:
    """Random changes of distortions, in units of the scale, seen as pictures `(b, c, h, w)`."""

    def __init__(self, space: Linf | L2, shape: tuple[int, ...], *, image: bool) -> None:
        self.space, self.image = space, image
        self.channels, self.height, self.width = shape
        self.ball = isinstance(space, L2)

    def first(self, x: Tensor, rng: Stream) -> Tensor:
        """Return the start: vertical stripes of random sign (Linf), a tiling of windows (L2); plain signs elsewhere."""
        b = len(x)
        if not self.ball:
            rows = 1 if self.image else self.height
            unit = _signs(rng, (b, self.channels, rows, self.width), x).expand(b, -1, self.height, -1)
            return self._out(x, self.space.eps * unit)
        if not self.image:
            return self._out(x, self._full(_signs(rng, (b, 1, 1, self.width), x)))
        side = max(1, min(self.height, self.width) // 5)
        down, across = self.height // side, self.width // side
        signs = _signs(rng.child("signs"), (b, self.channels, down, across), x)
        turned = rng.child("turned").integers(2, (b, 1), device=x.device)[:, 0] == 1
        bump = _bump(side).to(signs)
        tile = torch.where(turned[:, None, None], bump.T, bump)[:, None]
        unit = signs.repeat_interleave(side, 2).repeat_interleave(side, 3) * tile.repeat(1, 1, down, across)
        room = torch.nn.functional.pad(unit, (0, self.width - across * side, 0, self.height - down * side))
        return self._out(x, self._full(room))

    def changed(self, x: Tensor, best: Tensor, share: float, rng: Stream) -> Tensor:
        """Return each sample's best distortion with one random window changed."""
        units = self._in(best)
        if not self.ball:
            window, signs = self._window(x, share, rng, least=1)
            return self._out(x, torch.where(window, self.space.eps * signs, units))
        if not self.image:
            return self._out(x, self._full(self._turned(units, x, share, rng)))
        window, pattern = self._window(x, share, rng.child("window"), least=3)
        other, _ = self._window(x, share, rng.child("other"), least=3)
        return self._out(x, self._full(self._moved(units, window, other, pattern)))

    def _turned(self, units: Tensor, x: Tensor, share: float, rng: Stream) -> Tensor:
        """Return the distortion turned by a random angle among a random set of elements, at least two.

        Single elements have no pattern to take over: only a change of direction can trade one against another.
        """
        area = self.height * self.width
        window, _ = self._window(x, max(share, min(1.0, 2 / area)), rng, least=1)
        old = torch.where(window, units, 0)
        pattern = torch.where(window, rng.child("pattern").normal(units.shape, device=x.device, dtype=units.dtype), 0)
        angle = rng.child("angle").uniform((len(x), 1, 1, 1), device=x.device, dtype=units.dtype)
        length = _length(old)
        fresh = old + angle * length.clamp(min=1e-3 * self.space.eps) * pattern / _length(pattern).clamp(min=_TINY)
        unused = (self.space.eps**2 - units.square().sum((1, 2, 3), keepdim=True)).clamp(min=0)
        return torch.where(window, fresh * ((unused + length.square()).sqrt() / _length(fresh).clamp(min=_TINY)), units)

    def _moved(self, units: Tensor, window: Tensor, other: Tensor, pattern: Tensor) -> Tensor:
        """Return the distortion with the length of two windows, and what the ball has left, put into the first one."""
        zero = units.new_zeros(())
        old = torch.where(window, units, zero)
        fresh = pattern + old / _length(old).clamp(min=_TINY)
        unused = (self.space.eps**2 - units.square().sum((1, 2, 3), keepdim=True)).clamp(min=0) / self.channels
        budget = (unused + _length(torch.where(window | other, units, zero)).square()).sqrt()
        fresh = fresh * (budget / _length(fresh).clamp(min=_TINY))
        return torch.where(window, fresh, torch.where(other, zero, units))

    def _window(
        self, x: Tensor, share: float, rng: Stream, *, least: int
    ) -> tuple[Bool[Tensor, "b 1 h w"], Float[Tensor, "b _ _ _"]]:
        """Return a random window of each sample and what to put there: random signs (Linf), a pattern of length 1."""
        b, area = len(x), self.height * self.width
        if not self.image:
            count = min(area, max(1, round(share * area)))
            draws = rng.child("set").uniform((b, area), device=x.device)
            inside = draws <= draws.kthvalue(count, dim=1, keepdim=True).values
            inside = inside[:, None, None]
            each = _signs(rng.child("signs"), (b, 1, 1, area), x)
            return inside, torch.where(inside, each / math.sqrt(count), 0) if self.ball else each
        side = max(round(math.sqrt(share * area)), least)
        side = min(side + 1 - side % 2 if self.ball else side, self.height, self.width)
        low = rng.child("corner").uniform((b, 2), device=x.device, dtype=torch.float64)
        room = low.new_tensor([self.height - side, self.width - side])
        corner = (low * (room + 1)).long()
        down = torch.arange(self.height, device=x.device) - corner[:, :1]
        across = torch.arange(self.width, device=x.device) - corner[:, 1:]
        window = _between(down, side)[:, None, :, None] & _between(across, side)[:, None, None, :]
        signs = _signs(rng.child("signs"), (b, self.channels, 1, 1), x)
        if not self.ball:
            return window, signs
        turned = rng.child("turned").integers(2, (b, 1), device=x.device) == 1
        bump = _bump(side).to(signs)
        rows, columns = down.clamp(0, side - 1)[:, :, None], across.clamp(0, side - 1)[:, None, :]
        rows, columns = rows.expand(b, self.height, self.width), columns.expand(b, self.height, self.width)
        straight = bump[torch.where(turned[:, :, None], columns, rows), torch.where(turned[:, :, None], rows, columns)]
        return window, torch.where(window, straight[:, None] * signs, 0)

    def _full(self, units: Tensor) -> Tensor:
        """Return the distortions at the length of the radius."""
        length = units.square().sum((1, 2, 3), keepdim=True).sqrt()
        return units * (self.space.eps / length.clamp(min=_TINY))

    def _in(self, params: Tensor) -> Tensor:
        scale = self.space.scale
        units = params if scale is None else torch.where(scale.to(params) > 0, params / scale.to(params), 0)
        return units.reshape(len(params), self.channels, self.height, self.width)

    def _out(self, x: Tensor, units: Tensor) -> Tensor:
        params = units.reshape(x.shape)
        scale = self.space.scale
        return self.space.project(x, params if scale is None else params * scale.to(params))


_TINY = 1e-12


def _shrunk(done: float) -> float:
    """Return the factor on a window's area after this share of all queries."""
    return 0.5 ** sum(10_000 * done > edge for edge in _HALVINGS)


def _signs(rng: Stream, shape: tuple[int, ...], x: Tensor) -> Tensor:
    return rng.integers(2, shape, device=x.device).to(torch.promote_types(x.dtype, torch.float32)).mul_(2).sub_(1)


def _between(place: Int[Tensor, "b n"], side: int) -> Bool[Tensor, "b n"]:
    return (place >= 0) & (place < side)


def _length(window: Tensor) -> Tensor:
    """Return each channel's length."""
    return window.square().sum((2, 3), keepdim=True).sqrt()


def _bump(side: int) -> Float[Tensor, "s s"]:
    """Return the paper's pattern of length 1: a hill in one half of the window, its negative in the other."""
    found = torch.zeros(side, side, dtype=torch.float64)
    for rows, sign in ((slice(0, side // 2), 1.0), (slice(side // 2, side), -1.0)):
        part = found[rows]
        height, width = part.shape
        top, left = height // 2, width // 2
        for ring in range(max(height, width) // 2 + 1):
            low_row, low_column = max(top - ring, 0), max(left - ring, 0)
            part[low_row : top + ring + 1, low_column : left + ring + 1] += sign / (ring + 1) ** 2
        if height:
            part /= part.square().sum().sqrt().clamp(min=_TINY)
    return found / found.square().sum().sqrt().clamp(min=_TINY)
