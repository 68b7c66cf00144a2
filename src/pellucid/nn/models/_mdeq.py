"""The multi-scale equilibrium network MDEQ for small pictures."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

import msgspec
import torch
from jaxtyping import Float
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.parametrize import is_parametrized

from .._equilibrium import Equilibrium, VariationalDropout
from ._implicit import BackwardSettings, SolverSettings

SMALL = 0.3
"""First size of what a step of the cell makes of the state alone, beside 1 for what it makes of the picture."""

Positive = Annotated[int, Meta(ge=1)]
Deviation = Annotated[float, Meta(gt=0)]


class MDEQSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="mdeq"):
    """Settings of `MDEQ`.

    Args:
        in_channels: channels of an input image.
        image_size: height and width in pixels, a multiple of 2 to the number of halvings.
        channels: of the state at each scale, the finest first; each next scale has half the height and width.
        head: channels of the classifier at each scale, times four.
        features: channels before the last linear layer.
        expansion: how much wider the residual blocks are inside.
        groups: of the group normalizations; twice as wide groups after the scales are joined.
        halvings: how often the picture is halved before the finest scale: 0, 1 or 2.
        dropout: share of the numbers left out in the blocks, with one mask for the whole solve.
        solver, backward: how the equilibrium is found and how its gradient passes.
        classes: number of logits.
        mean, std: of the training pixels, one per channel or one for all; inputs in [0, 1] are normalized inside the
            model. The defaults are CIFAR-10's.
    """

    in_channels: Positive = 3
    image_size: Positive = 32
    channels: tuple[Positive, ...] = (24, 24)
    head: tuple[Positive, ...] = (8, 16)
    features: Positive = 200
    expansion: Positive = 5
    groups: Annotated[int, Meta(ge=2, multiple_of=2)] = 8
    halvings: Annotated[int, Meta(ge=0, le=2)] = 0
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    solver: SolverSettings = SolverSettings()
    backward: BackwardSettings = BackwardSettings()
    classes: Annotated[int, Meta(ge=2)] = 10
    mean: tuple[float, ...] = (0.4914, 0.4822, 0.4465)
    std: tuple[Deviation, ...] = (0.2471, 0.2435, 0.2616)

    def __post_init__(self) -> None:
        if len(self.channels) < 2 or len(self.head) != len(self.channels):
            raise ValueError(
                f"channels and head must name the same two or more scales, got {len(self.channels)} and "
                f"{len(self.head)} numbers; one scale is implicit-conv"
            )
        for width in self.channels:
            if width % self.groups:
                raise ValueError(f"groups must divide all channels, got {self.groups} and {width}")
        most = 2 ** (self.halvings + len(self.channels) - 1)
        if self.image_size % most:
            raise ValueError(f"image_size must be a multiple of {most} for these scales, got {self.image_size}")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, self.in_channels):
                raise ValueError(f"{name} has {len(values)} numbers but images have {self.in_channels} channels")

    def build(self) -> MDEQ:
        """Return the network with fresh weights, drawn from torch's global random state."""
        return MDEQ(self)


class MDEQ(nn.Module):
    """Feature maps at several scales that are in balance with each other and with the picture.

    The state holds one map per scale. One step of the cell lets a residual block work on each, the picture entering at
    the finest, and then adds to each map all others, resized. The equilibrium of this is read by a small classifier.
    Weights inside the cell are normalized (weight normalization); batch normalization stands outside it only, and mixes
    the samples of a batch in training.

    Args:
        settings: sizes, solver and backward pass. As it comes this is the authors' small network for CIFAR-10, 158,986
            parameters; their large one, 11,098,398 parameters, has channels (32, 64, 128, 256), head (14, 28, 56, 112)
            and 1680 features.

    Example:
        >>> model = MDEQ(MDEQSettings(channels=(8, 8), head=(2, 2), features=8, expansion=1, image_size=8))
        >>> tuple(model(torch.rand(2, 3, 8, 8)).shape)
        (2, 10)

    Source: Bai et al. 2020 (arXiv:2006.08656), with the sizes of Geng et al. 2021 (arXiv:2111.05177).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, settings: MDEQSettings | None = None) -> None:
        super().__init__()
        self.settings = settings = settings or MDEQSettings()
        # Settings, not weights: they stay out of the weights file but follow the model's device.
        self.register_buffer("mean", torch.tensor(settings.mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(settings.std).view(-1, 1, 1), persistent=False)
        first = settings.channels[0]
        stem = [
            _normed(settings.in_channels, first, 3, stride=2 if settings.halvings >= 1 else 1),
            _normed(first, first, 3, stride=2 if settings.halvings >= 2 else 1),
        ]
        if settings.halvings or len(settings.channels) > 2:
            stem.append(_normed(first, first, 1))
        self.stem = nn.Sequential(*stem)
        self.equilibrium = Equilibrium(MultiScaleCell(settings), settings.solver.build(), settings.backward.build())
        wide = [4 * width for width in settings.head]
        self.widen = nn.ModuleList(
            _Bottleneck(c, width) for c, width in zip(settings.channels, settings.head, strict=True)
        )
        self.shrink = nn.ModuleList(_normed(a, b, 3, stride=2, bias=True) for a, b in pairwise(wide))
        self.features = _normed(wide[-1], settings.features, 1, bias=True)
        self.linear = nn.Linear(settings.features, settings.classes)
        for part in self.modules():
            if isinstance(part, nn.Conv2d) and not is_parametrized(part):
                # Normalized behind, so any size serves in training; this one is near what batch normalization's running
                # variance starts from, where one of 0.01 is answered wrongly until hundreds of steps have passed.
                nn.init.kaiming_normal_(part.weight, nonlinearity="relu")

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """Return logits for images in [0, 1]."""
        x = self.stem((x - self.mean) / self.std)
        start = tuple(
            x.new_zeros(len(x), width, x.shape[2] >> k, x.shape[3] >> k)
            for k, width in enumerate(self.settings.channels)
        )
        maps = self.equilibrium(start, x)
        y = self.widen[0](maps[0])
        for widen, shrink, map_ in zip(self.widen[1:], self.shrink, maps[1:], strict=True):
            y = widen(map_) + shrink(y)
        return self.linear(self.features(y).mean((2, 3)))  # type: ignore[no-any-return]


class MultiScaleCell(nn.Module):
    """A residual block at each scale, then the sum of all scales at each.

    The picture enters through the block of the finest scale and goes down from there. All that comes from elsewhere
    starts small beside it (`SMALL`): every normalization brings the state's own changes back to full size, so that with
    weights of 1 throughout a fresh network would not settle.
    """

    def __init__(self, settings: MDEQSettings) -> None:
        super().__init__()
        channels, groups = settings.channels, settings.groups
        self.blocks = nn.ModuleList(_Block(c, settings.expansion, groups, settings.dropout) for c in channels)
        for block in self.blocks[1:]:
            _start_small(block.norm3)  # type: ignore[arg-type]
        self.resize = nn.ModuleList(
            nn.ModuleList(_resize(channels, j, i, groups) for j in range(len(channels))) for i in range(len(channels))
        )
        self.join = nn.ModuleList(
            nn.Sequential(nn.ReLU(), _weighted(c, c, 1), _start_small(nn.GroupNorm(groups // 2, c))) for c in channels
        )

    def forward(self, z: tuple[Tensor, ...], x: Tensor) -> tuple[Tensor, ...]:
        """Return the next state; the picture enters at the finest scale."""
        maps = [block(part, x if k == 0 else None) for k, (block, part) in enumerate(zip(self.blocks, z, strict=True))]
        joined = []
        for row, join in zip(self.resize, self.join, strict=True):
            resized = [resize(part) for resize, part in zip(row, maps, strict=True)]  # type: ignore[call-overload]
            joined.append(join(sum(resized[1:], resized[0])))
        return tuple(joined)


class _Block(nn.Module):
    def __init__(self, channels: int, expansion: int, groups: int, dropout: float) -> None:
        super().__init__()
        inside = channels * expansion
        self.conv1, self.conv2 = _weighted(channels, inside, 3), _weighted(inside, channels, 3)
        self.norm1, self.norm2 = nn.GroupNorm(groups, inside), nn.GroupNorm(groups, channels)
        self.norm3 = nn.GroupNorm(groups, channels)
        self.drop = VariationalDropout(dropout, shared=(2, 3))

    def forward(self, z: Tensor, x: Tensor | None) -> Tensor:
        out = self.drop(self.conv2(F.relu(self.norm1(self.conv1(z)))))
        return self.norm3(F.relu(self.norm2(out if x is None else out + x) + z))  # type: ignore[no-any-return]


class _Bottleneck(nn.Module):
    """Three convolutions beside one, as the first thing the classifier does at each scale."""

    def __init__(self, before: int, inside: int) -> None:
        super().__init__()
        after = 4 * inside
        parts: list[nn.Module] = []
        for a, b, kernel in ((before, inside, 1), (inside, inside, 3), (inside, after, 1)):
            parts += [nn.Conv2d(a, b, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(b, affine=False)]
            parts += [nn.ReLU()]
        self.body = nn.Sequential(*parts[:-1])
        self.shortcut: nn.Module = nn.Identity()
        if before != after:
            self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


def _normed(before: int, after: int, kernel: int, *, stride: int = 1, bias: bool = False) -> nn.Sequential:
    conv = nn.Conv2d(before, after, kernel, stride=stride, padding=kernel // 2, bias=bias)
    return nn.Sequential(conv, nn.BatchNorm2d(after), nn.ReLU())


def _weighted(before: int, after: int, kernel: int) -> nn.Module:
    """Return a convolution with weight normalization."""
    conv = nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=False)
    nn.init.normal_(conv.weight, std=0.01)
    weighted: nn.Module = weight_norm(conv, dim=0)
    return weighted


def _start_small(norm: nn.GroupNorm) -> nn.GroupNorm:
    nn.init.constant_(norm.weight, SMALL)
    return norm


def _resize(channels: tuple[int, ...], source: int, target: int, groups: int) -> nn.Module:
    """Return what brings a map of one scale to another: strided convolutions down, repeated pixels up."""
    if source == target:
        return nn.Identity()
    before, after = channels[source], channels[target]
    if source > target:
        conv = nn.Conv2d(before, after, 1, bias=False)
        up = nn.Upsample(scale_factor=2 ** (source - target), mode="nearest")
        return nn.Sequential(conv, _start_small(nn.GroupNorm(groups, after)), up)
    parts: list[nn.Module] = []
    for k in range(source, target):
        width = after if k == target - 1 else before
        norm = nn.GroupNorm(groups, width)
        norm = _start_small(norm) if source else norm
        parts += [nn.Conv2d(before, width, 3, stride=2, padding=1, bias=False), norm, nn.ReLU()]
    return nn.Sequential(*parts[:-1])
