"""Draw what run.py and geometry.py measured.

python reproductions/etf/figures.py        (needs matplotlib)
"""

import json
from pathlib import Path
from statistics import mean

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

RESULTS = Path(__file__).resolve().parent / "results"
ARMS = ("ce", "ce-balanced", "logit-adjusted", "etf-ce", "etf-dr")
DATA = {"fashion-mnist": "Fashion-MNIST", "cifar10": "CIFAR-10, reduced"}
SHARES = {"accuracy": "all", "accuracy_head": "head", "accuracy_medium": "medium", "accuracy_tail": "tail"}
MEASURES = {"nc1": "NC1", "cdnv": "CDNV", "means.max_angle": "NC2, off the angle", "nc3": "NC3", "nc4": "NC4"}


def accuracies() -> None:
    """Draw accuracy by how frequent the classes are: a bar per arm is the mean, its points are the seeds."""
    figure, panels = plt.subplots(1, 2, figsize=(10, 3), layout="constrained", sharey=True)
    for axes, (data, title) in zip(panels, DATA.items(), strict=True):
        for k, arm in enumerate(ARMS):
            runs = [json.loads(f.read_text(encoding="utf-8")) for f in sorted(RESULTS.glob(f"{data}-{arm}-?.json"))]
            for place, share in enumerate(SHARES):
                seeds = [100 * figure["value"] for run in runs for figure in run["figures"] if figure["name"] == share]
                x, label = place + 0.16 * (k - 2), arm if place == 0 else None
                axes.bar(x, mean(seeds), 0.15, color=f"C{k}", alpha=0.45, label=label)
                axes.plot([x] * len(seeds), seeds, ".", color="black", markersize=3)
        axes.set(xticks=range(len(SHARES)), xticklabels=SHARES.values(), ylim=(0, 100), title=title)
    panels[0].set(ylabel="test accuracy in %")
    panels[1].legend(fontsize=7)
    figure.savefig(RESULTS / "accuracy.png", dpi=80)
    plt.close(figure)


def geometry() -> None:
    """Draw the measures of neural collapse, on training samples (filled) and on test samples (open)."""
    figure, panels = plt.subplots(2, len(MEASURES), figsize=(11, 4), layout="constrained", sharex=True)
    for row, (data, title) in zip(panels, DATA.items(), strict=True):
        found = json.loads((RESULTS / f"geometry-{data}.json").read_text(encoding="utf-8"))
        for axes, (measure, name) in zip(row, MEASURES.items(), strict=True):
            for k, arm in enumerate(ARMS):
                for split, face, shift in (("train", f"C{k}", -0.15), ("test", "none", 0.15)):
                    seeds = [run[split][measure] for run in found[arm].values()]
                    axes.plot([k + shift] * len(seeds), seeds, "o", color=f"C{k}", markerfacecolor=face, markersize=4)
            axes.set(xticks=range(len(ARMS)))
            axes.set_ylim(0, None)
            axes.tick_params(labelsize=7)
            if data == "fashion-mnist":
                axes.set_title(name, fontsize=9)
            else:
                axes.set_xticklabels(ARMS, rotation=45, ha="right")
        row[0].set_ylabel(title, fontsize=8)
    figure.savefig(RESULTS / "geometry.png", dpi=75)
    plt.close(figure)


def cosines() -> None:
    """Draw the cosines between class means of Fashion-MNIST's test samples, frequent classes first; seed 0."""
    found = json.loads((RESULTS / "geometry-fashion-mnist.json").read_text(encoding="utf-8"))
    figure, panels = plt.subplots(1, len(ARMS), figsize=(11, 2.4), layout="constrained", sharey=True)
    for axes, arm in zip(panels, ARMS, strict=True):
        shown = axes.imshow(found[arm]["0"]["cosines"], vmin=-1, vmax=1, cmap="RdBu_r")
        axes.set_title(arm, fontsize=9)
        axes.set(xticks=(0, 9), xticklabels=("frequent", "rare"), yticks=(0, 9), yticklabels=("frequent", "rare"))
        axes.tick_params(labelsize=7)
    figure.colorbar(shown, ax=panels, label="cosine")
    figure.savefig(RESULTS / "cosines.png", dpi=75)
    plt.close(figure)


accuracies()
geometry()
cosines()
