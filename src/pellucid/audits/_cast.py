"""Who plays in an explanation: `grid:4`, `grid:3x4`, `segments:12`, `features`, `groups`, `words` or `words:8`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from pellucid.core import DataError, Masker, Players, Subject
from pellucid.games import Features, Patches, Segments, Words, segments

from ._players import MOST_WORDS, background, feature_names, features, is_image, is_text, player_names, usual_in_words
from ._wording import count

DEFAULT_GRID = (3, 4)
WORD_FILLS = ("mean", "mask", "padding")
"""What an absent word shows; no word is the mean of others, so that "mean" stands for the mask too."""

FILLS = {"mean": "mean", "zero": "zero", "blur": "the image, smoothed"}


@dataclass(frozen=True)
class Cast:
    """The players that a text asks for.

    Args:
        kind: what a player is.
        rows, columns: of a grid; for segments, `rows` is about how many, for words the most that play.
    """

    kind: Literal["grid", "segments", "features", "groups", "words"]
    rows: int = 0
    columns: int = 0

    @classmethod
    def parse(cls, text: str, subject: Subject) -> Cast:
        """Read a text such as "grid:3x4"; "auto" fits the subject.

        Raises:
            DataError: the text names no players, or players that these inputs do not have.
        """
        if text == "auto" and is_text(subject):
            return cls("words", MOST_WORDS)
        if text == "auto":
            if is_image(subject):
                height, width = subject.inputs.shape[2:]
                return cls("grid", min(DEFAULT_GRID[0], height), min(DEFAULT_GRID[1], width))
            return cls("groups" if subject.groups else "features")
        cast = _read(text)
        if (cast.kind == "words") != is_text(subject):
            fitting = "words or words:8" if is_text(subject) else "grid:4, segments:12, features or groups"
            raise DataError(f"{text} are no players of {what_inputs(subject)}; use {fitting}")
        if cast.kind == "words":
            return cast
        images = cast.kind in ("grid", "segments")
        if images and not is_image(subject):
            raise DataError(f"{text} are players of images, but the inputs are a table; use features or groups")
        if not images and subject.inputs.ndim != 2:
            raise DataError(f"{text} are players of a table, but the inputs are not; use grid:4 or segments:12")
        if cast.kind == "groups" and not subject.groups:
            raise DataError(f"{subject.data_name} names no groups of columns; use features")
        if images:
            height, width = subject.inputs.shape[2:]
            if cast.kind == "grid" and (cast.rows > height or cast.columns > width):
                raise DataError(f"{text} has more cells than the images of {height} x {width} pixels allow")
            if cast.kind == "segments" and cast.rows > height * width:
                raise DataError(f"{text} are more than the {height * width} pixels of an image")
        return cast

    def maskers(self, subject: Subject, fill: str, *, usual: Subject | None = None) -> list[Masker]:
        """Return one masker for each sample.

        Args:
            subject: the samples.
            fill: what an absent player shows.
            usual: whose inputs say what is usual, such as all samples where `subject` is some of them; `subject` if not
                given.

        Raises:
            DataError: an unknown fill.
            MissingExtra: superpixels need scikit-image.
        """
        if self.kind == "words":
            if fill not in WORD_FILLS:
                raise DataError(f"fill must be one of {', '.join(WORD_FILLS)} for words, got {fill!r}")
            return [Words(t, most=self.rows, fill=t.pad if fill == "padding" else None) for t in subject.texts]
        known = tuple(FILLS) if self.kind in ("grid", "segments") else ("mean", "zero")
        if fill not in known:
            raise DataError(f"fill must be one of {', '.join(known)} for these players, got {fill!r}")
        filled: str | Tensor = background(usual or subject) if fill == "mean" else fill
        if self.kind == "segments":
            return [Segments(segments(x, self.rows), fill=filled) for x in subject.inputs]
        if self.kind == "grid":
            one: Masker = Patches((self.rows, self.columns), fill=filled)
        elif self.kind == "groups" and fill == "mean":
            one = features(usual or subject)
        else:
            one = Features(fill=filled, names=feature_names(subject))
        return [one] * len(subject)

    def names(self, subject: Subject, players: Players) -> tuple[str, ...]:
        """Return what to call each player."""
        if self.kind == "segments":
            return tuple(f"segment {p + 1}" for p in range(players.count))
        return players.names or player_names(subject, players.grid, players.count)

    @property
    def noun(self) -> tuple[str, str]:
        """What one player and several are called."""
        return {
            "grid": ("cell", "cells"),
            "segments": ("segment", "segments"),
            "features": ("feature", "features"),
            "groups": ("player", "players"),
            "words": ("word", "words"),
        }[self.kind]

    def in_words(self, players: Players) -> str:
        """Return who plays, for the settings of a finding."""
        if self.kind == "grid":
            return f"grid {self.rows} x {self.columns}"
        if self.kind == "words":
            return f"words, joined to at most {self.rows} phrases"
        if self.kind == "segments":
            return f"about {count(self.rows, 'segment')} (SLIC)"
        return f"{players.count} groups or features" if self.kind == "groups" else count(players.count, "feature")


def what_inputs(subject: Subject) -> str:
    """Return what the inputs are, in words."""
    return "texts" if is_text(subject) else "images" if is_image(subject) else "a table"


def fill_in_words(subject: Subject, fill: str) -> str:
    """Return what an absent player shows, for the settings of a finding."""
    if is_text(subject):
        what = "padding" if fill == "padding" else "the token that stands for a missing word"
        return f"{what} (id {subject.texts[0].pad if fill == 'padding' else subject.texts[0].absent})"
    if fill != "mean":
        return FILLS[fill]
    return f"mean of {usual_in_words(subject)}, per {'channel' if is_image(subject) else 'feature'}"


def _read(text: str) -> Cast:
    if text == "features":
        return Cast("features")
    if text == "groups":
        return Cast("groups")
    if match := re.fullmatch(r"grid:(\d{1,4})(?:x(\d{1,4}))?", text):
        rows, columns = int(match[1]), int(match[2] or match[1])
        if rows and columns:
            return Cast("grid", rows, columns)
    if (match := re.fullmatch(r"segments:(\d{1,5})", text)) and int(match[1]):
        return Cast("segments", int(match[1]))
    if match := re.fullmatch(r"words(?::(\d{1,3}))?", text):
        most = MOST_WORDS if match[1] is None else int(match[1])
        if most:
            return Cast("words", most)
    raise DataError(f"players must be grid:4, grid:3x4, segments:12, features, groups or words, got {text!r}")
