"""Random search: what chance alone finds, and what it costs. What it shares with PGD is tested there."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pellucid.attacks import Linf, RandomSearch
from pellucid.core import Stream


def above(x: Tensor) -> Tensor:
    """Class 1 where the one element exceeds 0.9."""
    return torch.cat([torch.zeros_like(x), x - 0.9], dim=1)


@pytest.mark.parametrize("draws", [1, 3])
def test_it_finds_what_chance_finds(draws: int, rng: Stream) -> None:
    """From 0.5 with radius 0.5 a draw exceeds 0.9 with probability 0.1."""
    x, y = torch.full((5000, 1), 0.5), torch.zeros(5000, dtype=torch.int64)
    found = RandomSearch(Linf(0.5), draws=draws)(above, x, y, rng=rng)
    chance = 1 - 0.9**draws
    assert abs(float(found.success.double().mean()) - chance) < 4 * (chance * (1 - chance) / 5000) ** 0.5
    assert 5000 * draws <= found.evaluations <= 5000 * (draws + 2)
    assert not found.zero_gradients.any()


def test_more_draws_are_never_weaker(rng: Stream) -> None:
    x, y = torch.full((500, 1), 0.5), torch.zeros(500, dtype=torch.int64)
    few = RandomSearch(Linf(0.5), draws=2)(above, x, y, rng=rng)
    many = RandomSearch(Linf(0.5), draws=9)(above, x, y, rng=rng)
    assert (many.loss >= few.loss).all()


def test_it_needs_no_gradient(rng: Stream) -> None:
    x, y = torch.full((50, 1), 0.5), torch.zeros(50, dtype=torch.int64)
    assert RandomSearch(Linf(0.5))(lambda x: above(x.detach().round(decimals=1)), x, y, rng=rng).success.any()


@pytest.mark.parametrize("early_stop", [False, True])
def test_what_is_wrong_as_it_is_stays_wrong(early_stop: bool, rng: Stream) -> None:
    """Nearly every draw would repair these; the start of those left is still each sample's own."""
    x, y = torch.cat([torch.full((20, 1), 0.95), torch.full((20, 1), 0.55)]), torch.zeros(40, dtype=torch.int64)
    start = torch.linspace(0, 0.4, 40)[:, None]
    found = RandomSearch(Linf(0.4), draws=1, early_stop=early_stop)(above, x, y, rng=rng, start=start)
    assert found.success.tolist() == [True] * 20 + ((x + start) > 0.9)[20:, 0].tolist()


def test_it_needs_a_draw() -> None:
    with pytest.raises(ValueError, match="draws must be at least 1, got 0"):
        RandomSearch(Linf(0.1), draws=0)
