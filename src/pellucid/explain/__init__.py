"""Explanations of a model on its inputs: numbers with their uncertainty and cost; nothing here judges."""

from ._bottleneck import (
    DEFAULT_RATIOS,
    FULL,
    QUICK,
    BottleneckSpectrum,
    SignedCurve,
    SpectrumSettings,
    bottleneck,
    cost_bottleneck,
    cost_signed_order_curve,
    fit_bottleneck,
    orders_of,
    signed_order_curve,
)
from ._concepts import Concepts, Pattern, concepts, cost_concepts
from ._explanations import Explanation, ExplanationSettings, check_explanation, cost_explanation, explanations

__all__ = [
    "DEFAULT_RATIOS",
    "FULL",
    "QUICK",
    "BottleneckSpectrum",
    "Concepts",
    "Explanation",
    "ExplanationSettings",
    "Pattern",
    "SignedCurve",
    "SpectrumSettings",
    "bottleneck",
    "check_explanation",
    "concepts",
    "cost_bottleneck",
    "cost_concepts",
    "cost_explanation",
    "cost_signed_order_curve",
    "explanations",
    "fit_bottleneck",
    "orders_of",
    "signed_order_curve",
]
