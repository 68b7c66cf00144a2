"""Audits: questions asked of a model within a budget, their judgement, and the comparison of two."""

from ._audit import audit
from ._check import check, judge
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
from ._explain import Explained, ExplainedSample, ExplanationFile, explain
from ._explain_graph import ExplainedGraphs, GraphFile, GraphSample, explain_graph, graphs_beside
from ._first_phase import Remedy, advise, first_phase_finding, first_phase_report
from ._front import front_report
from ._graphs import graph_exhibit
from ._plan import DEFAULT_BUDGET, DEFAULT_SAMPLES, Plan, plan, seconds_per_evaluation, usual_probes
from ._requirements import ATTACKS, MEASURES, Known, Requirement, Requirements, Settings, check_known
from ._settings import ProbeSetting, changed_settings, settings_of, with_settings
from .probes import MORE, PROBES, Explain, ExplainGraph

__all__ = [
    "ATTACKS",
    "DEFAULT_BUDGET",
    "DEFAULT_SAMPLES",
    "MEASURES",
    "MORE",
    "PROBES",
    "Event",
    "Explain",
    "ExplainGraph",
    "Explained",
    "ExplainedGraphs",
    "ExplainedSample",
    "ExplanationFile",
    "GraphFile",
    "GraphSample",
    "Known",
    "OnEvent",
    "Plan",
    "PlanMade",
    "ProbeDone",
    "ProbeFailed",
    "ProbeSetting",
    "ProbeSkipped",
    "ProbeStarted",
    "ProbeStep",
    "Remedy",
    "Requirement",
    "Requirements",
    "Settings",
    "advise",
    "audit",
    "changed_settings",
    "check",
    "check_known",
    "compare",
    "explain",
    "explain_graph",
    "first_phase_finding",
    "first_phase_report",
    "front_report",
    "graph_exhibit",
    "graphs_beside",
    "judge",
    "plan",
    "seconds_per_evaluation",
    "settings_of",
    "usual_probes",
    "with_settings",
]
