"""What training lowers; one file per objective."""

from ._adversarial import Adversarial
from ._attacks import Attacks
from ._dot_regression import DotRegression
from ._equilibrium import EquilibriumTraining
from ._order import InteractionOrder, OrderRange
from ._standard import Standard

__all__ = [
    "Adversarial",
    "Attacks",
    "DotRegression",
    "EquilibriumTraining",
    "InteractionOrder",
    "OrderRange",
    "Standard",
]
