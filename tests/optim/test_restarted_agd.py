import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from pellucid.optim import AdaptiveRestart, FixedRestart, RestartedAGD, theory_parameters

F64 = torch.float64
WEIGHTS = torch.tensor([1.0, 0.5, 0.1, 0.01, 0.001], dtype=F64)


def cosines(x: Tensor) -> Tensor:
    """Gradient and Hessian are 1-Lipschitz."""
    return (WEIGHTS * (1 - torch.cos(x))).sum()


def half_square(x: Tensor) -> Tensor:
    return x.square().sum() / 2


def descent(
    fun: Callable[[Tensor], Tensor], start: Tensor, **settings: object
) -> tuple[torch.nn.Parameter, RestartedAGD, Callable[[], Tensor]]:
    x = torch.nn.Parameter(start.clone())
    optimizer = RestartedAGD([x], **settings)  # type: ignore[arg-type]

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = fun(x)
        loss.backward()
        return loss

    return x, optimizer, closure


def walked(fun: Callable[[Tensor], Tensor], start: Tensor, steps: int, **settings: object) -> Tensor:
    x, optimizer, closure = descent(fun, start, **settings)
    path = []
    for _ in range(steps):
        optimizer.step(closure)
        path.append(x.detach().clone())
    return torch.stack(path)


ONE = torch.ones(1, dtype=F64)


@pytest.mark.parametrize(
    ("momentum", "iterates"),
    [
        ("nesterov", [0.75, 0.39375, 0.05484375, -0.18762890625]),
        ("heavy-ball", [0.75, 0.3375, -0.118125, -0.49865625]),
    ],
)
def test_iterates_on_a_parabola_are_those_computed_by_hand(momentum: str, iterates: list[float]) -> None:
    rule = FixedRestart(theta=0.1, radius=math.inf)
    path = walked(half_square, ONE, 4, lr=0.25, restart=rule, momentum=momentum)
    assert_close(path[:, 0], torch.tensor(iterates, dtype=F64), rtol=0, atol=1e-14)


def test_it_restarts_where_the_radius_is_left() -> None:
    # k times the summed squares of the moves is 0.0625, then 0.3788 > 0.36.
    rule = FixedRestart(theta=0.1, radius=0.6)
    path = walked(half_square, ONE, 3, lr=0.25, restart=rule)
    assert_close(path[:, 0], torch.tensor([0.75, 0.39375, 0.39375 * 0.75], dtype=F64))


def test_an_ended_epoch_of_the_heavy_ball_is_judged_at_the_mean_of_its_last_points() -> None:
    rule = AdaptiveRestart(eps=1e-9, theta_scale=0.1 / (1e-9 * 0.25**2) ** 0.25, max_radius=0.6)
    seen: list[float] = []

    def watched(x: Tensor) -> Tensor:
        seen.append(float(x.detach()))
        return half_square(x)

    path = walked(watched, ONE, 3, lr=0.25, restart=rule, momentum="heavy-ball")
    assert seen == pytest.approx([1.0, 0.75, 0.5101744186046512])  # theta 0.1: w = 0.8 * 0.9
    assert float(path[2]) == pytest.approx(0.75 * 0.5101744186046512)


@pytest.mark.parametrize(("eps", "gradients"), [(1e-3, 135), (1e-4, 249), (1e-5, 1631)])
def test_constants_of_the_analysis_keep_its_promise(eps: float, gradients: int) -> None:
    lr, theta, radius, steps = theory_parameters(1.0, 1.0, eps)
    rule = FixedRestart(theta=theta, radius=radius, steps=steps)
    x, optimizer, closure = descent(cosines, torch.full((5,), 3.0, dtype=F64), lr=lr, restart=rule)
    bound = float(cosines(torch.full((5,), 3.0, dtype=F64))) * eps**-1.75
    while not optimizer.step(closure).isnan() and not optimizer.status.settled:
        assert optimizer.status.evaluations <= bound
    optimizer.finish()
    (slope,) = torch.autograd.grad(cosines(x), x)
    assert float(slope.norm()) <= 82 * eps
    assert optimizer.status.evaluations == pytest.approx(gradients, rel=0.05)


def test_without_momentum_it_is_gradient_descent() -> None:
    start = torch.linspace(1, 3, 5, dtype=F64)
    path = walked(cosines, start, 20, lr=0.7, restart=FixedRestart(theta=1.0, radius=math.inf))
    x = start.clone()
    for there in path:
        x = x - 0.7 * WEIGHTS * torch.sin(x)
        assert_close(there, x)


def test_without_restarts_it_is_nesterovs_method_of_torch() -> None:
    start = torch.linspace(1, 3, 5, dtype=F64)
    theta, lr = 0.15, 0.6
    points: list[Tensor] = []

    def watched(x: Tensor) -> Tensor:
        points.append(x.detach().clone())
        return cosines(x)

    walked(watched, start, 15, lr=lr, restart=FixedRestart(theta=theta, radius=math.inf))
    y = torch.nn.Parameter(start.clone())
    peer = torch.optim.SGD([y], lr=lr, momentum=1 - theta, nesterov=True)  # holds the point of the gradient
    for there in points:
        assert_close(there, y.detach())
        peer.zero_grad()
        cosines(y).backward()
        peer.step()


def test_turned_variables_turn_the_path_and_a_constant_changes_nothing(rng: object) -> None:
    turn, _ = torch.linalg.qr(torch.randn(5, 5, dtype=F64, generator=torch.Generator().manual_seed(1)))
    start = torch.linspace(1, 3, 5, dtype=F64)
    rule = FixedRestart(theta=0.1, radius=0.5)
    path = walked(cosines, start, 30, lr=0.5, restart=rule)
    assert_close(walked(lambda z: cosines(turn @ z), turn.T @ start, 30, lr=0.5, restart=rule) @ turn.T, path)
    assert_close(walked(lambda x: cosines(x) + 7, start, 30, lr=0.5, restart=rule), path)
    assert_close(walked(lambda x: 4 * cosines(x), start, 30, lr=0.125, restart=rule), path)


@pytest.mark.parametrize("momentum", ["nesterov", "heavy-ball"])
def test_accepted_losses_never_rise_even_with_a_step_that_is_far_too_large(momentum: str) -> None:
    start = torch.tensor([-1.2, 1.0], dtype=F64)

    def rosenbrock(x: Tensor) -> Tensor:
        return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2

    rule = AdaptiveRestart(max_radius=10.0)
    x, optimizer, closure = descent(rosenbrock, start, lr=0.5, restart=rule, momentum=momentum)
    accepted = []
    for _ in range(800):
        optimizer.step(closure)
        accepted.append(optimizer.status.loss)
    assert all(after <= before for before, after in pairwise(accepted))
    assert optimizer.status.rejections > 3
    assert accepted[-1] < accepted[0] / 10
    optimizer.finish()
    assert float(rosenbrock(x.detach())) == pytest.approx(optimizer.status.loss, rel=1e-12)
    (slope,) = torch.autograd.grad(rosenbrock(x), x)
    assert float(slope.norm()) == pytest.approx(optimizer.status.grad_norm, rel=1e-9)


def test_a_loss_that_becomes_nan_is_undone() -> None:
    def fenced(x: Tensor) -> Tensor:
        return -torch.log(x).sum() + x.sum()  # NaN below zero, least at one

    x, optimizer, closure = descent(fenced, torch.full((3,), 0.01, dtype=F64), lr=0.5)
    for _ in range(400):
        optimizer.step(closure)
    optimizer.finish()
    assert optimizer.status.rejections >= 1
    assert_close(x.detach(), torch.ones(3, dtype=F64), atol=1e-2, rtol=0)


@pytest.mark.parametrize("rule", [AdaptiveRestart(), FixedRestart(theta=0.2, radius=0.4, steps=500)])
def test_a_saved_state_goes_on_bit_for_bit(rule: AdaptiveRestart | FixedRestart) -> None:
    start = torch.linspace(1, 3, 5, dtype=torch.float32)
    whole = walked(lambda x: cosines(x.double()), start, 40, lr=0.9, restart=rule)
    x, optimizer, closure = descent(lambda x: cosines(x.double()), start, lr=0.9, restart=rule)
    for _ in range(17):
        optimizer.step(closure)
    again, other, closure = descent(lambda x: cosines(x.double()), x.detach(), lr=0.9, restart=rule)
    other.load_state_dict(optimizer.state_dict())
    for there in whole[17:]:
        other.step(closure)
        assert torch.equal(again.detach(), there)


def test_groups_have_steps_of_their_own_and_tensors_of_any_shape() -> None:
    a, b = torch.nn.Parameter(torch.ones(2, 3, dtype=F64)), torch.nn.Parameter(torch.ones((), dtype=F64))
    idle = torch.nn.Parameter(torch.ones(4, dtype=F64))
    groups = [{"params": [a, idle]}, {"params": [b], "lr": 0.5}]
    optimizer = RestartedAGD(groups, lr=0.25, restart=FixedRestart(theta=1.0, radius=math.inf))

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = half_square(a) + half_square(b)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert_close(a.detach(), torch.full((2, 3), 0.75, dtype=F64))
    assert float(b.detach()) == 0.5
    assert_close(idle.detach(), torch.ones(4, dtype=F64))


def test_a_closure_that_fails_leaves_the_iterate_where_it_was() -> None:
    x, optimizer, closure = descent(half_square, ONE, lr=0.25)
    for _ in range(3):
        optimizer.step(closure)
    before = x.detach().clone()

    def broken() -> Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(broken)
    assert torch.equal(x.detach(), before)


def test_noise_is_noticed_once() -> None:
    noise = torch.Generator().manual_seed(3)

    def noisy(x: Tensor) -> Tensor:
        return half_square(x) + 10 * torch.randn((), generator=noise, dtype=F64).abs()

    _, optimizer, closure = descent(noisy, torch.ones(5, dtype=F64), lr=0.5)

    def steps() -> None:
        for _ in range(300):
            optimizer.step(closure)

    with pytest.warns(UserWarning, match="gave two losses for one point"):
        steps()
    assert not optimizer.status.deterministic


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": 0.0}, "lr must be positive and finite, got 0"),
        ({"lr": 1.0, "momentum": "none"}, "momentum must be 'nesterov' or 'heavy-ball', got 'none'"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        descent(half_square, ONE, **settings)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FixedRestart(theta=1.5, radius=1), r"theta must be in \(0, 1\], got 1.5"),
        (lambda: FixedRestart(theta=0.5, radius=0), "radius must be positive"),
        (lambda: FixedRestart(theta=0.5, radius=1, steps=0), "steps must be at least 1"),
        (lambda: AdaptiveRestart(eps=-1), "eps must be positive and finite, got -1"),
        (lambda: AdaptiveRestart(rho=math.nan), "rho must be positive"),
        (lambda: AdaptiveRestart(accept_tol=-1), "accept_tol must not be negative"),
        (lambda: theory_parameters(0, 1, 1e-3), "lipschitz must be positive"),
        (lambda: theory_parameters(1, 1, 0.1), r"eps must be below L\^2 / \(16 rho\) = 0.0625"),
    ],
)
def test_bad_rules_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_what_cannot_be_stepped_is_refused() -> None:
    x, optimizer, _ = descent(half_square, ONE, lr=0.25)
    with pytest.raises(ValueError, match="step needs a closure"):
        optimizer.step()
    with pytest.raises(ValueError, match=r"must return one real number, got shape \(2,\)"):
        optimizer.step(lambda: torch.ones(2))
    with pytest.raises(ValueError, match="not finite at the start"):
        optimizer.step(lambda: torch.tensor(math.nan))
    with pytest.raises(ValueError, match="no status before the first step"):
        _ = optimizer.status
    with pytest.raises(ValueError, match="give the real and imaginary part"):
        RestartedAGD([torch.nn.Parameter(torch.ones(2, dtype=torch.complex64))], lr=0.1)
    with pytest.raises(ValueError, match="not the state of a RestartedAGD"):
        optimizer.load_state_dict(torch.optim.SGD([x], lr=0.1).state_dict())
    with pytest.warns(UserWarning, match="there is no momentum and this is gradient descent"):
        RestartedAGD([x], lr=0.25, restart=AdaptiveRestart(eps=1e4, rho=1e4))
