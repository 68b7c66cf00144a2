"""How exact are sampled estimates at equal cost, and what does the shared design of pair orders save?

    python benchmarks/bench_estimators.py [--seeds 30] [--quick] [--note]

(a) Mean squared error of Shapley values at ten budgets on five games of 12 players: ours, shapiq's permutation sampling
and its KernelSHAP; (b) evaluations of the authors' design of the order spectrum over ours at equal standard error, on a
small CNN with an 8 x 8 grid.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import torch
from _interleaved import markdown_table, write_note
from torch import Tensor, nn

from pellucid import games
from pellucid.core import Stream
from pellucid.nn.models import SmallCNN

N = 12


def tables() -> dict[str, Tensor]:
    """Return five games of 12 players as tables."""
    rng, size = Stream(0).child("bench"), games.sizes(N)
    sparse = torch.zeros(1 << N, dtype=torch.float64)
    rows = rng.child("rows").integers(1 << N, (1, 40))[0]
    sparse[rows] = rng.child("values").normal((1, 40), dtype=torch.float64)[0]
    with rng.child("weights").forked():
        mlp = nn.Sequential(nn.Linear(N, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3))
        cnn = SmallCNN()
    x = rng.child("x").normal((1, N))[0]
    image = rng.child("image").uniform((1, 1, 28, 28))[0]
    of_mlp = games.ModelGame(mlp, x, games.Features(fill="zero"), games.log_odds(0))
    of_cnn = games.ModelGame(cnn, image, games.Patches((3, 4), fill="zero"), games.log_odds(0))
    dense = rng.child("dense").normal((1 << N, 1), dtype=torch.float64)[:, 0] * 0.5 ** size.double()
    return {
        "majority": (size > N // 2).double(),
        "40 random AND terms": games.zeta(sparse),
        "all AND terms, halving by size": games.zeta(dense),
        "MLP on 12 features": games.table(of_mlp),
        "small CNN, 3 x 4 cells": games.table(of_cnn),
    }


def ours(v: Tensor, budget: int, seed: int) -> Tensor:
    """Antithetic permutations, as many as the budget pays."""
    permutations = max(4, (budget - 2) // (N - 1) // 2 * 2)
    return games.shapley(games.TableGame(v), permutations=permutations, rng=Stream(seed)).values


def peer(name: str) -> Callable[[Tensor, int, int], Tensor]:
    """One of shapiq's approximators as a function of table, budget and seed."""
    import shapiq

    def run(v: Tensor, budget: int, seed: int) -> Tensor:
        weights, worth = 2 ** np.arange(N), (v - v[0]).numpy()
        settings = {"n": N, "random_state": seed}
        approximator = getattr(shapiq, name)(**settings)
        found = approximator.approximate(budget, lambda keep: worth[np.atleast_2d(keep).astype(np.int64) @ weights])
        return torch.from_numpy(np.asarray(found.get_n_order_values(1)))

    return run


def errors(seeds: int, budgets: list[int]) -> str:
    """(a) Mean squared error over players and seeds, as a share of the mean squared Shapley value."""
    methods = {"ours": ours, "permutation": peer("PermutationSamplingSV"), "KernelSHAP": peer("KernelSHAP")}
    rows = []
    for game, v in tables().items():
        exact = games.shapley(v).values
        for budget in budgets:
            mse = [
                float(torch.stack([(run(v, budget, seed) - exact).square().mean() for seed in range(seeds)]).mean())
                for run in methods.values()
            ]
            rows.append((game, str(budget), *(f"{value / float(exact.square().mean()):.2e}" for value in mse)))
    return markdown_table(("game", "evaluations", "ours", "shapiq permutation", "shapiq KernelSHAP"), rows)


def designs(contexts: int) -> str:
    """(b) Evaluations times squared standard error of the authors' design, over that of the shared one."""
    with Stream(0).child("cnn").forked():
        model = SmallCNN()
    image = Stream(1).uniform((1, 1, 28, 28))[0]
    game = games.ModelGame(model, image, games.Patches(8, fill="zero"), games.log_odds(0))
    block = games.neighbor_blocks(game.players, blocks=1, rng=Stream(2))
    rows = []
    for ratio in (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0):
        order = int(62 * ratio)
        shared = games.pair_orders(game, block, (order,), contexts=contexts, rng=Stream(3))
        alone = games.pair_orders(game, block, (order,), contexts=contexts, sharing="independent", rng=Stream(3))
        official = 36 * 4 * contexts
        if float(shared.stderr.max()) == 0:
            rows.append((f"{ratio:g}", str(official), str(shared.evaluations), "exact in ours"))
            continue
        gain = alone.stderr.square().mean() / shared.stderr.square().mean() * official / shared.evaluations
        rows.append((f"{ratio:g}", str(official), str(shared.evaluations), f"{float(gain):.2f}"))
    return markdown_table(("order", "evaluations, authors' design", "ours", "authors' / ours at equal error"), rows)


def main() -> None:
    """Run, print, and keep a note if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--quick", action="store_true", help="three budgets, five seeds")
    parser.add_argument("--note", action="store_true")
    wish = parser.parse_args()
    budgets = [round(float(b)) for b in np.geomspace(60, 3000, 10)]
    sections = {
        "Shapley values: mean squared error over the mean squared value": errors(
            5 if wish.quick else wish.seeds, budgets[::4] if wish.quick else budgets
        ),
        "Pair orders of one 3 x 3 block: evaluations at equal standard error": designs(20 if wish.quick else 100),
    }
    for title, text in sections.items():
        print(f"## {title}\n\n{text}\n")
    if wish.note:
        print(write_note("estimators", sections, packages=("shapiq", "numpy")))


if __name__ == "__main__":
    main()
