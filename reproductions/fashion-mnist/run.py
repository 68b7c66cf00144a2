"""Train both shipped networks again and compare their figures with the cards in the package.

python reproductions/fashion-mnist/run.py [OUT]
"""

import sys
from pathlib import Path

from pellucid import models
from pellucid.training import Event, Recipe, train

OUT = Path(sys.argv[1] if len(sys.argv) > 1 else "runs")


def tell(event: Event) -> None:
    """Say which epoch is done."""
    if event.kind == "checkpoint":
        print(f"  epoch {event.epoch + 1} of {event.epochs}", flush=True)


for name in ("fashion-standard", "fashion-robust"):
    print(name, flush=True)
    run = train(Recipe.load(name), OUT / name, on_event=tell)
    shipped = models.SHIPPED[name]
    for figure in run.card["figures"]:
        before = shipped.figure(figure["name"])
        interval = f"{figure['low']:.4f} to {figure['high']:.4f}"
        print(f"  {figure['label']}: {figure['value']:.4f} ({interval}), shipped {before.value:.4f}")
    print(f"  weights equal bit for bit: {run.card['sha256'] == shipped.sha256}")
