"""Layers and networks."""

from . import models
from ._batch_center import BatchCenter, BatchStandardize, insert_norm
from ._dot_regression import class_weights, dot_regression_loss
from ._etf import ETFHead, etf_head, simplex_etf, with_etf_head

__all__ = [
    "BatchCenter",
    "BatchStandardize",
    "ETFHead",
    "class_weights",
    "dot_regression_loss",
    "etf_head",
    "insert_norm",
    "models",
    "simplex_etf",
    "with_etf_head",
]
