"""What an audit tells its watcher while it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pellucid.core import Finding

from ._plan import Plan


@dataclass(frozen=True)
class PlanMade:
    """The plan stands; nothing was computed yet."""

    plan: Plan


@dataclass(frozen=True)
class ProbeStarted:
    """A probe begins, with this many evaluations."""

    probe: str
    budget: int


@dataclass(frozen=True)
class ProbeStep:
    """A probe moved to `done` of `total`, in its own unit."""

    probe: str
    done: int
    total: int


@dataclass(frozen=True)
class ProbeDone:
    """A probe answered; `reused` when its findings come from the interrupted audit that is being resumed."""

    probe: str
    findings: tuple[Finding, ...]
    seconds: float
    reused: bool = False


@dataclass(frozen=True)
class ProbeSkipped:
    """A probe cannot answer here, for this reason."""

    probe: str
    reason: str


@dataclass(frozen=True)
class ProbeFailed:
    """A probe raised an error that it should not have."""

    probe: str
    error: Exception


Event = PlanMade | ProbeStarted | ProbeStep | ProbeDone | ProbeSkipped | ProbeFailed
OnEvent = Callable[[Event], None]


def unwatched(event: Event) -> None:
    """The `on_event` of a caller who does not watch."""
