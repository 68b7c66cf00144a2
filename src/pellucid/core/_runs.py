"""Run folders: where an audit or a training keeps what it made, safe against crashes and against each other."""

from __future__ import annotations

import json
import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

from ._errors import DataError, PellucidError, RunError
from ._files import PathLike, is_leftover, read_json, write_json

SCHEMA = 1
_MANIFEST, _LOCK = "manifest.json", ".lock"


class RunFolder:
    """A folder with a `manifest.json` that says what it holds, how it was made and whether it is complete.

    Use it as a context while computing: the folder is locked, and its status becomes `complete` at the end, `partial`
    when the block was left by an exception or Ctrl-C. Dates, durations and versions live here, never in results.

    Example:
        >>> import tempfile
        >>> with RunFolder.create(tempfile.mkdtemp(), kind="audit") as run:
        ...     _ = run.file("answer.txt").write_text("42")
        >>> run.status
        'complete'
    """

    path: Path
    manifest: dict[str, Any]

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        """Use `create` or `open`."""
        self.path, self.manifest = path, manifest
        self._started = 0.0
        self._new_manifest = self._new_folder = False

    @classmethod
    def create(cls, path: PathLike, *, kind: str, command: str = "", resume: bool = False) -> RunFolder:
        """Make a run folder, or take up the one at `path` with `resume`.

        Args:
            path: a new or empty folder, or one of the same kind with `resume`.
            kind: what makes it, such as "audit" or "train".
            command: the command line that makes it again; this process's own if not given.
            resume: continue in a folder that holds an earlier run.

        Raises:
            RunError: the folder belongs to something else, holds results, or another process works in it.
        """
        path = Path(path)
        there = path.exists()
        if there and not path.is_dir():
            raise RunError(f"{path} is a file, not a folder; choose another output folder")
        if there and not all(map(is_leftover, path.iterdir())):
            manifest = _read_manifest(path)
            if manifest is None:
                raise RunError(
                    f"{path} is an output folder that is not ours: it is not empty and no run of Pellucid made it; "
                    "choose a new or empty folder"
                )
            run = cls(path, manifest)
            run._check(kind)
            run._check_unlocked()
            if not resume:
                raise RunError(
                    f"{path} holds the results of an earlier run; add --resume to continue it or choose another folder"
                )
            return run
        run = cls(path, _new_manifest(kind, command or _command_line()))
        run._new_manifest, run._new_folder = True, not there
        path.mkdir(parents=True, exist_ok=True)
        run._write()
        return run

    @classmethod
    def open(cls, path: PathLike, *, kind: str | None = None) -> RunFolder:
        """Open a run folder for reading.

        A run that died without a word reads as `partial`.

        Raises:
            RunError: there is no run of that kind at `path`.
        """
        path = Path(path)
        if not path.is_dir():
            raise RunError(f"{path} does not exist" if not path.exists() else f"{path} is no folder")
        manifest = _read_manifest(path)
        if manifest is None:
            raise RunError(f"{path} holds no run of Pellucid: its {_MANIFEST} is missing")
        run = cls(path, manifest)
        run._check(kind)
        if run.status == "running" and not _alive(_read_lock(run.path / _LOCK)):
            run.manifest["status"] = "partial"
        return run

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r}, kind={self.kind!r}, status={self.status!r})"

    @property
    def kind(self) -> str:
        """What made the folder."""
        return str(self.manifest["pellucid"])

    @property
    def status(self) -> str:
        """`running`, `complete` or `partial`."""
        return str(self.manifest["status"])

    def update(self, **entries: Any) -> None:
        """Set entries of the manifest and write it."""
        self.manifest.update(entries)
        self._write()

    def file(self, name: str) -> Path:
        """Return the path of a file in the folder; its subfolders are made."""
        path = self.path / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"name must stay inside the run folder, got {name!r}")
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Add the seconds the block takes to the manifest's durations under `part`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._add_duration(part, time.perf_counter() - start)

    def __enter__(self) -> RunFolder:
        self._acquire()
        self._started = time.perf_counter()
        self.update(status="running", versions=versions())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if isinstance(error, PellucidError) and self._new_manifest and self._is_empty():
                (self.path / _MANIFEST).unlink()  # bad input found late must leave nothing behind
            else:
                self.manifest["status"] = "partial" if error else "complete"
                self._add_duration("total", time.perf_counter() - self._started)
        finally:
            with suppress(FileNotFoundError):
                (self.path / _LOCK).unlink()
            if self._new_folder:
                with suppress(OSError):  # only an empty folder can be removed
                    self.path.rmdir()

    def _add_duration(self, part: str, seconds: float) -> None:
        durations = dict(self.manifest.get("durations", {}))
        durations[part] = round(durations.get(part, 0.0) + seconds, 3)
        self.update(durations=durations)

    def _is_empty(self) -> bool:
        return {entry.name for entry in self.path.iterdir()} <= {_MANIFEST, _LOCK}

    def _write(self) -> None:
        write_json(self.path / _MANIFEST, self.manifest)

    def _check(self, kind: str | None) -> None:
        if kind is not None and self.kind != kind:
            raise RunError(f"{self.path} holds a run of kind {self.kind!r}, not {kind!r}; choose another folder")
        if self.manifest["schema"] > SCHEMA:
            raise RunError(f"{self.path} was made by a newer Pellucid ({self.manifest['version']}); upgrade to open it")

    def _check_unlocked(self) -> None:
        lock = _read_lock(self.path / _LOCK)
        if lock is not None and _alive(lock) and lock != _identity():
            raise RunError(
                f"{self.path} is in use by process {lock.get('pid')} on {lock.get('host')}; wait for it, choose "
                f"another folder, or delete {self.path / _LOCK} if that process is gone"
            )

    def _acquire(self) -> None:
        self._check_unlocked()
        with suppress(FileNotFoundError):  # a lock of a dead process
            (self.path / _LOCK).unlink()
        try:
            handle = os.open(self.path / _LOCK, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            raise RunError(f"{self.path} was taken by another process this moment; choose another folder") from None
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(json.dumps(_identity()))
        for torn in filter(is_leftover, self.path.rglob(".*.tmp")):
            torn.unlink(missing_ok=True)


def versions() -> dict[str, str]:
    """Return the versions of the libraries that compute results."""
    found = {"python": sys.version.split()[0]}
    for package in ("pellucid", "torch", "numpy", "safetensors"):
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def _new_manifest(kind: str, command: str) -> dict[str, Any]:
    return {
        "pellucid": kind,
        "schema": SCHEMA,
        "version": versions().get("pellucid", "unknown"),
        "status": "running",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "durations": {},
    }


def _command_line() -> str:
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def _read_manifest(path: Path) -> dict[str, Any] | None:
    """Return the manifest, or None if the folder has none that is ours."""
    if not (path / _MANIFEST).is_file():
        return None
    try:
        manifest: Any = read_json(path / _MANIFEST)
    except DataError as error:
        raise RunError(f"{path} has a damaged manifest; restore it or choose another folder ({error})") from None
    if not isinstance(manifest, dict) or type(manifest.get("schema")) is not int:
        return None
    ours = all(isinstance(manifest.get(key), str) for key in ("pellucid", "version", "status"))
    return manifest if ours and isinstance(manifest.get("durations", {}), dict) else None


def _identity() -> dict[str, Any]:
    """Who holds a lock. The start time tells a process from a later one with the same number."""
    return {"pid": os.getpid(), "host": socket.gethostname(), "started": _start_of(os.getpid())}


def _start_of(pid: int) -> int | None:
    """Return when a process started, in the kernel's clock ticks; None where the system does not tell."""
    try:
        return int(
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
        )
    except (OSError, ValueError, IndexError):
        return None


def _read_lock(path: Path) -> dict[str, Any] | None:
    try:
        lock = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}  # torn: its writer died in the act
    return lock if isinstance(lock, dict) else {}


def _alive(lock: dict[str, Any] | None) -> bool:
    """Whether the lock's process may still run; a process of another host must be believed."""
    if not lock or not isinstance(lock.get("pid"), int):
        return False
    if lock.get("host") != socket.gethostname():
        return True
    return _runs(lock["pid"]) and lock.get("started") in (None, _start_of(lock["pid"]))


def _runs(pid: int) -> bool:
    if sys.platform == "win32":  # pragma: no cover - there, signal 0 would be Ctrl-C
        import ctypes

        handle = ctypes.windll.kernel32.OpenProcess(0x1000, False, pid)  # the right to ask for little
        if handle:
            ctypes.windll.kernel32.CloseHandle(handle)
        return bool(handle)
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True  # under another user
    return True
