"""Do the features of different samples look alike? (arXiv:2112.00980)

Mean cosine over pairs of different samples, s = (||sum_i n_i||^2 - N) / (N (N - 1)) with n_i = h_i / ||h_i||: linear in
the number of samples, no matrix of pairs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pellucid.core import Call, DataError, ModelError, OnStep, device_of, evaluating, nearest, silent, watching

ACTIVATIONS: tuple[type[nn.Module], ...] = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish,
    nn.Softplus, nn.Hardswish, nn.Hardtanh, nn.Tanh, nn.Sigmoid,
)  # fmt: skip
LINEAR = (nn.Linear, nn.modules.conv._ConvNd)
_GROUPS = 20  # for the jackknife; samples are dealt to them class by class, as the samples are meant to be balanced
_CHUNK = 2**22  # features normalized at once

Reduce = Literal["flatten", "gap"]


@dataclass(frozen=True)
class Similarity:
    """Mean cosine between the features of different samples; NaN where no pair exists. Diversity is 1 minus it.

    Args:
        all: over all pairs.
        intra: over pairs of one class.
        inter: over pairs of different classes.
        dead_fraction: share of samples whose features are all zero; they take no part in the means.
        stderr: standard error of `all` over samples (delete-one-group jackknife).
    """

    all: float
    intra: float
    inter: float
    dead_fraction: float
    stderr: float


@dataclass(frozen=True)
class FeatureDiversity:
    """How similar the features of different samples are, layer by layer.

    Args:
        layers: names in the order of the forward pass; a module called twice has two entries.
        kinds: class of each module, such as "ReLU".
        similarity: one per layer.
        inputs: the same of the inputs themselves.
        reference: what a wide random ReLU network without biases would have at each layer, from the similarity of the
            inputs; NaN from the first layer on that is no ReLU.
        evaluations: model evaluations spent, one per sample.
        note: what the reader must be told about the choice of layers; empty if nothing.
    """

    layers: tuple[str, ...]
    kinds: tuple[str, ...]
    similarity: tuple[Similarity, ...]
    inputs: Similarity
    reference: tuple[float, ...]
    evaluations: int
    note: str = ""


def similarity(h: Tensor, labels: Tensor | None = None) -> Similarity:
    """How similar are the features of different samples?

    s = (||sum_i n_i||^2 - N) / (N (N - 1)) with n_i = h_i / ||h_i||, in O(N d); it lies between -1 / (N - 1) and 1.
    Features after a ReLU are similar by nature: compare them with `initial_similarity`, not with 0.

    Args:
        h: features `(N, ...)`, flattened per sample.
        labels: classes `(N,)` for `intra` and `inter`.

    Raises:
        DataError: no samples, labels of another length.
        ModelError: NaN or infinite features.

    Example:
        >>> round(similarity(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])).all, 6)
        0.471405
    """
    order, sorted_labels = _by_class(h, labels)
    tally = _Tally("features")
    tally.add(h.detach()[order], sorted_labels, torch.arange(len(h)))
    return tally.result(labelled=labels is not None)


def initial_similarity(depth: int, *, start: float = 0.0) -> tuple[float, ...]:
    """How similar does depth alone make features? The mean cosine after each of `depth` random ReLU layers.

    s_l = J(s_{l-1}), J(r) = (sqrt(1 - r^2) + (pi - arccos r) r) / pi: the arc-cosine kernel (Cho and Saul 2009), exact
    for infinitely wide fully connected layers with random weights of any scale and no biases.

    Args:
        depth: number of layers.
        start: cosine of the inputs, in [-1, 1].

    Example:
        >>> [round(s, 5) for s in initial_similarity(3)]
        [0.31831, 0.49373, 0.60483]
    """
    if depth < 0 or not -1 <= start <= 1:
        raise ValueError(f"depth must be >= 0 and start in [-1, 1], got {depth} and {start}")
    values, r = [], start
    for _ in range(depth):
        r = min(1.0, (math.sqrt(1 - r * r) + (math.pi - math.acos(r)) * r) / math.pi)
        values.append(r)
    return tuple(values)


def feature_diversity(
    model: nn.Module,
    x: Tensor,
    labels: Tensor | None = None,
    *,
    layers: Sequence[str] | None = None,
    reduce: Reduce = "flatten",
    batch_size: int = 256,
    on_step: OnStep = silent,
) -> FeatureDiversity:
    """Which layers give different samples nearly the same features?

    Features are the outputs of activation modules (ReLU, GELU, ...). A network whose activations are plain function
    calls has none; then the outputs of its linear and convolutional layers but the last are taken, and `note` says so.
    One forward per sample; memory grows with the width of the layers, not with the number of samples or classes.

    Args:
        model: a classifier; it is run in eval mode on its own device and given back as it was.
        x: inputs `(N, ...)`, at least two samples.
        labels: classes `(N,)` for the similarity within and between classes.
        layers: names as in `model.named_modules()` instead of the activations.
        reduce: "flatten" compares whole feature maps, "gap" their means over space.
        batch_size: samples per forward.
        on_step: progress in samples.

    Raises:
        ValueError: a layer name is unknown.
        ModelError: no layer to look at, a layer was not called, or features are NaN or infinite.
        DataError: fewer than two samples, or labels of another length.
    """
    if len(x) < 2:
        raise DataError(f"similarity needs at least two samples, got {len(x)}")
    chosen, note = _choose(model, layers)
    order, sorted_labels = _by_class(x, labels)
    device = device_of(model)
    recorder = _Recorder(chosen, reduce)
    inputs = _Tally("inputs")
    done = 0
    with evaluating(model, precise=False), torch.no_grad(), watching(model, tuple(chosen), recorder):
        for rows in torch.split(torch.arange(len(x)), batch_size):
            batch = x[order[rows]].to(device)
            groups = sorted_labels[rows]
            inputs.add(batch, groups, rows)
            recorder.start(groups, rows)
            output = model(batch)
            recorder.forget(output)
            done += len(rows)
            on_step(done, len(x))
    names, kinds, tallies = recorder.found(fallback=layers is None and bool(note))
    start = inputs.result(labelled=labels is not None)
    return FeatureDiversity(
        layers=names,
        kinds=kinds,
        similarity=tuple(tally.result(labelled=labels is not None) for tally in tallies),
        inputs=start,
        reference=_reference(kinds, start.all),
        evaluations=len(x),
        note=note,
    )


def watchable(model: nn.Module) -> bool:
    """Does the model have layers whose features can be compared: activations, or else linear or convolutional ones?

    Example:
        >>> watchable(nn.Sequential(nn.Linear(2, 2), nn.ReLU())), watchable(nn.Identity())
        (True, False)
    """
    return any(isinstance(module, ACTIVATIONS + LINEAR) for name, module in model.named_modules() if name)


def _reference(kinds: Sequence[str], start: float) -> tuple[float, ...]:
    relus = next((i for i, kind in enumerate(kinds) if kind != "ReLU"), len(kinds))
    if not math.isfinite(start):
        return (math.nan,) * len(kinds)
    return initial_similarity(relus, start=max(-1.0, min(1.0, start))) + (math.nan,) * (len(kinds) - relus)


def _choose(model: nn.Module, layers: Sequence[str] | None) -> tuple[dict[str, nn.Module], str]:
    """Return the modules to look at by name, and a note on the choice."""
    modules = {name: module for name, module in model.named_modules() if name}
    if layers is not None:
        for name in layers:
            if name not in modules:
                hint = nearest(name, modules) or "see model.named_modules()"
                raise ValueError(f"the model has no layer {name!r}; {hint.removesuffix(' ')}")
        return {name: modules[name] for name in layers}, ""
    chosen = {name: module for name, module in modules.items() if isinstance(module, ACTIVATIONS)}
    if chosen:
        return chosen, ""
    chosen = {name: module for name, module in modules.items() if isinstance(module, LINEAR)}
    if chosen:
        return chosen, "The network has no activation modules, so features are the outputs of its linear layers."
    raise ModelError("the model has no activation, linear or convolutional module to look at; name the layers")


def _by_class(x: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return a stable order of the samples by class and the labels in it: then one class at a time is open."""
    if x.ndim < 2 or len(x) == 0:
        raise DataError(f"features must have shape (N, ...) with at least one sample, got {tuple(x.shape)}")
    if labels is None:
        return torch.arange(len(x)), torch.zeros(len(x), dtype=torch.int64)
    if labels.shape != (len(x),):
        raise DataError(f"labels must have shape ({len(x)},), one per sample, got {tuple(labels.shape)}")
    order = labels.detach().cpu().argsort(stable=True)
    return order, labels.detach().cpu()[order]


class _Tally:
    """Sums of unit features, fed in batches sorted by class; keeps one vector per jackknife group and one class."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.sums: Tensor | None = None  # (groups, d)
        self.sizes = torch.zeros(_GROUPS, dtype=torch.float64)
        self.seen = 0
        self.within = 0.0  # sum over finished classes of ||class sum||^2 - count
        self.pairs = 0.0
        self.label: int | None = None
        self.open_sum: Tensor | None = None
        self.open_count = 0.0

    def add(self, h: Tensor, labels: Tensor, rows: Tensor) -> None:
        """Take in features `(b, ...)` with their classes and row numbers."""
        size = max(1, _CHUNK // max(1, h[:1].numel()))
        for part in torch.split(torch.arange(len(h)), size):
            self._add(h[part], labels[part], rows[part])

    def _add(self, h: Tensor, labels: Tensor, rows: Tensor) -> None:
        unit, alive = self._unit(h)
        if self.sums is None:
            self.sums = unit.new_zeros(_GROUPS, unit.shape[1])
        group = (rows % _GROUPS).to(unit.device)
        self.sums.index_add_(0, group, unit)
        self.sizes += torch.bincount(group[alive], minlength=_GROUPS).cpu()
        self.seen += len(h)
        names, place = torch.unique_consecutive(labels, return_inverse=True)
        place = place.to(unit.device)
        sums = unit.new_zeros(len(names), unit.shape[1]).index_add_(0, place, unit)
        counts = torch.bincount(place[alive], minlength=len(names)).cpu()
        for number, label in enumerate(names.tolist()):
            if label != self.label:
                self._close()
                self.label = label
            self.open_sum = sums[number] if self.open_sum is None else self.open_sum + sums[number]
            self.open_count += float(counts[number])

    def _unit(self, h: Tensor) -> tuple[Tensor, Tensor]:
        h = h.flatten(1)
        h = h if h.dtype == torch.float64 else h.float()
        # Scaled by its largest element first: features of size 1e-30 would vanish when squared.
        peak = h.abs().amax(1, keepdim=True) if h.shape[1] else h.new_zeros(len(h), 1)
        if not bool(peak.isfinite().all()):
            raise ModelError(f"{self.name} hold NaN or infinity; repair the weights or the input scaling")
        alive = peak[:, 0] > 0
        h = (h / torch.where(peak > 0, peak, 1)).double()
        return h / torch.linalg.vector_norm(h, dim=1, keepdim=True).clamp(min=1), alive

    def _close(self) -> None:
        if self.open_sum is not None:
            self.within += float(self.open_sum.square().sum()) - self.open_count
            self.pairs += self.open_count * (self.open_count - 1)
        self.open_sum, self.open_count = None, 0.0

    def result(self, *, labelled: bool) -> Similarity:
        """Return the means over pairs; NaN where there are none."""
        self._close()
        assert self.sums is not None
        n, total = float(self.sizes.sum()), self.sums.sum(0)
        both = float(total.square().sum()) - n
        return Similarity(
            all=_mean(both, n * (n - 1)),
            intra=_mean(self.within, self.pairs) if labelled else math.nan,
            inter=_mean(both - self.within, n * (n - 1) - self.pairs) if labelled else math.nan,
            dead_fraction=1 - n / self.seen,
            stderr=self._stderr(total, n),
        )

    def _stderr(self, total: Tensor, n: float) -> float:
        """Delete-one-group jackknife: how much does the mean move when a twentieth of the samples is left out?"""
        assert self.sums is not None
        filled = self.sizes > 0
        groups = int(filled.sum())
        if groups < 3:
            return math.nan
        left = n - self.sizes[filled]
        without = (total - self.sums[filled.to(self.sums.device)]).square().sum(1).cpu()
        values = (without - left) / (left * (left - 1))
        return float(((groups - 1) / groups * (values - values.mean()).square().sum()).sqrt())


def _mean(total: float, pairs: float) -> float:
    # The bounds hold on paper; rounding may pass them by a hair.
    return min(1.0, max(-1.0, total / pairs)) if pairs > 0 else math.nan


def _gives(value: Any, output: Any) -> bool:
    """Whether `value` is the logits that `output` holds, or the one number of each sample that it reads as two."""
    if value is output or not isinstance(value, Tensor) or not isinstance(output, Tensor):
        return value is output
    # The one number by its form: it may be a logit z, read as (0, z), or a probability, read as logs.
    return output.shape[1:] == (2,) and value.shape == (len(output), 1)


class _Recorder:
    """Feeds the outputs of some modules to tallies, one per module and call, in the order of the forward pass."""

    def __init__(self, modules: dict[str, nn.Module], reduce: Reduce) -> None:
        self.modules, self.reduce = modules, reduce
        self.tallies: dict[tuple[str, int], _Tally] = {}
        self.outputs: dict[tuple[str, int], Tensor] = {}
        self.last: tuple[str, int] | None = None
        self.labels = self.rows = torch.empty(0, dtype=torch.int64)

    def start(self, labels: Tensor, rows: Tensor) -> None:
        """Say which samples the next forward is about."""
        self.labels, self.rows = labels, rows

    def forget(self, output: Any) -> None:
        """Note which recorded call gave the model's own output: logits are no features."""
        last = next(reversed(self.outputs), None)
        self.last = last if last is not None and _gives(self.outputs[last], output) else None
        self.outputs = {}

    def __call__(self, call: Call, h: Tensor) -> None:
        """Take in one output."""
        if h.ndim < 2 or len(h) != len(self.rows):
            raise ModelError(f"layer {call.layer} gives no tensor with one row per sample; leave it out of `layers`")
        key = (call.layer, call.number)
        part = h.flatten(2).mean(2) if self.reduce == "gap" and h.ndim > 2 else h
        # At once, not later: the next operation may overwrite the output in place.
        tally = self.tallies.setdefault(key, _Tally(f"the features of layer {call.layer}"))
        tally.add(part, self.labels, self.rows)
        self.outputs[key] = h

    def found(self, *, fallback: bool) -> tuple[tuple[str, ...], tuple[str, ...], tuple[_Tally, ...]]:
        """Return names, kinds and tallies of the recorded calls."""
        missing = [name for name in self.modules if (name, 1) not in self.tallies]
        if len(missing) == len(self.modules):
            raise ModelError(f"the forward pass calls none of the layers {', '.join(missing[:5])}; name other layers")
        keys = [key for key in self.tallies if not (fallback and key == self.last)]
        if not keys:
            raise ModelError("the model goes from its inputs to its logits in one layer; it has no features between")
        names = tuple(name if call == 1 else f"{name} (call {call})" for name, call in keys)
        kinds = tuple(type(self.modules[name]).__name__ for name, _ in keys)
        return names, kinds, tuple(self.tallies[key] for key in keys)
