"""How wide text is and where it wraps, without a font at hand: widths are those of a wide sans serif."""

from __future__ import annotations

import math
import re
import unicodedata
from functools import cache

NARROW = frozenset("iljI|!.,:;'`()[]{}/\\ ")
MIDDLE = frozenset('tfr-"*')
WIDE = frozenset("mwMW@%&\N{EM DASH}\N{HORIZONTAL ELLIPSIS}+=<>~\N{MINUS SIGN}#\N{BLACK UP-POINTING TRIANGLE}")
ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"

# What XML 1.0 cannot hold, not even as a character reference.
_FOREIGN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def clean(text: str) -> str:
    """Return text on one line that XML can hold: other characters become the replacement character."""
    return " ".join(_FOREIGN.sub("\N{REPLACEMENT CHARACTER}", text).split())


@cache
def _ems(character: str) -> float:
    if _joins(character):
        return 0.0
    if unicodedata.east_asian_width(character) in "WF" or ord(character) > 0xFFFF:
        return 1.05
    if character in NARROW:
        return 0.39
    if character in MIDDLE:
        return 0.47
    if character in WIDE:
        return 1.0
    return 0.78 if character.isupper() else 0.645


def _joins(character: str) -> bool:
    """Return whether a character belongs to the one before it."""
    return unicodedata.category(character).startswith("M") or character == "\N{ZERO WIDTH JOINER}"


def width_of(text: str, size: float) -> float:
    """Return how many pixels text takes at most, at a font size in pixels."""
    return size * sum(map(_ems, text))


def wrapped(text: str, width: float, size: float, *, most: int = 3) -> tuple[str, ...]:
    """Return text in at most `most` lines of `width` pixels; long words break, and what does not fit ends in dots."""
    lines = [""]
    for piece in _pieces(clean(text), width, size):
        if not lines[-1] or width_of((lines[-1] + piece).rstrip(), size) <= width:
            lines[-1] += piece
        else:
            lines.append(piece)
    lines = [line.strip() for line in lines]
    if len(lines) > most:
        lines = lines[:most]
        lines[-1] = _shortened(lines[-1], width - width_of(ELLIPSIS, size), size) + ELLIPSIS
    return tuple(lines)


def _pieces(text: str, width: float, size: float) -> list[str]:
    """Return parts between which a line may end: words with the space after them, long ones cut."""
    pieces = []
    for word in re.findall(r"[^\s/_\-]*[\s/_\-]*", text):
        count = math.ceil(width_of(word.rstrip(), size) / width)
        for left in range(count, 1, -1):  # a long word is cut into parts of like length
            head = _shortened(word, max(size, width_of(word.rstrip(), size) / left + 0.5 * size), size)
            head = head if width_of(head, size) <= width else _shortened(word, width, size)
            pieces.append(head or word[:1])
            word = word[len(pieces[-1]) :]
        while width_of(word.rstrip(), size) > width:
            pieces.append(_shortened(word, width, size) or word[:1])
            word = word[len(pieces[-1]) :]
        if word:
            pieces.append(word)
    return pieces


def _shortened(text: str, width: float, size: float) -> str:
    """Return the longest beginning that fits; an accent stays with its letter."""
    taken, end = 0.0, 0
    for k, character in enumerate(text):
        taken += size * _ems(character)
        if taken > width:
            break
        end = k + 1
    while 0 < end < len(text) and _joins(text[end]):
        end -= 1
    return text[:end]


def is_right_to_left(words: tuple[str, ...]) -> bool:
    """Return whether most of the words that have a direction run from right to left."""
    directions = [unicodedata.bidirectional(c) for word in words for c in word]
    return sum(d in ("R", "AL") for d in directions) > sum(d == "L" for d in directions)
