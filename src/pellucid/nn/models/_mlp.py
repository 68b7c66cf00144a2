"""A deep fully connected network, with the settings that decide whether it gets stuck at the start of training."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import msgspec
from jaxtyping import Float
from msgspec import Meta
from torch import Tensor, nn

from .._batch_center import NORMS

Positive = Annotated[int, Meta(ge=1)]

_ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU}


class MLPSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="mlp"):
    """Settings of `MLP`.

    Args:
        inputs: numbers in one input; images are flattened.
        depth: linear layers, the one that gives the logits among them.
        width: of the hidden layers.
        activation: after each hidden layer.
        bias: "torch" as PyTorch draws them, "zero" at the start, or "none" at all.
        init: of the weights: "torch" is U(-1/sqrt(fan_in), 1/sqrt(fan_in)), "he" N(0, 2/fan_in), "orthogonal" has the
            gain sqrt(2).
        norm: before each activation: "center" or "standardize" over the batch, "layer" or "rms" over the features.
        classes: number of logits.
        mean, std: taken from the inputs inside the model; as they come, [0, 1] becomes [-1, 1].
    """

    inputs: Positive = 3072
    depth: Annotated[int, Meta(ge=2)] = 9
    width: Positive = 256
    activation: Literal["relu", "tanh", "gelu"] = "relu"
    bias: Literal["torch", "zero", "none"] = "torch"
    init: Literal["torch", "he", "orthogonal"] = "torch"
    norm: Literal["none", "center", "standardize", "layer", "rms"] = "none"
    classes: Annotated[int, Meta(ge=2)] = 10
    mean: float = 0.5
    std: Annotated[float, Meta(gt=0)] = 0.5

    def build(self) -> MLP:
        """Return the network with fresh weights, drawn from torch's global random state."""
        return MLP(self)


class MLP(nn.Module):
    """Linear layers with activations between them: `linear1`, `norm1` (if any), `act1`, `linear2`, ...

    Args:
        settings: sizes, initialization and normalization; as it comes, 9 layers of width 256 for CIFAR-10.

    Example:
        >>> import torch
        >>> logits = MLP()(torch.rand(2, 3, 32, 32))
        >>> tuple(logits.shape)
        (2, 10)
    """

    def __init__(self, settings: MLPSettings | None = None) -> None:
        super().__init__()
        self.settings = settings = settings or MLPSettings()
        sizes = [settings.inputs, *[settings.width] * (settings.depth - 1), settings.classes]
        for k in range(1, settings.depth + 1):
            layer = nn.Linear(sizes[k - 1], sizes[k], bias=settings.bias != "none")
            _initialize(layer, settings)
            self.add_module(f"linear{k}", layer)
            if k == settings.depth:
                break
            if settings.norm != "none":
                self.add_module(f"norm{k}", NORMS[settings.norm](sizes[k]))
            self.add_module(f"act{k}", _ACTIVATIONS[settings.activation]())

    def forward(self, x: Float[Tensor, "b ..."]) -> Float[Tensor, "b k"]:
        """Return logits for inputs of any shape with `inputs` numbers each."""
        h = ((x - self.settings.mean) / self.settings.std).flatten(1)
        for layer in self.children():
            h = layer(h)
        return h


def _initialize(layer: nn.Linear, settings: MLPSettings) -> None:
    if settings.init == "he":
        nn.init.normal_(layer.weight, std=math.sqrt(2 / layer.in_features))
    elif settings.init == "orthogonal":
        nn.init.orthogonal_(layer.weight, gain=math.sqrt(2))
    if settings.bias == "zero":
        nn.init.zeros_(layer.bias)
