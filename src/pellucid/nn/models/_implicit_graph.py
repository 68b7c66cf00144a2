"""An implicit graph network: node states in balance with those of their neighbors, however far the news has to go."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
import torch
from jaxtyping import Float
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrize import register_parametrization

from .._equilibrium import Equilibrium
from ._implicit import BackwardSettings, SolverSettings

Positive = Annotated[int, Meta(ge=1)]


class ImplicitGraphSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="implicit-graph"
):
    """Settings of `ImplicitGraph`.

    Args:
        features: of a node, as the data give them.
        width: of a node's state.
        norm: bound on the spectral norm of the weight between neighbors, below 1: the equilibrium then exists, is the
            only one, and is found from anywhere. The nearer to 1, the farther news travels and the longer it takes.
        readout: the classes are read from the "mean" over the nodes, or from the "first" node, where that is the one
            that is asked about.
        dropout: share of the read numbers left out in training.
        solver, backward: how the equilibrium is found and how its gradient passes.
        depth: 0 solves for the equilibrium; k takes k steps in its place, each with weights of its own: the explicit
            graph network that sees k edges far.
        classes: number of logits.
    """

    features: Positive
    width: Positive = 32
    norm: Annotated[float, Meta(gt=0, lt=1)] = 0.9
    readout: Literal["mean", "first"] = "mean"
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    solver: SolverSettings = SolverSettings()
    backward: BackwardSettings = BackwardSettings()
    depth: Annotated[int, Meta(ge=0)] = 0
    classes: Annotated[int, Meta(ge=2)] = 2

    def __post_init__(self) -> None:
        if self.depth and (self.solver, self.backward) != (SolverSettings(), BackwardSettings()):
            raise ValueError("with a depth there is nothing to solve: leave solver and backward out")

    def build(self) -> ImplicitGraph:
        """Return the network with fresh weights, drawn from torch's global random state."""
        return ImplicitGraph(self)


class ImplicitGraph(nn.Module):
    """Node states Z that solve Z = relu(S Z W + X), a readout, and two linear layers.

    S is the adjacency with self loops, divided by the roots of the degrees, so that its spectral norm is at most 1; X
    is a linear function of the nodes' features and their neighbors'; |W| is bounded below 1. The right side is then a
    contraction: there is exactly one solution, and every node hears of every other it is linked to. The readout has a
    batch normalization, which mixes the samples of a batch in training.

    Args:
        settings: sizes, solver and backward pass.

    Example:
        >>> model = ImplicitGraph(ImplicitGraphSettings(features=3, width=4))
        >>> tuple(model(torch.rand(2, 5, 5 + 3)).shape)
        (2, 2)

    Source: Gu et al. 2020 (arXiv:2009.06211).
    """

    def __init__(self, settings: ImplicitGraphSettings) -> None:
        super().__init__()
        self.settings = settings
        width = settings.width
        self.own, self.near = nn.Linear(settings.features, width), nn.Linear(settings.features, width, bias=False)
        if settings.depth:
            self.cells = nn.ModuleList(GraphCell(width, None) for _ in range(settings.depth))
        else:
            cell = GraphCell(width, settings.norm)
            self.equilibrium = Equilibrium(cell, settings.solver.build(), settings.backward.build())
        self.norm = nn.BatchNorm1d(width)
        self.hidden = nn.Linear(width, width)
        self.dropout = nn.Dropout(settings.dropout)
        self.linear = nn.Linear(width, settings.classes)

    def forward(self, graphs: Float[Tensor, "b n nf"]) -> Float[Tensor, "b k"]:
        """Return logits of graphs, adjacency and node features side by side; absent nodes are all zero."""
        n = graphs.shape[2] - self.settings.features
        if graphs.ndim != 3 or n != graphs.shape[1]:
            raise RuntimeError(
                f"graphs of {graphs.shape[1]} nodes with {self.settings.features} features have "
                f"{graphs.shape[1] + self.settings.features} columns, got {graphs.shape[2]}"
            )
        ties, features = graphs[..., :n], graphs[..., n:]
        there = (features != 0).any(2, keepdim=True).to(graphs.dtype)
        links = _balanced(ties + torch.diag_embed(there[..., 0]))
        x = (self.own(features) + links @ self.near(features)) * there
        z = torch.zeros_like(x)
        if self.settings.depth:
            for cell in self.cells:
                z = cell(z, x, links)
        else:
            z = self.equilibrium(z, x, links)
        read = z[:, 0] if self.settings.readout == "first" else z.sum(1) / there.sum(1).clamp_min(1)
        return self.linear(self.dropout(F.relu(self.hidden(self.norm(read)))))  # type: ignore[no-any-return]


class GraphCell(nn.Module):
    """What a node hears from its neighbors and from its own features."""

    def __init__(self, width: int, norm: float | None) -> None:
        super().__init__()
        self.weight = nn.Linear(width, width, bias=False)
        if norm is not None:
            nn.init.orthogonal_(self.weight.weight)
            register_parametrization(self.weight, "weight", _Bounded(norm))

    def forward(self, z: Tensor, x: Tensor, links: Tensor) -> Tensor:
        """Return the next states `(b, n, w)`."""
        return F.relu(links @ self.weight(z) + x)


class _Bounded(nn.Module):
    """Shrinks a matrix to a spectral norm, exactly; smaller ones stay as they are."""

    def __init__(self, norm: float) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, weight: Tensor) -> Tensor:
        size: Tensor = torch.linalg.matrix_norm(weight, ord=2)
        return weight * (self.norm / size.clamp_min(self.norm))


def _balanced(ties: Tensor) -> Tensor:
    """Return ties / sqrt(row sums * column sums), of spectral norm at most 1 (Schur's test); empty rows stay zero."""
    size = ties.abs()
    rows, columns = size.sum(2, keepdim=True), size.sum(1, keepdim=True)
    return ties * torch.where(rows > 0, rows, 1).rsqrt() * torch.where(columns > 0, columns, 1).rsqrt()
