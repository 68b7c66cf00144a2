"""A classifier of texts with one transformer block at its equilibrium."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated

import msgspec
import torch
from jaxtyping import Bool, Float
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from .._equilibrium import Equilibrium, VariationalDropout
from ._implicit import BackwardSettings, SolverSettings
from ._text_cnn import ABSENT, PAD

Positive = Annotated[int, Meta(ge=1)]
Share = Annotated[float, Meta(ge=0, lt=1)]


class ImplicitTextSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="implicit-text"
):
    """Settings of `ImplicitText`.

    Args:
        vocabulary: number of different tokens; the tokenizer trained with the network has at most so many.
        length: most tokens of a text; longer ones lose their end.
        width: of the embeddings and of the state of a token.
        heads: of the attention; they must divide `width`.
        dropout: share of the features left out in training.
        absent: share of the tokens replaced by the absent token in training, so that the network knows it.
        solver, backward: how the equilibrium is found and how its gradient passes.
        depth: 0 solves for the equilibrium; k puts k blocks in a row in its place, each with weights of its own: the
            explicit transformer, of equal parameters with one block.
        classes: number of logits.
    """

    vocabulary: Annotated[int, Meta(ge=4)] = 6000
    length: Annotated[int, Meta(ge=2)] = 64
    width: Positive = 64
    heads: Positive = 4
    dropout: Share = 0.5
    absent: Share = 0.1
    solver: SolverSettings = SolverSettings()
    backward: BackwardSettings = BackwardSettings()
    depth: Annotated[int, Meta(ge=0)] = 0
    classes: Annotated[int, Meta(ge=2)] = 2

    def __post_init__(self) -> None:
        if self.depth and (self.solver, self.backward) != (SolverSettings(), BackwardSettings()):
            raise ValueError("with a depth there is nothing to solve: leave solver and backward out")
        if self.width % self.heads:
            raise ValueError(f"heads must divide width, got {self.heads} and {self.width}")

    def build(self) -> ImplicitText:
        """Return the network with fresh weights, drawn from torch's global random state."""
        return ImplicitText(self)


class ImplicitText(nn.Module):
    """Embeddings, one transformer block repeated until nothing changes any more, and a linear layer.

    The block gets its own answer and the embeddings, which enter its queries, keys and values. Padding (id 0) has no
    influence: a text's logits do not depend on the batch.

    Args:
        settings: sizes, solver and backward pass.

    Example:
        >>> logits = ImplicitText()(torch.tensor([[5, 17, 2, 0]]))
        >>> tuple(logits.shape)
        (1, 2)

    Source: Bai et al. 2019 (arXiv:1909.01377).
    """

    def __init__(self, settings: ImplicitTextSettings | None = None) -> None:
        super().__init__()
        self.settings = settings = settings or ImplicitTextSettings()
        width = settings.width
        self.embedding = nn.Embedding(settings.vocabulary, width)
        nn.init.normal_(self.embedding.weight, std=0.3)
        self.place = nn.Parameter(0.02 * torch.randn(settings.length, width))
        self.drop = nn.Dropout(settings.dropout / 2)
        self.inject = nn.Linear(width, 3 * width)
        if settings.depth:
            dropout = partial(nn.Dropout, settings.dropout / 2)
            self.cells = nn.ModuleList(AttentionCell(width, settings.heads, dropout) for _ in range(settings.depth))
        else:
            cell = AttentionCell(width, settings.heads, partial(VariationalDropout, settings.dropout / 2, shared=(1,)))
            self.equilibrium = Equilibrium(cell, settings.solver.build(), settings.backward.build())
        self.dropout = nn.Dropout(settings.dropout)
        self.answer = nn.Linear(2 * width, settings.classes)

    def forward(self, ids: Tensor) -> Float[Tensor, "b k"]:
        """Return logits of token ids `(b, L)`, int64."""
        seen = ids != PAD
        longest = max(1, int((seen.any(0) * torch.arange(1, ids.shape[1] + 1, device=ids.device)).max()))
        ids, seen = ids[:, :longest], seen[:, :longest]  # where all texts of the batch are padding, nothing changes
        if self.training and self.settings.absent:
            drawn = torch.rand(ids.shape, device=ids.device) < self.settings.absent
            ids = torch.where(drawn & seen, ABSENT, ids)
        there = seen[..., None].to(self.place.dtype)
        x = self.drop(self.embedding(ids) + self.place[: ids.shape[1]]) * there
        z, injected = torch.zeros_like(x), self.inject(x)
        if self.settings.depth:
            for cell in self.cells:
                z = cell(z, injected, seen)
        else:
            z = self.equilibrium(z, injected, seen)
        mean = z.sum(1) / there.sum(1).clamp_min(1)
        strongest = z.masked_fill(~seen[..., None], -torch.inf).amax(1)
        strongest = torch.where(seen.any(1, keepdim=True), strongest, 0)  # a text without a token
        return self.answer(self.dropout(torch.cat([mean, strongest], dim=1)))  # type: ignore[no-any-return]


class AttentionCell(nn.Module):
    """A transformer block: attention among the tokens, then a small network on each."""

    def __init__(self, width: int, heads: int, dropout: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.heads = heads
        self.project = nn.Linear(width, 3 * width, bias=False)
        self.merge = nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.drop1, self.drop2 = dropout(), dropout()
        for layer in (self.project, self.merge, self.narrow):  # small, so that at first the text outweighs the state
            nn.init.normal_(layer.weight, std=0.02)

    def forward(self, z: Float[Tensor, "b t w"], x: Float[Tensor, "b t v"], seen: Bool[Tensor, "b t"]) -> Tensor:
        """Return the next states; those of padding are zero."""
        b, t, width = z.shape
        parts = (self.project(z) + x).view(b, t, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        # A text without a token would attend to nothing, which is NaN: its padding attends to itself.
        mask = (seen | ~seen.any(1, keepdim=True))[:, None, None, :]
        heard = F.scaled_dot_product_attention(parts[0], parts[1], parts[2], attn_mask=mask)
        h = self.norm1(z + self.drop1(self.merge(heard.transpose(1, 2).reshape(b, t, width))))
        h = self.norm2(h + self.drop2(self.narrow(F.gelu(self.wide(h)))))
        return h * seen[..., None]  # type: ignore[no-any-return]
