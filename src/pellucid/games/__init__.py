"""Cooperative games on a model: which inputs matter, which work together, in contexts of which size?"""

from . import _panels  # noqa: F401 - gives the results their form in notebooks and terminals
from ._and_or import AndOr, and_or
from ._disentanglement import Aggregate, Disentanglement, cost_disentanglement, disentanglement
from ._embeddings import OnEmbeddings, on_embeddings
from ._games import Counted, Memoized, Restricted, TableGame, restrict, table
from ._harsanyi import harsanyi
from ._indices import INDICES, Index, find_index, index, noise_limits
from ._interactions import Interactions
from ._model_game import ModelGame, noise_floor
from ._order_weights import nested_sizes, order_weights
from ._orders import PairInteractions, learning_strength, pair_interactions
from ._pair_orders import PairOrders, Sharing, cost_pair_orders, neighbor_blocks, neighbor_pairs, pair_orders
from ._players import Features, Patches
from ._players_baselines import Fill, Marginal
from ._players_points import Points
from ._players_segments import Segments, segments
from ._players_tokens import Tokens, Words
from ._prune import PrunePath, concept_jaccard, prune
from ._shapiq import ShapiqGame, from_shapiq, to_shapiq
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
from ._values import (
    VALUES,
    ClassScore,
    EveryClass,
    Output,
    ValueOf,
    every_class,
    log_odds,
    log_probability,
    logit,
    margin,
    others,
    output,
    probability,
    target_classes,
)

__all__ = [
    "INDICES",
    "VALUES",
    "Aggregate",
    "AndOr",
    "ClassScore",
    "Counted",
    "Disentanglement",
    "EveryClass",
    "Features",
    "Fill",
    "Index",
    "Interactions",
    "Marginal",
    "Memoized",
    "ModelGame",
    "OnEmbeddings",
    "Output",
    "PairInteractions",
    "PairOrders",
    "Patches",
    "Points",
    "PrunePath",
    "Restricted",
    "Segments",
    "ShapiqGame",
    "Sharing",
    "SizeCurve",
    "TableGame",
    "Tokens",
    "ValueOf",
    "Words",
    "and_or",
    "bin_sizes",
    "by_size",
    "coalitions",
    "concept_jaccard",
    "cost_disentanglement",
    "cost_pair_orders",
    "cost_size_curve",
    "disentanglement",
    "every_class",
    "find_index",
    "from_shapiq",
    "harsanyi",
    "index",
    "interaction_strength",
    "inverse_or",
    "learning_strength",
    "log_odds",
    "log_probability",
    "logit",
    "margin",
    "mobius",
    "neighbor_blocks",
    "neighbor_pairs",
    "nested_sizes",
    "noise_floor",
    "noise_limits",
    "on_embeddings",
    "or_transform",
    "order_weights",
    "others",
    "output",
    "pair_interactions",
    "pair_orders",
    "probability",
    "prune",
    "restrict",
    "segments",
    "shapley",
    "size_curve",
    "sizes",
    "strength_of",
    "superset_mobius",
    "superset_zeta",
    "table",
    "target_classes",
    "to_shapiq",
    "zeta",
]
