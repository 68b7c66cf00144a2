"""One file from the web: resumed where it was cut off, checked, and in its place only when it is whole."""

from __future__ import annotations

import hashlib
import os
import urllib.request
from pathlib import Path

from pellucid.core import DataError, OnStep, first_line, silent

CHUNK = 2**18
RETRIES = 4
TIMEOUT = 30.0


def fetch(url: str, path: Path, *, size: int, digest: str, on_step: OnStep = silent) -> None:
    """Download `url` to `path`; a file that is there already and right is kept.

    What has arrived waits in `path.part`. A connection that is cut is opened again, and a later call goes on where this
    one stopped, by asking for the rest (HTTP Range); a server that cannot do that sends the whole file again.

    Args:
        url: an http or https address.
        path: where the file goes.
        size: bytes it must have; never more are written.
        digest: "md5:…" or "sha256:…" of the content.
        on_step: told the bytes that have arrived, and `size`.

    Raises:
        OSError: the server does not answer, or the disk does not take the file.
        DataError: the content is not what it must be; it is removed.
    """
    if path.is_file() and path.stat().st_size == size and _digest(path, digest) == digest:
        on_step(size, size)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    if part.is_file() and part.stat().st_size > size:
        part.unlink()
    resumed = part.is_file() and part.stat().st_size > 0
    _fill(url, part, size, on_step)
    if resumed and _digest(part, digest) != digest:  # begun by another server or version: once more, from the start
        part.unlink()
        _fill(url, part, size, on_step)
    if _digest(part, digest) != digest:
        part.unlink()
        raise DataError(f"{url} is not the file it should be: its {digest.partition(':')[0]} differs")
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(path)


def _fill(url: str, part: Path, size: int, on_step: OnStep) -> None:
    """Append to `part` until it has `size` bytes; a connection that brings something earns another try."""
    failures, problem = 0, "the connection was cut"
    while (have := part.stat().st_size if part.is_file() else 0) < size:
        try:
            _append(url, part, have, size, on_step)
        except OSError as error:
            if getattr(error, "errno", None) is not None and not isinstance(error, ConnectionError | TimeoutError):
                raise  # the disk
            problem = first_line(error)
        after = part.stat().st_size if part.is_file() else 0
        failures = 0 if after > have else failures + 1
        if failures and (after == 0 or failures >= RETRIES):
            raise OSError(f"{problem} after {after:,} of {size:,} bytes")
    on_step(size, size)


def _append(url: str, part: Path, have: int, size: int, on_step: OnStep) -> None:
    request = urllib.request.Request(url, headers={"User-Agent": "pellucid", "Accept-Encoding": "identity"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
        fresh = answer.status != 206 or not str(answer.headers.get("Content-Range", "")).startswith(f"bytes {have}-")
        done = 0 if fresh else have
        with part.open("wb" if fresh else "ab") as file:
            on_step(done, size)
            while chunk := answer.read(CHUNK):
                if done + len(chunk) > size:
                    raise DataError(f"{url} is not the file it should be: it is larger than {size:,} bytes")
                file.write(chunk)
                done += len(chunk)
                on_step(done, size)


def _digest(path: Path, like: str) -> str:
    kind = like.partition(":")[0]
    with path.open("rb") as file:
        return f"{kind}:{hashlib.file_digest(file, kind).hexdigest()}"
