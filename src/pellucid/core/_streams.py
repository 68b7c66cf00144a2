"""Where chance comes from: draws that are pure functions of (seed, purpose, sample id, index).

Every draw is a counter-based hash (the SplitMix64 finalizer of Steele, Lea and Flood 2014, OOPSLA), so results do not
depend on batch size, order, worker or rank, and the global random state is never touched.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15 - 2**64  # 64-bit constants written as the signed integers torch stores
_MIX1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX2 = 0x94D049BB133111EB - 2**64


def _shift(z: Tensor, bits: int) -> Tensor:
    """Logical right shift: torch shifts the sign bit in, a hash must not."""
    return (z >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def _mix(z: Tensor) -> Tensor:
    """Return the hash of `z`, whose memory it uses: on a CPU fresh memory costs more than the arithmetic."""
    z = z.bitwise_xor_(_shift(z, 30)).mul_(_MIX1)
    z = z.bitwise_xor_(_shift(z, 27)).mul_(_MIX2)
    return z.bitwise_xor_(_shift(z, 31))


class Stream:
    """A named source of random numbers, bound to samples by their ids.

    `Stream(seed).child("attack", "start").at(ids).uniform((len(ids), 3))` gives sample `i` the same three numbers
    whatever batch it arrives in. Rows of every draw belong to samples: the first dimension is `len(ids)`; without
    `at`, row `r` has id `r`.

    Args:
        seed: any integer; the root of everything drawn from this stream.

    Example:
        >>> rng = Stream(0).child("example")
        >>> whole = rng.uniform((4, 2))
        >>> bool((rng.at([2, 3]).uniform((2, 2)) == whole[2:]).all())
        True
    """

    __slots__ = ("_key", "ids")

    def __init__(self, seed: int, *, ids: Tensor | None = None) -> None:
        digest = hashlib.blake2b(str(int(seed)).encode(), digest_size=8, person=b"pellucid").digest()
        self._key = digest
        self.ids = ids

    def __repr__(self) -> str:
        bound = "" if self.ids is None else f", {len(self.ids)} samples"
        return f"Stream({self._key.hex()}{bound})"

    def _with(self, key: bytes, ids: Tensor | None) -> Stream:
        other = object.__new__(Stream)
        other._key, other.ids = key, ids
        return other

    def child(self, *purpose: str | int) -> Stream:
        """Return an independent stream for a named purpose; equal names give equal streams."""
        key = self._key
        for part in purpose:
            name = f"{type(part).__name__}:{part}".encode()
            key = hashlib.blake2b(name, digest_size=8, key=key, person=b"pellucid").digest()
        return self._with(key, self.ids)

    def at(self, ids: Tensor | Sequence[int]) -> Stream:
        """Return this stream bound to the samples `ids`, an int64 vector of any values."""
        rows = torch.as_tensor(ids, dtype=torch.int64)
        if rows.ndim != 1:
            raise ValueError(f"ids must be a vector, one id per sample, got shape {tuple(rows.shape)}")
        return self._with(self._key, rows)

    @property
    def seed(self) -> int:
        """A 63-bit seed for a library that insists on seeding its own generator."""
        return int.from_bytes(self._key, "little") >> 1

    def bits(self, shape: Sequence[int], *, device: torch.device | str | None = None) -> Tensor:
        """Draw uniform 64-bit integers (as int64), shape `(samples, *rest)`."""
        rows, rest = int(shape[0]), tuple(int(s) for s in shape[1:])
        ids = torch.arange(rows) if self.ids is None else self.ids
        if len(ids) != rows:
            raise ValueError(f"shape asks for {rows} rows but the stream is bound to {len(ids)} samples")
        count = 1
        for size in rest:
            count *= size
        key = torch.tensor(int.from_bytes(self._key, "little", signed=True), dtype=torch.int64, device=device)
        start = _mix(_mix(ids.to(device=device) * _GOLDEN + key) ^ key)
        index = torch.arange(1, count + 1, dtype=torch.int64, device=device) * _GOLDEN
        return _mix(start[:, None] + index[None, :]).reshape(rows, *rest)

    def uniform(
        self,
        shape: Sequence[int],
        *,
        low: float = 0.0,
        high: float = 1.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Draw from [low, high), shape `(samples, *rest)`; 53 random bits in float64, 24 otherwise.

        Rounding to `dtype` can reach `high` itself, except for [0, 1) in float32 and float64.
        """
        precision = 53 if dtype == torch.float64 else 24
        unit = _shift(self.bits(shape, device=device), 64 - precision).to(torch.float64).mul_(2.0**-precision)
        return unit.mul_(high - low).add_(low).to(dtype)

    def normal(
        self,
        shape: Sequence[int],
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Draw standard normal numbers, shape `(samples, *rest)`, by inverting the distribution function."""
        unit = _shift(self.bits(shape, device=device), 12).to(torch.float64).mul_(2.0**-52).add_(2.0**-53)
        drawn: Tensor = torch.special.ndtri(unit)
        return drawn.to(dtype)

    def integers(
        self, high: int, shape: Sequence[int], *, low: int = 0, device: torch.device | str | None = None
    ) -> Tensor:
        """Draw integers uniformly from [low, high), int64, shape `(samples, *rest)`."""
        if high <= low:
            raise ValueError(f"high must be above low, got low={low}, high={high}")
        # A plain remainder of 63 random bits is biased by less than (high - low) / 2**63, far below any test's power.
        return _shift(self.bits(shape, device=device), 1) % (high - low) + low

    def permutations(self, n: int, rows: int, *, device: torch.device | str | None = None) -> Tensor:
        """Draw `rows` uniform permutations of `range(n)`, int64, shape `(rows, n)`."""
        return self.bits((rows, n), device=device).argsort(dim=1, stable=True)

    @contextmanager
    def forked(self, device: torch.device | str = "cpu") -> Iterator[None]:
        """Seed torch's global generators from this stream inside the block and restore them after it.

        For code that cannot take a stream: dropout layers, weight initialization.
        """
        device = torch.device(device)
        with preserved_randomness(device):
            # Not torch.manual_seed: it would also seed every other accelerator, which nobody restores.
            torch.default_generator.manual_seed(self.seed)
            if device.type == "cuda":
                with torch.cuda.device(device):
                    torch.cuda.manual_seed(self.seed)
            yield


@contextmanager
def preserved_randomness(device: torch.device | str = "cpu") -> Iterator[None]:
    """Leave the global random states of torch, numpy and Python as they were, also after an exception."""
    device = torch.device(device)
    devices = [device] if device.type == "cuda" else []
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002 - the state users may depend on
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002
