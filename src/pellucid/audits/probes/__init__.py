"""The questions an audit asks, one file each; `PROBES` is the table."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from pellucid.core import Probe

from ._accuracy import Accuracy
from ._bottleneck import Bottleneck
from ._calibration import Calibration
from ._concepts import Concepts
from ._diversity import FeatureDiversity
from ._explain import Explain
from ._robustness import Robustness

__all__ = ["PROBES", "Accuracy", "Bottleneck", "Calibration", "Concepts", "Explain", "FeatureDiversity", "Robustness"]

PROBES: Mapping[str, Probe] = MappingProxyType(
    {
        probe.name: probe
        for probe in (Accuracy(), Calibration(), Robustness(), Bottleneck(), Concepts(), FeatureDiversity())
    }
)
"""Every probe by name, in the order an audit runs them."""
