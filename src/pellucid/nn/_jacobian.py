"""What the Jacobian of a cell says about its fixed point: spectral radius, norm, and a penalty that keeps it small."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.core import Stream, evaluating

from ._newton_krylov import arnoldi, jacobian_product
from ._state import Cell, Packing, State, full_precision


def spectral_radius(
    f: Callable[..., Any], z: State, *, inputs: tuple[Any, ...] = (), steps: int = 20, rng: Stream
) -> Float[Tensor, " b"]:
    """Does plain iteration settle at z? The largest |eigenvalue| of the Jacobian of f there, for each sample.

    Below 1 plain iteration converges near z, by this factor a step. Estimated by Arnoldi's method on products with
    the transposed Jacobian (power iteration would fail for a complex pair); exact where the state has no more than
    `steps` numbers, else usually a little too small.

    Args:
        f: the cell, in eval mode while this runs if it is a module.
        z: a state, usually the fixed point; `layer.last.value` is one.
        inputs: what `f` takes beside the state.
        steps: products with the Jacobian.
        rng: stream of the start vectors, one row per sample.

    Example:
        >>> turn = torch.tensor([[0.0, -0.9], [0.9, 0.0]])  # its eigenvalues are +0.9i and -0.9i
        >>> spectral_radius(lambda z: z @ turn.T, torch.zeros(1, 2), rng=Stream(0))
        tensor([0.9000])
    """
    _check_count("steps", steps)
    with _linearized(f, z, inputs) as (_, h, pull):
        start = _start(h, rng.child("spectral_radius"))
        _, hessenberg = arnoldi(pull, start, min(steps, h.shape[1]))
        square = hessenberg[:, :-1]
        known = torch.isfinite(square).all(2).all(1)
        values = torch.linalg.eigvals(torch.where(known[:, None, None], square, 0.0))
        return torch.where(known, values.abs().amax(1), torch.nan).to(h.dtype)


def jacobian_norm(
    f: Callable[..., Any], z: State, *, inputs: tuple[Any, ...] = (), steps: int = 20, rng: Stream
) -> Float[Tensor, " b"]:
    """Is f a contraction at z? The largest singular value of its Jacobian there, for each sample.

    Below 1 each step brings two points near z closer to each other. A spectral radius below 1 with a norm above 1
    means that distances can grow at first. By Lanczos' method on J^T J; a little too small if it has not converged.

    Args:
        f: the cell, in eval mode while this runs if it is a module; its operations need forward derivatives.
        z: a state, usually the fixed point.
        inputs: what `f` takes beside the state.
        steps: products with the Jacobian, and as many with its transpose.
        rng: stream of the start vectors, one row per sample.

    Example:
        >>> shear = torch.tensor([[0.0, 3.0], [0.0, 0.0]])  # its eigenvalues are 0
        >>> jacobian_norm(lambda z: z @ shear.T, torch.zeros(1, 2), rng=Stream(0))
        tensor([3.])
    """
    _check_count("steps", steps)
    with _linearized(f, z, inputs) as (cell, h, pull):
        start = _start(h, rng.child("jacobian_norm"))
        _, hessenberg = arnoldi(lambda v: pull(jacobian_product(cell, h, v)), start, min(steps, h.shape[1]))
        square = hessenberg[:, :-1]
        known = torch.isfinite(square).all(2).all(1)
        values = torch.linalg.eigvalsh(torch.where(known[:, None, None], (square + square.mT) / 2, 0.0))
        return torch.where(known, values.amax(1).clamp_min(0).sqrt(), torch.nan).to(h.dtype)


def jacobian_penalty(
    f: Callable[..., Any], z: State, *, inputs: tuple[Any, ...] = (), probes: int = 1, rng: Stream
) -> Float[Tensor, ""]:
    """A term for the loss that keeps a cell's Jacobian small: an unbiased estimate of |J|^2 / d, mean over samples.

    |J| is the Frobenius norm and d the numbers of a state; |v^T J|^2 with normal v has the mean |J|^2 (Hutchinson).
    Add it to the loss with a weight of about 0.1 to 1 where solvers need ever more steps during training. It
    differentiates a gradient, which compiled cells do not allow. `VariationalDropout` drops nothing here: its masks
    belong to a solve.

    Args:
        f: the cell, as it is: its parameters get gradients.
        z: the state where the Jacobian is taken, usually `layer.last.value`; it gets no gradient.
        inputs: what `f` takes beside the state.
        probes: random vectors per sample.
        rng: stream of the vectors, one row per sample; another one at each training step.

    Source: Bai, Koltun and Kolter 2021 (arXiv:2106.14342).

    Example:
        >>> w = torch.tensor([[0.5, 0.0], [0.0, 0.5]], requires_grad=True)
        >>> penalty = jacobian_penalty(lambda z: z @ w.T, torch.zeros(2000, 2), rng=Stream(0))
        >>> round(penalty.item(), 1)  # (0.5^2 + 0.5^2) / 2 = 0.25
        0.2
    """
    _check_count("probes", probes)
    packing = Packing(z)
    with torch.enable_grad():
        h = packing.pack(z).detach().requires_grad_()
        out = Cell(f, packing, inputs, len(h))(h)
        total = h.new_zeros(())
        for k in range(probes if out.requires_grad else 0):
            v = rng.child("jacobian_penalty", k).normal(h.shape, device=h.device, dtype=h.dtype)
            (pulled,) = torch.autograd.grad(out, h, v, create_graph=True, allow_unused=True)
            if pulled is not None:
                total = total + pulled.square().sum()
    return total / max(1, probes * h.numel())


@contextmanager
def _linearized(
    f: Callable[..., Any], z: State, inputs: tuple[Any, ...]
) -> Iterator[tuple[Cell, Tensor, Callable[[Tensor], Tensor]]]:
    """Give the cell, the point and products with the transposed Jacobian there."""
    packing = Packing(z)
    with evaluating(f):
        with torch.enable_grad():
            h = packing.pack(z).detach().requires_grad_()
            cell = Cell(f, packing, inputs, len(h))
            out = cell(h)

        def pull(u: Tensor) -> Tensor:
            if not out.requires_grad:
                return torch.zeros_like(u)
            (found,) = torch.autograd.grad(out, h, u, retain_graph=True, allow_unused=True)
            return torch.zeros_like(u) if found is None else found

        with torch.no_grad(), full_precision(h.device):
            yield cell, h.detach(), pull


def _start(h: Tensor, rng: Stream) -> Tensor:
    return rng.normal(h.shape, device=h.device, dtype=h.dtype)


def _check_count(name: str, count: int) -> None:
    if count < 1:
        raise ValueError(f"{name} must be at least 1, got {count}")
