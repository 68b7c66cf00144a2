"""`pellucid merge SHARDS`: the report of work that was done in shards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import tyro

from ._shares import STORED, quiet_words


def merge(
    shards: Annotated[tuple[Path, ...], tyro.conf.Positional],
    /,
    *,
    out: Path,
    device: str = "cpu",
) -> int:
    """Put the shards of an audit or an explanation together and write its report.

    The shards' work is taken from their folders; only what needs the results of all is computed here. The numbers are
    those of a single process.

    Args:
        shards: The folders of all shards.
        out: Folder for the report.
        device: Where to compute what needs all results: cpu, cuda, cuda:1, ...
    """
    from . import _call

    words = _checked(shards)
    token = STORED.set(tuple(shards))
    try:
        return _call(words[0], [*words[1:], "--device", device, "--out", str(out)])
    finally:
        STORED.reset(token)


def _checked(shards: tuple[Path, ...]) -> tuple[str, ...]:
    """Return the command that all shards are of, after making sure that nothing is missing.

    Raises:
        RunError: a folder is no finished shard, or the shards are not those of one command.
    """
    from pellucid.core import RunError

    if not shards:
        raise RunError("give the folders of all shards")
    found: dict[str, Path] = {}
    commands: dict[tuple[str, ...], Path] = {}
    for folder in shards:
        manifest = _manifest(folder)
        if (shard := str(manifest["shard"])) in found:
            raise RunError(f"{folder} and {found[shard]} are both shard {shard}; give each shard once")
        found[shard] = folder
        commands.setdefault(quiet_words(tuple(manifest["words"])), folder)
    counts = {shard.partition("/")[2] for shard in found}
    if len(commands) > 1 or len(counts) > 1:
        one, other, *_ = [*commands.values(), *shards]
        raise RunError(f"{one} and {other} are shards of different commands; merge shards of one command only")
    count = int(counts.pop())
    missing = [f"{k}/{count}" for k in range(1, count + 1) if f"{k}/{count}" not in found]
    if missing:
        shown = ", ".join(missing[:10]) + (f" and {len(missing) - 10} more" if len(missing) > 10 else "")
        raise RunError(f"of {count} shards these are missing: {shown}; run them, then merge all")
    return next(iter(commands))


def _manifest(folder: Path) -> dict[str, Any]:
    from pellucid.core import RunError, RunFolder

    run = RunFolder.open(folder)
    if run.status != "complete":
        raise RunError(f"the run in {folder} is not finished; run it again with --resume, then merge")
    if "shard" not in run.manifest or "words" not in run.manifest:
        raise RunError(f"{folder} is no shard: it was not made with --shard")
    return run.manifest
