"""Draw what run.py measured, and write the tables of README.md.

python reproductions/pareto/figures.py        (needs matplotlib)
"""

import json
from pathlib import Path
from typing import Any

import matplotlib
import torch

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from pellucid.metrics import hypervolume, pareto_front, rank_correlation

HERE = Path(__file__).resolve().parent
RESULTS, README = HERE / "results", HERE / "README.md"
ARMS = (
    "standard", "pgd", "rt", "flow", "uniform", "mgda", "max", "pareto-0.25", "pareto-0.5", "pareto-0.75",
)  # fmt: skip
AXES = ("natural", "linf", "flow", "rt", "spatial")
BEGIN, END = "<!-- tables: written by figures.py -->\n", "<!-- end of tables -->"

Found = dict[str, Any]


def load() -> dict[tuple[str, int], Found]:
    """Return the results by arm and seed, with the accuracies in the order of AXES."""
    made = {}
    for arm in ARMS:
        for path in sorted(RESULTS.glob(f"{arm}-[0-9].json")):
            found = json.loads(path.read_text(encoding="utf-8"))
            by_name = {figure["name"]: figure["value"] for figure in found["figures"]}
            names = ("accuracy", *(f"robust_accuracy[{axis}]" for axis in AXES[1:]))
            made[arm, found["seed"]] = found | {"values": [by_name[name] for name in names]}
    return made


# -- figures ------------------------------------------------------------------------------------------------------


def front_figure(all_found: dict[tuple[str, int], Found]) -> None:
    """Natural accuracy against each other one: a point per model, a color per arm."""
    figure, panels = plt.subplots(1, 4, figsize=(15, 3.8), layout="constrained")
    for place, axes in enumerate(panels, start=1):
        for k, arm in enumerate(ARMS):
            points = [found["values"] for (name, _), found in all_found.items() if name == arm]
            if points:
                x, y = [p[0] for p in points], [p[place] for p in points]
                marker = "o" if arm.startswith("pareto") else "s" if arm in ("uniform", "mgda", "max") else "^"
                axes.scatter(x, y, label=arm, color=f"C{k}", marker=marker, s=32)
        axes.set(xlabel="natural accuracy", ylabel=f"accuracy under {AXES[place]}")
        axes.grid(alpha=0.2)
    panels[-1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(RESULTS / "front.png", dpi=80)
    plt.close(figure)


def weights_figure(all_found: dict[tuple[str, int], Found]) -> None:
    """The weights of the first seed over the steps, one panel per weighting that changes them."""
    arms = [arm for arm in ARMS if arm in ("mgda", "max") or arm.startswith("pareto")]
    figure, panels = plt.subplots(1, len(arms), figsize=(15, 3), layout="constrained", sharey=True)
    for axes, arm in zip(panels, arms, strict=True):
        steps = all_found[arm, 0]["weights"] if (arm, 0) in all_found else []
        for key in steps[0] if steps else ():
            axes.plot([step[key] for step in steps], label=key.removeprefix("weight_"), linewidth=1)
        axes.set(title=arm, xlabel="step", ylim=(0, 1))
    panels[0].set_ylabel("weight")
    if panels[-1].lines:
        panels[-1].legend(fontsize=7)
    figure.savefig(RESULTS / "weights.png", dpi=60)
    plt.close(figure)


# -- tables -------------------------------------------------------------------------------------------------------


def table(heads: list[str], rows: list[list[str]]) -> str:
    """Return a table in Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def accuracies(all_found: dict[tuple[str, int], Found]) -> str:
    """Return mean, least and greatest accuracy over the seeds."""
    rows = []
    for arm in ARMS:
        values = torch.tensor([found["values"] for (name, _), found in all_found.items() if name == arm])
        if len(values):
            ends = zip(values.mean(0), values.amin(0), values.amax(0), strict=True)
            cells = [f"{100 * mean:.1f} ({100 * low:.1f} to {100 * high:.1f})" for mean, low, high in ends]
            rows.append([arm, str(len(values)), *cells])
    return table(["arm", "seeds", *(f"{axis} (%)" for axis in AXES)], rows)


def claims(all_found: dict[tuple[str, int], Found]) -> str:
    """Return what was expected and what was found, seed by seed."""
    rows, beaten = [], dict.fromkeys(("0.25", "0.5", "0.75"), 0)
    seeds = sorted({seed for _, seed in all_found if all((arm, seed) in all_found for arm in ARMS)})
    for seed in seeds:
        v = {arm: dict(zip(AXES, all_found[arm, seed]["values"], strict=True)) for arm in ARMS}

        def add(expected: str, found: str, met: bool, seed: int = seed) -> None:
            rows.append([str(seed), expected, found, "met" if met else "**not met**"])

        fall = 100 * (v["standard"]["natural"] - v["standard"]["rt"])
        add("standard falls by more than 30 points under the turn-and-shift grid", f"{fall:.1f} points", fall > 30)
        for arm, axis in (("pgd", "linf"), ("flow", "flow"), ("rt", "rt")):
            best = max(("standard", "pgd", "flow", "rt"), key=lambda name, axis=axis: v[name][axis])
            others = max(v[name][axis] for name in ("standard", "pgd", "flow", "rt") if name != arm)
            text = f"{100 * v[arm][axis]:.1f} against {100 * others:.1f}%"
            add(f"of the specialized ones, {arm} is best under {axis}", text, best == arm)
        pgd, plain = v["pgd"]["rt"], v["standard"]["rt"]
        add("pgd is not better than standard under rt", f"{100 * pgd:.1f} against {100 * plain:.1f}%", pgd <= plain)
        for rho in beaten:
            mix, mine = all_found["uniform", seed]["values"], all_found[f"pareto-{rho}", seed]["values"]
            lost = not bool(pareto_front(torch.tensor([mix, mine], dtype=torch.float64))[1])
            beaten[rho] += lost
            add(f"pareto-{rho} is not dominated by uniform", "dominated" if lost else "not dominated", not lost)
    for rho, count in beaten.items():
        if len(seeds) > 2:
            met = "met" if len(seeds) - count >= 2 else "**not met**"
            rows.append(
                ["all", f"pareto-{rho} not dominated in 2 of 3 seeds", f"{len(seeds) - count} of {len(seeds)}", met]
            )
    return table(["seed", "expected", "found", "verdict"], rows)


def volumes(all_found: dict[tuple[str, int], Found]) -> str:
    """Return hypervolumes from 0: what the dial reaches, and what single arms reach.

    Without the integrated attack: under it all accuracies are near 0, and a product with 0 tells nothing.
    """
    sets = {
        "pareto at three rho": ARMS[-3:],
        **{arm: (arm,) for arm in (*ARMS[-3:], "uniform", "mgda", "max", "standard", "pgd", "rt", "flow")},
    }
    seeds, rows = sorted({seed for _, seed in all_found}), []
    for name, arms in sets.items():
        cells = []
        for seed in seeds:
            points = [all_found[arm, seed]["values"][:4] for arm in arms if (arm, seed) in all_found]
            full = len(points) == len(arms)
            cells.append(f"{hypervolume(torch.tensor(points), [0.0] * 4):.4f}" if full else "")
        rows.append([name, *cells])
    return table(["models", *(f"seed {seed}" for seed in seeds)], rows)


def correlations(all_found: dict[tuple[str, int], Found]) -> str:
    """Return Spearman's correlation between the axes over all models."""
    matrix = rank_correlation(torch.tensor([found["values"] for found in all_found.values()]))
    rows = [
        [axis, *("" if value is None else f"{value:+.2f}" for value in row)]
        for axis, row in zip(AXES, matrix, strict=True)
    ]
    return table(["", *AXES], rows)


if __name__ == "__main__":
    everything = load()
    front_figure(everything)
    weights_figure(everything)
    text = README.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    parts = (
        "### Accuracy, mean over seeds with the least and the greatest\n\n" + accuracies(everything),
        "### Expected and found\n\n" + claims(everything),
        "### Hypervolume over natural, linf, flow and rt\n\n" + volumes(everything),
        "### Rank correlation over all models\n\n" + correlations(everything),
    )
    README.write_text(head + BEGIN + "\n" + "\n".join(parts) + "\n" + END + rest.partition(END)[2], encoding="utf-8")
