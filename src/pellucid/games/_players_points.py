"""Regions of a point cloud as players."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from pellucid.core import Players

from ._players_baselines import Fill, check_fill, fitted


@dataclass(frozen=True, eq=False)
class Points:
    """Regions of a point cloud `(P, D)` as players: each point belongs to its nearest of `count` spread-out points.

    The regions' points are found by farthest-point sampling, which starts at point `start`; ties go to the lower
    number. Points are moved, never dropped, so every coalition has P points. The first three columns are the position;
    further ones (normals, colors) are filled with them.

    Args:
        count: number of regions; 32 of 1,024 points in the papers.
        fill: where the points of an absent region go: "center" (the cloud's mean), "zero" (the origin), a tensor that
            fits a cloud, or `Marginal(clouds)`.
        start: the first of the spread-out points.

    Example:
        >>> import torch
        >>> line = torch.stack([torch.arange(10.0), torch.zeros(10), torch.zeros(10)], dim=1)
        >>> Points(3)(line).owner[:, 0].tolist()
        [0, 0, 0, 2, 2, 2, 2, 1, 1, 1]
    """

    count: int = 32
    _: KW_ONLY
    fill: Fill = "center"
    start: int = 0

    def __post_init__(self) -> None:
        check_fill(self.fill, ("center", "zero"))
        if self.count < 1:
            raise ValueError(f"count must be at least 1, got {self.count}")

    def __call__(self, x: Tensor) -> Players:
        if x.ndim != 2 or x.shape[1] < 3 or not x.is_floating_point():
            raise ValueError(f"a point cloud must have shape (points, 3 or more), got {tuple(x.shape)} {x.dtype}")
        fill = self.fill
        if isinstance(fill, str):
            zero = torch.zeros(1, x.shape[1], dtype=x.dtype, device=x.device)
            fill = zero if fill == "zero" else x.detach().to(torch.float64).mean(0, keepdim=True)
        baseline, backgrounds = fitted(fill, x)
        owner = regions(x[:, :3], self.count, start=self.start)
        return Players(owner[:, None], baseline, self.count, backgrounds=backgrounds)


def regions(points: Tensor, count: int, *, start: int = 0) -> Int[Tensor, " points"]:
    """Return each point's region, int64 `(P,)`, by farthest-point sampling.

    Raises:
        ValueError: the cloud has fewer than `count` different points, or no point `start`.
    """
    cloud = points.detach().cpu().to(torch.float64)
    if not 0 <= start < len(cloud):
        raise ValueError(f"start must name one of the {len(cloud)} points, got {start}")
    owner = torch.zeros(len(cloud), dtype=torch.int64)
    nearest = torch.full((len(cloud),), torch.inf, dtype=torch.float64)
    center = start
    for region in range(count):
        if region:
            center = int(nearest.argmax())
            if float(nearest[center]) == 0:
                raise ValueError(f"the cloud has only {region} different points, too few for {count} regions")
        distance = (cloud - cloud[center]).square().sum(1)
        closer = distance < nearest
        owner[closer] = region
        nearest = torch.minimum(nearest, distance)
    return owner
