"""Square: reaches corners without gradients, keeps to budget and bounds, and each sample draws its own windows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from pellucid.attacks import L2, Linf, RandomSearch, Square
from pellucid.attacks._square import _bump, _shrunk
from pellucid.core import Stream

Task = Any  # of conftest.py, which cannot be imported
SPACES = [Linf(0.05), L2(0.4)]
each_space = pytest.mark.parametrize("space", SPACES, ids=["linf", "l2"])


def linear(w: Tensor, b: float = 3.0) -> nn.Module:
    """A binary classifier whose margin is w x + b."""
    model = nn.Linear(len(w), 2).to(w.dtype)
    with torch.no_grad():
        model.weight.copy_(torch.stack([w, torch.zeros_like(w)]))
        model.bias.copy_(torch.tensor([b, 0.0]))
    return model


def zeros(n: int) -> Tensor:
    return torch.zeros(n, dtype=torch.int64)


@pytest.mark.parametrize("scale", [None, (1.0, 2.0, 0.5, 0.0, 1.0, 3.0)])
def test_linf_worst_case_of_a_linear_model_of_features(scale: Any, rng: Stream) -> None:
    w = rng.child("w").normal((1, 6), dtype=torch.float64)[0]
    units = None if scale is None else torch.tensor(scale, dtype=torch.float64)
    space = Linf(0.05, bounds=None, scale=units)
    x = rng.child("x").uniform((5, 6), dtype=torch.float64)
    found = Square(space, queries=150)(linear(w, 9.0), x, zeros(5), rng=rng)
    assert_close(found.params, -0.05 * w.sign().expand(5, 6) * (1 if units is None else units))


def test_l2_worst_case_of_a_linear_model_of_features(rng: Stream) -> None:
    w = rng.child("w").normal((1, 6), dtype=torch.float64)[0]
    x = rng.child("x").uniform((5, 6), dtype=torch.float64)
    found = Square(L2(0.3, bounds=None), queries=300)(linear(w, 9.0), x, zeros(5), rng=rng)
    assert (found.params @ w <= -0.95 * 0.3 * w.norm()).all()
    assert_close(found.params.norm(dim=1), torch.full((5,), 0.3, dtype=torch.float64))


@each_space
def test_it_keeps_to_budget_and_bounds_and_reports_what_it_returns(task: Task, space: Any, rng: Stream) -> None:
    attack = Square(space, queries=60)
    found = attack(task.model, task.x, task.y, rng=rng)
    logits = task.model(found.inputs)
    assert torch.equal(found.success, logits.argmax(1) != task.y)
    assert_close(found.loss, attack.loss(logits, task.y))
    assert (space.size(task.x, found.params) <= space.eps + 1e-6).all()
    assert float(found.inputs.min()) >= 0
    assert float(found.inputs.max()) <= 1
    assert found.evaluations <= attack.cost * len(task.x)
    plain = RandomSearch(space, draws=60)(task.model, task.x, task.y, rng=rng)
    assert int(found.success.sum()) > int(plain.success.sum()) + 10


@each_space
def test_more_queries_are_rarely_weaker_and_the_first_alone_is_a_start(task: Task, space: Any, rng: Stream) -> None:
    few, many = (Square(space, queries=n)(task.model, task.x[:60], task.y[:60], rng=rng) for n in (10, 60))
    assert int(many.success.sum()) >= int(few.success.sum())


@each_space
def test_batch_size_does_not_matter(task: Task, space: Any, rng: Stream) -> None:
    model, x, y, ids = task.model.double(), task.x[:9].double(), task.y[:9], torch.arange(100, 109)
    attack = Square(space, queries=30)
    try:
        whole = attack(model, x, y, rng=rng.at(ids))
        parts = [attack(model, x[i : i + 2], y[i : i + 2], rng=rng.at(ids[i : i + 2])) for i in range(0, 9, 2)]
    finally:
        model.float()
    assert torch.equal(torch.cat([part.success for part in parts]), whole.success)
    assert_close(torch.cat([part.params for part in parts]), whole.params, atol=1e-9, rtol=0)


@each_space
def test_samples_draw_their_own_windows(space: Any, rng: Stream) -> None:
    """Twice the same picture, one id each: the searches differ, as they would not with one window for a batch."""
    x = torch.full((2, 3, 6, 8), 0.5)
    model = nn.Sequential(nn.Flatten(), linear(rng.child("w").normal((1, 144))[0], 99.0))
    found = Square(space, queries=20)(model, x, zeros(2), rng=rng)
    assert not torch.equal(found.params[0], found.params[1])
    assert not found.success.any()


def test_targets_and_starts(task: Task, rng: Stream) -> None:
    target = (task.y + 1) % 4
    found = Square(Linf(0.15), queries=60)(task.model, task.x, task.y, rng=rng, target=target)
    assert torch.equal(found.success, task.model(found.inputs).argmax(1) == target)
    assert int(found.success.sum()) > 50
    again = Square(Linf(0.15), queries=1)(task.model, task.x, task.y, rng=rng, target=target, start=found.params)
    assert not (found.success & ~again.success).any()


@pytest.mark.parametrize("attack", [Square(Linf(0.0)), Square(L2(0.1), queries=0)])
def test_without_budget_or_queries_the_inputs_come_back(task: Task, attack: Square, rng: Stream) -> None:
    found = attack(task.model, task.x, task.y, rng=rng)
    assert torch.equal(found.inputs, task.x)
    assert found.evaluations == len(task.x) == attack.cost * len(task.x)


def test_windows_shrink_as_in_the_paper() -> None:
    shares = [_shrunk(query / 10_000) for query in (0, 10, 11, 51, 201, 501, 1001, 2001, 4001, 6001, 8001)]
    assert shares == [1, 1, *(0.5**k for k in range(1, 10))]


@pytest.mark.parametrize("side", [1, 2, 3, 5, 8])
def test_the_pattern_is_a_hill_and_a_hole_of_length_one(side: int) -> None:
    found = _bump(side)
    assert_close(found.norm(), torch.tensor(1.0, dtype=torch.float64))
    assert bool((found[: side // 2] > 0).all())
    assert bool((found[side // 2 :] < 0).all())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"queries": -1}, "queries must be at least 0, got -1"),
        ({"p_init": 0.0}, "p_init must be a share above 0 and at most 1, got 0.0"),
        ({"p_init": 1.5}, "p_init must be a share above 0 and at most 1, got 1.5"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Square(Linf(0.1), **settings)
