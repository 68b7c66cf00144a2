"""Tokenizers of Hugging Face's `tokenizers`, read from a file that is data, never code."""

from __future__ import annotations

import importlib
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from ._errors import DataError, MissingExtra, ModelError, first_line
from ._files import read_text, write_atomic
from ._text import Text

_ROLES = {
    "pad": ("[PAD]", "<pad>", "<|padding|>", "<|pad|>", "<|endoftext|>", "</s>", "[SEP]"),
    "mask": ("[MASK]", "<mask>", "<|mask|>"),
    "unknown": ("[UNK]", "<unk>", "<|unk|>"),
}
"""How tokenizers usually call their special tokens, first one first."""

_MOST_BYTES = 64 * 2**20
_MOST_LETTERS = 2**20
_CHUNK = re.compile(r"\S+")

_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
"""Scripts that are written without spaces between words: there the tokenizer's own words count."""


class Encoded(NamedTuple):
    """Texts as a batch of ids.

    Args:
        ids: int64 `(N, L)`, filled up with the id of the padding.
        texts: what each row's tokens are, one per row.
        cut: rows whose text is longer than the tokenizer's length; its end is missing.
    """

    ids: Int[Tensor, "n l"]
    texts: tuple[Text, ...]
    cut: tuple[int, ...]


class Tokenizer:
    """Turns texts into ids, and says which tokens make a word.

    A word is what stands between spaces, with the punctuation at it; in scripts without spaces it is the tokenizer's
    own. All tokens of a word play together in games.

    Args:
        backend: a `tokenizers.Tokenizer`.
        length: most tokens of a text, special ones included; longer texts lose their end.
        names: how the special tokens are called, for the roles "pad", "mask" and "unknown"; the usual names if not
            given.

    Raises:
        ModelError: no token can serve as padding.
    """

    def __init__(self, backend: Any, *, length: int = 128, names: Mapping[str, str] | None = None) -> None:
        self._backend = type(backend).from_str(backend.to_str())  # its own: settings of the user's stay as they are
        self.length = length
        self._backend.no_padding()
        self._backend.enable_truncation(length)
        roles = {role: self._role(role, (names or {}).get(role)) for role in _ROLES}
        absent = next((roles[role] for role in ("mask", "unknown", "pad") if roles[role] is not None), None)
        pad = roles["pad"] if roles["pad"] is not None else absent
        if pad is None or absent is None:
            raise ModelError("the tokenizer has neither a padding nor a mask nor an unknown token; add one")
        self.pad, self.absent = pad, absent

    @classmethod
    def read(cls, path: str | Path, *, length: int = 128, names: Mapping[str, str] | None = None) -> Tokenizer:
        """Read a `tokenizer.json`.

        Raises:
            MissingExtra: `tokenizers` is not installed.
            ModelError: the file is missing, damaged, or no tokenizer.
        """
        path = Path(path)
        if not path.is_file():
            raise ModelError(f"{path} does not exist; a model of texts needs its tokenizer")
        try:
            text = read_text(path, max_bytes=_MOST_BYTES)
        except DataError as error:
            raise ModelError(str(error)) from error
        library = tokenizers()
        try:
            backend = library.Tokenizer.from_str(text)
        except (KeyboardInterrupt, SystemExit, MemoryError):
            raise
        except BaseException as error:  # the library's own panics are no Exceptions
            raise ModelError(f"{path} is no tokenizer, or damaged: {first_line(error)}") from None
        return cls(backend, length=length, names=names)

    def save(self, path: str | Path) -> None:
        """Write it as `tokenizer.json`."""
        write_atomic(Path(path), self._backend.to_str())

    @property
    def size(self) -> int:
        """Number of different ids."""
        return int(self._backend.get_vocab_size())

    @property
    def mask_is_own(self) -> bool:
        """Whether an absent token has a token of its own, other than the padding."""
        return self.absent != self.pad

    def __call__(self, texts: Sequence[str]) -> Encoded:
        """Return the texts as ids.

        Raises:
            DataError: no texts, or one without a word.
        """
        if not texts:
            raise DataError("there are no texts")
        for row, text in enumerate(texts):
            if len(text) > _MOST_LETTERS:
                raise DataError(
                    f"text {row} has {len(text):,} letters, more than the {_MOST_LETTERS:,} allowed; cut it"
                )
        found = self._backend.encode_batch(list(texts))
        longest = max(1, *(len(one.ids) for one in found))
        ids = torch.full((len(texts), longest), self.pad)
        made = []
        for row, (text, one) in enumerate(zip(texts, found, strict=True)):
            ids[row, : len(one.ids)] = torch.tensor(one.ids, dtype=torch.int64)
            try:
                made.append(self._text(text, one, longest))
            except DataError:
                raise DataError(f"text {row} has no word the tokenizer knows: {text[:40]!r}; remove it") from None
        return Encoded(ids, tuple(made), tuple(row for row, one in enumerate(found) if one.overflowing))

    def _text(self, text: str, one: Any, length: int) -> Text:
        chunks = _chunks(text)
        starts = [start for start, _ in chunks]
        numbers: dict[tuple[int, int], int] = {}
        names: list[str] = []
        words: list[int | None] = []
        for special, own, (begin, end) in zip(one.special_tokens_mask, one.word_ids, one.offsets, strict=True):
            if special or not chunks:
                words.append(None)
                continue
            chunk = max(0, bisect_right(starts, max(begin, end - 1)) - 1)
            whole = text[slice(*chunks[chunk])]
            unspaced = own is not None and _UNSPACED.search(whole) is not None
            key = (chunk, own if unspaced else -1)
            if key not in numbers:
                numbers[key] = len(names)
                names.append("" if unspaced else whole)
            if unspaced and not names[numbers[key]].endswith(text[begin:end]):
                names[numbers[key]] += text[begin:end]
            words.append(numbers[key])
        fill = length - len(one.ids)
        pad = self._backend.id_to_token(self.pad)
        return Text(
            text,
            (*one.tokens, *[pad] * fill),
            (*words, *[None] * fill),
            tuple(name.strip() or "?" for name in names),
            self.absent,
            self.pad,
        )

    def _role(self, role: str, name: str | None) -> int | None:
        known = (name,) if name else _ROLES[role]
        ids = (self._backend.token_to_id(candidate) for candidate in known)
        return next((int(found) for found in ids if found is not None), None)


def tokenizers() -> Any:
    """Return the library.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        return importlib.import_module("tokenizers")
    except ImportError:
        raise MissingExtra("texts need tokenizers, which is not installed: pip install 'pellucid[text]'") from None


def _chunks(text: str) -> list[tuple[int, int]]:
    """Return where the words of a text begin and end; a lone mark such as "-" goes with the word before it."""
    chunks: list[tuple[int, int]] = []
    for match in _CHUNK.finditer(text):
        start, end = match.span()
        mark = len(set(match[0])) == 1 and not match[0][0].isalnum()
        if mark and chunks:
            chunks[-1] = (chunks[-1][0], end)
        else:
            chunks.append((start, end))
    return chunks
