"""Explanations of a model on its inputs: numbers with their uncertainty and cost; nothing here judges."""

from . import _panels  # noqa: F401 - gives the results their form in notebooks and terminals
from ._and_or_graph import AndOrGraph, Coalition, Kind, Logic, Node, Pattern
from ._attack_attribution import (
    AttackAttribution,
    attack_attribution,
    cost_attack_attribution,
    map_iou,
    region_norms,
)
from ._attack_cost import AttackGame, AttackUtility, MinimumCost, ReachedMargin, attack_regions
from ._attack_interactions import LogitGap, coalition_interactions, perturbation_game
from ._bottleneck import (
    DEFAULT_RATIOS,
    FULL,
    OFFICIAL,
    QUICK,
    SpectrumSettings,
    bottleneck,
    cost_bottleneck,
    exact_bottleneck,
    fit_bottleneck,
    orders_of,
)
from ._companions import GapTest, StructureTest, gap_test, structure_test
from ._components import Component, PerturbationComponents, border_contrast, perturbation_components
from ._concepts import and_or_graph, and_or_graph_of, concept_table, cost_and_or_graph
from ._explanations import Explanation, ExplanationSettings, check_explanation, cost_explanation, explanations
from ._learned_baseline import BaselineSettings, LearnedBaseline, learn_baseline
from ._signed_orders import SignedCurve, cost_signed_order_curve, signed_order_curve
from ._spectrum import BottleneckSpectrum

__all__ = [
    "DEFAULT_RATIOS",
    "FULL",
    "OFFICIAL",
    "QUICK",
    "AndOrGraph",
    "AttackAttribution",
    "AttackGame",
    "AttackUtility",
    "BaselineSettings",
    "BottleneckSpectrum",
    "Coalition",
    "Component",
    "Explanation",
    "ExplanationSettings",
    "GapTest",
    "Kind",
    "LearnedBaseline",
    "Logic",
    "LogitGap",
    "MinimumCost",
    "Node",
    "Pattern",
    "PerturbationComponents",
    "ReachedMargin",
    "SignedCurve",
    "SpectrumSettings",
    "StructureTest",
    "and_or_graph",
    "and_or_graph_of",
    "attack_attribution",
    "attack_regions",
    "border_contrast",
    "bottleneck",
    "check_explanation",
    "coalition_interactions",
    "concept_table",
    "cost_and_or_graph",
    "cost_attack_attribution",
    "cost_bottleneck",
    "cost_explanation",
    "cost_signed_order_curve",
    "exact_bottleneck",
    "explanations",
    "fit_bottleneck",
    "gap_test",
    "learn_baseline",
    "map_iou",
    "orders_of",
    "perturbation_components",
    "perturbation_game",
    "region_norms",
    "signed_order_curve",
    "structure_test",
]
