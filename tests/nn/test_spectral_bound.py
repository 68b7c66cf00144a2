"""The gain of a map stays below its bound: of the map itself, seen in its dense matrix."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from pellucid.nn import SpectralBound, operator_norm

MAPS: dict[str, Callable[[], SpectralBound]] = {
    "linear": lambda: SpectralBound(nn.Linear(9, 7)),
    "conv": lambda: SpectralBound(nn.Conv2d(2, 3, 3, padding=1), size=(8, 8)),
    "strided": lambda: SpectralBound(nn.Conv2d(2, 3, 5, stride=2, padding=2), size=(8, 8)),
    "transposed": lambda: SpectralBound(
        nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1, output_padding=1), size=(4, 4)
    ),
}


def shape_of(bounded: SpectralBound) -> tuple[int, ...]:
    return (9,) if bounded.size is None else (2, *bounded.size)


def dense(map: Callable[[torch.Tensor], torch.Tensor], shape: tuple[int, ...]) -> torch.Tensor:
    """The matrix of an affine map, one basis vector after the other."""
    n = torch.Size(shape).numel()
    with torch.no_grad():
        rows = map(torch.eye(n).view(n, *shape)) - map(torch.zeros(1, *shape))
    return rows.flatten(1).T


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("kind", MAPS)
def test_gain_is_the_largest_singular_value_of_the_dense_matrix(kind: str) -> None:
    bounded = MAPS[kind]().eval()
    exact = float(torch.linalg.matrix_norm(dense(bounded, shape_of(bounded)), 2))
    assert bounded.gain(1000) == pytest.approx(exact, rel=1e-3)


@pytest.mark.parametrize("kind", MAPS)
def test_gain_stays_at_the_bound_after_every_step_of_an_optimizer(kind: str) -> None:
    bounded = MAPS[kind]()
    optimizer = torch.optim.SGD(bounded.parameters(), lr=0.1, momentum=0.9)
    x = torch.randn(6, *shape_of(bounded))
    gains = []
    for _ in range(25):
        optimizer.zero_grad()
        loss = (bounded(x) - 3).square().mean()  # wants more gain than there may be
        loss.backward()
        optimizer.step()
        bounded(x)  # the next pass follows the weights
        with torch.no_grad():
            gains.append(float(torch.linalg.matrix_norm(dense(bounded.eval(), shape_of(bounded)), 2)))
        bounded.train()
    assert max(gains) < 1.02


def test_reshaped_kernel_does_not_bound_a_convolution() -> None:
    conv = nn.Conv2d(8, 8, 5, padding=2, bias=False)
    nn.init.constant_(conv.weight, 0.1)  # a wide blur, the worst case
    by_kernel = SpectralBound(conv, of="kernel", size=(14, 14)).eval()
    kernel = by_kernel.weight.detach().flatten(1)
    assert float(torch.linalg.matrix_norm(kernel, 2)) == pytest.approx(1, rel=1e-4)
    assert 4 < by_kernel.gain() <= 5


def test_scale_leaves_the_bound_again_when_the_loss_wants_less() -> None:
    bounded = SpectralBound(nn.Linear(5, 5, bias=False), bound=0.5)
    assert float(bounded.scale.detach()) == pytest.approx(0.5)
    x = torch.randn(4, 5)
    bounded(x).square().sum().backward()
    assert bounded.scale.grad is not None
    assert float(bounded.scale.grad) > 0
    bounded.zero_grad()
    (-bounded(x).square().sum()).backward()
    assert float(bounded.scale.grad) == 0


def test_weight_is_computed_once_while_held() -> None:
    bounded = SpectralBound(nn.Linear(4, 4))
    with bounded.held():
        first = bounded.weight
        assert bounded.weight is first
        with bounded.held():
            assert bounded.weight is first
    assert bounded.weight is not first


def test_eval_mode_changes_nothing() -> None:
    bounded = SpectralBound(nn.Linear(4, 4)).eval()
    before = bounded.vector.clone()
    assert torch.equal(bounded.weight, bounded.weight)
    assert torch.equal(bounded.vector, before)


def test_state_brings_back_the_same_weight() -> None:
    first, second = (MAPS["conv"]().eval() for _ in range(2))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.weight, second.weight)


def test_norm_of_known_maps() -> None:
    assert operator_norm(lambda x: 3 * x + 1, (4,)) == pytest.approx(3)
    assert operator_norm(nn.AvgPool2d(2), (1, 4, 4)) == pytest.approx(0.5)
    assert operator_norm(lambda x: 0 * x, (4,)) == 0


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="bound must be a positive number, got 0"):
        SpectralBound(nn.Linear(9, 7), bound=0)
    with pytest.raises(ValueError, match="size is needed for a convolution"):
        SpectralBound(nn.Conv2d(1, 1, 3))
    with pytest.raises(TypeError, match=r"map must be nn\.Linear, nn\.Conv2d or nn\.ConvTranspose2d, got ReLU"):
        SpectralBound(nn.ReLU())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="map must pad with zeros"):
        SpectralBound(nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular"), size=(4, 4))
    with pytest.raises(ValueError, match="give `size`"):
        SpectralBound(nn.Conv2d(1, 1, 3), of="kernel").gain()
