"""How fast is an implicit layer, beside torchdeq and beside the bare forward passes of its cell?

    python benchmarks/bench_implicit.py [--rounds 9] [--quick] [--note]

The cell is a residual block of two 3 x 3 convolutions with group normalization, as in multiscale equilibrium networks,
with random weights of two sizes: one converges in about 10 steps and one in about 20. At equal tolerances:
(a) solving, beside torchdeq's solvers and beside as many bare calls of the cell as the solver made; (b) the backward
pass, exact and phantom, with the exact/phantom ratio (the paper reports about 1.7); (c) what a training step keeps in
memory for the backward pass.

Needs torchdeq: pip install "pellucid[peers]".
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from typing import Any

import torch
from _interleaved import TIMING_HEAD, interleave, markdown_table, write_note
from torch import Tensor, nn
from torch.nn import functional as F

from pellucid.nn import Anderson, Backward, Broyden, Implicit, Neumann, OneStep, Phantom, Picard, Solver, fixed_point

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torchdeq

PEER = {"Anderson": "anderson", "Broyden": "broyden", "Picard": "fixed_point_iter"}
FORWARD, BACKWARD, MOST = 1e-3, 1e-5, 60
Run = Callable[[], Tensor]


class Cell(nn.Module):
    """A residual block with injected input, on `channels` maps."""

    def __init__(self, channels: int, gain: float) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.norms = nn.ModuleList(nn.GroupNorm(4, channels) for _ in range(3))
        for conv in (self.first, self.second):
            nn.init.normal_(conv.weight, std=gain / (9 * channels) ** 0.5)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        """Return the next state."""
        y = self.norms[1](self.second(F.relu(self.norms[0](self.first(z)))) + x)
        return self.norms[2](F.relu(z + y))  # type: ignore[no-any-return]


class Case:
    """A cell, a batch and a gradient that arrives."""

    def __init__(self, name: str, gain: float, batch: int, channels: int, size: int) -> None:
        torch.manual_seed(0)
        self.name = name
        self.cell = Cell(channels, gain)
        self.x = torch.randn(batch, channels, size, size)
        self.v = torch.randn_like(self.x)
        self.z0 = torch.zeros_like(self.x)

    def ours(self, solver: Solver, backward: Backward, *, drop: bool = True) -> Tensor:
        """Return our solution."""
        found = fixed_point(self.cell, self.z0, solver, backward, inputs=(self.x,), drop_converged=drop)
        assert isinstance(found.value, Tensor)
        return found.value

    def theirs(self, kind: str, **settings: Any) -> Run:
        """Return what computes torchdeq's solution at the same tolerances."""
        deq = torchdeq.get_deq(
            core="sliced", f_solver=PEER[kind], b_solver=PEER[kind], f_max_iter=MOST, b_max_iter=MOST,
            f_tol=FORWARD, b_tol=BACKWARD, f_stop_mode="rel", b_stop_mode="rel", **settings,
        )  # fmt: skip
        return lambda: deq(lambda z: self.cell(z, self.x), self.z0)[0][-1]

    def bare(self, calls: int) -> Callable[[], None]:
        """Return what calls the cell alone, so many times."""

        def run() -> None:
            with torch.no_grad():
                z = self.z0
                for _ in range(calls):
                    z = self.cell(z, self.x)

        return run

    def residual(self, z: Tensor) -> float:
        """The largest relative residual of a sample."""
        with torch.no_grad():
            gap, image = (self.cell(z, self.x) - z).flatten(1).norm(dim=1), self.cell(z, self.x).flatten(1).norm(dim=1)
        return float((gap / image).max())


def solving(case: Case, rounds: int) -> str:
    """(a) Solving without gradients."""
    rows, results = [], []
    for kind in (Anderson, Broyden, Picard):
        solver = kind(max_iter=MOST, tol=FORWARD)
        with torch.no_grad():
            found = fixed_point(case.cell, case.z0, solver, OneStep(), inputs=(case.x,), keep_value=True)
        calls = int(found.steps.max()) + 1
        theirs = case.theirs(kind.__name__, ift=True)
        deq = torch.no_grad()(theirs)
        runs: dict[str, Callable[[], object]] = {
            "torchdeq": deq,
            "ours": torch.no_grad()(lambda s=solver: case.ours(s, OneStep())),
            "ours, masks": torch.no_grad()(lambda s=solver: case.ours(s, OneStep(), drop=False)),
            f"{calls} bare calls": case.bare(calls),
        }
        timings = interleave(runs, reference="torchdeq", rounds=rounds, warmup=1).values()
        rows += [(f"{kind.__name__}: {timing.name}", *timing.row()[1:]) for timing in timings]
        passes = found.evaluations / len(case.x)
        results.append(
            (kind.__name__, f"{float(found.steps.float().mean()):.1f}", str(calls - 1), f"{passes:.1f}",
             f"{case.residual(case.ours(solver, OneStep()).detach()):.1e}", f"{case.residual(deq()):.1e}",
             f"{float((case.ours(solver, OneStep()) - deq()).norm() / deq().norm()):.1e}")
        )  # fmt: skip
    head = (
        "solver",
        "steps (mean)",
        "steps (most)",
        "calls of the cell per sample",
        "residual, ours",
        "residual, torchdeq",
        "difference of results",
    )
    return f"{markdown_table(TIMING_HEAD, rows)}\n\n{markdown_table(head, results)}"


def _stepped(case: Case, value: Run) -> Callable[[], None]:
    parameters = list(case.cell.parameters())

    def run() -> None:
        torch.autograd.grad(value(), parameters, case.v)

    return run


def _methods(case: Case) -> dict[str, Run]:
    """Forward passes with a graph, each from the same solution, so that only the gradient's cost differs."""
    forward = Anderson(max_iter=MOST, tol=FORWARD)
    with torch.no_grad():
        start = case.ours(forward, OneStep())

    def ours(backward: Backward) -> Run:
        one = Picard(max_iter=1, tol=1e9)  # the start is taken as solved: no step of a solver
        return lambda: fixed_point(case.cell, start, one, backward, inputs=(case.x,)).value  # type: ignore[return-value]

    def theirs(**settings: Any) -> Run:
        deq = torchdeq.get_deq(
            core="sliced", f_solver="fixed_point_iter", f_max_iter=1, f_tol=1e9, f_stop_mode="rel", b_max_iter=MOST,
            b_tol=BACKWARD, b_stop_mode="rel", **settings,
        )  # fmt: skip
        return lambda: deq(lambda z: case.cell(z, case.x), start)[0][-1]

    return {
        "exact, Broyden (torchdeq)": theirs(ift=True, b_solver="broyden"),
        "exact, Broyden": ours(Implicit(Broyden(max_iter=MOST, tol=BACKWARD))),
        "exact, Anderson (torchdeq)": theirs(ift=True, b_solver="anderson"),
        "exact, Anderson": ours(Implicit(Anderson(max_iter=MOST, tol=BACKWARD))),
        "phantom 5 steps (torchdeq)": theirs(grad=5, tau=0.5),
        "phantom 5 steps": ours(Phantom(steps=5, damping=0.5)),
        "Neumann 5 steps": ours(Neumann(steps=5, damping=0.5)),
        "one step": ours(OneStep()),
        "through 20 plain steps": ours(Phantom(steps=20, damping=1.0)),
    }


def gradients(case: Case, rounds: int) -> str:
    """(b) Graph and backward pass from a solution that is there already, and the phantom gradient's quality."""
    methods = _methods(case)
    timings = interleave(
        {name: _stepped(case, value) for name, value in methods.items()},
        reference="phantom 5 steps",
        rounds=rounds,
        warmup=1,
    )
    exact = _flat(case, methods["exact, Anderson"])
    rows = []
    for name, timing in timings.items():
        gradient = _flat(case, methods[name])
        cosine = float(gradient @ exact / gradient.norm() / exact.norm())
        rows.append(
            (*timing.row(), f"{cosine:.4f}", f"{float(gradient.norm() / exact.norm()):.3f}", _kept(methods[name]))
        )
    head = (*TIMING_HEAD, "cosine to exact", "length over exact", "MB kept for it")
    return markdown_table(head, rows)


def whole(case: Case, rounds: int) -> str:
    """Solving and backward pass together, as a training step has them."""
    solver = Broyden(max_iter=MOST, tol=FORWARD)
    runs = {
        "exact (torchdeq)": _stepped(case, case.theirs("Broyden", ift=True)),
        "exact": _stepped(case, lambda: case.ours(solver, Implicit(Broyden(max_iter=MOST, tol=BACKWARD)))),
        "phantom 5 steps (torchdeq)": _stepped(case, case.theirs("Broyden", grad=5, tau=0.5)),
        "phantom 5 steps": _stepped(case, lambda: case.ours(solver, Phantom())),
        "Neumann 5 steps": _stepped(case, lambda: case.ours(solver, Neumann())),
    }
    timings = interleave(runs, reference="exact (torchdeq)", rounds=rounds, warmup=1)
    return markdown_table(TIMING_HEAD, [timing.row() for timing in timings.values()])


def _flat(case: Case, value: Run) -> Tensor:
    return torch.cat([part.flatten() for part in torch.autograd.grad(value(), list(case.cell.parameters()), case.v)])


def _kept(value: Run) -> str:
    """Megabytes of the tensors that autograd keeps for the backward pass, each counted once."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        out = value()
    del out
    return f"{sum(kept.values()) / 1e6:.1f}"


def main() -> None:
    """Measure, print and perhaps note."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that everything runs")
    parser.add_argument("--note", action="store_true", help="write the dated note")
    chosen = parser.parse_args()
    batch, channels, size = (4, 8, 4) if chosen.quick else (16, 24, 14)
    cases = [Case("small weights", 0.3, batch, channels, size), Case("large weights", 0.8, batch, channels, size)]
    parts = {
        "Solving": solving,
        "Graph and backward pass, from a solution": gradients,
        "Solving and backward pass, Broyden": whole,
    }
    shape = f"{batch} x {channels} x {size} x {size}"
    about = f"States of {shape}; relative residual {FORWARD:g} forward and {BACKWARD:g} backward, at most {MOST} steps."
    sections = {"Setting": about}
    for case in cases:
        for title, measure in parts.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # where Broyden's last samples need more than the steps there are
                sections[f"{title}, {case.name}"] = measure(case, chosen.rounds)
    for title, text in sections.items():
        print(f"\n{title}\n\n{text}")
    if chosen.note:
        print(write_note("implicit", sections, packages=("torchdeq",)))


if __name__ == "__main__":
    main()
