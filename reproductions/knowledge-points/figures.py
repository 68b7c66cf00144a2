"""Draw what run.py left: training, an attack and distillation, a point per seed.

python reproductions/knowledge-points/figures.py        (needs matplotlib)
"""

import json
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

RESULTS = Path(__file__).resolve().parent / "results"
RUNS = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("vgg-*.json"))]
LAYERS = tuple(RUNS[0]["trained"]["layers"])


def dots(axes: plt.Axes, x: float, seeds: list[float], color: str) -> None:
    """Draw a point per seed."""
    axes.plot([x] * len(seeds), seeds, "o", color=color, markersize=3)


def over_training(axes: plt.Axes, epochs: list[str], key: str, scale: float = 1.0) -> None:
    """Draw a number of each layer at each checkpoint: points are seeds, the line joins their means."""
    for k, layer in enumerate(LAYERS):
        found: dict[int, list[float]] = {}
        for epoch in epochs:
            values = [run["epochs"][epoch]["layers"][layer][key] for run in RUNS]
            found[int(epoch)] = [scale * value for value in values if value is not None]
        found = {epoch: seeds for epoch, seeds in found.items() if seeds}
        axes.plot(list(found), [mean(seeds) for seeds in found.values()], color=f"C{k}", lw=1, label=layer)
        for epoch, seeds in found.items():
            dots(axes, epoch, seeds, f"C{k}")
    axes.set(xlabel="epoch", ylim=(0, None))


def by_layer(axes: plt.Axes, arms: dict[str, str], read: Any) -> None:
    """Draw a number of each layer for each arm, a bar for the mean."""
    for k, (arm, word) in enumerate(arms.items()):
        for place, layer in enumerate(LAYERS):
            seeds, x = [read(run[arm], layer) for run in RUNS], place + 0.25 * (k - (len(arms) - 1) / 2)
            axes.bar(x, mean(seeds), 0.23, color=f"C{k + 3}", alpha=0.45, label=word if place == 0 else None)
            dots(axes, x, seeds, "black")
    axes.set(xticks=range(len(LAYERS)), xticklabels=LAYERS)


figure, panels = plt.subplots(1, 5, figsize=(14, 2.9), layout="constrained")
epochs = list(RUNS[0]["epochs"])
over_training(panels[0], epochs, "count")
panels[0].set(title="Knowledge points per image")
over_training(panels[1], epochs, "reliable")
panels[1].set(title="Reliable ones per image")
over_training(panels[2], epochs, "ratio", 100)
panels[2].axhline(10, color="0.6", ls=":", lw=1)
panels[2].set(title="Reliable share in % (dotted: chance)")
attacks = {"attack 2/255": "2/255", "attack 8/255": "8/255"}
by_layer(panels[3], attacks, lambda found, layer: 100 * found["layers"][layer]["new_share"])
panels[3].set(title="New under attack, in %", ylim=(0, 100))
networks = {"trained": "teacher", "taught": "student, taught", "alone": "student, on labels"}
by_layer(panels[4], networks, lambda found, layer: 100 * found["layers"][layer]["ratio"])
panels[4].set(title="Reliable share in %, distilled", ylim=(0, 100))
for axes in (panels[0], *panels[3:]):
    axes.legend(fontsize=7)
for axes in panels:
    axes.set_title(axes.get_title(), fontsize=9)
figure.savefig(RESULTS / "points.png", dpi=65)
