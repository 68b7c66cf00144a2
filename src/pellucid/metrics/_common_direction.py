"""Which one direction do the updates of all samples share? (arXiv:2112.00980)

Letters: h (N, d) inputs of a linear layer, W (k, d) its weights, g (N, k) gradients of each sample's loss by its
outputs; one sample asks for the update dW_i = -g_i h_i^T, and C (d,) is the direction along which these are largest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from pellucid.core import DataError, ModelError, Stream, device_of, evaluating, nearest

Loss = Callable[[Tensor, Tensor], Tensor]
"""Takes logits `(b, k)` and labels `(b,)`, gives one loss per sample `(b,)`, or their sum."""

_DENSE = 2048  # up to this size all eigenvectors are computed, beyond it only the wanted ones
_EMPTY = 1e-6  # directions with less than this share of the first one's strength are rounding


@dataclass(frozen=True)
class CommonDirection:
    """The input directions along which the samples' updates of one layer agree most.

    Args:
        layer: its name.
        directions: `(k, d)` of length 1 and orthogonal, the strongest first; the largest entry of each is positive.
        strength: `(k,)` mean length of a sample's update along each, for a learning rate of 1.
        dominance: the first strength over the second; infinite when all samples share one direction.
        self_enhancement: cosine between what the weights have along the first direction, V = W C, and what the update
            of all samples adds to it; above 0 the common part grows by itself. NaN where one of the two is zero.
    """

    layer: str
    directions: Float[Tensor, "k d"]
    strength: Float[Tensor, " k"]
    dominance: float
    self_enhancement: float

    def split(self, weight: Float[Tensor, "o d"]) -> tuple[Float[Tensor, " o"], Float[Tensor, "o d"]]:
        """Return V and E of weight = V C^T + E, C the first direction, with E C = 0."""
        direction = self.directions[0].to(weight)
        common = weight @ direction
        return common, weight - torch.outer(common, direction)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross entropy of each sample."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return F.cross_entropy(wide, labels, reduction="none")


def common_direction(
    model: nn.Module, x: Tensor, labels: Tensor, layer: str, *, k: int = 3, loss: Loss = cross_entropy
) -> CommonDirection:
    """Which input direction do the updates of all samples share in a linear layer, and does it feed itself?

    C minimizes sum_i ||dW_i - (dW_i C) C^T||^2 over ||C|| = 1: the first eigenvector of sum_i ||g_i||^2 h_i h_i^T, so
    no update is ever formed. The gradients of all samples come from one backward pass of the summed loss, which is
    right because samples do not mix: the model runs in eval mode, normalizations over the batch with their running
    statistics.

    Args:
        model: a classifier; it is given back as it was.
        x: inputs `(N, ...)`, all in one batch.
        labels: what `loss` takes, classes `(N,)` as it comes.
        layer: name of an `nn.Linear` that is called once, with one row of features per sample.
        k: how many directions; no more than there are features.
        loss: one loss per sample, or their sum; a mean makes the strengths N times smaller.

    Raises:
        ValueError: no such layer, or it is not linear; `k` is out of range.
        ModelError: the layer is not called once, or not with one row per sample.
        DataError: no samples, or labels of another length.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> found = common_direction(model, torch.rand(20, 4), torch.arange(20) % 2, "0")
        >>> found.directions.shape
        torch.Size([3, 4])
    """
    module = _linear(model, layer)
    if not 1 <= k <= module.in_features:
        raise ValueError(f"k must be between 1 and the layer's {module.in_features} features, got {k}")
    calls = per_sample_gradients(model, x, labels, (layer,), loss=loss)
    if len(calls) != 1:
        raise ModelError(f"the forward pass calls layer {layer} {len(calls)} times; the direction is of one call")
    h, g = calls[0].inputs, calls[0].gradients
    if h is None or h.ndim != 2:
        raise ModelError(f"layer {layer} is called with places, not with one row of features per sample")
    directions, strength = _directions(h.double(), g.double(), k)
    enhancement = _self_enhancement(module.weight.detach().double(), h.double(), g.double(), directions[0])
    return CommonDirection(
        layer=layer,
        directions=directions.to(h.dtype),
        strength=strength.to(h.dtype),
        dominance=float(_ratio(strength)),
        self_enhancement=float(enhancement),
    )


# -- per-sample gradients -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LayerCall:
    """One call of a layer: its inputs, and each sample's gradient by its outputs.

    Inputs are None where the layer is not linear, which saves their copies, or has no one tensor as its argument.
    """

    name: str
    module: nn.Module
    inputs: Tensor | None
    gradients: Tensor


def per_sample_gradients(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    layers: Sequence[str],
    *,
    loss: Loss = cross_entropy,
    beside: AbstractContextManager[object] | None = None,
) -> list[LayerCall]:
    """Return each call of some layers with dL_i / d(its output of sample i), from one backward pass of the summed loss.

    `beside` is open during the forward pass, such as one that reads features.

    Raises:
        DataError: no samples, or labels of another length.
        ModelError: none of the layers is called, or a layer gives no tensor with one row per sample.
    """
    if len(x) == 0 or len(labels) != len(x):
        raise DataError(f"gradients need one label per sample, got {len(x)} samples and {len(labels)} labels")
    device = device_of(model)
    found: list[tuple[str, nn.Module, Tensor | None, Tensor]] = []
    with evaluating(model, precise=False), torch.enable_grad(), _tapped(model, layers, len(x), found):
        with beside or nullcontext():
            # Inputs that take part in the graph keep a user's backward hooks on the first layer quiet; nothing
            # is computed for them.
            logits = model(x.to(device).detach().requires_grad_(x.is_floating_point()))
        total = loss(logits, labels.to(device)).sum()
        outputs = [output for *_, output in found]
        if not outputs:
            raise ModelError(f"the forward pass calls none of the layers {', '.join(layers[:5])}; name other layers")
        grads = torch.autograd.grad(total, outputs, allow_unused=True)
    return [
        LayerCall(name, module, inputs, torch.zeros_like(output) if grad is None else grad)
        for (name, module, inputs, output), grad in zip(found, grads, strict=True)
    ]


@contextmanager
def _tapped(
    model: nn.Module, layers: Sequence[str], n: int, found: list[tuple[str, nn.Module, Tensor | None, Tensor]]
) -> Iterator[None]:
    """Let gradients begin and be read at the outputs of some layers; the hooks are gone after the block."""
    calls: dict[str, int] = {}

    def tap(name: str) -> Any:
        def hook(module: nn.Module, arguments: Any, output: Any) -> Tensor:
            if not isinstance(output, Tensor) or output.ndim < 2 or len(output) != n:
                raise ModelError(f"layer {name} gives no tensor with one row per sample; leave it out of the layers")
            # Parameters are frozen, so that the backward pass does no more than is asked: the first layer that is
            # watched is where the graph begins.
            watched = output if output.requires_grad else output.detach().requires_grad_()
            linear = isinstance(module, nn.Linear) and arguments and isinstance(arguments[0], Tensor)
            inputs = arguments[0].detach().clone() if linear else None  # what comes next may overwrite it in place
            calls[name] = calls.get(name, 0) + 1
            title = name if calls[name] == 1 else f"{name} (call {calls[name]})"
            found.append((title, module, inputs, watched))
            return watched.clone()  # what comes next may overwrite it in place

        return hook

    modules = dict(model.named_modules())
    handles: list[Any] = []
    try:
        handles += [modules[name].register_forward_hook(tap(name)) for name in layers]
        yield
    finally:
        for handle in handles:
            handle.remove()


def _linear(model: nn.Module, layer: str) -> nn.Linear:
    modules = dict(model.named_modules())
    if layer not in modules:
        hint = nearest(layer, modules) or "see core.layers(model)"
        raise ValueError(f"the model has no layer {layer!r}; {hint.removesuffix(' ')}")
    module = modules[layer]
    if not isinstance(module, nn.Linear):
        raise ValueError(f"layer {layer} is a {type(module).__name__}; a common direction is that of an nn.Linear")
    return module


# -- directions ---------------------------------------------------------------------------------------------------


def _directions(h: Tensor, g: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the first k eigenvectors `(k, d)` of sum_i ||g_i||^2 h_i h_i^T and the strengths along them."""
    sizes = torch.linalg.vector_norm(g, dim=1)
    rows = _scaled(h * _scaled(sizes)[:, None])
    directions = _right_singular(rows, k)
    # One sign for each, so that two computations agree.
    peak = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    directions = directions * torch.where(peak < 0, -1.0, 1.0)
    strength = (sizes[:, None] * (h @ directions.T).abs()).mean(0)
    return directions, torch.where(strength > _EMPTY * strength.amax(), strength, 0)


def _scaled(values: Tensor) -> Tensor:
    """Return values with 1 as the largest size: gradients of size 1e-20 would vanish when squared."""
    peak = values.abs().amax()
    return values / torch.where(peak > 0, peak, 1)


def _right_singular(rows: Tensor, k: int) -> Tensor:
    """Return the first k right singular vectors `(k, d)` of `rows` `(N, d)`, by whichever Gram matrix is smaller."""
    n, d = rows.shape
    if n < d:
        left = _top(rows @ rows.T, min(k, n))
        found = left.T @ rows
        lengths = torch.linalg.vector_norm(found, dim=1, keepdim=True)
        found = found / torch.where(lengths > 0, lengths, 1)
        if bool((lengths > _EMPTY * lengths.amax()).all()) and len(found) == k:
            return found
        return _completed(found, lengths[:, 0], k)
    return _top(rows.T @ rows, k).T


def _completed(found: Tensor, lengths: Tensor, k: int) -> Tensor:
    """Return k orthonormal directions: those found, then any, where the samples span fewer."""
    kept = found[lengths > _EMPTY * lengths.amax()]
    if len(kept) == 0:
        return torch.eye(k, found.shape[1], dtype=found.dtype, device=found.device)
    fill = torch.linalg.qr(torch.cat([kept, torch.eye(2 * k, found.shape[1]).to(kept)]).T)[0].T[len(kept) :]
    return torch.cat([kept, fill])[:k]


def _top(gram: Tensor, k: int) -> Tensor:
    """Return the eigenvectors `(m, k)` of the largest eigenvalues of a symmetric matrix."""
    if len(gram) <= _DENSE:
        top: Tensor = torch.linalg.eigh(gram)[1].flip(1)[:, :k]
        return top
    guess = Stream(0).child("common direction").normal((len(gram), k + 5)).to(gram)
    basis: Tensor = torch.linalg.qr(guess)[0]
    before = gram.new_zeros(k + 5)
    for _ in range(500):
        basis = torch.linalg.qr(gram @ basis)[0]
        values, turn = torch.linalg.eigh(basis.T @ gram @ basis)
        basis = basis @ turn.flip(1)
        if float((values - before).abs().amax()) <= 1e-13 * float(values.abs().amax()):
            break
        before = values
    return basis[:, :k]


def _ratio(strength: Tensor) -> Tensor:
    """Return the first strength over the second; infinite when there is no second, NaN when there is no first."""
    if len(strength) < 2:
        return strength.new_tensor(math.inf)
    return strength[0] / strength[1]


def _self_enhancement(weight: Tensor, h: Tensor, g: Tensor, direction: Tensor) -> Tensor:
    """Return the cosine between V = W C and dV = -sum_i g_i (h_i . C)."""
    common, change = _scaled(weight @ direction), _scaled(-(g.T @ (h @ direction)))
    lengths = torch.linalg.vector_norm(common) * torch.linalg.vector_norm(change)
    return torch.where(lengths > 0, (common @ change) / lengths, math.nan)


def quick_direction(weight: Tensor, h: Tensor, g: Tensor) -> Tensor:
    """Return the strength of the first direction, dominance and self-enhancement as one tensor `(3,)`.

    For layers that are looked at again and again: a few turns of subspace iteration take a tenth of the time of all
    eigenvectors, and nothing waits for the device. Inputs that are not finite give NaN.
    """
    sizes = torch.linalg.vector_norm(g, dim=1)
    # The longest row gets length 1: gradients of size 1e-20 would vanish when squared.
    wide = sizes.double()
    peak = (wide * torch.linalg.vector_norm(h, dim=1, dtype=torch.float64)).amax()
    rows = h * (wide / torch.where(peak > 0, peak, 1)).to(h.dtype)[:, None]
    # Fixed waves over the samples, not the first few: these may all have no gradient.
    waves = torch.outer(torch.arange(1.0, _BLOCK + 1), torch.arange(1.0, len(h) + 1)).cos().to(rows)
    # Few rows times a matrix: the same product with few columns takes five times as long on a CPU.
    basis = waves @ rows
    for _ in range(_TURNS):
        basis = (_orthonormal(basis) @ rows.T) @ rows
    basis = _orthonormal(basis)
    seen = basis @ rows.T
    turn = torch.linalg.eigh((seen @ seen.T).nan_to_num(posinf=0, neginf=0))[1]  # it refuses what is not finite
    basis = turn.flip(1).T @ basis
    strength = (sizes * (basis[:2] @ h.T).abs()).mean(1)
    strength = torch.where(strength <= _EMPTY * strength.amax(), 0, strength)
    enhancement = _self_enhancement(weight, h, g, basis[0])
    return torch.stack([strength[0], _ratio(strength), enhancement])


def _orthonormal(rows: Tensor) -> Tensor:
    turned: Tensor = torch.linalg.qr(rows.T)[0].T
    return turned


_BLOCK = 6  # vectors that are turned together
_TURNS = 6
