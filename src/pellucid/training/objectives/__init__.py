"""What training lowers; one file per objective."""

from ._adversarial import Adversarial
from ._attacks import Attacks
from ._order import InteractionOrder, OrderRange
from ._standard import Standard

__all__ = ["Adversarial", "Attacks", "InteractionOrder", "OrderRange", "Standard"]
