"""Explanations of a model on its inputs: numbers with their uncertainty and cost; nothing here judges."""

from . import _panels  # noqa: F401 - gives the results their form in notebooks and terminals
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
from ._concepts import Concepts, Pattern, concept_table, concepts, concepts_of, cost_concepts
from ._explanations import Explanation, ExplanationSettings, check_explanation, cost_explanation, explanations
from ._signed_orders import SignedCurve, cost_signed_order_curve, signed_order_curve
from ._spectrum import BottleneckSpectrum

__all__ = [
    "DEFAULT_RATIOS",
    "FULL",
    "OFFICIAL",
    "QUICK",
    "BottleneckSpectrum",
    "Concepts",
    "Explanation",
    "ExplanationSettings",
    "GapTest",
    "Pattern",
    "SignedCurve",
    "SpectrumSettings",
    "StructureTest",
    "bottleneck",
    "check_explanation",
    "concept_table",
    "concepts",
    "concepts_of",
    "cost_bottleneck",
    "cost_concepts",
    "cost_explanation",
    "cost_signed_order_curve",
    "exact_bottleneck",
    "explanations",
    "fit_bottleneck",
    "gap_test",
    "orders_of",
    "signed_order_curve",
    "structure_test",
]
