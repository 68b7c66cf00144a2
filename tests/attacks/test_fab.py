"""Fast Adaptive Boundary: the exact step to a linear boundary, few evaluations, strength where gradients mislead."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from pellucid.attacks import APGD, FAB, L2, Linf, MinimumNorm, MinimumNormWithin
from pellucid.attacks._fab import _shortest
from pellucid.core import Stream

Task = Any  # of conftest.py, which cannot be imported
each_space = pytest.mark.parametrize("space", [Linf(0.05), L2(0.3)], ids=["linf", "l2"])


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_step_is_the_shortest_that_rises_as_much(norm: str, rng: Stream) -> None:
    grad = rng.child("grad").normal((200, 6)).double()
    grad[:, 0] = 0
    low, high = -rng.child("low").uniform((200, 6)).double(), rng.child("high").uniform((200, 6)).double()
    most = torch.where(grad > 0, grad * high, grad * low).sum(1)
    least = torch.where(grad > 0, grad * low, grad * high).sum(1)
    share = rng.child("share").uniform((200,)).double()
    rise = least + share * (most - least)
    move = _shortest(grad, rise, low, high, norm)
    torch.testing.assert_close((grad * move).sum(1), rise)
    assert ((move >= low) & (move <= high)).all()
    # Shortest: any other point that rises as much, here along random directions of no rise, is no shorter.
    length = torch.linalg.vector_norm(move, ord=2 if norm == "l2" else torch.inf, dim=1)
    for turn in range(50):
        side = rng.child("side", turn).normal((200, 6)).double()
        side -= grad * ((side * grad).sum(1) / grad.square().sum(1))[:, None]
        other = move + 0.1 * side
        legal = ((other >= low) & (other <= high)).all(1)
        longer = torch.linalg.vector_norm(other, ord=2 if norm == "l2" else torch.inf, dim=1)
        assert (longer[legal] >= length[legal] - 1e-12).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_rise_out_of_reach_uses_all_room_and_no_bounds_are_no_bounds(norm: str) -> None:
    grad, one = torch.tensor([[1.0, -2.0, 0.0]]), torch.ones(1, 3)
    assert torch.equal(_shortest(grad, torch.tensor([99.0]), -one, 0.5 * one, norm), torch.tensor([[0.5, -1.0, 0.0]]))
    free = _shortest(grad, torch.tensor([6.0]), -torch.inf * one, torch.inf * one, norm)
    torch.testing.assert_close(free, torch.tensor([[1.2, -2.4, 0.0]] if norm == "l2" else [[2.0, -2.0, 0.0]]))
    assert not _shortest(torch.zeros(1, 3), torch.tensor([1.0]), -one, one, norm).any()


@each_space
def test_a_linear_model_falls_exactly_where_its_boundary_is(space: Any, rng: Stream) -> None:
    model = nn.Linear(5, 3).double()
    with torch.no_grad():
        model.weight.copy_(rng.child("w").normal((3, 5)))
        model.bias.copy_(rng.child("b").normal((3,)))
    x = rng.child("x").uniform((80, 5)).double()
    y = model(x).argmax(1)
    wide = Linf(0.15) if isinstance(space, Linf) else space
    found = FAB(wide, steps=5)(model, x, y, rng=rng)
    norm = "linf" if isinstance(space, Linf) else "l2"
    least = MinimumNorm(norm, steps=200, restarts=3)(model, x, y, rng=rng).norm
    clear = (least - wide.eps).abs() > 0.02 * wide.eps
    assert torch.equal(found.success[clear], (least < wide.eps)[clear])
    assert 0 < int(found.success.sum()) < 80


@each_space
def test_it_stands_beside_the_other_searches(task: Task, space: Any, rng: Stream) -> None:
    x, y = task.x[:200], task.y[:200]
    found = FAB(space, steps=30)(task.model, x, y, rng=rng)
    assert torch.equal(found.success, task.model(found.inputs).argmax(1) != y)
    assert (space.size(x, found.params) <= space.eps + 1e-6).all()
    assert found.evaluations < FAB(space, steps=30, targets=3).cost * len(x)
    for other in (APGD(space, steps=30), MinimumNormWithin(space, steps=30)):
        assert int((other(task.model, x, y, rng=rng).success & ~found.success).sum()) <= 1


class Hidden(nn.Module):
    """A linear model whose logits saturate: the gradient near the inputs is tiny but points the right way."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.model(x) / 3)


@each_space
def test_batches_targets_scales_and_starts(task: Task, space: Any, rng: Stream) -> None:
    model, x, y, ids = Hidden(task.model).double(), task.x[:9].double(), task.y[:9], torch.arange(9)
    attack = FAB(space, steps=5)
    try:
        whole = attack(model, x, y, rng=rng.at(ids))
        parts = [attack(model, x[i : i + 2], y[i : i + 2], rng=rng.at(ids[i : i + 2])) for i in range(0, 9, 2)]
        target = (y + 1) % 4
        wide = FAB(type(space)(10 * space.eps), steps=20)
        aimed = wide(model, x, y, rng=rng, target=target)
        assert torch.equal(aimed.success, model(aimed.inputs).argmax(1) == target)
        assert int(aimed.success.sum()) >= 7
        again = wide(model, x, y, rng=rng, target=target, start=aimed.params)
        assert again.success[aimed.success].all()
        scale = torch.ones(1, 8, 8)
        scale[:, :4] = 0
        half = FAB(type(space)(space.eps, scale=scale), steps=5)(model, x, y, rng=rng)
        assert not half.params[:, :, :4].any()
    finally:
        task.model.float()
    assert torch.equal(torch.cat([part.success for part in parts]), whole.success)
    torch.testing.assert_close(torch.cat([part.params for part in parts]), whole.params)


def test_settings_out_of_range_are_named(rng: Stream) -> None:
    with pytest.raises(TypeError, match="Linf"):
        FAB("linf")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="targets must be at least 1, got 0"):
        FAB(L2(1.0), targets=0)
    with pytest.raises(ValueError, match="steps must be at least 0, got -1"):
        FAB(L2(1.0), steps=-1)
    assert FAB(L2(0.0)).cost == FAB(L2(1.0), steps=0).cost == 1
