"""Who plays the games of an audit, and what an absent player shows; every setting here is printed in the report."""

from __future__ import annotations

import torch
from torch import Tensor

from pellucid.core import Masker, Players, Subject
from pellucid.games import Features, Patches

from ._batches import forwards
from ._wording import count

MOST_EXACT = 12
"""Most players whose every coalition is evaluated: 4,096 inputs per sample."""

MOST_WORDS = 10
"""Most words of a text that play; the neighbors in longer texts are joined to phrases."""

LARGE_IMAGE = 64
"""Pixels per side up to which an image is small."""


def is_image(subject: Subject) -> bool:
    """Whether the inputs are images `(N, C, H, W)`."""
    return subject.modality == "image" and subject.inputs.ndim == 4


def is_text(subject: Subject) -> bool:
    """Whether the inputs are token ids of texts."""
    return subject.modality == "text"


def word_players(subject: Subject, *, samples: int) -> int:
    """Return how many words of each text play, so that at least `samples` texts (or all) have as many: at most ten."""
    counts = sorted((len(text.names) for text in subject.texts), reverse=True)
    return min(MOST_WORDS, counts[min(samples, len(counts)) - 1])


def is_large(subject: Subject) -> bool:
    """Whether the inputs are images of the size of photographs, for which every evaluation is dear."""
    return is_image(subject) and max(subject.inputs.shape[2:]) > LARGE_IMAGE


def background(subject: Subject) -> Tensor:
    """Return what absent players show: the mean of the usual inputs, one per channel of images, else per feature."""
    axes = (0, 2, 3) if is_image(subject) else (0,)
    mean = subject.usual.double().mean(axes, keepdim=is_image(subject))
    return (mean[0] if is_image(subject) else mean).to(subject.inputs.dtype)


def cells(subject: Subject, grid: tuple[int, int]) -> Masker:
    """Return the players of an image: the cells of a grid."""
    return Patches(grid, fill=background(subject))


def kind_of_players(subject: Subject) -> str:
    """Return what the players of a table are called."""
    if not subject.groups:
        return "features"
    alone = len(feature_players(subject)) > len(subject.groups)
    return "groups and features" if alone else "groups of features"


def features(subject: Subject) -> Masker:
    """Return the players of a table's row: its groups of columns, and its other columns each alone."""
    owners = feature_players(subject)
    groups = None if not subject.groups else tuple(columns for _, columns in owners)
    return Features(fill=background(subject), groups=groups, names=tuple(name for name, _ in owners))


def feature_players(subject: Subject) -> list[tuple[str, tuple[int, ...]]]:
    """Return each player of a table with its name and columns, in the order of their first columns."""
    names = feature_names(subject)
    grouped = {column for columns in subject.groups.values() for column in columns}
    alone = [(name, (column,)) for column, name in enumerate(names) if column not in grouped]
    return sorted([*subject.groups.items(), *alone], key=lambda player: min(player[1]))


def feature_names(subject: Subject) -> tuple[str, ...]:
    """Return what to call each column of a table."""
    return subject.feature_names or tuple(f"feature {column}" for column in range(subject.inputs.shape[1]))


def spread(subject: Subject) -> Tensor:
    """Return the standard deviation `(D,)` of each column of a table over the usual inputs; 0 where it is constant."""
    usual = subject.usual.double()
    constant = (usual == usual[0]).all(0)  # by comparison: rounding can leave a constant a deviation of 1e-17
    return torch.where(constant, 0.0, usual.std(0, correction=0))


def answers(subject: Subject) -> Tensor:
    """Return the class whose score a game is about: what the model answers to the whole input."""
    return subject.logits(batch_size=forwards(subject)).argmax(1)


def player_names(subject: Subject, grid: tuple[int, int] | None, count: int) -> tuple[str, ...]:
    """Return what to call each player: the feature's or the group's name, or row and column counted from 1."""
    if grid is not None:
        return tuple(f"row {p // grid[1] + 1} col {p % grid[1] + 1}" for p in range(count))
    return tuple(name for name, _ in feature_players(subject))


def players_in_words(subject: Subject, players: Players) -> str:
    """Return who plays, for the settings of a finding."""
    if is_text(subject):
        return f"words, joined to {players.count} phrases where there are more"
    if players.grid is not None:
        return f"grid {players.grid[0]} x {players.grid[1]}"
    if not subject.groups:
        return f"{players.count} features"
    alone = players.count - len(subject.groups)
    return f"{count(len(subject.groups), 'group')} of features" + (f" and {count(alone, 'feature')}" if alone else "")


def usual_in_words(subject: Subject) -> str:
    """Return which inputs say what is usual."""
    return "the audited inputs" if subject.background is None else "the training data"


def absence_in_words(subject: Subject) -> str:
    """Return what replaces an absent player, for the settings of a finding."""
    if is_text(subject):
        return f"the token that stands for a missing word (id {subject.texts[0].absent})"
    return f"mean of {usual_in_words(subject)}, " + ("per channel" if is_image(subject) else "per feature")


def value_in_words(subject: Subject, unit: str = "log odds") -> str:
    """Return what a coalition's worth is where the class is the label, or the answer if there are no labels."""
    return f"{unit} of the {'predicted class' if subject.labels is None else 'true class'}"
