"""What a coalition is worth: scores of one class or of all, from logits.

One logit z is read as the two logits (0, z), where the logit itself is +z for class 1 and -z for class 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid import core
from pellucid.core import Model, Value, evaluating

ValueOf = Callable[[int], Value]
"""Makes the value function of a class, such as `log_odds`."""

Label = int | Int[Tensor, " b"]


def _others(z: Tensor, y: Label) -> Tensor:
    columns = torch.full((len(z), 1), y, dtype=torch.int64, device=z.device) if isinstance(y, int) else y[:, None]
    return z.scatter(1, columns.to(z.device), -torch.inf).logsumexp(1)


@dataclass(frozen=True, eq=False)
class ClassScore:
    """A score of one class as the value function of a game.

    Args:
        name: what the score is called.
        score: maps logits `(c, k)` and the class to `(c,)`.
        label: the class; or, for a game of several inputs, the class of each `(b,)`: rows of logits go through the
            inputs in turn.
    """

    name: str
    score: Callable[[Tensor, Label], Tensor]
    label: Label

    def __call__(self, z: Float[Tensor, "c k"]) -> Float[Tensor, " c"]:
        score = self.score
        if z.shape[1] == 1:
            score = core.margin if score is core.logit else score
            z = two_logits(z)
        if isinstance(self.label, int):
            if not 0 <= self.label < z.shape[1]:
                raise ValueError(f"class {self.label} is outside the model's classes 0 to {z.shape[1] - 1}")
            return score(z, self.label)
        label = self.label.to(z.device)
        if len(z) % len(label):
            raise ValueError(f"{len(label)} classes do not fit {len(z)} rows of logits; give one class per input")
        if bool((label < 0).any()) or bool((label >= z.shape[1]).any()):
            raise ValueError(f"classes {label.tolist()} must lie from 0 to {z.shape[1] - 1}")
        return score(z, label.repeat(len(z) // len(label)))


def two_logits(z: Float[Tensor, "c k"]) -> Float[Tensor, "c m"]:
    """Return logits of at least two classes: a single logit z becomes (0, z)."""
    return torch.cat([torch.zeros_like(z), z], dim=1) if z.shape[1] == 1 else z


def _label(y: Label) -> Label:
    return y.to(torch.int64) if isinstance(y, Tensor) and y.ndim else int(y)


def log_odds(y: Label) -> ClassScore:
    """The log odds of class y, log p/(1-p): the default, because it never saturates."""
    return ClassScore("log odds", core.log_odds, _label(y))


def log_probability(y: Label) -> ClassScore:
    """The log probability of class y."""
    return ClassScore("log probability", core.log_probability, _label(y))


def probability(y: Label) -> ClassScore:
    """The probability of class y."""
    return ClassScore("probability", core.probability, _label(y))


def logit(y: Label) -> ClassScore:
    """The logit of class y."""
    return ClassScore("logit", core.logit, _label(y))


def margin(y: Label) -> ClassScore:
    """The logit of class y minus the largest other logit."""
    return ClassScore("margin", core.margin, _label(y))


def others(y: Label) -> ClassScore:
    """The logsumexp of the logits of all classes but y: what speaks against y."""
    return ClassScore("other classes", _others, _label(y))


@dataclass(frozen=True)
class Output:
    """One output of the model as it is, for regression; see `output`."""

    column: int = 0

    def __call__(self, z: Float[Tensor, "c k"]) -> Float[Tensor, " c"]:
        if not 0 <= self.column < z.shape[1]:
            raise ValueError(f"output {self.column} is outside the model's outputs 0 to {z.shape[1] - 1}")
        return z[:, self.column]


def output(column: int = 0) -> Output:
    """One output of the model as it is: the value function of a regression."""
    return Output(int(column))


VALUES: Mapping[str, ValueOf] = {
    "log_odds": log_odds,
    "log_probability": log_probability,
    "logit": logit,
    "margin": margin,
    "others": others,
    "probability": probability,
    "output": output,
}
"""Value functions by name; each makes the value of a class (of an output column for `output`)."""


# -- all classes from one pass ----------------------------------------------------------------------------------------


def _all_others(z: Tensor) -> Tensor:
    """The logsumexp of all other classes, `(c, k)`: exact for the largest logit, whose share may be nearly all."""
    top = z.argmax(1, keepdim=True)
    whole = z.logsumexp(1, keepdim=True)
    # Every other class has at most half of the probability, so this loses no digits; the largest is set after it.
    rest = whole + torch.log1p(-(z - whole).exp().scatter(1, top, 0.0))
    return rest.scatter(1, top, z.scatter(1, top, -torch.inf).logsumexp(1, keepdim=True))


def _all_margins(z: Tensor) -> Tensor:
    best, at = z.topk(2, dim=1)
    rest = best[:, :1].expand_as(z).scatter(1, at[:, :1], best[:, 1:])
    return z - rest


_ALL_CLASSES: Mapping[ValueOf, Callable[[Tensor], Tensor]] = {
    log_odds: lambda z: z - _all_others(z),
    log_probability: lambda z: z.log_softmax(1),
    logit: lambda z: z,
    margin: _all_margins,
    others: _all_others,
    probability: lambda z: z.softmax(1),
}


@dataclass(frozen=True)
class EveryClass:
    """The score of every class, `(c, k)`; see `every_class`."""

    value: ValueOf

    def __call__(self, z: Float[Tensor, "c k"]) -> Float[Tensor, "c m"]:
        if self.value is output:
            return z
        if z.shape[1] == 1 and self.value is logit:
            return torch.cat([-z, z], dim=1)
        z = two_logits(z)
        if self.value in _ALL_CLASSES:
            return _ALL_CLASSES[self.value](z)
        return torch.stack([self.value(y)(z) for y in range(z.shape[1])], dim=1)


def every_class(value: ValueOf = log_odds) -> EveryClass:
    """The score of every class from one pass: a game with values `(c, k)` and all its results per class.

    Args:
        value: makes the value function of a class, such as `log_odds`; with `output` every output of a regression.

    Example:
        >>> import torch
        >>> every_class(margin)(torch.tensor([[3.0, 1.0, 0.0]])).tolist()
        [[2.0, -2.0, -3.0]]
    """
    return EveryClass(value)


def target_classes(
    model: Model,
    x: Tensor,
    target: int | Literal["label", "predicted"],
    *,
    labels: Int[Tensor, " b"] | None = None,
) -> Int[Tensor, " b"]:
    """Which class is each game about? The label, what the model answers to the whole input, or one fixed class.

    The answer is taken once, from the unmasked inputs, and costs one evaluation per input; the others cost nothing.

    Args:
        model: maps a batch to logits.
        x: inputs `(b, ...)`.
        target: "label", "predicted" or a class.
        labels: `(b,)`, needed for "label".

    Returns:
        Classes, int64 `(b,)`.

    Raises:
        ValueError: "label" without labels, or an unknown target.
    """
    if isinstance(target, int):
        return torch.full((len(x),), target, dtype=torch.int64, device=x.device)
    if target == "label":
        if labels is None:
            raise ValueError('target="label" needs labels=; without labels use target="predicted"')
        return labels.to(torch.int64)
    if target != "predicted":
        raise ValueError(f'target must be "label", "predicted" or a class, got {target!r}')
    with evaluating(model), torch.no_grad():
        return two_logits(model(x.to(core.device_of(model)))).argmax(1)
