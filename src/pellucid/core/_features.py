"""What a network computes inside: the outputs of its layers, and the input of its last linear classifier."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ._contracts import OnStep, silent
from ._errors import DataError, ModelError, nearest
from ._modes import device_of, evaluating

PENULTIMATE = "penultimate"
"""Name of the input of the last linear classifier, in place of a layer's own name."""

Reduce = Literal["flatten", "mean", "tokens"]
"""What is kept of a layer's output: one row per sample, its mean over places, or one row per place."""

Record = Callable[["Call", Tensor], None]
"""Is given each output of a watched layer as soon as it exists."""

_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)  # never called
_CLASSIFIERS = (nn.Linear, nn.Conv1d, nn.Conv2d)
_TRIED = 8  # samples on which the classifier is looked for
_FARTHEST = 80.0  # below the largest logit; beyond it a probability in float32 has no logarithm left


@dataclass(frozen=True)
class Call:
    """One call of a layer in a forward pass.

    Args:
        layer: name as in `model.named_modules()`.
        number: 1 for the first call of the layer in this forward pass; modules that are shared have more.
        module: the layer.
    """

    layer: str
    number: int
    module: nn.Module

    @property
    def name(self) -> str:
        """What to call it: the layer's name, with the number from the second call on."""
        return self.layer if self.number == 1 else f"{self.layer} (call {self.number})"


@dataclass(frozen=True)
class Layer:
    """A layer that a forward pass has called.

    Args:
        name: as in `model.named_modules()`.
        kind: its class, such as "ReLU".
        shape: of its output for one sample.
        calls: how often a forward pass calls it.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    calls: int


@dataclass(frozen=True)
class Classifier:
    """The last linear layer of a network: logits are `weight @ h + bias`, up to a positive factor.

    Args:
        layer: its name in `model.named_modules()`.
        weight: `(K, d)`, on the model's device; of a layer with one logit z the rows are -w / 2 and w / 2.
        bias: `(K,)`, or None.
        fixed: whether the weight was set in advance and not learned, as in a simplex ETF head.
    """

    layer: str
    weight: Float[Tensor, "k d"]
    bias: Float[Tensor, " k"] | None
    fixed: bool = False


@dataclass(frozen=True)
class Seen:
    """One batch as a network sees it.

    Args:
        output: what the model answers.
        features: one tensor per watched layer, a layer called twice has two; keys as in `Call.name`.
    """

    output: Any
    features: Mapping[str, Tensor]


def layers(model: nn.Module) -> tuple[str, ...]:
    """Which layers of a network can be watched? The names of all modules inside it that can be called.

    Modules of TorchScript are left out, since they call no hooks.

    Example:
        >>> layers(nn.Sequential(nn.Linear(2, 3), nn.ReLU()))
        ('0', '1')
    """
    return tuple(name for name, _ in _watchable(model))


def called_layers(model: nn.Module, x: Tensor) -> tuple[Layer, ...]:
    """Which layers does a forward pass call, in which order, and what is the shape of their outputs?

    Layers whose output is no floating point tensor with one row per sample are left out.

    Args:
        model: any network; it is run in eval mode and given back as it was.
        x: inputs `(N, ...)`; the first two are used.

    Example:
        >>> called_layers(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), torch.zeros(1, 2))[1]
        Layer(name='1', kind='ReLU', shape=(3,), calls=1)
    """
    x = x[:2].to(device_of(model))
    found: dict[str, Layer] = {}

    def record(call: Call, h: Tensor) -> None:
        if h.is_floating_point() and h.ndim > 1 and len(h) == len(x):
            kind, shape = type(call.module).__name__, tuple(h.shape[1:])
            found[call.layer] = Layer(call.layer, kind, shape, call.number)

    with evaluating(model), torch.no_grad(), watching(model, layers(model), record):
        model(x)
    return tuple(found.values())


@contextmanager
def watching(model: nn.Module, names: Sequence[str], record: Record) -> Iterator[None]:
    """Give `record` the outputs of some layers inside the block, in the mode the model is in; no hook stays.

    Of a tuple or an output of Hugging Face the first tensor counts. What is given is the tensor itself, with its graph:
    copy what you keep, since the next layer may overwrite it. Calls are numbered anew in each forward pass of `model`.

    Args:
        model: any network; its mode and its random state are left alone.
        names: as `layers` gives them.
        record: called at once, in the order of the forward pass.

    Raises:
        ValueError: the model has no such layer.
    """
    modules = _named(model, names)
    counts: dict[str, int] = {}

    def start(module: nn.Module, arguments: Any) -> None:
        counts.clear()

    def listener(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: Any, output: Any) -> None:
            h = first_tensor(output)
            if h is None:
                raise ModelError(f"layer {name} gives {type(output).__name__} and no tensor; leave it out")
            counts[name] = counts.get(name, 0) + 1
            record(Call(name, counts[name], module), h)

        return hook

    handles: list[Any] = []
    try:
        handles.append(model.register_forward_pre_hook(start))
        handles += [module.register_forward_hook(listener(name)) for name, module in modules.items()]
        yield
    finally:
        for handle in handles:
            handle.remove()


@final
class FeatureReader:
    """Reads features of a network batch by batch.

    Each call runs the model in eval mode, without gradients, on its own device, and gives it back as it was: mode,
    hooks, buffers and random state.

    Args:
        model: any network.
        layers: one name or several, as `layers` gives them, or "penultimate" for the input of the last linear
            classifier (of a simplex ETF head: the features it normalizes).
        reduce: "flatten" for `(b, d)`, "mean" for the mean over places `(b, c)`, "tokens" for `(b, places, c)`; None
            leaves outputs as they are. Channels are the second axis of `(b, c, h, w)` and the last of `(b, tokens, c)`;
            after `nn.Linear` and `nn.LayerNorm` the last, after layers named `...1d` the second.
        example: a few inputs `(n, ...)`, needed for "penultimate" alone.

    Raises:
        ValueError: the model has no such layer.
        ModelError: there is no linear classifier.

    Example:
        >>> read = FeatureReader(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), "1")
        >>> read(torch.zeros(4, 2)).features["1"].shape
        torch.Size([4, 3])
    """

    def __init__(
        self,
        model: nn.Module,
        layers: str | Sequence[str] = PENULTIMATE,
        *,
        reduce: Reduce | None = None,
        example: Tensor | None = None,
    ) -> None:
        self.model, self.reduce = model, reduce
        self.names = (layers,) if isinstance(layers, str) else tuple(layers)
        if reduce not in (None, "flatten", "mean", "tokens"):
            raise ValueError(f"reduce must be flatten, mean, tokens or None, got {reduce!r}")
        self.place: _Place | None = None
        if PENULTIMATE in self.names:
            if example is None:
                raise ValueError("give a few inputs as example: only a forward pass tells which layer is the last")
            self.place = _find(model, example)
            if self.place is None:
                raise ModelError("the model's logits come from no linear layer that can be watched; name a layer")
        self._plain = tuple(name for name in self.names if name != PENULTIMATE)
        _named(model, self._plain)

    @property
    def classifier(self) -> Classifier | None:
        """The last linear classifier, where "penultimate" is read."""
        return None if self.place is None else self.place.classifier

    def __call__(self, x: Tensor) -> Seen:
        """Return the model's answer to a batch `(b, ...)` and the features, on the model's device.

        Raises:
            ModelError: a layer is not called, or gives no tensor with one row per sample.
        """
        calls: dict[str, list[Tensor]] = {name: [] for name in self._plain}
        device = device_of(self.model)

        def record(call: Call, h: Tensor) -> None:
            if h.ndim < 2:
                raise ModelError(f"layer {call.layer} gives no tensor with one row per sample; leave it out of layers")
            # Copied at once: the next operation may overwrite the output in place.
            part = reduced(h, self.reduce, call.module)
            calls[call.layer].append(part.clone() if part.data_ptr() == h.data_ptr() else part)

        with (
            evaluating(self.model),
            torch.no_grad(),
            watching(self.model, self._plain, record),
            _listening(self.place) as heard,
        ):
            output = self.model(x.to(device))
        found: dict[str, Tensor] = {}
        for name, parts in calls.items():
            if not parts:
                raise ModelError(f"the forward pass does not call the layer {name}; name other layers")
            for number, h in enumerate(_whole(parts, len(x)), start=1):
                if len(h) != len(x):
                    raise ModelError(f"layer {name} gives no tensor with one row per sample; leave it out of layers")
                found[Call(name, number, self.model).name] = h
        if self.place is not None:
            found[PENULTIMATE] = _of_place(self.place, heard, first_tensor(output), len(x))
        return Seen(output, found)

    def batches(self, x: Tensor, *, batch_size: int = 256, on_step: OnStep = silent) -> Iterator[tuple[Tensor, Seen]]:
        """Read inputs `(N, ...)` in batches, as pairs of row numbers and what was seen; nothing is kept.

        Between two batches the model is as it was, also where the iteration is given up.
        """
        if len(x) == 0:
            raise DataError("features need at least one sample, got none")
        done = 0
        for rows in torch.split(torch.arange(len(x)), batch_size):
            seen = self(x[rows])
            done += len(rows)
            on_step(done, len(x))
            yield rows, seen


def features(
    model: nn.Module,
    x: Tensor,
    layers: str | Sequence[str] = PENULTIMATE,
    *,
    reduce: Reduce | None = None,
    batch_size: int = 256,
    on_step: OnStep = silent,
) -> dict[str, Tensor]:
    """What do some layers make of these inputs? Their outputs `(N, ...)` by name, gathered on the CPU.

    For more than fits into memory, read batch by batch with `FeatureReader`.

    Args:
        model: any network; it is run in eval mode without gradients and given back as it was.
        x: inputs `(N, ...)`.
        layers, reduce: as in `FeatureReader`.
        batch_size: samples per forward.
        on_step: progress in samples.

    Raises:
        ValueError: the model has no such layer.
        ModelError: a layer is not called, or there is no linear classifier.
        DataError: no inputs.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> h = features(model, torch.zeros(4, 2))["penultimate"]
        >>> h.shape
        torch.Size([4, 3])
    """
    read = FeatureReader(model, layers, reduce=reduce, example=x[:_TRIED])
    parts: dict[str, list[Tensor]] = {}
    for _, seen in read.batches(x, batch_size=batch_size, on_step=on_step):
        for name, h in seen.features.items():
            parts.setdefault(name, []).append(h.cpu())
    return {name: torch.cat(part) for name, part in parts.items()}


def last_linear(model: nn.Module, x: Tensor) -> Classifier | None:
    """Which linear layer gives the logits? None where there is none that can be watched.

    It is the last linear layer, 1 x 1 convolution or fixed head (a module with `prototypes` `(d, K)` and `features`)
    whose output equals the logits up to a positive factor and one shift per sample: so softmax, temperatures and one
    logit read as two are seen through.

    Args:
        model: a classifier; it is run in eval mode and given back as it was.
        x: inputs `(N, ...)`; the first eight are used.

    Example:
        >>> last_linear(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)), torch.rand(4, 2)).layer
        '2'
    """
    place = _find(model, x)
    return None if place is None else place.classifier


def has_linear(model: nn.Module) -> bool:
    """Whether a network has a layer that could be its last linear classifier, as `last_linear` looks for it.

    Example:
        >>> has_linear(nn.Linear(3, 2)), has_linear(nn.ReLU())
        (True, False)
    """
    if isinstance(model, torch.jit.ScriptModule):
        return False
    return _is_classifier(model) or any(_is_classifier(module) for _, module in _watchable(model))


def reduced(h: Tensor, reduce: Reduce | None, module: nn.Module | None = None) -> Tensor:
    """Return a layer's output `(b, ...)` reduced as `FeatureReader` says.

    Example:
        >>> reduced(torch.zeros(2, 8, 4, 4), "tokens").shape
        torch.Size([2, 16, 8])
    """
    if reduce is None:
        return h
    if reduce == "flatten" or h.ndim == 2:
        h = h.flatten(1)
        return h[:, None] if reduce == "tokens" else h
    tokens = h.flatten(1, -2) if _channels_last(h, module) else h.flatten(2).transpose(1, 2)
    return tokens if reduce == "tokens" else tokens.mean(1)


def first_tensor(output: Any) -> Tensor | None:
    """Return the tensor that counts in a module's output: itself, or the first of a tuple, list or mapping."""
    if isinstance(output, Mapping):
        output = tuple(output.values())
    if isinstance(output, (tuple, list)):
        return next((part for part in output if isinstance(part, Tensor)), None)
    return output if isinstance(output, Tensor) else None


def _whole(parts: list[Tensor], count: int) -> list[Tensor]:
    """Join the calls of a model that takes its batch apart, such as to save memory; leave others as they are."""
    apart = len(parts) > 1 and any(len(part) != count for part in parts) and sum(map(len, parts)) == count
    return [torch.cat(parts)] if apart else parts


def _channels_last(h: Tensor, module: nn.Module | None) -> bool:
    if isinstance(module, (nn.Linear, nn.LayerNorm)):
        return True
    return h.ndim == 3 and not type(module).__name__.endswith("1d")


def _watchable(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    if isinstance(model, torch.jit.ScriptModule):
        return
    for name, module in model.named_modules():
        if name and not isinstance(module, (*_CONTAINERS, torch.jit.ScriptModule)):
            yield name, module


def _named(model: nn.Module, names: Sequence[str]) -> dict[str, nn.Module]:
    known = dict(_watchable(model))
    for name in names:
        if name not in known:
            hint = nearest(name, known) or "see core.layers(model)"
            raise ValueError(f"the model has no layer {name!r}; {hint.removesuffix(' ')}")
    return {name: known[name] for name in names}


# -- the last linear classifier -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Place:
    """Which call of which module gives the logits."""

    module: nn.Module
    number: int
    classifier: Classifier


def _is_fixed(module: nn.Module) -> bool:
    prototypes = getattr(module, "prototypes", None)
    return isinstance(prototypes, Tensor) and prototypes.ndim == 2 and callable(getattr(module, "features", None))


def _is_classifier(module: nn.Module) -> bool:
    if _is_fixed(module):
        return True
    weight = getattr(module, "weight", None)
    if not isinstance(module, _CLASSIFIERS) or not isinstance(weight, Tensor):
        return False
    return getattr(module, "groups", 1) == 1 and all(size == 1 for size in weight.shape[2:])


def _find(model: nn.Module, x: Tensor) -> _Place | None:
    """Run the model on a few samples and look from the last call back for the one that gives the logits."""
    if isinstance(model, torch.jit.ScriptModule):
        return None
    candidates = [(n, m) for n, m in (("", model), *_watchable(model)) if _is_classifier(m)]
    heard: dict[str, list[Tensor]] = {}
    x = x[:_TRIED].to(device_of(model))

    def listener(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                heard[name] = [*heard.pop(name, []), output.detach().clone()]  # the last called comes last

        return hook

    handles: list[Any] = []
    try:
        handles += [module.register_forward_hook(listener(name)) for name, module in candidates]
        with evaluating(model), torch.no_grad():
            logits = first_tensor(model(x))
    finally:
        for handle in handles:
            handle.remove()
    if logits is None or logits.ndim != 2:
        return None
    for name in reversed(heard):
        module, calls = dict(candidates)[name], _whole(heard[name], len(x))
        for number in range(len(calls), 0, -1):
            if _gives(calls[number - 1], logits, module):
                return _Place(module, number, _read(module, name, logits.shape[1]))
    return None


def _read(module: Any, name: str, classes: int) -> Classifier:
    if _is_fixed(module):
        return Classifier(name, module.prototypes.detach().T, None, fixed=True)
    weight = module.weight.detach().flatten(1)
    bias = None if module.bias is None else module.bias.detach()
    if len(weight) == 1 and classes == 2:
        weight = torch.cat([-weight / 2, weight / 2])
        bias = None if bias is None else torch.cat([-bias / 2, bias / 2])
    return Classifier(name, weight, bias)


def _gives(z: Tensor, logits: Tensor, module: nn.Module) -> bool:
    if len(z) != len(logits):
        return False
    z = _rows(z, module)
    if z.ndim == 3:
        z = _picked(z, _two(z, logits), logits)
    return _follows(_two(z, logits), logits)


def _two(z: Tensor, logits: Tensor) -> Tensor:
    """Read one logit as two where the model does."""
    return torch.cat([torch.zeros_like(z), z], -1) if z.shape[-1] == 1 and logits.shape[1] == 2 else z


def _rows(h: Tensor, module: nn.Module) -> Tensor:
    """Return the input or output of a classifier as `(b, d)`, or `(b, places, d)` where it answers at many places."""
    if h.ndim > 2:
        h = h.flatten(2).transpose(1, 2) if isinstance(module, (nn.Conv1d, nn.Conv2d)) else h.flatten(1, -2)
        h = h[:, 0] if h.shape[1] == 1 else h
    return h


def _picked(h: Tensor, z: Tensor, logits: Tensor) -> Tensor:
    """Of a classifier that answers at each token, return the rows at the token whose answer the model gives."""
    if z.shape[2] != logits.shape[1]:
        return h[:, 0]
    place = (z - logits[:, None]).abs().amax(2).argmin(1)
    return h[torch.arange(len(h), device=h.device), place]


def _follows(z: Tensor, logits: Tensor) -> bool:
    """Whether logits are a z + c with one a > 0 for all and one c per sample."""
    if z.shape != logits.shape:
        return False
    rounding = max(torch.finfo(part.dtype).eps for part in (z, logits))
    z, logits = z.double(), logits.double()
    top = logits.argmax(1, keepdim=True)
    a, b = z - z.gather(1, top), logits - logits.gather(1, top)
    near = b > -_FARTHEST
    a, b = a[near], b[near]
    size = float((a * a).sum())
    if size == 0:
        return float(b.abs().sum()) == 0
    factor = float((a * b).sum()) / size
    slack = 1e3 * rounding * (1 + float(logits.abs().max()))
    return factor > 0 and float((b - factor * a).abs().max()) <= slack


class _Heard:
    """Inputs and outputs of the classifier, call by call."""

    def __init__(self) -> None:
        self.inputs: list[Tensor] = []
        self.outputs: list[Tensor] = []


@contextmanager
def _listening(place: _Place | None) -> Iterator[_Heard]:
    heard = _Heard()
    if place is None:
        yield heard
        return

    def hook(module: Any, arguments: Any, keywords: Any, output: Any) -> None:
        given = arguments[0] if arguments else next(iter(keywords.values()))
        heard.inputs.append(module.features(given) if place.classifier.fixed else given.clone())
        heard.outputs.append(output)

    handle = place.module.register_forward_hook(hook, with_kwargs=True)
    try:
        yield heard
    finally:
        handle.remove()


def _of_place(place: _Place, heard: _Heard, logits: Tensor | None, count: int) -> Tensor:
    inputs, outputs = _whole(heard.inputs, count), _whole(heard.outputs, count)
    if len(inputs) < place.number or len(inputs[place.number - 1]) != count or logits is None:
        raise ModelError(f"the forward pass does not call the classifier {place.classifier.layer} as before")
    h, z = _rows(inputs[place.number - 1], place.module), _rows(outputs[place.number - 1], place.module)
    return _picked(h, _two(z, logits), logits) if h.ndim == 3 else h
