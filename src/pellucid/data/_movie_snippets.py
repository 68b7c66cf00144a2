"""Movie snippets (Hutto, Gilbert 2014): sentences of film reviews, each rated by about 20 people from -4 to 4.

The sentences are those of Pang and Lee's reviews from rottentomatoes.com; the ratings come with VADER. MIT license,
(c) 2016 C.J. Hutto. The package holds a sample of 500 test sentences; the rest is looked for on this machine.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import msgspec
import torch

from pellucid.core import DataError, Dataset

from ._facts import Facts
from ._homes import PyPIPackage, WebArchive, WebFile

SAMPLE = Path(__file__).parent / "samples" / "movie-snippets.tsv"
SAMPLE_SHA256 = "8dd4e7fc6382d440ac1ba611728be924119db7b1883667f7a4c0482690efe1a6"

NEUTRAL = 0.5
"""Sentences whose mean rating is nearer to 0 are left out: people do not agree on them."""

_FILE = "movieReviewSnippets_GroundTruth.txt"
_MEMBER = f"hutto_ICWSM_2014/{_FILE}"
_ARCHIVE = WebFile(2_338_514, "sha256:d5bb07d87474b3eb8d30b4deccbc23f19d742a6c5718fbacc65485b70b95c5fa")
_BYTES = 1_383_098

FACTS = Facts(
    name="movie-snippets",
    summary="8,060 + 2,012 sentences of film reviews, negative or positive by the ratings of 20 people",
    license="MIT",
    url="https://github.com/cjhutto/vaderSentiment",
    classes=("negative", "positive"),
    counts={"train": 8_060, "test": 2_012},
    digests={_FILE: "c8293b0d942e90e223ea2c0955d969040d1a1be514a978b9af0698940bd13350"},
    sizes={_FILE: _BYTES},
    homes=(
        WebArchive(
            "https://github.com/cjhutto/vaderSentiment/raw/master/additional_resources/hutto_ICWSM_2014.tar.gz",
            _ARCHIVE,
            {_MEMBER: _FILE},
            {_FILE: _BYTES},
        ),
        PyPIPackage(
            "vaderSentiment==3.3.2",
            WebFile(2_466_783, "sha256:5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"),
            "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz",
            _ARCHIVE.size,
            {_MEMBER: _FILE},
            {_FILE: _BYTES},
        ),
    ),
)


class MovieSnippets(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="movie-snippets"):
    """All movie snippets, from this machine; the file is checked against its known digest.

    The class is the sign of the mean rating; sentences rated between -0.5 and 0.5 are left out. There is no official
    split: every fifth sentence by its number is for the test. Ids are the numbers of the sentences.
    """

    facts: ClassVar[Facts] = FACTS

    def load(self, split: str) -> Dataset:
        """Return "train" (8,060) or "test" (2,012) with their texts; inputs are `(N, 0)` until they are tokenized.

        Raises:
            DataMissing: the file is in none of the places; the text names the command that gets it.
            DataError: the file is damaged.
        """
        self.facts.check_split(split)
        folder = self.facts.find()
        if folder is None:
            raise self.facts.missing
        rows = _rows(self.facts, folder, self.facts.state(folder, (_FILE,)))
        return _dataset([row for row in rows if (row[0] % 5 == 0) == (split == "test")])


def load_sample() -> Dataset:
    """Return the shipped sample: of each class the first 250 sentences of the test split, 500 in all."""
    raw = SAMPLE.read_bytes()
    if hashlib.sha256(raw).hexdigest() != SAMPLE_SHA256:
        raise DataError(f"{SAMPLE} is damaged; install Pellucid again")
    note = (
        "the shipped sample of 500 test sentences (250 per class): the full set is absent, "
        "`pellucid data get movie-snippets` gets it"
    )
    return _dataset(_parsed(raw), note=note)


Row = tuple[int, float, str]


@lru_cache(maxsize=1)  # size and time of the file are part of the key, so a changed file is read again
def _rows(facts: Facts, folder: Path, _state: tuple[tuple[str, int, int], ...]) -> tuple[Row, ...]:
    return tuple(_parsed(facts.read(folder, _FILE)))


def _parsed(raw: bytes) -> list[Row]:
    """Return number, mean rating and text of each sentence on which people agree; digests are checked before."""
    rows = (line.split("\t") for line in raw.decode().splitlines())
    return [(int(k), float(rating), text.strip()) for k, rating, text in rows if abs(float(rating)) >= NEUTRAL]


def _dataset(rows: list[Row], *, note: str = "") -> Dataset:
    return Dataset(
        torch.zeros(len(rows), 0, dtype=torch.int64),
        torch.tensor([int(rating > 0) for _, rating, _ in rows]),
        class_names=FACTS.classes,
        name=FACTS.name,
        modality="text",
        ids=torch.tensor([number for number, _, _ in rows]),
        bounds=None,
        note=note,
        texts=tuple(text for _, _, text in rows),
    )
