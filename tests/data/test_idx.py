import gzip
import struct

import numpy as np
import pytest
import torch

from pellucid import data
from pellucid.core import DataError
from pellucid.data import _idx

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 4, 5), dtype=np.uint8)
LABELS = np.array([0, 1, 2, 2, 1, 0], np.uint8)


def idx(array):
    """The format by its description: two zeros, kind, axes, sizes, values."""
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def folder(tmp_path):
    for prefix, rows in (("train", slice(0, 4)), ("t10k", slice(2, 6))):
        (tmp_path / f"{prefix}-images-idx3-ubyte").write_bytes(idx(IMAGES[rows]))
        (tmp_path / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(LABELS[rows])))
    return tmp_path


def test_a_folder_has_two_splits(folder):
    train, test = data.load(str(folder), split="train"), data.load(str(folder))
    assert torch.equal((train.inputs[:, 0] * 255).round().byte(), torch.from_numpy(IMAGES[:4]))
    assert train.inputs.shape == (4, 1, 4, 5)
    assert test.labels.tolist() == [2, 2, 1, 0]
    assert test.class_names == ()


def test_a_file_finds_its_labels_packed_or_not(folder):
    images = folder / "t10k-images-idx3-ubyte"
    plain = data.load(str(images))
    packed = folder / "t10k-images-idx3-ubyte.gz"
    packed.write_bytes(gzip.compress(images.read_bytes()))
    assert torch.equal(data.load(str(packed)).inputs, plain.inputs)
    with pytest.raises(DataError, match="not divided for training"):
        data.load(str(images), split="train")
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match=r"no labels beside it; put t10k-labels-idx1-ubyte there"):
        data.load(str(images))


def test_a_file_of_labels_is_no_data_set(folder):
    with pytest.raises(DataError, match="is a file of labels; give the file of images beside it, or their folder"):
        data.load(str(next(folder.glob("t10k-labels*"))))


def test_one_pair_is_a_test_split_and_sizes_can_be_changed(tmp_path):
    (tmp_path / "images-idx3-ubyte").write_bytes(idx(IMAGES))
    (tmp_path / "labels-idx1-ubyte").write_bytes(idx(LABELS))
    loaded = data.load(str(tmp_path), image_size=(8, 8), channels=3, limit=3)
    assert loaded.inputs.shape == (3, 3, 8, 8)
    assert loaded.note == "resized from 5 x 4 to 8 x 8 pixels, gray images repeated in three channels"
    with pytest.raises(DataError, match="no one file of images for the split 'train'"):
        data.load(str(tmp_path), split="train")


HEAD = struct.pack(">4B3I", 0, 0, 8, 3, 6, 4, 5)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"hello, I am text", "is no IDX file"),
        (HEAD[:6], "truncated in its header"),
        (HEAD + bytes(119), "header says 120 bytes, it has 119"),
        (HEAD + bytes(121), "header says 120 bytes, it has 121"),
        (gzip.compress(HEAD + bytes(119), mtime=0), "truncated: it holds 119 of 120"),
        (gzip.compress(HEAD + bytes(121), mtime=0), "longer than its header says"),
        (gzip.compress(HEAD + bytes(120), mtime=0)[:-9], "cannot be unpacked"),
        (gzip.compress(HEAD + bytes(range(120)), mtime=0)[:40], "cannot be unpacked"),
        (struct.pack(">4B3I", 0, 0, 8, 3, 2**31, 2**31, 2**31), "do not fit in memory"),
        (
            gzip.compress(struct.pack(">4B3I", 0, 0, 8, 3, 60_000, 100, 100) + bytes(50), mtime=0),
            "which it cannot hold",
        ),
        (struct.pack(">4B3I", 0, 0, 8, 3, 6, 0, 5), "holds 0 samples, or samples of 0 pixels"),
        (struct.pack(">4B3I", 0, 0, 13, 3, 6, 4, 5) + bytes(480), "kind 0x0d; only bytes"),
        (idx(LABELS), "has 1 axes, but images have 3"),
        (idx(IMAGES[:5]), "has 5 images but .* has 6 labels"),
    ],
)
def test_damaged_files_are_refused(tmp_path, raw, message):
    (tmp_path / "images-idx3-ubyte").write_bytes(raw)
    (tmp_path / "labels-idx1-ubyte").write_bytes(idx(LABELS))
    with pytest.raises(DataError, match=message):
        data.load(str(tmp_path / "images-idx3-ubyte"))


def test_named_mnist_and_the_reader_agree():
    facts = data.MNIST.facts
    folder = facts.find()
    if folder is None:
        pytest.skip("MNIST is not on this machine")
    files = [path for path in _idx.idx_files(folder) if path.name.startswith("t10k")]
    assert torch.equal(torch.from_numpy(_idx.read_idx(files[0], axes=3))[:, None], data.MNIST().load("test").inputs)
