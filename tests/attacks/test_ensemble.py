"""Ensembles: never weaker than a member, honest about who fooled, and a stand-in for the autoattack package."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pellucid.attacks import (
    APGD,
    L2,
    PGD,
    AutoAttack,
    Ensemble,
    Flow,
    Linf,
    MinimumNormWithin,
    RandomSearch,
    Square,
    margin_loss,
    standard_ensemble,
)
from pellucid.core import DataError, MissingExtra, Perturbed, Stream

Task = Any  # of conftest.py, which cannot be imported
each_space = pytest.mark.parametrize("space", [Linf(0.05), L2(0.3)], ids=["linf", "l2"])


def members(space: Any) -> list[Any]:
    first, second = RandomSearch(space, draws=5), PGD(space, steps=3)
    return [first, second, MinimumNormWithin(space, steps=10), Square(space, queries=30)]


@each_space
def test_it_is_never_weaker_than_a_member_on_any_sample(task: Task, space: Any, rng: Stream) -> None:
    model, x, y = task.model.double(), task.x[:60].double(), task.y[:60]
    try:
        alone = [attack(model, x, y, rng=rng) for attack in members(space)]
        found = Ensemble(members(space))(model, x, y, rng=rng)
        right = model(x).argmax(1) == y
        margins = margin_loss(model(found.inputs), y)
        best = torch.stack([margin_loss(model(one.inputs), y) for one in alone]).amax(0)
    finally:
        model.float()
    assert found.found_by is not None
    for number, one in enumerate(alone):
        assert not (one.success & ~found.success).any()
        assert one.success[found.found_by == number].all()
        assert not (one.success & right & (found.found_by > number)).any()
    assert torch.equal(found.found_by == -1, ~found.success | ~right)
    assert torch.equal(found.success, torch.stack([one.success for one in alone]).any(0))
    assert bool((margins >= best - 1e-9)[~found.success].all())
    assert found.space == space


@each_space
def test_what_the_standard_ensemble_reports(task: Task, space: Any, rng: Stream) -> None:
    attack = standard_ensemble(space, 4, steps=8, queries=20)
    assert attack.names == ("apgd-cross_entropy", "apgd-dlr-targeted", "minimum-norm", "fab", "square")
    found = attack(task.model, task.x, task.y, rng=rng)
    logits = task.model(found.inputs)
    assert torch.equal(found.success, logits.argmax(1) != task.y)
    torch.testing.assert_close(found.loss, margin_loss(logits, task.y))
    assert torch.equal(space.render(task.x, found.params), found.inputs)
    assert (space.size(task.x, found.params) <= space.eps + 1e-6).all()
    assert len(task.x) < found.evaluations < attack.cost * len(task.x)
    assert int(found.success.sum()) >= int(PGD(space)(task.model, task.x, task.y, rng=rng).success.sum())


@pytest.mark.parametrize(("n_classes", "name"), [(2, "apgd-margin"), (3, "apgd-dlr"), (4, "apgd-dlr-targeted")])
def test_few_classes_get_the_loss_that_they_have(n_classes: int, name: str, rng: Stream) -> None:
    attack = standard_ensemble(Linf(0.2, bounds=None), n_classes, steps=5, queries=10)
    assert attack.names[1] == name
    x = rng.child("x").normal((6, n_classes))
    found = attack(lambda x: 9 * x, x, x.argmax(1), rng=rng)
    lead = x.topk(2, dim=1).values
    assert torch.equal(found.success, lead[:, 0] - lead[:, 1] < 0.4)


def test_the_cost_is_that_of_a_sample_that_nothing_fools(rng: Stream) -> None:
    attack = standard_ensemble(Linf(0.01), 4, steps=6, queries=15)
    model = nn.Linear(3, 4)
    with torch.no_grad():
        model.weight.copy_(1e-3 * torch.arange(12).reshape(4, 3))
        model.bias.copy_(torch.tensor([9.0, 0, 1, 2]))
    found = attack(model, torch.full((5, 3), 0.5), torch.zeros(5, dtype=torch.int64), rng=rng)
    assert not found.success.any()
    assert attack.cost * 5 - 30 <= found.evaluations <= attack.cost * 5


def test_attacks_in_different_spaces_hand_out_inputs(task: Task, rng: Stream) -> None:
    both = Ensemble([PGD(Flow(0.1), steps=3), PGD(Linf(0.05), steps=3)], names=("flow", "linf"))
    found = both(task.model, task.x, task.y, rng=rng)
    assert both.space is None
    assert found.space is None
    assert torch.equal(found.params, found.inputs)
    assert torch.equal(found.success, task.model(found.inputs).argmax(1) != task.y)
    assert set(found.found_by.tolist()) == {-1, 0, 1}  # type: ignore[union-attr]
    with pytest.raises(DataError, match="cannot be replayed"):
        found.replay(task.x)
    with pytest.raises(ValueError, match="start needs attacks that share one space"):
        both(task.model, task.x, task.y, rng=rng, start=found.params)


def test_targets_and_starts_reach_the_members(task: Task, rng: Stream) -> None:
    target = (task.y + 1) % 4
    both = Ensemble([APGD(Linf(0.1), steps=2), PGD(Linf(0.1), steps=4)])
    found = both(task.model, task.x, task.y, rng=rng, target=target)
    assert torch.equal(found.success, task.model(found.inputs).argmax(1) == target)
    assert int(found.success.sum()) > 100
    again = both(task.model, task.x, task.y, rng=rng, target=target, start=found.params)
    assert not (found.success & ~again.success).any()


def test_batch_size_does_not_matter(task: Task, rng: Stream) -> None:
    model, x, y, ids = task.model.double(), task.x[:9].double(), task.y[:9], torch.arange(100, 109)
    attack = standard_ensemble(Linf(0.05), 4, steps=4, queries=10)
    try:
        whole = attack(model, x, y, rng=rng.at(ids))
        parts = [attack(model, x[i : i + 2], y[i : i + 2], rng=rng.at(ids[i : i + 2])) for i in range(0, 9, 2)]
    finally:
        model.float()
    assert torch.equal(torch.cat([part.success for part in parts]), whole.success)
    assert torch.equal(torch.cat([part.found_by for part in parts]), whole.found_by)  # type: ignore[misc, arg-type]


def test_names_are_those_of_the_attacks_and_differ() -> None:
    assert Ensemble([PGD(Linf(0.1)), PGD(L2(0.1)), Square(L2(0.1))]).names == ("pgd-1", "pgd-2", "square")
    with pytest.raises(ValueError, match="attacks must name at least one attack"):
        Ensemble([])
    with pytest.raises(ValueError, match="names must give one name per attack: 1, got 2"):
        Ensemble([PGD(Linf(0.1))], names=("a", "b"))
    with pytest.raises(ValueError, match="n_classes must be at least 2, got 1"):
        standard_ensemble(Linf(0.1), 1)


# -- the package ---------------------------------------------------------------------------------------------------


class StandIn:
    """Behaves as the package's class does: asks the model, prints what it thinks of it, returns inputs in [0, 1]."""

    made: dict[str, Any]

    def __init__(self, model: Any, **settings: Any) -> None:
        StandIn.made = settings
        self.model, self.settings = model, settings
        self.apgd_targeted, self.fab = ModuleType("apgd"), ModuleType("fab")
        self.apgd_targeted.n_target_classes = self.fab.n_target_classes = 9

    def run_standard_evaluation(self, x: Tensor, y: Tensor, bs: int) -> Tensor:
        print("Warning: there are 3 points with zero gradient!")
        assert self.apgd_targeted.n_target_classes == self.fab.n_target_classes == 3
        torch.manual_seed(self.settings["seed"])
        found = x.clone().requires_grad_()
        (grad,) = torch.autograd.grad(margin_loss(self.model(found), y).sum(), found)
        step = (
            grad.sign() if self.settings["norm"] == "Linf" else grad / grad.flatten(1).norm(dim=1)[:, None, None, None]
        )
        return (x + self.settings["eps"] * step).clamp(0, 1)


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("autoattack")
    module.AutoAttack = StandIn  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "autoattack", module)


@pytest.mark.usefixtures("package")
@pytest.mark.filterwarnings("ignore:autoattack")
@each_space
def test_the_package_is_run_and_reported_like_any_attack(task: Task, space: Any, rng: Stream) -> None:
    state = torch.get_rng_state()
    found: Perturbed = AutoAttack(space)(task.model, task.x, task.y, rng=rng)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(found.success, task.model(found.inputs).argmax(1) != task.y)
    assert int(found.success.sum()) > 30
    assert (space.size(task.x, found.params) <= space.eps + 1e-6).all()
    # Ours: clean, one row for the classes, result; theirs: one gradient.
    assert 3 * len(task.x) < found.evaluations <= 5 * len(task.x) + 1
    assert StandIn.made["norm"] == ("Linf" if isinstance(space, Linf) else "L2")


@pytest.mark.usefixtures("package")
def test_other_bounds_are_scaled_for_the_package_and_its_words_are_warnings(task: Task, rng: Stream) -> None:
    class Scaled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return task.model((x + 1) / 2)  # type: ignore[no-any-return]

    with pytest.warns(RuntimeWarning, match="autoattack: there are 3 points with zero gradient!"):
        wide = AutoAttack(Linf(0.1, bounds=(-1, 1)))(Scaled(), 2 * task.x - 1, task.y, rng=rng)
    assert StandIn.made["eps"] == pytest.approx(0.05)
    with pytest.warns(RuntimeWarning, match="autoattack"):
        plain = AutoAttack(Linf(0.05))(task.model, task.x, task.y, rng=rng)
    assert torch.equal(wide.success, plain.success)
    assert AutoAttack(Linf(0.0))(task.model, task.x, task.y, rng=rng).evaluations <= 2 * len(task.x)


def test_without_the_package_the_install_line_is_given(
    task: Task, rng: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "autoattack", None)
    with pytest.raises(MissingExtra, match=r"pip install git\+https://github.com/fra31/auto-attack"):
        AutoAttack(Linf(0.1))(task.model, task.x, task.y, rng=rng)


@pytest.mark.usefixtures("package")
def test_what_the_package_cannot_do(task: Task, rng: Stream) -> None:
    with pytest.raises(ValueError, match="takes neither a start nor a target"):
        AutoAttack(Linf(0.1))(task.model, task.x, task.y, rng=rng, target=task.y)
    with pytest.raises(DataError, match=r"takes images \(b, c, h, w\), got \(2, 5\)"):
        AutoAttack(Linf(0.1))(nn.Linear(5, 4), torch.rand(2, 5), task.y[:2], rng=rng)
    with pytest.raises(ValueError, match="needs at least 4 classes, got 3"):
        AutoAttack(Linf(0.1))(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), task.x, task.y % 3, rng=rng)
    with pytest.raises(ValueError, match="takes bounded inputs without a scale"):
        AutoAttack(Linf(0.1, bounds=None))
