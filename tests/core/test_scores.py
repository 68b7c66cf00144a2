"""Scores against closed forms, at extreme logits, and their gradients against finite differences."""

import pytest
import torch
from torch.testing import assert_close

from pellucid.core import cross_entropy, log_odds, log_probability, logit, margin, probability

SCORES = (cross_entropy, log_odds, log_probability, logit, margin, probability)


@pytest.fixture
def z(rng):
    return 3 * rng.child("logits").normal((6, 5), dtype=torch.float64)


@pytest.fixture
def y(rng):
    return rng.child("labels").integers(5, (6,))


def test_scores_equal_their_definitions(z, y):
    rows = torch.arange(6)
    p = z.softmax(1)[rows, y]
    assert_close(logit(z, y), z[rows, y])
    assert_close(probability(z, y), p)
    assert_close(log_probability(z, y), z.log_softmax(1)[rows, y])
    assert_close(cross_entropy(z, y), torch.nn.functional.cross_entropy(z, y, reduction="none"))
    assert_close(log_odds(z, y), (p / (1 - p)).log())
    others = z.clone()
    others[rows, y] = -torch.inf
    assert_close(margin(z, y), z[rows, y] - others.max(1).values)


@pytest.mark.parametrize("score", SCORES)
def test_one_class_for_all_rows_is_the_same_as_a_vector(score, z):
    assert_close(score(z, 2), score(z, torch.full((6,), 2)))


@pytest.mark.parametrize("score", SCORES)
def test_all_but_logit_ignore_a_shift_of_the_logits(score, z, y):
    shifted = score(z + 7, y) - score(z, y)
    assert_close(shifted, torch.full_like(shifted, 7.0 if score is logit else 0.0))


def test_two_classes_have_log_odds_equal_to_their_difference_and_margin(rng):
    z = rng.normal((8, 2), dtype=torch.float64)
    assert_close(log_odds(z, 0), z[:, 0] - z[:, 1])
    assert_close(log_odds(z, 0), margin(z, 0))
    assert_close(log_odds(z, 0), -log_odds(z, 1))


def test_log_odds_do_not_saturate():
    z = torch.tensor([[1e4, 0.0, 0.0], [-1e4, 0.0, 0.0]])
    assert_close(log_odds(z, 0), torch.tensor([1e4, -1e4]) - torch.tensor(2.0).log())


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("size", [1e2, 1e4, 1e30])
def test_extreme_logits_give_finite_scores_and_gradients(score, size):
    z = torch.tensor([[size, 0.0, -size], [-size, size, 0.0]], requires_grad=True)
    found = score(z, torch.tensor([0, 0]))
    assert found.isfinite().all()
    (gradient,) = torch.autograd.grad(found.sum(), z)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("score", SCORES)
def test_gradients_equal_finite_differences(score, z, y):
    assert torch.autograd.gradcheck(lambda logits: score(logits, y), (z.requires_grad_(),))
