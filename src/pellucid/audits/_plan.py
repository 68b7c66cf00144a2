"""What an audit will ask, what each question costs and what it gets of the budget."""

from __future__ import annotations

import difflib
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pellucid.core import Effort, Subject, evaluating, share
from pellucid.reports import Planned

from .probes import PROBES

DEFAULT_BUDGET = 400_000
DEFAULT_SAMPLES = 500


@dataclass(frozen=True)
class Plan:
    """The rows of an audit's plan, one per probe, in the order they run.

    Args:
        rows: what each probe needs and gets, in evaluations (one forward of one sample; a gradient counts two).
        budget: evaluations shared out.
        effort: "quick" or "full".
    """

    rows: tuple[Planned, ...]
    budget: int
    effort: Effort

    @property
    def granted(self) -> int:
        """Evaluations granted in all."""
        return sum(row.granted for row in self.rows)


def plan(
    subject: Subject,
    *,
    budget: int = DEFAULT_BUDGET,
    effort: Effort = "full",
    probes: Sequence[str] | None = None,
    skip: Sequence[str] = (),
) -> Plan:
    """What would an audit do with this budget?

    Each probe that applies gets its least need, in the table's order; the rest is shared evenly up to what each wants.

    Args:
        subject: the model and its samples.
        budget: model evaluations for the whole audit.
        effort: "quick" asks for fewer samples and contexts.
        probes: names of the probes to run; all if not given.
        skip: names of probes to leave out.

    Raises:
        ValueError: an unknown probe, or none left.
        BudgetError: the budget answers no question; the text gives the least that works.
    """
    names = _chosen(probes, skip)
    needs = {name: PROBES[name].need(subject, effort=effort) for name in names}
    grants = share(budget, needs)
    rows = tuple(
        Planned(
            probe=name,
            question=PROBES[name].question,
            least=needs[name].least,
            wanted=needs[name].wanted,
            granted=grants[name].evaluations,
            memory=needs[name].memory,
            remark=needs[name].remark if grants[name].evaluations < needs[name].wanted else "",
            skip=grants[name].reason,
        )
        for name in names
    )
    return Plan(rows, budget, effort)


def seconds_per_evaluation(subject: Subject, *, patience: float = 0.3) -> float:
    """How long does one evaluation take here? The best of a few batches, timed for about `patience` seconds.

    For the user's eyes only: no result depends on it.
    """
    x = subject.inputs[:256].to(subject.device)
    best, begin = float("inf"), time.perf_counter()
    with evaluating(subject.model), torch.no_grad():
        subject.model(x)  # the first batch pays for warming up
        while True:
            start = time.perf_counter()
            subject.model(x).sum().item()  # `item` waits for the device
            end = time.perf_counter()
            best = min(best, (end - start) / len(x))
            if end - begin > patience:
                return best


def _chosen(probes: Sequence[str] | None, skip: Sequence[str]) -> list[str]:
    for name in [*(probes or ()), *skip]:
        if name not in PROBES:
            near = difflib.get_close_matches(name, PROBES, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(PROBES)}"
            raise ValueError(f"there is no probe {name!r}; {hint}")
    wanted = list(PROBES) if not probes else [name for name in PROBES if name in probes]
    left = [name for name in wanted if name not in skip]
    if not left:
        raise ValueError("no probe is left to run; skip fewer of them")
    return left
