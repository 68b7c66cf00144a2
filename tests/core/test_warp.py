"""Warp: exact where it can be, the field's own conventions where it cannot, and sharp gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from pellucid.core import PADDINGS, Padding, Stream, warp

each_padding = pytest.mark.parametrize("padding", PADDINGS)


def shifted(x: Tensor, down: int, right: int) -> Tensor:
    """Shift by slicing, zeros outside."""
    made = torch.zeros_like(x)
    height, width = x.shape[-2:]
    rows, columns = slice(max(0, down), min(height, height + down)), slice(max(0, right), min(width, width + right))
    from_rows = slice(max(0, -down), min(height, height - down))
    from_columns = slice(max(0, -right), min(width, width - right))
    made[..., rows, columns] = x[..., from_rows, from_columns]
    return made


@each_padding
@pytest.mark.parametrize("shape", [(2, 3, 5, 8), (1, 1, 1, 1), (2, 1, 1, 7), (3, 2, 28, 28), (1, 1, 33, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_nothing_moves_nothing_changes(
    shape: tuple[int, ...], padding: Padding, dtype: torch.dtype, rng: Stream
) -> None:
    x = rng.uniform(shape).to(dtype)
    assert torch.equal(warp(x, padding=padding), x)
    flow = torch.zeros(shape[0], 2, *shape[2:])
    assert torch.equal(warp(x, flow=flow, deg=torch.zeros(shape[0]), shift=torch.zeros(shape[0], 2)), x)


@pytest.mark.parametrize(("down", "right"), [(1, 0), (0, 1), (2, -3), (-4, 1), (0, -8), (4, 7)])
def test_whole_shifts_are_slices(down: int, right: int, rng: Stream) -> None:
    x = rng.uniform((2, 3, 5, 8))
    assert torch.equal(warp(x, shift=(down, right)), shifted(x, down, right))


@each_padding
@pytest.mark.parametrize("turns", [1, 2, 3, -1, 4])
def test_quarter_turns_are_those_of_torch(turns: int, padding: Padding, rng: Stream) -> None:
    x = rng.uniform((2, 3, 9, 9))
    assert_close(warp(x, deg=90.0 * turns, padding=padding), torch.rot90(x, turns, (-2, -1)), atol=1e-5, rtol=0)


def test_the_turn_comes_before_the_shift(rng: Stream) -> None:
    x = rng.uniform((1, 1, 9, 9), dtype=torch.float64)
    both = warp(x, deg=90, shift=(2, -1))
    assert_close(both, warp(warp(x, deg=90), shift=(2, -1)), atol=1e-9, rtol=0)


def disc(height: int, width: int, radius: float) -> Tensor:
    """A soft disc in the middle."""
    rows = torch.arange(height, dtype=torch.float64)[:, None] - (height - 1) / 2
    columns = torch.arange(width, dtype=torch.float64) - (width - 1) / 2
    return torch.sigmoid(2 * (radius - (rows.square() + columns.square()).sqrt()))[None, None]


@pytest.mark.parametrize(("height", "width"), [(32, 32), (24, 48), (61, 33)])
def test_a_circle_stays_a_circle(height: int, width: int) -> None:
    """A turn that scales rows and columns apart shears it as soon as H differs from W."""
    x = disc(height, width, 7)
    assert_close(warp(x, deg=33), x, atol=0.06, rtol=0)
    assert float((warp(x, deg=33) - x).abs().mean()) < 0.004


def test_turning_back_gives_nearly_the_same() -> None:
    x = warp(disc(24, 48, 6), shift=(2, 5))
    assert_close(warp(warp(x, deg=20), deg=-20), x, atol=0.09, rtol=0)


@pytest.mark.parametrize(("padding", "mean"), [("border", 0.56), ("zeros", 0.50)])
def test_a_ramp_by_hand(padding: Padding, mean: float) -> None:
    ramp = (torch.arange(5) / 4).expand(1, 1, 4, 5)
    flow = torch.zeros(1, 2, 4, 5)
    flow[:, 1] = 0.3
    assert_close(warp(ramp, flow=flow, padding=padding).mean(), torch.tensor(mean))


def test_outside_lies_what_the_padding_says() -> None:
    x = torch.tensor([[[[1.0, 2.0, 3.0]]]])
    right = (0, 2)
    assert warp(x, shift=right).flatten().tolist() == [0, 0, 1]
    assert warp(x, shift=right, padding="border").flatten().tolist() == [1, 1, 1]
    assert warp(x, shift=right, padding="reflect").flatten().tolist() == [3, 2, 1]
    assert warp(x, shift=(0, 0.5)).flatten().tolist() == [0.5, 1.5, 2.5]


def test_the_slope_of_a_plane_is_the_plane(rng: Stream) -> None:
    rows, columns = torch.arange(6.0).double()[:, None], torch.arange(8.0).double()
    plane = (0.3 * rows - 0.2 * columns + 1).expand(1, 1, 6, 8)
    flow = rng.uniform((1, 2, 6, 8), low=0.1, high=0.4, dtype=torch.float64).requires_grad_()
    made = warp(plane, flow=flow)
    (grad,) = torch.autograd.grad(made[..., 1:-1, 1:-1].sum(), flow)
    expected = torch.zeros_like(grad)
    expected[:, 0, 1:-1, 1:-1], expected[:, 1, 1:-1, 1:-1] = 0.3, -0.2
    assert_close(grad, expected, atol=1e-12, rtol=0)


@each_padding
def test_gradients_are_those_of_finite_differences(padding: Padding, rng: Stream) -> None:
    """In float64, at positions that no pixel center is near: there the bilinear surface has a kink."""
    x = rng.child("x").uniform((2, 2, 4, 5), dtype=torch.float64).requires_grad_()
    flow = (0.3 + 0.1 * rng.child("flow").uniform((2, 2, 4, 5), dtype=torch.float64)).requires_grad_()
    deg = torch.tensor([0.5, -0.7], dtype=torch.float64, requires_grad=True)
    shift = torch.tensor([[1.05, -2.02], [0.03, 0.07]], dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(
        lambda x, flow, deg, shift: warp(x, flow=flow, deg=deg, shift=shift, padding=padding), (x, flow, deg, shift)
    )


def test_samples_move_by_their_own_numbers(rng: Stream) -> None:
    x, flow = rng.child("x").uniform((3, 2, 7, 9)), rng.child("flow").uniform((3, 2, 7, 9), low=-2, high=2)
    deg, shift = torch.tensor([10.0, -25.0, 0.0]), torch.tensor([[0.5, 1.0], [-2.0, 0.25], [0.0, 3.0]])
    whole = warp(x, flow=flow, deg=deg, shift=shift)
    for row in range(3):
        one = slice(row, row + 1)
        assert torch.equal(warp(x[one], flow=flow[one], deg=deg[one], shift=shift[one]), whole[one])
        assert_close(
            warp(x[one], flow=flow[one], deg=float(deg[row]), shift=(float(shift[row, 0]), float(shift[row, 1]))),
            whole[one],
            atol=1e-6,
            rtol=0,
        )


def test_one_number_moves_all_alike(rng: Stream) -> None:
    x = rng.uniform((3, 2, 7, 9))
    assert_close(
        warp(x, deg=12.5, shift=(1.5, -0.5)), warp(x, deg=torch.full((3,), 12.5), shift=torch.tensor([[1.5, -0.5]] * 3))
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_pictures_have_precise_positions(dtype: torch.dtype) -> None:
    """In bfloat16 the position 200.25 does not exist: the flow would be lost."""
    x = (torch.arange(256) / 255).expand(1, 1, 2, 256).to(dtype)
    flow = torch.zeros(1, 2, 2, 256)
    flow[:, 1] = 0.25
    exact = warp(x.float(), flow=flow, padding="border")
    assert torch.equal(warp(x, flow=flow, padding="border"), exact.to(dtype))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(warp(x.float(), flow=flow, padding="border"), exact)


@each_padding
def test_values_stay_within_those_of_the_picture_and_its_padding(padding: Padding, rng: Stream) -> None:
    x = rng.child("x").uniform((40, 1, 6, 9), low=0.2, high=0.9)
    made = warp(
        x,
        flow=20 * rng.child("flow").normal((40, 2, 6, 9)),
        deg=rng.child("deg").uniform((40, 1), low=-720, high=720)[:, 0],
        shift=10 * rng.child("shift").normal((40, 2)),
        padding=padding,
    )
    assert float(made.min()) >= (0 if padding == "zeros" else 0.2 - 1e-6)
    assert float(made.max()) <= 0.9 + 1e-6


def test_positions_far_outside_are_padding() -> None:
    x = torch.ones(1, 1, 4, 4)
    assert torch.equal(warp(x, shift=(1e6, -1e6)), torch.zeros_like(x))
    assert torch.equal(warp(x, shift=(1e6, -1e6), padding="border"), x)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"flow": torch.zeros(2, 2, 4, 4)}, r"flow must have shape \(2, 2, 4, 5\), got \(2, 2, 4, 4\)"),
        ({"deg": torch.zeros(3)}, r"deg must have shape \(\) or \(2,\), got \(3,\)"),
        ({"shift": torch.zeros(2)[:1]}, r"shift must have shape \(2,\) or \(2, 2\), got \(1,\)"),
    ],
)
def test_what_does_not_fit_is_explained(settings: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        warp(torch.zeros(2, 1, 4, 5), **settings)  # type: ignore[arg-type]


def test_a_turn_is_counter_clockwise_on_the_screen() -> None:
    x = torch.zeros(1, 1, 21, 21)
    x[..., 10, 18] = 1.0  # right of the middle
    made = warp(x, deg=30.0)[0, 0]
    row, column = divmod(int(made.argmax()), 21)
    assert row < 10  # higher up
    assert math.isclose(math.degrees(math.atan2(10 - row, column - 10)), 30, abs_tol=4)


def test_bending_alone_is_bending_without_a_turn(rng: Stream) -> None:
    x, flow = rng.child("x").uniform((3, 2, 7, 8)), rng.child("flow").normal((3, 2, 7, 8))
    assert torch.equal(warp(x, flow=flow), warp(x, flow=flow, deg=torch.zeros(3), shift=torch.zeros(3, 2)))
