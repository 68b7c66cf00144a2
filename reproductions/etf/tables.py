"""Write the tables of README.md from results: mean over seeds with the least and the greatest."""

import json
from pathlib import Path

HERE = Path(__file__).resolve().parent
ARMS = ("ce", "ce-balanced", "logit-adjusted", "etf-ce", "etf-dr")
DATA = {"fashion-mnist": "Fashion-MNIST", "cifar10": "CIFAR-10, reduced", "cifar10-full": "CIFAR-10, as in the paper"}
DATA |= {"cifar100-full": "CIFAR-100, as in the paper"}
SHARES = ("accuracy", "accuracy_head", "accuracy_medium", "accuracy_tail")
MARK = "<!-- tables: written by tables.py -->"


def spread(values: list[float], scale: float = 1.0, digits: int = 1) -> str:
    """Return the mean and the range of some numbers."""
    if not values:
        return "-"
    mean = sum(values) / len(values)
    low, mid, high = (f"{scale * value:.{digits}f}" for value in (min(values), mean, max(values)))
    return f"{mid} ({low} to {high})"


def table(head: tuple[str, ...], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def arm_rows(data: str) -> tuple[list[list[str]], list[list[str]], dict[str, list[dict]]]:
    """Return rows of accuracies and of geometry, and what was found by arm."""
    found = {
        arm: [json.loads(f.read_text()) for f in sorted(HERE.glob(f"results/{data}-{arm}-?.json"))] for arm in ARMS
    }
    accuracy, geometry = [], []
    for arm, runs in found.items():
        figures = [{figure["name"]: figure["value"] for figure in run["figures"]} for run in runs]
        accuracy.append([arm, str(len(runs)), *(spread([f[name] for f in figures], 100) for name in SHARES)])
        numbers = [run["geometry"] for run in runs]
        parts = [
            spread([n[name] for n in numbers], 1, 2) for name in ("nc1", "max_angle", "minority_means", "minority")
        ]
        geometry.append([arm, *parts, spread([n["ece"] for n in numbers], 100)])
    return accuracy, geometry, found


def verdict(found: dict[str, list[dict]], other: str, name: str) -> list[str]:
    """Compare etf-dr with another arm, seed by seed."""

    def by_seed(arm: str) -> dict[int, float]:
        return {run["seed"]: next(f["value"] for f in run["figures"] if f["name"] == name) for run in found[arm]}

    ours, theirs = by_seed("etf-dr"), by_seed(other)
    gains = [100 * (ours[seed] - theirs[seed]) for seed in sorted(ours.keys() & theirs.keys())]
    if not gains:
        return []
    met = all(gain >= 0 for gain in gains)
    what = f"etf-dr is at least as good as {other}: {name}"
    return [what, ", ".join(f"{gain:+.1f}" for gain in gains), "met" if met else "**not met in every seed**"]


parts = []
for data, title in DATA.items():
    accuracy, geometry, found = arm_rows(data)
    if not any(found.values()):
        continue
    parts.append(f"### {title}\n")
    parts.append(table(("arm", "seeds", "all (%)", "head (%)", "medium (%)", "tail (%)"), accuracy))
    columns = ("arm", "nc1", "off the angle", "mean cosine, rare means", "rare vectors", "calibration error (%)")
    parts.append(table(columns, geometry))
    pairs = [(other, name) for other in ARMS[:4] for name in ("accuracy", "accuracy_tail")]
    rows = [row for row in (verdict(found, *pair) for pair in pairs) if row]
    parts.append(table(("expected", "points, seed by seed", "verdict"), rows))
free = [json.loads(path.read_text()) for path in sorted(HERE.glob("results/free-?.json"))]
if free:
    parts.append("### Free features\n")
    rows = [[name, spread([run[name] for run in free], 1, 4)] for name in free[0]]
    parts.append(table(("quantity", f"{len(free)} seeds"), rows))
readme = HERE / "README.md"
before = readme.read_text(encoding="utf-8").partition(MARK)
rest = before[2].partition("\n## ")
tail = f"\n## {rest[2]}" if rest[1] else ""
readme.write_text(f"{before[0]}{MARK}\n\n" + "\n".join(parts) + tail, encoding="utf-8")
