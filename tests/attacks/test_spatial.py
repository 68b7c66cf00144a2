"""Attacks that move pixels: never weaker than their parts, honest about what they hand out, one sample at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from pellucid.attacks import (
    APGD,
    L2,
    PGD,
    Chain,
    Flow,
    FlowPenalty,
    GridSearch,
    IntegratedSpatial,
    Linf,
    RandomSearch,
    RotateTranslate,
    Spatial,
    load_perturbed,
    margin_loss,
    roughness,
    save_perturbed,
)
from pellucid.attacks._spatial import check_first
from pellucid.core import DataError, ModelError, Perturbed, Stream, margin, write_tensors

Task = Any  # of conftest.py, which cannot be imported
RIGID = RotateTranslate(20, 1.5)
GRID = GridSearch(RIGID, grid=(5, 3, 3))
WHOLE = IntegratedSpatial(0.3, 20, 1.5, steps=4, starts=4)
ATTACKS = [
    PGD(Flow(0.4), steps=4),
    PGD(RIGID, steps=4, restarts=3, loss=margin_loss),
    PGD(Chain(RIGID, Linf(0.03)), steps=4),
    RandomSearch(RIGID, draws=10),
    GRID,
    WHOLE,
]
each_attack = pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: f"{type(a).__name__}-{type(a.space).__name__}")


class Pictures(nn.Module):
    """Tells bright halves apart; turning and bending the picture matter to it."""

    def forward(self, x: Tensor) -> Tensor:
        rows = torch.linspace(-1, 1, x.shape[-2], dtype=x.dtype, device=x.device)[:, None]
        columns = torch.linspace(-1, 1, x.shape[-1], dtype=x.dtype, device=x.device)
        means = [(x * weight).mean((1, 2, 3)) for weight in (rows, -rows, columns, -columns)]
        return 40 * torch.stack(means, dim=1)


@pytest.fixture
def scene(rng: Stream) -> tuple[nn.Module, Tensor, Tensor]:
    x = rng.child("scene").uniform((24, 1, 9, 12), dtype=torch.float64)
    for row in range(12):  # clear cases: one half is brighter by far
        side = ((slice(5, 9), slice(None)), (slice(0, 4), slice(None)), (slice(None), slice(7, 12)))[row % 3]
        x[row] *= 0.5
        x[row, 0][side] += 0.02 + 0.04 * row
    model = Pictures()
    return model, x, model(x).argmax(1)


def fools(found: Perturbed, other: Perturbed) -> bool:
    """Whether `found` is at least as strong for every sample, by (success, loss)."""
    at_least = (found.success & ~other.success) | ((found.success == other.success) & (found.loss >= other.loss - 1e-9))
    return bool(at_least.all())


# -- what every attack promises ------------------------------------------------------------------------------------


@each_attack
def test_success_and_loss_are_those_of_a_second_pass(scene: Any, attack: Any, rng: Stream) -> None:
    model, x, y = scene
    found = attack(model, x, y, rng=rng)
    logits = model(found.inputs)
    assert torch.equal(found.success, logits.argmax(1) != y)
    assert_close(found.loss, attack.loss(logits, y))
    assert found.space == attack.space
    assert torch.equal(found.replay(x), found.inputs)
    assert int(found.success.sum()) > 0
    assert float(found.inputs.min()) >= 0
    assert float(found.inputs.max()) <= 1
    assert (attack.space.size(x, found.params) <= attack.space.budget * (1 + 1e-9)).all()
    assert found.evaluations <= attack.cost * len(x)


@each_attack
def test_batches_do_not_matter(scene: Any, attack: Any, rng: Stream) -> None:
    model, x, y = scene
    for made in (attack, replace(attack, early_stop=True)):
        ids = torch.arange(50, 74)
        whole = made(model, x, y, rng=rng.at(ids))
        parts = [made(model, x[r], y[r], rng=rng.at(ids[r])) for r in torch.split(torch.arange(24), 7)]
        assert torch.equal(torch.cat([part.success for part in parts]), whole.success)
        assert_close(torch.cat([part.params for part in parts]), whole.params, atol=1e-9, rtol=0)


@each_attack
def test_stopping_early_fools_the_same_samples_for_less(scene: Any, attack: Any, rng: Stream) -> None:
    model, x, y = scene
    full = attack(model, x, y, rng=rng)
    early = replace(attack, early_stop=True)(model, x, y, rng=rng)
    assert torch.equal(early.success, full.success)
    assert torch.equal(early.success, model(early.inputs).argmax(1) != y)
    assert early.evaluations < full.evaluations
    assert torch.equal(early.params[~full.success], full.params[~full.success])


@each_attack
def test_without_budget_the_pictures_come_back(scene: Any, attack: Any, rng: Stream) -> None:
    model, x, y = scene
    made = replace(attack, share=0.0) if attack is WHOLE else replace(attack, space=attack.space.scaled(0.0))
    found = made(model, x, y, rng=rng)
    assert torch.equal(found.inputs, x)
    assert not found.success.any()
    assert found.evaluations == len(x)


@each_attack
def test_a_target_is_hit_or_neared(scene: Any, attack: Any, rng: Stream) -> None:
    model, x, y = scene
    target = (y + 1) % 4
    found = attack(model, x, y, rng=rng, target=target)
    logits = model(found.inputs)
    assert torch.equal(found.success, logits.argmax(1) == target)
    assert_close(found.loss, -attack.loss(logits, target))
    assert (found.loss >= -attack.loss(model(x), target) - 0.3).all()
    assert int(found.success.sum()) > int((model(x).argmax(1) == target).sum())


@each_attack
def test_the_model_comes_back_as_it_was(task: Task, attack: Any, rng: Stream) -> None:
    model = task.model.train()
    try:
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        grads = [id(p.grad) for p in model.parameters()]
        state = torch.get_rng_state()
        found = attack(model, task.x[:8], task.y[:8], rng=rng)
        assert all(module.training for module in model.modules())
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
        assert all(p.requires_grad for p in model.parameters())
        assert [id(p.grad) for p in model.parameters()] == grads
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.equal(attack(model.eval(), task.x[:8], task.y[:8], rng=rng).success, found.success)
    finally:
        model.eval()


class Failing(nn.Module):
    """Fails at its third call, having drawn random numbers and moved its buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear, self.calls = nn.BatchNorm2d(1), nn.Linear(64, 4), 0
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen += 1
        torch.rand(1)
        if self.calls == 3:
            raise RuntimeError("out of memory")
        return self.linear(self.norm(x).flatten(1))  # type: ignore[no-any-return]


@each_attack
def test_an_error_leaves_no_trace(task: Task, attack: Any, rng: Stream) -> None:
    with rng.forked():
        model = Failing().train()
    model.linear.weight.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    big = task.x[:8].repeat(200, 1, 1, 1) if isinstance(attack, GridSearch) else task.x[:8]
    with pytest.raises(RuntimeError, match="out of memory"):
        attack(model, big, torch.zeros(len(big), dtype=torch.int64), rng=rng)
    assert model.training
    assert model.norm.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [p.requires_grad for p in model.linear.parameters()] == [False, True]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled()


@each_attack
def test_it_runs_in_inference_mode_and_in_half_precision(task: Task, attack: Any, rng: Stream) -> None:
    with torch.inference_mode():
        x, y = task.x[:6].clone(), task.y[:6].clone()
        found = attack(task.model, x, y, rng=rng)
    assert torch.equal(found.success, attack(task.model, task.x[:6], task.y[:6], rng=rng).success)
    import copy

    half = attack(copy.deepcopy(task.model).bfloat16(), task.x[:6].bfloat16(), task.y[:6], rng=rng)
    assert half.inputs.dtype == torch.bfloat16
    assert half.params.dtype == torch.float32  # in bfloat16, 0.3 px of 30 would be lost


@each_attack
def test_nan_is_an_error_that_names_the_sample(scene: Any, attack: Any, rng: Stream) -> None:
    _, x, y = scene

    def broken(x: Tensor) -> Tensor:
        z = Pictures()(x)
        return torch.where((torch.arange(len(x)) % 24 == 5)[:, None], torch.nan, z)

    with pytest.raises(ModelError, match=r"NaN or infinity.* for sample 105 under attack"):
        attack(broken, x, y, rng=rng.at(torch.arange(100, 124)))


@pytest.mark.parametrize("attack", [PGD(Flow()), GRID, WHOLE, FlowPenalty(steps=2)], ids=lambda a: type(a).__name__)
def test_tables_have_nothing_to_move(attack: Any, rng: Stream) -> None:
    with pytest.raises(DataError, match=r"only pictures .*distort other inputs by Linf or L2"):
        attack(lambda x: x, torch.rand(3, 4), torch.zeros(3, dtype=torch.int64), rng=rng)


def test_targets_must_fit(scene: Any, rng: Stream) -> None:
    model, x, y = scene
    with pytest.raises(ValueError, match=r"target must be int64 of shape \(24,\), one label per row of x"):
        PGD(Flow())(model, x, y, rng=rng, target=y[:3])


# -- the trace -----------------------------------------------------------------------------------------------------


def test_the_trace_holds_the_losses_of_the_first_ascent(scene: Any, rng: Stream) -> None:
    model, x, y = scene
    found = PGD(Flow(0.3), steps=6, step_size=0.05, restarts=2)(model, x, y, rng=rng)
    assert found.trace is not None
    assert found.trace.shape == (7, 24)
    assert (found.trace.diff(dim=0) > -1e-9).all()  # small steps on a model that is linear in the pixels
    early = PGD(Flow(0.3), steps=6, step_size=0.05, early_stop=True)(model, x, y, rng=rng)
    assert early.trace is not None
    gone = early.trace.isnan()
    assert (gone.any(0) == early.success).logical_or(early.success & ~gone.any(0)).all()
    assert_close(early.trace[~gone], found.trace[: len(early.trace)][~gone])
    assert RandomSearch(Flow(0.3))(model, x, y, rng=rng).trace is None


# -- grid search ---------------------------------------------------------------------------------------------------


def test_a_larger_grid_is_never_weaker(scene: Any, rng: Stream) -> None:
    model, x, y = scene
    small = GridSearch(RIGID, grid=(3, 3, 3))(model, x, y, rng=rng)
    large = GridSearch(RIGID, grid=(5, 5, 5))(model, x, y, rng=rng)  # holds every candidate of the small one
    assert fools(large, small)
    both = small.success | GridSearch(RIGID, grid=(3, 1, 1))(model, x, y, rng=rng).success
    assert (large.success | ~both).all()


def test_the_grid_is_as_strong_as_its_strongest_candidate(scene: Any, rng: Stream) -> None:
    """One by one, without any of the search's shortcuts."""
    model, x, y = scene
    found = GRID(model, x, y, rng=rng)
    turned = torch.cartesian_prod(*(torch.linspace(-m, m, c).double() for m, c in ((20, 5), (1.5, 3), (1.5, 3))))
    angle, down, right = turned[:, 0].deg2rad(), turned[:, 1], turned[:, 2]  # shifted first: the shift is turned too
    moved = (angle.cos() * down - angle.sin() * right, angle.sin() * down + angle.cos() * right)
    tried = torch.cat([turned, torch.stack([turned[:, 0], *moved], dim=1)])
    answers = [model(RIGID.render(x, p.expand(24, 3))) for p in tried]
    wrong = torch.stack([z.argmax(1) != y for z in answers])
    loss = torch.stack([GRID.loss(z, y) for z in answers])
    assert torch.equal(found.success, wrong.any(0))
    assert_close(found.loss, torch.where(wrong == wrong.any(0), loss, -torch.inf).amax(0))


def test_staying_in_place_is_always_tried(rng: Stream) -> None:
    for grid in ((5, 3, 3), (4, 2, 2), (1, 1, 1)):
        tried = GridSearch(replace(RIGID, first="turn"), grid=grid).candidates()
        assert tried[0].tolist() == [0, 0, 0]
        assert GridSearch(RIGID, grid=grid).candidates()[0].tolist() == [0, 0, 0]
        assert len(tried) in (grid[0] * grid[1] * grid[2], grid[0] * grid[1] * grid[2] + 1)
        assert len(tried.unique(dim=0)) == len(tried)
    assert len(GridSearch(RotateTranslate(first="turn")).candidates()) == 775
    assert len(GridSearch(RotateTranslate(first="shift")).candidates()) == 775
    assert len(GridSearch().candidates()) == 775 + 30 * 24  # both orders are one without a turn or without a shift
    still = GridSearch(RotateTranslate(30, 0.0), grid=(3, 5, 5)).candidates()
    assert still[:, 1:].abs().max() == 0


@pytest.mark.parametrize("space", [RIGID, Flow(0.3), Spatial(0.3, 20, 1.5)], ids=lambda s: type(s).__name__)
def test_an_input_that_is_wrong_already_counts(scene: Any, space: Any, rng: Stream) -> None:
    """Labels are wrong for every picture that is not moved, and right once it is."""
    model, x, y = scene
    for attack in (PGD(space, steps=2), PGD(space, steps=2, start="zero"), APGD(space, steps=3)):

        def moved(z: Tensor) -> Tensor:
            same = torch.stack([(z - each).abs().amax((1, 2, 3)) for each in x], dim=1).amin(1) == 0
            answers = model(z)
            right = F.one_hot(y[:1], 4).to(answers) + 0 * answers
            return torch.where(same[:, None], right.roll(1, 1), right)

        found = attack(moved, x[:8], y[:1].expand(8), rng=rng)
        assert found.success.all()
        assert found.evaluations <= attack.cost * 8


def test_either_order_finds_what_each_alone_finds(scene: Any, rng: Stream) -> None:
    model, x, y = scene
    either, turn, shift = (
        GridSearch(RotateTranslate(30, 1.0, first=first), grid=(7, 3, 3)) for first in ("either", "turn", "shift")
    )
    whole = either(model, x, y, rng=rng)
    assert fools(whole, turn(model, x, y, rng=rng))
    assert fools(whole, shift(model, x, y, rng=rng))
    assert len(either.candidates()) == len(turn.candidates()) + 6 * 8


def test_shifting_first_is_another_turn_with_a_shift(rng: Stream) -> None:
    """By a quarter: a shift down before a turn to the left is one to the right after it."""
    x = rng.uniform((1, 1, 7, 7), dtype=torch.float64)
    space = RotateTranslate(90, 2.0, first="shift")
    params = torch.tensor([[90.0, 0.0, 2.0]], dtype=torch.float64)
    counted, first = space.counted(params)
    assert_close(counted, torch.tensor([[2.0, 0.0]], dtype=torch.float64), atol=1e-12, rtol=0)
    assert first.all()
    down = torch.zeros_like(x)
    down[..., 2:, :] = x[..., :-2, :]
    assert_close(space.render(x, params), torch.rot90(down, 1, (-2, -1)), atol=1e-12, rtol=0)


@pytest.mark.parametrize("first", ["turn", "shift", "either"])
def test_corners_of_the_other_square(first: Any, rng: Stream) -> None:
    """Shifted by (1, 1), then turned by 45 degrees, the picture lies sqrt(2) away in one direction."""
    x = rng.uniform((1, 1, 9, 9), dtype=torch.float64)
    space = RotateTranslate(45, 1.0, first=first)
    corner = torch.tensor([[45.0, 0.0, 2**0.5]], dtype=torch.float64)  # its shift before the turn is (1, 1)
    edge = torch.tensor([[45.0, 1.0, 1.0]], dtype=torch.float64)
    assert_close(space.size(x, corner), torch.tensor([2**0.5 if first == "turn" else 1.0], dtype=torch.float64))
    assert_close(space.size(x, edge), torch.tensor([2**0.5 if first == "shift" else 1.0], dtype=torch.float64))
    kept = space.project(x, corner), space.project(x, edge)
    assert torch.equal(kept[0], corner) == (first != "turn")
    assert torch.equal(kept[1], edge) == (first != "shift")
    far = space.project(x, torch.tensor([[30.0, 7.0, -2.0]], dtype=torch.float64))
    assert torch.equal(space.project(x, far), far)
    assert float(space.size(x, far)) <= 1
    drawn = space.sample(x.expand(50, 1, 9, 9), rng)
    assert (space.size(x, drawn) <= 1).all()
    assert torch.equal(space.project(x, drawn), drawn)


def test_orders_are_known_by_name() -> None:
    with pytest.raises(ValueError, match="first must be one of turn, shift, either, got 'both'"):
        check_first("both")


def test_a_failing_search_returns_its_best_candidate(rng: Stream) -> None:
    """Some libraries return black pictures where nothing was found."""
    x = rng.uniform((4, 1, 6, 6), low=0.4, high=0.6)

    def stubborn(x: Tensor) -> Tensor:
        return torch.stack([9 + 0 * x.mean((1, 2, 3)), x.mean((1, 2, 3))], dim=1)

    found = GRID(stubborn, x, torch.zeros(4, dtype=torch.int64), rng=rng)
    assert not found.success.any()
    assert (found.inputs.mean((1, 2, 3)) >= x.mean((1, 2, 3)) - 1e-6).all()


def test_a_sweep_tells_what_each_candidate_does(scene: Any, rng: Stream) -> None:
    model, x, y = scene
    sweep = GRID.sweep(model, x, y, rng=rng)
    assert sweep.success.shape == sweep.loss.shape == (77, 24)
    assert sweep.evaluations == 77 * 24
    found = GRID(model, x, y, rng=rng)
    assert torch.equal(sweep.success.any(0), found.success)
    number = 7
    logits = model(RIGID.render(x, sweep.params[number].expand(24, 3)))
    assert torch.equal(sweep.success[number], logits.argmax(1) != y)
    assert_close(sweep.loss[number], GRID.loss(logits, y))


def test_past_success_saves_evaluations(scene: Any, rng: Stream) -> None:
    model, x, y = scene
    early = replace(GRID, early_stop=True)
    ordered = early.ordered_by(early.sweep(model, x[:12], y[:12], rng=rng))
    assert sorted(ordered.candidates().tolist()) == sorted(early.candidates().tolist())
    plain, better = early(model, x[12:], y[12:], rng=rng), ordered(model, x[12:], y[12:], rng=rng)
    assert torch.equal(plain.success, better.success)
    assert better.evaluations <= plain.evaluations
    with pytest.raises(ValueError, match="of 77 candidates but the grid has 43"):
        GridSearch(RIGID, grid=(3, 3, 3)).ordered_by(early.sweep(model, x[:2], y[:2], rng=rng))
    with pytest.raises(ValueError, match="permutation of the 77 candidates"):
        replace(GRID, order=(0, 1))


def test_grids_have_candidates() -> None:
    with pytest.raises(ValueError, match="three counts of at least 1"):
        GridSearch(grid=(0, 5, 5))


# -- the integrated attack -----------------------------------------------------------------------------------------


def test_it_is_never_weaker_than_its_parts(scene: Any, rng: Stream) -> None:
    model, x, y = scene
    bent = PGD(Flow(0.3), steps=5)(model, x, y, rng=rng)
    turned = GRID(model, x, y, rng=rng)
    whole = WHOLE(model, x, y, rng=rng, starts=(bent.params, turned.params))
    assert fools(whole, bent)
    assert fools(whole, turned)
    assert fools(WHOLE(model, x, y, rng=rng, start=whole.params), whole)
    assert int(whole.success.sum()) >= int((bent.success | turned.success).sum())
    assert 0 < int(bent.success.sum()) < int(whole.success.sum()) <= 24


def test_starts_are_known_by_their_shape(scene: Any, rng: Stream) -> None:
    model, x, y = scene
    with pytest.raises(
        DataError, match=r"RotateTranslate \(24, 3\), of Flow \(24, 2, 9, 12\) or of Spatial \(24, 219\)"
    ):
        WHOLE(model, x, y, rng=rng, start=torch.zeros(24, 4))


def test_starts_are_brought_into_the_budget(scene: Any, rng: Stream) -> None:
    model, x, y = scene
    found = WHOLE(model, x, y, rng=rng, start=torch.full((24, 3), 90.0))
    assert (WHOLE.space.size(x, found.params) <= 1).all()


@pytest.mark.parametrize("settings", [{"steps": -1}, {"starts": -1}])
def test_settings_out_of_range(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be at least 0, got -1"):
        IntegratedSpatial(**settings)  # type: ignore[arg-type]


# -- flows with a penalty ------------------------------------------------------------------------------------------


def test_it_finds_smooth_flows_that_fool(scene: Any, rng: Stream) -> None:
    model, x, y = scene
    found = FlowPenalty(steps=60)(model, x, y, rng=rng)
    assert int(found.success.sum()) >= 16
    assert torch.equal(found.success, model(found.inputs).argmax(1) != y)
    margins = margin(model(found.inputs), y)
    objective = margins.clamp(min=0) + 0.05 * roughness(found.params)
    assert_close(found.loss, -objective)
    weak = FlowPenalty(steps=60, tau=1e-4)(model, x, y, rng=rng)
    assert roughness(found.params).mean() < roughness(weak.params).mean()
    sure = FlowPenalty(steps=60, kappa=1.0)(model, x, y, rng=rng)
    assert (margin(model(sure.inputs), y).mean()) < margins.mean()


def test_each_sample_ends_by_itself(scene: Any, rng: Stream) -> None:
    model, x, y = scene
    attack = FlowPenalty(steps=60)
    whole = attack(model, x, y, rng=rng)
    one = attack(model, x[3:4], y[3:4], rng=rng)
    assert_close(one.params[0], whole.params[3], atol=1e-9, rtol=0)
    assert whole.evaluations < attack.cost * 24


def test_a_target_by_a_smooth_flow(scene: Any, rng: Stream) -> None:
    model, x, y = scene
    target = (y + 1) % 4
    found = FlowPenalty(steps=80, tau=0.01)(model, x, y, rng=rng, target=target)
    assert int(found.success.sum()) >= 16
    assert torch.equal(found.success, model(found.inputs).argmax(1) == target)


def test_the_flow_of_zero_has_a_slope() -> None:
    flow = torch.zeros(1, 2, 4, 5, requires_grad=True)
    (grad,) = torch.autograd.grad(roughness(flow).sum(), flow)
    assert torch.equal(grad, torch.zeros_like(grad))
    step = torch.zeros(1, 2, 4, 5)
    step[..., 2:, :] = 3.0  # one edge between rows, five pairs counted twice, each 3 * sqrt(2)
    assert_close(roughness(step), torch.tensor([10 * 18**0.5]), atol=1e-2, rtol=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tau": -1.0}, "tau must be a finite number of at least 0, got -1.0"),
        ({"kappa": float("nan")}, "kappa must be a finite number"),
        ({"steps": -1}, "steps must be at least 0"),
        ({"step_px": 0.0}, "step_px must be a positive number of pixels"),
    ],
)
def test_penalties_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FlowPenalty(**settings)


# -- on disk -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "space",
    [
        Linf(0.1),
        L2(0.3, bounds=None, scale=torch.linspace(0.5, 1, 12)),
        Flow(0.2, padding="border"),
        RotateTranslate(10, 1, share=0.5),
        Spatial(),
        Chain(RotateTranslate(first="shift"), Chain(Flow(), Linf(0.1, scale=torch.ones(9, 12))), share=0.5),
    ],
    ids=lambda space: type(space).__name__,
)
def test_what_was_found_can_be_kept(scene: Any, space: Any, rng: Stream, tmp_path: Path) -> None:
    model, x, y = scene
    found = PGD(space, steps=2)(model, x, y, rng=rng)
    save_perturbed(tmp_path / "found.safetensors", found)
    again = load_perturbed(tmp_path / "found.safetensors")
    assert again.space == space
    assert torch.equal(again.replay(x), found.inputs)
    assert again.evaluations == found.evaluations
    for name in ("inputs", "params", "success", "loss", "zero_gradients", "trace"):
        assert torch.equal(getattr(again, name), getattr(found, name))


def test_other_files_are_no_results(scene: Any, rng: Stream, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    write_tensors(path, {"x": torch.zeros(2)})
    with pytest.raises(DataError, match="holds no result of an attack; write one by save_perturbed"):
        load_perturbed(path)
    model, x, y = scene
    found = PGD(Linf(0.1), steps=1)(model, x, y, rng=rng)
    save_perturbed(path, found)
    path.write_bytes(path.read_bytes().replace(b"linf", b"l999"))
    with pytest.raises(DataError, match="an attack in an unknown space"):
        load_perturbed(path)
    with pytest.raises(DataError, match="no space to be written"):
        save_perturbed(path, replace(found, space=None))
    with pytest.raises(DataError, match="cannot be replayed"):
        replace(found, space=None).replay(x)
    with pytest.raises(DataError, match="x has 3 rows but 24 samples were attacked"):
        found.replay(x[:3])


# -- on a network --------------------------------------------------------------------------------------------------


def test_a_chain_uses_both_of_its_parts(task: Task, rng: Stream) -> None:
    both = PGD(Chain(RIGID, Linf(0.03)), steps=10)(task.model, task.x, task.y, rng=rng)
    one = PGD(Linf(0.03), steps=10)(task.model, task.x, task.y, rng=rng)
    assert int(both.success.sum()) > int(one.success.sum())
    turn, noise = Chain(RIGID, Linf(0.03)).split(task.x, both.params)
    assert float(turn.abs().mean()) > 0.1
    assert_close(both.inputs, Linf(0.03).render(RIGID.render(task.x, turn), noise))


def test_gradients_follow_flows_on_a_network(task: Task, rng: Stream) -> None:
    climbed = PGD(Flow(0.5))(task.model, task.x, task.y, rng=rng)
    drawn = RandomSearch(Flow(0.5))(task.model, task.x, task.y, rng=rng)
    assert int(climbed.success.sum()) > int(drawn.success.sum()) + 10


def test_cross_entropy_alone_would_pick_worse(scene: Any, rng: Stream) -> None:
    """The candidate of highest cross-entropy is not always one that fools."""
    model, x, y = scene
    sweep = GRID.sweep(model, x, y, rng=rng)
    by_loss = sweep.success.gather(0, sweep.loss.argmax(0)[None])[0]
    assert int(by_loss.sum()) <= int(GRID(model, x, y, rng=rng).success.sum())
    assert F.relu(sweep.loss).isfinite().all()
