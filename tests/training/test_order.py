"""The order loss: its masks, its two losses, and what it leaves alone."""

from __future__ import annotations

from math import log

import msgspec
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from pellucid.core import Batch, Dataset, RecipeError, Stream
from pellucid.data import synthetic_images, synthetic_table
from pellucid.games import order_weights, pair_interactions
from pellucid.training import InteractionOrder, OrderRange, Recipe, train

HALF = InteractionOrder(0.5, 0.75, grid=4, fill=(0.25,))


class Seen(nn.Module):
    """Keeps the batches it was called with; its two logits are sums of pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.batches: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.batches.append(x.detach().clone())
        total = x.flatten(1).sum(1) * self.scale
        return torch.stack([total, -total], dim=1)


@pytest.fixture
def batch(rng):
    data = synthetic_images(10, rng=rng, classes=2, size=8)
    return Batch(data.inputs + 0.5, data.labels, data.ids)  # no pixel equals the fill


def terms(objective, model, batch, seed=3):
    return objective(model, batch, rng=Stream(seed).at(batch.ids))


def present(masked: Tensor, fill: float) -> Tensor:
    """Which cells of a 4 x 4 grid an image of 8 x 8 pixels shows, `(b, 16)`; fails where a cell is cut."""
    cells = (masked[:, 0] != fill).view(-1, 4, 2, 4, 2).transpose(2, 3).flatten(3)
    assert bool((cells.all(3) == cells.any(3)).all())
    return cells.all(3).flatten(1)


# -- masks ------------------------------------------------------------------------------------------------------------


def test_masks_are_nested_and_of_the_right_sizes(batch):
    model = Seen()
    terms(HALF, model, batch)
    clean, masked = model.batches
    assert torch.equal(clean, batch.inputs)
    small, large = present(masked[:10], 0.25), present(masked[10:20], 0.25)
    assert small.sum(1).tolist() == [8] * 10
    assert large.sum(1).tolist() == [12] * 10
    assert not bool((small & ~large).any())
    assert len({tuple(row) for row in small.tolist()}) == 10  # permutations differ between samples
    assert torch.equal(masked[20:], torch.full((1, 1, 8, 8), 0.25))
    shown = (masked[:10] == 0.25) | (masked[:10] == batch.inputs)
    assert bool(shown.all())


def test_a_seed_gives_the_same_masks_whatever_the_company(batch):
    model = Seen()
    first, again, other = (terms(HALF, model, batch, seed=s) for s in (3, 3, 4))
    assert first == again
    assert first != other
    part = Batch(batch.inputs[4:6], batch.labels[4:6], batch.ids[4:6])
    terms(HALF, model, part)
    assert torch.equal(model.batches[-1][:2], model.batches[1][4:6])


def test_all_players_are_the_sample_itself(batch):
    model = Seen()
    terms(InteractionOrder(0.5, 1.0, grid=4, fill="zero"), model, batch)
    assert len(model.batches[1]) == 10 + 1  # S1 and the empty coalition: S2 is the clean batch
    whole = InteractionOrder(0.0, 1.0, grid=4, fill="zero")
    found = whole._worth(
        model, batch.inputs, model(batch.inputs), whole.players(batch.inputs[0]), {0, 16}, Stream(0).at(batch.ids)
    )
    assert torch.equal(found[16], model(batch.inputs))


def test_columns_of_a_table_are_players(rng):
    data = synthetic_table(6, rng=rng, features=5)
    model = Seen()
    objective = InteractionOrder(0.4, 0.8).fitted(data)
    assert_close(torch.tensor(objective.fill), data.inputs.mean(0), atol=1e-6, rtol=0)
    terms(objective, model, Batch(data.inputs, data.labels, data.ids))
    fill = torch.tensor(objective.fill)
    assert (model.batches[1][:6] != fill).sum(1).tolist() == [2] * 6


def test_several_ranges_share_masks_and_permutations(batch):
    model = Seen()
    both = InteractionOrder(0.0, 0.5, grid=4, fill=(0.25,), also=(OrderRange(0.5, 1.0, "encourage"),), samples=2)
    found = terms(both, model, batch)
    assert list(found) == [
        "clean", "accuracy", "order_penalize_0.0_0.5", "order_accuracy_penalize_0.0_0.5",
        "order_encourage_0.5_1.0", "order_accuracy_encourage_0.5_1.0",
    ]  # fmt: skip
    assert len(model.batches[1]) == 2 * 10 + 1
    assert set(present(model.batches[1][:20], 0.25).sum(1).tolist()) == {8}


# -- the losses -------------------------------------------------------------------------------------------------------


def test_entropy_lies_between_minus_log_k_and_zero(rng):
    penalize = OrderRange(0.0, 0.5)
    labels = torch.zeros(4, dtype=torch.int64)
    for scale in (0.0, 1.0, 30.0, 1e4):
        loss = float(penalize.loss(scale * rng.normal((4, 5)), labels))
        assert -log(5) - 1e-6 <= loss <= 0
    assert float(penalize.loss(torch.zeros(4, 5), labels)) == pytest.approx(-log(5))


@pytest.mark.parametrize("mode", ["penalize", "encourage"])
def test_gradients_equal_finite_differences(rng, mode):
    du = rng.normal((3, 4), dtype=torch.float64).requires_grad_()
    labels = torch.tensor([0, 3, 1])
    part = OrderRange(0.2, 0.6, mode)
    assert torch.autograd.gradcheck(lambda z: part.loss(z, labels), (du,))


def test_the_penalty_pulls_nowhere_where_du_is_zero():
    du = torch.zeros(3, 4, dtype=torch.float64, requires_grad=True)
    OrderRange(0.2, 0.6).loss(du, torch.zeros(3, dtype=torch.int64)).backward()
    assert not bool(du.grad.any())


def _table_model(v: Tensor) -> nn.Module:
    """A model of four 0/1 features whose two logits are (0, v)."""

    class Lookup(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            rows = (x.double() @ torch.tensor([1.0, 2, 4, 8], dtype=torch.float64)).long()
            return v[rows][:, None]

    return Lookup()


def test_du_means_what_the_weights_say(rng):
    """Over many permutations the mean of du is the sum of omega times the mean interaction, for a one-logit model."""
    v = rng.normal((16, 1), dtype=torch.float64)[:, 0]
    many, x = 20_000, torch.ones(1, 4)
    for low, high in ((0.25, 0.75), (0.5, 1.0)):
        objective = InteractionOrder(low, high, fill="zero", samples=many)
        sizes = {round(4 * low), round(4 * high)}
        found = objective._worth(
            _table_model(v), x, torch.stack([torch.zeros(1), v[15:].float()], 1), objective.players(x[0]), sizes, rng
        )
        k1, k2 = sorted(sizes)
        du = found[k2] - k2 / k1 * found[k1] + (k2 / k1 - 1) * found[0]
        expected = float(order_weights(4, low, high) @ pair_interactions(v).values.mean(0))
        error = float(du[:, 1].std()) / many**0.5
        assert abs(float(du[:, 1].mean()) - expected) < 4 * error
        assert not bool(du[:, 0].any())


def test_the_empty_term_cancels_an_additive_model(batch):
    """Logits W x + b: averaged over permutations du is zero with the empty term, a multiple of the bias without."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    with torch.no_grad():
        model[1].weight.copy_(torch.linspace(-1, 1, 192).view(3, 64))
        model[1].bias.copy_(torch.tensor([1.0, -2.0, 3.0]))
    x = torch.ones(1, 1, 8, 8)
    objective = InteractionOrder(0.25, 0.75, grid=2, fill="zero", samples=4000)
    worth = objective._worth(model, x, model(x), objective.players(x[0]), {1, 3}, Stream(0))
    plain = worth[3].mean(0) - 3 * worth[1].mean(0)
    assert_close(plain + 2 * worth[0][0], torch.zeros(3), atol=0.5, rtol=0)
    assert_close(plain, -2 * model[1].bias, atol=0.5, rtol=0)
    official = msgspec.structs.replace(objective, empty_term=False)
    name = objective.ranges[0].term
    assert terms(objective, model, batch)[name] != terms(official, model, batch)[name]


# -- what training leaves alone ----------------------------------------------------------------------------------------


class Normed(nn.Module):
    """Batch normalization, before the first layer and of vectors, one of them frozen by its owner."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.flat = nn.BatchNorm2d(1), nn.Flatten()
        self.linear, self.second = nn.Linear(64, 6), nn.BatchNorm1d(6)
        self.third, self.head = nn.BatchNorm1d(6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.third(self.second(self.linear(self.flat(self.first(x))))))


@pytest.mark.parametrize(("low", "high"), [(0.25, 0.75), (0.5, 1.0), (0.0, 0.5), (0.0, 1.0)])
def test_running_statistics_are_those_of_the_clean_pass_alone(batch, rng, low, high):
    with rng.forked():
        model, alone = Normed(), Normed()
    alone.load_state_dict(model.state_dict())
    for part in (model, alone):
        part.train().third.eval()
    found = terms(InteractionOrder(low, high, grid=4, fill=(0.3,)), model, batch)
    alone(batch.inputs)
    for name, buffer in alone.named_buffers():
        assert torch.equal(dict(model.named_buffers())[name], buffer), name
    assert all(m.track_running_stats for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
    assert all(term.isfinite() for term in found.values())
    sum(found[name] for name in found if "accuracy" not in name).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())


def test_masked_batches_use_their_own_statistics(batch):
    """Each coalition size is normalized by itself: S1 and S2 do not mix, the empty input rides along with S1."""
    seen = []
    model = nn.Sequential(nn.BatchNorm2d(1, affine=False), nn.Flatten(), nn.Linear(64, 2))
    model[0].register_forward_hook(lambda _, args, out: seen.append((args[0], out)))
    terms(HALF, model, batch)
    assert [len(x) for x, _ in seen] == [10, 11, 10]
    for x, out in seen:
        assert_close(out, (x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt(), atol=1e-4, rtol=1e-4)


def test_statistics_are_restored_after_an_error(batch):
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(64, 2))
    calls = []

    def fail(*_):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("on purpose")

    model[2].register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="on purpose"):
        terms(HALF, model, batch)
    assert model[0].track_running_stats


def test_instance_normalization_keeps_its_statistics_too(batch, rng):
    def build() -> nn.Module:
        return nn.Sequential(nn.InstanceNorm2d(1, track_running_stats=True), nn.Flatten(), nn.Linear(64, 2)).train()

    with rng.forked():
        model, alone = build(), build()
    alone.load_state_dict(model.state_dict())
    terms(HALF, model, batch)
    alone(batch.inputs)
    assert list(model.state_dict()) == list(alone.state_dict())
    for name, buffer in alone.named_buffers():
        assert torch.equal(dict(model.named_buffers())[name], buffer), name


@pytest.mark.parametrize("mode", ["penalize", "encourage"])
def test_gradients_of_the_weights_equal_finite_differences(batch, rng, mode):
    with rng.forked():
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    objective = InteractionOrder(0.25, 0.75, mode, grid=4, fill=(0.3,))
    name, double = objective.ranges[0].term, Batch(batch.inputs.double(), batch.labels, batch.ids)

    weight, step = model[3].weight, 1e-6 * rng.normal((2, 3), dtype=torch.float64)
    (gradient,) = torch.autograd.grad(terms(objective, model, double)[name], weight)
    sides = []
    for sign in (1, -1):
        weight.data += sign * step
        sides.append(float(terms(objective, model, double)[name].detach()))
        weight.data -= sign * step
    assert (sides[0] - sides[1]) / 2 == pytest.approx(float((gradient * step).sum()), rel=1e-6)


# -- recipes ----------------------------------------------------------------------------------------------------------

ORDER = ("objective.kind=interaction-order", "objective.low=0.0", "objective.high=0.5", "objective.grid=4")


def test_the_fill_is_the_mean_of_the_training_data():
    pixels = torch.tensor([[0, 255], [51, 102]], dtype=torch.uint8).view(1, 1, 2, 2).expand(3, 2, 2, 2).clone()
    pixels[:, 1] = 51
    data = Dataset(pixels, torch.zeros(3, dtype=torch.int64), ("a", "b"), "tiny", "image", torch.arange(3))
    fit = InteractionOrder(0.0, 1.0, grid=2).fitted(data)
    assert fit.fill == pytest.approx((0.4, 0.2))
    floats = Dataset(pixels / 255, data.labels, ("a", "b"), "tiny", "image", data.ids)
    assert InteractionOrder(0.0, 1.0, grid=2).fitted(floats).fill == pytest.approx((0.4, 0.2))


def test_a_recipe_trains_with_it(recipe_file, tmp_path):
    recipe = Recipe.load(recipe_file, overrides=(*ORDER, "epochs=2", "limit=50"))
    run = train(recipe, tmp_path / "run")
    assert run.recipe.objective.ranges == (OrderRange(0.0, 0.5),)
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert len(lines) == 2 * (50 // 8)
    assert '"order_penalize_0.0_0.5":' in lines[0]


def test_a_low_end_of_less_than_one_part_is_refused(recipe_file, tmp_path):
    recipe = Recipe.load(recipe_file, overrides=(*ORDER, "objective.low=0.05", "epochs=1", "limit=16"))
    with pytest.raises(RecipeError, match=r"objective: low=0.05 of 16 parts is less than one part; give low=0"):
        train(recipe, tmp_path / "run")


def test_terms_are_weighted_by_quoted_names(recipe_file):
    recipe = Recipe.load(
        recipe_file,
        overrides=(*ORDER, "weighting.weights.clean=1", 'weighting.weights."order_penalize_0.0_0.5"=0.1'),
    )
    assert recipe.weighting.weights == {"clean": 1.0, "order_penalize_0.0_0.5": 0.1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("objective.high=0.0", "an order range needs low < high"),
        ("objective.low=-0.1", ">= 0"),
        ("objective.mode=reward", "objective.mode is 'reward'"),
        ("objective.also=[{low=0.0, high=0.5}]", "the order ranges must differ"),
        ("objective.samples=0", ">= 1"),
    ],
)
def test_unfit_settings_are_refused(recipe_file, change, message):
    with pytest.raises(RecipeError, match=message):
        Recipe.load(recipe_file, overrides=(*ORDER, change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("objective.grid=9", "objective: a grid of 9 x 9 cells is larger than the image of 8 x 8"),
        ("objective.high=0.01", "objective: the orders 0 to 0.01 of 16 players are one size of coalitions, 0"),
        ("objective.fill=[0.1, 0.2]", "objective: the baseline has shape"),
    ],
)
def test_settings_that_do_not_fit_the_data_are_refused_before_the_first_step(recipe_file, tmp_path, change, message):
    recipe = Recipe.load(recipe_file, overrides=(*ORDER, change))
    with pytest.raises(RecipeError, match=message):
        train(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_mean_needs_data(batch):
    with pytest.raises(ValueError, match=r"call fitted\(dataset\) first"):
        terms(InteractionOrder(0.0, 0.5), Seen(), batch)
    with pytest.raises(ValueError, match="orders need images"):
        InteractionOrder(0.0, 0.5, fill="zero").players(torch.zeros(2, 2))
