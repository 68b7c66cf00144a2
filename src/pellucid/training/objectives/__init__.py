"""What training lowers; one file per objective."""

from ._adversarial import Adversarial
from ._order import InteractionOrder, OrderRange
from ._standard import Standard

__all__ = ["Adversarial", "InteractionOrder", "OrderRange", "Standard"]
