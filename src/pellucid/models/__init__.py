"""Models from anywhere: shipped networks with their cards, and a user's own file."""

from ._card import Card, Figure
from ._load import SHIPPED, Loaded, load

__all__ = ["SHIPPED", "Card", "Figure", "Loaded", "load"]
