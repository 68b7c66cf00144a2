import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from pellucid import data
from pellucid.core import DataError, DataMissing
from pellucid.data import CIFAR10, _cifar


def _png(pixels):
    picture = io.BytesIO()
    Image.fromarray(pixels).save(picture, "png")
    return picture.getvalue()


def test_the_mirrors_pictures_become_the_official_layout(monkeypatch):
    # Row k of a picture is image k, and its 1,024 pixels are the image row by row.
    monkeypatch.setattr(_cifar, "PER_FILE", 50)
    rng = np.random.default_rng(0)
    members, official = {}, {}
    for k, name in enumerate((*_cifar.BATCHES, _cifar.TEST)):
        images = rng.integers(0, 256, (50, 32, 32, 3), np.uint8)
        members[f"{name}.png"] = _png(images.reshape(50, 1024, 3))
        labels = np.full((50, 1), k, np.uint8)
        official[f"{name}.bin"] = np.hstack([labels, images.transpose(0, 3, 1, 2).reshape(50, -1)]).tobytes()
    members["train_lables.json"] = json.dumps([k for k in range(5) for _ in range(50)]).encode()
    members["test_lables.json"] = json.dumps([5] * 50).encode()
    assert dict(_cifar._from_pictures(members)) == official
    members["test_batch.png"] = _png(np.zeros((49, 1024, 3), np.uint8))
    with pytest.raises(DataError, match="is no picture of 50 images"):
        _cifar._from_pictures(members)
    members["test_batch.png"] = members["test_batch.png"][:0]
    with pytest.raises(DataError, match=r"test_batch\.png is a corrupt picture"):
        _cifar._from_pictures(members)


def test_a_missing_set_names_the_command(nowhere):
    with pytest.raises(DataMissing, match=r"`pellucid data get cifar10` \(170 MB\)"):
        CIFAR10().load("train")
    with pytest.raises(DataError, match="train and test, not 'dev'"):
        CIFAR10().load("dev")


def test_the_real_set_has_its_known_sums():
    if CIFAR10.facts.find() is None:
        pytest.skip("CIFAR-10 is not on this machine")
    test = CIFAR10().load("test")
    assert test.inputs.shape == (10_000, 3, 32, 32)
    assert test.labels[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]
    assert test.labels.bincount().tolist() == [1000] * 10
    train = CIFAR10().load("train")
    assert train.labels[:5].tolist() == [6, 9, 9, 4, 1]
    mean = (train.inputs.sum(dim=(0, 2, 3), dtype=torch.int64) / (50_000 * 1024 * 255)).tolist()
    assert mean == pytest.approx([0.49139968, 0.48215841, 0.44653091], abs=1e-6)


def test_the_real_mnist_has_its_known_sums():
    if data.MNIST.facts.find() is None:
        pytest.skip("MNIST is not on this machine")
    train, test = data.MNIST().load("train"), data.MNIST().load("test")
    assert train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert float(train.inputs.float().mean() / 255) == pytest.approx(0.1306604762738429, abs=1e-6)


RECORDS = np.random.default_rng(0).integers(0, 10, (8, 3073), dtype=np.uint8)


@pytest.fixture
def binary(tmp_path):
    (tmp_path / "data_batch_1.bin").write_bytes(RECORDS[:2].tobytes())
    (tmp_path / "data_batch_2.bin").write_bytes(RECORDS[2:4].tobytes())
    (tmp_path / "test_batch.bin").write_bytes(RECORDS[4:].tobytes())
    return tmp_path


def test_binary_files_are_read_batch_after_batch(binary):
    train, test = data.load(str(binary), split="train"), data.load(str(binary))
    assert train.labels.tolist() == RECORDS[:4, 0].tolist()
    pixels = RECORDS[4:, 1:].reshape(4, 3, 32, 32)
    assert torch.equal((test.inputs * 255).round().byte(), torch.from_numpy(pixels))
    assert test.class_names == ()
    (binary / "batches.meta.txt").write_text("\n".join("abcdefghij") + "\n\n")
    assert data.load(str(binary)).class_names == tuple("abcdefghij")
    (binary / "batches.meta.txt").write_text("a\nb\n")
    with pytest.raises(DataError, match="but 2 class names"):
        data.load(str(binary))


def test_records_with_two_labels_give_the_fine_one(tmp_path):
    rows = np.random.default_rng(1).integers(0, 100, (5, 3074), dtype=np.uint8)
    (tmp_path / "test.bin").write_bytes(rows.tobytes())
    (tmp_path / "fine_label_names.txt").write_text("\n".join(f"c{k}" for k in range(100)))
    loaded = data.load(str(tmp_path))
    assert loaded.labels.tolist() == rows[:, 1].tolist()
    assert torch.equal((loaded.inputs * 255).round().byte().flatten(1), torch.from_numpy(rows[:, 2:]))


def test_broken_binary_files_are_refused(binary):
    (binary / "test_batch.bin").write_bytes(RECORDS.tobytes()[:-1])
    with pytest.raises(DataError, match=r"test_batch\.bin is truncated, or no CIFAR file"):
        data.load(str(binary))
    (binary / "test_batch.bin").unlink()
    with pytest.raises(DataError, match=r"has no \.bin files for the split 'test'"):
        data.load(str(binary))
