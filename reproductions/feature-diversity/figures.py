"""Draw what run.py measured, and write the tables of README.md.

python reproductions/feature-diversity/figures.py        (needs matplotlib)
"""

import json
import math
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

HERE = Path(__file__).resolve().parent
RESULTS, README = HERE / "results", HERE / "README.md"
ARMS = {
    "plain": "plain",
    "standardize": "standardized over the batch (N2)",
    "he": "He initialization",
    "momentum": "momentum 0.9",
    "layer": "LayerNorm",
    "center": "centered over the batch (N1)",
    "zero-bias": "trained biases, zero at the start",
    "bias": "PyTorch's default biases",
}
MIDDLE = ("act4", "act5", "act6")
BEGIN, END = "<!-- tables: written by figures.py -->\n", "<!-- end of tables -->"

Found = dict[str, Any]


def load() -> dict[str, list[Found]]:
    """Return the results of each arm, by seed."""
    found: dict[str, list[Found]] = {}
    for file in sorted(RESULTS.glob("*.json")):
        entry = json.loads(file.read_text(encoding="utf-8"))
        found.setdefault(entry["arm"], []).append(entry)
    return {arm: found[arm] for arm in ARMS if arm in found}


def similarity(run: Found, layer: str) -> list[float]:
    """Return a layer's similarity over time."""
    place = run["layers"].index(layer)
    return [math.nan if row[place] is None else row[place] for row in run["similarity"]]


def rise(run: Found) -> tuple[float, float, float]:
    """Return start, highest in the first phase, and end of the middle layer that rises most."""
    inside = [k for k, step in enumerate(run["steps"]) if step <= max(50, run["phase"]["lasted"])]
    curves = [similarity(run, layer) for layer in MIDDLE]
    best = max(curves, key=lambda curve: max(curve[k] for k in inside) - curve[0])
    return best[0], max(best[k] for k in inside), best[-1]


def peak(run: Found, what: str) -> float:
    """Return the largest value of a number of the hidden layers' gradients in the first phase."""
    rows = [row for step, row in zip(run["gradient_steps"], run[f"gradient_{what}"], strict=True)
            if step <= max(200, run["phase"]["lasted"])]  # fmt: skip
    return max(value for row in rows for value in row[:-1] if value is not None)


def spread(values: list[float], digits: int = 3) -> str:
    """Return mean and standard deviation over seeds."""
    text = f"{mean(values):.{digits}f}"
    return text if len(values) < 2 else f"{text} ± {stdev(values):.{digits}f}"


def tables(found: dict[str, list[Found]]) -> str:
    """Return the tables of the README."""
    lines = [
        "| arm | seeds | flat steps, by seed | mean ± sd | a middle layer's similarity: start, highest, end"
        " | largest self-enhancement | accuracy after 1,500 (plain: 3,500) steps |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for arm, runs in found.items():
        flat = [run["phase"]["lasted"] for run in runs]
        each = ", ".join(f"{n:,}" if run["phase"]["ended"] else f"> {n:,}" for n, run in zip(flat, runs, strict=True))
        columns = zip(*(rise(run) for run in runs), strict=True)
        still = not all(run["phase"]["ended"] for run in runs)
        accuracy = [100 * run["figures"][0]["value"] for run in runs]
        average = "" if still else spread(flat, 0)
        middle = ", ".join(spread(list(column)) for column in columns)
        lines.append(
            f"| {ARMS[arm]} | {len(runs)} | {each} | {average} | {middle} | "
            f"{spread([peak(run, 'self_enhancement') for run in runs], 2)} | {spread(accuracy, 1)} % |"
        )
    return "\n".join(lines) + "\n"


def shared(found: dict[str, list[Found]]) -> None:
    """Draw the losses of all arms, and of the plain one similarity, gradients and self-enhancement."""
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.2), constrained_layout=True)
    for number, (arm, runs) in enumerate(found.items()):
        for run in runs[:3]:
            label = ARMS[arm] if run is runs[0] else None
            axes[0].plot(run["steps"][1:], run["loss"], color=f"C{number}", lw=1, label=label)
    axes[0].set(xlabel="step", ylabel="loss", title="Loss, three seeds")
    axes[0].legend(fontsize=6)
    run = found["plain"][0]
    for axis in axes[1:]:
        axis.axvspan(0, run["phase"]["lasted"], color="0.92")
    for layer in ("act1", "act4", "act6", "act8"):
        axes[1].plot(run["steps"], similarity(run, layer), lw=1.2, label=layer)
    axes[1].set(xlabel="step", ylabel="mean cosine", title="Similarity of features, plain, seed 0")
    for place in (1, 3, 5, 7):
        curve = [row[place] for row in run["gradient_self_enhancement"]]
        axes[2].plot(run["gradient_steps"], curve, lw=1.2, label=f"linear{place + 1}")
    axes[2].set(xlabel="step", ylabel="cos(V, dV)", title="Self-enhancement, plain, seed 0")
    for axis in axes[1:]:
        axis.legend(fontsize=6)
    figure.savefig(HERE / "phases.png", dpi=58)
    plt.close(figure)


def main() -> None:
    """Write figure and tables."""
    found = load()
    shared(found)
    text = README.read_text(encoding="utf-8")
    before, after = text.index(BEGIN) + len(BEGIN), text.index(END)
    README.write_text(text[:before] + tables(found) + text[after:], encoding="utf-8")


if __name__ == "__main__":
    main()
