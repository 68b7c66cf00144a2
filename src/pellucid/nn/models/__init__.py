"""Networks that a recipe or a model card can name."""

from ._alexnet import AlexNet, AlexNetSettings
from ._build import MODELS, build
from ._resnet import ResNet, ResNetSettings
from ._small_cnn import SmallCNN, SmallCNNSettings
from ._text_cnn import TextCNN, TextCNNSettings

__all__ = [
    "MODELS",
    "AlexNet",
    "AlexNetSettings",
    "ResNet",
    "ResNetSettings",
    "SmallCNN",
    "SmallCNNSettings",
    "TextCNN",
    "TextCNNSettings",
    "build",
]
