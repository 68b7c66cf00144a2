"""Write the tables of README.md and of docs/methods/hamburger.md, and results/accuracy.png, from what was measured.

python reproductions/hamburger/figures.py
"""

import json
from pathlib import Path
from statistics import mean, stdev

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PAGE = ROOT / "docs" / "methods" / "hamburger.md"


def read(part):
    """Return what was measured, by arm: one dictionary per seed."""
    arms = {}
    for file in sorted((HERE / "results").glob(f"{part}-*.json")):
        for arm, values in json.loads(file.read_text())["arms"].items():
            arms.setdefault(arm, []).append(values)
    return arms


def spread(values, scale=100.0):
    """Return mean and standard deviation over seeds."""
    values = [scale * value for value in values]
    return f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def table(head, rows):
    """Return a Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))


def costs(seeds):
    """Return milliseconds and megabytes of the last seed with all arms, which took turns."""
    last = seeds[-1]
    return [f"{1e3 * last['seconds']:.0f}", f"{last['kept'] / 1e6:.1f}"]


ORDER = ("none", "conv", "attention", "nmf", "vq", "cd", "nmf, 0 steps", "nmf, 1 steps", "nmf, 3 steps")


def ordered(arms):
    """Return arms in the order of the tables."""
    return sorted(arms.items(), key=lambda arm: ORDER.index(arm[0]) if arm[0] in ORDER else len(ORDER))


def layers(arms):
    """Return the table of layers."""
    rows = [[arm, spread([s["figures"]["accuracy"] for s in seeds]), *costs(seeds)] for arm, seeds in ordered(arms)]
    return table(["layer", "accuracy, %", "ms a training step of 32", "kept, MB"], rows)


def heads(arms):
    """Return the table of heads."""
    names = ("mean_iou", "iou[sea]", "iou[land]", "iou[lake]", "pixel_accuracy")
    rows = []
    for arm, seeds in ordered(arms):
        figures = [spread([s["figures"][name] for s in seeds]) for name in names]
        rows.append([arm, *figures, str(len(seeds)), *costs(seeds)])
    head = ["head", "mean IoU, %", "sea", "land", "lake", "pixels right, %", "seeds"]
    return table([*head, "ms a training step of 8", "kept, MB"], rows)


def picture(parts):
    """Draw one dot per seed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(parts), figsize=(4.6 * len(parts), 2.8), squeeze=False)
    for axis, (title, name, arms) in zip(axes[0], parts, strict=True):
        for place, (_, seeds) in enumerate(ordered(arms)):
            values = [100 * s["figures"][name] for s in seeds]
            axis.plot(values, [place] * len(values), "o", color="#4477aa", alpha=0.6)
            axis.plot([mean(values)], [place], "|", color="black", markersize=14)
        axis.set_yticks(range(len(arms)), [arm for arm, _ in ordered(arms)])
        axis.invert_yaxis()
        axis.set_xlabel(title)
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(HERE / "results" / "accuracy.png", dpi=90)


def section(note, title):
    """Return the table under one heading of a note."""
    text = note.read_text().split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]
    return text.strip()


def speeds(note):
    """Return time over attention's, per size and way, from the four tables of the benchmark's note."""
    found, head = {}, ["positions"]
    for part in ("core", "block"):
        for mode in ("forward", "training"):
            head.append(f"{part}, {mode}")
            for line in section(note, f"Time of the {part}, {mode}").splitlines()[2:]:
                cells = [cell.strip() for cell in line.strip("|").split("|")]
                found.setdefault(cells[0], []).append(cells[2] if ": attention" not in cells[0] else f"{cells[1]} ms")
    return table(head, [[what, *cells] for what, cells in found.items()])


def put(file, mark, text):
    """Replace what stands between two marks of a page."""
    page = file.read_text()
    begin, end = page.index(f"<!-- {mark}:"), page.index(f"<!-- /{mark} -->")
    file.write_text(page[: page.index("\n", begin) + 1] + text + "\n" + page[end:])


drawn = []
for part, made, title, figure in (
    ("layers", layers, "accuracy, %", "accuracy"),
    ("heads", heads, "mean IoU, %", "mean_iou"),
    ("balanced", heads, "mean IoU, weighted classes, %", "mean_iou"),
):
    if arms := read(part):
        put(HERE / "README.md", part, made(arms))
        put(PAGE, part, made(arms))
        drawn.append((title, figure, arms))
if drawn:
    picture(drawn)
for note in sorted((ROOT / "benchmarks" / "results").glob("hamburger_*.md"))[-1:]:
    put(PAGE, "speed", speeds(note))
    put(PAGE, "memory", section(note, "Memory"))
