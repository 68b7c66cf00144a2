"""PGD: closed forms on linear models, honest reports, and a model given back as it was."""

from __future__ import annotations

import copy
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from pellucid.attacks import L2, LOSSES, PGD, Linf, RandomSearch, cross_entropy, log_odds_loss, margin_loss
from pellucid.core import DataError, ModelError, Perturbed, Space, Stream

Task = Any  # of conftest.py, which cannot be imported
SPACES: list[Space] = [Linf(0.1), L2(0.5)]
ATTACKS = [
    PGD(Linf(0.1)),
    PGD(L2(0.5), steps=7, restarts=2, start="zero", loss=margin_loss),
    RandomSearch(Linf(0.1), draws=5),
    RandomSearch(L2(0.5), draws=5),
]
each_space = pytest.mark.parametrize("space", SPACES, ids=lambda s: type(s).__name__)
each_attack = pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: f"{type(a).__name__}-{type(a.space).__name__}")


def linear(w: Tensor, b: float) -> nn.Module:
    """A binary classifier whose margin is w x + b."""
    model = nn.Linear(len(w), 2).to(w.dtype)
    with torch.no_grad():
        model.weight.copy_(torch.stack([w, torch.zeros_like(w)]))
        model.bias.copy_(torch.tensor([b, 0.0]))
    return model


# -- closed forms -------------------------------------------------------------------------------------------------


def test_linf_worst_case_of_a_linear_model(rng: Stream) -> None:
    w = rng.child("w").normal((1, 9), dtype=torch.float64)[0]
    x = rng.child("x").uniform((20, 9), dtype=torch.float64)
    found = PGD(Linf(0.05))(linear(w, 3.0), x, torch.zeros(20, dtype=torch.int64), rng=rng)
    assert_close(found.inputs, (x - 0.05 * w.sign()).clamp(0, 1))


def test_l2_worst_case_of_a_linear_model(rng: Stream) -> None:
    w = rng.child("w").normal((1, 9), dtype=torch.float64)[0]
    x = rng.child("x").uniform((20, 9), dtype=torch.float64)
    found = PGD(L2(0.3, bounds=None), step_size=1.0)(linear(w, 3.0), x, torch.zeros(20, dtype=torch.int64), rng=rng)
    assert_close(found.inputs, x - 0.3 * w / w.norm(), atol=1e-4, rtol=0)


def test_l2_worst_case_inside_bounds(rng: Stream) -> None:
    """The best point of ball and box moves along clip(-c w): the elements that can still move take up the length."""
    w = rng.child("w").normal((1, 9), dtype=torch.float64)[0]
    x = rng.child("x").uniform((20, 9), dtype=torch.float64)
    space = L2(0.6)
    found = PGD(space, step_size=1.0)(linear(w, 3.0), x, torch.zeros(20, dtype=torch.int64), rng=rng)
    best = space.project(x, (-1e6 * w).expand(20, 9))
    assert_close(found.params @ w, best @ w, atol=1e-3, rtol=0)


@pytest.mark.parametrize("loss", sorted(LOSSES))
@each_space
def test_the_gradient_is_that_of_finite_differences(task: Task, space: Space, loss: str, rng: Stream) -> None:
    from pellucid.attacks._candidates import Candidates

    model, x, y = task.model.double(), task.x[:3].double(), task.y[:3]
    try:
        found = Candidates(model, space, LOSSES[loss], x, y, rng)
        params = space.sample(x, rng)
        grad = found.slope(params)
        step = 1e-6 * rng.child("step").normal(x.shape, dtype=torch.float64)
        with torch.no_grad():
            rise = [LOSSES[loss](model(x + params + sign * step), y) for sign in (1, -1)]
        assert_close((grad * step).flatten(1).sum(1), (rise[0] - rise[1]) / 2, rtol=1e-4, atol=1e-12)
    finally:
        model.float()


# -- what is promised ----------------------------------------------------------------------------------------------


@each_attack
def test_success_and_loss_are_those_of_the_returned_inputs(task: Task, attack: Any, rng: Stream) -> None:
    found = attack(task.model, task.x, task.y, rng=rng)
    logits = task.model(found.inputs)
    assert torch.equal(found.success, logits.argmax(1) != task.y)
    assert_close(found.loss, attack.loss(logits, task.y))
    assert torch.equal(attack.space.render(task.x, found.params), found.inputs)
    assert 0 < int(found.success.sum()) < len(task.x)


@each_attack
def test_budget_and_bounds_hold(task: Task, attack: Any, rng: Stream) -> None:
    found = attack(task.model, task.x, task.y, rng=rng)
    eps = attack.space.eps
    assert (attack.space.size(task.x, found.inputs - task.x) <= eps + 1e-6).all()
    assert float(found.inputs.min()) >= 0
    assert float(found.inputs.max()) <= 1


@each_attack
def test_evaluations_are_those_promised_and_those_made(task: Task, attack: Any, rng: Stream) -> None:
    seen = 0

    def counting(x: Tensor) -> Tensor:
        nonlocal seen
        seen += len(x)
        return task.model(x)  # type: ignore[no-any-return]

    found = attack(counting, task.x[:10], task.y[:10], rng=rng)
    backward = attack.restarts * attack.steps * 10 if isinstance(attack, PGD) else 0
    assert (attack.cost - 2) * 10 <= found.evaluations == seen + backward <= attack.cost * 10


@each_attack
@pytest.mark.parametrize("size", [1, 7])
def test_batch_size_does_not_matter(task: Task, attack: Any, size: int, rng: Stream) -> None:
    model, x, y = task.model.double(), task.x[:21].double(), task.y[:21]
    ids = torch.arange(100, 121)
    try:
        whole = attack(model, x, y, rng=rng.at(ids))
        parts = [attack(model, x[rows], y[rows], rng=rng.at(ids[rows])) for rows in torch.split(torch.arange(21), size)]
    finally:
        model.float()
    assert torch.equal(torch.cat([part.success for part in parts]), whole.success)
    assert_close(torch.cat([part.loss for part in parts]), whole.loss, atol=1e-6, rtol=1e-6)
    assert_close(torch.cat([part.params for part in parts]), whole.params, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "attack",
    [PGD(Linf(0.0)), PGD(L2(0.0)), PGD(Linf(0.1), steps=0), RandomSearch(L2(0.0))],
    ids=["linf", "l2", "no steps", "search"],
)
def test_without_budget_or_steps_the_inputs_come_back(task: Task, attack: Any, rng: Stream) -> None:
    found = attack(task.model, task.x, task.y, rng=rng)
    assert torch.equal(found.inputs, task.x)
    assert torch.equal(found.success, task.model(task.x).argmax(1) != task.y)
    assert found.evaluations == len(task.x) == attack.cost * len(task.x)


@each_space
def test_more_effort_is_never_weaker(task: Task, space: Space, rng: Stream) -> None:
    """The first restart is the single run, and the best of all is kept."""
    one = PGD(space, steps=3)(task.model, task.x, task.y, rng=rng)
    three = PGD(space, steps=3, restarts=3)(task.model, task.x, task.y, rng=rng)
    assert not (one.success & ~three.success).any()
    assert (three.loss[one.success == three.success] >= one.loss[one.success == three.success] - 1e-6).all()


@each_space
def test_gradients_beat_random_search_on_an_honest_network(task: Task, space: Space, rng: Stream) -> None:
    climbed = PGD(space)(task.model, task.x, task.y, rng=rng)
    drawn = RandomSearch(space)(task.model, task.x, task.y, rng=rng)
    assert int(climbed.success.sum()) > int(drawn.success.sum()) + 10


def test_a_given_start_is_used_and_projected(task: Task, rng: Stream) -> None:
    best = PGD(Linf(0.05))(task.model, task.x, task.y, rng=rng)
    weak = PGD(Linf(0.1), steps=1, step_size=1e-6)
    cold = weak(task.model, task.x, task.y, rng=rng)
    warm = weak(task.model, task.x, task.y, rng=rng, start=10 * best.params)
    assert int(warm.success.sum()) > int(cold.success.sum()) + 20
    assert (Linf(0.1).size(task.x, warm.params) <= 0.1 + 1e-6).all()
    searched = RandomSearch(Linf(0.05), draws=1)(task.model, task.x, task.y, rng=rng, start=best.params)
    assert_close(searched.params, best.params)


def test_start_zero_begins_at_the_input(task: Task, rng: Stream) -> None:
    attack = PGD(Linf(0.1), steps=1, step_size=1e-9, start="zero")
    assert float(attack(task.model, task.x, task.y, rng=rng).params.abs().max()) <= 1e-9


def test_zero_gradients_are_counted(rng: Stream) -> None:
    """A model that rounds its input gives no slope anywhere; the second sample is passed through."""

    class Rounding(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            z = torch.where(torch.arange(len(x))[:, None] == 0, (x - x.detach()) * 0 + x.detach().round(), x)
            return torch.stack([z.sum(1), -z.sum(1)], dim=1)

    found = PGD(Linf(0.1), steps=6)(Rounding(), torch.full((2, 3), 0.7), torch.zeros(2, dtype=torch.int64), rng=rng)
    assert found.zero_gradients.tolist() == [6, 0]


def test_saturated_logits_do_not_stop_the_attack(task: Task, rng: Stream) -> None:
    """Logits 10 times as large are the classical way to look robust: the cross-entropy's gradient rounds to zero."""

    class Loud(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 10 * task.model(x)  # type: ignore[no-any-return]

    plain = PGD(Linf(0.1))(task.model, task.x, task.y, rng=rng)
    loud = PGD(Linf(0.1), loss=log_odds_loss)(Loud(), task.x, task.y, rng=rng)
    assert abs(int(plain.success.sum()) - int(loud.success.sum())) <= 4
    assert int(loud.zero_gradients.sum()) == 0


# -- a borrowed model ----------------------------------------------------------------------------------------------


def footprint(model: nn.Module) -> dict[str, Any]:
    return {
        "state": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "training": [module.training for module in model.modules()],
        "requires_grad": [parameter.requires_grad for parameter in model.parameters()],
        "grad": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "hooks": [len(module._forward_hooks) + len(module._backward_hooks) for module in model.modules()],
        "random": (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()),  # type: ignore[index] # noqa: NPY002
    }


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def in_training(task: Task) -> nn.Module:
    """A copy with mixed flags, a frozen parameter and a gradient, as in the middle of a training step."""
    model = copy.deepcopy(task.model).train()
    model[2].eval()
    model[0].bias.requires_grad_(False)
    nn.functional.cross_entropy(model(task.x[:5]), task.y[:5]).backward()
    return model


@each_attack
def test_the_model_comes_back_as_it_was(task: Task, attack: Any, rng: Stream) -> None:
    model = in_training(task)
    x, y = task.x[:20].clone(), task.y[:20].clone()
    before = footprint(model)
    found = attack(model, x, y, rng=rng)
    assert same(footprint(model), before)
    assert torch.equal(x, task.x[:20])
    expected = attack(copy.deepcopy(model).eval(), x, y, rng=rng)  # no dropout, running statistics
    assert torch.equal(found.success, expected.success)
    assert not found.inputs.requires_grad
    assert not found.loss.requires_grad


@each_attack
def test_the_model_comes_back_as_it_was_after_an_error(task: Task, attack: Any, rng: Stream) -> None:
    model = in_training(task)
    calls = 0

    def failing(module: nn.Module, arguments: Any, output: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise RuntimeError("out of memory")
        return output

    with model[6].register_forward_hook(failing):
        before = footprint(model)
        with pytest.raises(RuntimeError, match="out of memory"):
            attack(model, task.x, task.y, rng=rng)
        assert same(footprint(model), before)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_runs_inside_no_grad_blocks(task: Task, mode: Any, rng: Stream) -> None:
    with mode():
        x = task.x.clone()
        found = PGD(Linf(0.1))(task.model, x, task.y.clone(), rng=rng)
    assert_close(found.loss, PGD(Linf(0.1))(task.model, task.x, task.y, rng=rng).loss)


def test_inputs_that_need_gradients_are_cut_loose(task: Task, rng: Stream) -> None:
    x = task.x[:4].clone().requires_grad_()
    found = PGD(Linf(0.1), steps=2)(task.model, x, task.y[:4], rng=rng)
    assert not found.inputs.requires_grad
    assert x.grad is None


# -- precision -----------------------------------------------------------------------------------------------------


def test_autocast_forward_with_precise_parameters(task: Task, rng: Stream) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        found = PGD(Linf(0.1))(task.model, task.x, task.y, rng=rng)
        assert torch.equal(found.success, task.model(found.inputs).argmax(1) != task.y)
    assert found.params.dtype == found.inputs.dtype == torch.float32
    plain = PGD(Linf(0.1))(task.model, task.x, task.y, rng=rng)
    assert abs(int(found.success.sum()) - int(plain.success.sum())) <= 10


def test_a_model_wholly_in_half_precision(task: Task, rng: Stream) -> None:
    model = copy.deepcopy(task.model).bfloat16()
    found = PGD(Linf(0.1))(model, task.x.bfloat16(), task.y, rng=rng)
    assert found.inputs.dtype == torch.bfloat16
    assert found.params.dtype == torch.float32
    assert int(found.success.sum()) > 50


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@each_attack
def test_it_follows_the_model_to_the_gpu(task: Task, attack: Any, rng: Stream) -> None:
    model = copy.deepcopy(task.model).cuda()
    found = attack(model, task.x.cuda(), task.y.cuda(), rng=rng)
    assert found.inputs.is_cuda
    here: Perturbed = attack(task.model, task.x, task.y, rng=rng)
    assert abs(int(found.success.sum()) - int(here.success.sum())) <= 4


# -- bad input -----------------------------------------------------------------------------------------------------


class Broken(nn.Module):
    """Gives the wrong answer for one sample: NaN logits, or a NaN gradient with finite logits."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where

    def forward(self, x: Tensor) -> Tensor:
        z = torch.cat([x, 1 - x], dim=1)
        if self.where == "logits":
            z[2] = z[2] * torch.nan
        else:
            z[2] = z[2] + (x[2] - x[2].detach()).square().sqrt()  # the slope of a square root at 0
        return z


@pytest.mark.parametrize("where", ["logits", "gradient"])
def test_nan_is_an_error_that_names_the_sample(where: str, rng: Stream) -> None:
    x, y = torch.full((4, 1), 0.5), torch.zeros(4, dtype=torch.int64)
    with pytest.raises(ModelError, match=r"NaN or infinity.* for sample 2 under attack"):
        PGD(Linf(0.1), steps=2)(Broken(where), x, y, rng=rng)
    with pytest.raises(ModelError, match="for sample 72 under attack"):
        PGD(L2(0.1), steps=2)(Broken(where), x, y, rng=rng.at([70, 71, 72, 73]))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda x: x.sum(1), r"must return logits of shape \(2, K\) with K >= 2, got \(2,\)"),
        (lambda x: x[:1], r"must return logits of shape \(2, K\) with K >= 2, got \(1, 3\)"),
        (lambda x: x[:, :1], r"must return logits of shape \(2, K\) with K >= 2, got \(2, 1\)"),
        (lambda x: (x, x), r"must return logits of shape \(2, K\) with K >= 2, got tuple"),
        (lambda x: x.long(), "must return floating point logits, got torch.int64"),
        (lambda x: x.detach() + 1, "does not depend on its input by any gradient; use a random search"),
    ],
)
def test_models_that_cannot_be_attacked_are_explained(model: Any, message: str, rng: Stream) -> None:
    with pytest.raises(ModelError, match=message):
        PGD(Linf(0.1))(model, torch.full((2, 3), 0.5), torch.zeros(2, dtype=torch.int64), rng=rng)


@pytest.mark.parametrize(
    "y", [torch.zeros(3, dtype=torch.int64), torch.zeros(2), torch.zeros((2, 1), dtype=torch.int64)]
)
def test_labels_must_fit(y: Tensor, rng: Stream) -> None:
    with pytest.raises(ValueError, match=r"y must be int64 of shape \(2,\), one label per row of x"):
        PGD(Linf(0.1))(lambda x: x, torch.full((2, 3), 0.5), y, rng=rng)


def test_normalized_images_are_refused(task: Task, rng: Stream) -> None:
    with pytest.raises(DataError, match="attack the inputs before normalization"):
        PGD(Linf(0.1))(task.model, (task.x - 0.5) / 0.2, task.y, rng=rng)


def test_a_loss_must_be_per_sample(task: Task, rng: Stream) -> None:
    with pytest.raises(ValueError, match="one number per sample"):
        PGD(Linf(0.1), loss=lambda z, y: cross_entropy(z, y).mean())(task.model, task.x, task.y, rng=rng)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": -1}, "steps must be at least 0, got -1"),
        ({"restarts": 0}, "restarts must be at least 1, got 0"),
        ({"step_size": 0.0}, "step_size must be a positive fraction of the budget, got 0.0"),
        ({"step_size": float("nan")}, "step_size must be a positive fraction of the budget, got nan"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PGD(Linf(0.1), **settings)
