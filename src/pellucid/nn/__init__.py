"""Layers and networks."""

from . import models
from ._ascent import Agreement, AscentCertificate, ascent_certificate, gradient_agreement, min_phantom_steps
from ._backwards import BACKWARDS, Backward, ConvergenceWarning, Implicit, Neumann, OneStep, Phantom
from ._batch_center import BatchCenter, BatchStandardize, insert_norm
from ._dot_regression import Balance, class_weights, dot_regression_loss
from ._equilibrium import Equilibrium, VariationalDropout
from ._etf import ETFHead, etf_head, simplex_etf, with_etf_head
from ._fixed_point import Solution, attach_gradient, fixed_point
from ._hamburger import Hamburger
from ._jacobian import jacobian_norm, jacobian_penalty, spectral_radius
from ._light_ham import LightHamHead
from ._light_ham_weights import light_ham_from_mmseg
from ._matrix_decomposition import Factors, MatrixDecomposition, Unrolled
from ._neurons import IF, LIF, Surrogate
from ._newton_krylov import SOLVERS, NewtonKrylov
from ._replace_attention import HamAttention, ReplacedModule, Replacement, replace_attention
from ._solvers import Anderson, Broyden, Picard, Solver
from ._spectral_bound import SpectralBound, operator_norm
from ._spiking import FeedbackSpiking, Simulation, SpikingInfo

__all__ = [
    "BACKWARDS",
    "IF",
    "LIF",
    "SOLVERS",
    "Agreement",
    "Anderson",
    "AscentCertificate",
    "Backward",
    "Balance",
    "BatchCenter",
    "BatchStandardize",
    "Broyden",
    "ConvergenceWarning",
    "ETFHead",
    "Equilibrium",
    "Factors",
    "FeedbackSpiking",
    "HamAttention",
    "Hamburger",
    "Implicit",
    "LightHamHead",
    "MatrixDecomposition",
    "Neumann",
    "NewtonKrylov",
    "OneStep",
    "Phantom",
    "Picard",
    "ReplacedModule",
    "Replacement",
    "Simulation",
    "Solution",
    "Solver",
    "SpectralBound",
    "SpikingInfo",
    "Surrogate",
    "Unrolled",
    "VariationalDropout",
    "ascent_certificate",
    "attach_gradient",
    "class_weights",
    "dot_regression_loss",
    "etf_head",
    "fixed_point",
    "gradient_agreement",
    "insert_norm",
    "jacobian_norm",
    "jacobian_penalty",
    "light_ham_from_mmseg",
    "min_phantom_steps",
    "models",
    "operator_norm",
    "replace_attention",
    "simplex_etf",
    "spectral_radius",
    "with_etf_head",
]
