"""Write the tables of README.md from results/."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ORDER = ("cosines", "rosenbrock", "planted", "image", "phases", "network", "movielens", "one-bit")
METHODS = ("gd", "nesterov", "agd", "ragd", "ragd (paper)", "heavy-ball", "adam", "cg", "l-bfgs")
BEGIN, END = "<!-- tables -->\n", "<!-- end of tables -->\n"


def cell(run: dict[str, Any], tol: float) -> str:
    """Return the gradients to the tolerance, or how many times above it the method ended."""
    return f"{run['gradients']:,}" if run["gradients"] else f"x {run['grad_norm'] / tol:.2g}"


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a table in Markdown."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def tables() -> str:
    """Return all tables."""
    rows, losses = [], []
    for name in ORDER:
        path = HERE / "results" / f"{name}.json"
        if not path.exists():
            continue
        found = json.loads(path.read_text(encoding="utf-8"))
        runs, tol = found["methods"], found["tol"]
        for kind in ("picked", "best"):
            chosen = {m: runs[m].get(kind, runs[m]["picked"]) for m in METHODS}
            about = f"{name}, {found['variables']:,} variables" if kind == "picked" else ""
            rows.append((about, f"{kind} step", *(cell(chosen[m], tol) for m in METHODS)))
            if all(run["gradients"] is None for run in chosen.values()):
                losses.append((name, f"{kind} step", *(f"{chosen[m]['loss']:.3g}" for m in METHODS)))
    chain = json.loads((HERE / "results" / "chain.json").read_text(encoding="utf-8"))
    names = tuple(chain["exponents"])
    links = [
        (f"{r['eps']:.2e}", f"{r['variables']:,}", *(f"{r['gradients'][n]:,}" for n in names)) for r in chain["rows"]
    ]
    links.append(("exponent of 1 / eps", "", *(f"{chain['exponents'][n]:.2f}" for n in names)))
    return "\n".join(
        (
            table(("problem", "", *METHODS), rows),
            "Where no method arrived, the loss at the end:\n",
            table(("problem", "", *METHODS), losses),
            table(("eps", "variables", *names), links),
        )
    )


if __name__ == "__main__":
    page = HERE / "README.md"
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    page.write_text(f"{before}{BEGIN}{tables()}{END}{rest.partition(END)[2]}", encoding="utf-8")
