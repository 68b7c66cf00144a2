"""Every solver with every backward pass: a linear contraction, its solution and a gradient near the exact one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from pellucid.core import Stream
from pellucid.nn import BACKWARDS, SOLVERS, fixed_point


@pytest.mark.parametrize("backward", sorted(BACKWARDS))
@pytest.mark.parametrize("solver", sorted(SOLVERS))
def test_a_linear_contraction_is_solved_and_trained(solver: str, backward: str, rng: Stream) -> None:
    a = rng.child("a").normal((4, 4), dtype=torch.float64)
    a = 0.4 * a / torch.linalg.matrix_norm(a, 2)
    x = rng.child("x").normal((3, 4), dtype=torch.float64).requires_grad_()
    method = SOLVERS[solver](max_iter=60, tol=1e-10)
    value = fixed_point(lambda z, x: z @ a.T + x, torch.zeros_like(x), method, BACKWARDS[backward](), inputs=(x,)).value
    assert isinstance(value, Tensor)
    inverse = torch.linalg.inv(torch.eye(4, dtype=torch.float64) - a)
    assert_close(value, x @ inverse.T, atol=1e-9, rtol=0)
    v = rng.child("v").normal((3, 4), dtype=torch.float64)
    (found,) = torch.autograd.grad(value, x, v)
    assert torch.cosine_similarity(found, v @ inverse, dim=1).min() > 0.8
