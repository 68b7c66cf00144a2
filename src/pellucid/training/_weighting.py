"""From the named terms of an objective to the one number that training lowers.

A recipe holds the settings; `build` makes the weighting of one training, with the state that a checkpoint keeps.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import msgspec
import torch
from msgspec import Meta
from torch import Tensor

from pellucid.core import RecipeError, min_norm_weights, moment_weights

from ._parallel import averaged

Share = Annotated[float, Meta(ge=0, le=1)]
MOST_TERMS = 8  # the small quadratic programs are solved by looking at every subset of the terms


class FixedWeighting(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="fixed"):
    """The sum of the terms with fixed weights.

    Args:
        weights: weight by name of the term; terms without one are only logged. Empty: every term that has a gradient
            counts once.

    Example:
        >>> FixedWeighting({"clean": 1.0, "flow": 0.5})
        FixedWeighting(weights={'clean': 1.0, 'flow': 0.5})
    """

    weights: dict[str, float] = {}

    def build(self, *, anchored: Sequence[str] = ()) -> FixedWeighting:
        """Return the weighting of one training; it has no state."""
        return self

    def __call__(self, terms: Mapping[str, Tensor], *, parameters: Sequence[Tensor]) -> Tensor:
        """Return the weighted sum of the terms.

        Raises:
            RecipeError: a weight names a term that the objective does not have, or no term has a weight.
        """
        weights = self.weights or dict.fromkeys(_trained(terms), 1.0)
        absent = sorted(set(weights) - set(terms))
        if absent:
            raise RecipeError(f"weighting.weights names {absent[0]!r} but the terms are {', '.join(sorted(terms))}")
        return _total(terms, weights)

    def state_dict(self) -> dict[str, Any]:
        """Return the state a checkpoint keeps: none."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back a state: there is none."""


class UniformWeighting(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="uniform"):
    """The mean of all terms that have a gradient."""

    def build(self, *, anchored: Sequence[str] = ()) -> Mixture:
        """Return the weighting of one training; see `Mixture` for `anchored`."""
        return Mixture(_Plain(_equal), anchored=anchored)


class MaxWeighting(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="max"):
    """Only the term that is largest at this step."""

    def build(self, *, anchored: Sequence[str] = ()) -> Mixture:
        """Return the weighting of one training; see `Mixture` for `anchored`."""
        return Mixture(_Plain(_worst), anchored=anchored)


class MinNormWeighting(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="mgda"
):
    """The mix whose gradient is shortest, so that a step along it lowers every term (multiple-gradient descent).

    The gradients are those of the parameters. Gradients of features would not do: each term has its own inputs, so they
    would be orthogonal whatever the terms have in common.

    Args:
        layers: "last" takes the gradients of the last layer, which costs next to nothing; "all" those of all
            parameters, one more backward pass per term.
    """

    layers: Literal["last", "all"] = "last"

    def build(self, *, anchored: Sequence[str] = ()) -> Mixture:
        """Return the weighting of one training; see `Mixture` for `anchored`."""
        return Mixture(_Plain(_shortest_last if self.layers == "last" else _shortest), anchored=anchored)


class ParetoWeighting(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="pareto"
):
    """The steadiest mix of the terms at a chosen level of loss (`core.moment_weights`): one dial for all of them.

    Over the last `window` steps, mu is the mean of each term and M their second moments. The weights a minimize
    a^T M a over the simplex with mu^T a = (1 - rho) min(mu) + rho max(mu). They are equal until the window is full.

    Args:
        rho: the dial. 0 puts all weight on the term that is cheapest, usually the natural one, 1 on the hardest;
            "free" leaves the level out and asks for the least second moment.
        window: steps that the moments are taken over.
        resolve_every: steps between two solutions.
        smoothing: share of the weights before that stays at each solution.

    Source: arXiv:2111.01996, in the reading of `docs/methods/pareto.md`.
    """

    rho: Share | Literal["free"] = 0.5
    window: Annotated[int, Meta(ge=1)] = 100
    resolve_every: Annotated[int, Meta(ge=1)] = 10
    smoothing: Annotated[float, Meta(ge=0, lt=1)] = 0.9

    def build(self, *, anchored: Sequence[str] = ()) -> Mixture:
        """Return the weighting of one training; see `Mixture` for `anchored`."""
        return Mixture(_Steadiest(self), anchored=anchored)


AnyWeighting = FixedWeighting | UniformWeighting | MaxWeighting | MinNormWeighting | ParetoWeighting

WEIGHTINGS: Mapping[str, type[AnyWeighting]] = MappingProxyType(
    {
        "fixed": FixedWeighting,
        "max": MaxWeighting,
        "mgda": MinNormWeighting,
        "pareto": ParetoWeighting,
        "uniform": UniformWeighting,
    }
)


@runtime_checkable
class Rule(Protocol):
    """Shares out a weight of one over the terms; keeps a state of plain JSON values."""

    def __call__(self, terms: Mapping[str, Tensor], parameters: Sequence[Tensor]) -> Sequence[float]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class Mixture:
    """The weighted sum of the terms with a gradient, the weights set anew by a rule at every step.

    Args:
        rule: how the weight of one is shared out.
        anchored: terms that always count once, beside the rule's. An objective names those that must not lose their
            weight: a network that lowers only a distance between its own answers ends as a constant.
    """

    def __init__(self, rule: Rule, *, anchored: Sequence[str] = ()) -> None:
        self.rule, self.anchored = rule, tuple(anchored)
        self.weights: dict[str, float] = {}

    def __call__(self, terms: Mapping[str, Tensor], *, parameters: Sequence[Tensor]) -> Tensor:
        """Return the weighted sum; the weights in force are in `weights`.

        Raises:
            RecipeError: no term has a gradient, or more than eight are to be weighed.
        """
        trained = _trained(terms)
        mixed = {name: term for name, term in trained.items() if name not in self.anchored}
        if len(mixed) > MOST_TERMS:
            raise RecipeError(f"this weighting takes at most {MOST_TERMS} terms, got {', '.join(mixed)}; use fixed")
        shares = self.rule(mixed, parameters) if mixed else ()
        weights = {name: 1.0 for name in trained if name in self.anchored} | dict(zip(mixed, shares, strict=True))
        self.weights = {name: weights[name] for name in trained}
        return _total(terms, self.weights)

    def state_dict(self) -> dict[str, Any]:
        """Return the state a checkpoint keeps: that of the rule."""
        return self.rule.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back a state."""
        self.rule.load_state_dict(state)


class _Plain:
    """A rule that looks at the present step alone."""

    def __init__(self, rule: Any) -> None:
        self.rule = rule

    def __call__(self, terms: Mapping[str, Tensor], parameters: Sequence[Tensor]) -> Sequence[float]:
        shares: Sequence[float] = self.rule(terms, parameters)
        return shares

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass


class _Steadiest:
    """The rule of `ParetoWeighting`: moments over a sliding window of loss vectors."""

    def __init__(self, settings: ParetoWeighting) -> None:
        self.settings = settings
        self.window: deque[list[float]] = deque(maxlen=settings.window)
        self.shares: list[float] = []
        self.age = settings.resolve_every  # steps since the last solution: the first comes when the window is full

    def __call__(self, terms: Mapping[str, Tensor], parameters: Sequence[Tensor]) -> Sequence[float]:
        losses = _values(terms)
        if len(self.shares) != len(losses):
            self.shares = [1 / len(losses)] * len(losses)
        if all(map(math.isfinite, losses)):
            self.window.append(losses)
        if len(self.window) == self.settings.window and self.age >= self.settings.resolve_every:
            keep = self.settings.smoothing
            fresh = self._solved()
            self.shares = [keep * old + (1 - keep) * new for old, new in zip(self.shares, fresh, strict=True)]
            self.age = 0
        self.age += 1
        return self.shares

    def _solved(self) -> list[float]:
        losses = torch.tensor(list(self.window), dtype=torch.float64)
        mu, moments = losses.mean(0), losses.T @ losses / len(losses)
        rho = self.settings.rho
        level = None if isinstance(rho, str) else float((1 - rho) * mu.min() + rho * mu.max())
        weights: list[float] = moment_weights(moments, mu, level).tolist()
        return weights

    def state_dict(self) -> dict[str, Any]:
        return {"window": [list(losses) for losses in self.window], "shares": list(self.shares), "age": self.age}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.window = deque(([float(v) for v in losses] for losses in state["window"]), maxlen=self.settings.window)
        self.shares, self.age = [float(share) for share in state["shares"]], int(state["age"])


def _equal(terms: Mapping[str, Tensor], parameters: Sequence[Tensor]) -> list[float]:
    return [1 / len(terms)] * len(terms)


def _worst(terms: Mapping[str, Tensor], parameters: Sequence[Tensor]) -> list[float]:
    losses = _values(terms)
    worst = losses.index(max(losses))
    return [float(place == worst) for place in range(len(losses))]


def _shortest(terms: Mapping[str, Tensor], parameters: Sequence[Tensor]) -> list[float]:
    rows = []
    for term in terms.values():
        parts = torch.autograd.grad(term, list(parameters), retain_graph=True, allow_unused=True)
        pairs = zip(parts, parameters, strict=True)
        rows.append(torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs]))
    gradients = averaged(torch.stack(rows))
    if not bool(gradients.isfinite().all()):
        return _equal(terms, parameters)  # the loss is NaN too, and training stops with that
    weights: list[float] = min_norm_weights(gradients).tolist()
    return weights


def _shortest_last(terms: Mapping[str, Tensor], parameters: Sequence[Tensor]) -> list[float]:
    """The same with the gradients of the last layer: its weight, and the bias that comes after it."""
    first = next((place for place in reversed(range(len(parameters))) if parameters[place].ndim > 1), 0)
    return _shortest(terms, parameters[first:])


def _values(terms: Mapping[str, Tensor]) -> list[float]:
    """Return the terms as numbers, the same in all processes."""
    values: list[float] = averaged(torch.stack([term.detach().double() for term in terms.values()])).tolist()
    return values


def _trained(terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
    trained = {name: term for name, term in terms.items() if term.requires_grad}
    if not trained:
        raise RecipeError(f"no term has a gradient to train with; the terms are {', '.join(sorted(terms))}")
    return trained


def _total(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    # A term without weight stays out altogether: 0 times infinity would be NaN.
    parts = [weight * terms[name] for name, weight in weights.items() if weight != 0]
    if not parts:
        raise RecipeError(f"every weight is 0; the terms are {', '.join(sorted(terms))}")
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
