"""Facts about attacks: each shows the trick that it is there for, and none shows where all is well."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from pellucid.attacks import PGD, Linf, RandomSearch, Square
from pellucid.core import Perturbed, Stream
from pellucid.metrics import repeats, slopes, trust


class Plane(nn.Module):
    """Two classes, split where the features sum to 0; `masked` rounds its input, which leaves no gradient."""

    def __init__(self, *, masked: bool = False, noise: float = 0.0) -> None:
        super().__init__()
        self.masked, self.noise = masked, noise

    def forward(self, x: Tensor) -> Tensor:
        if self.masked:
            x = (50 * x).detach().round() / 50 + 0 * x
        lead = x.sum(1) + self.noise * torch.randn(len(x))
        return torch.stack([lead, -lead], 1)


@pytest.fixture
def points(rng: Stream) -> tuple[Tensor, Tensor]:
    x = rng.child("x").normal((60, 3))
    return x, (x.sum(1) < 0).long()


SPACE = Linf(0.3, bounds=None)


def test_all_is_well_with_an_honest_model(points: tuple[Tensor, Tensor], rng: Stream) -> None:
    x, y = points
    beside = {"search": RandomSearch(SPACE, draws=20), "square": Square(SPACE, queries=20)}
    found = trust(Plane(), x, y, PGD(SPACE, steps=10), beside, rng=rng)
    assert found.gap == 0
    assert found.lowest == found.accuracy
    assert found.accuracy.value == pytest.approx(float((x.sum(1).abs() > 0.9).double().mean()))
    assert not any(one.any() for one in found.beaten.values())
    assert found.beside["search"].value >= found.accuracy.value
    assert not found.repeats.changed.any()
    assert float(found.repeats.spread.max()) == 0
    assert (found.slopes.zero, found.slopes.setback) == (0, pytest.approx(0, abs=1e-6))
    assert not found.slopes.silent.any()
    assert found.slopes.falling is not None
    assert not found.slopes.falling.any()
    assert found.evaluations > 60 * (21 + 20 + 2)


def test_masked_gradients_are_seen_by_what_needs_none(points: tuple[Tensor, Tensor], rng: Stream) -> None:
    x, y = points
    model, beside = Plane(masked=True), {"search": RandomSearch(SPACE), "square": Square(SPACE, queries=40)}
    found = trust(model, x, y, PGD(SPACE, steps=10, start="zero"), beside, rng=rng)
    assert found.slopes.zero == 1
    assert found.slopes.silent.all()
    assert found.gap > 0.1
    assert int(found.beaten["square"].sum()) >= int(found.beaten["search"].sum()) > 0
    assert found.lowest.value <= min(one.value for one in found.beside.values())


def test_answers_at_random_are_seen(points: tuple[Tensor, Tensor]) -> None:
    found = repeats(Plane(noise=1.0), points[0], batch_size=7)
    assert found.changed.any()
    assert float(found.spread.min()) > 0


def test_of_a_dropped_sample_the_last_loss_seen_counts() -> None:
    nan = torch.nan
    trace = torch.tensor([[1.0, 1.0, 3.0], [2.0, nan, 5.0], [1.5, nan, 1.0]])
    zero = torch.tensor([0, 1, 2])
    inputs = torch.zeros(3, 2)
    found = Perturbed(inputs, inputs, zero > 0, zero.float(), 0, zero, trace=trace)
    facts = slopes(found, steps=2)
    assert facts.falling is not None
    assert facts.falling.tolist() == [False, False, True]
    assert facts.setback == pytest.approx((0.5 + 0 + 4) / 3)
    assert facts.silent.tolist() == [False, False, True]
    assert_close(torch.tensor(facts.zero), torch.tensor(0.5))
    without = slopes(Perturbed(inputs, inputs, zero > 0, zero.float(), 0, 0 * zero), steps=2)
    assert (without.falling, without.setback, without.zero) == (None, None, 0)
