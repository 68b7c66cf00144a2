"""Scores of a class from logits, shared by games and attacks: stable, without epsilons.

`z` has shape `(b, k)`, `y` is one class for all rows or `(b,)` int64; every score has shape `(b,)`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

Labels = int | Int[Tensor, " b"]
Logits = Float[Tensor, "b k"]
Score = Callable[[Logits, Labels], Float[Tensor, " b"]]


def _columns(z: Tensor, y: Labels) -> Tensor:
    if isinstance(y, int):
        return torch.full((len(z), 1), y, dtype=torch.int64, device=z.device)
    return y.to(z.device)[:, None]


def logit(z: Logits, y: Labels) -> Float[Tensor, " b"]:
    """z_y."""
    return z.gather(1, _columns(z, y))[:, 0]


def log_probability(z: Logits, y: Labels) -> Float[Tensor, " b"]:
    """log p_y."""
    return z.log_softmax(1).gather(1, _columns(z, y))[:, 0]


def probability(z: Logits, y: Labels) -> Float[Tensor, " b"]:
    """p_y."""
    return z.softmax(1).gather(1, _columns(z, y))[:, 0]


def log_odds(z: Logits, y: Labels) -> Float[Tensor, " b"]:
    """log p_y / (1 - p_y) = z_y - logsumexp over the other classes; never saturates."""
    columns = _columns(z, y)
    others = z.scatter(1, columns, -torch.inf)
    return z.gather(1, columns)[:, 0] - others.logsumexp(1)


def margin(z: Logits, y: Labels) -> Float[Tensor, " b"]:
    """z_y minus the largest other logit; positive where the model is right."""
    columns = _columns(z, y)
    return z.gather(1, columns)[:, 0] - z.scatter(1, columns, -torch.inf).amax(1)


def cross_entropy(z: Logits, y: Labels) -> Float[Tensor, " b"]:
    """-log p_y, per sample."""
    return -log_probability(z, y)
