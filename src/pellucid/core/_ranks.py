"""Which share of the work is this process's: all, that of one of several processes that talk, or one shard of many.

The only file that reads the variables of `torchrun`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch.distributed as dist

from ._errors import PellucidError, RunError, first_line

T = TypeVar("T")

_PATIENCE = timedelta(days=30)
"""How long a process waits for another one's part; the default of half an hour is shorter than some parts take."""


@dataclass(frozen=True)
class Ranks:
    """This process among those that share one piece of work.

    Args:
        index: number of this process, from 0.
        count: how many share the work.
        together: whether the others run now and can be talked to; shards of a scheduler cannot.
        local: number of this process on its machine, from 0.
        restarts: how often `torchrun` has started the processes anew after one of them died.
    """

    index: int = 0
    count: int = 1
    together: bool = False
    local: int = 0
    restarts: int = 0

    @classmethod
    def here(cls) -> Ranks:
        """Return this process's place under `torchrun`; alone without it."""
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count < 2:
            return cls()
        place, again = os.environ.get("LOCAL_RANK", "0"), os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        return cls(int(os.environ.get("RANK", "0")), count, True, int(place), int(again))

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

    @property
    def restarted(self) -> bool:
        """Whether this is not the first life of the processes, so that some of the work may be done."""
        return self.restarts > 0

    def owns(self, piece: int) -> bool:
        """Whether a numbered piece of work is this process's."""
        return piece % self.count == self.index

    def device(self, name: str) -> str:
        """Return the device for this process: of "cuda" each process of a machine takes its own card."""
        return f"cuda:{self.local}" if name == "cuda" and self.together else name

    def gather(self, part: T) -> list[T]:
        """Return what each process gives, in their order; inside `joined` if they are `together`.

        Raises:
            ConnectionError: another process has died.
        """
        if not self.together:
            return [part]
        everybody: list[T | None] = [None] * self.count
        try:
            dist.all_gather_object(everybody, part)
        except RuntimeError as error:
            # No answer of this process can be whole any more: not a question's trouble but the machine's.
            raise ConnectionError(f"another of the {self.count} processes has gone ({first_line(error)})") from error
        return everybody  # type: ignore[return-value]  # filled by now

    def lead(self, make: Callable[[], T]) -> T:
        """Return what `make` gives the leading process, to all; its error too is everybody's."""
        if not self.together:
            return make()
        answer: tuple[T | None, PellucidError | None] = (None, None)
        if self.leads:
            try:
                answer = (make(), None)
            except PellucidError as error:
                answer = (None, error)
        made, refused = self.gather(answer)[0]
        if refused is not None:
            raise refused
        return made  # type: ignore[return-value]  # made by now

    @contextmanager
    def joined(self, backend: str = "gloo") -> Iterator[None]:
        """Open the line between the processes for the block, if there are several and nobody has."""
        if not self.together or dist.is_initialized():
            yield
            return
        store, rank, count = next(dist.rendezvous("env://"))  # type: ignore[attr-defined]
        # `torchrun` keeps one store over all lives of its processes, with the addresses of the dead in it.
        store = dist.PrefixStore(f"pellucid-{self.restarts}", store)  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=_PATIENCE)
        yield
        # Not after an error: the others may wait in a collective for ever; torchrun ends them when this process ends.
        dist.destroy_process_group()

    def __str__(self) -> str:
        return f"{self.index + 1}/{self.count}"
