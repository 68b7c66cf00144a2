"""One suite over every space of the table: what attacks rely on. What only norm balls promise is in test_balls.py."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pellucid.attacks import L2, SPACES, Chain, Flow, Linf, RotateTranslate, Spatial
from pellucid.core import DataError, Space, Stream

EXAMPLES: dict[str, list[Callable[[], Space]]] = {
    "chain": [
        lambda: Chain(RotateTranslate(), Linf(0.1)),
        lambda: Chain(Flow(0.5, padding="border"), L2(0.6, bounds=None), RotateTranslate(10, 1)),
    ],
    "flow": [lambda: Flow(0.3), lambda: Flow(1.5, padding="reflect", smooth=True)],
    "l2": [lambda: L2(0.5), lambda: L2(0.5, bounds=None)],
    "linf": [lambda: Linf(0.1)],
    "rt": [
        RotateTranslate,
        lambda: RotateTranslate(180, 1, padding="border", share=0.5),
        lambda: RotateTranslate(90, 2, first="turn"),
    ],
    "spatial": [Spatial, lambda: Spatial(1.0, 45, 0, padding="reflect"), lambda: Spatial(first="turn")],
}
CASES = [(f"{name}-{number}", make) for name, makes in EXAMPLES.items() for number, make in enumerate(makes)]


def test_every_space_of_the_table_is_here() -> None:
    assert EXAMPLES.keys() == SPACES.keys()
    for name, makes in EXAMPLES.items():
        assert all(type(make()) is SPACES[name] for make in makes)


@pytest.fixture(params=[make for _, make in CASES], ids=[name for name, _ in CASES])
def space(request: pytest.FixtureRequest) -> Space:
    return request.param()  # type: ignore[no-any-return]


@pytest.fixture(params=[torch.float32, torch.float64], ids=str)
def x(request: pytest.FixtureRequest, rng: Stream) -> Tensor:
    return rng.child("x").uniform((4, 3, 5, 7), dtype=request.param)


def far(space: Space, x: Tensor, rng: Stream) -> Tensor:
    """Parameters of which most are outside the budget."""
    zeros = space.zeros(x)
    return 100 * rng.child("far").normal(zeros.shape, dtype=zeros.dtype)


def slack(x: Tensor) -> float:
    return 64 * torch.finfo(x.dtype).eps


def test_it_is_a_space(space: Space) -> None:
    assert isinstance(space, Space)


def test_zeros_leave_x_unchanged(space: Space, x: Tensor) -> None:
    zeros = space.zeros(x)
    assert zeros.dtype == x.dtype
    assert len(zeros) == len(x)
    assert torch.equal(space.render(x, zeros), x)
    assert torch.equal(space.project(x, zeros), zeros)
    assert torch.equal(space.size(x, zeros), torch.zeros(len(x), dtype=x.dtype))


def test_projecting_twice_changes_nothing(space: Space, x: Tensor, rng: Stream) -> None:
    once = space.project(x, far(space, x, rng))
    assert torch.equal(space.project(x, once), once)


def test_projection_leads_into_the_budget(space: Space, x: Tensor, rng: Stream) -> None:
    params = far(space, x, rng)
    assert (space.size(x, params) > space.budget).all()
    assert (space.size(x, space.project(x, params)) <= space.budget * (1 + slack(x))).all()


def test_rendered_inputs_keep_shape_dtype_and_range(space: Space, x: Tensor, rng: Stream) -> None:
    rendered = space.render(x, space.project(x, far(space, x, rng)))
    assert rendered.shape == x.shape
    assert rendered.dtype == x.dtype
    if not isinstance(space, Chain | L2):  # without bounds they may leave the range
        assert float(rendered.min()) >= 0
        assert float(rendered.max()) <= 1


def test_samples_lie_in_the_budget_and_differ(space: Space, x: Tensor, rng: Stream) -> None:
    params = space.sample(x, rng)
    assert params.shape == space.zeros(x).shape
    assert torch.equal(space.project(x, params), params)
    assert not torch.equal(params[0], params[1])
    assert not torch.equal(params, space.sample(x, rng.child("other")))


def test_samples_belong_to_ids_not_to_batches(space: Space, x: Tensor, rng: Stream) -> None:
    ids = torch.tensor([5, 0, 17, 3])
    whole = space.sample(x, rng.at(ids))
    for rows in torch.split(torch.arange(4), 2):
        assert torch.equal(space.sample(x[rows], rng.at(ids[rows])), whole[rows])


def test_distortions_belong_to_samples_not_to_batches(space: Space, x: Tensor, rng: Stream) -> None:
    """Some libraries turn a whole batch by one angle."""
    params = space.sample(x, rng)
    whole = space.render(x, params)
    for row in range(4):
        assert torch.equal(space.render(x[row : row + 1], params[row : row + 1])[0], whole[row])


def test_steps_have_the_length_asked_for(space: Space, x: Tensor, rng: Stream) -> None:
    grad = 1e-6 * far(space, x, rng)
    step = space.ascent(x, grad, 0.25)
    expected = torch.full((4,), 0.25 * space.budget, dtype=x.dtype)
    torch.testing.assert_close(space.size(x, step), expected)
    assert ((step * grad).flatten(1).sum(1) > 0).all()
    assert torch.equal(space.ascent(x, torch.zeros_like(grad), 0.25), torch.zeros_like(grad))


def test_scaling_multiplies_the_budget(space: Space, x: Tensor, rng: Stream) -> None:
    double = space.scaled(2.0)
    assert type(double) is type(space)
    assert double.budget == 2 * space.budget
    params = space.project(x, far(space, x, rng))
    torch.testing.assert_close(double.size(x, params), space.size(x, params))
    nothing = space.scaled(0.0)
    assert nothing == space.scaled(0.0)
    assert nothing != space
    assert space.scaled(1.0) == space
    assert hash(space.scaled(1.0)) == hash(space)
    zeros = space.zeros(x)
    assert torch.equal(nothing.project(x, far(space, x, rng)), zeros)
    assert torch.equal(nothing.sample(x, rng), zeros)


def test_gradients_are_those_of_finite_differences(space: Space, rng: Stream) -> None:
    x = rng.child("x").uniform((2, 2, 5, 6), low=0.3, high=0.7, dtype=torch.float64)
    half = space.scaled(0.5)
    params = half.project(x, half.sample(x, rng) + 0.013)  # away from the kinks at whole pixels
    weights = rng.child("weights").normal(x.shape, dtype=torch.float64)
    params.requires_grad_()
    (grad,) = torch.autograd.grad((space.render(x, params) * weights).sum(), params)
    step = 1e-7 * rng.child("step").normal(params.shape, dtype=torch.float64)
    with torch.no_grad():
        ends = [(space.render(x, params + sign * step) * weights).flatten(1).sum(1) for sign in (1, -1)]
    torch.testing.assert_close((grad * step).flatten(1).sum(1), (ends[0] - ends[1]) / 2, rtol=1e-4, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_keep_precise_parameters(space: Space, dtype: torch.dtype, rng: Stream) -> None:
    x = rng.child("x").uniform((2, 1, 6, 6)).to(dtype)
    params = space.sample(x, rng)
    assert params.dtype == torch.float32
    assert space.render(x, params).dtype == dtype
    assert torch.equal(space.render(x, space.zeros(x)), x)


@pytest.mark.parametrize("name", ["flow", "rt", "spatial"])
@pytest.mark.parametrize("shape", [(4, 9), (4, 9, 9), (0, 1, 9, 9)])
def test_only_pictures_move(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"only pictures \(b, C, H, W\).*distort other inputs by Linf or L2"):
        SPACES[name]().zeros(torch.zeros(shape))


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["flow", "rt", "spatial"])
def test_limits_are_lengths_and_angles(name: str, value: float) -> None:
    with pytest.raises(ValueError, match="must be a finite number of at least 0"):
        SPACES[name](value)
