"""Advice that names a training: a shipped recipe only for the data it was made for."""

from __future__ import annotations

import shlex

from pellucid.core import Advice, Subject

RECIPES_FOR = "fashion-mnist"
"""The data set that most shipped recipes train on."""


def recipe(subject: Subject, text: str, command: str, *, made_for: str = RECIPES_FOR) -> Advice:
    """Advise a training in words, with the command of a shipped recipe where the data are its own.

    Args:
        subject: what was audited.
        text: what to do, as sentences that hold for any data.
        command: the command that trains from the shipped recipe.
        made_for: the data set of that recipe.
    """
    name = command.split()[2]
    if subject.data_name == made_for:
        return Advice(
            text=f"{text} The recipe is a start: if your network is another one, put it there.", command=command
        )
    return Advice(
        text=f"{text} `pellucid recipes show {name}` prints settings that do this on another data set: write a recipe "
        "with your own data and network.",
        command="pellucid train RECIPE.toml --out runs/NAME" + "".join(f" {w}" for w in command.split()[3:-2]),
    )


def again(subject: Subject, *changes: str, shipped: str = "RECIPE.toml") -> str:
    """Return the command that trains the model again, from the recipe it was trained by, with changes.

    Args:
        subject: what was audited.
        changes: settings such as "model.time_steps=60".
        shipped: the recipe to name where the model's own is not known.
    """
    own = subject.records.get("recipe")
    # Without the rest of an absolute path, as everywhere in a report: it is that of one machine.
    recipe = shipped if own is None else shlex.quote(own.parent.name if own.is_absolute() else str(own.parent))
    return " ".join(("pellucid train", recipe, *(f"--set {shlex.quote(each)}" for each in changes), "--out runs/again"))
