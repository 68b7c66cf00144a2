import pytest
import torch

from pellucid.core import RecipeError
from pellucid.training import FixedWeighting


@pytest.fixture
def terms():
    clean, flow = torch.tensor(2.0, requires_grad=True), torch.tensor(3.0, requires_grad=True)
    return {"clean": clean, "flow": flow, "accuracy": torch.tensor(0.5)}


def test_named_terms_are_summed_with_their_weights(terms):
    assert FixedWeighting({"clean": 1.0, "flow": 0.5})(terms, parameters=[]).item() == 3.5


def test_without_weights_every_term_with_a_gradient_counts_once(terms):
    assert FixedWeighting()(terms, parameters=[]).item() == 5.0


def test_unknown_and_absent_terms_are_refused(terms):
    with pytest.raises(RecipeError, match="names 'energy' but the terms are accuracy, clean, flow"):
        FixedWeighting({"energy": 1.0})(terms, parameters=[])
    with pytest.raises(RecipeError, match="no term has a gradient"):
        FixedWeighting()({"accuracy": torch.tensor(0.5)}, parameters=[])
