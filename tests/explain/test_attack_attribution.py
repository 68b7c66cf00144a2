"""Attribution of an attack's cost to regions: closed forms of linear models, the sum rule, exact games by shapiq."""

import dataclasses

import pytest
import shapiq
import torch
from torch import nn
from torch.testing import assert_close

from pellucid.attacks import L2, Linf
from pellucid.core import DataError, ModelError, Stream, Work
from pellucid.explain import (
    AttackGame,
    MinimumCost,
    ReachedMargin,
    attack_attribution,
    attack_regions,
    cost_attack_attribution,
    map_iou,
    region_norms,
)
from pellucid.games import shapley, to_shapiq

FREE = MinimumCost("l2", bounds=None, steps=15, end_steps=60)
QUICK = MinimumCost("l2", steps=6, end_steps=20)
OWNER = torch.tensor([-1, 0, 1])


def linear(weights, margin=6.0):
    """Two classes; the second wins once the weighted sum of the input reaches the margin."""
    weights = torch.tensor(weights, dtype=torch.float64)
    return lambda x: torch.stack([0 * x[:, 0] + margin, x @ weights.to(x)], dim=1)


def attributed(weights, utility, *, owner=OWNER, margin=6.0, **more):
    x, y = torch.zeros(1, len(weights)), torch.tensor([0])
    return attack_attribution(
        linear(weights, margin), x, y, regions=owner, utility=utility, permutations=2, rng=Stream(0), **more
    )


class Curved(nn.Module):
    """A small smooth network on images, three classes."""

    def __init__(self, seed=0, side=8):
        super().__init__()
        with Stream(seed).child("curved").forked():
            self.body = nn.Sequential(
                nn.Flatten(), nn.Linear(side * side, 12), nn.Tanh(), nn.BatchNorm1d(12), nn.Linear(12, 3)
            )
        self.eval()

    def forward(self, x):
        return self.body(x)


def images(model, n=3, side=8):
    x = Stream(1).uniform((n, 1, side, side), low=0.2, high=0.8)
    with torch.no_grad():
        return x, model(x).argmax(1)


# -- closed forms -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("squares", "values", "full"), [((8.0, 0.0), (4.0, 0.0), 2.0), ((4.0, 4.0), (2.0, 2.0), 2.0)])
def test_a_linear_model_in_l2(squares, values, full):
    found = attributed([1.0, *(s**0.5 for s in squares)], FREE)
    assert_close(found.values[0], torch.tensor(values).double(), atol=0.02, rtol=0.01)
    assert float(found.cost_none) == pytest.approx(6, rel=0.01)
    assert float(found.cost_full) == pytest.approx(full, rel=0.01)


def test_the_cost_of_one_region_beside_the_border():
    game = AttackGame(linear([1.0, 2.0, 2.0]), torch.zeros(3), 0, FREE, regions=OWNER, rng=Stream(0))
    found = -game(torch.tensor([[False, False], [True, False], [False, True], [True, True]]))
    assert_close(found, torch.tensor([6, 2.683282, 2.683282, 2]).double(), rtol=0.01, atol=0)


@pytest.mark.parametrize("weights", [(1.0, 2.0, 3.0), (0.5, 0.0, 1.0), (1.0, 2.0, 2.0)])
def test_a_linear_model_in_linf(weights):
    border, first, second = weights
    found = attributed(weights, dataclasses.replace(FREE, norm="linf"))
    cost = [6 / (border + s) for s in (0, first, second, first + second)]
    assert float(found.cost_none) == pytest.approx(cost[0], abs=1 / 256)
    assert float(found.cost_full) == pytest.approx(cost[3], abs=1 / 256)
    expected = [(cost[0] - cost[1] + cost[2] - cost[3]) / 2, (cost[0] - cost[2] + cost[1] - cost[3]) / 2]
    assert_close(found.values[0], torch.tensor(expected).double(), atol=1 / 256, rtol=0)


def test_bounds_make_the_border_dearer():
    box = dataclasses.replace(QUICK, bounds=(0.0, 1.0))
    found = attributed([1.0, 1.0, 1.0], box, margin=1.5)  # the border alone reaches 1 at most: nothing fools
    assert float(found.cost_none) >= 1.0  # the largest perturbation tried, and never below a dearer success
    assert float(found.capped) > 0.05
    assert "largest possible cost" in found.note


def test_the_margin_of_a_linear_model():
    space = Linf(0.5, bounds=None)
    found = attributed([1.0, 2.0, 3.0], ReachedMargin(space))
    assert_close(found.values[0], torch.tensor([1.0, 1.5]).double(), atol=1e-5, rtol=0)  # eps times the weight
    assert float(found.cost_none) == pytest.approx(5.5)
    assert found.unit == "logits"


def test_the_margin_needs_no_border():
    found = attributed([2.0, 3.0], ReachedMargin(L2(1.0, bounds=None)), owner=torch.tensor([0, 1]))
    assert float(found.cost_none) == pytest.approx(6)
    assert float(found.cost_full) == pytest.approx(6 - 13**0.5, rel=1e-3)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_a_set_that_finds_nothing_is_no_cheaper_than_a_larger_one_that_does(norm):
    # The border reaches 0.5 and cannot fool; all four regions are needed, at a length of about 1.
    weights = [0.1, 1.0, 1.0, 1.0, 1.0]
    x, owner, how = torch.full((1, 5), 0.5), torch.tensor([-1, 0, 1, 2, 3]), MinimumCost(norm, steps=6, end_steps=20)
    model = linear(weights, margin=0.5 * sum(weights) + 1.9)
    found = attack_attribution(model, x, torch.tensor([0]), regions=owner, utility=how, permutations=2, rng=Stream(0))
    assert float(found.capped) > 0.05
    assert float(found.values.min()) >= 0
    assert_close(found.values.sum(1), found.cost_none - found.cost_full, atol=1e-9, rtol=0)
    game = AttackGame(model, x[0], 0, how, regions=owner, rng=Stream(0))
    none, everything = game(torch.tensor([[False] * 4, [True] * 4])).tolist()
    assert none <= everything < 0


# -- laws ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("utility", [QUICK, dataclasses.replace(QUICK, norm="linf"), "margin"])
def test_shares_sum_to_what_is_saved_and_never_harm(utility):
    model = Curved()
    x, y = images(model)
    found = attack_attribution(model, x, y, regions=(2, 3), utility=utility, permutations=2, rng=Stream(0))
    assert_close(found.values.sum(1), found.cost_none - found.cost_full, atol=1e-6, rtol=0)
    assert bool((found.values >= 0).all())
    assert bool((found.floor >= 0).all())
    assert found.grid == (2, 3)
    assert found.map.shape == (3, 8, 8)
    assert float(found.map[:, 0].abs().sum()) == 0  # the border
    assert_close(found.share(6), torch.ones(3, dtype=torch.float64))
    assert found.evaluations == cost_attack_attribution(6, utility, samples=3, permutations=2)


def test_a_region_the_model_does_not_look_at_has_no_share():
    model = Curved()
    with torch.no_grad():
        model.body[1].weight.view(12, 8, 8)[:, 1:4, 1:4] = 0
    x, y = images(model)
    found = attack_attribution(model, x, y, regions=2, border=1, utility=QUICK, permutations=2, rng=Stream(0))
    assert found.values[:, 0].tolist() == [0.0, 0.0, 0.0]
    assert bool((found.values[:, 1:] > 0).all())


def test_equal_regions_have_equal_shares():
    weights = [0.7, 0.3, 0.4, 0.3, 0.4]
    found = attributed(weights, FREE, owner=torch.tensor([-1, 0, 0, 1, 1]))
    assert float(found.values[0, 0]) == pytest.approx(float(found.values[0, 1]), rel=0.02)


def test_a_sample_does_not_depend_on_its_company():
    model = Curved().double()  # in float32 the rounding of another batch size grows to a percent in a short search
    x, y = images(Curved())
    x = x.double()
    whole = attack_attribution(model, x, y, regions=2, utility=QUICK, permutations=2, rng=Stream(0))
    alone = attack_attribution(model, x[2:], y[2:], regions=2, utility=QUICK, permutations=2, rng=Stream(0).at([2]))
    assert_close(alone.values[0], whole.values[2], atol=1e-5, rtol=1e-3)


def test_the_whole_perturbation_fools_and_has_the_size_that_is_told():
    model = Curved()
    x, y = images(model)
    target = (y + 1) % 3
    for goal in (None, target):
        found = attack_attribution(model, x, y, target=goal, regions=2, utility=QUICK, permutations=2, rng=Stream(0))
        with torch.no_grad():
            answers = model(x[found.rows] + found.delta).argmax(1)
        assert bool((answers == target[found.rows]).all() if goal is not None else (answers != y[found.rows]).all())
        assert_close(found.delta.flatten(1).norm(dim=1).double(), found.cost_full, atol=1e-5, rtol=1e-4)
        inside = region_norms(found.delta, torch.where(found.owner < 0, 4, found.owner))
        assert_close(inside.square().sum(1), found.cost_full.square(), atol=1e-6, rtol=1e-3)


def test_exact_values_of_the_game_by_shapiq():
    model = Curved(side=10)
    x, y = images(model, 1, 10)
    how = MinimumCost("l2", steps=10, end_steps=40)
    owner = attack_regions(10, 10, (2, 3), border=1)
    game = AttackGame(model, x[0], int(y[0]), how, regions=owner, rng=Stream(0))
    exact = shapiq.ExactComputer(to_shapiq(game), n_players=6)("SV", order=1)
    reference = torch.tensor([exact[(p,)] for p in range(6)]).double()
    assert_close(shapley(game).values, reference, atol=1e-3, rtol=1e-3)
    found = attack_attribution(model, x, y, regions=owner, utility=how, permutations=12, rng=Stream(0))
    assert float(found.cost_full) == pytest.approx(-float(game(torch.ones(1, 6, dtype=torch.bool))), rel=5e-3)
    spread = found.stderr[0] + 0.01 * reference.sum()
    assert bool(((found.values[0] - reference).abs() < 4 * spread).all())


def test_parts_and_wholes_of_work_agree(tmp_path):
    model = Curved()
    x, y = images(model)
    steps = []
    work = Work(folder=tmp_path, on_step=lambda done, total: steps.append(done / total))
    first = attack_attribution(model, x, y, regions=2, utility=QUICK, permutations=2, rng=Stream(0), work=work)
    again = attack_attribution(
        model, x, y, regions=2, utility=QUICK, permutations=2, rng=Stream(0), work=Work(folder=tmp_path)
    )
    assert torch.equal(first.values, again.values)
    assert steps == sorted(steps)
    assert steps[-1] == 1


# -- regions and maps ---------------------------------------------------------------------------------------------


def test_regions_are_never_cropped():
    owner = attack_regions(112, 112)
    assert [int((owner == r).sum()) for r in (0, 63)] == [144, 144]  # 12 x 12 pixels, border 8
    owner = attack_regions(32, 30, (4, 4), border=2)
    assert int((owner < 0).sum()) == 32 * 30 - 28 * 26
    assert sorted({int((owner == r).sum()) for r in range(16)}) == [42, 49]


def test_likeness_of_maps():
    a = Stream(0).uniform((1, 16))[0]
    assert map_iou(a, 3 * a + 5) == pytest.approx(1)
    assert map_iou(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])) == 0
    assert map_iou(a, -a) < map_iou(a, a + 0.1 * Stream(1).uniform((1, 16))[0])
    with pytest.warns(UserWarning, match="constant"):
        assert map_iou(a, torch.ones(16)) != map_iou(a, a)


# -- bad input ----------------------------------------------------------------------------------------------------


def test_wrong_samples_are_left_out_and_told():
    model = Curved()
    x, y = images(model, 4)
    y = y.clone()
    y[1] = (y[1] + 1) % 3
    found = attack_attribution(model, x, y, regions=2, utility=QUICK, permutations=2, rng=Stream(0))
    assert found.rows.tolist() == [0, 2, 3]
    assert "1 of 4 samples are classified wrongly" in found.note
    with pytest.raises(DataError, match="none of the 4 samples correctly"):
        attack_attribution(model, x, (model(x).argmax(1) + 1) % 3, regions=2, rng=Stream(0))


def test_the_answer_is_no_target():
    model = Curved()
    x, y = images(model)
    with pytest.raises(ValueError, match="which the model answers already"):
        attack_attribution(model, x, y, target=y, regions=2, rng=Stream(0))


def test_a_model_that_never_changes_its_answer():
    def constant(x):
        return torch.stack([x.flatten(1).sum(1) * 0 + 1, x.flatten(1).sum(1) * 0], dim=1)

    with pytest.raises(DataError, match="no perturbation was found"):
        attack_attribution(
            constant,
            torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)),
            torch.tensor([0, 0]),
            regions=2,
            utility=QUICK,
            permutations=2,
            rng=Stream(0),
        )


@pytest.mark.parametrize("utility", ["l2", "margin"])
def test_a_model_without_gradients_is_refused(utility):
    model = Curved()
    x, y = images(model)
    with pytest.raises(ModelError, match="does not depend on its input by any gradient"):
        attack_attribution(lambda x: model(x.detach()).detach(), x, y, regions=2, utility=utility, rng=Stream(0))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"permutations": 1}, "at least 2 pairs"),
        ({"border": 0}, "costs infinitely much"),
        ({"regions": 9}, "do not fit"),
        ({"regions": torch.zeros(3, dtype=torch.int64)}, "must be int64 and fit"),
        ({"regions": torch.full((8, 8), 2)}, "numbered from 0 without gaps"),
        ({"regions": torch.zeros(8, 8, dtype=torch.int64), "border": 1}, "hold their own border"),
    ],
)
def test_bad_settings_are_explained(more, words):
    model = Curved()
    x, y = images(model)
    with pytest.raises(ValueError, match=words):
        attack_attribution(model, x, y, **{"regions": 2, "rng": Stream(0), **more})


def test_a_grid_needs_images():
    with pytest.raises(ValueError, match="a grid cuts images"):
        attack_attribution(linear([1.0, 2.0]), torch.zeros(1, 2), torch.tensor([0]), rng=Stream(0))


@pytest.mark.parametrize(
    "make", [lambda: MinimumCost(steps=0), lambda: MinimumCost(end_steps=0), lambda: ReachedMargin(steps=0)]
)
def test_bad_utilities_are_explained(make):
    with pytest.raises(ValueError, match="must be"):
        make()


def test_maps_of_two_shapes_cannot_be_compared():
    with pytest.raises(ValueError, match="of one shape"):
        map_iou(torch.ones(3), torch.ones(4))
