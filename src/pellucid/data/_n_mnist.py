"""N-MNIST (Orchard et al. 2015): MNIST's digits seen by an event camera that moves before them; and made from MNIST.

The recordings are a user's own files; they are CC BY-SA 4.0, from https://www.garrickorchard.com/datasets/n-mnist.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Annotated

import msgspec
import torch
from msgspec import Meta
from torch import Tensor

from pellucid.core import DataError, Dataset, Stream

from ._events import SIZE, event_frames, read_n_mnist, saccade_frames
from ._images import check_bytes
from ._mnist import FACTS, MNIST
from ._rows import spread

Steps = Annotated[int, Meta(ge=1, le=1000)]
Count = Annotated[int, Meta(ge=1)]

_AT_ONCE = 32  # more leave a core's caches
_FOLDERS = {"train": ("Train", "train"), "test": ("Test", "test")}


class NMNIST(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="n-mnist"):
    """N-MNIST's recordings as frames, from the user's own files.

    A sample is uint8 `(2 time_steps, 34, 34)`: for each of `time_steps` equal parts of the 315 ms, first where pixels
    became darker, then where they became brighter, 255 where they did.

    Args:
        path: a folder with `Train` and `Test`, each with one folder per digit of `.bin` files, as they are published.
        time_steps: frames per recording.
        limit: keep at most so many recordings, equally many per class, first names first.
    """

    path: str
    time_steps: Steps = 30
    limit: Count | None = None

    def load(self, split: str) -> Dataset:
        """Return the split, recordings in the order of their names within each digit.

        Raises:
            DataError: no such split, no recordings, or a damaged one.
        """
        folder = _split_folder(Path(self.path), split)
        files = [(file, digit) for digit in range(10) for file in sorted((folder / str(digit)).glob("*.bin"))]
        if not files:
            raise DataError(f"{folder} has no folders 0 to 9 with .bin files; it is not N-MNIST as it is published")
        labels = torch.tensor([digit for _, digit in files])
        rows = spread(labels, self.limit)
        check_bytes(len(rows), 2 * self.time_steps * SIZE**2)
        frames = torch.empty((len(rows), 2 * self.time_steps, SIZE, SIZE), dtype=torch.uint8)
        for place, row in enumerate(rows.tolist()):
            frames[place] = event_frames(read_n_mnist(files[row][0]), self.time_steps).flatten(0, 1) * 255
        return _dataset(frames, labels[rows], rows, "n-mnist", "")


class SimulatedNMNIST(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="simulated-n-mnist"
):
    """Frames of events simulated from MNIST by `simulate_saccades`, shaped like `n-mnist`; no recordings.

    About 100 samples per second and core, made when they are asked for.

    Args:
        train, test: samples of each split, equally many per class.
        time_steps: frames per sample.
        noise: events per pixel and second that nothing caused.
        seed: of the noise.
    """

    train: Count = 5000
    test: Count = 1000
    time_steps: Steps = 30
    noise: Annotated[float, Meta(ge=0, le=100)] = 0.0
    seed: int = 0

    def load(self, split: str) -> Dataset:
        """Return the split; ids are rows of MNIST's.

        Raises:
            DataMissing: MNIST is not on this machine.
            DataError: no such split, or more samples than MNIST has.
        """
        FACTS.check_split(split)
        count = self.train if split == "train" else self.test
        if count > FACTS.counts[split]:
            raise DataError(f"simulated-n-mnist {split} is {count:,}, but mnist has {FACTS.counts[split]:,} images")
        check_bytes(count, 2 * self.time_steps * SIZE**2)
        frames, labels, rows = _simulated(self, split)
        note = "events simulated from MNIST by moving its images; no recordings of a camera"
        return _dataset(frames, labels, rows, "simulated-n-mnist", note)


# A training asks for each split once, an audit several times.
@lru_cache(maxsize=2)
def _simulated(source: SimulatedNMNIST, split: str) -> tuple[Tensor, Tensor, Tensor]:
    digits = MNIST().load(split)
    rows = spread(digits.labels, source.train if split == "train" else source.test)
    frames = torch.empty((len(rows), 2 * source.time_steps, SIZE, SIZE), dtype=torch.uint8)
    rng = Stream(source.seed).child("simulated-n-mnist", split)
    for start in range(0, len(rows), _AT_ONCE):
        here = rows[start : start + _AT_ONCE]
        made = saccade_frames(
            digits.inputs[here, 0].float() / 255, source.time_steps, rng=rng.at(here), noise=source.noise
        )
        frames[start : start + _AT_ONCE] = made.flatten(1, 2) * 255
    return frames, digits.labels[rows], rows


def holds_recordings(folder: Path) -> bool:
    """Whether a folder looks like N-MNIST's."""
    return any(next((folder / name / "0").glob("*.bin"), None) for names in _FOLDERS.values() for name in names)


def _split_folder(path: Path, split: str) -> Path:
    if split not in _FOLDERS:
        raise DataError(f"n-mnist has the splits train and test, not {split!r}")
    found = next((path / name for name in _FOLDERS[split] if (path / name).is_dir()), None)
    if found is None:
        raise DataError(f"{path} has no folder {_FOLDERS[split][0]}; name the folder that holds Train and Test")
    return found


def _dataset(frames: Tensor, labels: Tensor, rows: Tensor, name: str, note: str) -> Dataset:
    return Dataset(frames, labels, class_names=FACTS.classes, name=name, modality="image", ids=rows, note=note)
