"""Corruptions: mild ones change little, none leaves the bounds, and a sample looks the same in every batch."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from pellucid.core import DataError, ModelError, Stream
from pellucid.metrics import (
    CORRUPTIONS,
    corrupted,
    corruption_accuracy,
    corruption_strength,
    cost_corruption_accuracy,
)

NAMES = list(CORRUPTIONS)


@pytest.fixture(params=[(1, 12, 12), (3, 9, 13), (3, 70, 66)], ids=["gray", "odd color", "large"])
def images(request, rng):
    return rng.child("images").uniform((3, *request.param))


@pytest.mark.parametrize("name", NAMES)
def test_severity_0_changes_nothing_and_5_does(name, images, rng):
    assert corrupted(images, name, 0, rng=rng) is images
    assert not torch.equal(corrupted(images, name, 5, rng=rng), images)


IDENTITIES = {
    "gaussian-noise": (0.0, 0.0),
    "impulse-noise": (0.0, 0.0),
    "defocus-blur": (0.0, 0.0),
    "motion-blur": (6.0, 0.0),
    "zoom-blur": (1.0, 0.01),
    "brightness": (0.0, 0.0),
    "contrast": (1.0, 0.0),
    "pixelate": (1.0, 0.0),
}


@pytest.mark.parametrize("name", IDENTITIES)
def test_strengths_of_nothing_change_nothing(name, images, rng):
    assert_close(CORRUPTIONS[name].change(images, *IDENTITIES[name], rng), images, atol=1e-6, rtol=0)


def test_very_many_photons_and_the_best_jpeg_change_little(rng):
    smooth = torch.linspace(0, 1, 16).expand(2, 1, 16, 16)
    assert_close(CORRUPTIONS["shot-noise"].change(smooth, 1e6, 0.0, rng), smooth, atol=0.01, rtol=0)
    assert_close(CORRUPTIONS["jpeg"].change(smooth, 100.0, 0.0, rng), smooth, atol=0.02, rtol=0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)])
def test_bounds_shape_and_type_are_kept_and_the_scale_does_not_matter(name, bounds, images, rng):
    low, high = bounds
    scaled = (low + (high - low) * images).to(torch.float64)
    result = corrupted(scaled, name, 5, bounds=bounds, rng=rng)
    assert result.shape == scaled.shape
    assert result.dtype == torch.float64
    assert low <= float(result.min())
    assert float(result.max()) <= high
    unit = corrupted(images.double(), name, 5, rng=rng)
    close = ((result - low) / (high - low) - unit).abs() < 1e-6
    assert close.double().mean() > 0.99  # a rounding may move a photon or a JPEG step


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_looks_the_same_in_every_batch(name, images, rng):
    ids = torch.tensor([7, 3, 11])
    whole = corrupted(images, name, 3, rng=rng.at(ids))
    alone = corrupted(images[1:2], name, 3, rng=rng.at(ids[1:2]))
    assert_close(whole[1:2], alone, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["gaussian-noise", "shot-noise", "impulse-noise", "motion-blur"])
def test_chance_is_each_samples_own(name, rng):
    same = rng.uniform((1, 1, 12, 12)).expand(2, 1, 12, 12)
    one, other = corrupted(same, name, 5, rng=rng)
    assert not torch.equal(one, other)


def test_noise_has_the_stated_strength(rng):
    gray = torch.full((4, 1, 60, 60), 0.5)
    for severity, deviation in enumerate((0.04, 0.06, 0.08, 0.09, 0.10), start=1):
        assert float(corrupted(gray, "gaussian-noise", severity, rng=rng).std()) == pytest.approx(deviation, rel=0.05)
    shot = corrupted(gray, "shot-noise", 5, rng=rng)
    assert float(shot.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(shot.var()) == pytest.approx(0.5 / 50, rel=0.1)  # Poisson: the variance is the mean, in photons
    stuck = corrupted(gray, "impulse-noise", 5, rng=rng)
    assert float((stuck != 0.5).double().mean()) == pytest.approx(0.07, abs=0.01)
    assert set(stuck.unique().tolist()) == {0.0, 0.5, 1.0}


def test_blurs_keep_flat_pictures_and_lower_the_contrast_of_others(rng):
    flat = torch.full((1, 3, 20, 24), 0.3)
    busy = rng.uniform((1, 3, 20, 24))
    for name in ("defocus-blur", "motion-blur", "zoom-blur", "pixelate"):
        assert_close(corrupted(flat, name, 5, rng=rng), flat, atol=1e-5, rtol=0)
        assert float(corrupted(busy, name, 5, rng=rng).std()) < float(busy.std())


def test_brightness_keeps_hue_and_lifts_black():
    color = torch.tensor([0.2, 0.4, 0.1])[None, :, None, None].expand(1, 3, 4, 4)
    brighter = corrupted(color, "brightness", 5, rng=Stream(0))
    assert_close(brighter[0, :, 0, 0], torch.tensor([0.35, 0.7, 0.175]))
    black = corrupted(torch.zeros(1, 3, 4, 4), "brightness", 5, rng=Stream(0))
    assert_close(black, torch.full_like(black, 0.3))


def test_contrast_draws_every_channel_toward_its_mean(images, rng):
    share = corruption_strength("contrast", 3, images.shape)[0]
    faded = corrupted(images, "contrast", 3, rng=rng)
    assert_close(faded.mean((2, 3)), images.mean((2, 3)))
    assert_close(faded.std((2, 3)), share * images.std((2, 3)))


def test_strengths_are_the_published_ones_and_lengths_grow_with_the_image():
    assert corruption_strength("gaussian-noise", 5, (3, 32, 32)) == (0.10, 0.0)
    assert corruption_strength("gaussian-noise", 5, (3, 224, 224)) == (0.38, 0.0)
    assert corruption_strength("defocus-blur", 5, (3, 32, 32)) == (1.5, 0.1)
    assert corruption_strength("defocus-blur", 5, (1, 28, 28)) == (1.5, 0.1)
    assert corruption_strength("defocus-blur", 5, (3, 64, 40)) == (3.0, 0.1)
    assert corruption_strength("motion-blur", 1, (3, 448, 448)) == (20, 6)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (1, 40)])
def test_tiny_pictures_are_no_trouble(size, rng):
    for channels in (1, 2, 3, 4):
        x = rng.uniform((2, channels, *size))
        for name in NAMES:
            assert corrupted(x, name, 5, rng=rng).isfinite().all()


# -- accuracy ------------------------------------------------------------------------------------------------------


class Brightest(nn.Module):
    """Answers 1 for pictures of mean above a half."""

    def forward(self, x):
        mean = x.flatten(1).mean(1)
        return torch.stack((0.5 - mean, mean - 0.5), 1)


@pytest.fixture
def scene(rng):
    mean = torch.linspace(0.2, 0.8, 12)
    x = (mean[:, None, None, None] + 0.05 * rng.normal((12, 1, 8, 8))).clamp(0, 1)
    return Brightest(), x, (x.flatten(1).mean(1) > 0.5).long()


def test_what_leaves_the_mean_alone_leaves_a_model_of_means_alone(scene, rng):
    result = corruption_accuracy(*scene, names=("contrast", "brightness"), severities=(1, 5), rng=rng)
    assert result.clean.value == 1
    assert result.accuracy.value[0].tolist() == [1, 1]
    dark = scene[2] == 0
    # Brightness adds 0.3 at severity 5: who was above 0.2 and below 0.5 is taken for bright.
    moved = dark & (scene[1].flatten(1).mean(1) > 0.21)
    assert result.correct[moved, 1, 1].sum() == 0
    assert float(result.mean.value) == pytest.approx(float(result.correct.double().mean()))
    assert result.drop.difference == pytest.approx(float(result.mean.value) - 1)
    assert float(result.kept.value) == pytest.approx(float(result.mean.value))
    assert result.evaluations == cost_corruption_accuracy(12, names=2, severities=2) == 60


def test_accuracy_does_not_depend_on_the_batch(scene, rng):
    first, second = (
        corruption_accuracy(*scene, names=("shot-noise", "motion-blur"), rng=rng, batch_size=size) for size in (5, 12)
    )
    assert torch.equal(first.answers, second.answers)
    assert_close(first.mean.low, second.mean.low)


def test_a_model_that_is_never_right_keeps_nothing(scene, rng):
    model, x, y = scene
    result = corruption_accuracy(model, x, 1 - y, names=("contrast",), rng=rng)
    assert result.clean.value == 0
    assert result.kept.value.isnan()


def test_bad_input_is_told(scene, rng):
    model, x, y = scene
    with pytest.raises(ValueError, match="did you mean jpeg"):
        corrupted(x, "jpg", 1, rng=rng)
    with pytest.raises(ValueError, match="from 1 to 5, got 6"):
        corruption_accuracy(model, x, y, severities=(6,), rng=rng)
    with pytest.raises(ValueError, match="lower first"):
        corrupted(x, "jpeg", 1, bounds=(1.0, 0.0), rng=rng)
    with pytest.raises(DataError, match="undo a normalization"):
        corrupted(3 * x, "jpeg", 1, rng=rng)
    with pytest.raises(DataError, match="bounds are"):
        corrupted(x * torch.nan, "jpeg", 1, rng=rng)
    with pytest.raises(DataError, match="int64 of shape"):
        corruption_accuracy(model, x, y[:3], rng=rng)
    with pytest.raises(ValueError, match="at least one entry"):
        corruption_accuracy(model, x, y, names=(), rng=rng)
    with pytest.raises(ValueError, match="bound to 3 samples"):
        corruption_accuracy(model, x, y, rng=rng.at([1, 2, 3]))
    with pytest.raises(ModelError, match="NaN or infinity for sample 0"):
        corruption_accuracy(lambda x: torch.full((len(x), 2), torch.nan), x, y, rng=rng)
