"""How many gradients do descents need to a small gradient, on eight problems and on a hard chain?

    python reproductions/restarted-descent/run.py [--problem NAME ...] [--chain] [--budget 2000] [--out results]

Each method that has a step gets the one `minimize` picks, 1 / L from the curvature at the start, and 1/4 to 8
times that; what is kept is the picked step and the best one. The tolerance is 1e-4 times the gradient norm at the
start. Everything is deterministic. A problem whose result is there is skipped.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from problems import PROBLEMS, Problem, hard_chain

from pellucid.core import write_json
from pellucid.optim import AdaptiveRestart, FixedRestart, minimize, theory_parameters
from pellucid.optim._minimize import _Counted, _curvature, _Enough

HERE = Path(__file__).parent
SCALES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
STEPPED = ("gd", "nesterov", "agd", "ragd", "ragd (paper)", "heavy-ball", "adam")
LINE_SEARCHED = ("cg", "l-bfgs")


def torch_loop(counted: _Counted, make: Callable[[Any], torch.optim.Optimizer]) -> None:
    """Step an optimizer of torch until the count says stop."""
    x = torch.nn.Parameter(counted.start())
    optimizer = make([x])
    try:
        while True:
            _, x.grad = counted(x)
            if not bool(x.grad.isfinite().all()):
                return
            optimizer.step()
    except _Enough:
        return


def one(problem: Problem, method: str, lr: float | None, tol: float, budget: int) -> dict[str, Any]:
    """Run one method; return its gradients to the tolerance (None if not reached), and where it ended."""
    if method in ("nesterov", "adam"):
        counted = _Counted(problem.fun, problem.start, tol, budget)
        if method == "nesterov":
            torch_loop(counted, lambda p: torch.optim.SGD(p, lr=lr, momentum=0.9, nesterov=True))
        else:
            torch_loop(counted, lambda p: torch.optim.Adam(p, lr=lr))
        chosen = counted.reached or counted.best
        assert chosen is not None
        reached, n, loss, norm = counted.reached is not None, len(counted.losses), chosen[0], chosen[1]
    else:
        rule = AdaptiveRestart.paper() if method == "ragd (paper)" else None
        name = "ragd" if method == "ragd (paper)" else method
        found = minimize(problem.fun, problem.start, method=name, tol=tol, max_gradients=budget, lr=lr, restart=rule)
        reached, n, loss, norm = found.success, found.n_gradients, found.fun, found.grad_norm
    return {"gradients": n if reached else None, "loss": loss, "grad_norm": norm, "lr": lr}


def compare(name: str, budget: int) -> dict[str, Any]:
    """Run all methods on one problem."""
    problem = PROBLEMS[name]()
    begun = time.perf_counter()
    first = _Counted(problem.fun, problem.start, 0.0, 10**6)
    flat = first.start()
    _, gradient = first(flat)
    tol = 1e-4 * float(gradient.norm())
    picked = 1 / _curvature(first, flat)
    rows: dict[str, Any] = {}
    for method in STEPPED:
        base = 0.01 if method == "adam" else picked
        runs = {scale: one(problem, method, base * scale, tol, budget) for scale in SCALES}
        best = min(runs.values(), key=lambda r: (r["gradients"] is None, r["gradients"] or 0, r["grad_norm"]))
        rows[method] = {"picked": runs[1.0], "best": best}
        print(name, method, runs[1.0], best, flush=True)
    for method in LINE_SEARCHED:
        rows[method] = {"picked": one(problem, method, None, tol, budget)}
        print(name, method, rows[method]["picked"], flush=True)
    seconds = time.perf_counter() - begun
    about = {"about": problem.about, "variables": flat.numel(), "tol": tol, "picked_lr": picked, "budget": budget}
    return {**about, "methods": rows, "seconds": seconds}


def chain(mus: tuple[float, ...], budget: int) -> dict[str, Any]:
    """Count gradients on chains that get harder, and fit the exponent of 1 / eps."""
    rows = []
    for mu in mus:
        problem, eps = hard_chain(mu)
        lr, theta, radius, _ = theory_parameters(1.0, 1.0, eps)
        methods = {
            "gd": {"method": "gd", "lr": 1.0},
            "ragd, constants of the analysis": {"lr": lr, "restart": FixedRestart(theta=theta, radius=radius)},
            "ragd, adaptive": {"lr": 1.0, "restart": AdaptiveRestart(eps=eps)},
            "agd": {"method": "agd", "lr": 1.0},
            "l-bfgs": {"method": "l-bfgs"},
        }
        counts = {}
        for name, settings in methods.items():
            chosen = {"method": "ragd", **settings}
            found = minimize(problem.fun, problem.start, tol=eps, max_gradients=budget, **chosen)
            counts[name] = found.n_gradients if found.success else None
        rows.append({"mu": mu, "eps": eps, "variables": problem.start.numel(), "gradients": counts})
        print(rows[-1], flush=True)
    slopes = {}
    for name in rows[0]["gradients"]:
        points = [(math.log(1 / r["eps"]), math.log(r["gradients"][name])) for r in rows if r["gradients"][name]]
        slopes[name] = fitted(points) if len(points) >= 3 else None
    return {"rows": rows, "exponents": slopes, "budget": budget}


def fitted(points: list[tuple[float, float]]) -> float:
    """Return the slope of a line through points by least squares."""
    mx, my = (sum(p[i] for p in points) / len(points) for i in (0, 1))
    return sum((x - mx) * (y - my) for x, y in points) / sum((x - mx) ** 2 for x, _ in points)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problem", action="append", choices=[*PROBLEMS])
    parser.add_argument("--chain", action="store_true")
    parser.add_argument("--budget", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=HERE / "results")
    settings = parser.parse_args()
    settings.out.mkdir(parents=True, exist_ok=True)
    for name in settings.problem or ([] if settings.chain else PROBLEMS):
        path = settings.out / f"{name}.json"
        if not path.exists():
            write_json(path, compare(name, settings.budget))
    path = settings.out / "chain.json"
    if (settings.chain or not settings.problem) and not path.exists():
        write_json(path, chain((0.03, 0.02, 0.014, 0.01, 0.007, 0.005), 200_000))
    for path in sorted(settings.out.glob("*.json")):
        print(path.stem, len(json.loads(path.read_text())), "entries")


if __name__ == "__main__":
    main()
