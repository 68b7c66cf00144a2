"""A layer's state, one tensor or several, as one matrix with a row per sample: what solvers work on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.core import ModelError

State = Tensor | tuple[Tensor, ...]
"""What a cell maps to itself: a tensor `(samples, ...)`, or several of the same number of samples (scales)."""

_HALF = (torch.float16, torch.bfloat16)


class Packing:
    """How a state becomes a matrix `(samples, numbers)` and back.

    States in half precision are worked on in float32: residuals of a half-precision state would be rounding noise.
    """

    def __init__(self, z: State) -> None:
        self.single = isinstance(z, Tensor)
        parts = (z,) if isinstance(z, Tensor) else z
        if not parts or not all(isinstance(part, Tensor) and part.ndim for part in parts):
            raise ValueError("z0 must be a tensor (samples, ...) or a tuple of such tensors")
        first = parts[0]
        if not first.is_floating_point():
            raise ValueError(f"z0 must hold floating-point numbers, got {first.dtype}; convert it with .float()")
        for part in parts[1:]:
            if (len(part), part.dtype, part.device) != (len(first), first.dtype, first.device):
                raise ValueError(
                    "the tensors of z0 must have the same number of samples, dtype and device, got "
                    f"{', '.join(f'{tuple(p.shape)} {p.dtype} on {p.device}' for p in parts)}"
                )
        self.shapes = [part.shape[1:] for part in parts]
        self.sizes = [shape.numel() for shape in self.shapes]
        self.dtype, self.device = first.dtype, first.device
        self.precision = torch.float32 if first.dtype in _HALF else first.dtype

    def pack(self, z: State) -> Float[Tensor, "b d"]:
        """Return the matrix of a state; a view where nothing has to be moved."""
        parts = (z,) if isinstance(z, Tensor) else z
        rows = [part.reshape(part.shape[0], size) for part, size in zip(parts, self.sizes, strict=True)]
        return (rows[0] if len(rows) == 1 else torch.cat(rows, 1)).to(self.precision)

    def unpack(self, rows: Float[Tensor, "b d"]) -> State:
        """Return the state of a matrix, in the dtype of the first state."""
        rows, n = rows.to(self.dtype), rows.shape[0]
        if self.single:
            return rows.reshape(n, *self.shapes[0])
        pieces = torch.split(rows, self.sizes, 1)
        return tuple(p.reshape(n, *shape) for p, shape in zip(pieces, self.shapes, strict=True))

    def check(self, z: object, n: int) -> State:
        """Return what a cell gave for `n` samples, if it is a state like the one it got."""
        if isinstance(z, list):
            z = tuple(z)
        if self.single != isinstance(z, Tensor) or not isinstance(z, Tensor | tuple):
            wanted = "a tensor" if self.single else f"a tuple of {len(self.shapes)} tensors"
            raise ValueError(f"the cell must return {wanted} like the state it got, but it returned {_kind(z)}")
        parts = (z,) if isinstance(z, Tensor) else z
        if len(parts) != len(self.shapes):
            raise ValueError(f"the cell got {len(self.shapes)} tensors as its state but returned {len(parts)}")
        for part, shape in zip(parts, self.shapes, strict=True):
            if tuple(part.shape) != (n, *shape):
                raise ValueError(f"the cell must keep its state's shape {(n, *shape)}, got {tuple(part.shape)}")
            if part.device != self.device:
                raise ValueError(f"the cell must keep its state's device {self.device}, got {part.device}")
            # Under autocast a float32 state comes back in half precision: the state itself stays in float32.
            if part.dtype != self.dtype and part.dtype not in _HALF:
                raise ValueError(f"the cell must keep its state's dtype {self.dtype}, got {part.dtype}")
        return z


def _kind(z: object) -> str:
    return f"a tuple of {len(z)}" if isinstance(z, tuple) else type(z).__name__


class Cell:
    """A user's cell as a map of matrices, on all samples or some of them.

    Args:
        f: maps a state, and then `inputs`, to the next state.
        packing: of the state.
        inputs: what `f` takes beside the state.
        n: samples.
    """

    def __init__(self, f: Callable[..., Any], packing: Packing, inputs: tuple[Any, ...], n: int) -> None:
        self.f, self.packing, self.inputs, self.n = f, packing, inputs, n
        self.evaluations = 0
        # The largest rounding error, relative, of the coarsest numbers that the cell computes with, as far as is known.
        self.grain = torch.finfo(packing.dtype).eps / 2
        # Autocast is for the cell alone: it would turn the products inside a solver to half precision too.
        self.autocast: torch.dtype | None = None
        if torch.is_autocast_enabled(packing.device.type):
            self.autocast = torch.get_autocast_dtype(packing.device.type)
            self.grain = torch.finfo(self.autocast).eps / 2
        self.expected: Tensor | None = None  # what the next call must give, but for rounding
        self._rows: Tensor | None = None
        self._picked = inputs

    def __call__(self, x: Float[Tensor, "b d"], rows: Int[Tensor, " b"] | None = None) -> Float[Tensor, "b d"]:
        """Return f of the state `x` of the samples `rows`; None means all."""
        if rows is None:
            inputs = self.inputs
        else:
            if rows is not self._rows:
                self._rows, self._picked = rows, picked(self.inputs, rows)
            inputs = self._picked
        version = None if x.is_inference() else x._version
        try:
            if self.autocast is None:
                image = self.f(self.packing.unpack(x), *inputs)
            else:
                with torch.autocast(self.packing.device.type, self.autocast):
                    image = self.f(self.packing.unpack(x), *inputs)
        except Exception as error:
            if rows is not None:
                error.add_note(
                    f"The solver had cut the {self.n - len(rows)} samples that are done out of the batch of {self.n}. "
                    "Give what the cell needs of each sample as inputs, or set drop_converged=False."
                )
            raise
        if version is not None and x._version != version:
            raise ModelError(
                "the cell changes its state in place, so the solver loses the point it compares with; write z = z + x "
                "instead of z += x, and use no in-place operations on the state"
            )
        z = self.packing.check(image, x.shape[0])
        self.evaluations += x.shape[0]
        for part in (z,) if isinstance(z, Tensor) else z:
            if part.dtype != self.packing.dtype:
                self.grain = max(self.grain, torch.finfo(part.dtype).eps / 2)
        out = self.packing.pack(z)
        if self.expected is not None:
            expected, self.expected = self.expected, None
            check_same(expected, out.detach(), self.grain)
        return out


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Return a context without autocast."""
    if not torch.amp.is_autocast_available(device.type) or not torch.is_autocast_enabled(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def check_same(first: Tensor, second: Tensor, grain: float) -> None:
    """Raise if two evaluations of a cell at the same point differ by more than rounding.

    Raises:
        ModelError: they do.
    """
    gap, size = float((first - second).norm()), float(first.norm())
    if gap > max(5e-3, 20 * grain) * size:  # NaN is for the divergence warning to tell
        raise ModelError(
            f"two evaluations of the cell at the same point differ by {gap / max(size, 1e-30):.1%}: it has no fixed "
            "point; use nn.VariationalDropout for dropout inside it, GroupNorm or LayerNorm instead of BatchNorm, and "
            "no noise"
        )


def picked(inputs: Any, rows: Tensor) -> Any:
    """Return the inputs of some samples; numbers, texts and None belong to all."""
    if isinstance(inputs, Tensor):
        return inputs.index_select(0, rows)
    if isinstance(inputs, tuple | list):
        parts = [picked(value, rows) for value in inputs]
        return type(inputs)(*parts) if hasattr(inputs, "_fields") else type(inputs)(parts)
    if isinstance(inputs, dict):
        return {key: picked(value, rows) for key, value in inputs.items()}
    return inputs


def check_rows(inputs: Any, n: int, name: str = "inputs") -> None:
    """Raise unless every tensor of the inputs has a row per sample.

    Raises:
        ValueError: another number of rows; the text says what to do with what all samples share.
    """
    if isinstance(inputs, Tensor):
        if inputs.ndim == 0 or len(inputs) != n:
            raise ValueError(
                f"{name} must have one row per sample, {n}, but its shape is {tuple(inputs.shape)}; let the cell hold "
                "what all samples share, or set drop_converged=False"
            )
    elif isinstance(inputs, tuple | list):
        for k, value in enumerate(inputs):
            check_rows(value, n, f"{name}[{k}]")
    elif isinstance(inputs, dict):
        for key, value in inputs.items():
            check_rows(value, n, f"{name}[{key!r}]")
