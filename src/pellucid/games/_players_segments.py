"""Segments of an image as players: a label map of your own, or superpixels."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from pellucid.core import MissingExtra, Players

from ._players import check_image
from ._players_baselines import Fill, check_fill, fitted, image_baseline


@dataclass(frozen=True, eq=False)
class Segments:
    """The segments of a label map over an image `(C, H, W)` as players, in increasing order of their labels.

    Args:
        labels: int `(H, W)`: any numbers from 0 on name segments; -1 is always present, -2 always absent.
        fill: what an absent segment shows: "mean" (each channel's mean over `background`), "zero", "blur" (the image
            smoothed with a Gaussian as wide as a segment), a tensor that fits an image, or `Marginal(images)`.
        background: `(N, C, H, W)` images for the mean.
        names: one name per segment, in the order of their labels.

    Example:
        >>> import torch
        >>> players = Segments(torch.tensor([[7, 7], [-1, 3]]), fill="zero")(torch.ones(1, 2, 2))
        >>> players.count, players.owner.tolist()
        (2, [[1, 1], [-1, 0]])
    """

    labels: Int[Tensor, "h w"]
    _: KW_ONLY
    fill: Fill = "mean"
    background: Tensor | None = None
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_fill(self.fill, ("mean", "zero", "blur"))
        if int(self.labels.min()) < -2:
            raise ValueError(f"labels must be 0 or more, -1 or -2, got {int(self.labels.min())}")
        if int(self.labels.max()) < 0:
            raise ValueError("labels name no segment; use numbers from 0 on")

    def __call__(self, x: Tensor) -> Players:
        check_image(x)
        if self.labels.shape != x.shape[1:]:
            raise ValueError(f"the label map of {tuple(self.labels.shape)} does not fit an image of {tuple(x.shape)}")
        labels = self.labels.detach().cpu().to(torch.int64)
        known: Tensor = torch.unique(labels[labels >= 0])
        if self.names and len(self.names) != len(known):
            raise ValueError(f"names must give one name per segment, got {len(self.names)} for {len(known)} segments")
        owner = torch.where(labels < 0, labels, torch.searchsorted(known, labels.clamp_min(0)))
        width = (labels.numel() / len(known)) ** 0.5
        baseline, backgrounds = fitted(image_baseline(x, self.fill, self.background, (width, width)), x)
        return Players(owner, baseline, len(known), names=tuple(self.names), backgrounds=backgrounds)


def segments(x: Tensor, count: int, *, compactness: float = 10.0) -> Int[Tensor, "h w"]:
    """Cut an image into about `count` superpixels with SLIC, for `Segments`. Needs scikit-image.

    Args:
        x: image `(C, H, W)`, one or three channels, any range.
        count: about how many segments; SLIC may return fewer.
        compactness: larger values give squarer segments, for an image scaled to [0, 1].

    Returns:
        Labels from 0 on, int64 `(H, W)`.

    Raises:
        MissingExtra: scikit-image is not installed.
    """
    check_image(x)
    if not 1 <= count <= x[0].numel():
        raise ValueError(f"count must be from 1 to the number of pixels, {x[0].numel()}, got {count}")
    try:
        from skimage.segmentation import slic
    except ImportError:
        raise MissingExtra('superpixels need scikit-image: pip install "pellucid[vision]"') from None
    image = x.detach().cpu().to(torch.float64)
    image = (image - image.amin()) / (image.amax() - image.amin()).clamp_min(1e-12)
    color = len(image) == 3
    found = slic(
        image.permute(1, 2, 0).numpy(),
        n_segments=count,
        compactness=compactness if color else compactness / 100,
        convert2lab=color,
        channel_axis=-1,
        start_label=0,
    )
    return torch.from_numpy(found).to(torch.int64)
