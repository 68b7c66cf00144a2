import numpy as np
import pytest
import torch
from PIL import Image

from pellucid import data
from pellucid.core import DataError
from pellucid.data import _images
from pellucid.data._images import Fit


def save(path, pixels, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(pixels, dtype=np.uint8))
    (image if mode is None else image.convert(mode)).save(path)


@pytest.fixture
def folder(tmp_path):
    """Gray and color, transparent and palette images of several sizes, one of a single pixel."""
    rng = np.random.default_rng(0)
    save(tmp_path / "x" / "gray.png", rng.integers(0, 256, (12, 20)))
    save(tmp_path / "x" / "pixel.png", [[77]])
    save(tmp_path / "y" / "color.png", rng.integers(0, 256, (30, 10, 3)))
    save(tmp_path / "y" / "palette.png", rng.integers(0, 256, (9, 9, 3)), "P")
    save(tmp_path / "y" / "transparent.png", rng.integers(0, 256, (8, 16, 4)))
    return tmp_path


def test_the_shorter_side_is_resized_and_the_middle_cut_out():
    left, middle, right = np.zeros((4, 4)), np.full((4, 4), 100), np.full((4, 4), 200)
    wide = np.hstack([left, middle, right]).astype(np.uint8)
    assert (Fit((2, 2)).image(wide) == 100).all()
    assert (Fit((8, 8)).image(wide.T) == 100).all()
    assert Fit((2, 6)).image(wide)[0].tolist() == pytest.approx([0, 0, 100, 100, 200, 200], abs=13)


def test_resizing_averages_instead_of_picking():
    stripes = np.tile([0, 255], (64, 32)).astype(np.uint8)
    small = Fit((8, 8)).image(stripes)
    assert abs(small.astype(int) - 127.5).max() < 5
    batch = Fit((8, 8)).batch(torch.from_numpy(stripes)[None, None])
    assert abs(batch.int() - 127.5).max() < 5


@pytest.mark.parametrize("size", [(16, 16), (7, 5), (40, 60)])
def test_one_image_and_a_batch_come_out_alike(size):
    pixels = np.asarray(
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 6, 3), np.uint8)).resize((24, 24))
    )
    one = torch.from_numpy(Fit(size).image(pixels).copy()).permute(2, 0, 1).int()
    many = Fit(size).batch(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None])[0].int()
    assert (one - many).abs().float().mean() < 1.5
    floats = Fit(size).batch(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None] / 255)[0]
    assert (floats * 255 - many).abs().max() < 0.51


def test_what_fits_is_left_alone():
    images = torch.rand(3, 1, 8, 8)
    assert Fit((8, 8), 1).batch(images) is images
    loaded = data.load("synthetic-images", image_size=(12, 12), channels=1)
    assert torch.equal(loaded.inputs, data.load("synthetic-images").inputs)
    assert loaded.note == ""


def test_colors_become_gray_by_their_brightness_and_gray_is_repeated():
    color = torch.tensor([[[[255]], [[0]], [[0]]], [[[10]], [[10]], [[10]]]], dtype=torch.uint8)
    assert Fit(channels=1).batch(color).flatten().tolist() == [76, 10]
    assert Fit(channels=1).image(np.array([[[255, 0, 0]]], np.uint8)).tolist() == [[76]]
    assert Fit(channels=3).batch(torch.ones(2, 1, 4, 4)).shape == (2, 3, 4, 4)


def test_images_of_all_kinds_become_one_tensor(folder):
    with pytest.raises(
        DataError, match=r"several sizes: .*gray\.png is 20 x 12 and .*pixel\.png is 1 x 1 pixels; give one"
    ):
        data.load(str(folder))
    loaded = data.load(str(folder), image_size=(6, 6))
    assert loaded.inputs.shape == (5, 3, 6, 6)
    assert loaded.note == "2 gray among color images, read as color; images resized from 5 sizes to 6 x 6 pixels"
    assert torch.allclose(loaded.inputs[1], torch.tensor(77 / 255))
    gray = data.load(str(folder), image_size=(6, 6), channels=1)
    assert gray.inputs.shape == (5, 1, 6, 6)
    assert "gray among" not in gray.note


def test_gray_among_color_images_of_one_size_is_read_as_color(tmp_path):
    save(tmp_path / "x" / "1.png", np.full((3, 3), 9))
    save(tmp_path / "y" / "1.png", np.full((3, 3, 3), 7))
    loaded = data.load(str(tmp_path))
    assert (loaded.inputs * 255).round().int().flatten(1).unique(dim=1).tolist() == [[9], [7]]
    assert loaded.note == "1 gray among color images, read as color"


def test_a_recipes_folder_has_the_same_settings(folder):
    source = data.ImageFolder(path=str(folder), image_size=(4, 4), channels=3)
    assert source.load("test").inputs.shape == (5, 3, 4, 4)


def test_sizes_are_checked_before_memory_is_taken(folder, monkeypatch):
    monkeypatch.setattr(_images, "MAX_BYTES", 10_000)
    with pytest.raises(DataError, match=r"5 samples of 30,000 bytes do not fit in memory; read at most 0 \(limit\)"):
        data.load(str(folder), image_size=(100, 100), channels=3)
    with pytest.raises(DataError, match="512 samples of 40,000 bytes do not fit in memory"):
        data.load("synthetic-images", image_size=(100, 100))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": (0, 4)}, "from 1 to 8,192 pixels, got 0 x 4"),
        ({"image_size": (4, 9000)}, "from 1 to 8,192"),
        ({"channels": 2}, "channels must be 1 or 3, got 2"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(DataError, match=message):
        data.load("synthetic-images", **settings)
    with pytest.raises(DataError, match="for images, but synthetic-table holds rows of a table"):
        data.fit_images(data.load("synthetic-table"), channels=3)
