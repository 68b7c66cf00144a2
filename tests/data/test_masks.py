"""Data with a class for every pixel: places that do not meet, masks that lie on their images, files that are broken."""

import gzip
import hashlib
import io
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from pellucid import data
from pellucid.core import IGNORED, DataError, DataMissing, Stream
from pellucid.data import Augment, _blue_marble, _brain_slices, masks


def placed(monkeypatch, source, module, files):
    """Put files of another content in the place of a set's own."""
    little = replace(
        module.FACTS,
        digests={name: hashlib.sha256(raw).hexdigest() for name, raw in files.items()},
        sizes={name: len(raw) for name, raw in files.items()},
    )
    monkeypatch.setattr(source, "facts", little)
    monkeypatch.setitem(data.NAMED, little.name, little)
    module._read.cache_clear()
    folder = data.cache() / little.name
    folder.mkdir(parents=True, exist_ok=True)
    for name, raw in files.items():
        (folder / name).write_bytes(raw)
    return folder


# -- the Earth ----------------------------------------------------------------------------------------------------


def columns(corners):
    """Return which columns of the Earth crops cover."""
    covered = torch.zeros(_blue_marble.WIDTH, dtype=torch.bool)
    for _, left in corners:
        covered[(left + torch.arange(256)) % _blue_marble.WIDTH] = True
    return covered


@pytest.mark.parametrize("stride", [16, 96, 256])
def test_test_and_training_longitudes_stay_four_degrees_apart(stride):
    test = columns(_blue_marble._test_corners())
    train = columns(_blue_marble._training_corners(stride))
    assert int(test.sum()) == 3 * 512
    for shift in range(-48, 49):
        assert not bool((test & train.roll(shift)).any())


def test_test_crops_do_not_overlap():
    corners = _blue_marble._test_corners()
    assert len(set(corners)) == 42
    assert {(top - _blue_marble._top()) % 256 for top, _ in corners} == {0}
    assert sorted({left for _, left in corners}) == sorted(
        (start + part) % 4320 for start in _blue_marble.TEST for part in (0, 256)
    )


@pytest.fixture(scope="module")
def earth():
    """A photograph whose red says where the mask is land, and green where a lake, in blocks of ten degrees."""
    blocks = Stream(0).integers(3, (18, 36)).numpy().astype(np.uint8)
    shown = np.stack([np.where(blocks == k, 255, 0) for k in (1, 2, 0)], 2).astype(np.uint8)
    photo = io.BytesIO()
    Image.fromarray(shown).resize((1080, 540), Image.Resampling.NEAREST).save(photo, "JPEG", quality=95)
    grid = blocks.repeat(120, 0).repeat(120, 1)
    return {
        "bmng.jpg": photo.getvalue(),
        "lsmask_5min_f.bin": gzip.compress(grid[::-1].tobytes(), compresslevel=1),
    }


def test_masks_lie_on_the_photograph(nowhere, monkeypatch, earth):
    with pytest.raises(DataMissing, match="pellucid data get blue-marble"):
        data.load("blue-marble")
    placed(monkeypatch, data.BlueMarble, _blue_marble, earth)
    test = data.BlueMarble().load("test")
    assert test.inputs.shape == (42, 3, 256, 256)
    assert test.inputs.dtype == torch.uint8
    seen = torch.tensor([1, 2, 0])[test.inputs.argmax(1)]
    assert float((seen == test.labels).float().mean()) > 0.97  # but for blurred edges
    assert len(set(test.ids.tolist())) == 42
    top, left = int(test.ids[0]) // 4320, int(test.ids[0]) % 4320
    assert (top, left) == (72, 1200)  # 84 degrees north, 80 west
    train = data.BlueMarble(stride=256).load("train")
    assert not set(train.ids.tolist()) & set(test.ids.tolist())


def test_crops_of_one_class_are_left_out(nowhere, monkeypatch, earth):
    sea = np.zeros((2160, 4320), np.uint8)
    sea[2160 - 72 - 10, 1200 + 5] = 2  # a lake of a pixel in the first crop of the test
    changed = {**earth, "lsmask_5min_f.bin": gzip.compress(sea.tobytes(), compresslevel=1)}
    placed(monkeypatch, data.BlueMarble, _blue_marble, changed)
    test = data.BlueMarble().load("test")
    assert test.ids.tolist() == [72 * 4320 + 1200]
    assert test.labels[0].nonzero().tolist() == [[9, 5]]


@pytest.mark.parametrize(
    "bad",
    [b"no gzip", gzip.compress(bytes(100), mtime=0), gzip.compress(bytes(2160 * 4320), mtime=0)[:-20]],
    ids=["no gzip", "too short", "cut off"],
)
def test_broken_masks_of_the_earth(nowhere, monkeypatch, earth, bad):
    placed(monkeypatch, data.BlueMarble, _blue_marble, {**earth, "lsmask_5min_f.bin": bad})
    with pytest.raises(DataError, match=r"lsmask_5min_f\.bin cannot be read"):
        data.BlueMarble().load("test")


def test_other_files_are_not_taken_for_the_earth(nowhere, monkeypatch, earth):
    folder = placed(monkeypatch, data.BlueMarble, _blue_marble, earth)
    (folder / "bmng.jpg").write_bytes(earth["bmng.jpg"][:1000])
    with pytest.raises(DataError, match="damaged"):
        data.BlueMarble().load("test")


# -- the brain ----------------------------------------------------------------------------------------------------


def test_slabs_stay_four_slices_apart():
    test = [row for slab in _brain_slices.TEST for row in slab]
    train = [row for slab in _brain_slices.TRAIN for row in slab]
    assert min(abs(a - b) for a in test for b in train) == 5  # four slices between them
    assert (len(train), len(test)) == (88, 24)


def test_the_largest_probability_is_the_class(nowhere, monkeypatch):
    gray, white = (np.zeros(_brain_slices.SHAPE, np.uint8) for _ in range(2))
    gray[40, 0, 0], white[40, 0, 0] = 100, 110  # neither has 45
    gray[40, 0, 1], white[40, 0, 1] = 90, 60  # neither has 105
    gray[40, 232, 196] = 200
    files = {
        name: bytes(352) + volume.tobytes()
        for name, volume in zip(_brain_slices._FILES, (gray, gray, white), strict=True)
    }
    folder = placed(monkeypatch, data.BrainSlices, _brain_slices, files)
    test = data.BrainSlices().load("test")
    assert test.inputs.shape == (24, 1, 240, 200)
    assert test.ids[0] == 40
    # Front of the head above, two columns and four rows of frame.
    assert test.labels[0].nonzero().tolist() == [[3, 197], [235, 1]]
    assert [int(test.labels[0, 3, 197]), int(test.labels[0, 235, 1])] == [1, 2]
    assert int(test.inputs[0, 0, 235, 2]) == 90
    name = next(iter(files))
    (folder / name).write_bytes(files[name][:-1])
    _brain_slices._read.cache_clear()
    with pytest.raises(DataError, match="damaged"):
        data.BrainSlices().load("test")


# -- scenes -------------------------------------------------------------------------------------------------------


def test_scenes_hide_the_lake_in_the_land():
    made = data.synthetic_scenes(40, rng=Stream(0))
    again = data.synthetic_scenes(10, rng=Stream(0))
    assert torch.equal(again.inputs, made.inputs[:10])
    assert made.dense
    for mask in made.labels:
        assert set(mask.unique().tolist()) == {IGNORED, 0, 1, 2}
        lake = mask == 2
        near = torch.nn.functional.max_pool2d(lake[None].float(), 3, 1, 1)[0].bool() & ~lake
        assert not bool((mask[near] == 0).any())  # its shore is land, or has no label
    sea, lake = (made.inputs.movedim(1, 3)[made.labels == k].mean(0) for k in (0, 2))
    assert torch.allclose(sea, lake, atol=0.02)
    with pytest.raises(DataError, match="needs 16 pixels"):
        data.synthetic_scenes(2, rng=Stream(0), size=8)


def test_samples_of_scenes_are_drawn_by_lot(rng):
    scenes = data.load("synthetic-scenes", limit=20)
    assert len(scenes) == 20
    few = data.sample(scenes, 5, rng=rng)
    more = data.sample(scenes, 9, rng=rng)
    assert set(few.ids.tolist()) < set(more.ids.tolist())
    assert torch.equal(few.labels, scenes.labels[few.ids])


# -- masks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([[["a"]]]), "must be classes, whole numbers, got <U1"),
        (np.zeros((2, 2)), "shape (N, H, W), got (2, 2)"),
        (np.zeros((0, 2, 2)), "shape (N, H, W), got (0, 2, 2)"),
        (np.full((1, 1, 1), np.nan), "with fractions or NaN"),
        (np.full((1, 1, 1), -2), "must count classes from 0, and -100 for no label, got -2"),
        (np.full((1, 1, 1), 60_000, np.uint16), "less than 10,000, got 60000"),
    ],
)
def test_what_is_no_mask(values, message):
    with pytest.raises(DataError, match=re.escape(message)):
        masks(values)


def test_masks_of_every_type_become_int64():
    for kind in (np.uint8, np.int16, np.uint16, np.float32, ">i4", bool):
        assert torch.equal(masks(np.ones((1, 2, 2), kind)), torch.ones(1, 2, 2).long())
    assert masks(np.full((1, 1, 1), 255, np.int64)).item() == 255  # only bytes have no -100
    assert masks(np.full((1, 1, 1), -100, np.int16)).item() == IGNORED


# -- augmentation -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("augment", [Augment(flip=True), Augment(crop=3), Augment(flip=True, crop=2)])
def test_masks_move_with_their_images(rng, augment):
    labels = rng.child("labels").integers(5, (30, 8, 6))
    images = torch.stack([labels, labels + 1], 1).float() / 8  # images that say what their masks are
    stream = rng.at(torch.arange(30))
    moved, masked = augment.both(images, labels, rng=stream)
    assert torch.equal(moved, augment(images, rng=stream))
    known = masked != IGNORED
    assert torch.equal((moved[:, 0] * 8).round().long()[known], masked[known])
    assert torch.equal(moved[:, 1] == 0, ~known)  # black that came in has no label, and nothing else
    assert bool((~known).any()) == bool(augment.crop)


def stored(folder, y, images=4):
    path = folder / "own.npz"
    np.savez(path, x=np.zeros((images, 6, 6, 3), np.uint8), y=y)
    return data.Arrays(path=str(path))


@pytest.mark.parametrize("shape", [(4, 6, 6), (4, 1, 6, 6), (4, 6, 6, 1)])
def test_masks_in_a_file_may_have_one_channel(tmp_path, shape):
    y = np.arange(144, dtype=np.uint8).reshape(4, 6, 6) % 3
    assert np.array_equal(stored(tmp_path, y.reshape(shape)).load("test").labels.numpy(), y)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.zeros((4, 6, 6, 3), np.uint8), "y has shape (4, 6, 6, 3); give masks, one class per pixel"),
        (np.zeros((4, 6, 6, 3), np.uint8), "labels.argmax(3)"),
        (np.zeros((4, 3, 6, 6), np.uint8), "labels.argmax(1)"),
        (np.zeros((0, 6, 6), np.uint8), "y holds 0 masks"),
        (np.zeros((4, 6, 6), np.uint8), "has pixels of class 0 only; an audit compares at least two classes"),
        (np.full((4, 6, 6), IGNORED), "has pixels without a label only"),
        (
            np.tile(np.array([0, 255], np.uint8), (4, 6, 3)),
            "255 among bytes stands for no label, so number the classes",
        ),
    ],
)
def test_what_is_wrong_with_masks_in_a_file(tmp_path, y, message):
    with pytest.raises(DataError, match=re.escape(message)):
        stored(tmp_path, y).load("test")


def test_an_empty_file_is_called_empty(tmp_path):
    (tmp_path / "none.npz").touch()
    with pytest.raises(DataError, match="is empty"):
        data.Arrays(path=str(tmp_path / "none.npz")).load("test")
