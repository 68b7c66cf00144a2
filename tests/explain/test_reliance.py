"""Shuffling moves pixels and loses none, filters split an image in two, and both tell models of shape from others."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from pellucid.core import DataError, ModelError, Stream
from pellucid.explain import cost_reliance, high_pass, low_pass, patch_shuffled, reliance, view_of


@pytest.fixture(params=[(1, 12, 12), (3, 9, 13)], ids=["gray", "odd color"])
def images(request, rng):
    return rng.child("images").uniform((4, *request.param)).double()


def test_one_patch_changes_nothing(images, rng):
    assert torch.equal(patch_shuffled(images, 1, rng=rng), images)


@pytest.mark.parametrize("grid", [2, 3, 4])
def test_shuffling_moves_every_patch_and_loses_no_pixel(grid, images, rng):
    moved = patch_shuffled(images, grid, rng=rng)
    assert_close(moved.flatten(2).sort().values, images.flatten(2).sort().values, rtol=0, atol=0)
    h, w = (side // grid for side in images.shape[2:])
    for row in range(grid):
        for column in range(grid):
            there = (..., slice(row * h, (row + 1) * h), slice(column * w, (column + 1) * w))
            assert (moved[there] != images[there]).flatten(1).any(1).all()
    assert torch.equal(moved[..., grid * h :, :], images[..., grid * h :, :])  # what is left over stays


def test_pixels_of_a_patch_stay_together(rng):
    numbers = torch.arange(16.0).reshape(1, 1, 4, 4)
    moved = patch_shuffled(numbers, 2, rng=rng)
    blocks = {tuple(moved[0, 0, r : r + 2, c : c + 2].flatten().tolist()) for r in (0, 2) for c in (0, 2)}
    assert blocks == {(0, 1, 4, 5), (2, 3, 6, 7), (8, 9, 12, 13), (10, 11, 14, 15)}


def test_a_sample_is_shuffled_the_same_in_every_batch(images, rng):
    ids = torch.tensor([5, 2, 8, 1])
    whole = patch_shuffled(images, 3, rng=rng.at(ids))
    assert torch.equal(patch_shuffled(images[2:3], 3, rng=rng.at(ids[2:3])), whole[2:3])


@pytest.mark.parametrize("radius", [0.0, 0.2, 0.5, 1.0, 1.5])
def test_both_parts_make_the_image_and_constants_are_low(radius, images):
    low, high = low_pass(images, radius), high_pass(images, radius)
    assert_close(low + high, images)
    assert_close(high.mean((2, 3)), torch.zeros_like(high.mean((2, 3))), atol=1e-12, rtol=0)
    flat = torch.full_like(images, 0.7)
    assert_close(low_pass(flat, radius), flat)
    assert_close(low_pass(low, radius), low)  # a second pass finds nothing more


def test_ends_of_the_radius(images):
    assert_close(low_pass(images, 0.0), images.mean((2, 3), keepdim=True).expand_as(images))
    assert_close(low_pass(images, 1.5), images)


def test_a_wave_passes_up_to_its_own_frequency():
    wave = torch.cos(2 * torch.pi * 4 * torch.arange(16.0) / 16).expand(1, 1, 16, 16)  # half the Nyquist frequency
    assert_close(low_pass(wave, 0.5), wave, atol=1e-6, rtol=0)
    assert_close(low_pass(wave, 0.45), torch.zeros_like(wave), atol=1e-6, rtol=0)


# -- models that are known ----------------------------------------------------------------------------------------


class Half(nn.Module):
    """Knows which half is brighter: shape alone, and coarse."""

    def forward(self, x):
        top, bottom = x[:, :, :6].mean((1, 2, 3)), x[:, :, 6:].mean((1, 2, 3))
        return torch.stack((top, bottom), 1)


class Stripes(nn.Module):
    """Knows fine stripes from flat pictures, wherever they are: texture alone."""

    def forward(self, x):
        texture = x.diff(dim=3).abs().mean((1, 2, 3))
        return torch.stack((0.2 - texture, texture - 0.2), 1)


def halves():
    x = torch.full((40, 1, 12, 12), 0.2)
    x[:20, :, :6] = 0.8
    x[20:, :, 6:] = 0.8
    return x, (torch.arange(40) >= 20).long()


def stripes():
    x = torch.full((40, 1, 12, 12), 0.5)
    x[20:, :, :, ::2], x[20:, :, :, 1::2] = 0.1, 0.9
    return x, (torch.arange(40) >= 20).long()


def test_a_model_of_shape_falls_under_shuffling_and_needs_no_detail(rng):
    found = reliance(Half(), *halves(), rng=rng)
    assert found.clean.value == 1
    assert float(found.accuracy.value[found.at("shuffled", 4)]) < 0.8
    assert float(found.accuracy.value[found.at("low-pass", 0.25)]) == 1
    assert found.difference[found.at("shuffled", 4)].high < 0
    assert found.lost(found.at("shuffled", 4)).value > 0.2


def test_a_model_of_texture_holds_under_shuffling_and_falls_without_detail(rng):
    found = reliance(Stripes(), *stripes(), rng=rng)
    assert float(found.accuracy.value[found.at("shuffled", 2)]) == 1
    assert float(found.accuracy.value[found.at("shuffled", 4)]) == 1
    assert float(found.accuracy.value[found.at("low-pass", 0.5)]) == 0.5
    assert float(found.accuracy.value[found.at("high-pass", 0.5)]) == 1
    assert found.lost(found.at("shuffled", 4)).value == 0


def test_results_fit_and_do_not_depend_on_the_batch(rng):
    x, y = halves()
    first, second = (reliance(Half(), x, y, rng=rng, batch_size=size) for size in (7, 40))
    assert torch.equal(first.answers, second.answers)
    assert first.names == (
        "shuffled 2x2", "shuffled 4x4", "low-pass 0.125", "low-pass 0.25", "low-pass 0.5",
        "high-pass 0.125", "high-pass 0.25", "high-pass 0.5",
    )  # fmt: skip
    assert first.evaluations == cost_reliance(40) == 360
    few = reliance(Half(), x, y, grids=(2,), low=(), high=(), rng=rng)
    assert few.evaluations == cost_reliance(40, views=1) == 80
    assert torch.equal(few.correct[:, 0], first.correct[:, 0])


def test_views_stay_within_the_bounds(images, rng):
    for kind, setting in (("shuffled", 2), ("low-pass", 0.25), ("high-pass", 0.25)):
        seen = view_of(images, kind, setting, bounds=(0.2, 0.6), rng=rng)
        assert float(seen.min()) >= 0.2
        assert float(seen.max()) <= 0.6


def test_bad_input_is_told(rng):
    x, y = halves()
    with pytest.raises(ValueError, match="1 to 12 patches per side, got 13"):
        reliance(Half(), x, y, grids=(13,), rng=rng)
    with pytest.raises(ValueError, match="whole number of patches"):
        view_of(x, "shuffled", 2.5, bounds=None, rng=rng)
    with pytest.raises(ValueError, match="share of the Nyquist frequency from 0 on"):
        reliance(Half(), x, y, low=(-0.1,), rng=rng)
    with pytest.raises(ValueError, match="at least one grid or radius"):
        reliance(Half(), x, y, grids=(), low=(), high=(), rng=rng)
    with pytest.raises(DataError, match="int64 of shape"):
        reliance(Half(), x, y[:2], rng=rng)
    with pytest.raises(DataError, match="pictures"):
        reliance(Half(), x[0], y, rng=rng)
    with pytest.raises(ValueError, match="bound to 2 samples"):
        reliance(Half(), x, y, rng=rng.at([1, 2]))
    with pytest.raises(ModelError, match="logits of shape"):
        reliance(lambda x: x.mean((1, 2, 3)), x, y, rng=rng)
    with pytest.raises(ModelError, match="NaN or infinity for sample 0"):
        reliance(lambda x: torch.full((len(x), 2), torch.nan), x, y, rng=rng)
    with pytest.raises(ValueError, match="no view is shuffled 8"):
        reliance(Half(), x, y, rng=Stream(0)).at("shuffled", 8)
