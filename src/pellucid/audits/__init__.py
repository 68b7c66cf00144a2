"""Audits: questions asked of a model within a budget, their judgement, and the comparison of two."""

from ._audit import audit
from ._compare import compare
from ._events import (
    Event,
    OnEvent,
    PlanMade,
    ProbeDone,
    ProbeFailed,
    ProbeSkipped,
    ProbeStarted,
    ProbeStep,
)
from ._plan import DEFAULT_BUDGET, DEFAULT_SAMPLES, Plan, plan, seconds_per_evaluation
from .probes import PROBES

__all__ = [
    "DEFAULT_BUDGET",
    "DEFAULT_SAMPLES",
    "PROBES",
    "Event",
    "OnEvent",
    "Plan",
    "PlanMade",
    "ProbeDone",
    "ProbeFailed",
    "ProbeSkipped",
    "ProbeStarted",
    "ProbeStep",
    "audit",
    "compare",
    "plan",
    "seconds_per_evaluation",
]
