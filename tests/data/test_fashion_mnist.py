import gzip

import pytest
import torch

from pellucid import data
from pellucid.core import DataError, DataMissing
from pellucid.data import FashionMNIST, _fashion_mnist


@pytest.fixture
def small(monkeypatch, nowhere, packed):
    """A set of the same format with 6 + 4 images, in the folder PELLUCID_DATA names."""
    folder = nowhere / "mine"
    folder.mkdir()
    for name, raw in packed.items():
        (folder / name).write_bytes(raw)
    monkeypatch.setenv("PELLUCID_DATA", str(folder))
    return folder


def test_shipped_sample_is_balanced_and_says_what_it_is(nowhere):
    sample = data.load("fashion-mnist")
    assert sample.labels.bincount().tolist() == [50] * 10
    assert sample.inputs.shape == (500, 1, 28, 28)
    assert sample.inputs.dtype == torch.float32
    assert 0 <= sample.inputs.min() < sample.inputs.max() == 1
    assert "shipped sample of 500" in sample.note
    assert "pellucid data get fashion-mnist" in sample.note
    assert sample.class_names[0] == "T-shirt/top"


def test_a_damaged_sample_is_refused(nowhere, monkeypatch):
    damaged = nowhere / "sample.npz"
    damaged.write_bytes(_fashion_mnist.SAMPLE.read_bytes()[:-1])
    monkeypatch.setattr(_fashion_mnist, "SAMPLE", damaged)
    with pytest.raises(DataError, match="damaged; install Pellucid again"):
        data.load("fashion-mnist")


def test_the_full_set_is_missing_with_the_command_that_gets_it(nowhere):
    with pytest.raises(DataMissing, match=r"`pellucid data get fashion-mnist` \(31 MB\)"):
        FashionMNIST().load("test")
    with pytest.raises(DataMissing, match="PELLUCID_DATA"):
        data.load("fashion-mnist", split="train")


def test_files_are_found_and_read(small):
    train = FashionMNIST().load("train")
    assert train.inputs.shape == (6, 1, 28, 28)
    assert train.inputs.dtype == torch.uint8
    assert train.inputs[0, 0, 0].tolist() == list(range(28))
    assert train.labels.tolist() == list(range(6))
    assert train.ids.tolist() == list(range(6))
    assert data.load("fashion-mnist").note == ""
    assert data.verify("fashion-mnist") == small


def test_unpacked_files_serve_too(small):
    for path in list(small.glob("*.gz")):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    assert len(FashionMNIST().load("test")) == 4


def test_a_changed_file_is_read_again_and_refused(small):
    FashionMNIST().load("test")
    (small / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(bytes(12)))
    with pytest.raises(DataError, match="not the t10k-labels-idx1-ubyte of fashion-mnist, or it is damaged"):
        FashionMNIST().load("test")


def test_a_truncated_file_is_refused(small):
    path = small / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.gz cannot be read .*; remove it and"):
        FashionMNIST().load("train")


def test_unknown_splits_are_refused():
    with pytest.raises(DataError, match="train and test, not 'dev'"):
        FashionMNIST().load("dev")


def test_the_full_set_is_what_the_sample_was_drawn_from():
    if FashionMNIST.facts.find() is None:
        pytest.skip("the full Fashion-MNIST is not on this machine")
    full, sample = FashionMNIST().load("test"), _fashion_mnist.load_sample()
    assert torch.equal(full.inputs[sample.ids], sample.inputs)
    assert torch.equal(full.labels[sample.ids], sample.labels)
