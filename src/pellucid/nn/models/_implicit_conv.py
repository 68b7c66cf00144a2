"""A classifier of pictures with one convolutional equilibrium, and the explicit network to set beside it."""

from __future__ import annotations

from typing import Annotated

import msgspec
import torch
from jaxtyping import Float
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from .._equilibrium import Equilibrium
from ._implicit import BackwardSettings, SolverSettings

Positive = Annotated[int, Meta(ge=1)]


class ImplicitConvSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="implicit-conv"
):
    """Settings of `ImplicitConv`.

    Args:
        in_channels: channels of an input image.
        image_size: height and width in pixels, a multiple of four.
        channels: of the equilibrium's state, on maps of half the image's size.
        groups: of the group normalizations; they must divide `channels`.
        solver, backward: how the equilibrium is found and how its gradient passes.
        depth: 0 solves for the equilibrium; k puts k cells in a row in its place, each with weights of its own: the
            explicit network that costs as much as k steps.
        classes: number of logits.
        mean, std: of the training pixels; inputs in [0, 1] are normalized inside the model. The defaults are
            Fashion-MNIST's.
    """

    in_channels: Positive = 1
    image_size: Annotated[int, Meta(ge=4, multiple_of=4)] = 28
    channels: Positive = 24
    groups: Positive = 8
    solver: SolverSettings = SolverSettings()
    backward: BackwardSettings = BackwardSettings()
    depth: Annotated[int, Meta(ge=0)] = 0
    classes: Annotated[int, Meta(ge=2)] = 10
    mean: float = 0.286
    std: Annotated[float, Meta(gt=0)] = 0.353

    def __post_init__(self) -> None:
        if self.channels % self.groups:
            raise ValueError(f"groups must divide channels, got {self.groups} and {self.channels}")
        if self.depth and (self.solver, self.backward) != (SolverSettings(), BackwardSettings()):
            raise ValueError("with a depth there is nothing to solve: leave solver and backward out")

    def build(self) -> ImplicitConv:
        """Return the network with fresh weights, drawn from torch's global random state."""
        return ImplicitConv(self)


class ImplicitConv(nn.Module):
    """A convolution, one equilibrium on maps of half the size, and a linear layer; 22,546 parameters as it comes.

    The state z solves z = norm(relu(z + norm(x + conv(norm(relu(conv(z))))))), where x is the picture after the first
    convolution and every norm is a group normalization. However many steps that takes, the weights are those of two
    convolutions, and training keeps as much in memory as the backward pass needs, not the solver.

    Args:
        settings: sizes, solver and backward pass; the defaults fit Fashion-MNIST.

    Example:
        >>> model = ImplicitConv()
        >>> tuple(model(torch.rand(2, 1, 28, 28)).shape)
        (2, 10)
        >>> bool(model.equilibrium.last.converged.all())
        True

    Source: Bai et al. 2019 (arXiv:1909.01377), Geng et al. 2021 (arXiv:2111.05177).
    """

    def __init__(self, settings: ImplicitConvSettings | None = None) -> None:
        super().__init__()
        self.settings = settings = settings or ImplicitConvSettings()
        channels, groups = settings.channels, settings.groups
        side = settings.image_size // 4
        self.stem = nn.Conv2d(settings.in_channels, channels, 3, stride=2, padding=1, bias=False)
        self.norm = nn.GroupNorm(groups, channels)
        if settings.depth:
            self.cells = nn.ModuleList(ResidualCell(channels, groups) for _ in range(settings.depth))
        else:
            cell = ResidualCell(channels, groups)
            self.equilibrium = Equilibrium(cell, settings.solver.build(), settings.backward.build())
        self.linear = nn.Linear(channels * side * side, settings.classes)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """Return logits for images in [0, 1]."""
        x = self.norm(self.stem((x - self.settings.mean) / self.settings.std))
        z = torch.zeros_like(x)
        if self.settings.depth:
            for cell in self.cells:
                z = cell(z, x)
        else:
            z = self.equilibrium(z, x)
        return self.linear(F.avg_pool2d(z, 2).flatten(1))  # type: ignore[no-any-return]


class ResidualCell(nn.Module):
    """Two convolutions beside the identity; the picture enters before the second normalization."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1, self.norm2, self.norm3 = (nn.GroupNorm(groups, channels) for _ in range(3))
        for conv in (self.conv1, self.conv2):  # small, so that at first the picture outweighs the state: a contraction
            nn.init.normal_(conv.weight, std=0.01)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        """Return the next state."""
        inner = self.conv2(self.norm1(F.relu(self.conv1(z))))
        return self.norm3(F.relu(z + self.norm2(x + inner)))  # type: ignore[no-any-return]
