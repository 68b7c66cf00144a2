"""Tokens of a text as players: ids of any tokenizer, or their embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace

import torch
from torch import Tensor

from pellucid.core import Players, Text

from ._players_baselines import Fill, Marginal, check_fill, fitted, mean_of

_SPACES = ("\N{LOWER ONE EIGHTH BLOCK}", "\N{LATIN CAPITAL LETTER G WITH DOT ABOVE}")
"""How tokenizers write the space before a word."""


@dataclass(frozen=True, eq=False)
class Tokens:
    """The tokens of a sequence as players: ids `(L,)`, or their embeddings `(L, D)`.

    Special tokens never play; they are always present. Tokens of one word can play together.

    Args:
        fill: what an absent token shows. For ids: the id of the mask or padding token, an int, or ids that fit the
            sequence. For embeddings: a vector `(D,)` such as the embedding of the mask, padding or mean token, "zero",
            "mean" (over `background`), or `Marginal(samples)`.
        special: ids that never play, such as a tokenizer's `all_special_ids`; for sequences of ids.
        fixed: positions that never play.
        words: for each position the number of its word, or None for a position that never plays, as fast
            tokenizers give it (`word_ids()`); tokens with one number play together.
        texts: for each position the text of its token; players are named after it.
        background: `(N, D)` or `(N, L, D)` embeddings for the mean.

    Example:
        >>> import torch
        >>> masker = Tokens(103, special=(101, 102), texts=("[CLS]", "good", "film", "[SEP]"))
        >>> players = masker(torch.tensor([101, 2204, 2143, 102]))
        >>> players.count, players.owner.tolist(), players.names
        (2, [-1, 0, 1, -1], ('good', 'film'))
    """

    fill: Fill | int
    _: KW_ONLY
    special: Sequence[int] = ()
    fixed: Sequence[int] = ()
    words: Sequence[int | None] | None = None
    texts: Sequence[str] = ()
    background: Tensor | None = None

    def __post_init__(self) -> None:
        if isinstance(self.fill, str):
            check_fill(self.fill, ("mean", "zero"))

    def __call__(self, x: Tensor) -> Players:
        ids = not x.is_floating_point()
        if x.ndim != (1 if ids else 2):
            raise ValueError(
                f"tokens must be ids (length,) or embeddings (length, width), got {tuple(x.shape)} {x.dtype}"
            )
        if self.special and not ids:
            raise ValueError("special= names token ids, but the input holds embeddings; give positions by fixed=")
        owner, count = self._owner(x if ids else None, len(x))
        baseline, backgrounds = fitted(self._baseline(x, ids), x)
        return Players(
            owner if ids else owner[:, None], baseline, count, names=self._names(owner, count), backgrounds=backgrounds
        )

    def _owner(self, ids: Tensor | None, length: int) -> tuple[Tensor, int]:
        for name, entries in (("words", self.words), ("texts", self.texts)):
            if entries and len(entries) != length:
                raise ValueError(f"{name} must have one entry per token, got {len(entries)} for {length} tokens")
        plays = torch.ones(length, dtype=torch.bool)
        if ids is not None and self.special:
            plays &= ~torch.isin(ids.cpu(), torch.tensor(list(self.special)))
        for position in self.fixed:
            if not -length <= position < length:
                raise ValueError(f"fixed names position {position}, but there are {length} tokens")
            plays[position] = False
        owner = torch.full((length,), -1)
        numbers: dict[int, int] = {}
        for position in range(length):
            word = position if self.words is None else self.words[position]
            if word is not None and bool(plays[position]):
                owner[position] = numbers.setdefault(word, len(numbers))
        if not numbers:
            raise ValueError("no token plays; all are special or fixed")
        return owner, len(numbers)

    def _baseline(self, x: Tensor, ids: bool) -> Tensor | Marginal:
        if isinstance(self.fill, int):
            if not ids:
                raise ValueError(f"fill={self.fill} is a token id, but the input holds embeddings; give a vector")
            return torch.tensor([self.fill], dtype=x.dtype, device=x.device)
        if not isinstance(self.fill, str):
            return self.fill
        if ids:
            raise ValueError(f'fill="{self.fill}" needs embeddings; for ids give the id of the mask or padding token')
        if self.fill == "zero":
            return torch.zeros(1, x.shape[1], dtype=x.dtype, device=x.device)
        return mean_of(self.background, "embeddings")

    def _names(self, owner: Tensor, count: int) -> tuple[str, ...]:
        if not self.texts:
            return ()
        pieces: list[list[str]] = [[] for _ in range(count)]
        for text, player in zip(self.texts, owner.tolist(), strict=True):
            if player >= 0:
                pieces[player].append(text)
        return tuple(_joined(part) for part in pieces)


@dataclass(frozen=True, eq=False)
class Words:
    """The words of one text as players, on its token ids `(L,)` or on their embeddings `(L, D)`.

    All tokens of a word play together; special tokens and padding are always present. A text of more than `most` words
    is cut into phrases: neighbors that are short together are joined, see `core.Text.phrases`.

    Args:
        text: the text, as `core.Tokenizer` gives it with the ids.
        most: most players.
        fill: what an absent token shows; the id of the mask (where the tokenizer has none, of unknown words or of the
            padding) if not given. On embeddings a vector, see `on_embeddings`.

    Example:
        >>> import torch
        >>> from pellucid.core import Text
        >>> text = Text("a good film", ("a", "good", "film"), (0, 1, 2), ("a", "good", "film"), absent=1, pad=0)
        >>> players = Words(text, most=2)(torch.tensor([5, 6, 7]))
        >>> players.owner.tolist(), players.names
        ([0, 0, 1], ('a good', 'film'))
    """

    text: Text
    _: KW_ONLY
    most: int = 10
    fill: Fill | int | None = None

    def __post_init__(self) -> None:
        if self.most < 1:
            raise ValueError(f"most must be at least 1, got {self.most}")

    def __call__(self, x: Tensor) -> Players:
        short = self.text.phrases(self.most)
        if self.fill is None and x.is_floating_point():
            raise ValueError("on embeddings give fill= a vector, such as on_embeddings(model, ids).vector(text.absent)")
        players = Tokens(self.text.absent if self.fill is None else self.fill, words=short.words)(x)
        return replace(players, names=short.names)


def _joined(pieces: list[str]) -> str:
    """Return the pieces of a word as one text, without the marks by which tokenizers tell pieces from words."""
    rest = [piece.removeprefix("##") for piece in pieces[1:]]
    text = "".join([pieces[0], *rest]).replace("</w>", "")
    for mark in _SPACES:
        text = text.replace(mark, " ")
    return text.strip() or pieces[0]
