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
    assert 5000 * draws <= found.evaluations <= 5000 * (draws + 1)
    assert not found.zero_gradients.any()


def test_more_draws_are_never_weaker(rng: Stream) -> None:
    x, y = torch.full((500, 1), 0.5), torch.zeros(500, dtype=torch.int64)
    few = RandomSearch(Linf(0.5), draws=2)(above, x, y, rng=rng)
    many = RandomSearch(Linf(0.5), draws=9)(above, x, y, rng=rng)
    assert (many.loss >= few.loss).all()


def test_it_needs_no_gradient(rng: Stream) -> None:
    x, y = torch.full((50, 1), 0.5), torch.zeros(50, dtype=torch.int64)
    assert RandomSearch(Linf(0.5))(lambda x: above(x.detach().round(decimals=1)), x, y, rng=rng).success.any()


def test_it_needs_a_draw() -> None:
    with pytest.raises(ValueError, match="draws must be at least 1, got 0"):
        RandomSearch(Linf(0.1), draws=0)
