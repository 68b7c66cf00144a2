"""Normalizations over the batch that keep features of different samples apart (arXiv:2112.00980), put anywhere."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pellucid.core import ModelError

ACTIVATIONS: tuple[type[nn.Module], ...] = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus,
    nn.Hardswish, nn.Hardtanh, nn.Tanh, nn.Sigmoid,
)  # fmt: skip
_LINEAR: tuple[type[nn.Module], ...] = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_HIDDEN = _LINEAR + ACTIVATIONS


class BatchCenter(nn.Module):
    """Take away from each feature its mean over the batch: a <- a - mean(a).

    What all samples have in common is gone, so the gradients of a batch sum to zero: the bias before it gets exactly no
    gradient, and weights get no update along an input direction on which all samples agree. In eval mode the running
    mean stands for the batch's. Unlike `BatchStandardize` it leaves the scale alone, so signals that shrink from layer
    to layer go on shrinking.

    Args:
        features: size of axis 1; `(N, features)` or `(N, features, ...)`, with means over all other axes.
        momentum: share of the new mean in the running one.

    Raises:
        ModelError: in train mode, one value per feature: it would always become 0.

    Example:
        >>> BatchCenter(1)(torch.tensor([[1.0], [3.0]])).flatten().tolist()
        [-1.0, 1.0]
    """

    running_mean: Tensor

    def __init__(self, features: int, *, momentum: float = 0.1) -> None:
        super().__init__()
        _check(features, momentum)
        self.features, self.momentum = features, momentum
        self.register_buffer("running_mean", torch.zeros(features))

    def forward(self, a: Tensor) -> Tensor:
        """Return the centered features."""
        _check_shape(a, self.features, alone=self.training)
        mean = self.running_mean
        if self.training:
            mean = a.mean([axis for axis in range(a.ndim) if axis != 1])
            with torch.no_grad():
                self.running_mean.lerp_(mean.detach().to(self.running_mean.dtype), self.momentum)
        return a - mean.to(a.dtype).reshape(-1, *[1] * (a.ndim - 2))

    def extra_repr(self) -> str:
        """Return the settings."""
        return f"{self.features}, momentum={self.momentum}"


class BatchStandardize(nn.Module):
    """Give each feature mean 0 and standard deviation 1 over the batch: a <- (a - mean(a)) / sqrt(var(a) + eps).

    The variance is the batch's own (divided by N); the running one, for eval mode, is unbiased. There is no learned
    scale or shift: this is `torch.nn.BatchNorm1d(affine=False)`, number by number, for any number of axes.

    Args:
        features: size of axis 1; `(N, features)` or `(N, features, ...)`, with statistics over all other axes.
        momentum: share of the new statistics in the running ones.
        eps: added to the variance.

    Raises:
        ModelError: in train mode, one value per feature: it would always become 0.

    Example:
        >>> BatchStandardize(1)(torch.tensor([[1.0], [3.0]])).flatten().round(decimals=3).tolist()
        [-1.0, 1.0]
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, features: int, *, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        _check(features, momentum)
        self.features, self.momentum, self.eps = features, momentum, eps
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_var", torch.ones(features))

    def forward(self, a: Tensor) -> Tensor:
        """Return the standardized features."""
        _check_shape(a, self.features, alone=self.training)
        return F.batch_norm(
            a, self.running_mean, self.running_var, training=self.training, momentum=self.momentum, eps=self.eps
        )

    def extra_repr(self) -> str:
        """Return the settings."""
        return f"{self.features}, momentum={self.momentum}, eps={self.eps}"


NORMS: Mapping[str, type[nn.Module]] = MappingProxyType(
    {"center": BatchCenter, "standardize": BatchStandardize, "layer": nn.LayerNorm, "rms": nn.RMSNorm}
)
"""Normalizations of the features of a linear layer, by name; each takes the number of features."""


def insert_norm(model: nn.Module, kind: str, *, where: str = "pre_activation") -> nn.Module:
    """What would this network be with normalizations? A copy that has one at each hidden layer, with the same weights.

    Before the activations it comes after each linear or convolutional layer but the last one, which gives the answer;
    after the activations it follows each activation module, whose features are those of the linear layer before it. The
    layer and its normalization take the layer's place as a pair, `NAME.layer` and `NAME.norm`.

    Args:
        model: a network whose layers stand in the order in which they are called; it is not changed.
        kind: "center" or "standardize" over the batch, "layer" or "rms" over the features of each sample.
        where: "pre_activation" or "post_activation".

    Raises:
        ValueError: an unknown kind or place, or "rms" for a convolution.
        ModelError: there is no hidden layer to normalize, or a layer that is used in two places.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> type(insert_norm(model, "standardize").get_submodule("0.norm")).__name__
        'BatchStandardize'
    """
    if kind not in NORMS:
        raise ValueError(f"kind must be one of {', '.join(NORMS)}, got {kind!r}")
    if where not in ("pre_activation", "post_activation"):
        raise ValueError(f"where must be pre_activation or post_activation, got {where!r}")
    new = copy.deepcopy(model)
    named = list(new.named_modules(remove_duplicate=False))
    layers = [(name, module) for name, module in named if name and isinstance(module, _HIDDEN)]
    linear = [k for k, (_, module) in enumerate(layers) if isinstance(module, _LINEAR)]
    chosen: list[tuple[str, nn.Module, nn.Module]] = []
    if where == "pre_activation":
        chosen = [(*layers[k], layers[k][1]) for k in linear[:-1]]
    else:
        for k, (name, module) in enumerate(layers):
            before = [j for j in linear if j < k]
            if isinstance(module, ACTIVATIONS) and before:
                chosen.append((name, module, layers[before[-1]][1]))
    if not chosen:
        raise ModelError("the network has no hidden layer to normalize, as modules that stand in their order")
    if where == "pre_activation" and len({id(module) for _, module, _ in chosen}) < len(chosen):
        raise ModelError("a layer is used in two places, which would share one normalization; make two layers of it")
    for name, module, source in chosen:
        norm = _norm(kind, source).train(module.training)
        parent, _, own = name.rpartition(".")
        setattr(new.get_submodule(parent), own, nn.Sequential(OrderedDict(layer=module, norm=norm)))
    return new


def _norm(kind: str, source: nn.Module) -> nn.Module:
    weight = next(source.parameters())
    if isinstance(source, nn.Linear):
        norm = NORMS[kind](source.out_features)
    else:
        channels = int(source.out_channels)  # type: ignore[arg-type]
        if kind == "rms":
            raise ValueError(
                '"rms" normalizes the features of linear layers; use "layer" for a network of convolutions'
            )
        norm = nn.GroupNorm(1, channels) if kind == "layer" else NORMS[kind](channels)
    return norm.to(weight.device, weight.dtype)


def _check(features: int, momentum: float) -> None:
    if features < 1 or not 0 <= momentum <= 1:
        raise ValueError(f"features must be >= 1 and momentum in [0, 1], got {features} and {momentum}")


def _check_shape(a: Tensor, features: int, *, alone: bool) -> None:
    if a.ndim < 2 or a.shape[1] != features:
        raise ModelError(f"the input must have shape (N, {features}, ...), got {tuple(a.shape)}")
    if alone and a.numel() == features:
        raise ModelError(
            "normalization over the batch needs at least two samples in train mode, got one; use larger batches "
            "(drop_last for the last one), or model.eval()"
        )
