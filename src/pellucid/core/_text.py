"""Texts as models read them: token ids, and which word each token belongs to."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ._errors import DataError


@dataclass(frozen=True)
class Text:
    """One text and the tokens it became.

    Args:
        text: as it was written.
        pieces: the text of each token, `L` of them with the padding.
        words: for each token the number of its word, or None where it belongs to none (special tokens, padding).
        names: the words as they are written, by number.
        absent: id that stands for an absent token: that of the mask, else of unknown words, else of the padding.
        pad: id that fills a batch up to one length.

    Raises:
        DataError: `words` does not fit `pieces` or `names`, or no token belongs to a word.

    Example:
        >>> text = Text("a good film", ("a", "good", "film", "[PAD]"), (0, 1, 2, None), ("a", "good", "film"), 1, 0)
        >>> text.phrases(2).names
        ('a good', 'film')
    """

    text: str
    pieces: tuple[str, ...]
    words: tuple[int | None, ...]
    names: tuple[str, ...]
    absent: int
    pad: int

    def __post_init__(self) -> None:
        if len(self.words) != len(self.pieces):
            raise DataError(f"a text of {len(self.pieces)} tokens needs as many words, got {len(self.words)}")
        if min(self.absent, self.pad) < 0:
            raise DataError(f"absent and pad must be ids from 0 on, got {self.absent} and {self.pad}")
        found = {word for word in self.words if word is not None}
        if found != set(range(len(self.names))):
            raise DataError(f"the words of a text must be numbered 0 to {len(self.names) - 1}, each with a token")
        if not found:
            raise DataError(f"the text {self.text[:40]!r} has no words")

    def __len__(self) -> int:
        """Number of tokens, padding included."""
        return len(self.pieces)

    def phrases(self, most: int) -> Text:
        """Return the text with neighboring words joined until at most `most` are left.

        The two neighbors that are shortest together are joined first, so that small words go with what they belong to
        and long ones stay alone.

        Raises:
            ValueError: `most` is below 1.
        """
        if most < 1:
            raise ValueError(f"most must be at least 1, got {most}")
        groups = [[word] for word in range(len(self.names))]
        while len(groups) > most:
            sizes = [sum(len(self.names[word]) for word in group) for group in groups]
            at = min(range(len(groups) - 1), key=lambda k: (sizes[k] + sizes[k + 1], k))
            groups[at : at + 2] = [groups[at] + groups[at + 1]]
        home = {word: phrase for phrase, group in enumerate(groups) for word in group}
        return replace(
            self,
            words=tuple(None if word is None else home[word] for word in self.words),
            names=tuple(" ".join(self.names[word] for word in group) for group in groups),
        )
