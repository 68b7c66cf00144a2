"""Draw what run.py measured, and write the tables of README.md.

python reproductions/aog/figures.py        (needs matplotlib)
"""

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import numpy as np
from matplotlib import pyplot as plt

HERE = Path(__file__).resolve().parent
RESULTS, README = HERE / "results", HERE / "README.md"
BEGIN, END = "<!-- tables: written by figures.py -->\n", "<!-- end of tables -->"
MARKS = {"image": "o", "tabular": "s", "text": "^"}

Found = dict[str, Any]


def load(part: str) -> dict[str, Found]:
    """Return the results of a part by name."""
    files = sorted(RESULTS.glob(f"{part}-*.json"))
    read = {path.stem.removeprefix(f"{part}-"): json.loads(path.read_text(encoding="utf-8")) for path in files}
    return {name: found for name, found in read.items() if "-quick" not in name}


def table(heads: list[str], rows: list[list[str]]) -> str:
    """Return a table in Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def interval(numbers: list[float], digits: int = 2) -> str:
    """Return a number with its interval."""
    value, low, high = numbers
    return f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def sparsity_figure() -> None:
    """Draw explained variance against the number of patterns, AND left and AND with OR right."""
    found = load("sparsity")
    if not found:
        return
    figure, both = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained", sharey=True)
    for axes, logic in zip(both, ("and", "and-or"), strict=True):
        for k, (name, result) in enumerate(found.items()):
            part, color = result[logic], f"C{k % 10}"
            curve = np.clip(np.array(part["curve"]), 0, 1)
            mark = MARKS[result["modality"]]
            axes.plot(part["counts"], np.median(curve, 0), color=color, marker=mark, markersize=3, label=name)
            axes.fill_between(part["counts"], *np.quantile(curve, [0.25, 0.75], axis=0), color=color, alpha=0.1, lw=0)
        axes.axhline(0.95, color="gray", lw=0.8, ls=":")
        axes.axvline(80, color="gray", lw=0.8, ls=":")
        axes.set(xscale="log", xlabel="patterns kept", title="AND" if logic == "and" else "AND and OR")
    both[0].set_ylabel("explained variance over all masks (median, quartiles)")
    both[1].legend(fontsize=7)
    figure.savefig(RESULTS / "sparsity.png", dpi=110)
    plt.close(figure)


def sparsity() -> str:
    """Return the table of how sparse each model is."""
    rows = []
    for name, found in load("sparsity").items():
        for logic in ("and", "and-or"):
            part = found[logic]
            rows.append(
                [
                    name,
                    found["modality"],
                    str(found["samples"]),
                    "-".join(map(str, sorted({min(part["players"]), max(part["players"])}))),
                    "AND" if logic == "and" else "AND and OR",
                    interval(part["needed"], 0),
                    f"{part['sparse']:.0%}",
                    interval(part["explained"], 3),
                    f"{part['ratio']:.3f}",
                    interval(part["strong"], 0),
                    interval(part["l1"], 1),
                ]
            )
    heads = [
        "model",
        "modality",
        "samples",
        "players",
        "logic",
        "patterns needed for 95 %",
        "samples where 80 are enough",
    ]
    heads += ["explained by at most 80", "R of these", "patterns above 5 %", "sum of effects"]
    return "\nHow sparse?\n\n" + table(heads, rows) if rows else ""


def exact() -> str:
    """Return the table of known patterns."""
    rows = []
    for name, found in load("exact").items():
        if name == "learned":
            rows += [
                [f"learned by {network}", f"dividends of the {value}", "", interval(found[network][value])]
                for network in ("MLP-5", "ResMLP-5")
                for value in ("probability", "log odds")
            ]
            continue
        means, count = found["means"], str(found["count"])
        rows += [[name, method, count, interval(numbers)] for method, numbers in means.items()]
    return "\nKnown patterns, mean IoU:\n\n" + table(["functions", "method", "count", "IoU"], rows) if rows else ""


def seeds() -> str:
    """Return the table of standard and adversarially trained networks."""
    rows = []
    for name, found in load("tabular").items():
        for kind in ("standard", "robust"):
            each = " ".join(f"{value:.2f}" for value in found[kind]["per_pair"])
            rows.append([name, kind, interval(found[kind]["jaccard"], 3), each, f"{found[kind]['accuracy']:.1%}"])
    heads = ["data", "training", "Jaccard between seeds", "pairs", "test accuracy"]
    return "\nThe same concepts in two seeds?\n\n" + table(heads, rows) if rows else ""


def baselines() -> str:
    """Return the table of learned baselines."""
    rows = []
    for name, found in load("baseline").items():
        for box, part in found.items():
            moved = [after - before for before, after in part["score absent"]]
            rows.append(
                [
                    name,
                    box,
                    interval(part["after over before"], 3),
                    f"{part['lower']} of {part['samples']}",
                    f"{sum(moved) / len(moved):+.2f}",
                ]
            )
    heads = ["model", "how far", "sum of effects, after over before", "lower in", "score of the absent input moves by"]
    return "\nLearned baselines, 50 steps:\n\n" + table(heads, rows) if rows else ""


sparsity_figure()
before, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
written = f"{BEGIN}{exact()}{seeds()}{baselines()}{sparsity()}\n{END}"
README.write_text(before + written + rest.partition(END)[2], encoding="utf-8")
