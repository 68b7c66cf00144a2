"""What a coalition is worth: every class at once, one-logit models, regressions, extreme logits."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from pellucid.core import Stream
from pellucid.games import (
    VALUES,
    Features,
    ModelGame,
    coalitions,
    every_class,
    harsanyi,
    index,
    log_odds,
    log_probability,
    logit,
    margin,
    noise_floor,
    others,
    output,
    probability,
    shapley,
    table,
    target_classes,
)

SCORES = (log_odds, log_probability, logit, margin, others, probability)


def logits(k: int, scale: float = 1.0) -> torch.Tensor:
    return Stream(k).child("z").normal((20, k), dtype=torch.float64) * scale


@pytest.mark.parametrize("value", SCORES)
@pytest.mark.parametrize("k", [1, 2, 3, 7])
@pytest.mark.parametrize("scale", [1.0, 40.0, 1e5])
def test_every_class_equals_class_by_class(value, k, scale):
    z = logits(k, scale)
    one_by_one = torch.stack([value(y)(z) for y in range(max(2, k))], 1)
    assert_close(every_class(value)(z), one_by_one, rtol=1e-12, atol=1e-12)
    assert every_class(value)(z).isfinite().all()


def test_every_class_takes_a_value_of_your_own():
    assert torch.equal(every_class(lambda y: lambda z: z[:, y] ** 2)(logits(3)), logits(3) ** 2)


def test_equal_logits_have_log_odds_of_the_number_of_classes():
    z = torch.zeros(1, 4, dtype=torch.float64)
    assert_close(every_class(log_odds)(z), -torch.tensor(3.0).double().log().expand(1, 4))
    assert float(others(0)(z)) == pytest.approx(torch.tensor(3.0).log().item())


def test_values_of_saturated_logits_are_the_known_ones():
    z = torch.tensor([[1000.0, 0.0, 0.0]], dtype=torch.float64)
    assert float(log_odds(0)(z)) == pytest.approx(1000 - torch.tensor(2.0).log().item())
    assert every_class(log_odds)(z)[0, 1:].tolist() == [-1000.0, -1000.0]
    assert (float(probability(0)(z)), float(log_probability(0)(z))) == (1.0, 0.0)


def test_one_logit_speaks_for_class_one():
    z = logits(1, 3.0)
    for value in (log_odds, logit, margin):
        assert_close(value(1)(z), z[:, 0])
        assert_close(value(0)(z), -z[:, 0])
        assert_close(every_class(value)(z), torch.cat([-z, z], 1))
    assert_close(probability(1)(z), z[:, 0].sigmoid())
    with pytest.raises(ValueError, match="class 2 is outside the model's classes 0 to 1"):
        logit(2)(z)


def test_a_regression_is_read_as_it_is():
    def model(x: torch.Tensor) -> torch.Tensor:
        return x @ torch.tensor([1.0, 2.0, 4.0])

    x = torch.ones(3)
    assert table(ModelGame(model, x, Features(fill="zero"), output())).tolist() == list(range(8))
    both = ModelGame(lambda x: torch.stack([model(x), -model(x)], 1), x, Features(fill="zero"), output(1))
    assert table(both).tolist() == [-float(k) for k in range(8)]
    neither = ModelGame(model, x, Features(fill="zero"), output(2))
    with pytest.raises(ValueError, match="output 2 is outside the model's outputs 0 to 0"):
        table(neither)


@pytest.mark.parametrize("k", [1, 3])
def test_every_output_of_a_regression_is_one_of_its_outputs(k):
    assert torch.equal(every_class(output)(logits(k)), logits(k))


def test_values_are_named():
    z = logits(4)
    for name, value in VALUES.items():
        assert value(2)(z).shape == (20,), name
    assert log_odds(3).name == "log odds"


# -- several inputs, several classes --------------------------------------------------------------------------------


def model_of(width: int, classes: int) -> nn.Module:
    with Stream(5).forked():
        return nn.Sequential(nn.Linear(width, 8), nn.Tanh(), nn.Linear(8, classes))


def test_a_game_of_all_classes_is_all_games():
    model, x = model_of(5, 3), Stream(1).child("x").normal((1, 5))[0]
    game = ModelGame(model, x, Features(fill="zero"), every_class(log_odds))
    values = table(game)
    assert values.shape == (32, 3)
    for y in range(3):
        one = table(ModelGame(model, x, Features(fill="zero"), log_odds(y)))
        assert_close(values[:, y], one, rtol=1e-12, atol=1e-12)
        assert_close(shapley(values).values[:, y], shapley(one).values)
        assert_close(harsanyi(values).values[:, y], harsanyi(one).values)
        assert_close(index(values, "FSII", order=2).values[:, y], index(one, "FSII", order=2).values)


@pytest.mark.parametrize("batch_size", [None, 3])
def test_a_batch_that_shares_masks_is_all_games(batch_size):
    model, x = model_of(4, 3), Stream(1).child("x").normal((5, 4))
    labels = torch.tensor([0, 2, 1, 1, 0])
    masker = Features(background=x)
    game = ModelGame(model, x, masker, log_odds(labels), batched=True, batch_size=batch_size)
    assert game.cost == 5
    values = table(game)
    assert values.shape == (16, 5)
    for k in range(5):
        one = table(ModelGame(model, x[k], masker, log_odds(int(labels[k]))))
        assert_close(values[:, k], one, rtol=1e-6, atol=1e-6)
    everything = table(ModelGame(model, x, masker, every_class(logit), batched=True))
    assert everything.shape == (16, 5, 3)
    assert_close(everything[3], model(game.masked(coalitions(4)[3:4])).detach().double())


def test_a_batch_may_have_a_baseline_each_and_a_background_for_all():
    from pellucid.games import Marginal, Patches

    with Stream(5).forked():
        model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    x = Stream(1).child("x").normal((3, 1, 4, 4))
    for masker in (Patches(2, fill="blur"), Patches(2, fill=Marginal(x)), Patches(2, fill=x[0])):
        values = table(ModelGame(model, x, masker, logit(1), batched=True))
        one = [table(ModelGame(model, image, masker, logit(1))) for image in x]
        assert_close(values, torch.stack(one, 1), rtol=1e-6, atol=1e-6)
    alone = ModelGame(model, x[:1], Patches(2, fill="zero"), logit(1), batched=True)
    assert table(alone).shape == (16, 1)


def test_batches_refuse():
    from pellucid.games import Points

    clouds = Stream(1).child("x").normal((2, 9, 3))
    with pytest.raises(ValueError, match="inputs 0 and 1 are cut into different players"):
        ModelGame(model_of(3, 2), clouds, Points(3), logit(0), batched=True)
    with pytest.raises(ValueError, match="x is an empty batch"):
        ModelGame(model_of(3, 2), torch.zeros(0, 3), Features(fill="zero"), logit(0), batched=True)
    game = ModelGame(
        model_of(3, 2), torch.zeros(3, 3), Features(fill="zero"), log_odds(torch.tensor([0, 1])), batched=True
    )
    with pytest.raises(ValueError, match="2 classes do not fit"):
        game(torch.ones(1, 3, dtype=torch.bool))
    game = ModelGame(
        model_of(3, 2), torch.zeros(2, 3), Features(fill="zero"), log_odds(torch.tensor([0, 2])), batched=True
    )
    with pytest.raises(ValueError, match=r"classes \[0, 2\] must lie from 0 to 1"):
        table(game)


# -- the class ------------------------------------------------------------------------------------------------------


def test_the_class_is_the_label_the_answer_or_one_of_yours():
    model, x, y = model_of(4, 3), Stream(1).child("x").normal((6, 4)), torch.arange(6) % 3
    assert torch.equal(target_classes(model, x, "label", labels=y), y)
    assert torch.equal(target_classes(model, x, "predicted"), model(x).argmax(1))
    assert target_classes(model, x, 2).tolist() == [2] * 6
    assert target_classes(lambda x: x[:, :1], x, "predicted").tolist() == (x[:, 0] > 0).long().tolist()
    with pytest.raises(ValueError, match='target="label" needs labels='):
        target_classes(model, x, "label")


# -- gradients ------------------------------------------------------------------------------------------------------


def test_gradients_to_the_baseline_equal_finite_differences():
    """Spec games 5.9."""
    model = model_of(4, 3).double()
    x = Stream(1).child("x").normal((1, 4), dtype=torch.float64)[0]
    baseline = Stream(2).child("x").normal((1, 4), dtype=torch.float64)[0].requires_grad_()
    game = ModelGame(model, x, Features(fill="zero"), log_odds(1), batch_size=3)
    weights = Stream(3).child("w").normal((1, 16), dtype=torch.float64)[0]
    keep = coalitions(4)

    def total(r: torch.Tensor) -> torch.Tensor:
        return weights @ game.differentiable(keep, r)

    assert_close(game.differentiable(keep, torch.zeros(1).double()), table(game))
    (gradient,) = torch.autograd.grad(total(baseline), baseline)
    step = 1e-6
    for p in range(4):
        moved = [baseline.detach() + sign * step * torch.eye(4).double()[p] for sign in (1, -1)]
        slope = (total(moved[0]) - total(moved[1])) / (2 * step)
        assert float(gradient[p]) == pytest.approx(float(slope), rel=1e-6, abs=1e-8)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    per_input = ModelGame(model, torch.stack([x, -x]), Features(fill="zero"), log_odds(1), batched=True)
    assert per_input.differentiable(keep, baseline).shape == (16, 2)


def test_gradients_refuse_what_has_none():
    from pellucid.games import Marginal, Tokens

    keep = torch.ones(1, 2, dtype=torch.bool)
    many = ModelGame(model_of(2, 2), torch.ones(2), Features(fill=Marginal(torch.zeros(3, 2))), logit(0))
    with pytest.raises(ValueError, match="gradients need one floating-point baseline"):
        many.differentiable(keep, torch.zeros(2))
    ids = ModelGame(nn.Embedding(4, 3), torch.tensor([1, 2]), Tokens(0), logit(0))
    with pytest.raises(ValueError, match="gradients need one floating-point baseline"):
        ids.differentiable(keep, torch.zeros(2))
    plain = ModelGame(model_of(2, 2), torch.ones(2), Features(fill="zero"), logit(0))
    with pytest.raises(ValueError, match=r"shape \(3,\), which does not fit an input of \(2,\)"):
        plain.differentiable(keep, torch.zeros(3))


def test_integer_inputs_report_the_precision_of_the_model():
    from pellucid.games import Tokens

    assert ModelGame(nn.Embedding(4, 3).double(), torch.tensor([1, 2]), Tokens(0), logit(0)).dtype == torch.float64
    assert ModelGame(lambda ids: ids.float(), torch.tensor([1, 2]), Tokens(0), logit(0)).dtype == torch.float32


def test_a_game_is_as_precise_as_the_coarsest_of_its_parts():
    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 2).bfloat16()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(x.bfloat16()).float()

    game = ModelGame(Inner(), torch.ones(3), Features(fill="zero"), logit(0))
    assert game.dtype == torch.bfloat16
    least = torch.finfo(torch.bfloat16).eps / 2 * float(table(game).abs().min())
    assert noise_floor(game, rng=Stream(0)) > least  # repetition alone would show nothing
