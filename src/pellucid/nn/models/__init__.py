"""Networks that a recipe or a model card can name."""

from ._alexnet import AlexNet, AlexNetSettings
from ._build import MODELS, build
from ._feedback_spiking import FeedbackSpikingNet, FeedbackSpikingSettings
from ._mlp import MLP, MLPSettings
from ._resnet import ResNet, ResNetSettings
from ._resnet32 import ResNet32, ResNet32Settings
from ._small_cnn import SmallCNN, SmallCNNSettings
from ._text_cnn import TextCNN, TextCNNSettings

__all__ = [
    "MLP",
    "MODELS",
    "AlexNet",
    "AlexNetSettings",
    "FeedbackSpikingNet",
    "FeedbackSpikingSettings",
    "MLPSettings",
    "ResNet",
    "ResNet32",
    "ResNet32Settings",
    "ResNetSettings",
    "SmallCNN",
    "SmallCNNSettings",
    "TextCNN",
    "TextCNNSettings",
    "build",
]
