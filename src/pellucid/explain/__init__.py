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

__all__ = [
    "DEFAULT_RATIOS",
    "FULL",
    "QUICK",
    "BottleneckSpectrum",
    "Concepts",
    "Pattern",
    "SignedCurve",
    "SpectrumSettings",
    "bottleneck",
    "concepts",
    "cost_bottleneck",
    "cost_concepts",
    "cost_signed_order_curve",
    "fit_bottleneck",
    "orders_of",
    "signed_order_curve",
]
