"""Models from anywhere: shipped networks with their cards, a user's own file, or an object at hand."""

from ._adopt import Estimator, Function, Normalized, adopt
from ._card import Card, Figure
from ._load import SHIPPED, load
from ._loaded import Loaded
from ._names import read_class_names
from ._texts import Similarity, similarity

__all__ = [
    "SHIPPED",
    "Card",
    "Estimator",
    "Figure",
    "Function",
    "Loaded",
    "Normalized",
    "Similarity",
    "adopt",
    "load",
    "read_class_names",
    "similarity",
]
