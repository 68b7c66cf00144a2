"""From a kind and its settings, as recipes and model cards hold them, to a network."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import msgspec
from torch import nn

from pellucid.core import ModelError

from ._alexnet import AlexNetSettings
from ._context_cnn import ContextCNNSettings
from ._feedback_spiking import FeedbackSpikingSettings
from ._implicit_conv import ImplicitConvSettings
from ._implicit_graph import ImplicitGraphSettings
from ._implicit_text import ImplicitTextSettings
from ._mdeq import MDEQSettings
from ._mlp import MLPSettings
from ._resnet import ResNetSettings
from ._resnet32 import ResNet32Settings
from ._segmenter import SegmenterSettings
from ._small_cnn import SmallCNNSettings
from ._text_cnn import TextCNNSettings

AnyNetwork = (
    AlexNetSettings
    | ContextCNNSettings
    | FeedbackSpikingSettings
    | ImplicitConvSettings
    | ImplicitGraphSettings
    | ImplicitTextSettings
    | MDEQSettings
    | MLPSettings
    | ResNetSettings
    | ResNet32Settings
    | SegmenterSettings
    | SmallCNNSettings
    | TextCNNSettings
)

MODELS: Mapping[str, type[AnyNetwork]] = MappingProxyType(
    {
        "alexnet-cifar": AlexNetSettings,
        "context-cnn": ContextCNNSettings,
        "feedback-spiking": FeedbackSpikingSettings,
        "implicit-conv": ImplicitConvSettings,
        "implicit-graph": ImplicitGraphSettings,
        "implicit-text": ImplicitTextSettings,
        "mdeq": MDEQSettings,
        "mlp": MLPSettings,
        "resnet18-cifar": ResNetSettings,
        "resnet32-cifar": ResNet32Settings,
        "segmenter": SegmenterSettings,
        "small-cnn": SmallCNNSettings,
        "text-cnn": TextCNNSettings,
    }
)
"""Settings by kind; `MODELS[kind](...).build()` makes the network."""


def build(kind: str, settings: Mapping[str, object]) -> nn.Module:
    """Return a network of `kind` with fresh weights.

    Args:
        kind: a key of `MODELS`.
        settings: the kind's own settings; those left out keep their defaults.

    Raises:
        ModelError: an unknown kind, an unknown setting, or a value out of range.

    Example:
        >>> model = build("small-cnn", {"hidden": 16})
    """
    if kind not in MODELS:
        raise ModelError(f"there is no network of kind {kind!r}; the kinds are {', '.join(sorted(MODELS))}")
    try:
        return msgspec.convert({**settings, "kind": kind}, MODELS[kind]).build()
    except msgspec.ValidationError as error:
        raise ModelError(f"the settings of {kind} do not fit: {error}") from error
