"""`pellucid train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from ._console import say, table, warn


def train(
    recipe: Annotated[str, tyro.conf.Positional],
    /,
    *,
    out: Path,
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    device: str = "cpu",
    export: Path | None = None,
) -> int:
    """Train a model from a recipe.

    Run it again on the same folder to continue after an interruption.
    Under `torchrun` (`torchrun --nproc-per-node 2 -m pellucid.cli train ...`) all processes train together.

    Args:
        recipe: a TOML file, the folder of a training whose recipe is to be used again, or the name of a shipped recipe
            (`pellucid recipes list`).
        out: folder for the recipe, the log, checkpoints, the trained weights and their card.
        set: change one key of the recipe, such as `--set objective.attack.eps=0.2`; may be given several times.
        device: cpu, cuda, or one card such as cuda:1.
        export: also write the trained weights to this .safetensors file, and their card beside it as .json.
    """
    from pellucid.core import RunError
    from pellucid.training import Recipe
    from pellucid.training import train as run_training

    from ._progress import watch

    if export is not None and export.suffix != ".safetensors":  # said before the training, not after it
        raise RunError(f"--export takes a .safetensors file, got {export}")
    loaded = Recipe.load(recipe, overrides=set)
    try:
        with watch(loaded.name) as on_event:
            run = run_training(loaded, out, device=device, on_event=on_event)
    except KeyboardInterrupt:
        warn("interrupted; the same command goes on from the end of the last whole epoch")
        return 130
    rows = [
        (entry["label"], *("" if entry[key] is None else entry[key] for key in ("value", "low", "high")))
        for entry in run.card["figures"]
    ]
    say(table(("measured on the test split", "value", "low", "high"), rows))
    say(f"The run is in {out}.")
    if export is not None:
        say(f"The weights are in {run.export(export)}.")
    return 0
