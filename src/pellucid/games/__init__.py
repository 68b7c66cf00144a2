"""Cooperative games on a model: which inputs matter, which work together, in contexts of which size?"""

from ._games import Counted, Memoized, TableGame, table
from ._harsanyi import Interactions, harsanyi
from ._model_game import ModelGame, noise_floor
from ._order_weights import nested_sizes, order_weights
from ._orders import PairInteractions, learning_strength, pair_interactions
from ._pair_orders import PairOrders, cost_pair_orders, neighbor_blocks, pair_orders
from ._players import Features, Patches
from ._prune import PrunePath, concept_jaccard, prune
from ._shapley import shapley
from ._size_curve import SizeCurve, bin_sizes, cost_size_curve, size_curve
from ._strength import interaction_strength, strength_of
from ._transforms import (
    by_size,
    coalitions,
    inverse_or,
    mobius,
    or_transform,
    sizes,
    superset_mobius,
    superset_zeta,
    zeta,
)
from ._values import ClassScore, ValueOf, log_odds, log_probability, logit, margin, probability

__all__ = [
    "ClassScore",
    "Counted",
    "Features",
    "Interactions",
    "Memoized",
    "ModelGame",
    "PairInteractions",
    "PairOrders",
    "Patches",
    "PrunePath",
    "SizeCurve",
    "TableGame",
    "ValueOf",
    "bin_sizes",
    "by_size",
    "coalitions",
    "concept_jaccard",
    "cost_pair_orders",
    "cost_size_curve",
    "harsanyi",
    "interaction_strength",
    "inverse_or",
    "learning_strength",
    "log_odds",
    "log_probability",
    "logit",
    "margin",
    "mobius",
    "neighbor_blocks",
    "nested_sizes",
    "noise_floor",
    "or_transform",
    "order_weights",
    "pair_interactions",
    "pair_orders",
    "probability",
    "prune",
    "shapley",
    "size_curve",
    "sizes",
    "strength_of",
    "superset_mobius",
    "superset_zeta",
    "table",
    "zeta",
]
