"""Norm balls: the projections are the nearest points, the draws have the laws they claim."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from pellucid.attacks import L2, Linf
from pellucid.core import Stream


def nearest_by_bisection(v: torch.Tensor, low: torch.Tensor, high: torch.Tensor, eps: float) -> torch.Tensor:
    """The same projection by another route: clip(c v) with c found by halving, from the optimality conditions."""
    out = []
    for row, a, b in zip(v, low, high, strict=True):
        bottom, top = 0.0, 1.0
        if row.clamp(a, b).norm() > eps:
            for _ in range(100):
                middle = (bottom + top) / 2
                bottom, top = (bottom, middle) if (middle * row).clamp(a, b).norm() > eps else (middle, top)
            out.append((bottom * row).clamp(a, b))
        else:
            out.append(row.clamp(a, b))
    return torch.stack(out)


@given(seed=st.integers(0, 10_000), eps=st.floats(0.01, 3.0), spread=st.floats(0.01, 10.0))
@settings(max_examples=40, deadline=None)
def test_l2_projection_is_the_nearest_point(seed: int, eps: float, spread: float) -> None:
    rng = Stream(seed)
    x = rng.child("x").uniform((5, 12), dtype=torch.float64)
    x[x < 0.3] = 0  # elements that can only move one way
    v = rng.child("v").normal((5, 12), dtype=torch.float64) * spread
    assert_close(L2(eps).project(x, v), nearest_by_bisection(v, -x, 1 - x, eps), atol=1e-9, rtol=1e-9)


def test_l2_projection_uses_the_whole_radius_where_clipping_alone_would_not(rng: Stream) -> None:
    """Scaling first and clipping then, as often done, wastes length on elements that cannot move."""
    x = torch.cat([torch.zeros(1, 50), torch.full((1, 50), 0.5)], dim=1)
    v = -rng.normal((1, 100)).abs()
    space = L2(1.0)
    wasteful = (v / v.norm()).clamp(-x, 1 - x)
    assert wasteful.norm() < 0.9
    assert_close(space.size(x, space.project(x, v)), torch.ones(1), atol=1e-5, rtol=0)


def test_linf_projection_is_the_nearest_point() -> None:
    x = torch.tensor([[0.0, 0.95, 0.5]])
    assert_close(
        Linf(0.1).project(x, torch.tensor([[-1.0, 1.0, 0.04]])), torch.tensor([[0.0, 0.05, 0.04]]), atol=1e-7, rtol=0
    )


def test_linf_draws_are_uniform(rng: Stream) -> None:
    x = torch.tensor([[0.5, 0.05]]).expand(20_000, 2)
    drawn = Linf(0.2).sample(x, rng)
    free, edge = drawn[:, 0], drawn[:, 1]  # the second may go down by 0.05 only
    assert abs(float(free.mean())) < 4 * 0.2 / 3**0.5 / 20_000**0.5
    assert float(edge.min()) >= -0.05
    assert abs(float(edge.mean()) - 0.075) < 4 * 0.25 / 12**0.5 / 20_000**0.5


def test_l2_draws_are_uniform_in_direction_and_length(rng: Stream) -> None:
    x, space = torch.zeros(20_000, 3), L2(2.0, bounds=None)
    drawn = space.sample(x, rng)
    radius = space.size(x, drawn) / 2
    for r in (0.3, 0.6, 0.9):
        assert abs(float((radius < r).double().mean()) - r) < 4 * (r * (1 - r) / 20_000) ** 0.5
    height = drawn[:, 2] / (2 * radius)  # of a random direction in space, uniform in [-1, 1]
    assert abs(float((height < 0.5).double().mean()) - 0.75) < 4 * (0.75 * 0.25 / 20_000) ** 0.5


def test_spaces_are_values() -> None:
    assert Linf(0.1) == Linf(0.1)
    assert Linf(0.1) != L2(0.1)
    assert Linf(0.1).scaled(2.0) == Linf(0.2)
    assert hash(L2(0.5, bounds=None)) == hash(L2(0.5, bounds=None))
    with pytest.raises(AttributeError):
        Linf(0.1).eps = 0.2  # type: ignore[misc]


@pytest.mark.parametrize("power", [-44, -41, -38, 0, 30])
def test_l2_steps_have_their_length_for_gradients_of_any_size(power: int) -> None:
    grad = torch.tensor([[3.0, 4.0], [0.0, 0.0]]) * 10.0**power
    step = L2(0.5).ascent(grad, grad, 0.2)
    assert step[1].tolist() == [0.0, 0.0]
    assert float(step[0].norm()) == pytest.approx(0.1, rel=1e-5 if power > -38 else 0.1)
    assert step[0].min() > 0
