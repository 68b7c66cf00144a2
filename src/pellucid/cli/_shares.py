"""How commands share their work: over the processes of `torchrun`, or in shards that `pellucid merge` puts together."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ._subject import Reading

if TYPE_CHECKING:
    from pellucid.core import Ranks

WORDS: ContextVar[tuple[str, ...]] = ContextVar("words", default=())
"""The command that runs, as its words: its name and its arguments."""

STORED: ContextVar[tuple[Path, ...]] = ContextVar("stored", default=())
"""Folders of finished shards, while `pellucid merge` runs their command."""


@contextmanager
def sharing(shard: str) -> Iterator[Ranks]:
    """Find out which share is this process's; under `torchrun` the leading process alone speaks.

    Args:
        shard: such as "3/40"; empty if the work is not cut into shards.

    Raises:
        RunError: no such shard, or shards of processes that share their work already.
    """
    from pellucid.core import PellucidError, Ranks, RunError

    ranks = Ranks.here()
    if not ranks.together:
        yield Ranks.shard(shard) if shard else ranks
        return
    if shard:
        raise RunError("--shard is for processes that do not know of each other; under torchrun leave it out")
    try:
        with ranks.joined(), _unheard(not ranks.leads):
            yield ranks
    except PellucidError:
        if ranks.leads:
            raise
        raise SystemExit(2) from None  # the leading process says it


@contextmanager
def _unheard(silent: bool) -> Iterator[None]:
    if not silent:
        yield
        return
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):  # noqa: PTH123
        yield


def own_card(reading: Reading, ranks: Ranks) -> Reading:
    """Return how to read the model, each process of a machine on its own graphics card."""
    return replace(reading, device=ranks.device(reading.device))


def folder_name(name: str, shard: str) -> str:
    """Return what to call the folder of a run, or of one shard of it."""
    return f"{name}-shard-{shard.replace('/', '-of-')}" if shard else name


def finish_shard(folder: Path, ranks: Ranks) -> str:
    """Write into a finished shard what `pellucid merge` must know; return what to say."""
    from pellucid.core import RunFolder

    RunFolder.open(folder).update(shard=str(ranks), words=list(WORDS.get()))
    return f"shard {ranks} is done; when all {ranks.count} are, `pellucid merge` with their folders makes the report"


def quiet_words(words: tuple[str, ...]) -> tuple[str, ...]:
    """Return a command without what tells its shards apart."""
    kept, rest = [], iter(words)
    for word in rest:
        name, _, value = word.partition("=")
        if name in ("--shard", "--out"):
            if not value:
                next(rest, None)
        elif name not in ("--resume", "--device"):
            kept.append(word)
        elif name == "--device" and not value:
            next(rest, None)
    return tuple(kept)


def said(text: str, ranks: Ranks) -> None:
    """Write one line to stderr, from the leading process alone."""
    if ranks.leads or not ranks.together:
        sys.stderr.write(f"pellucid: {text}\n")
