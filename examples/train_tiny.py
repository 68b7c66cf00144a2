"""Train a tiny network from a recipe, interrupt it, go on, and read what the run folder holds."""

import json
from pathlib import Path

from pellucid.training import Event, Recipe, train

OUT = Path("runs/tiny")

recipe = Recipe.parse(
    {
        "name": "tiny",
        "epochs": 4,
        "batch_size": 32,
        "model": {"kind": "small-cnn", "image_size": 12, "channels": [6, 8], "hidden": 16, "classes": 4},
        "data": {"kind": "synthetic-images", "n": 256},
        "optimizer": {"kind": "adam", "lr": 0.01},
        "test": {"attack": {"eps": 0.1, "steps": 5}},
    }
)


def give_up(event: Event) -> None:
    """Interrupt the training, as Ctrl-C would, after the second epoch."""
    if event.kind == "checkpoint" and event.epoch == 1:
        raise KeyboardInterrupt


try:
    train(recipe, OUT, on_event=give_up)
except KeyboardInterrupt:
    print("interrupted after two epochs; going on")
run = train(recipe, OUT)

losses = [json.loads(line)["loss"] for line in (OUT / "log.jsonl").read_text().splitlines()]
print(f"loss: {losses[0]:.2f} at first, {losses[-1]:.2f} at the end")
for figure in run.card["figures"]:
    print(f"{figure['label']}: {figure['value']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})")
