"""How much do games cost beyond the bare forward passes, and how do the transforms compare with a peer's?

    python benchmarks/bench_games.py [--rounds 15] [--quick] [--peers] [--note]

(a) exact table, dividends, Shapley values and all pairs at all orders of a 3 x 256 MLP on tabular data, n = 12, 14, 16,
over bare forwards of the same masked inputs; (b) dividends against shapiq's exact computer on the same table;
(c) masked-image games of a small CNN over bare forwards of the same masked images.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable

import numpy as np
import torch
from _interleaved import TIMING_HEAD, interleave, markdown_table, write_note
from torch import Tensor, nn

from pellucid import games
from pellucid.core import Stream

COLUMNS = 16


def mlp(n: int) -> nn.Module:
    """A network of three hidden layers of 256 on n features and 10 classes."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise((n, 256, 256, 256)):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(256, 10)).eval()


def small_cnn() -> nn.Module:
    """The project's own small CNN for 28 x 28 images of one channel."""
    from pellucid.nn.models import SmallCNN

    return SmallCNN().eval()


def bare(model: nn.Module, batches: list[Tensor]) -> Callable[[], object]:
    """Return the forward passes alone, over inputs masked beforehand."""

    def run() -> list[Tensor]:
        with torch.inference_mode():
            return [model(batch) for batch in batches]

    return run


def exact_tables(rounds: int, players: list[int]) -> str:
    """(a) All exact quantities over bare forwards."""
    rows = []
    for n in players:
        x = Stream(0).child("bench").normal((1, n))[0]
        model = mlp(n)
        game = games.ModelGame(model, x, games.Features(fill="zero"), games.log_odds(3))
        batches = list(torch.split(game.masked(games.coalitions(n)), game.batch_size))

        def everything(game: games.ModelGame = game) -> object:
            values = games.table(game)
            return games.mobius(values), games.shapley(values), games.pair_interactions(values)

        def only_table(game: games.ModelGame = game) -> object:
            return games.table(game)

        runs = {"bare forwards": bare(model, batches), "table": only_table, "table and all indices": everything}
        timings = interleave(runs, reference="bare forwards", rounds=rounds)
        rows += [(f"n={n}", *timing.row()) for timing in timings.values()]
    return markdown_table(("players", *TIMING_HEAD), rows)


def masked_images(rounds: int, coalitions: int) -> str:
    """(c) Masked-image games over bare forwards."""
    x = Stream(1).child("bench").uniform((1, 1, 28, 28))[0]
    model = small_cnn()
    rows = []
    for grid in ((3, 4), (8, 8)):
        game = games.ModelGame(model, x, games.Patches(grid, fill="zero"), games.log_odds(3))
        keep = Stream(2).child("bench").bits((coalitions, game.n_players)) < 0
        batches = list(torch.split(game.masked(keep), game.batch_size))

        def play(game: games.ModelGame = game, keep: Tensor = keep) -> object:
            return game(keep)

        timings = interleave(
            {"bare forwards": bare(model, batches), "game": play}, reference="bare forwards", rounds=rounds
        )
        rows += [(f"{grid[0]} x {grid[1]}", *timing.row()) for timing in timings.values()]
    return markdown_table(("grid", *TIMING_HEAD), rows)


def dividends_against_shapiq(rounds: int, players: list[int]) -> str:
    """(b) Dividends of one table, ours and shapiq's, with the largest difference."""
    from shapiq.game_theory.exact import ExactComputer

    rows = []
    for n in players:
        values = Stream(n).child("bench").normal((1 << n, 1), dtype=torch.float64)[:, 0]
        array, weights = values.numpy(), 1 << np.arange(n)

        def game(keep: np.ndarray, values: np.ndarray = array, weights: np.ndarray = weights) -> np.ndarray:
            return values[keep.astype(np.int64) @ weights]

        def peer(n: int = n, game: Callable[[np.ndarray], np.ndarray] = game) -> object:
            return ExactComputer(game, n)("Moebius", order=n)

        def ours(values: Tensor = values) -> Tensor:
            return games.mobius(values)

        theirs = peer()
        mine = ours()
        difference = max(abs(theirs[s] - float(mine[sum(1 << p for p in s)])) for s in theirs.interaction_lookup if s)
        few = rounds if n <= 10 else 1
        timings = interleave({"pellucid": ours, "shapiq": peer}, reference="pellucid", rounds=few, warmup=0)
        row = timings["shapiq"]
        rows.append(
            (
                str(n),
                f"{1e3 * timings['pellucid'].second:.3f}",
                f"{1e3 * row.second:.1f}",
                f"{row.ratio:.0f}",
                f"{few}",
                f"{difference:.1e}",
            )
        )
    head = ("players", "pellucid ms", "shapiq ms", "ratio (median)", "rounds", "largest difference")
    return markdown_table(head, rows)


def main() -> None:
    """Measure, print and perhaps note."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that everything runs")
    parser.add_argument("--peers", action="store_true", help="compare with shapiq too (slow)")
    parser.add_argument("--note", action="store_true", help="write the dated note")
    chosen = parser.parse_args()
    players = [8, 12] if chosen.quick else [12, 14, 16]
    sections = {
        "Exact table, dividends, Shapley values and all pair orders of a 3 x 256 MLP": exact_tables(
            chosen.rounds, players
        ),
        "Masked-image games of SmallCNN": masked_images(chosen.rounds, 512 if chosen.quick else 4096),
    }
    if chosen.peers:
        sections["Dividends of a table against shapiq"] = dividends_against_shapiq(
            chosen.rounds, [6, 8] if chosen.quick else [8, 9, 10, 11, 12]
        )
    for title, text in sections.items():
        print(f"\n{title}\n\n{text}")
    if chosen.note:
        print(write_note("games", sections, packages=("numpy", "shapiq")))


if __name__ == "__main__":
    main()
