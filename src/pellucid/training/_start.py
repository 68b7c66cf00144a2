"""Where a training begins when not at random weights: what `start` of a recipe names."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from torch import Tensor, nn

from pellucid.core import DataError, RecipeError, RunError, RunFolder, nearest, path_kind, read_json, read_tensors

from ._recipe import Recipe
from ._run import CARD, KIND, WEIGHTS

# The shipped networks are files of the package; `models`, which knows their names, is not below this package.
SHIPPED = Path(__file__).resolve().parents[1] / "models" / "weights"


def warm_start(model: nn.Module, recipe: Recipe) -> dict[str, str]:
    """Load the weights that `recipe.start` names into `model`; return what they were, for the model card.

    Raises:
        RecipeError: there are no such weights, or they belong to another architecture.
    """
    weights, card = _files(recipe.start)
    try:
        tensors = read_tensors(weights)
        architecture = read_json(card).get("architecture") if card.is_file() else None
    except DataError as error:
        raise RecipeError(f"start: {error}") from None
    _check_architecture(recipe, architecture)
    _check_tensors(recipe, model.state_dict(), tensors)
    model.load_state_dict(tensors)
    return {"from": recipe.start, "sha256": hashlib.sha256(weights.read_bytes()).hexdigest()}


def _files(start: str) -> tuple[Path, Path]:
    """Return the files of the weights and of their card, which may be absent."""
    path, kind = Path(start), path_kind(start)
    if kind == "folder":
        try:
            folder = RunFolder.open(path, kind=KIND).path
        except RunError as error:
            raise RecipeError(f"start: {error}") from None
        if not (folder / CARD).is_file():
            raise RecipeError(f"start: the training in {start} is not complete; finish it first")
        return folder / WEIGHTS, folder / CARD
    if kind == "file":
        if path.suffix != ".safetensors":
            raise RecipeError(f"start takes a run folder, a .safetensors file or a shipped model, got {start}")
        return path, path.with_suffix(".json")
    shipped = sorted(file.stem for file in SHIPPED.glob("*.safetensors"))
    if start in shipped:
        return SHIPPED / f"{start}.safetensors", SHIPPED / f"{start}.json"
    raise RecipeError(
        f"start is {start!r}, but there is no such run folder or .safetensors file, and no shipped model of that name; "
        f"{nearest(start, shipped)}shipped are {', '.join(shipped)}"
    )


def _check_architecture(recipe: Recipe, found: Any) -> None:
    """Compare the settings of the networks: not all of them show in the weights."""
    if found is None:
        return
    now = recipe.to_dict()["model"]
    try:
        before = msgspec.json.decode(msgspec.json.encode(msgspec.convert(found, type(recipe.model))))
    except msgspec.ValidationError:
        kind = found.get("kind") if isinstance(found, dict) else None
        raise RecipeError(f"start: {recipe.start} is a {kind} network, the recipe trains a {now['kind']}") from None
    changed = sorted(key for key in now if before.get(key) != now[key])
    if changed:
        key = changed[0]
        raise RecipeError(
            f"start: {recipe.start} has model.{key} = {_shown(before.get(key))}, the recipe {_shown(now[key])}"
        )


def _check_tensors(recipe: Recipe, wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    for name in sorted({*wanted, *found}):
        shapes = [tuple(side[name].shape) if name in side else None for side in (wanted, found)]
        if shapes[0] != shapes[1]:
            here, there = ("no such tensor" if shape is None else f"shape {shape}" for shape in shapes)
            raise RecipeError(
                f"start: the weights in {recipe.start} do not fit the model: {name} has {there} there and {here} here"
            )


def _shown(value: Any) -> str:
    return msgspec.json.encode(value).decode()
