"""Every space by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from pellucid.core import Space

from ._balls import L2, Linf
from ._chain import Chain
from ._spatial import Flow, RotateTranslate, Spatial

SPACES: Mapping[str, Callable[..., Space]] = MappingProxyType(
    {"chain": Chain, "flow": Flow, "l2": L2, "linf": Linf, "rt": RotateTranslate, "spatial": Spatial}
)
"""Every space by the name that recipes, files and the command line use; each takes its own settings, see `BALLS`."""
