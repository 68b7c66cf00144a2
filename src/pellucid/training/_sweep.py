"""One recipe trained over the values of one setting: the trade-offs that the setting allows."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from pellucid.core import Ranks, RecipeError, RunError, RunFolder, read_json, read_text, write_json
from pellucid.metrics import Front, FrontModel

from ._events import Event
from ._recipe import Recipe
from ._run import LOG, Run
from ._trainer import train

KIND = "sweep"
FRONT = "front.json"
MODELS = "models"
MOST_POINTS = 60  # of a model's weights over time, in the front's file

OnSweep = Callable[[str, Event], None]
"""Told which training is under way, such as "rho = 0.25, seed 0", and what happens in it."""


def unheard(training: str, event: Event) -> None:
    """The `on_event` of a caller who does not watch."""


@dataclass(frozen=True)
class Sweep:
    """A finished sweep.

    Args:
        folder: where it lies: `front.json`, and a training per model in `models`.
        front: what was measured.
    """

    folder: RunFolder
    front: Front

    @classmethod
    def open(cls, path: str | Path) -> Sweep:
        """Open the folder of a sweep; an unfinished one has the models so far.

        Raises:
            RunError: there is no sweep at `path`, or no model of it is finished.
        """
        folder = RunFolder.open(path, kind=KIND)
        file = folder.path / FRONT
        if not file.is_file():
            raise RunError(f"no model of the sweep in {path} is finished; run `pellucid sweep` on it again to continue")
        try:
            return cls(folder, msgspec.convert(read_json(file), Front))
        except msgspec.ValidationError as error:
            raise RunError(f"{file} cannot be read: {error}") from None

    def run(self, model: FrontModel) -> Run:
        """Return the training of one model."""
        return Run.open(self.folder.path / model.folder)


def sweep(
    recipe: str | Path | Recipe,
    out: str | Path,
    *,
    over: str,
    values: Sequence[str | float],
    seeds: Sequence[int] = (0,),
    overrides: Sequence[str] = (),
    device: str = "cpu",
    on_event: OnSweep = unheard,
) -> Sweep:
    """Train a recipe with each value of a setting and each seed, and find the models that no other beats.

    The axes are the figures of the recipe's final test: accuracy, and accuracy under each attack in its `test`. A model
    that is finished is opened, not trained; so an interrupted sweep goes on, and more values or seeds can be added.

    Args:
        recipe: a recipe, its file, or its name.
        out: a new or empty folder, or that of an earlier sweep.
        over: the key of the recipe that changes, such as "weighting.rho".
        values: its values, as TOML writes them.
        seeds: roots of the chance of training; each value is trained once with each.
        overrides: further changes of the recipe, see `Recipe.load`.
        device: "cpu", "cuda" or one card such as "cuda:1".
        on_event: told about every step of every training.

    Raises:
        RecipeError: the recipe does not take the setting, its test has no attack to trade against, or a value or seed
            comes twice.
        RunError: `out` belongs to something else, or holds trainings of another recipe.
    """
    plans = _plans(recipe, over, values, seeds, overrides)
    if Ranks.here().count > 1:
        raise RunError("a sweep trains its models one after another in one process; start it without torchrun")
    folder = RunFolder.create(out, kind=KIND, resume=True)
    models: list[FrontModel] = []
    with folder:
        for place, plan in enumerate(plans):
            run = train(
                plan.recipe,
                folder.path / MODELS / plan.name,
                device=device,
                on_event=lambda event, title=plan.title: on_event(title, event),  # type: ignore[misc]
            )
            models.append(_model(run, plan))
            # After every model: what an interrupted sweep has is a front too.
            front = _front(run, models, over, complete=place + 1 == len(plans))
            write_json(folder.file(FRONT), msgspec.to_builtins(front))
    return Sweep(folder, front)


@dataclass(frozen=True)
class _Plan:
    """One training: its recipe, the folder in `models`, and what it is called on the way."""

    recipe: Recipe
    name: str
    label: str
    seed: int
    title: str


def _plans(
    recipe: str | Path | Recipe,
    over: str,
    values: Sequence[str | float],
    seeds: Sequence[int],
    overrides: Sequence[str],
) -> list[_Plan]:
    """Return every training of the sweep, checked before the first one starts."""
    labels = [str(value) for value in values]
    for what, entries in (("values", labels), ("seeds", [str(seed) for seed in seeds])):
        if not entries or len(set(entries)) < len(entries):
            raise RecipeError(
                f"the {what} of a sweep must be one or more different ones, got {', '.join(entries) or 'none'}"
            )
    key, plans = over.rpartition(".")[2], []
    for label in labels:
        for seed in seeds:
            changes = (*overrides, f"{over}={label}", f"seed={seed}")
            if isinstance(recipe, Recipe):
                made = Recipe.parse(recipe.to_dict(), overrides=changes)
            else:
                made = Recipe.load(recipe, overrides=changes)
            name = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{key}-{label}-seed-{seed}").lstrip("._-")
            named = msgspec.structs.replace(made, name=f"{made.name}-{name}"[:80])
            plans.append(_Plan(named, name, label, seed, f"{key} = {label}, seed {seed}"))
    names = [plan.name for plan in plans]
    if len(set(names)) < len(names):
        raise RecipeError(
            f"the values of a sweep must differ in letters and digits, to name folders; got {', '.join(labels)}"
        )
    test = plans[0].recipe.test
    if test.attack is None and not test.attacks:
        raise RecipeError(
            "a front needs something to trade accuracy against: name attacks in the recipe, as [test.attacks.linf]"
        )
    return plans


def _model(run: Run, plan: _Plan) -> FrontModel:
    figures = run.card["figures"]
    steps, weights = _weights(run)
    return FrontModel(
        label=plan.label,
        seed=plan.seed,
        folder=f"{MODELS}/{plan.name}",
        values=tuple(figure["value"] for figure in figures),
        low=tuple(figure["low"] for figure in figures),
        high=tuple(figure["high"] for figure in figures),
        steps=steps,
        weights=weights,
    )


def _front(run: Run, models: Sequence[FrontModel], over: str, *, complete: bool) -> Front:
    figures: list[dict[str, Any]] = run.card["figures"]
    return Front.of(
        models,
        name=run.recipe.name.removesuffix(f"-{models[-1].folder.partition('/')[2]}"),
        over=over,
        data=str(run.card["data"]),
        samples=int(figures[0]["n"]),
        axes={_axis(figure["name"]): str(figure["label"]) for figure in figures},
        complete=complete,
    )


def _axis(figure: str) -> str:
    """Return "linf" of "robust_accuracy[linf]", and "natural" of the accuracy itself."""
    found = re.fullmatch(r"robust_accuracy\[(.+)\]", figure)
    return found[1] if found else "natural"


def _weights(run: Run) -> tuple[tuple[int, ...], dict[str, tuple[float, ...]]]:
    """Return the weights over time, thinned out; nothing where they were constant."""
    lines: list[dict[str, float]] = [
        msgspec.json.decode(line) for line in read_text(run.folder.path / LOG, max_bytes=2**31).splitlines()
    ]
    names = [key for key in lines[0] if key.startswith("weight_")] if lines else []
    if all(line[name] == lines[0][name] for line in lines for name in names):
        return (), {}
    kept = lines[:: max(1, -(-len(lines) // MOST_POINTS))]
    steps = tuple(int(line["step"]) for line in kept)
    return steps, {name.removeprefix("weight_"): tuple(round(line[name], 6) for line in kept) for name in names}
