"""What a coalition is worth: scores of one class, from logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from pellucid import core
from pellucid.core import Value

ValueOf = Callable[[int], Value]
"""Makes the value function of a class, such as `log_odds`."""


@dataclass(frozen=True)
class ClassScore:
    """A score of one class as the value function of a game.

    Args:
        name: what the score is called.
        score: maps logits `(c, k)` and the class to `(c,)`.
        label: the class.
    """

    name: str
    score: Callable[[Tensor, int], Tensor]
    label: int

    def __call__(self, z: Float[Tensor, "c k"]) -> Float[Tensor, " c"]:
        if not 0 <= self.label < z.shape[1]:
            raise ValueError(f"class {self.label} is outside the model's classes 0 to {z.shape[1] - 1}")
        return self.score(z, self.label)


def log_odds(y: int) -> ClassScore:
    """The log odds of class y, log p/(1-p): the default, because it never saturates."""
    return ClassScore("log odds", core.log_odds, int(y))


def log_probability(y: int) -> ClassScore:
    """The log probability of class y."""
    return ClassScore("log probability", core.log_probability, int(y))


def probability(y: int) -> ClassScore:
    """The probability of class y."""
    return ClassScore("probability", core.probability, int(y))


def logit(y: int) -> ClassScore:
    """The logit of class y."""
    return ClassScore("logit", core.logit, int(y))


def margin(y: int) -> ClassScore:
    """The logit of class y minus the largest other logit."""
    return ClassScore("margin", core.margin, int(y))
