"""Descent for smooth losses that are computed whole: restarted acceleration, and a front door that counts gradients."""

from ._completion import Completion
from ._minimize import METHODS, OptimizeResult, Trace, minimize
from ._restarted_agd import RestartedAGD, RestartStatus
from ._rules import AdaptiveRestart, FixedRestart, TheoryParameters, theory_parameters

__all__ = [
    "METHODS",
    "AdaptiveRestart",
    "Completion",
    "FixedRestart",
    "OptimizeResult",
    "RestartStatus",
    "RestartedAGD",
    "TheoryParameters",
    "Trace",
    "minimize",
    "theory_parameters",
]
