"""Write the tables of README.md and of docs/methods/implicit-models.md from what run.py measured.

python reproductions/implicit/figures.py
"""

import json
from pathlib import Path
from statistics import mean, median, stdev

HERE = Path(__file__).resolve().parent


def read(part):
    """Return what was measured, by arm: one dictionary per seed."""
    arms = {}
    for file in sorted((HERE / "results").glob(f"{part}-*.json")):
        for arm, values in json.loads(file.read_text())["arms"].items():
            arms.setdefault(arm, []).append(values)
    return arms


def spread(values, scale=1.0, digits=1):
    """Return mean and standard deviation over seeds."""
    values = [scale * value for value in values]
    deviation = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{deviation}"


def table(head, rows):
    """Return a Markdown table."""
    lines = ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines)


def pictures(runs):
    """Return the table of arms on pictures."""
    rows = []
    for arm, seeds in runs.items():
        implicit = "ways" in seeds[0]
        own = [s["cosine"][0][1] for s in seeds if s["cosine"]], [s["cosine"][-1][1] for s in seeds if s["cosine"]]
        rows.append(
            [
                arm,
                f"{seeds[0]['parameters']:,}",
                spread([s["accuracy"] for s in seeds], 100),
                spread([s["step_seconds"] for s in seeds], 1000, 0),
                spread([s["answering"] for s in seeds], 1000, 2),
                spread([s["kept"] / 1024 for s in seeds], 1, 0),
                f"{spread(own[0], 1, 2)} to {spread(own[1], 1, 2)}" if own[0] else ("1" if implicit else "-"),
                spread([s["steps"][-1] for s in seeds]) if implicit else "-",
                spread([s["settled_test"] for s in seeds], 100, 0) if implicit else "-",
            ]
        )
    head = ["network", "parameters", "accuracy, %", "ms a step of 64", "ms to answer one", "kept, KiB a picture"]
    return table([*head, "cosine to exact, first to last", "solver steps at the end", "settled, %"], rows)


def plain(runs):
    """Return the table of accuracies of one part."""
    rows = []
    for arm, seeds in runs.items():
        steps = spread([s["steps"] for s in seeds]) if "steps" in seeds[0] else "-"
        settled = spread([s["settled"] for s in seeds], 100, 0) if "settled" in seeds[0] else "-"
        accuracy, minutes = ([s[key] for s in seeds] for key in ("accuracy", "minutes"))
        parameters = f"{seeds[0]['parameters']:,}" if "parameters" in seeds[0] else "-"
        rows.append([arm, parameters, spread(accuracy, 100), f"{60 * median(minutes):.0f}", steps, settled])
    return table(["network", "parameters", "accuracy, %", "seconds (median)", "solver steps", "settled, %"], rows)


def put(file, mark, text):
    """Replace what stands between two marks of a page."""
    page = file.read_text()
    begin, end = page.index(f"<!-- {mark}:"), page.index(f"<!-- /{mark} -->")
    file.write_text(page[: page.index("\n", begin) + 1] + text + "\n" + page[end:])


DOCS = HERE.parents[1] / "docs" / "methods" / "implicit-models.md"
for name, made in (("pictures", pictures), ("graphs", plain), ("text", plain), ("mdeq", plain)):
    if runs := read(name):
        put(HERE / "README.md", name, made(runs))
        if name in ("pictures", "text"):
            put(DOCS, "when-not" if name == "pictures" else "when-not-text", made(runs))
