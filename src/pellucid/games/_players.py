"""Who the players of an input are, and what takes an absent player's place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from pellucid.core import Players

Fill = str | Tensor
Cells = int | tuple[int, int]


def _cells(size: int, count: int) -> Tensor:
    return torch.arange(size) * count // size


def _gaussian(size: int, sigma: float) -> Tensor:
    """A smoothing matrix whose rows sum to one, so that borders need no padding."""
    at = torch.arange(size, dtype=torch.float64)
    weights = torch.exp(-0.5 * ((at[:, None] - at[None, :]) / sigma) ** 2)
    return weights / weights.sum(1, keepdim=True)


def _mean(background: Tensor | None, kind: str) -> Tensor:
    if background is None:
        raise ValueError(f'fill="mean" needs background=, a batch of {kind}; or choose fill="zero" or a tensor')
    return background.detach().to(torch.float64).mean(0)


def _broadcastable(baseline: Tensor, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    try:
        torch.broadcast_to(baseline, shape)
    except RuntimeError:
        found = tuple(baseline.shape)
        raise ValueError(f"the baseline has shape {found}, which does not fit an input of {tuple(shape)}") from None
    return baseline.to(dtype)


@dataclass(frozen=True, eq=False)
class Patches:
    """The cells of a grid over an image `(C, H, W)` as players, counted row by row.

    Pixel (r, c) belongs to cell (floor(r * rows / H), floor(c * columns / W)); all channels of a pixel share its cell.

    Args:
        grid: cells per side, or (rows, columns).
        fill: what an absent cell shows: "mean" (each channel's mean over `background`), "zero" (in the model's input
            space), "blur" (the image smoothed with a Gaussian as wide as a cell) or a tensor that fits an image.
        background: `(N, C, H, W)` images for the mean, usually all inputs of the audit.

    Example:
        >>> import torch
        >>> players = Patches(2, fill="zero")(torch.ones(1, 4, 4))
        >>> players.count, players.owner[0].tolist()
        (4, [0, 0, 1, 1])
    """

    grid: Cells
    _: KW_ONLY
    fill: Fill = "mean"
    background: Tensor | None = None

    def __post_init__(self) -> None:
        if isinstance(self.fill, str) and self.fill not in ("mean", "zero", "blur"):
            raise ValueError(f'fill must be "mean", "zero", "blur" or a tensor, got {self.fill!r}')
        if min(self.shape) < 1:
            raise ValueError(f"grid must have at least one row and one column, got {self.grid}")

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the grid."""
        return (self.grid, self.grid) if isinstance(self.grid, int) else self.grid

    def __call__(self, x: Tensor) -> Players:
        if x.ndim != 3:
            raise ValueError(f"an image must have shape (channels, height, width), got {tuple(x.shape)}")
        (rows, columns), (height, width) = self.shape, x.shape[1:]
        if rows > height or columns > width:
            raise ValueError(
                f"a grid of {rows} x {columns} cells is larger than the image of {height} x {width} pixels"
            )
        owner = _cells(height, rows)[:, None] * columns + _cells(width, columns)[None, :]
        baseline = _broadcastable(self._baseline(x), x.shape, x.dtype)
        return Players(owner=owner, baseline=baseline, count=rows * columns, grid=(rows, columns))

    def _baseline(self, x: Tensor) -> Tensor:
        if isinstance(self.fill, Tensor):
            return self.fill.detach()
        if self.fill == "zero":
            return torch.zeros(1, 1, 1, device=x.device)
        if self.fill == "blur":
            (rows, columns), (height, width) = self.shape, x.shape[1:]
            down = _gaussian(height, height / rows).to(x.device)
            across = _gaussian(width, width / columns).to(x.device)
            return down @ x.detach().to(torch.float64) @ across.T
        return _mean(self.background, "images").mean((1, 2), keepdim=True)


@dataclass(frozen=True, eq=False)
class Features:
    """The entries of a vector `(D,)`, or groups of them, as players.

    Args:
        fill: what an absent feature shows: "mean" (over `background`), "zero" or a tensor that fits a vector.
        background: `(N, D)` samples for the mean, usually all inputs of the audit.
        groups: columns of each player; columns in no group are always present. Each column alone if not given.
        names: one name per player.
    """

    _: KW_ONLY
    fill: Fill = "mean"
    background: Tensor | None = None
    groups: Sequence[Sequence[int]] | None = None
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.fill, str) and self.fill not in ("mean", "zero"):
            raise ValueError(f'fill must be "mean", "zero" or a tensor, got {self.fill!r}')

    def __call__(self, x: Tensor) -> Players:
        if x.ndim != 1:
            raise ValueError(f"a feature vector must have shape (features,), got {tuple(x.shape)}")
        owner, count = self._owner(len(x))
        if self.names and len(self.names) != count:
            raise ValueError(f"names must give one name per player, got {len(self.names)} for {count} players")
        if isinstance(self.fill, Tensor):
            baseline = self.fill.detach()
        else:
            zero = torch.zeros(1, device=x.device)
            baseline = zero if self.fill == "zero" else _mean(self.background, "feature vectors")
        return Players(
            owner=owner, baseline=_broadcastable(baseline, x.shape, x.dtype), count=count, names=tuple(self.names)
        )

    def _owner(self, width: int) -> tuple[Tensor, int]:
        if self.groups is None:
            return torch.arange(width), width
        owner = torch.full((width,), -1)
        for player, columns in enumerate(self.groups):
            if not len(columns):
                raise ValueError(f"group {player} is empty; every player needs at least one column")
            for column in columns:
                if not 0 <= column < width:
                    raise ValueError(f"group {player} names column {column}, the input has columns 0 to {width - 1}")
                if owner[column] >= 0:
                    raise ValueError(f"column {column} is in groups {int(owner[column])} and {player}; give it to one")
                owner[column] = player
        return owner, len(self.groups)
