"""The von Mises-Fisher law whose concentration grows with a vector's length: long vectors are sure of their direction.

The direction of l * mu plus unit Gaussian noise in d dimensions has the mean resultant length

    rho(l) = Gamma((d + 1) / 2) / Gamma(d / 2 + 1) * (l / sqrt 2) * 1F1(1/2; d/2 + 1; -l^2 / 2),

and kappa(l) is the concentration whose own mean resultant length A_d(kappa) = I_{d/2}(kappa) / I_{d/2-1}(kappa) is the
same. In three dimensions A(k) = coth k - 1/k and rho(l) = sqrt(2/pi) exp(-l^2/2) / l + (1 - 1/l^2) erf(l / sqrt 2).

Bessel functions cost too much for a training loop: kappa is read from a table by cubic Hermite interpolation with its
exact slopes, and from its expansion l^2 + (d - 3) / 2 beyond the table.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

MOST_DIM = 64
_END, _STEP = 64.0, 1 / 64
"""Where the table ends, and how far its nodes lie apart: within 1e-7 of kappa in few dimensions, 3e-5 in 64."""


def vmf_kappa(length: Float[Tensor, "*n"], *, dim: int = 3, sigma: float = 1.0) -> Float[Tensor, "*n"]:
    """How concentrated are the directions of vectors of this length, seen through Gaussian noise of scale `sigma`?

    kappa(0) = 0, about sqrt(8 / pi) l = 1.596 l for small l in three dimensions, and l^2 for large l. Gradients flow.

    Args:
        length: lengths >= 0 of any shape.
        dim: dimension of the vectors, 2 to 64.
        sigma: scale of the noise.

    Raises:
        ValueError: a dimension or a scale out of range, or whole numbers as lengths.

    Example:
        >>> [round(k, 4) for k in vmf_kappa(torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64)).tolist()]
        [0.8121, 1.7154, 9.0452]
    """
    if not sigma > 0:
        raise ValueError(f"sigma must be above 0, got {sigma}")
    if not length.is_floating_point():
        raise ValueError(f"lengths must be floating point numbers, got {length.dtype}")
    table = _table_on(_checked(dim), length.device, length.dtype)
    at = length / sigma
    inside = at.clamp(0.0, _END - _STEP / 2)
    place = inside.detach() / _STEP
    node = place.floor()
    t = (inside - node * _STEP) / _STEP  # node * _STEP is exact: a power of two
    k = node.long()
    # kappa = l^2 + rest: the rest is small and smooth, so float32 keeps its digits.
    value, slope = table[0], table[1]
    rest = (
        value[k] * ((1 + 2 * t) * (1 - t) ** 2)
        + slope[k] * (_STEP * t * (1 - t) ** 2)
        + value[k + 1] * (t * t * (3 - 2 * t))
        + slope[k + 1] * (_STEP * t * t * (t - 1))
    )
    beyond = at > _END - _STEP / 2
    return torch.where(beyond, at * at + (dim - 3) / 2, inside * inside + rest)


def vmf_mean_length(kappa: Float[Tensor, "*n"], *, dim: int = 3) -> Float[Tensor, "*n"]:
    """How long is the mean of directions of this concentration? A_d(kappa), from 0 to 1; no gradient.

    Args:
        kappa: concentrations >= 0.
        dim: dimension of the directions, 2 to 64.

    Example:
        >>> round(vmf_mean_length(torch.tensor([2.0])).item(), 5)  # coth 2 - 1/2
        0.53731
    """
    found = _mean_length(kappa.detach().cpu().double().numpy(), _checked(dim))
    return torch.as_tensor(found).to(kappa)


def vmf_log_prob(
    directions: Float[Tensor, "*n d"], mean: Float[Tensor, " d"], kappa: Float[Tensor, "*n"]
) -> Float[Tensor, "*n"]:
    """How likely are unit vectors under the von Mises-Fisher law? The log density on the sphere.

    log p(o) = (d/2 - 1) log k - d/2 log 2 pi - log I_{d/2-1}(k) + k o . mu; the uniform density at k = 0. Gradients
    flow through the directions and the mean, not through the normalizing constant.

    Args:
        directions: unit vectors.
        mean: the unit mean direction.
        kappa: a concentration for each vector.

    Example:
        >>> up = torch.tensor([0.0, 0.0, 1.0])
        >>> round(vmf_log_prob(up[None], up, torch.tensor([0.0])).exp().item() * 4 * math.pi, 4)
        1.0
    """
    from scipy import special  # here: it takes a moment to load

    d = _checked(directions.shape[-1])
    k = kappa.detach().cpu().double().numpy()
    uniform = math.lgamma(d / 2) - math.log(2) - d / 2 * math.log(math.pi)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_bessel = np.log(special.ive(d / 2 - 1, k)) + k
        constant = (d / 2 - 1) * np.log(k) - d / 2 * math.log(2 * math.pi) - log_bessel
    constant = np.where(k < 1e-6, uniform, constant)
    return torch.as_tensor(constant).to(directions) + kappa * (directions @ mean)


def _checked(dim: int) -> int:
    if not 2 <= dim <= MOST_DIM:
        raise ValueError(f"dim must be from 2 to {MOST_DIM}, got {dim}")
    return dim


def _table_on(dim: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.as_tensor(_table(dim)).to(device=device, dtype=dtype)


@cache
def _table(dim: int) -> np.ndarray:
    """Return `(2, nodes)`: kappa - l^2 and its slope at each node."""
    at = np.arange(round(_END / _STEP) + 1) * _STEP
    rho, slope = _seen_length(at, dim)
    kappa = _concentration(rho, dim)
    steep = _mean_length_slope(kappa, dim)
    return np.stack((kappa - at * at, slope / steep - 2 * at))


def _seen_length(at: np.ndarray, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rho(l) and its derivative."""
    from scipy import special

    first = math.exp(math.lgamma((d + 1) / 2) - math.lgamma(d / 2 + 1)) / math.sqrt(2)
    half = at * at / 2
    near = special.hyp1f1(0.5, d / 2 + 1, -half)
    next_ = special.hyp1f1(1.5, d / 2 + 2, -half)
    return first * at * near, first * (near - at * at * (0.5 / (d / 2 + 1)) * next_)


def _mean_length(k: np.ndarray, d: int) -> np.ndarray:
    from scipy import special

    small = k < 1e-4
    safe = np.where(small, 1.0, k)
    found: np.ndarray = np.where(small, k / d, special.ive(d / 2, safe) / special.ive(d / 2 - 1, safe))
    return found


def _mean_length_slope(k: np.ndarray, d: int) -> np.ndarray:
    """A' = 1 - A^2 - (d - 1) A / k, which is 1/d at 0."""
    a = _mean_length(k, d)
    small = k < 1e-4
    return np.where(small, 1 / d, 1 - a * a - (d - 1) * a / np.where(small, 1.0, k))


def _concentration(rho: np.ndarray, d: int) -> np.ndarray:
    """Return the kappa with A_d(kappa) = rho, by Newton's method from the start of Banerjee et al. (2005)."""
    k: np.ndarray = rho * (d - rho * rho) / (1 - rho * rho)
    for _ in range(30):
        k = np.maximum(k - (_mean_length(k, d) - rho) / _mean_length_slope(k, d), 0.0)
    return k
