"""Every weighting: one differentiable scalar, unused terms only logged, a state that goes through JSON and back."""

import json

import pytest
import torch

from pellucid.core import RecipeError, Weighting
from pellucid.training import WEIGHTINGS, FixedWeighting

# What a kind needs to show its whole life within a few steps.
SETTINGS = {"pareto": {"window": 3, "resolve_every": 2, "smoothing": 0.5}}


@pytest.fixture(params=sorted(WEIGHTINGS))
def settings(request):
    return WEIGHTINGS[request.param](**SETTINGS.get(request.param, {}))


@pytest.fixture
def weighting(settings):
    return settings.build()


@pytest.fixture
def parameters():
    return [torch.tensor([1.0, 2.0], requires_grad=True)]


def terms(parameters, step=0):
    (p,) = parameters
    return {"one": (p**2).sum() + step % 3, "two": (p - 3).abs().sum(), "accuracy": torch.tensor(0.25)}


def test_the_kind_is_the_tables_key():
    assert {kind: entry.__struct_config__.tag for kind, entry in WEIGHTINGS.items()} == {
        kind: kind for kind in WEIGHTINGS
    }


def test_the_result_is_one_scalar_with_a_gradient(weighting, parameters):
    assert isinstance(weighting, Weighting)
    total = weighting(terms(parameters), parameters=parameters)
    assert total.shape == ()
    total.backward()
    assert parameters[0].grad.isfinite().all()
    assert parameters[0].grad.abs().sum() > 0


def test_the_number_is_the_sum_of_the_terms_by_weight(weighting, parameters):
    for step in range(8):
        total = weighting(terms(parameters, step), parameters=parameters)
        weights = weighting.weights or {"one": 1, "two": 1}  # a fixed weighting without numbers counts each once
        parts = [weight * terms(parameters, step)[name].item() for name, weight in weights.items()]
        assert total.item() == pytest.approx(sum(parts), rel=1e-6)
        assert min(weights.values()) >= 0
        if not isinstance(weighting, FixedWeighting):
            assert sum(weights.values()) == pytest.approx(1)


def test_its_state_comes_back_from_json(settings, parameters):
    weighting = settings.build()
    for step in range(5):
        weighting(terms(parameters, step), parameters=parameters)
    state = json.loads(json.dumps(weighting.state_dict()))
    other = settings.build()
    other.load_state_dict(state)
    assert other.state_dict() == weighting.state_dict()
    for step in range(5, 12):  # and goes on bit for bit
        first, second = (w(terms(parameters, step), parameters=parameters) for w in (weighting, other))
        assert torch.equal(first, second)
    assert other.state_dict() == weighting.state_dict()


def test_anchored_terms_count_once_beside_the_others(settings, parameters):
    if isinstance(settings, FixedWeighting):
        return
    weighting = settings.build(anchored=("one", "absent"))
    for step in range(6):
        weighting(terms(parameters, step), parameters=parameters)
        assert weighting.weights == {"one": 1.0, "two": pytest.approx(1.0)}
    alone = settings.build(anchored=("one", "two"))
    alone(terms(parameters), parameters=parameters)
    assert alone.weights == {"one": 1.0, "two": 1.0}


def test_no_term_to_train_with_is_refused(weighting):
    with pytest.raises(RecipeError, match="no term has a gradient to train with; the terms are accuracy"):
        weighting({"accuracy": torch.tensor(0.5)}, parameters=[])
