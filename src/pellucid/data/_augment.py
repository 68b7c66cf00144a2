"""Random changes of training samples: mirrors and shifts that leave the class as it is, and mixes of two samples."""

from __future__ import annotations

from typing import Annotated

import msgspec
import torch
from jaxtyping import Float, Int
from msgspec import Meta
from torch import Tensor
from torch.nn import functional as F

from pellucid.core import IGNORED, Stream


class Augment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Mirrors and shifts images and mixes samples at random: what comes out depends on the stream and the ids alone.

    Args:
        flip: mirror left and right, each image with probability 1/2.
        crop: pixels of black added on each side, from which a window of the old size is cut anywhere; 0 for none.
        mixup: mix each sample with another of its batch, in shares drawn from Beta(mixup, mixup) (arXiv:1710.09412);
            1 is usual, 0 for none. Labels are mixed alike, by objectives that know how.

    Example:
        >>> x = torch.arange(4.0).reshape(1, 1, 2, 2)
        >>> Augment(flip=True)(x, rng=Stream(1).at([0])).flatten().tolist()
        [1.0, 0.0, 3.0, 2.0]
    """

    flip: bool = False
    crop: Annotated[int, Meta(ge=0)] = 0
    mixup: Annotated[float, Meta(ge=0)] = 0.0

    def __bool__(self) -> bool:
        """Whether images are changed one by one, as calling this does."""
        return self.flip or self.crop > 0

    def shares(self, count: int, *, rng: Stream, device: torch.device | str | None = None) -> Float[Tensor, " b"]:
        """Draw how much of each of `count` mixes is the sample itself, in [0, 1].

        Args:
            count: number of samples.
            rng: bound to the samples' ids.
            device: of the result.
        """
        drawn = rng.uniform((count, 1), dtype=torch.float64)[:, 0]
        if self.mixup not in (0.0, 1.0):  # Beta(1, 1) is uniform
            from scipy.special import betaincinv

            drawn = torch.from_numpy(betaincinv(self.mixup, self.mixup, drawn.numpy()))
        return drawn.float().to(device)

    def __call__(self, x: Float[Tensor, "b c h w"], *, rng: Stream) -> Float[Tensor, "b c h w"]:
        """Return changed images of the same shape.

        Args:
            x: images.
            rng: bound to the samples' ids.
        """
        return self._moved(x, rng, 0)

    def both(
        self, x: Float[Tensor, "b c h w"], masks: Int[Tensor, "b h w"], *, rng: Stream
    ) -> tuple[Float[Tensor, "b c h w"], Int[Tensor, "b h w"]]:
        """Return changed images, and their masks mirrored and shifted with them.

        The black that a shift brings in has no label.

        Args:
            x: images; they become what they become without masks.
            masks: a class for every pixel.
            rng: bound to the samples' ids.
        """
        return self._moved(x, rng, 0), self._moved(masks[:, None], rng, IGNORED)[:, 0]

    def _moved(self, x: Tensor, rng: Stream, fill: int) -> Tensor:
        count, _, height, width = x.shape
        device = x.device
        rows, columns = torch.arange(height, device=device)[None], torch.arange(width, device=device)[None]
        if self.flip:
            mirrored = rng.child("flip").integers(2, (count, 1), device=device).bool()
            columns = torch.where(mirrored, columns.flip(1), columns)
        if self.crop:
            x = F.pad(x, [self.crop] * 4, value=fill)
            shift = rng.child("crop").integers(2 * self.crop + 1, (count, 2), device=device)
            rows, columns = rows + shift[:, :1], columns + shift[:, 1:]
        places = (rows[:, :, None] * x.shape[3] + columns[:, None, :]).reshape(-1, 1, height * width)
        picked = x.flatten(2).gather(2, places.expand(count, x.shape[1], -1))
        return picked.reshape(count, x.shape[1], height, width)
