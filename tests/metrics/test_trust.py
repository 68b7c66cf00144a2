"""The checks catch models whose gradients mislead, and pass honest ones."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from pellucid.attacks import PGD, Linf, RandomSearch
from pellucid.core import DataError, ModelError, Stream, wilson
from pellucid.metrics import attacked, more_steps, random_search_beats, transfer_accuracy


@pytest.fixture
def honest(rng: Stream) -> nn.Module:
    with rng.child("net").forked():
        return nn.Sequential(nn.Linear(10, 30), nn.Tanh(), nn.Linear(30, 3)).eval()


class Masked(nn.Module):
    """The same answers, but the input is quantized on the way: a staircase has no slope."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        flat = (x * 50).round() / 50
        return self.model(flat) + 0 * x.sum(1, keepdim=True)  # type: ignore[no-any-return]


@pytest.fixture
def x(rng: Stream) -> Tensor:
    return rng.child("x").uniform((80, 10))


@pytest.fixture
def y(honest: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return honest(x).argmax(1)


def test_random_search_exposes_masked_gradients(honest: nn.Module, x: Tensor, y: Tensor, rng: Stream) -> None:
    space = Linf(0.15)
    attack, search = PGD(space, start="zero"), RandomSearch(space)
    fine = random_search_beats(honest, x, y, attack, search, rng=rng)
    assert not fine.beaten.any()
    assert fine.attack.value > fine.search.value
    assert 80 * (attack.cost + search.cost - 3) <= fine.evaluations <= 80 * (attack.cost + search.cost)
    caught = random_search_beats(Masked(honest), x, y, attack, search, rng=rng)
    assert caught.beaten.sum() >= 5
    assert caught.search.value > caught.attack.value


def test_zero_gradients_expose_them_too(honest: nn.Module, x: Tensor, y: Tensor, rng: Stream) -> None:
    masked = attacked(Masked(honest), x, y, PGD(Linf(0.15), steps=4), rng=rng)
    assert masked.zero_gradients.tolist() == [4] * 80
    assert not attacked(honest, x, y, PGD(Linf(0.15), steps=4), rng=rng).zero_gradients.any()


def test_transfer_exposes_them_as_well(honest: nn.Module, x: Tensor, y: Tensor, rng: Stream) -> None:
    masked, attack = Masked(honest), PGD(Linf(0.15), start="zero")
    own = attacked(masked, x, y, attack, rng=rng)
    foreign = attacked(honest, x, y, attack, rng=rng)
    transferred = transfer_accuracy(masked, foreign.inputs, y, batch_size=33)
    assert transferred.value < float((~own.success).double().mean()) - 0.2
    assert transfer_accuracy(honest, x, y) == wilson(80, 80)


def test_more_steps_are_stronger_on_an_honest_network(honest: nn.Module, x: Tensor, y: Tensor, rng: Stream) -> None:
    result = more_steps(honest, x, y, lambda steps: PGD(Linf(0.1), steps=steps), [1, 4, 16], rng=rng)
    assert result.steps.tolist() == [1, 4, 16]
    assert (result.loss.diff() > 0).all()
    assert (result.accuracy.value.diff() <= 0).all()
    assert result.worse.tolist() == [0, 0]
    assert result.zero_gradients.shape == (3, 80)
    assert 80 * (3 + 9 + 33) <= result.evaluations <= 80 * (4 + 10 + 34)


def test_attacked_does_not_depend_on_the_batch_size(honest: nn.Module, x: Tensor, y: Tensor, rng: Stream) -> None:
    honest, x = honest.double(), x.double()
    whole = attacked(honest, x, y, PGD(Linf(0.1)), rng=rng)
    parts = attacked(honest, x, y, PGD(Linf(0.1)), rng=rng, batch_size=7)
    direct = PGD(Linf(0.1))(honest, x, y, rng=rng)
    for found in (parts, direct):
        assert_close(found.inputs, whole.inputs)
        assert_close(found.loss, whole.loss)
        assert torch.equal(found.success, whole.success)
        assert found.evaluations == whole.evaluations


def test_bad_input(honest: nn.Module, x: Tensor, y: Tensor, rng: Stream) -> None:
    with pytest.raises(ValueError, match=r"steps must be ascending numbers of steps, got \[4, 1\]"):
        more_steps(honest, x, y, lambda steps: PGD(Linf(0.1), steps=steps), [4, 1], rng=rng)
    with pytest.raises(DataError, match="at least one sample"):
        attacked(honest, x[:0], y[:0], PGD(Linf(0.1)), rng=rng)
    with pytest.raises(DataError, match=r"y must be int64 of shape \(80,\)"):
        transfer_accuracy(honest, x, y[:3])
    with pytest.raises(ValueError, match="rng is bound to 3 samples but x holds 80"):
        attacked(honest, x, y, PGD(Linf(0.1)), rng=rng.at([1, 2, 3]))
    with pytest.raises(ModelError, match="NaN or infinity for sample 0"):
        transfer_accuracy(lambda x: x * torch.nan, x, y)
