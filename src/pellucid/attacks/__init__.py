"""Distortions that make a model err: spaces say what is allowed, attacks search in them."""

from ._losses import LOSSES, Loss, cross_entropy, log_odds_loss, margin_loss
from ._pgd import PGD
from ._random_search import RandomSearch
from ._spaces import L2, SPACES, Linf

__all__ = [
    "L2",
    "LOSSES",
    "PGD",
    "SPACES",
    "Linf",
    "Loss",
    "RandomSearch",
    "cross_entropy",
    "log_odds_loss",
    "margin_loss",
]
