"""Layers and networks."""

from . import models
from ._backwards import Backward, ConvergenceWarning, Implicit, Neumann, OneStep, Phantom
from ._batch_center import BatchCenter, BatchStandardize, insert_norm
from ._dot_regression import class_weights, dot_regression_loss
from ._equilibrium import Equilibrium, VariationalDropout
from ._etf import ETFHead, etf_head, simplex_etf, with_etf_head
from ._fixed_point import Solution, attach_gradient, fixed_point
from ._newton_krylov import NewtonKrylov
from ._solvers import Anderson, Broyden, Picard, Solver

__all__ = [
    "Anderson",
    "Backward",
    "BatchCenter",
    "BatchStandardize",
    "Broyden",
    "ConvergenceWarning",
    "ETFHead",
    "Equilibrium",
    "Implicit",
    "Neumann",
    "NewtonKrylov",
    "OneStep",
    "Phantom",
    "Picard",
    "Solution",
    "Solver",
    "VariationalDropout",
    "attach_gradient",
    "class_weights",
    "dot_regression_loss",
    "etf_head",
    "fixed_point",
    "insert_norm",
    "models",
    "simplex_etf",
    "with_etf_head",
]
