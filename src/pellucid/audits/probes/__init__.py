"""The questions an audit asks, one file each; `PROBES` and `MORE` are the tables."""

from __future__ import annotations

from types import MappingProxyType

from pellucid.core import Probe

from ._accuracy import Accuracy
from ._attack_attribution import AttackAttributions
from ._attack_orders import AttackOrderings
from ._bottleneck import Bottleneck
from ._calibration import Calibration
from ._collapse import Collapses
from ._concept_maps import ConceptAtoms
from ._concepts import Concepts
from ._corruptions import Corruptions
from ._diversity import FeatureDiversity
from ._explain import Explain
from ._explain_graph import ExplainGraph
from ._implicit import ImplicitLayers
from ._knowledge_points import Knowledge
from ._reliance import Reliance
from ._robustness import Robustness
from ._segmentation import Segmentation
from ._spiking import Spiking

__all__ = [
    "MORE",
    "PROBES",
    "Accuracy",
    "AttackAttributions",
    "AttackOrderings",
    "Bottleneck",
    "Calibration",
    "Collapses",
    "ConceptAtoms",
    "Concepts",
    "Corruptions",
    "Explain",
    "ExplainGraph",
    "FeatureDiversity",
    "ImplicitLayers",
    "Knowledge",
    "Reliance",
    "Robustness",
    "Segmentation",
    "Spiking",
]


def _by_name(*probes: Probe) -> MappingProxyType[str, Probe]:
    return MappingProxyType({probe.name: probe for probe in probes})


PROBES: MappingProxyType[str, Probe] = _by_name(
    Accuracy(), Calibration(), Robustness(), Bottleneck(), Concepts(), FeatureDiversity(), Collapses()
)
"""The probes of an audit by name, in the order it runs them."""

MORE: MappingProxyType[str, Probe] = _by_name(
    Segmentation(),
    ConceptAtoms(),
    AttackAttributions(),
    AttackOrderings(),
    Corruptions(),
    Reliance(),
    ImplicitLayers(),
    Knowledge(),
    Spiking(),
)
"""Probes that an audit runs only where they are asked for by name, or where they say that they suit the model."""
