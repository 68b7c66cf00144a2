"""Distortions that make a model err: spaces say what is allowed, attacks search in them."""

from ._apgd import APGD
from ._auto_attack import AutoAttack
from ._balls import BALLS, L2, Linf
from ._chain import Chain
from ._ensemble import Ensemble, standard_ensemble
from ._fab import FAB
from ._flow_penalty import FlowPenalty, roughness
from ._grid_search import GridSearch, GridSweep
from ._integrated import IntegratedSpatial
from ._losses import LOSSES, Loss, cross_entropy, dlr_loss, log_odds_loss, margin_loss, targeted_dlr_loss
from ._minimum_norm import MinimumNorm, MinimumNormWithin, Nearest
from ._pgd import PGD
from ._random_search import RandomSearch
from ._saved import load_perturbed, save_perturbed
from ._spaces import SPACES
from ._spatial import Flow, RotateTranslate, Spatial
from ._square import Square
from ._until_utility import Controlled, UntilUtility, Utility, half_margin, until_utility

__all__ = [
    "APGD",
    "BALLS",
    "FAB",
    "L2",
    "LOSSES",
    "PGD",
    "SPACES",
    "AutoAttack",
    "Chain",
    "Controlled",
    "Ensemble",
    "Flow",
    "FlowPenalty",
    "GridSearch",
    "GridSweep",
    "IntegratedSpatial",
    "Linf",
    "Loss",
    "MinimumNorm",
    "MinimumNormWithin",
    "Nearest",
    "RandomSearch",
    "RotateTranslate",
    "Spatial",
    "Square",
    "UntilUtility",
    "Utility",
    "cross_entropy",
    "dlr_loss",
    "half_margin",
    "load_perturbed",
    "log_odds_loss",
    "margin_loss",
    "roughness",
    "save_perturbed",
    "standard_ensemble",
    "targeted_dlr_loss",
    "until_utility",
]
