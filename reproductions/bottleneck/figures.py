"""Draw what run.py measured: relative strength by order, one line per network, the band its 95 % interval over samples.

python reproductions/bottleneck/figures.py        (needs matplotlib)
"""

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

RESULTS = Path(__file__).resolve().parent / "results"


def draw(axes: plt.Axes, path: Path, kind: str, label: str) -> None:
    """Draw one spectrum: J^m ("relative") or S^m ("strength")."""
    found = json.loads(path.read_text(encoding="utf-8"))
    low, high = ("relative_low", "relative_high") if kind == "relative" else ("low", "high")
    (line,) = axes.plot(found["ratios"], found[kind], marker="o", markersize=3, label=label)
    axes.fill_between(found["ratios"], found[low], found[high], color=line.get_color(), alpha=0.15)
    if kind == "strength" and max(found["floor"]) > 1e-9:
        axes.plot(found["ratios"], [2 * value for value in found["floor"]], color=line.get_color(), linestyle=":")


for name, networks in {
    "digits": ["digits"],
    "cifar10": ["standard-cifar10"],
    "regimes": ["standard-cifar10", "low-order-cifar10", "high-order-cifar10"],
}.items():
    figure, both = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    for axes, kind, title in zip(both, ("relative", "strength"), ("J", "S (log odds)"), strict=True):
        for network in networks:
            for path in sorted(RESULTS.glob(f"{network}-[0-9]*.json")):
                draw(axes, path, kind, path.stem)
        axes.set(
            xlabel="order: share of the other players present", ylabel=f"interaction strength {title}", ylim=(0, None)
        )
    if both[0].lines:
        both[0].legend(fontsize=7)
        figure.savefig(RESULTS / f"{name}.png", dpi=110)
    plt.close(figure)
