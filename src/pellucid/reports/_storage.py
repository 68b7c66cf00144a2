"""Reading and writing the three files of a report; every write is whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors.torch
from torch import Tensor

from pellucid.core import RunError

MAX_JSON = 256 * 2**20


def read_json(path: Path) -> bytes:
    """Return the bytes of a JSON file of at most 256 MiB."""
    size = path.stat().st_size
    if size > MAX_JSON:
        raise RunError(f"{path} has {size:,} bytes; a report has at most {MAX_JSON:,}")
    return path.read_bytes()


def read_pixels(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays beside a report; none if the file does not exist."""
    if not path.is_file():
        return {}
    try:
        tensors = safetensors.torch.load_file(path)
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise RunError(f"{path} is not a sound safetensors file: {error}") from None
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def write(folder: Path, json: bytes, arrays: Mapping[str, Tensor], page: str) -> Path:
    """Write arrays, then JSON, then the page; return the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    _atomic(folder / "arrays.safetensors", safetensors.torch.save(dict(arrays)))
    _atomic(folder / "report.json", json)
    _atomic(folder / "index.html", page.encode())
    return folder / "index.html"


def _atomic(path: Path, data: bytes) -> None:
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
