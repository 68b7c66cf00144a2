"""Draw what run.py and objects.py measured, and write the tables of README.md.

python reproductions/attack-attribution/figures.py        (needs matplotlib)
"""

import json
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

HERE = Path(__file__).resolve().parent
RESULTS, README = HERE / "results", HERE / "README.md"
PAIR = ("standard-cifar10", "robust-cifar10")
BEGIN, END = "<!-- tables: written by figures.py -->\n", "<!-- end of tables -->"
OFFICIAL = 65 * 64 * 5 * 200

Found = dict[str, Any]


def load(name: str) -> dict[int, Found]:
    """Return the results of a part and a network by seed."""
    files = sorted(RESULTS.glob(f"{name}-[0-9].json"))
    return {int(path.stem[-1]): json.loads(path.read_text(encoding="utf-8")) for path in files}


def finite(values: list[float | None]) -> list[float]:
    """Return the numbers of a list that are any."""
    return [value for value in values if value is not None and value == value]


def spread(values: list[float], digits: int = 2) -> str:
    """Return a mean with its standard error over images."""
    error = stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{fmean(values):.{digits}f} ± {error:.{digits}f}"


def table(heads: list[str], rows: list[list[str]]) -> str:
    """Return a table in Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def verdict(met: bool) -> str:
    """Return the verdict on a claim."""
    return "met" if met else "**not met**"


def regions() -> str:
    """Return what regions save: likeness of both norms' maps, and how few regions make most of it."""
    rows = []
    for name in PAIR:
        for seed, found in load(f"regions-{name}").items():
            maps, changes = (finite(found[key]) for key in ("attribution_iou", "perturbation_iou"))
            top = [sum(sorted(v)[-4:]) / sum(v) for v in found["l2"]["values"]]
            saved = [1 - a / b for a, b in zip(found["l2"]["cost_full"], found["l2"]["cost_none"], strict=True)]
            rows.append(
                [
                    name,
                    str(seed),
                    f"{found['accuracy']:.1%}",
                    spread(found["l2"]["cost_full"], 3),
                    spread([255 * c for c in found["linf"]["cost_full"]]),
                    spread(saved),
                    spread(top),
                    spread(maps),
                    spread(changes),
                    verdict(fmean(maps) > fmean(changes)),
                ]
            )
    heads = [
        "network", "seed", "accuracy", "l2 cost", "linf cost x 255", "saved by all regions (l2)",
        "share of the strongest 4 of 16", "IoU of attributions", "IoU of perturbations", "attributions more alike",
    ]  # fmt: skip
    return table(heads, rows)


def shares(found: Found) -> tuple[list[float], list[float], list[float]]:
    """Return per image: components that lower the true class, in the foreground, and their number."""
    lowers, inside, count = [], [], []
    for image in found["images"]:
        parts = image["components"]
        if parts:
            lowers.append(fmean([abs(c["drop_true"]) > abs(c["gain_target"]) for c in parts]))
            inside.append(fmean([c["foreground"] > 0.5 for c in parts]))
            count.append(len(parts))
    return lowers, inside, count


def components() -> str:
    """Return what components do, network by network, and whether the robust one has more of each kind."""
    rows = []
    for part, pair in (("components", PAIR), ("objects", ("standard", "robust"))):
        known = {name: load(f"{part}-{name}") for name in pair}
        for seed in sorted(set().union(*known.values())):
            both = {name: shares(known[name][seed]) for name in pair if seed in known[name]}
            for name, (lowers, inside, count) in both.items():
                found = known[name][seed]
                removed = fmean([sum(image["all_removed"]) for image in found["images"]])
                random = fmean([sum(image["random_removed"]) for image in found["images"]])
                whole = len(both) == 2 and name == pair[1]
                rows.append(
                    [
                        f"{part}: {name}",
                        str(seed),
                        f"{found['accuracy']:.1%}",
                        f"{fmean(count):.1f}",
                        spread(lowers),
                        verdict(fmean(lowers) > fmean(both[pair[0]][0])) if whole else "",
                        spread(inside),
                        verdict(fmean(inside) > fmean(both[pair[0]][1])) if whole else "",
                        f"{removed:.2f} / {random:.2f}",
                    ]
                )
    heads = [
        "network", "seed", "accuracy", "components an image", "share mainly lowering the true class",
        "more than standard", "share in the foreground", "more than standard",
        "change of z_t - z_y without them / without random blocks",
    ]  # fmt: skip
    return table(heads, rows)


def price() -> str:
    """Return what one map in the paper's setting costs."""
    lines = []
    for seed, found in load(f"cost-{PAIR[0]}").items():
        images = len(found["l2"]["values"])
        spent, slack = found["l2"]["evaluations"] / images, found["l2"]["slack"][0] / found["l2"]["cost_full"][0]
        lines.append(
            f"8 x 8 regions, seed {seed}: {spent:,.0f} evaluations for an image (a gradient counts two), of which "
            f"{2 * 8 * 64 * 30:,} warm gradient steps; the authors' schedule takes {OFFICIAL:,} gradient steps. "
            f"Paths end {slack:.1e} of the cost above the best known one.\n"
        )
    return "\n".join(lines)


def figures() -> None:
    """Write one picture: IoU of maps per image, and the mean share of the strongest regions."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for k, name in enumerate(PAIR):
        for seed, found in load(f"regions-{name}").items():
            label = "" if seed else name.removesuffix("-cifar10")
            left.scatter(found["perturbation_iou"], found["attribution_iou"], s=12, color=f"C{k}", label=label)
            ordered = [sorted(v, reverse=True) for v in found["l2"]["values"]]
            curve = [0.0] + [fmean([sum(v[: n + 1]) / sum(v) for v in ordered]) for n in range(16)]
            right.plot(range(17), curve, color=f"C{k}", label=label)
    left.plot([0, 1], [0, 1], color="gray", linewidth=1)
    left.set(xlabel="IoU of l2 and linf perturbations", ylabel="IoU of l2 and linf attributions")
    right.plot([0, 16], [0, 1], color="gray", linewidth=1, linestyle="--")
    right.set(xlabel="strongest regions of 16", ylabel="share of what regions save (l2)")
    left.legend(fontsize=8)
    figure.savefig(RESULTS / "regions.png", dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    if load(f"regions-{PAIR[0]}"):
        figures()
    text = README.read_text(encoding="utf-8")
    start, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    parts = "\n".join(part for part in (regions(), components(), price()) if part)
    README.write_text(text[:start] + "\n" + parts + "\n" + text[end:], encoding="utf-8")
