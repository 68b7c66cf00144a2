"""Smallest distortions: closed forms of linear models, masks, warm starts, targets, and results free of the batch."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from pellucid.attacks import L2, PGD, Linf, MinimumNorm, MinimumNormWithin
from pellucid.core import DataError, ModelError, Stream

Task = Any  # of conftest.py, which cannot be imported
Norm = Literal["linf", "l2"]
each_norm = pytest.mark.parametrize("norm", ["linf", "l2"])
DUAL = {"linf": 1, "l2": 2}


def linear(w: Tensor, b: float) -> nn.Module:
    """A binary classifier whose margin is w x + b."""
    model = nn.Linear(len(w), 2).to(w.dtype)
    with torch.no_grad():
        model.weight.copy_(torch.stack([w, torch.zeros_like(w)]))
        model.bias.copy_(torch.tensor([b, 0.0]))
    return model


def zeros(n: int) -> Tensor:
    return torch.zeros(n, dtype=torch.int64)


# -- closed forms -------------------------------------------------------------------------------------------------


@each_norm
@pytest.mark.parametrize("bounds", [None, (0.0, 1.0)])
def test_distance_to_a_plane(norm: Norm, bounds: Any, rng: Stream) -> None:
    """|w x + b| over the dual norm of w, with few steps; here the bounds leave room enough."""
    w = rng.child("w").normal((1, 9), dtype=torch.float64)[0]
    x = rng.child("x").uniform((20, 9), low=0.4, high=0.6, dtype=torch.float64)
    margin = x @ w + 0.1
    found = MinimumNorm(norm, steps=10, bounds=bounds)(linear(w, 0.1), x, (margin < 0).long(), rng=rng)
    assert_close(found.norm, margin.abs() / w.norm(DUAL[norm]), rtol=1e-5, atol=0)
    assert found.success.all()


@each_norm
def test_distance_to_a_plane_inside_bounds_that_bind(norm: Norm, rng: Stream) -> None:
    """Elements at a bound stay there, the others make up for them: found by bisection over the exact projections."""
    w = rng.child("w").normal((1, 9), dtype=torch.float64)[0]
    x = rng.child("x").uniform((20, 9), dtype=torch.float64)
    model, y = linear(w, 1.0), (x @ w + 1.0 < 0).long()
    found = MinimumNorm(norm, steps=60)(model, x, y, rng=rng)
    downhill = torch.where(y == 0, -1e6, 1e6)[:, None].double() * w
    kind = {"linf": Linf, "l2": L2}[norm]
    # One radius per sample: a margin is linear along the exact solutions only piece by piece, so bisect.
    low, high = torch.zeros(20, dtype=torch.float64), torch.full((20,), 4.0, dtype=torch.float64)
    for _ in range(40):
        middle = (low + high) / 2
        reached = torch.stack(
            [kind(float(r)).project(x[i : i + 1], downhill[i : i + 1])[0] for i, r in enumerate(middle)]
        )
        crossed = ((x + reached) @ w + 1.0 < 0) != (y == 1)
        low, high = torch.where(crossed, low, middle), torch.where(crossed, middle, high)
    reachable = high < 4.0
    assert int(reachable.sum()) > 5
    assert torch.equal(found.success, reachable)
    assert_close(found.norm[reachable], high[reachable], rtol=0.01, atol=1e-6)
    assert found.norm[~reachable].isinf().all()


@pytest.mark.parametrize(("squares", "costs"), [((1, 8, 0), (6, 2, 6, 2)), ((1, 4, 4), (6, 2.683282, 2.683282, 2))])
def test_costs_of_regions(squares: Any, costs: Any, rng: Stream) -> None:
    """m / sqrt(|w_0|**2 + sum of |w_r|**2) for the border alone, with one region, with the other, with both."""
    w = torch.tensor(squares, dtype=torch.float64).sqrt()
    mask = torch.tensor([[1, 0, 0], [1, 1, 0], [1, 0, 1], [1, 1, 1]])
    x = torch.zeros(4, 3, dtype=torch.float64)
    found = MinimumNorm("l2", steps=10, bounds=None)(linear(w, 6.0), x, zeros(4), rng=rng, mask=mask)
    assert_close(found.norm, torch.tensor(costs, dtype=torch.float64), rtol=1e-4, atol=0)
    assert bool((found.params[mask == 0] == 0).all())
    found = MinimumNorm("linf", steps=10, bounds=None)(linear(w, 6.0), x, zeros(4), rng=rng, mask=mask)
    assert_close(found.norm, 6 / (mask * w).sum(1), rtol=1e-4, atol=0)


@each_norm
def test_norms_are_in_units_of_the_scale(norm: Norm, rng: Stream) -> None:
    w = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    scale = torch.tensor([1.0, 0.5, 2.0, 0.0], dtype=torch.float64)
    x = torch.zeros(1, 4, dtype=torch.float64)
    found = MinimumNorm(norm, steps=10, bounds=None, scale=scale)(linear(w, 5.0), x, zeros(1), rng=rng)
    assert_close(found.norm, 5 / (w * scale).norm(DUAL[norm])[None], rtol=1e-4, atol=0)
    assert float(found.params[0, 3]) == 0
    assert_close(found.inputs, x + found.params)


# -- what is promised ----------------------------------------------------------------------------------------------


@each_norm
def test_reports_are_those_of_the_returned_inputs(task: Task, norm: Norm, rng: Stream) -> None:
    found = MinimumNorm(norm, steps=20)(task.model, task.x, task.y, rng=rng)
    assert found.success.all()
    assert torch.equal(task.model(found.inputs).argmax(1) != task.y, found.success)
    assert_close(found.inputs, (task.x + found.params).clamp(0, 1))
    size = (found.inputs - task.x).flatten(1).norm(torch.inf if norm == "linf" else 2, dim=1)
    assert_close(found.norm, size, atol=1e-6, rtol=1e-5)
    assert float(found.inputs.min()) >= 0
    assert float(found.inputs.max()) <= 1
    wrong = task.model(task.x).argmax(1) != task.y
    assert bool((found.norm[wrong] == 0).all())
    assert torch.equal(found.inputs[wrong], task.x[wrong])


@each_norm
def test_no_radius_below_the_norm_fools_by_projected_gradients(task: Task, norm: Norm, rng: Stream) -> None:
    """PGD of many steps at a radius fools hardly a sample that the search calls safe there, and misses some."""
    x, y = task.x[:80], task.y[:80]
    found = MinimumNorm(norm)(task.model, x, y, rng=rng)
    eps = {"linf": 0.05, "l2": 0.3}[norm]
    climbed = PGD({"linf": Linf, "l2": L2}[norm](eps), steps=50)(task.model, x, y, rng=rng).success
    assert int((climbed & (found.norm > eps)).sum()) <= 2
    assert int((found.norm <= eps).sum()) >= int(climbed.sum())


@each_norm
@pytest.mark.parametrize("size", [1, 7])
def test_batch_size_does_not_matter(task: Task, norm: Norm, size: int, rng: Stream) -> None:
    model, x, y, ids = task.model.double(), task.x[:14].double(), task.y[:14], torch.arange(100, 114)
    mask = (torch.arange(64).reshape(1, 8, 8) + torch.arange(14)[:, None, None, None]) % 3 > 0
    start = 0.1 * rng.child("first").normal(x.shape, dtype=torch.float64)
    attack = MinimumNorm(norm, steps=8, restarts=2)
    try:
        whole = attack(model, x, y, rng=rng.at(ids), start=start, mask=mask)
        parts = [
            attack(model, x[rows], y[rows], rng=rng.at(ids[rows]), start=start[rows], mask=mask[rows])
            for rows in torch.split(torch.arange(14), size)
        ]
    finally:
        model.float()
    assert_close(torch.cat([part.norm for part in parts]), whole.norm, rtol=1e-6, atol=1e-9)
    assert bool((whole.params[~mask] == 0).all())


@each_norm
def test_a_warm_start_is_never_made_worse(task: Task, norm: Norm, rng: Stream) -> None:
    """As regions are set free one by one, each search begins at the last result: costs never rise."""
    x, y = task.x[:40], task.y[:40]
    mask = torch.zeros_like(x)
    mask[..., :4] = 1
    last = MinimumNorm(norm, steps=20)(task.model, x, y, rng=rng, mask=mask)
    for column in range(4, 8):
        mask[..., column] = 1
        found = MinimumNorm(norm, steps=3)(task.model, x, y, rng=rng, mask=mask, start=last.params)
        assert bool((found.norm <= last.norm).all())
        last = found
    cold = MinimumNorm(norm, steps=3)(task.model, x, y, rng=rng)
    assert float(last.norm[last.success].mean()) <= 1.1 * float(cold.norm[last.success].mean())


@each_norm
def test_targets_are_reached(task: Task, norm: Norm, rng: Stream) -> None:
    x, y = task.x[:80], task.y[:80]
    target = (y + 1) % 4
    found = MinimumNorm(norm, steps=30)(task.model, x, y, rng=rng, target=target)
    free = MinimumNorm(norm, steps=30)(task.model, x, y, rng=rng)
    assert torch.equal(task.model(found.inputs).argmax(1) == target, found.success)
    assert float(found.success.double().mean()) > 0.95
    assert float((free.norm <= found.norm * 1.02).double().mean()) > 0.9
    each = MinimumNorm(norm, steps=30, restarts=4)(task.model, x, y, rng=rng)
    assert float((each.norm <= found.norm * 1.02).double().mean()) > 0.99


@each_norm
def test_more_effort_is_never_weaker(task: Task, norm: Norm, rng: Stream) -> None:
    x, y = task.x[:80], task.y[:80]
    one = MinimumNorm(norm, steps=5)(task.model, x, y, rng=rng)
    two = MinimumNorm(norm, steps=5, restarts=2)(task.model, x, y, rng=rng)
    assert bool((two.norm <= one.norm * 1.001).all())
    rough = MinimumNorm(norm, steps=5, refine=0)(task.model, x, y, rng=rng)
    assert bool((one.norm <= rough.norm).all())


@each_norm
def test_what_cannot_be_fooled_is_infinitely_far(norm: Norm, rng: Stream) -> None:
    """The first may change nothing; the second needs more than its bounds allow and comes as near as it can."""
    x = torch.full((2, 2), 0.5)
    model = linear(torch.tensor([1.0, 0.0]), 1.0)
    mask = torch.tensor([[0, 0], [1, 1]])
    found = MinimumNorm(norm, steps=10)(model, x, zeros(2), rng=rng, mask=mask)
    assert found.norm.isinf().all()
    assert found.success.tolist() == [False, False]
    assert_close(found.params[:, 0], torch.tensor([0.0, -0.5]))
    assert found.zero_gradients.tolist() == [10, 0]


@each_norm
def test_without_steps_only_the_input_and_the_start_are_tried(norm: Norm, rng: Stream) -> None:
    model, x = linear(torch.tensor([1.0, 1.0]), -0.9), torch.full((2, 2), 0.5)
    y = torch.tensor([0, 1])
    found = MinimumNorm(norm, steps=0)(model, x, y, rng=rng)
    assert found.norm.tolist() == [torch.inf, 0]
    start = torch.full((2, 2), -0.3)
    found = MinimumNorm(norm, steps=0, refine=20)(model, x, y, rng=rng, start=start)
    assert_close(found.norm[0], torch.tensor(0.05 if norm == "linf" else 0.05 * 2**0.5), rtol=1e-3, atol=0)


@each_norm
def test_evaluations_are_those_promised_and_those_made(task: Task, norm: Norm, rng: Stream) -> None:
    seen = 0

    def counting(x: Tensor) -> Tensor:
        nonlocal seen
        seen += len(x)
        return task.model(x)  # type: ignore[no-any-return]

    attack = MinimumNorm(norm, steps=4, restarts=2)
    found = attack(counting, task.x[:10], task.y[:10], rng=rng)
    assert found.evaluations == attack.cost * 10 == seen + 2 * 4 * 10


# -- within a radius -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", [Linf(0.05), L2(0.3)], ids=["linf", "l2"])
def test_within_a_radius_it_fools_what_is_nearer(task: Task, space: Any, rng: Stream) -> None:
    norm: Norm = "linf" if isinstance(space, Linf) else "l2"
    smallest = MinimumNorm(norm, steps=20)(task.model, task.x, task.y, rng=rng)
    found = MinimumNormWithin(space, steps=20)(task.model, task.x, task.y, rng=rng)
    assert torch.equal(found.success, task.model(found.inputs).argmax(1) != task.y)
    assert bool((smallest.norm[found.success] <= space.eps * 1.2).all())
    assert bool(found.success[smallest.norm <= space.eps * 0.999].all())
    assert (space.size(task.x, found.params) <= space.eps * (1 + 1e-5)).all()
    assert found.evaluations <= len(task.x) * MinimumNormWithin(space, steps=20).cost


def test_within_no_radius_the_inputs_come_back(task: Task, rng: Stream) -> None:
    for attack in (MinimumNormWithin(Linf(0.0)), MinimumNormWithin(L2(0.1), steps=0)):
        found = attack(task.model, task.x, task.y, rng=rng)
        assert torch.equal(found.inputs, task.x)
        assert found.evaluations == len(task.x) == attack.cost * len(task.x)


# -- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": -1}, "steps must be at least 0, got -1"),
        ({"restarts": 0}, "restarts must be at least 1, got 0"),
        ({"refine": -1}, "refine must be at least 0 forward passes, got -1"),
        ({"bounds": (1.0, 0.0)}, "bounds must be"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MinimumNorm(**({"norm": "l2"} | settings))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mask": torch.full((2, 3), 0.5)}, "mask must hold 0 and 1 only"),
        ({"mask": torch.ones(2, 4)}, r"mask must be broadcastable to the inputs' shape \(2, 3\), got \(2, 4\)"),
        ({"start": torch.ones(2, 4)}, r"start must be of the inputs' shape \(2, 3\), got \(2, 4\)"),
        ({"target": torch.zeros(3, dtype=torch.int64)}, r"target must be int64 of shape \(2,\)"),
    ],
)
def test_what_does_not_fit_the_inputs(given: dict[str, Any], message: str, rng: Stream) -> None:
    with pytest.raises(ValueError, match=message):
        MinimumNorm("l2")(linear(torch.ones(3), 0.0), torch.zeros(2, 3), zeros(2), rng=rng, **given)


def test_inputs_out_of_bounds(rng: Stream) -> None:
    with pytest.raises(DataError, match="attack the inputs before normalization"):
        MinimumNorm("l2")(linear(torch.ones(3), 0.0), torch.full((2, 3), 2.0), zeros(2), rng=rng)


@pytest.mark.parametrize("where", ["logits", "gradient"])
def test_nan_is_an_error_that_names_the_sample(where: str, rng: Stream) -> None:
    def broken(x: Tensor) -> Tensor:
        z = torch.cat([x, 1 - x], dim=1)
        bad = (x[2] - x[2].detach()).square().sqrt()  # the slope of a square root at 0
        z[2] = z[2] * torch.nan if where == "logits" else z[2] + bad
        return z

    with pytest.raises(ModelError, match="for sample 72 under attack"):
        MinimumNorm("l2", steps=2)(broken, torch.full((4, 1), 0.7), zeros(4), rng=rng.at([70, 71, 72, 73]))


def test_a_model_without_gradients_is_refused(rng: Stream) -> None:
    with pytest.raises(ModelError, match="does not depend on its input by any gradient"):
        MinimumNorm("l2")(lambda x: x.detach(), torch.full((2, 3), 0.5), zeros(2), rng=rng)
