"""What an audit will ask, what each question costs and what it gets of the budget."""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pellucid.core import Effort, ModelError, Need, Probe, Subject, Suited, evaluating, share
from pellucid.reports import Planned

from ._batches import forwards
from .probes import MORE, PROBES

Probes = str | Probe | Sequence[str | Probe]
"""What an audit asks: names of `PROBES` and `MORE`, probes of one's own, or a mixture of both."""

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
    probes: Probes | None = None,
    skip: str | Sequence[str] = (),
) -> Plan:
    """What would an audit do with this budget?

    Each probe that applies gets its least need, in the table's order; the rest is shared evenly up to what each wants.

    Args:
        subject: the model and its samples.
        budget: model evaluations for the whole audit.
        effort: "quick" asks for fewer samples and contexts.
        probes: the probes to run, by name or as objects such as `Robustness(radii={"linf": (0.1,)})`; `usual_probes` if
            not given.
        skip: names of probes to leave out.

    Raises:
        ValueError: an unknown probe, the same one twice, or none left.
        BudgetError: the budget answers no question; the text gives the least that works.
        ModelError: the model answers for every pixel, and all probes ask about one answer per image.
    """
    asked = chosen(probes or usual_probes(subject), skip)
    _check_dense(subject, asked.values())
    needs = {name: _need(probe, subject, effort) for name, probe in asked.items()}
    grants = share(budget, needs)
    rows = tuple(
        Planned(
            probe=name,
            question=probe.question,
            least=needs[name].least,
            wanted=needs[name].wanted,
            granted=grants[name].evaluations,
            memory=needs[name].memory,
            remark=needs[name].remark if grants[name].evaluations < needs[name].wanted else "",
            skip=grants[name].reason,
        )
        for name, probe in asked.items()
    )
    return Plan(rows, budget, effort)


def usual_probes(subject: Subject | None = None) -> tuple[str, ...]:
    """Return the names of the probes of an audit that names none: all of `PROBES`, and those of `MORE` that suit.

    A probe of `MORE` with a method `suits(subject) -> bool` joins by itself where that says so, such as one about a
    kind of layer where the model holds such a layer. A model that answers for every pixel is asked about that alone.

    Args:
        subject: the model and its samples; without it, all that may join are named.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
        >>> usual_probes(Subject(model, torch.rand(4, 1, 4, 4)))[:2]
        ('accuracy', 'calibration')
    """
    may = {name: probe for name, probe in MORE.items() if isinstance(probe, Suited)}
    if subject is None:
        return (*PROBES, *may)
    # What is about one answer per image can never be asked of a model that answers for every pixel: no word of it.
    usual = (name for name, probe in PROBES.items() if not subject.dense or _is_dense(probe))
    return (*usual, *(name for name, probe in may.items() if _may_join(probe, subject) and probe.suits(subject)))


def _may_join(probe: Probe, subject: Subject) -> bool:
    return not subject.number and (not subject.dense or _is_dense(probe))


def _check_dense(subject: Subject, probes: Iterable[Probe]) -> None:
    """Refuse a model that answers for every pixel where none of the probes can ask about that.

    Raises:
        ModelError: see above.
    """
    if subject.dense and not any(_is_dense(probe) for probe in probes):
        raise ModelError(
            f"{subject.name} answers for every pixel, and what is asked is about one answer per image; "
            "`pellucid audit` asks what can be asked of it"
        )


def _is_dense(probe: Probe) -> bool:
    """Whether a probe says that it asks about answers for every pixel."""
    return bool(getattr(probe, "dense", False))


_OF_NUMBERS = ("explain", "graph")
"""Probes that ask about a score, whatever it is; the others ask about classes."""


_NOT_OF_GRAPHS = ("robustness", "bottleneck", "concepts", "attack-attribution", "explain", "graph")
"""Probes that would change an adjacency as if it were a column of a table, or blank it as if it were a picture."""


def _need(probe: Probe, subject: Subject, effort: Effort) -> Need:
    if subject.modality == "graph" and probe.name in _NOT_OF_GRAPHS:
        return Need(0, 0, skip="takes pictures, tables or texts apart; graphs are not taken apart yet")
    if subject.dense and not _is_dense(probe):
        return Need(0, 0, skip=f"asks about one answer per image, and {subject.name} answers for every pixel")
    if subject.number and probe.name not in _OF_NUMBERS:
        return Need(0, 0, skip=f"asks about classes, and {subject.name} measures a number, {subject.number}")
    return probe.need(subject, effort=effort)


def seconds_per_evaluation(subject: Subject, *, patience: float = 0.3) -> float:
    """About how long does one evaluation take here? The best of a few batches, timed for about `patience` seconds.

    The slower of two ways of asking counts: batches without gradient, and steps of an attack, two evaluations per
    sample, where the model gives gradients. Questions that ask small batches take longer than this. For the user's eyes
    only: no result depends on it.
    """
    x = subject.inputs[: forwards(subject)].to(subject.device)
    with evaluating(subject.model):
        with torch.no_grad():
            subject.model(x)  # the first batch pays for warming up
            pace = _best(lambda: float(subject.model(x).sum()), patience / 2) / len(x)
        if not subject.differentiable:
            return pace
        few = x[:_ATTACKED]
        _step(subject.model, few)
        return max(pace, _best(lambda: _step(subject.model, few), patience / 2) / (2 * len(few)))


_ATTACKED = 8
"""Samples in the batch of an attack step that is timed: those still to be fooled are often few."""


def _best(call: Callable[[], float], patience: float) -> float:
    """Return the least seconds a call takes; the number that it returns waits for the device."""
    best, begin = float("inf"), time.perf_counter()
    while True:
        start = time.perf_counter()
        call()
        end = time.perf_counter()
        best = min(best, end - start)
        if end - begin > patience:
            return best


def _step(model: nn.Module, x: Tensor) -> float:
    """Go one step up the gradient, as an attack does."""
    with torch.enable_grad():
        moved = x.detach().requires_grad_()
        logits = model(moved)
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits, logits.detach().argmax(1)), moved)
    return float((moved.detach() + 1e-3 * gradient.sign()).sum())


def chosen(probes: Probes | None, skip: str | Sequence[str]) -> dict[str, Probe]:
    """Return the probes to run by name, those of the tables in their order, then those given as objects in theirs.

    Those of `MORE` run only where they are named here; `usual_probes` names those that suit a subject.

    Raises:
        ValueError: an unknown probe, the same one twice, or none left.
        TypeError: something that is neither a name nor a probe.
    """
    given = [probes] if isinstance(probes, str | Probe) else list(probes or PROBES)
    leave = [skip] if isinstance(skip, str) else list(skip)
    known = PROBES | MORE
    for entry in [*given, *leave]:
        if not isinstance(entry, str | Probe):
            raise TypeError(f"probes must be names or probes, got {type(entry).__name__}")
        if isinstance(entry, str) and entry not in known:
            near = difflib.get_close_matches(entry, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
            raise ValueError(f"there is no probe {entry!r}; {hint}")
    own: dict[str, Probe] = {}
    for entry in given:
        if isinstance(entry, str):
            continue
        if entry.name in own or entry.name in given:
            raise ValueError(f"the probe {entry.name!r} is given twice; a report holds each question once")
        own[entry.name] = entry
    named = {name: own.pop(name, probe) for name, probe in known.items() if name in given or name in own}
    left = {name: probe for name, probe in {**named, **own}.items() if name not in leave}
    if not left:
        raise ValueError("no probe is left to run; skip fewer of them")
    return left
