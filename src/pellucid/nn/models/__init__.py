"""Networks that a recipe or a model card can name."""

from ._alexnet import AlexNet, AlexNetSettings
from ._build import MODELS, build
from ._context_cnn import ContextCNN, ContextCNNSettings
from ._feedback_spiking import FeedbackSpikingNet, FeedbackSpikingSettings
from ._implicit import BackwardSettings, SolverSettings
from ._implicit_conv import ImplicitConv, ImplicitConvSettings
from ._implicit_graph import ImplicitGraph, ImplicitGraphSettings
from ._implicit_text import ImplicitText, ImplicitTextSettings
from ._mdeq import MDEQ, MDEQSettings
from ._mlp import MLP, MLPSettings
from ._resnet import ResNet, ResNetSettings
from ._resnet32 import ResNet32, ResNet32Settings
from ._segmenter import Segmenter, SegmenterSettings
from ._small_cnn import SmallCNN, SmallCNNSettings
from ._text_cnn import TextCNN, TextCNNSettings

__all__ = [
    "MDEQ",
    "MLP",
    "MODELS",
    "AlexNet",
    "AlexNetSettings",
    "BackwardSettings",
    "ContextCNN",
    "ContextCNNSettings",
    "FeedbackSpikingNet",
    "FeedbackSpikingSettings",
    "ImplicitConv",
    "ImplicitConvSettings",
    "ImplicitGraph",
    "ImplicitGraphSettings",
    "ImplicitText",
    "ImplicitTextSettings",
    "MDEQSettings",
    "MLPSettings",
    "ResNet",
    "ResNet32",
    "ResNet32Settings",
    "ResNetSettings",
    "Segmenter",
    "SegmenterSettings",
    "SmallCNN",
    "SmallCNNSettings",
    "SolverSettings",
    "TextCNN",
    "TextCNNSettings",
    "build",
]
