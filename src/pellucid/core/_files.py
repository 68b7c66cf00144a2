"""Files from anywhere, opened safely: the format is sniffed, sizes are capped, nothing is ever unpickled.

Readers raise `DataError` with one sentence that names the file. Writers go through a temporary file in the same folder,
so that a reader sees the old content or the new one, never half of it.
"""

from __future__ import annotations

import glob
import io
import math
import os
import re
import secrets
import stat
import struct
import tomllib
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar

import msgspec
import numpy as np
import numpy.lib.format as npy
from torch import Tensor

from ._errors import DataError, first_line

Format = Literal[
    "safetensors", "npz", "npy", "pickle", "torch-zip", "zip", "png", "jpeg", "gzip", "json", "text", "unknown"
]
PathLike = str | os.PathLike[str]
T = TypeVar("T")

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")  # names that `_replacing` gives
_MAX_HEADER = 100 * 2**20  # bytes of a safetensors header, the limit of the format's own library
_MAX_MEMBERS = 10_000  # arrays in one npz
_MAX_DIRECTORY = 4 * 2**20  # bytes of a zip's table of contents; every entry of it becomes an object
_MAX_TOML = 2**20  # bytes
_MAX_KEYS = 32  # tables inside one another, in TOML
# What unpacks to more than this and to so many times its size on disk was packed to do harm. Deflate reaches 1,032.
_BOMB_BYTES, _BOMB_RATIO = 64 * 2**20, 200
_BOMB_PIXELS, _BOMB_PIXEL_RATIO = 12_000_000, 100
_MAX_DECODING = 224 * 2**20  # bytes at the peak of decoding one image: 33 million pixels in color, 64 million in gray
_STRIP = 2**20  # pixels that are converted at once
# What decoders hold beside the picture, in bytes per pixel: whole frames, or the coefficients of a progressive JPEG.
_DECODER_BYTES = {"WEBP": 8, "GIF": 8, "TIFF": 4}
# Formats that only hold pixels. Pillow can open more, but some of them start other programs.
_IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
_ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8, "C64": 8,
}  # fmt: skip


# -- what is it? --------------------------------------------------------------------------------------------------


def sniff(path: PathLike) -> Format:
    """Tell a file's format from its first bytes, never from its name.

    Raises:
        DataError: the file is missing, not a regular file, or not readable.
    """
    path = Path(path)
    size = _size(path)
    with _opened(path) as file:
        head = file.read(512)
        if head[:4] == b"PK\x03\x04" or head[:4] == b"PK\x05\x06":
            return _sniff_zip(path)
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < max(size, _MAX_HEADER):
        return "safetensors"
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    # Protocols 2 to 5 start with 0x80 and their number; older ones look like text and no library of ours opens them.
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "pickle"
    return _sniff_text(head)


_MAGIC: tuple[tuple[bytes, Format], ...] = (
    (b"\x93NUMPY", "npy"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x1f\x8b", "gzip"),
)


def _sniff_zip(path: Path) -> Format:
    _check_directory(path)
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return "zip"
    if any(name.endswith("data.pkl") for name in names):
        return "torch-zip"
    return "npz" if names and all(name.endswith(".npy") for name in names) else "zip"


def _check_directory(path: Path) -> None:
    """Refuse a zip with an endless table of contents, before the library makes an object of every entry."""
    with _opened(path) as file:
        file.seek(max(0, _size(path) - 2**16 - 22))
        tail = file.read()
        at = tail.rfind(b"PK\x05\x06")
        if at < 0 or len(tail) < at + 22:
            return
        length = struct.unpack("<L", tail[at + 12 : at + 16])[0]
        if length == 2**32 - 1 and at >= 20:  # the real numbers of a large zip stand before this record
            file.seek(struct.unpack("<Q", tail[at - 12 : at - 4])[0])
            record = file.read(56)
            length = struct.unpack("<Q", record[40:48])[0] if len(record) == 56 else 0
    if length > _MAX_DIRECTORY:
        raise DataError(f"{path} lists more than {_MAX_MEMBERS:,} members, as no file of arrays or weights does")


def _sniff_text(head: bytes) -> Format:
    if b"\x00" in head:
        return "unknown"
    try:
        # The head may end inside a character, so up to three bytes are dropped from its end.
        text = next(head[: len(head) - cut].decode() for cut in range(4) if _decodes(head[: len(head) - cut]))
    except StopIteration:
        return "unknown"
    return "json" if text.lstrip()[:1] in ("{", "[") else "text"


def _decodes(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def path_kind(path: PathLike) -> Literal["file", "folder", "other"] | None:
    """Tell what lies at a path; None if nothing does, or if the system cannot have such a path at all.

    Unlike `Path.exists` and `Path.is_dir` it never raises: not for names that are too long, links that lead in a
    circle, or folders that may not be looked into.
    """
    try:
        mode = Path(path).stat().st_mode
    except (OSError, ValueError):
        return None
    return "folder" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else "other"


# -- reading ------------------------------------------------------------------------------------------------------


def read_text(path: PathLike, *, max_bytes: int = 16 * 2**20) -> str:
    """Return the text of a UTF-8 file of at most `max_bytes`."""
    path = Path(path)
    _check_size(path, max_bytes)
    with _opened(path) as file:
        data = file.read(max_bytes + 1)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start})") from None


def read_json(path: PathLike, kind: type[T] | Any = Any, *, max_bytes: int = 64 * 2**20) -> T:
    """Return the content of a JSON file, checked against the type `kind`."""
    text = read_text(path, max_bytes=max_bytes)
    try:
        decoded: T = msgspec.json.decode(text, type=kind)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise DataError(f"{path} is not the JSON it should be: {first_line(error)}") from None
    return decoded


def read_toml(path: PathLike, *, max_bytes: int = _MAX_TOML) -> dict[str, Any]:
    """Return the content of a TOML file.

    Raises:
        DataError: missing, larger than `max_bytes`, not TOML, or with tables nested more than 32 deep.
    """
    text = read_text(path, max_bytes=max_bytes)
    # The library's time grows with the square of a dotted key's parts. Every character is looked at once.
    keys = [part for part, end in re.findall(r"([^=,{\n]*)([=,{\n]|\Z)", text) if end == "="]
    headers = re.findall(r"^[ \t]*\[[^\],\n]*\]", text, re.MULTILINE)
    if any(key.count(".") > _MAX_KEYS for key in (*keys, *headers)):
        raise DataError(f"{path} has tables nested more than {_MAX_KEYS} deep")
    try:
        content = tomllib.loads(text)
    except RecursionError:
        raise DataError(f"{path} has tables nested more than {_MAX_KEYS} deep") from None
    except ValueError as error:  # also of a number with more digits than Python converts
        raise DataError(f"{path} is not TOML: {first_line(error)}") from None
    level: list[Any] = [content]
    for _ in range(_MAX_KEYS):
        level = [child for parent in level for child in _children(parent)]
    if level:
        raise DataError(f"{path} has tables nested more than {_MAX_KEYS} deep")
    return content


def _children(value: Any) -> list[Any]:
    held = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [child for child in held if isinstance(child, dict | list)]


def read_tensors(path: PathLike, *, max_bytes: int = 4 * 2**30) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, on the CPU.

    The header is checked before any tensor is made, so a truncated or hostile file costs nothing. Pickles (`.pt`,
    `.pth`, `.bin`, `.pkl`) can run code when opened; they are refused and never opened.

    Raises:
        DataError: missing, too large, a pickle, truncated, or not consistent with its own header.
    """
    import safetensors.torch

    path = Path(path)
    _check_size(path, max_bytes)
    found = sniff(path)
    if _size(path) == 0:
        raise DataError(f"{path} is empty")
    if found in ("pickle", "torch-zip"):
        raise DataError(
            f"{path} is a pickle, which can run code when opened, and is refused; convert it where you trust it: "
            'safetensors.torch.save_file(torch.load("weights.pt", weights_only=True), "weights.safetensors")'
        )
    if found not in ("safetensors", "unknown"):
        raise DataError(f"{path} is no safetensors file but {_a(found)}")
    _check_safetensors(path)
    try:
        return dict(safetensors.torch.load_file(path))
    except Exception as error:  # the library's own error types differ between versions
        raise DataError(f"{path} cannot be read as safetensors: {first_line(error)}") from None


class _Entry(msgspec.Struct):
    """One tensor of a safetensors header."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


def _check_safetensors(path: Path) -> None:
    size = _size(path)
    with _opened(path) as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _MAX_HEADER):
            raise DataError(f"{path} is truncated or no safetensors file: its header does not fit in {size:,} bytes")
        header = file.read(length)
    try:
        raw = msgspec.json.decode(header, type=dict[str, msgspec.Raw])
        raw.pop("__metadata__", None)
        entries = {name: msgspec.json.decode(entry, type=_Entry) for name, entry in raw.items()}
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise DataError(f"{path} has a damaged safetensors header: {first_line(error)}") from None
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1].data_offsets):
        start, stop = entry.data_offsets
        item = _ITEM_BYTES.get(entry.dtype)
        if item is None:
            raise DataError(f"{path}: tensor {name!r} has the unknown type {entry.dtype!r}")
        if any(n < 0 for n in entry.shape) or math.prod(entry.shape) * item != stop - start:
            raise DataError(f"{path}: tensor {name!r} has a shape that does not fit its {stop - start:,} bytes")
        if start != end:
            raise DataError(f"{path}: tensor {name!r} overlaps another or leaves a gap")
        end = stop
    held = size - 8 - length
    if end > held:
        raise DataError(f"{path} is truncated: it holds {held:,} of {end:,} bytes of tensors; copy it again")
    if end < held:
        raise DataError(f"{path} holds {held - end:,} bytes that belong to no tensor")


def read_arrays(path: PathLike, *, max_bytes: int = 4 * 2**30) -> dict[str, np.ndarray]:
    """Return the arrays of an npz file; `max_bytes` caps their size after decompression.

    Raises:
        DataError: missing, no npz, truncated, larger than the cap, or with Python objects (pickles) inside.
    """
    path = Path(path)
    found = sniff(path)
    if found in ("pickle", "torch-zip"):
        raise DataError(f"{path} is a pickle, which can run code when opened, and is refused; save it with np.savez")
    if found == "zip" and not zipfile.is_zipfile(path):
        raise DataError(f"{path} is a truncated or damaged npz file; copy it again")
    if found != "npz" and path.stat().st_size == 0:
        raise DataError(f"{path} is empty; save arrays with np.savez(path, x=inputs, y=labels)")
    if found != "npz":
        raise DataError(f"{path} is no npz file but {_a(found)}; save arrays with np.savez(path, x=inputs, y=labels)")
    _check_size(path, max_bytes)
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _check_members(path, members, max_bytes)
            for member in members:
                with archive.open(member) as file:
                    _check_npy(path, member, file)
            return {member.filename.removesuffix(".npy"): _read_npy(archive, member) for member in members}
    except (DataError, MemoryError):
        raise
    except Exception as error:  # zip, deflate and header errors of many kinds
        raise DataError(f"{path} is a damaged npz file: {first_line(error)}") from None


def _check_members(path: Path, members: list[zipfile.ZipInfo], max_bytes: int) -> None:
    total, held = sum(member.file_size for member in members), _size(path)
    if total > max_bytes:
        raise DataError(f"{path} unpacks to {total:,} bytes, more than the {max_bytes:,} allowed")
    if total > max(_BOMB_BYTES, _BOMB_RATIO * held):
        raise DataError(f"{path} unpacks from {held:,} to {total:,} bytes, as no sound file does; save it unpacked")
    if len(members) > _MAX_MEMBERS or len({member.filename for member in members}) < len(members):
        raise DataError(f"{path} holds {len(members):,} arrays, with repeated names or more than {_MAX_MEMBERS:,}")


def _check_npy(path: Path, member: zipfile.ZipInfo, file: Any) -> None:
    version = npy.read_magic(file)
    read = {(1, 0): npy.read_array_header_1_0}.get(version, npy.read_array_header_2_0)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"array {member.filename!r} has the unknown version {version}")
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise DataError(
            f"{path}: array {member.filename!r} holds Python objects, which can run code when opened, and is refused; "
            "save numbers only"
        )
    if any(n < 0 for n in shape) or math.prod(shape) * dtype.itemsize > member.file_size:
        raise ValueError(f"array {member.filename!r} has a shape that does not fit its {member.file_size:,} bytes")


def _read_npy(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(member) as file:
        array: np.ndarray = npy.read_array(file, allow_pickle=False)
    return array


def read_image(path: PathLike, *, max_pixels: int = 64_000_000) -> np.ndarray:
    """Return an image as uint8, `(H, W)` if it is gray and `(H, W, 3)` otherwise; transparency is dropped.

    Raises:
        DataError: missing, no image, truncated, of floats, of more than `max_pixels`, or too large
            to decode in 224 MiB.
    """
    path = Path(path)
    return _image(path, str(path), _size(path), max_pixels)


def decode_image(data: bytes, *, name: str, max_pixels: int = 64_000_000) -> np.ndarray:
    """Return an image that is in memory, as `read_image` does; errors call it `name`.

    Raises:
        DataError: no image, truncated, of floats, of more than `max_pixels`, or too large
            to decode in 224 MiB.
    """
    return _image(io.BytesIO(data), name, len(data), max_pixels)


def _image(source: Path | io.BytesIO, name: str, held: int, max_pixels: int) -> np.ndarray:
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged metadata, which say nothing about the pixels
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(source, formats=_IMAGE_FORMATS) as image:
                _check_pixels(image, name, held, max_pixels)
                return _to_uint8(image, name)
    except UnidentifiedImageError:
        raise DataError(f"{name} is no image that can be read; PNG and JPEG work") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError(f"{name} has more than the {max_pixels:,} pixels allowed") from None
    except (DataError, MemoryError):
        raise
    except Exception as error:  # damaged files reach every corner of the decoders
        raise DataError(f"{name} is a corrupt image: {first_line(error)}") from None


def _check_pixels(image: Any, name: str, held: int, max_pixels: int) -> None:
    """Refuse by the header alone, before anything is decoded."""
    width, height = image.size
    if width * height > max_pixels:
        raise DataError(f"{name} has {width} x {height} pixels, more than the {max_pixels:,} allowed")
    if width * height > _BOMB_PIXELS and width * height * len(image.getbands()) > _BOMB_PIXEL_RATIO * held:
        raise DataError(f"{name} has {width} x {height} pixels in {held:,} bytes, as no sound image does")
    decoder = 6 if image.info.get("progressive") else _DECODER_BYTES.get(image.format, 0)
    picture = {"1": 1, "L": 1, "P": 1}.get(image.mode, 2 if image.mode.startswith("I;16") else 4)
    needed = width * height * (picture + (1 if _is_gray(image.mode) else 3) + decoder)
    if needed > _MAX_DECODING:
        raise DataError(
            f"{name} has {width} x {height} pixels, which take {needed >> 20:,} MiB to decode; more than the "
            f"{_MAX_DECODING >> 20} MiB allowed, so make the image smaller"
        )


def _is_gray(mode: str) -> bool:
    return mode in ("1", "L", "LA", "La") or mode.startswith("I")


def _to_uint8(image: Any, name: str) -> np.ndarray:
    if image.mode == "F":
        raise DataError(f"{name} has floating point pixels; save it with 8 bits per channel")
    image.load()
    width, height = image.size
    mode = "L" if _is_gray(image.mode) else "RGB"
    pixels = np.empty((height, width) if mode == "L" else (height, width, 3), np.uint8)
    rows = max(1, _STRIP // width)
    for top in range(0, height, rows):  # a whole image would be held three times over
        strip = image.crop((0, top, width, min(top + rows, height)))
        if strip.mode.startswith("I"):
            values = np.asarray(strip)
            if values.min() < 0 or values.max() > 65535:
                raise DataError(f"{name} has pixels outside 16 bits; save it with 8 bits per channel")
            pixels[top : top + rows] = values.astype(np.uint16) >> 8
        else:
            pixels[top : top + rows] = np.asarray(strip if strip.mode == mode else strip.convert(mode))
    return pixels


# -- writing ------------------------------------------------------------------------------------------------------


def write_atomic(path: PathLike, data: bytes | str) -> None:
    """Write a file so that it holds the old content or all of `data`, whatever happens.

    Raises:
        OSError: the folder is missing, not writable, or the disk is full; nothing is left behind.
    """
    with _replacing(Path(path)) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def write_together(files: Mapping[Path, bytes]) -> None:
    """Write files that belong together: all are on the disk before the first one takes its place.

    So a full disk leaves all of them as they were. Only a process that ends in the instant between two renames leaves
    some new and some old; the others wait beside their places then, and `staged` finds them.

    Raises:
        OSError: as `write_atomic`.
    """
    waiting = {_temporary(path): path for path in files}
    placed = 0
    try:
        for temporary, path in waiting.items():
            temporary.write_bytes(files[path])
            _sync_file(temporary)
        for temporary, path in waiting.items():
            temporary.replace(path)
            placed += 1
    finally:
        for temporary in waiting if not placed else ():
            with suppress(FileNotFoundError):
                temporary.unlink()
    for folder in {path.parent for path in files}:
        _sync_folder(folder)


def staged(path: PathLike) -> list[Path]:
    """Return what was written to take the place of `path` by processes that ended before it could."""
    path = Path(path)
    return sorted(near for near in path.parent.glob(f".{glob.escape(path.name)}.*.tmp") if is_leftover(near))


def write_json(path: PathLike, obj: Any) -> None:
    """Write `obj` as indented JSON, atomically; keys are sorted, NaN and infinities become null."""
    write_atomic(path, msgspec.json.format(msgspec.json.encode(obj, order="deterministic"), indent=2) + b"\n")


def write_tensors(path: PathLike, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as safetensors, atomically. The library orders `metadata` at random: keep it to one key."""
    import safetensors.torch

    # Clones, because the library refuses tensors that share storage.
    held = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with _replacing(Path(path)) as temporary:
        temporary.touch()
        usual = temporary.stat().st_mode
        safetensors.torch.save_file(held, temporary, metadata=dict(metadata) if metadata else None)
        temporary.chmod(usual)  # the library makes files that only their owner can read


def is_leftover(path: PathLike) -> bool:
    """Tell by its name whether a file is what a killed process was writing, and that was never put in its place."""
    return _TEMPORARY.fullmatch(Path(path).name) is not None


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path`; what was written there takes its place at the end, or vanishes."""
    temporary = _temporary(path)
    try:
        yield temporary
        _sync_file(temporary)
        temporary.replace(path)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()
    _sync_folder(path.parent)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def _sync_file(path: Path) -> None:
    with path.open("r+b") as file:  # Windows flushes only what may be written
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut, where folders can be opened at all."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


# -- shared -------------------------------------------------------------------------------------------------------


def _size(path: Path) -> int:
    try:
        status = path.stat()
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {first_line(error)}") from None
    if stat.S_ISDIR(status.st_mode):
        raise DataError(f"{path} is a folder, not a file")
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{path} is not a regular file")
    return status.st_size


def _check_size(path: Path, max_bytes: int) -> None:
    size = _size(path)
    if size > max_bytes:
        raise DataError(f"{path} has {size:,} bytes, more than the {max_bytes:,} allowed")


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None


def _a(found: Format) -> str:
    return {"unknown": "of no known format", "text": "text", "json": "JSON"}.get(found, f"a {found} file")
