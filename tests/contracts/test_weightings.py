"""Every weighting: one differentiable scalar, unused terms only logged, a state that goes through JSON and back."""

import json

import pytest
import torch

from pellucid.core import Weighting
from pellucid.training import WEIGHTINGS


@pytest.fixture(params=sorted(WEIGHTINGS))
def weighting(request):
    return WEIGHTINGS[request.param]().build()


@pytest.fixture
def parameters():
    return [torch.tensor([1.0, 2.0], requires_grad=True)]


def terms(parameters):
    (p,) = parameters
    return {"one": (p**2).sum(), "two": (p - 3).abs().sum(), "accuracy": torch.tensor(0.25)}


def test_the_result_is_one_scalar_with_a_gradient(weighting, parameters):
    assert isinstance(weighting, Weighting)
    total = weighting(terms(parameters), parameters=parameters)
    assert total.shape == ()
    total.backward()
    assert parameters[0].grad.isfinite().all()
    assert parameters[0].grad.abs().sum() > 0


def test_its_state_comes_back_from_json(weighting, parameters):
    weighting(terms(parameters), parameters=parameters)
    state = json.loads(json.dumps(weighting.state_dict()))
    other = type(weighting)().build()
    other.load_state_dict(state)
    assert other.state_dict() == weighting.state_dict()
    first, second = (w(terms(parameters), parameters=parameters) for w in (weighting, other))
    assert torch.equal(first, second)
