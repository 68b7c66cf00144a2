"""What a trained network does, in numbers: accuracy, calibration, robustness, feature diversity. Nothing is judged."""

from . import _panels  # noqa: F401 - gives the results their form in notebooks and terminals
from ._attack_facts import Repeats, Slopes, Trust, repeats, slopes, trust
from ._calibration import Calibration, calibration, fit_temperature
from ._classification import Classification, classification
from ._collapse import Collapse, Geometry, NeuralCollapse, collapse, neural_collapse, simplex_geometry
from ._common_direction import CommonDirection, common_direction
from ._corruptions import (
    CORRUPTIONS,
    SEVERITIES,
    Corruption,
    CorruptionAccuracy,
    corrupted,
    corruption_accuracy,
    corruption_strength,
    cost_corruption_accuracy,
)
from ._diversity import FeatureDiversity, Similarity, feature_diversity, initial_similarity, similarity, watchable
from ._diversity_history import (
    DiversityHead,
    DiversityHistory,
    DiversityRow,
    LayerPhase,
    PhaseReport,
    history_row,
    phase_report,
)
from ._diversity_meter import DiversityMeter
from ._first_phase import FirstPhase, LossWatch, first_phase
from ._frequency import FrequencyGroups, frequency_groups, group_accuracy
from ._front import Front, FrontModel, hypervolume, pareto_front, rank_correlation
from ._profile import RobustnessProfile, robustness_profile
from ._robustness import RadiusAttack, RobustnessCurve, robustness_curve, robustness_evaluations
from ._segmentation import IoU, Segmentation, confusion, confusions, iou, segmentation
from ._trust import (
    SearchCheck,
    StepsCheck,
    attacked,
    more_steps,
    random_search_beats,
    transfer_accuracy,
)

__all__ = [
    "CORRUPTIONS",
    "SEVERITIES",
    "Calibration",
    "Classification",
    "Collapse",
    "CommonDirection",
    "Corruption",
    "CorruptionAccuracy",
    "DiversityHead",
    "DiversityHistory",
    "DiversityMeter",
    "DiversityRow",
    "FeatureDiversity",
    "FirstPhase",
    "FrequencyGroups",
    "Front",
    "FrontModel",
    "Geometry",
    "IoU",
    "LayerPhase",
    "LossWatch",
    "NeuralCollapse",
    "PhaseReport",
    "RadiusAttack",
    "Repeats",
    "RobustnessCurve",
    "RobustnessProfile",
    "SearchCheck",
    "Segmentation",
    "Similarity",
    "Slopes",
    "StepsCheck",
    "Trust",
    "attacked",
    "calibration",
    "classification",
    "collapse",
    "common_direction",
    "confusion",
    "confusions",
    "corrupted",
    "corruption_accuracy",
    "corruption_strength",
    "cost_corruption_accuracy",
    "feature_diversity",
    "first_phase",
    "fit_temperature",
    "frequency_groups",
    "group_accuracy",
    "history_row",
    "hypervolume",
    "initial_similarity",
    "iou",
    "more_steps",
    "neural_collapse",
    "pareto_front",
    "phase_report",
    "random_search_beats",
    "rank_correlation",
    "repeats",
    "robustness_curve",
    "robustness_evaluations",
    "robustness_profile",
    "segmentation",
    "similarity",
    "simplex_geometry",
    "slopes",
    "transfer_accuracy",
    "trust",
    "watchable",
]
