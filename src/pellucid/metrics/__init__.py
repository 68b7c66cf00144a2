"""What a trained network does, in numbers: accuracy, calibration, robustness, feature diversity. Nothing is judged."""

from . import _panels  # noqa: F401 - gives the results their form in notebooks and terminals
from ._calibration import Calibration, calibration
from ._classification import Classification, classification
from ._diversity import FeatureDiversity, Similarity, feature_diversity, initial_similarity, similarity, watchable
from ._front import Front, FrontModel, hypervolume, pareto_front, rank_correlation
from ._robustness import RadiusAttack, RobustnessCurve, robustness_curve, robustness_evaluations
from ._trust import (
    SearchCheck,
    StepsCheck,
    attacked,
    more_steps,
    random_search_beats,
    transfer_accuracy,
)

__all__ = [
    "Calibration",
    "Classification",
    "FeatureDiversity",
    "Front",
    "FrontModel",
    "RadiusAttack",
    "RobustnessCurve",
    "SearchCheck",
    "Similarity",
    "StepsCheck",
    "attacked",
    "calibration",
    "classification",
    "feature_diversity",
    "hypervolume",
    "initial_similarity",
    "more_steps",
    "pareto_front",
    "random_search_beats",
    "rank_correlation",
    "robustness_curve",
    "robustness_evaluations",
    "similarity",
    "transfer_accuracy",
    "watchable",
]
