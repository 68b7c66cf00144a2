"""Who plays the games of an audit, and what an absent player shows; every setting here is printed in the report."""

from __future__ import annotations

from torch import Tensor

from pellucid.core import Masker, Players, Subject
from pellucid.games import Features, Patches

MOST_EXACT = 12
"""Most players whose every coalition is evaluated: 4,096 inputs per sample."""


def is_image(subject: Subject) -> bool:
    """Whether the inputs are images `(N, C, H, W)`."""
    return subject.modality == "image" and subject.inputs.ndim == 4


def background(subject: Subject) -> Tensor:
    """Return what absent players show: the mean of the audit's inputs, one per channel of images, else per feature."""
    axes = (0, 2, 3) if is_image(subject) else (0,)
    mean = subject.inputs.double().mean(axes, keepdim=is_image(subject))
    return (mean[0] if is_image(subject) else mean).to(subject.inputs.dtype)


def cells(subject: Subject, grid: tuple[int, int]) -> Masker:
    """Return the players of an image: the cells of a grid."""
    return Patches(grid, fill=background(subject))


def features(subject: Subject) -> Masker:
    """Return the players of a table's row: its columns."""
    return Features(fill=background(subject), names=subject.feature_names)


def answers(subject: Subject) -> Tensor:
    """Return the class whose score a game is about: what the model answers to the whole input."""
    return subject.logits().argmax(1)


def player_names(subject: Subject, grid: tuple[int, int] | None, count: int) -> tuple[str, ...]:
    """Return what to call each player: the feature's name, or row and column counted from 1."""
    if grid is not None:
        return tuple(f"row {p // grid[1] + 1} col {p % grid[1] + 1}" for p in range(count))
    return subject.feature_names or tuple(f"feature {p}" for p in range(count))


def players_in_words(players: Players) -> str:
    """Return who plays, for the settings of a finding."""
    if players.grid is None:
        return f"{players.count} features"
    return f"grid {players.grid[0]} x {players.grid[1]}"


def absence_in_words(subject: Subject) -> str:
    """Return what replaces an absent player, for the settings of a finding."""
    return "mean of the audit's inputs, " + ("per channel" if is_image(subject) else "per feature")


def value_in_words(subject: Subject) -> str:
    """Return what a coalition's worth is where the class is the label, or the answer if there are no labels."""
    return f"log odds of the {'predicted class' if subject.labels is None else 'true class'}"
