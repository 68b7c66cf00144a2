"""One suite over every norm ball: what attacks rely on, beyond what test_spaces.py asks of every space."""

from __future__ import annotations

import pytest
import torch

from pellucid.attacks import BALLS
from pellucid.core import Space, Stream

EPS = 0.3
BALLS_BY_TYPE = {type(make(EPS)): make for make in BALLS.values()}
BOUNDS = [(0.0, 1.0), (-1.0, 2.5), None]


@pytest.fixture(params=sorted(BALLS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=BOUNDS, ids=str)
def bounds(request: pytest.FixtureRequest) -> tuple[float, float] | None:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(params=[False, True], ids=["plain", "scaled"])
def scale(request: pytest.FixtureRequest, rng: Stream) -> torch.Tensor | None:
    """One factor per element of an input; two elements never change."""
    if not request.param:
        return None
    scale = rng.child("scale").uniform((3, 4, 5), low=0.3, high=1.5)
    scale[0, 0, :2] = 0.0
    return scale


@pytest.fixture
def space(name: str, bounds: tuple[float, float] | None, scale: torch.Tensor | None) -> Space:
    return BALLS[name](EPS, bounds=bounds, scale=scale)


@pytest.fixture(params=[torch.float32, torch.float64], ids=str)
def x(request: pytest.FixtureRequest, rng: Stream, bounds: tuple[float, float] | None) -> torch.Tensor:
    low, high = bounds or (-3.0, 3.0)
    x = rng.child("x").uniform((6, 3, 4, 5), low=low, high=high, dtype=request.param)
    x[:3] = x[:3].clamp(low + 0.2, high - 0.2)
    x[2] = low  # every element at its bound
    return x


def far(x: torch.Tensor, rng: Stream) -> torch.Tensor:
    """Parameters of which most are outside any budget."""
    return rng.child("far").normal(x.shape, dtype=x.dtype)


def slack(x: torch.Tensor) -> float:
    return 16 * torch.finfo(x.dtype).eps


def test_it_is_a_space(space: Space) -> None:
    assert isinstance(space, Space)


def test_zeros_leave_x_unchanged(space: Space, x: torch.Tensor) -> None:
    zeros = space.zeros(x)
    assert torch.equal(space.render(x, zeros), x)
    assert torch.equal(space.project(x, zeros), zeros)
    assert torch.equal(space.size(x, zeros), torch.zeros(len(x), dtype=x.dtype))


def test_projecting_twice_changes_nothing(space: Space, x: torch.Tensor, rng: Stream) -> None:
    once = space.project(x, far(x, rng))
    assert torch.equal(space.project(x, once), once)


def test_projection_leads_into_the_budget(space: Space, x: torch.Tensor, rng: Stream) -> None:
    params = far(x, rng)
    assert (space.size(x, params) > EPS).all()
    assert (space.size(x, space.project(x, params)) <= EPS * (1 + slack(x))).all()


def test_projection_alone_keeps_the_bounds(
    space: Space, x: torch.Tensor, rng: Stream, bounds: tuple[float, float] | None
) -> None:
    """Rendering must not be what clips: what it cut off would carry no gradient."""
    params = space.project(x, far(x, rng))
    if bounds is not None:
        assert (x + params >= bounds[0] - slack(x)).all()
        assert (x + params <= bounds[1] + slack(x)).all()
    torch.testing.assert_close(space.render(x, params), x + params, rtol=0, atol=slack(x))


def test_rendered_inputs_lie_inside_the_bounds_exactly(
    space: Space, x: torch.Tensor, rng: Stream, bounds: tuple[float, float] | None
) -> None:
    rendered = space.render(x, far(x, rng))
    assert rendered.dtype == x.dtype
    if bounds is not None:
        assert (rendered >= bounds[0]).all()
        assert (rendered <= bounds[1]).all()


def test_points_inside_stay(space: Space, x: torch.Tensor, rng: Stream) -> None:
    inside = space.project(x, far(x, rng)) * 0.9
    assert torch.equal(space.project(x, inside), inside)


def test_samples_lie_in_the_budget_and_differ(space: Space, x: torch.Tensor, rng: Stream) -> None:
    params = space.sample(x, rng)
    assert params.shape == x.shape
    assert (space.size(x, params) <= EPS * (1 + slack(x))).all()
    assert torch.equal(space.project(x, params), params)
    assert not torch.equal(params[0], params[1])
    assert not torch.equal(params, space.sample(x, rng.child("other")))


def test_samples_belong_to_ids_not_to_batches(space: Space, x: torch.Tensor, rng: Stream) -> None:
    ids = torch.tensor([5, 0, 17, 3, 4, 9])
    whole = space.sample(x, rng.at(ids))
    for rows in torch.split(torch.arange(6), 2):
        assert torch.equal(space.sample(x[rows], rng.at(ids[rows])), whole[rows])


def test_steps_have_the_length_asked_for(space: Space, x: torch.Tensor, rng: Stream) -> None:
    grad = rng.child("grad").normal(x.shape, dtype=x.dtype) * 1e-30
    step = space.ascent(x, grad, 0.25)
    torch.testing.assert_close(space.size(x, step), torch.full((6,), 0.25 * EPS, dtype=x.dtype))
    assert ((step * grad.sign()).flatten(1).sum(1) > 0).all()


def test_elements_of_scale_zero_never_change(
    space: Space, x: torch.Tensor, rng: Stream, scale: torch.Tensor | None
) -> None:
    if scale is None:
        return
    fixed = scale == 0
    for params in (space.sample(x, rng), space.project(x, far(x, rng)), space.ascent(x, far(x, rng), 1.0)):
        assert (params[:, fixed] == 0).all()
        assert (params[:, ~fixed] != 0).any()
    assert space.size(x, far(x, rng)).isinf().all()


def test_steps_climb_steepest_within_their_length(space: Space, x: torch.Tensor, rng: Stream) -> None:
    """No other step of the same size gains more to first order."""
    grad = rng.child("grad").normal(x.shape, dtype=x.dtype)
    gain = (space.ascent(x, grad, 1.0) * grad).flatten(1).sum(1)
    free = BALLS_BY_TYPE[type(space)](EPS, bounds=None, scale=space.scale)  # type: ignore[attr-defined]
    for draw in range(8):
        other = free.sample(x, rng.child("other", draw))
        other = other * (EPS / free.size(x, other)).view(-1, 1, 1, 1)
        assert (gain >= (other * grad).flatten(1).sum(1)).all()


def test_projection_is_the_nearest_point(space: Space, x: torch.Tensor, rng: Stream) -> None:
    """In units of the scale: no other point of the set is nearer."""
    params = far(x, rng)
    units = torch.ones_like(x[0]) if space.scale is None else space.scale.to(x)  # type: ignore[attr-defined]
    moving = units > 0

    def distance(other: torch.Tensor) -> torch.Tensor:
        return ((other - params) / units)[:, moving].square().sum(1)

    best = distance(space.project(x, params))
    for draw in range(8):
        assert (best <= distance(space.sample(x, rng.child("inside", draw))) + 1e-4).all()
        near = space.project(x, params + 0.1 * rng.child("near", draw).normal(x.shape, dtype=x.dtype))
        assert (best <= distance(near) + 1e-4).all()


def test_a_scale_of_one_changes_nothing(name: str, bounds: tuple[float, float] | None, rng: Stream) -> None:
    plain, ones = (BALLS[name](EPS, bounds=bounds, scale=s) for s in (None, torch.ones(7)))
    x = rng.child("x").uniform((5, 7), low=0.0, high=1.0)
    params, grad = far(x, rng), rng.child("grad").normal((5, 7))
    for a, b in (
        (plain.sample(x, rng), ones.sample(x, rng)),
        (plain.project(x, params), ones.project(x, params)),
        (plain.ascent(x, grad, 0.3), ones.ascent(x, grad, 0.3)),
        (plain.size(x, params), ones.size(x, params)),
    ):
        torch.testing.assert_close(a, b)


def test_equal_spaces_are_equal(name: str) -> None:
    make = BALLS[name]
    assert make(0.1, scale=torch.ones(2)) == make(0.1, scale=torch.ones(2))
    assert hash(make(0.1, scale=torch.ones(2))) == hash(make(0.1, scale=torch.ones(2)))
    assert make(0.1, scale=torch.ones(2)) != make(0.1, scale=torch.zeros(2))
    assert make(0.1, scale=torch.ones(2)) != make(0.1)
    assert make(0.1) != make(0.2)
    assert make(0.1) != 0.1


@pytest.mark.parametrize("scale", [torch.tensor([-1.0]), torch.tensor([float("nan")]), torch.tensor([1])])
def test_scales_must_be_lengths(name: str, scale: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="scale must be finite numbers of at least 0"):
        BALLS[name](0.1, scale=scale)


def test_a_scale_of_another_width_is_explained(name: str) -> None:
    from pellucid.core import DataError

    with pytest.raises(DataError, match=r"scale has shape \(3,\), which does not fit inputs of \(4,\)"):
        BALLS[name](0.1, scale=torch.ones(3)).zeros(torch.zeros(2, 4))


def test_no_gradient_no_step(space: Space, x: torch.Tensor) -> None:
    assert torch.equal(space.ascent(x, torch.zeros_like(x), 0.25), torch.zeros_like(x))


def test_scaling_multiplies_the_budget(space: Space, x: torch.Tensor, rng: Stream) -> None:
    double = space.scaled(2.0)
    assert type(double) is type(space)
    half = space.project(x, far(x, rng)) / 2
    assert (double.size(x, half) * 2 <= EPS * (1 + slack(x))).all()
    nothing = space.scaled(0.0)
    assert nothing == space.scaled(0.0)
    assert torch.equal(nothing.project(x, far(x, rng)), torch.zeros_like(x))
    assert torch.equal(nothing.sample(x, rng), torch.zeros_like(x))


def test_gradients_reach_the_parameters_at_the_bounds(space: Space, x: torch.Tensor, rng: Stream) -> None:
    """A saturated element must be able to come back."""
    params = space.project(x, far(x, rng)).requires_grad_()
    (grad,) = torch.autograd.grad(space.render(x, params).sum(), params)
    assert torch.equal(grad, torch.ones_like(x))


def test_inputs_outside_the_bounds_are_explained(name: str) -> None:
    from pellucid.core import DataError

    with pytest.raises(DataError, match=r"lie in \[-2, 3\] but the space's bounds are \[0, 1\].*before normalization"):
        BALLS[name](EPS).zeros(torch.tensor([[-2.0, 3.0]]))


def test_inputs_outside_by_rounding_stay_where_they_are(name: str) -> None:
    space, x = BALLS[name](0.1), torch.tensor([[1 + 1e-7, -1e-9, 0.5]])
    zeros = space.zeros(x)
    assert torch.equal(space.render(x, zeros), x)
    assert torch.equal(space.project(x, zeros), zeros)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_keep_precise_parameters(name: str, dtype: torch.dtype, rng: Stream) -> None:
    space, x = BALLS[name](0.1), torch.full((2, 8), 0.5, dtype=dtype)
    params = space.sample(x, rng)
    assert params.dtype == torch.float32
    assert space.render(x, params).dtype == dtype


@pytest.mark.parametrize("eps", [-0.1, float("nan"), float("inf")])
def test_radius_must_be_a_length(name: str, eps: float) -> None:
    with pytest.raises(ValueError, match="eps must be a finite radius of at least 0"):
        BALLS[name](eps)


def test_bounds_must_be_in_order(name: str) -> None:
    with pytest.raises(ValueError, match=r"bounds must be \(low, high\) with low < high"):
        BALLS[name](0.1, bounds=(1.0, 0.0))


@pytest.mark.parametrize("bad", [torch.zeros(0, 3), torch.zeros(2, 3, dtype=torch.int64), torch.zeros(3)])
def test_x_must_be_a_batch_of_numbers(name: str, bad: torch.Tensor) -> None:
    from pellucid.core import DataError

    with pytest.raises(DataError, match="non-empty floating point batch"):
        BALLS[name](0.1).zeros(bad)
