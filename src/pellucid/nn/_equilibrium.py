"""A layer whose output is the fixed point of a cell, and dropout that such a cell can use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.utils import parametrize

from pellucid.core import ModelError

from ._backwards import Backward, Phantom
from ._fixed_point import Solution, fixed_point
from ._solvers import Anderson, Solver
from ._state import State


class Equilibrium(nn.Module):
    """A layer of any depth at the memory of one: the output z solves z = cell(z, *inputs).

    Solver and backward pass vary independently. Inside the cell, weights under `torch.nn.utils.parametrizations`
    (spectral or weight normalization) are computed once per call of the layer, and `VariationalDropout` keeps its mask.
    `torch.compile` of a whole model leaves this layer out; compile the cell itself: `Equilibrium(torch.compile(cell))`.

    Args:
        cell: maps a state and the inputs to the next state, each sample by itself: no BatchNorm in training mode and
            no ordinary dropout. States may be a tensor or a tuple of tensors, the samples first.
        solver: `Anderson()` by default.
        backward: `Phantom()` by default.
        consistent_eval: give the same value in training and in eval mode. False returns the solver's own point in eval
            mode, as the authors' code does: without the steps that `Phantom` adds, so the two modes differ a little.
        drop_converged: cut samples that are done out of the batch; None does so unless the cell is compiled
            (`torch.compile`), which wants batches of one size. Where the inputs hold anything that is not one row per
            sample, such as a graph's edges, it must be False.

    Example:
        >>> class Cell(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.weight = nn.Linear(8, 8)
        ...     def forward(self, z, x):
        ...         return torch.tanh(0.5 * self.weight(z) + x)
        >>> layer = Equilibrium(Cell(), solver=Anderson(tol=1e-4), backward=Phantom(steps=5, damping=0.5))
        >>> x = torch.randn(4, 8)
        >>> tuple(layer(torch.zeros_like(x), x).shape)
        (4, 8)
        >>> bool(layer.last.converged.all())
        True
    """

    last: Solution | None
    """What the solver did in the last call; its value is detached, and a good start for a similar input. It shares
    memory with the output: clone it before you change the output in place."""

    def __init__(
        self,
        cell: nn.Module,
        solver: Solver | None = None,
        backward: Backward | None = None,
        *,
        consistent_eval: bool = True,
        drop_converged: bool | None = None,
    ) -> None:
        super().__init__()
        self.cell = cell
        self.solver: Solver = solver or Anderson()
        self.backward: Backward = backward or Phantom()
        self.consistent_eval = consistent_eval
        self.drop_converged = drop_converged
        self.last = None

    def forward(self, z0: State, *inputs: Any) -> State:
        """Return the fixed point that is found from `z0`.

        Args:
            z0: the start, a tensor or a tuple of tensors, the samples first; it gets no gradient.
            inputs: what the cell takes beside the state.

        Raises:
            ModelError: the cell holds active dropout or BatchNorm, or differs from call to call.
        """
        if torch.compiler.is_compiling():  # a solver decides by numbers: the compiler must not follow it
            return _uncompiled(self, z0, *inputs)
        return self._settled(z0, *inputs)

    def _settled(self, z0: State, *inputs: Any) -> State:
        _check_cell(self.cell)
        dropouts = [part for part in self.cell.modules() if isinstance(part, VariationalDropout)]
        compiled = _is_compiled(self.cell)
        drop = not compiled if self.drop_converged is None else self.drop_converged
        f: Any = self.cell
        given = inputs
        if dropouts and drop:  # masks are per sample: they must know which samples a call is about
            first = z0 if isinstance(z0, Tensor) else z0[0]
            f, given = _Told(self.cell, dropouts), (*inputs, torch.arange(len(first), device=first.device))
        with _one_mask(dropouts), _weights_once(self.cell):
            solution = fixed_point(
                f,
                z0,
                self.solver,
                self.backward,
                inputs=given,
                drop_converged=drop,
                keep_value=not (self.training or self.consistent_eval),
            )
        value = solution.value
        kept = value.detach() if isinstance(value, Tensor) else tuple(part.detach() for part in value)
        self.last = Solution(
            kept,
            solution.residual,
            solution.steps,
            solution.converged,
            solution.history,
            solution.evaluations,
        )
        return value

    def extra_repr(self) -> str:
        """Return solver and backward pass."""
        return f"solver={self.solver}, backward={self.backward}"


def _is_compiled(cell: nn.Module) -> bool:
    """Return whether it is what `torch.compile(cell)` gave, or `cell.compile()` was called."""
    wrapped = any(kind.__name__ == "OptimizedModule" for kind in type(cell).__mro__)
    return wrapped or getattr(cell, "_compiled_call_impl", None) is not None


# Not `torch.compiler.disable`: it would load the compiler when this module is imported.
@_disable_dynamo
def _uncompiled(layer: Equilibrium, z0: State, *inputs: Any) -> State:
    return layer._settled(z0, *inputs)


class VariationalDropout(nn.Module):
    """Dropout for the cell of an `Equilibrium`: one mask for the whole solve, so that a fixed point exists.

    Outside an `Equilibrium`, and in eval mode, it does nothing: a mask belongs to a solve.

    Args:
        p: share of the numbers that are set to zero, in [0, 1).
        shared: dimensions along which a mask is the same, such as (2, 3) to drop whole channels of pictures.

    Example:
        >>> VariationalDropout(0.2)(torch.ones(2, 3))
        tensor([[1., 1., 1.],
                [1., 1., 1.]])
    """

    def __init__(self, p: float = 0.5, *, shared: tuple[int, ...] = ()) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"p must be in [0, 1), got {p}")
        self.p, self.shared = p, shared
        self._solving = False
        self._mask: Tensor | None = None
        self._rows: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` with the mask of this solve; the samples must be the first dimension."""
        if not (self.training and self._solving and self.p):
            return x
        if self._mask is None:
            shape = [1 if k in self.shared else size for k, size in enumerate(x.shape)]
            # From torch's global state, as in every layer that draws in training.
            self._mask = torch.rand(shape, device=x.device).ge(self.p).to(x.dtype) / (1 - self.p)
        mask = self._mask
        if self._rows is not None and len(self._rows) != len(mask):
            mask = mask.index_select(0, self._rows)
        return x * mask

    def extra_repr(self) -> str:
        """Return the settings."""
        return f"p={self.p}, shared={self.shared}"


class _Told:
    """A cell that tells its dropouts which samples a call is about: their rows are the last input."""

    def __init__(self, cell: nn.Module, dropouts: list[VariationalDropout]) -> None:
        self.cell, self.dropouts = cell, dropouts

    def __call__(self, z: State, *inputs: Any) -> Any:
        for dropout in self.dropouts:
            dropout._rows = inputs[-1]
        return self.cell(z, *inputs[:-1])


@contextmanager
def _one_mask(dropouts: list[VariationalDropout]) -> Iterator[None]:
    try:
        for dropout in dropouts:
            dropout._solving, dropout._mask, dropout._rows = True, None, None
        yield
    finally:
        for dropout in dropouts:
            dropout._solving, dropout._mask, dropout._rows = False, None, None


@contextmanager
def _weights_once(cell: nn.Module) -> Iterator[None]:
    """Compute weights that are made from others (spectral or weight normalization) once, with their graph."""
    made = [part for part in cell.modules() if parametrize.is_parametrized(part)]
    if not made:
        yield
        return
    with parametrize.cached():
        for part in made:
            for name in part.parametrizations:  # type: ignore[union-attr]
                getattr(part, name)  # the solver runs without gradients: what it computed first would have no graph
        yield


def _check_cell(cell: nn.Module) -> None:
    for name, part in cell.named_modules():
        if part.training and isinstance(part, _BatchNorm):
            raise ModelError(
                f"{name or 'the cell'} is BatchNorm in training mode: it mixes the samples of the batch and moves its "
                "averages at every step of the solver; use GroupNorm or LayerNorm, or put it in eval mode"
            )
        if part.training and isinstance(part, _DropoutNd) and part.p:
            raise ModelError(
                f"{name or 'the cell'} is dropout with a new mask at every call, so the cell has no fixed point; use "
                f"nn.VariationalDropout({part.p}), which keeps its mask during a solve"
            )
