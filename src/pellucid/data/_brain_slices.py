"""Slices of an average brain and where it is gray or white matter: the ICBM 152 template (Fonov et al. 2009)."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import msgspec
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pellucid.core import DataError, Dataset

from ._facts import Facts
from ._homes import PyPIWheel, WebFile

SHAPE = (189, 233, 197)
"""Voxels of a cubic millimeter: from below to above, from back to front, from left to right."""

SIZE = (240, 200)
HEADER = 352
TEST = (range(40, 48), range(80, 88), range(120, 128))
TRAIN = (range(12, 36), range(52, 76), range(92, 116), range(132, 148))
"""Slabs of slices; those of the test are four millimeters away from all others, since neighbors are much alike."""

_FILES = {
    "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii": (
        1_617_531,
        "eeb8a792a93948c83462305c71db783800e95eb3f6ce35975a4dd0f374f79bff",
    ),
    "mni_icbm152_gm_tal_nlin_sym_09a_converted.nii": (
        1_965_510,
        "9800242e730cec0d4ae97358d232904d09771bb0f10202ea4bf80eee50609b43",
    ),
    "mni_icbm152_wm_tal_nlin_sym_09a_converted.nii": (
        1_553_010,
        "7c78a23ddd786979edbb50bdada52c86c405cf2986baee5df5791e0200d7ffeb",
    ),
}
_BYTES = HEADER + SHAPE[0] * SHAPE[1] * SHAPE[2]

FACTS = Facts(
    name="brain-slices",
    summary="88 + 24 gray slices 240 x 200 through an average brain, each pixel gray matter, white matter or neither",
    license="not stated (template, Fonov et al. 2009); BSD-3-Clause (the package)",
    url="https://nist.mni.mcgill.ca/icbm-152-nonlinear-atlases-2009",
    classes=("neither", "gray matter", "white matter"),
    counts={"train": sum(map(len, TRAIN)), "test": sum(map(len, TEST))},
    digests={name: digest for name, (_, digest) in _FILES.items()},
    sizes=dict.fromkeys(_FILES, _BYTES),
    homes=(
        PyPIWheel(
            "nilearn==0.14.1",
            WebFile(11_509_444, "sha256:725206484e9fb3f6691f9c2d20204a068759d5072f12055324702ee0cb2bbe8a"),
            {f"nilearn/datasets/data/{name}.gz": f"{name}.gz" for name in _FILES},
            {f"{name}.gz": size for name, (size, _) in _FILES.items()},
        ),
    ),
)


class BrainSlices(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="brain-slices"
):
    """Slices of the ICBM 152 template from this machine; the files are checked against their known digests.

    Horizontal slices, a millimeter apart, of the average of 152 people's brains without the skull. A pixel is of the
    class whose probability is the largest: gray matter, white matter, or neither, which is fluid and all outside. The
    test is three slabs of eight slices, four millimeters away from all training slices. It is one brain, and a
    smooth one: what is learned here says little about a patient's. Ids are the numbers of the slices from below.
    """

    facts: ClassVar[Facts] = FACTS

    def load(self, split: str) -> Dataset:
        """Return "train" (88 slices) or "test" (24); images are uint8 `(N, 1, 240, 200)`, masks `(N, 240, 200)`.

        Raises:
            DataMissing: the files are in none of the places; the text names the command that gets them.
            DataError: a file is damaged.
        """
        self.facts.check_split(split)
        folder = self.facts.find()
        if folder is None:
            raise self.facts.missing
        image, mask = _read(self.facts, folder, self.facts.state(folder, tuple(_FILES)))
        rows = torch.tensor([row for slab in (TEST if split == "test" else TRAIN) for row in slab])
        return Dataset(
            image[rows, None],
            mask[rows].long(),
            class_names=self.facts.classes,
            name=self.facts.name,
            modality="image",
            ids=rows,
        )


@lru_cache(maxsize=1)  # size and time of the files are part of the key, so changed files are read again
def _read(facts: Facts, folder: Path, _state: tuple[tuple[str, int, int], ...]) -> tuple[Tensor, Tensor]:
    """Return all slices and their masks `(189, 240, 200)` as uint8, the front of the head above."""
    image, gray, white = (_volume(facts.read(folder, name), name) for name in _FILES)
    gray, white = gray.short(), white.short()
    neither = 255 - gray - white
    mask = ((gray > neither) & (gray >= white)).byte() + 2 * ((white > neither) & (white > gray)).byte()
    return _framed(image), _framed(mask)


def _volume(raw: bytes, name: str) -> Tensor:
    if len(raw) != _BYTES:
        raise DataError(f"{name} must have {_BYTES:,} bytes, got {len(raw):,}")
    return torch.from_numpy(np.frombuffer(raw, np.uint8, offset=HEADER).reshape(SHAPE)[:, ::-1].copy())


def _framed(volume: Tensor) -> Tensor:
    """Return slices with an empty frame that makes their sides multiples of eight."""
    height, width = SIZE[0] - SHAPE[1], SIZE[1] - SHAPE[2]
    return F.pad(volume, [width // 2, width - width // 2, height // 2, height - height // 2])
