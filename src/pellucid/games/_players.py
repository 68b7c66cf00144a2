"""Who the players of an image or of a table's row are, and what takes an absent player's place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from pellucid.core import Players

from ._players_baselines import Fill, check_fill, fitted, image_baseline, mean_of

Cells = int | tuple[int, int]


def _cells(size: int, count: int) -> Tensor:
    return torch.arange(size) * count // size


def check_image(x: Tensor) -> None:
    """Raise a `ValueError` unless `x` is one image."""
    if x.ndim != 3:
        raise ValueError(f"an image must have shape (channels, height, width), got {tuple(x.shape)}")


@dataclass(frozen=True, eq=False)
class Patches:
    """The cells of a grid over an image `(C, H, W)` as players, counted row by row.

    Pixel (r, c) belongs to cell (floor(r * rows / H), floor(c * columns / W)); all channels of a pixel share its cell.

    Args:
        grid: cells per side, or (rows, columns).
        fill: what an absent cell shows: "mean" (each channel's mean over `background`), "zero" (in the model's input
            space), "blur" (the image smoothed with a Gaussian as wide as a cell), a tensor that fits an image, or
            `Marginal(images)`.
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
        check_fill(self.fill, ("mean", "zero", "blur"))
        if min(self.shape) < 1:
            raise ValueError(f"grid must have at least one row and one column, got {self.grid}")

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the grid."""
        return (self.grid, self.grid) if isinstance(self.grid, int) else self.grid

    def __call__(self, x: Tensor) -> Players:
        check_image(x)
        (rows, columns), (height, width) = self.shape, x.shape[1:]
        if rows > height or columns > width:
            raise ValueError(
                f"a grid of {rows} x {columns} cells is larger than the image of {height} x {width} pixels"
            )
        owner = _cells(height, rows)[:, None] * columns + _cells(width, columns)[None, :]
        blurred = image_baseline(x, self.fill, self.background, (height / rows, width / columns))
        baseline, backgrounds = fitted(blurred, x)
        return Players(owner, baseline, rows * columns, grid=(rows, columns), backgrounds=backgrounds)


@dataclass(frozen=True, eq=False)
class Features:
    """The entries of a vector `(D,)`, or groups of them, as players.

    Args:
        fill: what an absent feature shows: "mean" (over `background`), "zero", a tensor that fits a vector, or
            `Marginal(rows)`.
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
        check_fill(self.fill, ("mean", "zero"))

    def __call__(self, x: Tensor) -> Players:
        if x.ndim != 1:
            raise ValueError(f"a feature vector must have shape (features,), got {tuple(x.shape)}")
        owner, count = self._owner(len(x))
        if self.names and len(self.names) != count:
            raise ValueError(f"names must give one name per player, got {len(self.names)} for {count} players")
        fill = self.fill
        if isinstance(fill, str):
            zero = torch.zeros(1, dtype=x.dtype, device=x.device)
            fill = zero if fill == "zero" else mean_of(self.background, "feature vectors")
        baseline, backgrounds = fitted(fill, x)
        return Players(owner, baseline, count, names=tuple(self.names), backgrounds=backgrounds)

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
