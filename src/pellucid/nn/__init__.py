"""Layers and networks."""

from . import models

__all__ = ["models"]
