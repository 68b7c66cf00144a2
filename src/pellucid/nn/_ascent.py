"""Is an approximate gradient good enough? Its agreement with the exact one, and conditions under which it ascends."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pellucid.core import evaluating, preserved_randomness

from ._backwards import Backward, Implicit, Neumann, OneStep, Phantom
from ._equilibrium import Equilibrium
from ._solvers import Anderson
from ._state import Cell, Packing, State

_LARGEST_STATE = 1024  # numbers of a state up to which its Jacobian is written out


@dataclass(frozen=True)
class Agreement:
    """How like the exact gradient another one is.

    Args:
        cosine: of the angle between them, over all parameters of the cell; above 0 the step goes uphill.
        ratio: their lengths, other over exact.
    """

    cosine: float
    ratio: float


def gradient_agreement(
    layer: Equilibrium, loss: Callable[[], Tensor], *, backward: Backward | None = None, exact: Implicit | None = None
) -> Agreement:
    """Does training with this backward pass follow the true gradient? Cosine and ratio of lengths to the exact one.

    The loss is computed twice, with the layer's backward pass and with the exact one, from the same random state.
    Nothing is changed: no `.grad`, no weights, not `layer.last`, no buffers of the layer. (Running averages in the rest
    of a model that is in training mode move, as in any forward pass.)

    Args:
        layer: the layer, anywhere inside the model that `loss` runs.
        loss: runs the model on a batch and returns the loss, a scalar.
        backward: what to compare; the layer's own by default.
        exact: the reference; by default solved to a residual of 1e-6.

    Raises:
        ValueError: the loss is no scalar or has no gradient, or the cell has no trained parameter.

    Example:
        >>> layer = Equilibrium(nn.Linear(4, 4), backward=Phantom(steps=100, damping=1.0))
        >>> _ = nn.init.uniform_(layer.cell.weight, -0.1, 0.1)
        >>> found = gradient_agreement(layer, lambda: layer(torch.zeros(8, 4)).square().sum())
        >>> round(found.cosine, 3), round(found.ratio, 3)
        (1.0, 1.0)
    """
    parameters = [parameter for parameter in layer.cell.parameters() if parameter.requires_grad]
    if not parameters:
        raise ValueError("the cell has no parameter with requires_grad=True, so there is no gradient to compare")
    before = layer.backward, layer.last
    # Spectral normalization in training mode moves its vectors, and with them the weights, at each forward pass.
    buffers = [(buffer, buffer.clone()) for buffer in layer.buffers()]
    device = parameters[0].device
    gradients = []
    try:
        for chosen in (backward or before[0], exact or Implicit(Anderson(max_iter=100, tol=1e-6))):
            layer.backward = chosen
            with preserved_randomness(device), torch.enable_grad():
                value = loss()
                if value.numel() != 1 or not value.requires_grad:
                    raise ValueError("loss must return one number that has a gradient; leave out no_grad and detach")
                parts = torch.autograd.grad(value.reshape(()), parameters, allow_unused=True)
            gradients.append([torch.zeros_like(p) if g is None else g for p, g in zip(parameters, parts, strict=True)])
            _restore(buffers)
    finally:
        layer.backward, layer.last = before
        _restore(buffers)
    one, true = (torch.cat([part.flatten().to(torch.float64) for part in parts]) for parts in gradients)
    lengths = float(one.norm()), float(true.norm())
    if not all(lengths):
        return Agreement(math.nan, math.nan if not lengths[1] else 0.0)
    return Agreement(float(one @ true) / (lengths[0] * lengths[1]), lengths[0] / lengths[1])


def _restore(buffers: list[tuple[Tensor, Tensor]]) -> None:
    with torch.no_grad():
        for buffer, kept in buffers:
            buffer.copy_(kept)


@dataclass(frozen=True)
class AscentCertificate:
    """For each sample, whether an approximate gradient provably has a product >= 0 with the exact one.

    Args:
        certified: the condition error <= allowed holds, so <approximate, exact> >= 0 whatever the loss.
        error: |A (1 - J^T) - G|, the spectral norm of what the approximation A leaves.
        allowed: the least singular value of G, the map from a state's gradient to the parameters'.
        condition: of G: its largest singular value over its least; infinite where the condition is vacuous.
        norm: |J|, the largest singular value of the cell's Jacobian.
        vacuous: G is not injective (fewer parameters than numbers in the state, dead or saturated units), so that the
            condition could only hold for the exact gradient: it says nothing, read `gradient_agreement` instead.
    """

    certified: Bool[Tensor, " b"]
    error: Float[Tensor, " b"]
    allowed: Float[Tensor, " b"]
    condition: Float[Tensor, " b"]
    norm: Float[Tensor, " b"]
    vacuous: Bool[Tensor, " b"]


def ascent_certificate(
    f: Callable[..., Any],
    z: State,
    backward: Backward,
    *,
    inputs: tuple[Any, ...] = (),
    parameters: Iterable[Tensor] | None = None,
) -> AscentCertificate:
    """Is a gradient step that uses this backward pass sure to go uphill, whatever the loss? For each sample.

    With J the Jacobian of f at z and G = (df/dtheta)^T, the exact gradient is G (1 - J^T)^-1 v. An approximation A v
    has a product >= 0 with it for every v if |A (1 - J^T) - G| is at most the least singular value of G. For `Neumann`,
    and for `Phantom` at an exact fixed point, the left side is |G (B^T)^k| with B = damping J + (1 - damping). The
    condition is sufficient, not necessary, and speaks of a sample's own gradient, not of sums over a batch.

    The Jacobians are written out: d products per sample and for all parameters, for states of at most 1,024 numbers.

    Args:
        f: the cell, in eval mode while this runs if it is a module.
        z: the fixed point.
        backward: what is judged.
        inputs: what `f` takes beside the state.
        parameters: of the gradient; `f`'s own by default if it is a module.

    Raises:
        ValueError: no parameters, a state too large, or a backward pass of another kind.

    Source: Geng et al. 2021 (arXiv:2111.05177), Theorem 1, with the bound sigma_min instead of
    sigma_min^2 / sigma_max, which is enough.

    Example:
        >>> w = torch.eye(2).mul(0.1).requires_grad_()
        >>> z = torch.tensor([[1.0, 2.0]])
        >>> found = ascent_certificate(lambda z: z @ w.T, z, OneStep(), parameters=[w])
        >>> bool(found.certified), round(found.norm.item(), 3)
        (True, 0.1)
    """
    chosen = list(f.parameters() if parameters is None and isinstance(f, nn.Module) else parameters or ())
    if not chosen:
        raise ValueError("there are no parameters to judge the gradient of; give parameters=[...]")
    packing = Packing(z)
    h = packing.pack(z).detach()
    b, d = h.shape
    if d > _LARGEST_STATE:
        raise ValueError(
            f"the state has {d:,} numbers, but its Jacobian is written out for at most {_LARGEST_STATE:,}; measure "
            "gradient_agreement instead"
        )
    steps, damping = _series(backward)
    with evaluating(f), _trained(chosen), torch.enable_grad():
        h = h.requires_grad_()
        out = Cell(f, packing, inputs, b)(h)
        jacobian, effect = _dense(out, h, chosen)
    jacobian, effect = jacobian.to(torch.float64), effect.to(torch.float64)
    sizes = torch.linalg.svdvals(effect)
    most = sizes[:, 0]
    least = sizes[:, d - 1] if effect.shape[2] >= d else torch.zeros_like(most)
    vacuous = least <= 10 * torch.finfo(h.dtype).eps * math.sqrt(d) * most
    if steps is None:
        error = torch.zeros_like(most)
    else:
        step = damping * jacobian + (1 - damping) * torch.eye(d, dtype=torch.float64, device=h.device)
        error = torch.linalg.matrix_norm(torch.linalg.matrix_power(step, steps) @ effect, 2)
    norm = torch.linalg.matrix_norm(jacobian, 2)
    condition = torch.where(vacuous, torch.inf, most / least)
    return AscentCertificate(~vacuous & (error <= least), error, least, condition, norm, vacuous)


@contextmanager
def _trained(parameters: list[Tensor]) -> Iterator[None]:
    flags = [parameter.requires_grad for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.requires_grad_()
        yield
    finally:
        for parameter, flag in zip(parameters, flags, strict=True):
            if parameter.requires_grad != flag:
                parameter.requires_grad_(flag)


def _dense(out: Tensor, h: Tensor, parameters: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the derivatives of each sample's f by its state (b, d, d) and by the parameters (b, d, p)."""
    b, d = h.shape
    jacobian = h.new_zeros(b, d, d)
    effect = h.new_zeros(b, d, sum(parameter.numel() for parameter in parameters))
    for k in range(d):
        (row,) = torch.autograd.grad(out[:, k].sum(), h, retain_graph=True, allow_unused=True)
        if row is not None:
            jacobian[:, k] = row
        for sample in range(b):
            parts = torch.autograd.grad(out[sample, k], parameters, retain_graph=True, allow_unused=True)
            rows = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, parts, strict=True)]
            effect[sample, k] = torch.cat([part.flatten() for part in rows]).to(h.dtype)
    return jacobian, effect


def _series(backward: Backward) -> tuple[int | None, float]:
    """Return steps and damping of a backward pass as a Neumann series; None steps for the whole series."""
    if isinstance(backward, Implicit):
        return None, 1.0
    if isinstance(backward, OneStep):
        return 1, 1.0
    if isinstance(backward, Phantom | Neumann):
        return backward.steps, backward.damping
    raise ValueError(f"the condition is known for Implicit, Phantom, Neumann and OneStep, not for {backward}")


def min_phantom_steps(contraction: float, condition: float, *, damping: float = 0.5) -> int:
    """How many phantom steps make sure that the gradient ascends? ln(condition) / -ln(1 - damping (1 - contraction)).

    Sufficient, not necessary: in practice 5 steps with damping 0.5 train well.

    Args:
        contraction: the largest singular value of the cell's Jacobian, in [0, 1); `jacobian_norm` measures it.
        condition: the largest over the least singular value of df/dtheta, at least 1; `AscentCertificate.condition`.
        damping: of `Phantom` or `Neumann`, in (0, 1].

    Example:
        >>> min_phantom_steps(0.5, 10, damping=1.0), min_phantom_steps(0.5, 10, damping=0.5)
        (4, 9)
    """
    if not 0 <= contraction < 1:
        raise ValueError(f"contraction must be in [0, 1): without one no number of steps is enough, got {contraction}")
    if not 1 <= condition < math.inf:
        raise ValueError(f"condition must be at least 1 and finite, got {condition}")
    if not 0 < damping <= 1:
        raise ValueError(f"damping must be in (0, 1], got {damping}")
    rate = 1 - damping * (1 - contraction)
    if rate == 0:
        return 1
    # Rounding must not turn a whole number of steps into one more.
    return max(1, math.ceil(math.log(condition) / -math.log(rate) - 1e-9))
