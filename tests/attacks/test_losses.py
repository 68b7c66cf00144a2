"""Losses: equal to the textbook where that is exact, and alive where it saturates."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from pellucid.attacks import LOSSES, cross_entropy, dlr_loss, log_odds_loss, margin_loss, targeted_dlr_loss
from pellucid.core import Stream


def test_cross_entropy_is_minus_log_probability(rng: Stream) -> None:
    z, y = 3 * rng.child("z").normal((20, 5), dtype=torch.float64), rng.child("y").integers(5, (20,))
    assert_close(cross_entropy(z, y), F.cross_entropy(z, y, reduction="none"))


def test_cross_entropy_keeps_its_gradient_where_the_usual_form_loses_it() -> None:
    z, y = torch.tensor([[40.0, 0.0]], requires_grad=True), torch.tensor([0])
    (usual,) = torch.autograd.grad(F.cross_entropy(z, y), z)
    (ours,) = torch.autograd.grad(cross_entropy(z, y).sum(), z)
    assert float(usual[0, 0]) == 0
    assert_close(ours, torch.tensor([[-1.0, 1.0]]) * torch.exp(torch.tensor(-40.0)), rtol=1e-5, atol=0)


def test_margin_changes_sign_where_the_prediction_does() -> None:
    z = torch.tensor([[2.0, 1.0, 0.0], [1.0, 3.0, 0.0]])
    assert_close(margin_loss(z, torch.tensor([0, 0])), torch.tensor([-1.0, 2.0]))


def test_for_two_classes_log_odds_are_the_margin(rng: Stream) -> None:
    z, y = rng.normal((9, 2)), torch.arange(9) % 2
    assert_close(log_odds_loss(z, y), margin_loss(z, y))


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_every_loss_is_per_sample_and_has_the_right_gradient(name: str, rng: Stream) -> None:
    z, y = rng.child("z").normal((6, 4), dtype=torch.float64).requires_grad_(), rng.child("y").integers(4, (6,))
    assert LOSSES[name](z, y).shape == (6,)
    assert torch.autograd.gradcheck(lambda z: LOSSES[name](z, y), z)


def test_dlr_by_hand() -> None:
    z = torch.tensor([[4.0, 1.0, 2.0, 0.0]]).expand(4, 4)
    assert_close(dlr_loss(z, torch.arange(4)), torch.tensor([-2 / 3, 1.0, 2 / 3, 4 / 3]))
    lead = 4 - (1 + 0) / 2
    found = targeted_dlr_loss(z, torch.arange(4), torch.tensor([2, 0, 0, 1]))
    assert_close(found, torch.tensor([-2.0, 3, 2, 1]) / lead)


def test_dlr_changes_neither_by_a_shift_nor_by_a_scale(rng: Stream) -> None:
    z, y, target = rng.child("z").normal((9, 5), dtype=torch.float64), torch.arange(9) % 5, torch.arange(1, 10) % 5
    assert_close(dlr_loss(7 * z + 3, y), dlr_loss(z, y))
    assert_close(targeted_dlr_loss(7 * z + 3, y, target), targeted_dlr_loss(z, y, target))
    assert torch.equal(dlr_loss(z, y) > 0, z.argmax(1) != y)


def test_dlr_of_equal_logits_is_finite() -> None:
    z, y = torch.zeros(2, 4), torch.tensor([0, 1])
    assert dlr_loss(z, y).tolist() == targeted_dlr_loss(z, y, 1 - y).tolist() == [0, 0]


def test_dlr_needs_enough_classes() -> None:
    z, y = torch.zeros(2, 3), torch.tensor([0, 1])
    with pytest.raises(ValueError, match="the DLR loss needs at least 3 classes, got 2; use the margin loss"):
        dlr_loss(z[:, :2], y)
    with pytest.raises(ValueError, match="the targeted DLR loss needs at least 4 classes, got 3; use the DLR loss"):
        targeted_dlr_loss(z, y, 1 - y)
