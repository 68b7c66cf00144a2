"""A small convolutional classifier of texts that trains in a minute on a CPU."""

from __future__ import annotations

from typing import Annotated

import msgspec
import torch
from jaxtyping import Float
from msgspec import Meta
from torch import Tensor, nn

from ._head import Head, check_head, head

Positive = Annotated[int, Meta(ge=1)]
Share = Annotated[float, Meta(ge=0, lt=1)]
Width = Annotated[int, Meta(ge=1, le=15)]

PAD, UNKNOWN, ABSENT = 0, 1, 2
"""Ids of the special tokens: what fills up a batch, words that are not known, and words that are taken away."""


class TextCNNSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="text-cnn"
):
    """Settings of `TextCNN`.

    Args:
        vocabulary: number of different tokens; the tokenizer trained with the network has at most so many.
        length: most tokens of a text; longer ones lose their end.
        width: of the embeddings, and filters of each convolution.
        reach: how many neighboring tokens each convolution sees, odd numbers.
        dropout: share of the features left out in training.
        absent: share of the tokens replaced by the absent token in training, so that the network knows it.
        classes: number of logits.
        head: "linear" is learned; "etf" has fixed prototypes at the corners of a simplex, `nn.ETFHead`.
    """

    vocabulary: Annotated[int, Meta(ge=4)] = 6000
    length: Annotated[int, Meta(ge=2)] = 64
    width: Positive = 64
    reach: tuple[Width, ...] = (1, 3)
    dropout: Share = 0.5
    absent: Share = 0.1
    classes: Annotated[int, Meta(ge=2)] = 2
    head: Head = "linear"

    def __post_init__(self) -> None:
        check_head(self.head, self.width * (len(self.reach) + 1), self.classes)
        if not self.reach or any(reach % 2 == 0 for reach in self.reach):
            raise ValueError(f"reach must be odd numbers, so that a token is in the middle, got {self.reach}")

    def build(self) -> TextCNN:
        """Return the network with fresh weights, drawn from torch's global random state."""
        return TextCNN(self)


class TextCNN(nn.Module):
    """Embeddings, convolutions over neighboring tokens, the strongest answer of each filter, and a linear layer.

    After Kim 2014 (arXiv:1408.5882). Padding (id 0) has no influence: a text's logits do not depend on the batch.

    Args:
        settings: sizes.

    Example:
        >>> logits = TextCNN()(torch.tensor([[5, 17, 2, 0]]))
        >>> tuple(logits.shape)
        (1, 2)
    """

    def __init__(self, settings: TextCNNSettings | None = None) -> None:
        super().__init__()
        self.settings = settings = settings or TextCNNSettings()
        width = settings.width
        self.embedding = nn.Embedding(settings.vocabulary, width)
        nn.init.normal_(self.embedding.weight, std=0.3)
        self.drop = nn.Dropout(settings.dropout / 2)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(width, width, reach, padding=reach // 2) for reach in settings.reach
        )
        self.dropout = nn.Dropout(settings.dropout)
        self.answer = head(settings.head, width * (len(settings.reach) + 1), settings.classes)

    def forward(self, ids: Tensor) -> Float[Tensor, "b k"]:
        """Return logits of token ids `(b, L)`, int64."""
        seen = ids != PAD
        if self.training:  # where all texts of the batch are padding nothing is learned
            longest = max(1, int(seen.sum(1).max()))
            ids, seen = ids[:, :longest], seen[:, :longest]
        if self.training and self.settings.absent:
            drawn = torch.rand(ids.shape, device=ids.device) < self.settings.absent
            ids = torch.where(drawn & seen, ABSENT, ids)
        there = seen[:, None].to(self.embedding.weight.dtype)
        h = self.drop(self.embedding(ids)).transpose(1, 2) * there
        # After the ReLU nothing is negative, so a zero at the padding never is the largest.
        found = [(torch.relu(convolution(h)) * there).amax(2) for convolution in self.convolutions]
        mean = h.sum(2) / there.sum(2).clamp_min(1).sqrt()
        return self.answer(self.dropout(torch.cat([*found, mean], dim=1)))  # type: ignore[no-any-return]
