"""What training lowers; one file per objective."""

from ._adversarial import Adversarial
from ._attacks import Attacks
from ._dot_regression import DotRegression
from ._order import InteractionOrder, OrderRange
from ._standard import Standard

__all__ = ["Adversarial", "Attacks", "DotRegression", "InteractionOrder", "OrderRange", "Standard"]
