"""Draw what run.py measured, and write the tables of README.md.

python reproductions/robustness-view/figures.py        (needs matplotlib)
"""

import json
from pathlib import Path
from statistics import correlation, mean
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

HERE = Path(__file__).resolve().parent
RESULTS, README = HERE / "results", HERE / "README.md"
BEGIN, END = "<!-- tables: written by figures.py -->\n", "<!-- end of tables -->"
MODELS = {"standard": "C0", "robust": "C1"}
SCORE = "log_probability"

Found = dict[str, Any]


def load(part: str, model: str) -> dict[int, Found]:
    """Return the results of a part by seed."""
    files = sorted(RESULTS.glob(f"{part}-{model}-[0-9].json"))
    return {int(path.stem[-1]): json.loads(path.read_text(encoding="utf-8")) for path in files}


def band(axes: plt.Axes, x: list[float], found: Found, color: str, label: str, style: str = "-") -> None:
    """Draw a curve with its interval."""
    axes.plot(x, found["value"], style, color=color, label=label, markersize=3)
    axes.fill_between(x, found["low"], found["high"], color=color, alpha=0.12, linewidth=0)


def side(found: Found, column: int) -> Found:
    """Return the normal (0) or attacked (1) column of a pair of curves."""
    return {end: [row[column] for row in found[end]] for end in ("value", "low", "high")}


def figures() -> None:
    """Draw the waterfall, order curves, disentanglement and detectors; the first seed of each network."""
    waterfalls, both = plt.subplots(1, 2, figsize=(11, 3.4), layout="constrained")
    curves, panels = plt.subplots(1, 3, figsize=(14, 3.6), layout="constrained")
    for axes, (model, color) in zip(both, MODELS.items(), strict=True):
        for found in list(load("orders", model).values())[:1]:
            one = found[SCORE]
            heights = [mean(one["first_order"]), *one["utility"], mean(one["total"])]
            axes.bar(range(len(heights)), heights, color=["C2", *[color] * len(one["utility"]), "0.5"])
            names = ["alone", *(f"{k / 10:.1f}" for k in range(len(one["utility"]))), "total"]
            axes.set_xticks(range(len(heights)), names, fontsize=7)
            axes.set(title=model, ylabel="part of the drop (log probability)", xlabel="order, from")
            for name, style in (("normal", "-"), ("attacked", "--")):
                band(panels[0], found["ratios"], one[name], color, f"{model}, {name}", style)
        for found in list(load("pairs", model).values())[:1]:
            for k, style in enumerate(("-", "--")):
                band(panels[1], found["ratios"], side(found["mean_of_ratios"], k), color, "", style)
            panels[1].plot(found["ratios"], found["floor"], ":", color="0.4")
        for found in list(load("defences", model).values())[:1]:
            area = found["detector"]["interquartile"]
            band(panels[2], [0.1, 0.3, 0.5, 0.7, 0.9, 1.0][-len(area["value"]) :], area, color, model)
    panels[2].axhline(0.5, linestyle=":", color="0.4")
    for axes, title in zip(
        panels, ("mean interaction", "disentanglement", "detector, area under the curve"), strict=True
    ):
        axes.set(xlabel="order: share of the other players present", ylabel=title)
    panels[0].legend(fontsize=7)
    waterfalls.savefig(RESULTS / "waterfall.png", dpi=110)
    curves.savefig(RESULTS / "curves.png", dpi=110)


def row(*cells: object) -> str:
    """Return a row of a table."""
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def interval(found: Found, *, percent: bool = True) -> str:
    """Return a number with its interval."""
    value, low, high = (found[end] for end in ("value", "low", "high"))
    return f"{value:.1%} ({low:.1%} to {high:.1%})" if percent else f"{value:.3f} ({low:.3f} to {high:.3f})"


def tables() -> str:
    """Return every number that the claims are about."""
    head = ("attack", "network", "seed", "samples", "drop", "closure error", "alone / drop", "r >= 0.7 / drop")
    lines = [row(*head, "share of dI at r >= 0.7", "the same in log odds"), row(*["---"] * 10)]
    for part, attack in (("orders", "8/255"), ("orders-controlled", "half margin")):
        for model in MODELS:
            for seed, found in load(part, model).items():
                one, odds = found[SCORE], found["log_odds"]
                drop = mean(one["total"])
                high = sum(one["utility"][-3:]) / drop
                alone = mean(one["first_order"]) / drop
                shares = (interval(score["share_above_0.7"]) for score in (one, odds))
                error = f"{one['closure_error']:.0e}"
                lines.append(
                    row(
                        attack, model, seed, found["used"], f"{drop:.2f}", error, f"{alone:.0%}", f"{high:.0%}", *shares
                    )
                )
    lines += [
        "",
        row("network", "seed", "D at 0.2, normal", "D at 0.2, attacked", "D at 0.95, normal", "ratio of means at 0.2"),
    ]
    lines.append(row(*["---"] * 6))
    for model in MODELS:
        for seed, found in load("pairs", model).items():
            kinds = [
                {e: found["mean_of_ratios"][e][m][k] for e in ("value", "low", "high")}
                for m, k in ((1, 0), (1, 1), (-1, 0))
            ]
            kinds.append({e: found["ratio_of_means"][e][1][0] for e in ("value", "low", "high")})
            lines.append(row(model, seed, *(interval(kind, percent=False) for kind in kinds)))
    lines += [
        "",
        row(
            "network",
            "seed",
            "cutout",
            "0.1",
            "0.2",
            "0.3",
            "normal right at 0.2",
            "recovered",
            "distances",
            "AUROC 0.9 / last",
        ),
    ]
    lines.append(row(*["---"] * 10))
    for model in MODELS:
        for seed, found in load("defences", model).items():
            rates = [interval(found["correction"][key]["rate"]) for key in ("cutout", "0.1", "0.2", "0.3")]
            lengths = [mean(found["recovery"][key]) for key in ("attack_distance", "recovered_distance")]
            area = found["detector"]["interquartile"]["value"]
            kept, near = (interval(one) for one in (found["correction"]["0.2"]["kept"], found["recovery"]["near"]))
            texts = (f"{lengths[0]:.2f}, {lengths[1]:.2f}", f"{area[-2]:.2f} / {area[-1]:.2f}")
            lines.append(row(model, seed, *rates, kept, near, *texts))
    lines += [
        "",
        row("network", "seed", *(f"{k} steps: drop, dI of the last bin" for k in (4, 8, 16, 32)), "correlation"),
    ]
    lines.append(row(*["---"] * 7))
    for model in MODELS:
        for seed, found in load("strength", model).items():
            parts = [found[k][SCORE] for k in ("4", "8", "16", "32")]
            cells = [(mean(p["total"]), p["delta"]["value"][-1]) for p in parts]
            r = correlation([c[0] for c in cells], [c[1] for c in cells])
            lines.append(row(model, seed, *(f"{a:.2f}, {b:.4f}" for a, b in cells), f"{r:.2f}"))
    return "\n".join(lines) + "\n"


figures()
before, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
after = rest.partition(END)[2]
README.write_text(f"{before}{BEGIN}\n{tables()}\n{END}{after}", encoding="utf-8")
