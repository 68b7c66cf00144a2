"""The objective of several attacks: its terms, the model's state, and batch statistics."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pellucid.attacks import PGD, Linf
from pellucid.core import Batch, RecipeError, Stream
from pellucid.data import synthetic_images
from pellucid.training import Attacks, AttackSettings, ParetoWeighting, Recipe, UniformWeighting

LINF = AttackSettings(eps=0.1, steps=2)
RT = AttackSettings(space="rotate-translate", draws=3)


@pytest.fixture
def model(rng):
    with rng.child("model").forked():
        return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 3)).train()


@pytest.fixture
def batch(rng):
    data = synthetic_images(8, rng=rng, classes=3, size=8)
    return Batch(data.inputs, data.labels, data.ids)


def terms(objective, model, batch):
    return objective(model, batch, rng=Stream(1).at(batch.ids))


def attacked(model, batch, name="linf"):
    """What the objective's attack finds: the same attack from the same stream, with the model in eval mode."""
    return PGD(Linf(0.1), steps=2)(
        model, batch.inputs, batch.labels, rng=Stream(1).at(batch.ids).child("attack", name)
    ).inputs


def test_terms_are_the_losses_at_what_the_attacks_find(model, batch):
    x = attacked(model, batch)
    found = terms(Attacks(attacks={"linf": LINF, "rt": RT}, statistics="separate"), model, batch)
    assert list(found) == ["natural", "linf", "rt", "accuracy", "accuracy_linf", "accuracy_rt"]
    torch.testing.assert_close(found["natural"], F.cross_entropy(model(batch.inputs), batch.labels))
    torch.testing.assert_close(found["linf"], F.cross_entropy(model(x), batch.labels))
    assert not found["accuracy_linf"].requires_grad


def test_trades_is_the_divergence_from_the_answer_at_the_sample(model, batch):
    x = attacked(model, batch)
    objective = Attacks(attacks={"linf": LINF}, form="trades", statistics="separate")
    found = terms(objective, model, batch)["linf"]
    p, q = model(batch.inputs).softmax(1), model(x).softmax(1)
    torch.testing.assert_close(found, (p * (p.log() - q.log())).sum(1).mean())
    assert objective.anchored == ("natural",)
    assert Attacks(attacks={"linf": LINF}).anchored == ()


def test_with_trades_the_natural_term_always_counts_once(model, batch):
    objective = Attacks(attacks={"linf": LINF, "rt": RT}, form="trades")
    for settings in (UniformWeighting(), ParetoWeighting(rho=0.0, window=1, smoothing=0.0)):
        weighting = settings.build(anchored=objective.anchored)
        weighting(terms(objective, model, batch), parameters=[])
        assert weighting.weights["natural"] == 1
        assert weighting.weights["linf"] + weighting.weights["rt"] == pytest.approx(1)


def test_attacks_leave_batch_statistics_alone(model, batch):
    seen = []
    handle = model[1].register_forward_hook(lambda layer, inputs, output: seen.append((layer.training, len(inputs[0]))))
    before = model[1].num_batches_tracked.item()
    terms(Attacks(attacks={"linf": LINF, "rt": RT}), model, batch)
    handle.remove()
    trained = [size for training, size in seen if training]
    assert trained == [24]  # one pass of the three batches; the attacks ran in eval mode
    assert any(not training for training, _ in seen)
    assert model[1].num_batches_tracked.item() == before + 1
    assert all(module.training for module in model.modules())


def test_separate_statistics_normalize_each_batch_by_itself(model, batch):
    seen = []
    handle = model[1].register_forward_hook(lambda layer, inputs, output: seen.append((layer.training, len(inputs[0]))))
    terms(Attacks(attacks={"linf": LINF}, statistics="separate"), model, batch)
    handle.remove()
    assert [size for training, size in seen if training] == [8, 8]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attacks": {}}, "attacks needs one attack at least"),
        ({"attacks": {"natural": LINF}}, "an attack cannot be called 'natural'"),
        ({"attacks": {"a.b": LINF}}, "an attack cannot be called 'a.b'"),
    ],
)
def test_names_that_clash_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Attacks(**settings)


def test_mistakes_in_a_recipe_are_named():
    override = ("objective.attacks.linf.epps=0.2",)
    with pytest.raises(RecipeError, match=r"there is no key objective\.attacks\.linf\.epps; did you mean eps\?"):
        Recipe.load("pareto-fashion-mnist", overrides=override)
    with pytest.raises(RecipeError, match="max_px does nothing for an attack in linf"):
        Recipe.load("pareto-fashion-mnist", overrides=("objective.attacks.linf.max_px=1",))
