"""Draw what run.py measured: neural collapse of the two shipped networks, with 95% intervals over samples.

python reproductions/neural-collapse/figures.py        (needs matplotlib)
"""

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

RESULTS = Path(__file__).resolve().parent / "results"
MEASURES = {"nc1": "NC1", "cdnv": "CDNV", "means.max_angle": "NC2, class means", "nc3": "NC3", "nc4": "NC4"}

figure, panels = plt.subplots(1, len(MEASURES), figsize=(11, 2.6), layout="constrained")
for k, network in enumerate(("fashion-standard", "fashion-robust")):
    found = json.loads((RESULTS / f"{network}.json").read_text(encoding="utf-8"))
    for axes, measure in zip(panels, MEASURES, strict=True):
        for split, alpha, shift in (("train", 0.85, -0.2), ("test", 0.4, 0.2)):
            value = found[split][measure]
            if measure == "nc4":
                value, sides = value["value"], [[value["value"] - value["low"]], [value["high"] - value["value"]]]
            else:
                sides = [[1.96 * found[split]["stderr"][measure]]] * 2
            label = f"{network}, {split}"
            axes.bar(k + shift, value, 0.36, yerr=sides, color=f"C{k}", alpha=alpha, capsize=2, label=label)
for axes, title in zip(panels, MEASURES.values(), strict=True):
    axes.set(xticks=(0, 1), xticklabels=("standard", "robust"))
    axes.set_title(title, fontsize=9)
figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=7)
figure.savefig(RESULTS / "collapse.png", dpi=70)
