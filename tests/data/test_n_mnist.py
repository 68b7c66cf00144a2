"""Sources of event frames: N-MNIST's folders, and events simulated from MNIST."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pellucid import data
from pellucid.core import DataError, Dataset, Stream
from pellucid.data import MNIST, NMNIST, Events, SimulatedNMNIST, event_frames, simulate_saccades, write_n_mnist
from pellucid.data import _n_mnist as module


def digits(split: str) -> Dataset:
    """Forty squares in place of MNIST."""
    images = torch.zeros(40, 1, 28, 28, dtype=torch.uint8)
    for k in range(40):
        images[k, 0, k % 10 : k % 10 + 6, 5:12] = 255
    labels = torch.arange(40) % 10
    return Dataset(images, labels, tuple("0123456789"), "mnist", "image", torch.arange(40))


@pytest.fixture(scope="module")
def recordings() -> list[Events]:
    """Twenty of them, in the order of the digits."""
    return simulate_saccades(digits("test").inputs[:20, 0].float() / 255, rng=Stream(0))


@pytest.fixture
def folder(tmp_path: Path, recordings: list[Events]) -> Path:
    """N-MNIST as it is published, two recordings per digit and split."""
    for split in ("Train", "Test"):
        for k, each in enumerate(recordings):
            (tmp_path / split / str(k % 10)).mkdir(parents=True, exist_ok=True)
            write_n_mnist(tmp_path / split / str(k % 10) / f"{k:05d}.bin", each)
    return tmp_path


def test_recordings_are_read_as_frames(folder: Path, recordings: list[Events]) -> None:
    found = NMNIST(path=str(folder), time_steps=5).load("train")
    assert found.inputs.shape == (20, 10, 34, 34)
    assert found.inputs.dtype == torch.uint8
    assert found.labels.tolist() == [k // 2 for k in range(20)]
    assert torch.equal(found.inputs[0], event_frames(recordings[0], 5).flatten(0, 1) * 255)
    assert found.note == ""
    assert found.name == "n-mnist"


def test_a_folder_of_recordings_is_known_by_its_content(folder: Path) -> None:
    found = data.load(str(folder), limit=10)
    assert found.inputs.shape == (10, 60, 34, 34)
    assert found.labels.tolist() == list(range(10))
    assert set(found.inputs.unique().tolist()) == {0.0, 1.0}


def test_folders_that_are_no_n_mnist_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has the splits train and test, not 'valid'"):
        NMNIST(path=str(folder)).load("valid")
    with pytest.raises(DataError, match="has no folder Train; name the folder that holds Train and Test"):
        NMNIST(path=str(folder / "Train")).load("train")
    (tmp_path / "other" / "Test").mkdir(parents=True)
    with pytest.raises(DataError, match=r"has no folders 0 to 9 with \.bin files"):
        NMNIST(path=str(tmp_path / "other")).load("test")
    (folder / "Test" / "3" / "00003.bin").write_bytes(b"1234")
    with pytest.raises(DataError, match=r"00003\.bin has 4 bytes"):
        NMNIST(path=str(folder)).load("test")


def test_simulated_frames_say_so_and_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MNIST, "load", lambda self, split: digits(split))
    source = SimulatedNMNIST(train=20, test=10, time_steps=4, noise=3.0)
    module._simulated.cache_clear()
    first = source.load("test")
    assert first.inputs.shape == (10, 8, 34, 34)
    assert first.labels.tolist() == list(range(10))
    assert "simulated from MNIST" in first.note
    assert first.name.startswith("simulated")
    module._simulated.cache_clear()
    assert torch.equal(first.inputs, source.load("test").inputs)
    assert len(source.load("train")) == 20
    module._simulated.cache_clear()


def test_more_than_mnist_has_is_refused() -> None:
    with pytest.raises(DataError, match="simulated-n-mnist test is 10,001, but mnist has 10,000 images"):
        SimulatedNMNIST(test=10_001).load("test")
