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
        first: dict[str, list[Tensor]] = {}
        with evaluating(model), torch.no_grad(), self._listening(first):
            model(self.x[:2])
        missing = [name for name in layers if name not in first]
        if missing:
            raise ModelError(f"the forward pass does not call the layer {missing[0]}; name other layers")
        self.layers = tuple(first)
        self.kinds = tuple(type(modules[name.partition(" (call")[0]]).__name__ for name in self.layers)
        self._linear = tuple(layer.name for layer in linear)
        self._norms: list[Any] = [m for m in model.modules() if isinstance(getattr(m, "running_mean", None), Tensor)]
        self.biases = any(getattr(modules[name], "bias", None) is not None for name in self._linear)
        self.inputs: Tensor | None = None
        if linear:  # what the first layer is given, after any scaling inside the model
            self.inputs = per_sample_gradients(model, self.x, self.labels, self._linear[:1], loss=loss)[0].inputs
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
        with evaluating(self.model, precise=False), self._kept_statistics():
            return self._features()

    def _features(self) -> Tensor:
        """Measure with the probe's statistics in normalizations over the batch, and leave them there."""
        parts: dict[str, list[Tensor]] = {}
        with torch.no_grad(), self._own_statistics(), self._listening(parts):
            for batch in torch.split(self.x, self.batch_size):
                self.model(batch)
        return self._of_features(parts)

    @contextmanager
    def _kept_statistics(self) -> Iterator[None]:
        """Give normalizations over the batch their running statistics back: torch changes these unseen."""
        kept = [(buffer, buffer.clone()) for norm in self._norms for buffer in norm.buffers()]
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, value in kept:
                    buffer.copy_(value)

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
        if not self._norms:
            return self._both()
        with evaluating(self.model, precise=False), self._kept_statistics():
            features = self._features()
            return features, self._both()[1]

    def _both(self) -> tuple[Tensor, Tensor]:
        features: dict[str, list[Tensor]] = {}
        parts: dict[str, list[LayerCall]] = {}
        whole = zip(torch.split(self.x, self.batch_size), torch.split(self.labels, self.batch_size), strict=True)
        for batch, labels in whole:
            listening = self._listening(features)
            calls = per_sample_gradients(self.model, batch, labels, self._linear, loss=self.loss, beside=listening)
            for call in calls:
                parts.setdefault(call.name, []).append(call)
        return self._of_features(features), torch.stack([self._of_gradients(parts[n]) for n in self.gradient_layers])

    def _listening(self, parts: dict[str, list[Tensor]]) -> AbstractContextManager[None]:
        def record(call: Call, h: Tensor) -> None:
            if h.ndim < 2:
                raise ModelError(f"layer {call.layer} gives no tensor with one row per sample; leave it out of layers")
            part = reduced(h.detach(), self.reduce, call.module).flatten(1)
            # Copied at once: the next operation may overwrite the output in place.
            parts.setdefault(call.name, []).append(part.clone() if part.data_ptr() == h.data_ptr() else part)

        return watching(self.model, self._watched, record)

    def _of_features(self, parts: dict[str, list[Tensor]]) -> Tensor:
        rows = []
        for name in self.layers:
            h = torch.cat(parts[name])
            h = h if h.dtype == torch.float64 else h.float()
            rows.append(torch.stack([*self._similarities(h), h.square().mean().sqrt()]).float())
        return torch.stack(rows)

    def _of_gradients(self, calls: Sequence[LayerCall]) -> Tensor:
        g = torch.cat([call.gradients.flatten(1) for call in calls]).float()
        every, intra, _, dead = self._similarities(g)
        there = g != 0
        tiny = (there & (g.abs() < SMALLEST * len(g))).sum() / there.sum()
        size = torch.linalg.vector_norm(g, dim=1).mean()
        direction = g.new_full((3,), math.nan)
        module, inputs = calls[0].module, [call.inputs for call in calls if call.inputs is not None]
        if isinstance(module, nn.Linear) and all(h.ndim == 2 for h in inputs) and len(inputs) == len(calls):
            direction = quick_direction(module.weight.detach().float(), torch.cat(inputs).float(), g)
        return torch.cat([torch.stack([every, intra, dead, size, tiny]), direction]).float()

    def _similarities(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the mean cosines over all pairs, within and between classes, and the share of zero rows."""
        # Scaled by its largest element first: what is of size 1e-30 would vanish when squared.
        peak = h.abs().amax(1, keepdim=True)
        alive = peak > 0
        unit = h / torch.where(alive, peak, 1)
        unit = unit / torch.linalg.vector_norm(unit, dim=1, keepdim=True).clamp(min=1)
        members = self._members.to(unit) * alive
        counts, sums = members.sum(0).double(), (members.T @ unit).double()
        n = counts.sum()
        within, pairs = sums.square().sum() - n, (counts * (counts - 1)).sum()
        both = sums.sum(0).square().sum() - n
        means = [_mean(both, n * (n - 1)), _mean(within, pairs), _mean(both - within, n * (n - 1) - pairs)]
        return means[0], means[1], means[2], 1 - n / len(h)


def _mean(total: Tensor, pairs: Tensor) -> Tensor:
    return torch.where(pairs > 0, (total / pairs).clamp(-1, 1), math.nan)
