"""How much does an And-Or graph cost beyond the forward passes, and how much memory does it take?

    python benchmarks/bench_concepts.py [--rounds 9] [--quick] [--note]

(a) The graph of an image of 3 x 4 cells on the Fashion-MNIST network, end to end, over bare forwards of the same
masked images (at most 1.3); of five test images it is the one with the median number of patterns; (b) the whole
pruning path of a random game, of AND patterns and of an AND-OR split (at most 2 s for 12 players); (c) peak memory of a
graph of a table beyond that table, in a process of its own, beside what the dense matrix of all pairs of coalitions
takes that the authors' code builds (at most 100 MB for 14 players).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from statistics import median

import torch
from _interleaved import TIMING_HEAD, interleave, markdown_table, write_note
from torch import Tensor

import pellucid
from pellucid import games
from pellucid.core import Players, Stream
from pellucid.explain import and_or_graph, and_or_graph_of


def image_graph(rounds: int, grid: tuple[int, int]) -> str:
    """(a) A graph end to end over bare forwards."""
    subject = pellucid.subject("fashion-standard", "fashion-mnist", samples=100)
    model, y = subject.model, subject.logits().argmax(1)
    cells = games.Patches(grid, background=subject.inputs)
    needed = [and_or_graph(model, subject.inputs[k], cells, target=int(y[k]), rng=Stream(0)).needed for k in range(5)]
    chosen = needed.index(sorted(needed)[2])
    x, target = subject.inputs[chosen], int(y[chosen])
    game = games.ModelGame(model, x, cells, games.log_odds(target))
    batches = list(torch.split(game.masked(games.coalitions(game.n_players)), game.batch_size))

    def bare() -> list[Tensor]:
        with torch.inference_mode():
            return [model(batch) for batch in batches]

    def graph() -> object:
        return and_or_graph(model, x, cells, target=target, rng=Stream(0))

    def table() -> object:
        return games.table(game)

    timings = interleave(
        {"bare forwards": bare, "table": table, "graph": graph}, reference="bare forwards", rounds=rounds
    )
    about = f"Test image {int(subject.ids[chosen])}, {subject.class_names[target]}: {needed[chosen]:,} of "
    about += f"{(1 << game.n_players) - 1:,} patterns explain 95 %; {min(needed):,} to {max(needed):,} on five images."
    return f"{about}\n\n{markdown_table(TIMING_HEAD, [timing.row() for timing in timings.values()])}"


def pruning(rounds: int, players: list[int]) -> str:
    """(b) The whole path of removals."""
    rows = []
    for n in players:
        values = Stream(n).child("bench").normal((1, 1 << n), dtype=torch.float64)[0]
        dividends = games.mobius(values)
        half = games.or_transform(values) / 2
        half[games.sizes(n) < 2] = 0
        rest = games.mobius(values - games.inverse_or(half))
        cases = {
            "AND": lambda d=dividends, v=values: games.prune(d, v),
            "AND and OR": lambda a=rest, o=half, v=values: games.prune(a, v, or_terms=o),
        }
        for name, run in cases.items():
            seconds = []
            for _ in range(rounds):
                start = time.perf_counter()
                path = run()
                seconds.append(time.perf_counter() - start)
            spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
            rows.append((str(n), name, f"{len(path.order):,}", f"{median(seconds):.2f}", spread))
    return markdown_table(("players", "patterns", "removals", "seconds (median)", "seconds (range)"), rows)


def peak(n: int) -> None:
    """Print the peak memory of a graph of a random table beyond what was there before, in bytes."""
    values = Stream(n).child("bench").normal((1, 1 << n), dtype=torch.float64)[0]
    players = Players(torch.arange(n), torch.zeros(n), n)
    and_or_graph_of(values[:16], Players(torch.arange(4), torch.zeros(4), 4), noise=0.0)  # imports and threads
    before = _high_water()
    and_or_graph_of(values, players, noise=0.0)
    print(_high_water() - before)


def _high_water() -> int:
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else 1024 * used


def memory(players: list[int]) -> str:
    """(c) Peak memory of a graph of a table."""
    rows = []
    for n in players:
        asked = [sys.executable, __file__, "--peak", str(n)]
        used = int(subprocess.run(asked, check=True, capture_output=True, text=True).stdout)
        rows.append((str(n), f"{used / 1e6:.0f}", f"{4 * 4**n / 1e6:,.0f}"))
    return markdown_table(("players", "MB beyond the table", "MB of a dense float32 matrix of all pairs"), rows)


def main() -> None:
    """Measure, print and perhaps note."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that everything runs")
    parser.add_argument("--note", action="store_true", help="write the dated note")
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.peak:
        peak(chosen.peak)
        return
    grid = (2, 4) if chosen.quick else (3, 4)
    sections = {
        f"The graph of {grid[0]} x {grid[1]} cells on fashion-standard": image_graph(chosen.rounds, grid),
        "The whole pruning path": pruning(min(5, chosen.rounds), [8, 10] if chosen.quick else [10, 12, 14]),
        "Peak memory": memory([8, 10] if chosen.quick else [12, 14]),
    }
    for title, text in sections.items():
        print(f"\n{title}\n\n{text}")
    if chosen.note:
        print(write_note("concepts", sections, packages=("numpy",)))


if __name__ == "__main__":
    main()
