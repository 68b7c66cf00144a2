"""APGD: closed forms of linear models, steps that find their own size, targets, and results free of the batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from pellucid.attacks import APGD, L2, PGD, Flow, Linf, margin_loss
from pellucid.core import ModelError, Stream

Task = Any  # of conftest.py, which cannot be imported
SPACES = [Linf(0.05), L2(0.3)]
LOSSES = ["cross_entropy", "dlr", "dlr-targeted"]
each_space = pytest.mark.parametrize("space", SPACES, ids=["linf", "l2"])
each_loss = pytest.mark.parametrize("loss", LOSSES)


def linear(w: Tensor) -> nn.Module:
    """Four classes: the margin of class 0 is least against class 1, where it is w x + 3."""
    model = nn.Linear(len(w), 4).to(w.dtype)
    with torch.no_grad():
        model.weight.copy_(torch.stack([w, torch.zeros_like(w), w / 9, w / 5]))
        model.bias.copy_(torch.tensor([3.0, 0.0, -9.0, -8.0]))
    return model


@each_loss
@pytest.mark.parametrize("space", [Linf(0.05), L2(0.3, bounds=None)], ids=["linf", "l2"])
def test_worst_case_of_a_linear_model(space: Any, loss: str, rng: Stream) -> None:
    w = rng.child("w").normal((1, 9), dtype=torch.float64)[0]
    x = rng.child("x").uniform((8, 9), dtype=torch.float64)
    found = APGD(space, loss, steps=30)(linear(w), x, torch.zeros(8, dtype=torch.int64), rng=rng)
    # No higher margin loss is possible than along -w.
    best = space.project(x, (-1e6 * w).expand(8, 9))
    assert_close(found.params @ w, best @ w, atol=2e-3, rtol=0)


@each_loss
@each_space
def test_success_and_loss_are_those_of_the_returned_inputs(task: Task, space: Any, loss: str, rng: Stream) -> None:
    from pellucid.attacks import LOSSES as KNOWN

    attack = APGD(space, loss, steps=10)
    found = attack(task.model, task.x, task.y, rng=rng)
    logits = task.model(found.inputs)
    assert torch.equal(found.success, logits.argmax(1) != task.y)
    assert_close(found.loss, KNOWN["dlr" if loss == "dlr-targeted" else loss](logits, task.y))
    assert torch.equal(space.render(task.x, found.params), found.inputs)
    assert (space.size(task.x, found.params) <= space.eps + 1e-6).all()
    assert found.space == space
    assert found.evaluations <= attack.cost * len(task.x)
    assert found.trace is not None
    assert found.trace.shape == (11, len(task.x))


@each_space
def test_it_fools_at_least_as_often_as_pgd_of_the_same_steps(task: Task, space: Any, rng: Stream) -> None:
    ours = APGD(space, steps=30)(task.model, task.x, task.y, rng=rng)
    plain = PGD(space, steps=30)(task.model, task.x, task.y, rng=rng)
    assert int(ours.success.sum()) >= int(plain.success.sum())
    assert float(ours.loss.mean()) > float(plain.loss.mean())


@each_loss
def test_batch_size_does_not_matter(task: Task, loss: str, rng: Stream) -> None:
    model, x, y, ids = task.model.double(), task.x[:9].double(), task.y[:9], torch.arange(100, 109)
    attack = APGD(Linf(0.05), loss, steps=9, restarts=2, targets=2)
    try:
        whole = attack(model, x, y, rng=rng.at(ids))
        parts = [attack(model, x[i : i + 2], y[i : i + 2], rng=rng.at(ids[i : i + 2])) for i in range(0, 9, 2)]
    finally:
        model.float()
    assert torch.equal(torch.cat([part.success for part in parts]), whole.success)
    assert_close(torch.cat([part.loss for part in parts]), whole.loss, atol=1e-6, rtol=1e-6)


@each_loss
def test_early_stop_changes_no_success(task: Task, loss: str, rng: Stream) -> None:
    plain = APGD(Linf(0.05), loss, steps=12)(task.model, task.x, task.y, rng=rng)
    early = APGD(Linf(0.05), loss, steps=12, early_stop=True)(task.model, task.x, task.y, rng=rng)
    assert torch.equal(early.success, plain.success)
    assert early.evaluations < plain.evaluations


@each_space
def test_more_restarts_and_targets_are_never_weaker(task: Task, space: Any, rng: Stream) -> None:
    for loss, more in (("cross_entropy", {"restarts": 3}), ("dlr-targeted", {"targets": 3})):
        one = APGD(space, loss, steps=5, **({"targets": 1} if loss == "dlr-targeted" else {}))
        many = APGD(space, loss, steps=5, **more)
        found = [attack(task.model, task.x, task.y, rng=rng) for attack in (one, many)]
        assert not (found[0].success & ~found[1].success).any()


@pytest.mark.parametrize("attack", [APGD(Linf(0.0)), APGD(L2(0.0), "dlr-targeted"), APGD(Linf(0.1), steps=0)])
def test_without_budget_or_steps_the_inputs_come_back(task: Task, attack: APGD, rng: Stream) -> None:
    found = attack(task.model, task.x, task.y, rng=rng)
    assert torch.equal(found.inputs, task.x)
    assert torch.equal(found.success, task.model(task.x).argmax(1) != task.y)
    assert found.evaluations == len(task.x) == attack.cost * len(task.x)


@each_loss
def test_targets_are_reached(task: Task, loss: str, rng: Stream) -> None:
    target = (task.y + 1) % 4
    found = APGD(Linf(0.12), loss, steps=15)(task.model, task.x, task.y, rng=rng, target=target)
    assert torch.equal(found.success, task.model(found.inputs).argmax(1) == target)
    assert float(found.success.double().mean()) > 0.9


def test_a_given_start_is_used(task: Task, rng: Stream) -> None:
    best = APGD(Linf(0.05), steps=20)(task.model, task.x, task.y, rng=rng)
    warm = APGD(Linf(0.05), steps=1)(task.model, task.x, task.y, rng=rng, start=best.params)
    assert not (best.success & ~warm.success).any()


def test_any_space_will_do(task: Task, rng: Stream) -> None:
    space = Flow(1.0)
    found = APGD(space, steps=10)(task.model, task.x, task.y, rng=rng)
    assert int(found.success.sum()) > int((task.model(task.x).argmax(1) != task.y).sum()) + 10
    assert float(found.params.abs().max()) <= 1.0


def test_tables_with_a_scale(rng: Stream) -> None:
    w = rng.child("w").normal((1, 6), dtype=torch.float64)[0]
    scale = torch.tensor([0.0, 1, 10, 0.1, 2, 3], dtype=torch.float64)
    space = L2(0.5, bounds=None, scale=scale)
    x = rng.child("x").normal((5, 6), dtype=torch.float64)
    found = APGD(space, "margin", steps=30)(linear(w), x, torch.zeros(5, dtype=torch.int64), rng=rng)
    assert_close((found.params @ w), -0.5 * (w * scale).norm().expand(5), rtol=2e-3, atol=0)


def test_two_classes_have_no_dlr_loss(rng: Stream) -> None:
    x, y = torch.full((2, 2), 0.5), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="the DLR loss needs at least 3 classes, got 2; use the margin loss"):
        APGD(Linf(0.1), "dlr", steps=2)(lambda x: x, x, y, rng=rng)
    with pytest.raises(ValueError, match="the targeted DLR loss needs at least 4 classes, got 3; use the DLR loss"):
        APGD(Linf(0.1), "dlr-targeted", steps=2)(lambda x: torch.cat([x, x[:, :1]], 1), x, y, rng=rng)
    found = APGD(Linf(0.1), "margin", steps=5)(lambda x: x, x, y, rng=rng)
    assert_close(found.loss, margin_loss(found.inputs, y))
    assert found.success.all()


def test_nan_is_an_error_that_names_the_sample(rng: Stream) -> None:
    def broken(x: Tensor) -> Tensor:
        z = torch.cat([x, 1 - x, x, x], dim=1)
        z[2] = z[2] * torch.nan
        return z

    with pytest.raises(ModelError, match="for sample 72 under attack"):
        APGD(Linf(0.1), steps=2)(
            broken, torch.full((4, 1), 0.5), torch.zeros(4, dtype=torch.int64), rng=rng.at([70, 71, 72, 73])
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "dlr-targetted"}, "loss must be one of .*; did you mean dlr-targeted"),
        ({"steps": -1}, "steps must be at least 0, got -1"),
        ({"restarts": 0}, "restarts must be at least 1, got 0"),
        ({"targets": 0}, "targets must be at least 1, got 0"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        APGD(Linf(0.1), **settings)
