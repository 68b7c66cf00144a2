"""The authors' later library as an oracle: equal solutions, exact gradients and phantom gradients."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from pellucid.core import Stream
from pellucid.nn import Anderson, Backward, Broyden, Implicit, Phantom, Picard, Solver, fixed_point

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torchdeq = pytest.importorskip("torchdeq", reason="needs the peers extra: pip install torchdeq")

pytestmark = pytest.mark.peers
PAIRS = [
    ("anderson", Anderson(max_iter=60, tol=1e-12)),
    ("broyden", Broyden(max_iter=60, tol=1e-12)),
    ("fixed_point_iter", Picard(max_iter=100, tol=1e-12)),
]


@pytest.mark.parametrize(("theirs", "solver"), PAIRS, ids=lambda value: value if isinstance(value, str) else "")
@pytest.mark.parametrize("gradient", ["exact", "phantom"])
def test_solutions_and_gradients_are_equal(theirs: str, solver: Solver, gradient: str, rng: Stream) -> None:
    w = rng.child("w").normal((6, 6), dtype=torch.float64)
    w = (0.6 * w / torch.linalg.matrix_norm(w, 2)).requires_grad_()
    x, v = (rng.child(name).normal((5, 6), dtype=torch.float64) for name in ("x", "v"))
    f = lambda h: torch.tanh(h @ w.T + x)  # noqa: E731
    settings = {"ift": True} if gradient == "exact" else {"grad": 4, "tau": 0.6}
    deq = torchdeq.get_deq(
        core="sliced", f_solver=theirs, f_max_iter=100, f_tol=1e-12, b_solver=theirs, b_max_iter=100, b_tol=1e-12,
        f_stop_mode="rel", b_stop_mode="rel", **settings,
    )  # fmt: skip
    (reference,), _ = deq(f, torch.zeros_like(x))
    backward: Backward = Implicit(solver) if gradient == "exact" else Phantom(steps=4, damping=0.6)
    ours = fixed_point(f, torch.zeros_like(x), solver, backward).value
    assert isinstance(ours, Tensor)
    assert_close(ours, reference, atol=1e-10, rtol=0)
    found, wanted = (torch.autograd.grad(value, w, v)[0] for value in (ours, reference))
    assert_close(found, wanted, atol=1e-9, rtol=0)
