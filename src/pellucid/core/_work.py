"""Long work on many samples: watched, kept chunk by chunk, shared out over processes and put together again.

Chunks depend on the samples alone, never on how many processes there are, so that one process and many compute the
same batches and return the same numbers. A chunk that is already in one of the folders is not computed again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from ._contracts import OnStep, silent
from ._errors import DataError, PellucidError
from ._files import read_tensors, write_tensors
from ._ranks import Ranks

Compute = Callable[[Tensor, OnStep], Mapping[str, Tensor]]
"""Computes some samples: row numbers `(r,)` and a watcher to tensors whose first axis is `r`."""


Pieces = Mapping[int, Mapping[str, Tensor]]
"""Results of numbered chunks, as named tensors."""


class Elsewhere(PellucidError):
    """This shard has done its part of some work; the other parts are other shards'."""


def _untimed(name: str) -> AbstractContextManager[None]:
    """The clock of a caller who keeps no manifest."""
    return nullcontext()


@dataclass(frozen=True)
class Work:
    """How a long computation is watched, kept and shared out.

    Args:
        on_step: told how much is done.
        folder: where finished chunks are kept; nowhere if not given.
        stored: more folders to look for finished chunks in.
        ranks: which share is this process's.
        key: what the numbers rest on beside the samples; chunks kept under another key are not used.
        clock: takes the seconds of a block under a name, for the manifest; no number of a finding may depend on it.

    Example:
        >>> import torch
        >>> ids = torch.arange(5)
        >>> Work().map("squares", ids, lambda rows, on_step: {"square": rows**2}, chunk=2)["square"].tolist()
        [0, 1, 4, 9, 16]
    """

    on_step: OnStep = silent
    folder: Path | None = None
    stored: tuple[Path, ...] = ()
    ranks: Ranks = field(default_factory=Ranks)
    key: str = ""
    clock: Callable[[str], AbstractContextManager[None]] = _untimed

    def part(self, start: float, end: float) -> Work:
        """Return the same work, its steps reported as those from `start` to `end` of a whole of 1."""
        whole, size = self.on_step, 10_000

        def step(done: int, total: int) -> None:
            whole(round(size * (start + (end - start) * done / max(1, total))), size)

        return replace(self, on_step=step)

    def need_all(self, name: str) -> None:
        """Say that `name` is computed from all samples at once: by every process that talks, by no shard.

        Raises:
            Elsewhere: this process is a shard.
        """
        if self.ranks.count > 1 and not self.ranks.together:
            raise Elsewhere(f"{name} needs all samples at once: `pellucid merge` computes it")

    def map(self, name: str, ids: Tensor, compute: Compute, *, chunk: int, key: str = "") -> dict[str, Tensor]:
        """Return what `compute` says of all samples, in their order.

        Args:
            name: what is computed; finished chunks are kept under this name.
            ids: `(N,)` ids of the samples, at least one.
            compute: called with row numbers; never with rows of two chunks.
            chunk: samples computed at once; part of what decides the numbers.
            key: every setting of this work that changes the result, added to the key of all work.

        Raises:
            Elsewhere: this process is a shard, its chunks are done, and others' are not here.
        """
        if not len(ids):
            raise DataError(f"{name}: there are no samples to compute")
        chunks = torch.split(torch.arange(len(ids)), chunk)
        keys = f"{self.key}|{key}"
        files = [f"{number:06d}-{_digest(keys, ids[rows])}.safetensors" for number, rows in enumerate(chunks)]
        mine = [number for number in range(len(chunks)) if self.ranks.owns(number)]
        done: dict[int, Mapping[str, Tensor]] = {}
        trouble: Exception | None = None
        try:
            for place, number in enumerate(mine):
                done[number] = self._piece(name, files[number], chunks[number], compute, place, len(mine))
        except (MemoryError, OSError, torch.OutOfMemoryError):
            raise  # this machine's own trouble: the process ends, and with it the others
        except Exception as error:
            if not self.ranks.together:
                raise
            trouble = error
        self.on_step(len(mine), max(1, len(mine)))
        pieces = self._together(done, trouble)
        if len(pieces) < len(chunks):
            others = {n: self._find(name, files[n]) for n in range(len(chunks)) if n not in pieces}
            missing = [n for n, found in others.items() if found is None]
            if missing:
                raise Elsewhere(
                    f"{name}: shard {self.ranks} has done its part; `pellucid merge` makes the whole of all "
                    f"{self.ranks.count}"
                )
            pieces = {**pieces, **{n: found for n, found in others.items() if found is not None}}
        return {key: torch.cat([pieces[n][key] for n in range(len(chunks))]) for key in pieces[0]}

    def _together(self, done: Pieces, trouble: Exception | None) -> Pieces:
        """Return the chunks of all processes that talk; the error of one is raised in all, so that none waits."""
        if trouble is None or isinstance(trouble, PellucidError):
            told: PellucidError | str | None = trouble
        else:
            told = f"{type(trouble).__name__}: {trouble}"
        parts = self.ranks.gather((done if trouble is None else {}, told))
        if trouble is not None:
            raise trouble
        for number, (_, error) in enumerate(parts):
            if isinstance(error, PellucidError):
                raise error
            if error is not None:
                raise RuntimeError(f"process {number} of {self.ranks.count} failed with {error}")
        return {number: piece for part, _ in parts for number, piece in part.items()}

    def _piece(
        self, name: str, file: str, rows: Tensor, compute: Compute, place: int, total: int
    ) -> Mapping[str, Tensor]:
        found = self._find(name, file)
        if found is not None:
            return found

        def step(done: int, of: int) -> None:
            self.on_step(round(1000 * (place + done / max(1, of))), 1000 * total)

        step(0, 1)
        tensors = {key: value.detach().cpu().contiguous() for key, value in compute(rows, step).items()}
        for key, value in tensors.items():
            if not value.ndim or len(value) != len(rows):
                raise ValueError(f"{name}: {key} must have {len(rows)} rows, got shape {tuple(value.shape)}")
        if self.folder is not None:
            path = self.folder / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            write_tensors(path, tensors)
        return tensors

    def _find(self, name: str, file: str) -> Mapping[str, Tensor] | None:
        folders = (*((self.folder,) if self.folder is not None else ()), *self.stored)
        for folder in folders:
            if (folder / name / file).is_file():
                with suppress(DataError):  # a damaged chunk is computed again
                    return read_tensors(folder / name / file)
        return None


ALONE = Work()
"""Work of a single process that nobody watches and nobody keeps."""


def _digest(key: str, ids: Tensor) -> str:
    return hashlib.sha256(f"{key}|{ids.tolist()}".encode()).hexdigest()[:12]
