"""Layers and networks."""

from . import models
from ._backwards import Backward, ConvergenceWarning, Implicit, Neumann, OneStep, Phantom
from ._batch_center import BatchCenter, BatchStandardize, insert_norm
from ._dot_regression import class_weights, dot_regression_loss
from ._equilibrium import Equilibrium, VariationalDropout
from ._etf import ETFHead, etf_head, simplex_etf, with_etf_head
from ._fixed_point import Solution, attach_gradient, fixed_point
from ._neurons import IF, LIF, Surrogate
from ._newton_krylov import NewtonKrylov
from ._solvers import Anderson, Broyden, Picard, Solver
from ._spectral_bound import SpectralBound, operator_norm
from ._spiking import FeedbackSpiking, Simulation, SpikingInfo

__all__ = [
    "IF",
    "LIF",
    "Anderson",
    "Backward",
    "BatchCenter",
    "BatchStandardize",
    "Broyden",
    "ConvergenceWarning",
    "ETFHead",
    "Equilibrium",
    "FeedbackSpiking",
    "Implicit",
    "Neumann",
    "NewtonKrylov",
    "OneStep",
    "Phantom",
    "Picard",
    "Simulation",
    "Solution",
    "Solver",
    "SpectralBound",
    "SpikingInfo",
    "Surrogate",
    "VariationalDropout",
    "attach_gradient",
    "class_weights",
    "dot_regression_loss",
    "etf_head",
    "fixed_point",
    "insert_norm",
    "models",
    "operator_norm",
    "simplex_etf",
    "with_etf_head",
]
