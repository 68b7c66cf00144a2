"""The diversity of features and gradients on one probe set, again and again during a training, without waiting."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal, final

import torch
from torch import Tensor, nn

from pellucid.core import Call, DataError, ModelError, called_layers, device_of, evaluating, reduced, watching

from ._common_direction import LayerCall, Loss, cross_entropy, per_sample_gradients, quick_direction
from ._diversity import ACTIVATIONS, LINEAR

FEATURE_COLUMNS = ("similarity", "intra", "inter", "dead", "size")
GRADIENT_COLUMNS = ("similarity", "intra", "dead", "size", "tiny", "strength", "dominance", "self_enhancement")
SMALLEST = 2.0**-24  # the smallest positive number of fp16


@final
class DiversityMeter:
    """Measures how alike the features and the gradients of a fixed set of samples are, layer by layer.

    Numbers stay on the model's device, so that a training waits for none of them: read them with `.tolist()`.

    Args:
        model: a classifier; each measurement runs it in eval mode and gives it back as it was. Normalizations over the
            batch use the probe's own statistics, which stay fixed while gradients are taken: samples do not mix.
        x: inputs `(N, ...)`, a few hundred, balanced over the classes.
        labels: classes `(N,)`.
        layers: names of the layers whose outputs are the features; the activation modules if not given, or the linear
            and convolutional ones but the last where there are none.
        reduce: "flatten" compares whole feature maps, "mean" their means over places.
        loss: one loss per sample from logits and labels; its gradients are taken by the outputs of all linear and
            convolutional layers.
        batch_size: samples per forward.

    Raises:
        DataError: fewer than two samples, or labels that do not fit.
        ModelError: the model has no such layers.
        ValueError: an unknown layer.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> DiversityMeter(model, torch.rand(20, 4), torch.arange(20) % 2).features().shape
        torch.Size([1, 5])
    """

    def __init__(
        self,
        model: nn.Module,
        x: Tensor,
        labels: Tensor,
        *,
        layers: Sequence[str] | None = None,
        reduce: Literal["flatten", "mean"] = "flatten",
        loss: Loss = cross_entropy,
        batch_size: int = 256,
    ) -> None:
        if len(x) < 2 or labels.shape != (len(x),):
            raise DataError(
                f"the probe needs two samples or more with one label each, got {len(x)} samples and labels of shape "
                f"{tuple(labels.shape)}"
            )
        device = device_of(model)
        self.model, self.loss, self.batch_size = model, loss, batch_size
        self.x, self.labels = x.to(device), labels.to(device)
        places = torch.unique(self.labels, return_inverse=True)[1]
        self._members = nn.functional.one_hot(places).float()  # (N, classes)
        called = called_layers(model, x)
        modules = dict(model.named_modules())
        linear = [layer for layer in called if isinstance(modules[layer.name], LINEAR)]
        if layers is None:
            active = [layer.name for layer in called if isinstance(modules[layer.name], ACTIVATIONS)]
            layers = active or [layer.name for layer in linear[:-1]]
        if not layers:
            raise ModelError("the model has no activation module and no hidden linear layer; name the layers to watch")
        self._watched, self.reduce = tuple(layers), reduce
        first: dict[str, _Tally] = {}
        with evaluating(model), torch.no_grad(), self._listening(first, self._members[:2]):
            model(self.x[:2])
        missing = [name for name in layers if name not in first]
        if missing:
            raise ModelError(f"the forward pass does not call the layer {missing[0]}; name other layers")
        self.layers = tuple(first)
        self.kinds = tuple(type(modules[name.partition(" (call")[0]]).__name__ for name in self.layers)
        self._linear = tuple(layer.name for layer in linear)
        # One that speaks to other processes keeps its running statistics: they are not called.
        self._norms: list[Any] = [
            module
            for module in model.modules()
            if isinstance(getattr(module, "running_mean", None), Tensor) and not isinstance(module, nn.SyncBatchNorm)
        ]
        self.biases = any(getattr(modules[name], "bias", None) is not None for name in self._linear)
        self.inputs: Tensor | None = None
        if linear:  # what the first layer is given, after any scaling inside the model
            self.inputs = _inputs(model, modules[linear[0].name], self.x)
        self.gradient_layers = tuple(
            layer.name if call == 1 else f"{layer.name} (call {call})"
            for layer in linear
            for call in range(1, layer.calls + 1)
        )

    def features(self) -> Tensor:
        """Measure the features: `(layers, 5)`.

        Columns: mean cosine over all pairs of samples, over pairs of one class, over pairs of different classes, the
        share of samples whose features are all zero, and the features' root mean square.
        """
        with evaluating(self.model, precise=False):
            return self._features()

    def _features(self) -> Tensor:
        """Measure with the probe's statistics in normalizations over the batch, and leave them there."""
        tallies: dict[str, _Tally] = {}
        with torch.no_grad(), self._own_statistics():
            for x, _, members in self._batches():
                with self._listening(tallies, members):
                    self.model(x)
        return self._of_features(tallies)

    def _batches(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        return zip(*(torch.split(part, self.batch_size) for part in (self.x, self.labels, self._members)), strict=True)

    @contextmanager
    def _own_statistics(self) -> Iterator[None]:
        """Let normalizations over the batch use the batch, and take its statistics for their running ones."""
        before = [(norm, norm.training, norm.momentum) for norm in self._norms]
        try:
            for norm in self._norms:
                norm.training, norm.momentum = True, 1.0
            yield
        finally:
            for norm, training, momentum in before:
                norm.training, norm.momentum = training, momentum

    def both(self) -> tuple[Tensor, Tensor]:
        """Measure features and gradients in the same forward passes: `(layers, 5)` and `(gradient_layers, 8)`.

        Gradients are each sample's, by the outputs of linear and convolutional layers. Their columns: mean cosine over
        all pairs and over pairs of one class, the share of samples whose gradients are all zero, their mean length, the
        share of non-zero entries that fp16 would round to zero in a mean over the probe, and of layers with one row of
        features per sample the mean length of an update along the common direction, dominance and self-enhancement (see
        `common_direction`). NaN where a number does not exist.
        """
        tallies: dict[str, _Tally] = {}
        parts: dict[str, list[LayerCall]] = {}
        with evaluating(self.model, precise=False):
            features = self._features() if self._norms else None
            for x, labels, members in self._batches():
                beside = None if self._norms else self._listening(tallies, members)
                for call in per_sample_gradients(self.model, x, labels, self._linear, loss=self.loss, beside=beside):
                    parts.setdefault(call.name, []).append(call)
        gradients = torch.stack([self._of_gradients(parts[name]) for name in self.gradient_layers])
        return self._of_features(tallies) if features is None else features, gradients

    def _listening(self, tallies: dict[str, _Tally], members: Tensor) -> AbstractContextManager[None]:
        def record(call: Call, h: Tensor) -> None:
            if h.ndim < 2 or len(h) != len(members):
                raise ModelError(f"layer {call.layer} gives no tensor with one row per sample; leave it out of layers")
            # At once: nothing is copied, and the next operation may overwrite the output in place.
            part = reduced(h.detach(), self.reduce, call.module).flatten(1)
            tallies.setdefault(call.name, _Tally()).add(part, members)

        return watching(self.model, self._watched, record)

    def _of_features(self, tallies: dict[str, _Tally]) -> Tensor:
        return torch.stack([tallies[name].result() for name in self.layers])

    def _of_gradients(self, calls: Sequence[LayerCall]) -> Tensor:
        g = _joined([call.gradients.flatten(1) for call in calls]).float()
        tally = _Tally()
        tally.add(g, self._members)
        every, intra, _, dead, _ = tally.result()
        there = g != 0
        tiny = (there & (g.abs() < SMALLEST * len(g))).sum() / there.sum()
        size = torch.linalg.vector_norm(g, dim=1).mean()
        direction = g.new_full((3,), math.nan)
        module, inputs = calls[0].module, [call.inputs for call in calls if call.inputs is not None]
        if isinstance(module, nn.Linear) and all(h.ndim == 2 for h in inputs) and len(inputs) == len(calls):
            direction = quick_direction(module.weight.detach().float(), _joined(inputs).float(), g)
        return torch.cat([torch.stack([every, intra, dead, size, tiny]), direction]).float()


class _Tally:
    """Sums of unit features by class, fed in batches; what is of size 1e-30 counts like any other."""

    def __init__(self) -> None:
        self.sums: Tensor | float = 0.0  # (classes, d)
        self.counts: Tensor | float = 0.0  # (classes,) of samples that are not all zero
        self.squares: Tensor | float = 0.0
        self.rows = self.entries = 0

    def add(self, h: Tensor, members: Tensor) -> None:
        """Take in features `(b, d)` of samples whose classes are given one-hot `(b, classes)`."""
        h = h if h.dtype == torch.float64 else h.float()
        lengths = torch.linalg.vector_norm(h, dim=1, dtype=torch.float64)
        dead = lengths < torch.finfo(h.dtype).tiny  # not of NaN
        # Lengths go to the few classes, not to the many features.
        weights = members * torch.where(dead, 0, 1 / lengths)[:, None]
        self.sums = self.sums + (weights.to(h.dtype).T @ h).double()
        self.counts = self.counts + (members * ~dead[:, None]).sum(0).double()
        self.squares = self.squares + lengths.square().sum()
        self.rows += len(h)
        self.entries += h.numel()

    def result(self) -> Tensor:
        """Return the mean cosines over all pairs, within and between classes, the share of zero rows and the size."""
        assert isinstance(self.sums, Tensor)
        assert isinstance(self.counts, Tensor)
        assert isinstance(self.squares, Tensor)
        n, pairs = self.counts.sum(), (self.counts * (self.counts - 1)).sum()
        within, both = self.sums.square().sum() - n, self.sums.sum(0).square().sum() - n
        means = [_mean(both, n * (n - 1)), _mean(within, pairs), _mean(both - within, n * (n - 1) - pairs)]
        return torch.stack([*means, 1 - n / self.rows, (self.squares / self.entries).sqrt()]).float()


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _inputs(model: nn.Module, module: nn.Module, x: Tensor) -> Tensor | None:
    """Return what a layer is given by its first call in the forward pass of x; None if that is no one tensor."""
    given: list[Tensor | None] = []

    def keep(module: nn.Module, arguments: Any) -> None:
        given.append(arguments[0].detach().clone() if arguments and isinstance(arguments[0], Tensor) else None)

    handle = module.register_forward_pre_hook(keep)
    try:
        with evaluating(model, precise=False), torch.no_grad():
            model(x)
    finally:
        handle.remove()
    return given[0]


def _mean(total: Tensor, pairs: Tensor) -> Tensor:
    return torch.where(pairs > 0, (total / pairs).clamp(-1, 1), math.nan)
