"""The last layer of a network: learned, or the fixed corners of a simplex."""

from __future__ import annotations

from typing import Literal

from torch import nn

from .._etf import ETFHead, check_simplex

Head = Literal["linear", "etf"]
"""A learned linear layer, or `nn.ETFHead` with its defaults."""


def head(kind: Head, width: int, classes: int) -> nn.Module:
    """Return the last layer for features of some width, drawn from torch's global random state."""
    return nn.Linear(width, classes) if kind == "linear" else ETFHead(width, classes)


def check_head(kind: Head, width: int, classes: int) -> None:
    """Refuse features that are too narrow.

    Raises:
        ValueError: see `nn.simplex_etf`.
    """
    if kind == "etf":
        check_simplex(classes, width)
