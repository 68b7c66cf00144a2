"""`pellucid recipes list` and `pellucid recipes show`."""

from __future__ import annotations

from ._console import say, table


def list_recipes() -> int:
    """List the training recipes that ship with Pellucid."""
    from pellucid.training import Recipe, shipped_recipes

    rows = []
    for name, path in shipped_recipes().items():
        recipe = Recipe.load(path).to_dict()
        kinds = [recipe[part]["kind"] for part in ("model", "data", "objective")]
        rows.append([name, *kinds, recipe["epochs"]])
    say(table(["name", "model", "data", "objective", "epochs"], rows))
    say()
    say("`pellucid train NAME --out FOLDER` trains one; `pellucid recipes show NAME` prints it to start your own from.")
    return 0


def show_recipe(name: str, /) -> int:
    """Print a training recipe, as a file to start your own from.

    Args:
        name: a name from `pellucid recipes list`.
    """
    from pellucid.core import read_text
    from pellucid.training import find_recipe

    say(read_text(find_recipe(name)).rstrip())
    return 0
