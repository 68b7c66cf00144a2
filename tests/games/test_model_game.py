"""Model games: what the model sees, what comes back, what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from pellucid import core
from pellucid.core import ModelError, Players, Stream
from pellucid.games import (
    Counted,
    Features,
    ModelGame,
    Patches,
    coalitions,
    log_odds,
    log_probability,
    logit,
    margin,
    noise_floor,
    probability,
    restrict,
    table,
)


def small_cnn() -> nn.Module:
    with Stream(3).forked():
        return nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.Linear(4 * 30, 3),
        )


def image() -> torch.Tensor:
    return Stream(1).child("image").normal((1, 2, 5, 6))[0]


def drawn(count: int, n: int) -> torch.Tensor:
    return Stream(2).child("keep").bits((count, n)) < 0


def by_hand(x: torch.Tensor, keep: torch.Tensor, players: Players) -> torch.Tensor:
    out = x.clone()
    owner = torch.broadcast_to(players.owner, x.shape)
    fill = torch.broadcast_to(players.baseline, x.shape)
    for p in range(players.count):
        if not keep[p]:
            out[owner == p] = fill[owner == p]
    out[owner == -2] = fill[owner == -2]
    return out


@pytest.mark.parametrize("fill", ["mean", "zero", "blur"])
def test_values_are_the_scores_of_masked_images(fill):
    model, x = small_cnn(), image()
    masker = Patches((2, 3), fill=fill, background=torch.stack([x, 2 * x]))
    game = ModelGame(model, x, masker, log_odds(1))
    keep = drawn(7, 6)
    inputs = torch.stack([by_hand(x, row, game.players) for row in keep])
    assert torch.equal(game.masked(keep), inputs)
    with core.evaluating(model), torch.no_grad():
        expected = core.log_odds(model(inputs).double(), 1)
    found = game(keep)
    assert found.dtype == torch.float64
    assert_close(found, expected, atol=1e-6, rtol=0)
    assert torch.equal(game.masked(torch.ones(1, 6, dtype=torch.bool))[0], x)  # bit for bit


def test_fixed_elements_never_play():
    class Middle:
        def __call__(self, x):
            owner = torch.tensor([0, -1, 1, -2, 1])
            return Players(owner, torch.full((5,), 9.0), 2)

    x = torch.arange(5.0)
    game = ModelGame(nn.Linear(5, 2), x, Middle(), logit(0))
    keep = torch.tensor([[True, False], [False, True]])
    assert game.masked(keep).tolist() == [[0, 1, 9, 9, 9], [9, 1, 2, 9, 4]]


def test_batch_size_does_not_matter():
    model, keep = small_cnn(), drawn(50, 6)
    values = [
        ModelGame(model, image(), Patches((2, 3), fill="zero"), log_odds(0), batch_size=b)(keep) for b in (1, 7, 64)
    ]
    assert_close(values[0], values[1], atol=1e-6, rtol=0)
    assert_close(values[0], values[2], atol=1e-6, rtol=0)


def test_the_model_and_chance_are_left_as_they_were():
    model = small_cnn().train()
    model[1].eval()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    before = torch.get_rng_state()
    game = ModelGame(model, image(), Patches((2, 3), fill="zero"), log_odds(0))
    values = table(game)
    assert torch.equal(values, table(game))  # dropout was off
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert not model[1].training
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    values += 1  # an ordinary tensor, no inference tensor


@pytest.mark.parametrize(
    ("value", "score"),
    [
        (log_odds, core.log_odds),
        (log_probability, core.log_probability),
        (probability, core.probability),
        (logit, core.logit),
        (margin, core.margin),
    ],
)
def test_value_functions(value, score):
    z = Stream(0).child("z").normal((6, 4), dtype=torch.float64) * 30
    assert torch.equal(value(2)(z), score(z, 2))
    with pytest.raises(ValueError, match="class 4 is outside the model's classes 0 to 3"):
        value(4)(z)


def test_one_logit_is_read_as_two():
    model, x = nn.Linear(3, 1), torch.ones(3)
    keep = coalitions(3)
    z = model(ModelGame(model, x, Features(fill="zero"), logit(1)).masked(keep)).detach().double()[:, 0]
    assert_close(ModelGame(model, x, Features(fill="zero"), log_odds(1))(keep), z)
    assert_close(ModelGame(model, x, Features(fill="zero"), log_odds(0))(keep), -z)


def test_vector_values_pass_through():
    game = ModelGame(nn.Linear(3, 4), torch.ones(3), Features(fill="zero"), lambda z: z)
    assert table(game).shape == (8, 4)


def test_nan_names_the_coalition():
    class Broken(nn.Module):
        def forward(self, x):
            z = x[:, :2].clone()
            z[(x[:, 1] == 1) & (x[:, 0] == 0)] = torch.nan
            return z

    game = ModelGame(Broken(), torch.ones(3), Features(fill="zero"), logit(0))
    with pytest.raises(ModelError, match=r"NaN or infinity when only players \[1\] of 3 are present"):
        table(game)
    game = ModelGame(lambda x: (x / x.sum(1, keepdim=True))[:, :2], torch.ones(3), Features(fill="zero"), logit(0))
    with pytest.raises(ModelError, match="NaN or infinity when no player is present"):
        table(game)


def test_refusals():
    x = torch.ones(3)
    with pytest.raises(ValueError, match=r"holds integers \(torch.int64\) but the baseline has torch.float"):
        ModelGame(nn.Identity(), x.long(), Features(background=torch.ones(2, 3)), logit(0))
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        ModelGame(nn.Identity(), x, Features(fill="zero"), logit(0), batch_size=0)
    game = ModelGame(nn.Identity(), x, Features(fill="zero"), logit(0))
    with pytest.raises(ValueError, match="keep has 2 columns but the game has 3 players"):
        game(torch.ones(1, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="keep has no rows"):
        game(torch.ones(0, 3, dtype=torch.bool))
    with pytest.raises(ModelError, match=r"logits of shape \(1, K\), got \(1, 3, 1\)"):
        ModelGame(nn.Unflatten(1, (3, 1)), x, Features(fill="zero"), logit(0))(torch.ones(1, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="player 1 owns no element"):
        ModelGame(nn.Identity(), x, lambda x: Players(torch.zeros(3, dtype=torch.int64), torch.zeros(1), 2), logit(0))


# -- players --------------------------------------------------------------------------------------------------------


def test_patches_cut_by_the_rule():
    players = Patches((3, 4), fill="zero")(torch.zeros(1, 7, 9))
    assert (players.count, players.grid) == (12, (3, 4))
    for r in range(7):
        for c in range(9):
            assert int(players.owner[r, c]) == (r * 3 // 7) * 4 + c * 4 // 9


def test_baselines():
    x = image()
    mean = Patches(2, background=torch.stack([x, 3 * x]))(x).baseline
    assert_close(mean[:, 0, 0], 2 * x.mean((1, 2)))
    flat = Patches(2, fill="blur")(torch.full((1, 6, 6), 0.25)).baseline
    assert_close(flat, torch.full((1, 6, 6), 0.25))  # borders keep the level
    own = torch.ones(2, 5, 6)
    assert torch.equal(Patches(2, fill=own)(x).baseline, own)
    features = Features(background=torch.tensor([[1.0, 2.0], [3.0, 6.0]]))(torch.zeros(2))
    assert features.baseline.tolist() == [2.0, 4.0]


def test_feature_groups():
    players = Features(fill="zero", groups=((0, 3), (1,)), names=("pair", "single"))(torch.zeros(4))
    assert players.owner.tolist() == [0, 1, -1, 0]
    assert (players.count, players.names) == (2, ("pair", "single"))


@pytest.mark.parametrize(
    ("masker", "x", "message"),
    [
        (lambda: Patches(2), torch.zeros(1, 4, 4), 'fill="mean" needs background='),
        (lambda: Patches(2, fill="grey"), None, 'fill must be "mean", "zero", "blur", a tensor or Marginal'),
        (lambda: Patches(0, fill="zero"), None, "at least one row and one column"),
        (lambda: Patches(5, fill="zero"), torch.zeros(1, 4, 4), "5 x 5 cells is larger than the image of 4 x 4"),
        (lambda: Patches(2, fill="zero"), torch.zeros(4, 4), r"shape \(channels, height, width\)"),
        (lambda: Patches(2, fill=torch.zeros(3, 9, 9)), torch.zeros(1, 4, 4), "does not fit an input of"),
        (lambda: Features(), torch.zeros(3), 'fill="mean" needs background='),
        (lambda: Features(fill="blur"), None, 'fill must be "mean", "zero", a tensor or Marginal'),
        (lambda: Features(fill="zero"), torch.zeros(2, 2), r"shape \(features,\)"),
        (lambda: Features(fill="zero", names=("a",)), torch.zeros(2), "one name per player, got 1 for 2"),
        (lambda: Features(fill="zero", groups=((0,), (0,))), torch.zeros(2), "column 0 is in groups 0 and 1"),
        (lambda: Features(fill="zero", groups=((0,), ())), torch.zeros(2), "group 1 is empty"),
        (lambda: Features(fill="zero", groups=((2,),)), torch.zeros(2), "names column 2, the input has columns 0 to 1"),
    ],
)
def test_maskers_refuse(masker, x, message):
    with pytest.raises(ValueError, match=message):
        masker()(x)


# -- noise ----------------------------------------------------------------------------------------------------------


def test_noise_floor_sees_rounding_and_real_noise(rng):
    model = nn.Linear(5, 2)
    game = ModelGame(model, torch.ones(5), Features(fill="zero"), logit(0))
    assert 0 < noise_floor(game, rng=rng) < 1e-6
    double = ModelGame(model.double(), torch.ones(5).double(), Features(fill="zero"), logit(0))
    assert noise_floor(double, rng=rng) < 1e-14

    class Noisy:
        n_players = 5
        calls = 0

        def __call__(self, keep):
            self.calls += 1
            return Stream(self.calls).child("noise").normal((len(keep), 1), dtype=torch.float64)[:, 0] * 0.1

    assert noise_floor(Noisy(), rng=rng, probes=2000) == pytest.approx(0.1, rel=0.1)


def test_noise_floor_looks_through_wrappers(rng):
    game = ModelGame(nn.Linear(5, 2), torch.ones(5), Features(fill="zero"), logit(0))
    assert noise_floor(Counted(restrict(game, present=[0])), rng=rng) > 1e-10
