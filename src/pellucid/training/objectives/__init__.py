"""What training lowers; one file per objective."""

from ._adversarial import Adversarial
from ._standard import Standard

__all__ = ["Adversarial", "Standard"]
