"""Which share of the work is this process's: all, that of one of several processes that talk, or one shard of many.

The only file that reads the variables of `torchrun`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch.distributed as dist
from torch import Tensor

from ._errors import RunError

Pieces = Mapping[int, Mapping[str, Tensor]]
"""Results of numbered pieces of work, as named tensors."""


@dataclass(frozen=True)
class Ranks:
    """This process among those that share one piece of work.

    Args:
        index: number of this process, from 0.
        count: how many share the work.
        together: whether the others run now and can be talked to; shards of a scheduler cannot.
    """

    index: int = 0
    count: int = 1
    together: bool = False

    @classmethod
    def here(cls) -> Ranks:
        """Return this process's place under `torchrun`; alone without it."""
        count = int(os.environ.get("WORLD_SIZE", "1"))
        return cls(int(os.environ.get("RANK", "0")), count, True) if count > 1 else cls()

    @classmethod
    def shard(cls, text: str) -> Ranks:
        """Return the place that `text` names, such as "3/40": the third of forty, counted from 1.

        Raises:
            RunError: no such shard.
        """
        match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text.strip())
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise RunError(f"a shard is written as 3/40, the third of forty, counted from 1; got {text!r}")
        return cls(int(match[1]) - 1, int(match[2]))

    @property
    def leads(self) -> bool:
        """Whether this is the one process that writes the common result."""
        return self.index == 0

    def owns(self, piece: int) -> bool:
        """Whether a numbered piece of work is this process's."""
        return piece % self.count == self.index

    def gather(self, pieces: Pieces) -> Pieces:
        """Return the pieces of all processes; only for processes that are `together` and inside `joined`."""
        if not self.together:
            return pieces
        everybody: list[Pieces | None] = [None] * self.count
        dist.all_gather_object(everybody, dict(pieces))
        return {number: piece for part in everybody if part for number, piece in part.items()}

    @contextmanager
    def joined(self, backend: str = "gloo") -> Iterator[None]:
        """Open the line between the processes for the block, if there are several and nobody has."""
        if not self.together or dist.is_initialized():
            yield
            return
        dist.init_process_group(backend)
        yield
        # Not after an error: the others may wait in a collective for ever; torchrun ends them when this process ends.
        dist.destroy_process_group()

    def __str__(self) -> str:
        return f"{self.index + 1}/{self.count}"
