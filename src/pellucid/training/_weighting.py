"""From the named terms of an objective to the one number that training lowers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import msgspec
from torch import Tensor

from pellucid.core import RecipeError


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

    def build(self) -> FixedWeighting:
        """Return the weighting of one training; it has no state."""
        return self

    def __call__(self, terms: Mapping[str, Tensor], *, parameters: Sequence[Tensor]) -> Tensor:
        """Return the weighted sum of the terms.

        Raises:
            RecipeError: a weight names a term that the objective does not have, or no term has a weight.
        """
        weights = self.weights or {name: 1.0 for name, term in terms.items() if term.requires_grad}
        absent = sorted(set(weights) - set(terms))
        if absent:
            raise RecipeError(f"weighting.weights names {absent[0]!r} but the terms are {', '.join(sorted(terms))}")
        parts = [weight * terms[name] for name, weight in weights.items()]
        if not parts:
            raise RecipeError(f"no term has a gradient to train with; the terms are {', '.join(sorted(terms))}")
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total

    def state_dict(self) -> dict[str, Any]:
        """Return the state a checkpoint keeps: none."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back a state: there is none."""


WEIGHTINGS: Mapping[str, type[FixedWeighting]] = MappingProxyType({"fixed": FixedWeighting})
