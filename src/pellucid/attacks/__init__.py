"""Distortions that make a model err: spaces say what is allowed, attacks search in them."""

from ._balls import BALLS, L2, Linf
from ._chain import Chain
from ._grid_search import GridSearch, GridSweep
from ._integrated import IntegratedSpatial
from ._losses import LOSSES, Loss, cross_entropy, log_odds_loss, margin_loss
from ._minimum_norm import MinimumNorm, Nearest
from ._pgd import PGD
from ._random_search import RandomSearch
from ._spaces import SPACES
from ._spatial import Flow, RotateTranslate, Spatial
from ._until_utility import Controlled, UntilUtility, Utility, half_margin, until_utility

__all__ = [
    "BALLS",
    "L2",
    "LOSSES",
    "PGD",
    "SPACES",
    "Chain",
    "Controlled",
    "Flow",
    "GridSearch",
    "GridSweep",
    "IntegratedSpatial",
    "Linf",
    "Loss",
    "MinimumNorm",
    "Nearest",
    "RandomSearch",
    "RotateTranslate",
    "Spatial",
    "UntilUtility",
    "Utility",
    "cross_entropy",
    "half_margin",
    "log_odds_loss",
    "margin_loss",
    "until_utility",
]
