import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from pellucid.core import Stream
from pellucid.optim import METHODS, AdaptiveRestart, Completion, RestartedAGD, minimize

F64 = torch.float64


def rosenbrock(x: Tensor) -> Tensor:
    return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2


def bowl(x: Tensor) -> Tensor:
    return (torch.tensor([1.0, 4.0, 25.0], dtype=F64) * (x - 2).square()).sum() / 2


@pytest.mark.parametrize("method", METHODS)
def test_every_method_finds_the_bottom_of_a_bowl_and_counts(method: str) -> None:
    calls = 0

    def counted(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return bowl(x)

    found = minimize(counted, torch.zeros(3, dtype=F64), method=method, tol=1e-8)  # type: ignore[arg-type]
    assert found.success
    assert_close(found.x, torch.full((3,), 2.0, dtype=F64), atol=1e-7, rtol=0)
    assert found.n_gradients == calls == len(found.trace.loss) == len(found.trace.grad_norm)
    x = found.x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(bowl(x), x)
    assert float(slope.norm()) == pytest.approx(found.grad_norm)
    assert found.grad_norm <= 1e-8
    assert "within the tolerance" in found.message


def test_it_says_when_another_method_serves_better() -> None:
    found = minimize(rosenbrock, torch.tensor([-1.2, 1.0], dtype=F64), tol=1e-6)
    assert found.method == "l-bfgs"
    assert "L-BFGS reached the tolerance in" in found.message


def test_the_winner_of_the_trial_goes_on_and_both_losses_are_told() -> None:
    found = minimize(rosenbrock, torch.tensor([-1.2, 1.0], dtype=F64), tol=1e-9, max_gradients=200)
    assert "Losses after a trial of 20 gradients each: L-BFGS" in found.message
    assert "went on with" in found.message
    assert found.n_gradients <= 200


def test_the_step_is_found_from_the_curvature() -> None:
    found = minimize(bowl, torch.zeros(3, dtype=F64), method="gd", tol=1e-8)
    assert found.lr == pytest.approx(1 / 25, rel=0.1)


def test_a_spent_allowance_gives_the_least_loss_and_says_so() -> None:
    found = minimize(rosenbrock, torch.tensor([-1.2, 1.0], dtype=F64), method="gd", max_gradients=30, lr=1e-3)
    assert not found.success
    assert found.n_gradients == 30
    assert found.fun == min(found.trace.loss)
    assert "all of max_gradients is spent" in found.message


def test_a_step_that_is_too_large_is_named_for_plain_descent_and_mended_by_restarts() -> None:
    start = torch.zeros(3, dtype=F64)
    assert "the step 1 is too large" in minimize(bowl, start, method="gd", lr=1.0).message
    found = minimize(bowl, start, method="ragd", lr=1.0)
    assert found.success
    assert found.rejections > 0
    assert found.lr is not None
    assert found.lr < 2 / 25


def test_the_form_of_the_start_comes_back() -> None:
    def fun(x: dict[str, Tensor]) -> Tensor:
        return (x["a"] - 1).square().sum() + x["b"].square().sum()

    found = minimize(fun, {"a": torch.zeros(2, 2), "b": torch.ones(())}, method="ragd", tol=1e-3)
    assert set(found.x) == {"a", "b"}
    assert found.x["a"].shape == (2, 2)
    assert found.x["b"].shape == ()
    pair = minimize(lambda x: (x[0] - x[1]).square().sum() + x[0].square().sum(), [torch.ones(3), torch.zeros(3)])
    assert isinstance(pair.x, tuple)
    assert len(pair.x) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "newton"}, "method must be one of auto, ragd, heavy-ball, gd, agd, cg, l-bfgs, got 'newton'"),
        ({"tol": 0.0}, "tol must be positive"),
        ({"max_gradients": 0}, "max_gradients must be at least 1"),
        ({"lr": -1.0}, "lr must be positive"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        minimize(bowl, torch.zeros(3, dtype=F64), **settings)  # type: ignore[arg-type]


def test_bad_problems_are_refused() -> None:
    with pytest.raises(ValueError, match="fun or its gradient is not finite at x0"):
        minimize(lambda x: x.sum() * math.nan, torch.zeros(2))
    with pytest.raises(ValueError, match="must return a tensor with one number"):
        minimize(lambda x: x, torch.zeros(2))
    with pytest.raises(ValueError, match="does not depend on x"):
        minimize(lambda x: torch.zeros(()), torch.zeros(2))
    with pytest.raises(ValueError, match="x0 must be a floating-point tensor"):
        minimize(bowl, torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="one dtype and one device"):
        minimize(bowl, [torch.zeros(3), torch.zeros(3, dtype=F64)])


def planted(rng: Stream, m: int = 60, n: int = 80, rank: int = 3, known: float = 0.4) -> tuple[Completion, Tensor]:
    table = rng.child("u").normal((m, rank)).double() @ rng.child("v").normal((n, rank)).double().T
    rows, columns = (rng.child("known").uniform((m, n)) < known).nonzero().T
    return Completion(rows, columns, table[rows, columns], (m, n), rank=rank), table


def test_a_planted_table_is_completed(rng: Stream) -> None:
    known, table = planted(rng)
    found = minimize(known, known.start(), method="ragd", tol=1e-6, max_gradients=3000)
    u, v = found.x
    assert float((u @ v.T - table).norm() / table.norm()) < 1e-2


def test_a_step_three_times_too_large_loses_plain_descent_but_not_restarts(rng: Stream) -> None:
    known, _ = planted(rng)
    fine = minimize(known, known.start(), method="ragd", max_gradients=1000)
    assert fine.lr is not None
    wild = 20 * fine.lr
    assert "too large" in minimize(known, known.start(), method="gd", lr=wild, max_gradients=500).message
    kept = minimize(known, known.start(), method="ragd", lr=wild, max_gradients=1000)
    assert kept.fun <= 1.01 * fine.fun + 1e-6


@pytest.mark.parametrize("loss", ["squared", "logistic"])
def test_the_loss_of_a_completion_is_its_formula_and_its_gradient_is_true(rng: Stream, loss: str) -> None:
    rows, columns = torch.tensor([0, 1, 2, 2]), torch.tensor([1, 0, 2, 2])
    values = torch.tensor([1.0, -1.0, 1.0, 1.0], dtype=F64)
    known = Completion(rows, columns, values, (3, 4), rank=2, loss=loss)  # type: ignore[arg-type]
    u, v = rng.child("u").normal((3, 2)).double(), rng.child("v").normal((4, 2)).double()
    found = (u @ v.T)[rows, columns]
    fit = (found - values) ** 2 / 2 if loss == "squared" else torch.log1p(torch.exp(-values * found))
    assert_close(known((u, v)), fit.mean() + (u.T @ u - v.T @ v).norm() ** 2 / 8)
    assert torch.autograd.gradcheck(lambda a, b: known((a, b)), (u.requires_grad_(), v.requires_grad_()))


def test_the_start_is_the_best_table_of_its_rank(rng: Stream) -> None:
    table = rng.normal((6, 5)).double()
    rows, columns = torch.ones(6, 5).nonzero().T
    for rank in (2, 5):
        u, v = Completion(rows, columns, table[rows, columns], (6, 5), rank=rank).start()
        left, size, right = torch.linalg.svd(table, full_matrices=False)
        assert_close(u @ v.T, (left[:, :rank] * size[:rank]) @ right[:rank])
        assert_close(u.T @ u, v.T @ v)


NONE = torch.tensor([], dtype=torch.int64)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"values": torch.tensor([math.nan, 1.0])}, "1 of 2 values are not finite"),
        ({"rows": torch.tensor([0, 3])}, "rows must be in 0 to 2, got 0 to 3"),
        ({"columns": torch.tensor([-1, 0])}, "columns must be in 0 to 2, got -1 to 0"),
        ({"rank": 4}, "rank must be between 1 and 3"),
        ({"loss": "hinge"}, "loss must be 'squared' or 'logistic'"),
        ({"loss": "logistic"}, r"values must be \+1 or -1"),
        (
            {k: torch.tensor([], dtype=torch.int64) for k in ("rows", "columns")} | {"values": torch.tensor([])},
            "no known",
        ),
    ],
)
def test_bad_entries_are_refused(changes: dict[str, object], message: str) -> None:
    good = {"rows": torch.tensor([0, 1]), "columns": torch.tensor([0, 1]), "values": torch.tensor([2.0, 1.0])}
    arguments = {**good, "shape": (3, 3), "rank": 2, **changes}
    with pytest.raises(ValueError, match=message):
        Completion(**arguments)  # type: ignore[arg-type]


def test_a_network_on_all_of_its_data_is_an_ordinary_use() -> None:
    from sklearn.datasets import load_iris

    data = load_iris()
    x = torch.as_tensor(data.data, dtype=torch.float32)
    x, y = (x - x.mean(0)) / x.std(0), torch.as_tensor(data.target)
    with Stream(0).child("weights").forked():
        net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    optimizer = RestartedAGD(net.parameters(), lr=1.0, restart=AdaptiveRestart(eps=1e-3))

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(net(x), y)
        loss.backward()
        return loss

    for _ in range(300):
        optimizer.step(closure)
    optimizer.finish()
    assert float((net(x).argmax(1) == y).float().mean()) > 0.97


def test_a_result_shows_itself_with_its_certificate() -> None:
    found = minimize(lambda x: (x**2).sum(), torch.tensor([3.0, 4.0]), tol=1e-3)
    assert found.message in str(found)
    assert "gradient norm: " in str(found)
    assert "<svg" in found._repr_html_()
