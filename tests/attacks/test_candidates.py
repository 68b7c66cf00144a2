"""Ranking: a misclassified candidate beats any correctly classified one, whatever their losses."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.testing import assert_close

from pellucid.attacks import RandomSearch, cross_entropy
from pellucid.attacks._candidates import Candidates
from pellucid.core import Stream


class Row:
    """A space whose one parameter picks a row of probabilities; enough for the ranking."""

    budget = 1.0

    def zeros(self, x: Tensor) -> Tensor:
        return torch.zeros(len(x), 1)

    def sample(self, x: Tensor, rng: Stream) -> Tensor:
        return torch.zeros(len(x), 1)

    def render(self, x: Tensor, params: Tensor) -> Tensor:
        return params

    def ascent(self, x: Tensor, grad: Tensor, size: float) -> Tensor:
        return grad

    def project(self, x: Tensor, params: Tensor) -> Tensor:
        return params

    def scaled(self, factor: float) -> Row:
        return self

    def size(self, x: Tensor, params: Tensor) -> Tensor:
        return params[:, 0]


ROWS = torch.tensor(
    [
        [0.30, 0.25, 0.25, 0.20],  # right, cross-entropy 1.20
        [0.45, 0.55, 0.00, 0.00],  # wrong, cross-entropy 0.80
        [0.40, 0.60, 0.00, 0.00],  # wrong, cross-entropy 0.92
        [0.90, 0.10, 0.00, 0.00],  # right, cross-entropy 0.11
    ]
)


def model(params: Tensor) -> Tensor:
    return ROWS.clamp(min=1e-9).log()[params[:, 0].long()]


def kept(*offers: int) -> int:
    found = Candidates(model, Row(), cross_entropy, torch.zeros(1, 1), torch.tensor([0]), Stream(0))
    for offer in offers:
        found.offer(torch.tensor([[float(offer)]]))
    result = found.result()
    assert result.evaluations == len(offers)
    return int(result.params)


def test_wrong_beats_a_higher_loss() -> None:
    assert kept(0, 1) == 1
    assert kept(1, 0) == 1


def test_among_wrong_ones_the_highest_loss_wins() -> None:
    assert kept(1, 2) == 2
    assert kept(2, 1) == 2


def test_when_all_are_right_the_highest_loss_is_returned() -> None:
    assert kept(3, 0, 3) == 0


def test_loss_reported_is_that_of_the_returned_candidate() -> None:
    found = RandomSearch(Row(), draws=2)
    assert found.cost == 1  # a space that scaling leaves alone has nothing to search
    candidates = Candidates(model, Row(), cross_entropy, torch.zeros(1, 1), torch.tensor([0]), Stream(0))
    candidates.offer(torch.tensor([[1.0]]))
    candidates.offer(torch.tensor([[0.0]]))
    assert_close(candidates.result().loss, torch.tensor([-torch.log(torch.tensor(0.45))]))
