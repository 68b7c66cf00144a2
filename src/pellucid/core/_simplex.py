"""Weights on the simplex by small quadratic programs, solved exactly.

With m <= 8 objectives there are at most 255 sets of objectives that can carry the weight. Each gives a linear system
(the conditions of Karush, Kuhn and Tucker); the best of those whose solution has no negative weight is the answer. No
iteration, no tolerance on the optimum.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

MOST_OBJECTIVES = 8

_RIDGE = 1e-8  # share of the mean diagonal: equal objectives share their weight equally
_TOLERANCE = 1e-9  # of weights and of the conditions, after scaling to order 1


def moment_weights(M: Float[Tensor, "m m"], mu: Float[Tensor, " m"], r: float | None = None) -> Float[Tensor, " m"]:
    """Which mix of objectives fluctuates least at a chosen level of loss?

    Minimizes a^T M a over the simplex (sum a = 1, a >= 0), with mu^T a = r where r is given. `M` stands for the second
    moments mean(l l^T) of the losses. With r given their covariance has the same solution, because a^T M a =
    a^T Cov a + r^2. With r = None the two differ: second moments then also ask for a small loss, the covariance only
    for a steady one; pass the one you mean.

    Args:
        M: second moments or covariance of m <= 8 losses, symmetric and positive semidefinite.
        mu: mean of each loss.
        r: the mean that the mix must have; clipped into [min mu, max mu] with a warning. No such condition if None.

    Returns:
        The weights, float64.

    Raises:
        ValueError: shapes do not fit, there are more than eight objectives, or a number is not finite.

    Example:
        >>> moments = torch.tensor([[5.0, 2.0], [2.0, 5.0]])  # means (2, 1), variances (1, 4)
        >>> moment_weights(moments, torch.tensor([2.0, 1.0]), r=1.5)
        tensor([0.5000, 0.5000], dtype=torch.float64)

    Source: the upper level of arXiv:2111.01996, in the reading of `docs/methods/pareto.md`.
    """
    matrix, mean = _array(M), _array(mu)
    if mean.ndim != 1 or not 1 <= len(mean) <= MOST_OBJECTIVES or matrix.shape != (len(mean), len(mean)):
        raise ValueError(
            f"M must be (m, m) and mu (m,) with 1 <= m <= {MOST_OBJECTIVES}, got {matrix.shape} and {mean.shape}"
        )
    if not (np.isfinite(matrix).all() and np.isfinite(mean).all() and (r is None or math.isfinite(r))):
        raise ValueError("M, mu and r must be finite; leave out loss vectors that are not")
    if r is None:
        return torch.from_numpy(_least(matrix))
    low, high = float(mean.min()), float(mean.max())
    inside = min(max(r, low), high)
    if abs(inside - r) > 1e-6 * max(abs(low), abs(high)):
        warnings.warn(f"r = {r:g} lies outside the means [{low:g}, {high:g}] and is clipped", stacklevel=2)
    spread = high - low
    if spread <= 1e-12 * max(abs(low), abs(high)):
        return torch.from_numpy(_least(matrix))  # every mix has that mean
    # Shifted and scaled into [0, 1]: on the simplex the same condition.
    return torch.from_numpy(_least(matrix, (mean - low) / spread, (inside - low) / spread))


def min_norm_weights(G: Float[Tensor, "m d"]) -> Float[Tensor, " m"]:
    """Which mix of gradients is shortest? A step along it lowers all objectives, or none can be lowered by all.

    Minimizes |sum_i a_i g_i|^2 over the simplex. At the solution every g_i has the same product with the mix, where
    a_i > 0, and none a smaller one.

    Args:
        G: gradients of m <= 8 objectives, one per row.

    Returns:
        The weights, float64, on the CPU.

    Raises:
        ValueError: G has another shape, more than eight rows, or numbers that are not finite.

    Example:
        >>> min_norm_weights(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
        tensor([0.8000, 0.2000], dtype=torch.float64)

    Source: Desideri 2012 (multiple-gradient descent); Sener and Koltun 2018, arXiv:1810.04650.
    """
    if G.ndim != 2 or not 1 <= len(G) <= MOST_OBJECTIVES:
        raise ValueError(f"G must be (m, d) with 1 <= m <= {MOST_OBJECTIVES}, one gradient per row, got {G.shape}")
    gram = torch.zeros(len(G), len(G), dtype=torch.float64, device=G.device)
    for part in torch.split(G.detach(), 2**20, dim=1):  # products in float64 without a copy of all gradients in it
        part = part.double()
        gram += part @ part.T
    matrix = _array(gram)
    if not np.isfinite(matrix).all():
        raise ValueError("G must be finite")
    lengths = np.sqrt(matrix.diagonal())
    if not lengths.all():
        return torch.from_numpy((lengths == 0) / (lengths == 0).sum())  # a mix of length 0
    # In units of each gradient's own length, or rounding would drown a short one beside one 10,000 times as long.
    shares = lengths.min() / lengths
    weights = _solved(matrix / np.outer(lengths, lengths), shares[None], np.ones(1)) * shares
    return torch.from_numpy(weights / weights.sum())


def _least(matrix: np.ndarray, mean: np.ndarray | None = None, level: float = 0.0) -> np.ndarray:
    """Return the minimizer of a^T matrix a on the simplex, with mean^T a = level where a mean in [0, 1] is given."""
    ones = np.ones((1, len(matrix)))
    if mean is None:
        weights = _solved(matrix, ones, np.ones(1))
    else:
        weights = _solved(matrix, np.vstack([ones, mean]), np.array([1.0, level]))
    weights /= weights.sum()
    return weights


def _solved(matrix: np.ndarray, rows: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """Return the minimizer of a^T matrix a with rows a = goal and a >= 0."""
    m = len(matrix)
    scale = float(np.trace(matrix)) / m
    # Symmetric, of order 1, and positive definite, so that the minimizer is unique.
    matrix = (matrix + matrix.T) / (2 * scale) if scale > 0 else np.zeros((m, m))
    matrix = matrix + _RIDGE * np.eye(m)
    best, least = np.full(m, 1 / m), math.inf
    for members in _supports(m):
        found = _stationary(matrix[np.ix_(members, members)], rows[:, members], goal)
        if found is None or found.min() < -_TOLERANCE:
            continue
        value = float(found @ matrix[np.ix_(members, members)] @ found)
        if value < least:
            best, least = np.zeros(m), value
            best[members] = found.clip(0)
    return best


def _stationary(matrix: np.ndarray, rows: np.ndarray, goal: np.ndarray) -> np.ndarray | None:
    """Return the minimizer of a^T matrix a with rows a = goal, or None if no a has that.

    The system is singular where a support of one objective carries two conditions or the means in it are equal: the
    multipliers are then not unique, but a is. Least squares finds it, and the residual tells whether there is one.
    """
    n, c = matrix.shape[0], len(goal)
    system = np.block([[2 * matrix, rows.T], [rows, np.zeros((c, c))]])
    right = np.concatenate([np.zeros(n), goal])
    found: np.ndarray = np.linalg.lstsq(system, right, rcond=1e-14)[0][:n]
    if np.abs(rows @ found - goal).max() > _TOLERANCE:
        return None
    return found


def _supports(m: int) -> Iterator[list[int]]:
    """Yield all non-empty subsets of range(m)."""
    for mask in range(1, 2**m):
        yield [i for i in range(m) if mask >> i & 1]


def _array(values: Tensor) -> np.ndarray:
    array: np.ndarray = values.detach().cpu().to(torch.float64).numpy()
    return array
