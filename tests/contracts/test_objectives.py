"""Every objective: finite scalar terms, gradients for all parameters, the same whatever the batch or the call."""

import msgspec
import pytest
import torch
from torch import nn

from pellucid.core import Batch, Objective, Stream
from pellucid.data import synthetic_images
from pellucid.nn import with_etf_head
from pellucid.nn.models import ImplicitConvSettings, SmallCNNSettings
from pellucid.training import OBJECTIVES, AttackSettings, DotRegression, EquilibriumTraining, FixedWeighting

SETTINGS = {
    "standard": {},
    "adversarial": {"attack": AttackSettings(eps=0.1, steps=2)},
    "attacks": {
        "attacks": {
            "linf": AttackSettings(eps=0.1, steps=2),
            "flow": AttackSettings(space="flow", max_px=0.5, steps=2),
            "rt": AttackSettings(space="rotate-translate", draws=3),
        }
    },
    "dot-regression": {"class_balance": "counts", "counts": (5, 3, 4)},
    "equilibrium": {},
    "interaction-order": {"low": 0.3, "high": 0.7, "grid": 4, "fill": (0.5,)},
}


@pytest.fixture(params=sorted(OBJECTIVES))
def objective(request):
    return OBJECTIVES[request.param](**SETTINGS[request.param])


@pytest.fixture
def model(rng, objective):
    with rng.child("model").forked():
        if isinstance(objective, EquilibriumTraining):
            net = ImplicitConvSettings(image_size=8, channels=4, groups=2, classes=3).build()
            net.relu1 = nn.ReLU()  # a part whose flag must stay
            return net
        net = SmallCNNSettings(image_size=8, channels=(3, 4), hidden=5, classes=3).build()
    if not isinstance(objective, DotRegression):
        return net
    # Batch normalization in the head would mix the samples; without it features must have both signs.
    net.relu3 = nn.Tanh()
    return with_etf_head(net, batch_norm=False, rng=rng.child("head"))


@pytest.fixture
def batch(rng):
    data = synthetic_images(12, rng=rng, classes=3, size=8)
    return Batch(data.inputs, data.labels, data.ids)


def terms(objective, model, batch, seed=3):
    return objective(model, batch, rng=Stream(seed).at(batch.ids))


def test_the_kind_is_the_tables_key():
    assert {kind: entry.__struct_config__.tag for kind, entry in OBJECTIVES.items()} == {
        kind: kind for kind in OBJECTIVES
    }
    assert set(SETTINGS) == set(OBJECTIVES)


def test_terms_are_finite_scalars(objective, model, batch):
    assert isinstance(objective, Objective)
    for term in terms(objective, model, batch).values():
        assert term.shape == ()
        assert term.isfinite()


def test_every_parameter_gets_a_gradient(objective, model, batch):
    FixedWeighting()(terms(objective, model, batch), parameters=[]).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_flags_and_global_randomness_are_left_alone(objective, model, batch):
    model.train()
    model.relu1.eval()
    before = torch.get_rng_state()
    terms(objective, model, batch)
    assert [m.training for m in model.modules()] == [m is not model.relu1 for m in model.modules()]
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), before)


def test_the_whole_is_the_mean_of_its_halves(objective, model, batch):
    halves = [
        terms(objective, model, Batch(batch.inputs[s], batch.labels[s], batch.ids[s])) for s in (slice(6), slice(6, 12))
    ]
    for name, value in terms(objective, model, batch).items():
        mean = (halves[0][name] + halves[1][name]) / 2
        assert mean.item() == pytest.approx(value.item(), abs=1e-5)


def test_settings_survive_the_way_to_json(objective):
    kind = type(objective)
    assert msgspec.convert(msgspec.to_builtins(objective), kind) == objective
