"""Model evaluations as a currency: who needs how much, and who gets what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ._contracts import Need
from ._errors import BudgetError


@dataclass(frozen=True)
class Grant:
    """What one claimant was granted: evaluations, or a reason for nothing."""

    evaluations: int
    reason: str = ""


def share(budget: int, needs: Mapping[str, Need], *, required: bool = True) -> dict[str, Grant]:
    """Share `budget` evaluations among claimants.

    First everyone whose least need still fits gets it, in the given order. The rest is shared evenly: nobody gets more
    than they want, and what modest claimants leave goes to the others. So one hungry claimant starves nobody.

    Raises:
        BudgetError: `required` and the budget does not cover even one claimant's least need.
    """
    open_needs = {name: need for name, need in needs.items() if not need.skip}
    grants = {name: Grant(0, need.skip) for name, need in needs.items() if need.skip}
    left = budget
    for name, need in open_needs.items():
        if need.least <= left:
            grants[name] = Grant(need.least)
            left -= need.least
        else:
            grants[name] = Grant(0, f"needs at least {need.least:,} evaluations, {left:,} are left of the budget")
    served = [name for name in open_needs if grants[name].evaluations or not open_needs[name].least]
    if required and open_needs and not served:
        least = min(need.least for need in open_needs.values())
        raise BudgetError(f"a budget of {budget:,} evaluations answers no question; give at least {least:,}")
    wishes = {name: max(0, open_needs[name].wanted - grants[name].evaluations) for name in served}
    for position, name in enumerate(sorted(wishes, key=wishes.__getitem__)):
        extra = max(0, min(wishes[name], left // (len(wishes) - position)))
        grants[name] = Grant(grants[name].evaluations + extra)
        left -= extra
    return {name: grants[name] for name in needs}
