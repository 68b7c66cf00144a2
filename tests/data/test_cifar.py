import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from pellucid import data
from pellucid.core import DataError, DataMissing
from pellucid.data import CIFAR10, _cifar


def test_the_mirrors_pictures_become_the_official_layout():
    # Row k of a picture is image k, and its 1,024 pixels are the image row by row.
    rng = np.random.default_rng(0)
    members, official = {}, {}
    for k, name in enumerate((*_cifar.BATCHES, _cifar.TEST)):
        images = np.zeros((10_000, 32, 32, 3), np.uint8)
        images[:50] = rng.integers(0, 256, (50, 32, 32, 3))
        picture = io.BytesIO()
        Image.fromarray(images.reshape(10_000, 1024, 3)).save(picture, "png", compress_level=1)
        members[f"{name}.png"] = picture.getvalue()
        labels = np.full((10_000, 1), k, np.uint8)
        official[f"{name}.bin"] = np.hstack([labels, images.transpose(0, 3, 1, 2).reshape(10_000, -1)]).tobytes()
    members["train_lables.json"] = json.dumps([k for k in range(5) for _ in range(10_000)]).encode()
    members["test_lables.json"] = json.dumps([5] * 10_000).encode()
    assert dict(_cifar._from_pictures(members)) == official
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
