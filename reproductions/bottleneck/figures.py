"""Draw what run.py, robustness.py and imagenet.py measured, and write the tables of README.md.

python reproductions/bottleneck/figures.py        (needs matplotlib)
"""

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

HERE = Path(__file__).resolve().parent
RESULTS, README = HERE / "results", HERE / "README.md"
REGIMES = ("standard-cifar10", "low-order-cifar10", "middle-order-cifar10", "high-order-cifar10")
BEGIN, END = "<!-- tables: written by figures.py -->\n", "<!-- end of tables -->"

Found = dict[str, Any]


def load(name: str) -> dict[int, Found]:
    """Return the results of a network by seed."""
    files = sorted(RESULTS.glob(f"{name}-[0-9].json"))
    return {int(path.stem[-1]): json.loads(path.read_text(encoding="utf-8")) for path in files}


# -- figures ------------------------------------------------------------------------------------------------------


def draw(axes: plt.Axes, found: Found, kind: str, label: str, color: str) -> None:
    """Draw one spectrum: J^m ("relative") or S^m ("strength"); the band is its 95% interval over samples."""
    low, high = ("relative_low", "relative_high") if kind == "relative" else ("low", "high")
    axes.plot(found["ratios"], found[kind], marker="o", markersize=3, label=label, color=color)
    axes.fill_between(found["ratios"], found[low], found[high], color=color, alpha=0.12, linewidth=0)
    if kind == "strength" and max(found["floor"]) > 1e-9:
        axes.plot(found["ratios"], [2 * value for value in found["floor"]], color=color, linestyle=":")


def figures() -> None:
    """Write one picture per part: J and S side by side, one color per network, one line per seed."""
    parts = {"digits": ("digits",), "cifar10": REGIMES[:1], "regimes": REGIMES, "imagenet": ("imagenet",)}
    for name, networks in parts.items():
        figure, both = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
        for axes, kind, title in zip(both, ("relative", "strength"), ("J", "S (log odds)"), strict=True):
            for k, network in enumerate(networks):
                for seed, found in load(network).items():
                    label = "" if seed else network.removesuffix("-cifar10")
                    draw(axes, found, kind, label, f"C{k}")
            axes.set(xlabel="order: share of the other players present", ylabel=f"strength {title}", ylim=(0, None))
        if both[0].lines:
            both[0].legend(fontsize=8)
            figure.savefig(RESULTS / f"{name}.png", dpi=110)
        plt.close(figure)


# -- tables -------------------------------------------------------------------------------------------------------


def interval(value: float, low: float, high: float, digits: int = 2) -> str:
    """Return a number with its interval."""
    return f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def at(found: Found, ratio: float) -> int:
    """Return the column of the measured order nearest to a ratio."""
    return min(range(len(found["ratios"])), key=lambda k: abs(found["ratios"][k] - ratio))


def relative(found: Found, ratio: float) -> str:
    """Return J with its interval at a ratio."""
    k = at(found, ratio)
    return interval(found["relative"][k], found["relative_low"][k], found["relative_high"][k])


def table(heads: list[str], rows: list[list[str]]) -> str:
    """Return a table in Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def verdict(met: bool) -> str:
    """Return the verdict on a claim."""
    return "met" if met else "**not met**"


def spectra() -> str:
    """Return the table of all spectra."""
    rows = []
    for name in ("digits", *REGIMES):
        for seed, found in load(name).items():
            center = found["center"]
            rows.append(
                [
                    name,
                    str(seed),
                    f"{found['accuracy']:.1%}",
                    interval(center["value"], center["low"], center["high"], 3),
                    *(relative(found, ratio) for ratio in (0, 0.5, 1)),
                    str(found["effective_players"]),
                ]
            )
    heads = ["network", "seed", "accuracy", "center of mass of S", "J(0)", "J(0.5)", "J(1)", "players of the theory"]
    return table(heads, rows)


def claims() -> str:
    """Return the table of the claims, each seed by itself."""
    rows = []
    for seed, found in load("digits").items():
        least = found["ratios"][found["relative"].index(min(found["relative"]))]
        rows.append(
            ["a", str(seed), f"J(0) = {found['relative'][0]:.2f} above 1.3", verdict(found["relative"][0] > 1.3)]
        )
        rows.append(["a", str(seed), f"least at r = {least:.2f}, within 0.5 to 0.8", verdict(0.5 <= least <= 0.8)])
    plain = load(REGIMES[0])
    for seed, found in plain.items():
        middle = found["relative_high"][at(found, 0.5)]
        for end in (0, -1):
            low = found["relative_low"][end]
            text = f"J({0 if end == 0 else 1}) from {low:.3f} on, J(0.5) up to {middle:.3f}: intervals apart"
            rows.append(["b", str(seed), text, verdict(low > middle)])
    low_order, high_order = load(REGIMES[1]), load(REGIMES[3])
    for seed in sorted(set(plain) & set(low_order) & set(high_order)):
        first, second = low_order[seed]["center"], high_order[seed]["center"]
        text = f"center of low-order {first['value']:.3f} below high-order {second['value']:.3f}"
        apart = "" if first["high"] < second["low"] else "; intervals overlap"
        rows.append(["c", str(seed), text + apart, verdict(first["value"] < second["value"])])
        loss = max(plain[seed]["accuracy"] - other[seed]["accuracy"] for other in (low_order, high_order))
        rows.append(["c", str(seed), f"accuracy at most {100 * loss:.1f} points below plain", verdict(loss <= 0.1)])
    return table(["part", "seed", "claim", "verdict"], rows)


def robustness() -> str:
    """Return the table of the attacked networks; empty where none was attacked."""
    rows = []
    for name in REGIMES:
        for seed, found in load(f"robustness-{name}").items():
            rows.append(
                [
                    name,
                    str(seed),
                    *(f"{a['value']:.1%} ({a['low']:.1%} to {a['high']:.1%})" for a in found["accuracy"].values()),
                ]
            )
    if not rows:
        return ""
    heads = ["network", "seed", "no attack", "1/255", "2/255", "4/255"]
    return "\nAccuracy on 500 test images under PGD with 20 steps (linf):\n\n" + table(heads, rows)


def imagenet() -> str:
    """Return the table of the ImageNet network; empty where it was not measured."""
    rows = [
        [
            f"{ratio:.2f}",
            interval(found["relative"][k], found["relative_low"][k], found["relative_high"][k]),
            interval(found["strength"][k], found["low"][k], found["high"][k]),
            f"{2 * found['floor'][k]:.3f}",
        ]
        for found in load("imagenet").values()
        for k, ratio in enumerate(found["ratios"])
    ]
    if not rows:
        return ""
    text = "\nEfficientNet-lite0 on photographs (imagenet.py, 16 x 16 players):\n\n"
    return text + table(["r", "J", "S (log odds)", "2 x noise floor"], rows)


figures()
before, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
written = f"{BEGIN}\n{claims()}\n{spectra()}{robustness()}{imagenet()}\n{END}"
README.write_text(before + written + rest.partition(END)[2], encoding="utf-8")
