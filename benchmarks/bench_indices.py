"""How fast are exact interaction indices, against shapiq's exact computer, and what do 20 players cost in memory?

    python benchmarks/bench_indices.py [--players 10 12 14 16] [--rounds 15] [--patience 120]
                                       [--only a|b|c] [--quick] [--note]

(a) Dividends, SII, STII and FSII of order 2 of one random table, ours and shapiq's, equal values checked. Each of
shapiq's runs has a process of its own, which is stopped after `--patience` seconds; what needs more memory than the
machine has is not started. (b) Peak memory of a game of 20 players beyond its model (Linux). (c) Exact table and all
exact quantities of a 3 x 256 MLP and of the CNN for Fashion-MNIST over bare forward passes, n = 16, interleaved.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from _interleaved import TIMING_HEAD, interleave, markdown_table, write_note
from bench_games import bare, mlp, small_cnn
from torch import Tensor

from pellucid import games
from pellucid.core import Stream

CASES = (("Moebius", None), ("SII", 2), ("STII", 2), ("FSII", 2))
MEMORY_PLAYERS = 20


def random_table(n: int) -> Tensor:
    """The game of all runs, float64 `(2**n,)`."""
    return Stream(n).child("bench").normal((1, 1 << n), dtype=torch.float64)[0]


def ours(values: Tensor, name: str, order: int | None) -> games.Interactions:
    """Our numbers from the table."""
    return games.harsanyi(values) if order is None else games.index(values, name, order=order)


def theirs(n: int, name: str, order: int | None) -> dict[str, object]:
    """Time shapiq's exact computer, made anew and given the finished table; compare its numbers with ours."""
    warnings.simplefilter("ignore")
    from shapiq.game_theory.exact import ExactComputer

    values = random_table(n)
    array, weights = values.numpy(), 1 << np.arange(n)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        computer = ExactComputer(lambda keep: array[keep.astype(np.int64) @ weights], n)
        found = computer(name, order=n if order is None else order)
        seconds.append(time.perf_counter() - start)
        if sum(seconds) > 10:
            break
    mine = ours(values, name, order)
    rows = {players: float(value) for players, value in mine if players}
    difference = max(abs(value - found[players]) for players, value in rows.items())
    return {"seconds": median(seconds), "runs": len(seconds), "difference": difference}


def needed_bytes(n: int, name: str) -> int:
    """What shapiq's exact computer allocates at once: its FSII fits with a dense diagonal of all coalitions."""
    return 2 * 8 * 4**n if name == "FSII" else 0


def in_a_process(n: int, name: str, order: int | None, patience: float) -> dict[str, object] | str:
    """Return what `theirs` measured in a process of its own, or why there is nothing."""
    free = _free_bytes()
    if needed_bytes(n, name) > free:
        return f"not run: needs {needed_bytes(n, name) / 2**30:.0f} GiB, free are {free / 2**30:.0f}"
    command = [sys.executable, str(Path(__file__)), "--peer", str(n), name, str(order or 0)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=patience, check=False)
    except subprocess.TimeoutExpired:
        return f"not finished in {patience:.0f} s"
    if done.returncode:
        return f"failed: {(done.stderr.strip().splitlines() or ['killed'])[-1][:80]}"
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def _free_bytes() -> int:
    info = Path("/proc/meminfo")
    if not info.exists():
        return 8 << 30
    lines = dict(line.split(":", 1) for line in info.read_text(encoding="utf-8").splitlines())
    return int(lines["MemAvailable"].split()[0]) << 10


def indices_against_shapiq(players: list[int], rounds: int, patience: float) -> str:
    """(a) The same numbers from both, and how long each took."""
    rows = []
    for n in players:
        values = random_table(n)
        for name, order in CASES:
            seconds = []
            for _ in range(rounds + 2):
                start = time.perf_counter()
                ours(values, name, order)
                seconds.append(time.perf_counter() - start)
            mine = median(seconds[2:])
            peer = in_a_process(n, name, order, patience)
            label = name if order is None else f"{name}, order {order}"
            if isinstance(peer, str):
                rows.append((str(n), label, f"{1e3 * mine:.3f}", peer, "", ""))
            else:
                took, difference = float(str(peer["seconds"])), float(str(peer["difference"]))
                if difference > 1e-6:
                    raise SystemExit(f"{label} at n={n} differs from shapiq's by {difference}")
                ratio = f"{took / mine:,.0f}"
                rows.append((str(n), label, f"{1e3 * mine:.3f}", f"{1e3 * took:,.1f}", ratio, f"{difference:.1e}"))
    head = ("players", "index", "pellucid ms", "shapiq ms", "ratio", "largest difference")
    return markdown_table(head, rows)


def _status(entry: str) -> float:
    """Return an entry of this process's status in MiB: VmRSS is held now, VmHWM the most so far."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines())
    return int(lines[entry].split()[0]) / 1024


def memory() -> dict[str, float]:
    """Return the peak memory, MiB beyond what was held before, of each exact quantity of a game of 20 players."""
    n = MEMORY_PLAYERS
    x = Stream(0).child("bench").normal((1, n))[0]
    model = mlp(n)
    game = games.ModelGame(model, x, games.Features(fill="zero"), games.log_odds(3))
    game(torch.zeros(game.batch_size, n, dtype=torch.bool))  # the model's own workspace
    found = {}

    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak starts anew from what is held now

    def peak() -> float:
        return _status("VmHWM")

    values = games.table(game)
    found["table"] = peak() - before
    for name, order in CASES:
        ours(values, name, order)
        found[f"and {name}"] = peak() - before
    games.index(values, "k-SII", order=3)
    found["and k-SII of order 3"] = peak() - before
    games.shapley(values)
    games.pair_interactions(values)
    found["and all pairs at all orders"] = peak() - before
    return found


def memory_of_twenty() -> str:
    """(b) Peak memory in a process of its own."""
    if not Path("/proc/self/clear_refs").exists():
        return "Measured on Linux only."
    done = subprocess.run([sys.executable, str(Path(__file__)), "--memory"], capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    rows = [(name, f"{value:.0f}") for name, value in found.items()]
    return markdown_table((f"n = {MEMORY_PLAYERS}, done so far", "peak MiB beyond the model"), rows)


def over_bare_forwards(rounds: int, n: int, rows_at_most: int) -> str:
    """(c) Exact quantities over the bare forward passes of the same masked inputs."""
    grid = (4, n // 4)
    cases = {
        "3 x 256 MLP": (mlp(n), Stream(0).child("bench").normal((1, n))[0], games.Features(fill="zero")),
        "Fashion-MNIST CNN": (
            small_cnn(),
            Stream(1).child("bench").uniform((1, 1, 28, 28))[0],
            games.Patches(grid, fill="zero"),
        ),
    }
    rows = []
    for name, (model, x, masker) in cases.items():
        game = games.ModelGame(model, x, masker, games.log_odds(3))
        keep = games.coalitions(n)
        few = min(len(keep), rows_at_most) if name != "3 x 256 MLP" else len(keep)
        batches = list(torch.split(game.masked(keep[:few]), game.batch_size))

        def play(game: games.ModelGame = game, keep: Tensor = keep[:few]) -> object:
            values = games.table(game) if len(keep) == 1 << n else torch.cat([game(part) for part in keep.split(8192)])
            if len(values) < 1 << n:
                return values
            return games.mobius(values), games.shapley(values), games.pair_interactions(values)

        runs: dict[str, Callable[[], object]] = {"bare forwards": bare(model, batches), "all exact quantities": play}
        # A table of the network takes seconds: more rounds than these change nothing there.
        timings = interleave(
            runs, reference="bare forwards", rounds=rounds if name == "3 x 256 MLP" else min(rounds, 15)
        )
        rows += [(name, f"{few:,}", *timing.row()) for timing in timings.values()]
    return markdown_table(("model", "coalitions", *TIMING_HEAD), rows)


def main() -> None:
    """Measure, print and perhaps note."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--players", type=int, nargs="+", default=[10, 12, 14, 16])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--patience", type=float, default=120.0, help="seconds that one run of shapiq may take")
    parser.add_argument("--only", choices="abc", help="one of the three parts")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that everything runs")
    parser.add_argument("--note", action="store_true", help="write the dated note")
    parser.add_argument("--peer", nargs=3, metavar=("N", "INDEX", "ORDER"), help=argparse.SUPPRESS)
    parser.add_argument("--memory", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.peer:
        n, name, order = chosen.peer
        print(json.dumps(theirs(int(n), name, int(order) or None)))
        return
    if chosen.memory:
        print(json.dumps(memory()))
        return
    players = [5, 7] if chosen.quick else chosen.players
    parts: dict[str, tuple[str, Callable[[], str]]] = {
        "a": (
            "Indices of one table, against shapiq's exact computer",
            lambda: indices_against_shapiq(players, chosen.rounds, chosen.patience),
        ),
        "b": ("Memory", memory_of_twenty),
        "c": (
            "Exact quantities over bare forward passes",
            lambda: over_bare_forwards(chosen.rounds, 12 if chosen.quick else 16, 512 if chosen.quick else 1 << 16),
        ),
    }
    sections = {title: make() for part, (title, make) in parts.items() if part == (chosen.only or part)}
    for title, text in sections.items():
        print(f"\n{title}\n\n{text}")
    if chosen.note:
        print(
            write_note(f"indices-{chosen.only}" if chosen.only else "indices", sections, packages=("numpy", "shapiq"))
        )


if __name__ == "__main__":
    main()
