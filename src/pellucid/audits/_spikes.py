"""What a model's spiking layers do: rates, residuals, operations and memory; numbers only, judged elsewhere."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.core import Stream, Subject, Work, evaluating
from pellucid.nn import FeedbackSpiking, SpectralBound, Surrogate, jacobian_norm

SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4)
"""Numbers of steps that are tried, in the model's own."""

BINS = 10
COUNTED, MEASURED = 16, 4
"""Samples whose spikes are counted, and samples whose Jacobian is measured."""


def spiking_layers(model: nn.Module) -> dict[str, FeedbackSpiking]:
    """Return the spiking layers of a model by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, FeedbackSpiking)}


@dataclass(frozen=True)
class Call:
    """One call of a spiking layer: what it was given."""

    layer: FeedbackSpiking
    x: Tensor
    layout: Any

    @property
    def steps(self) -> int:
        """Time steps of the call."""
        if self.layer.time_steps is not None:
            return self.layer.time_steps
        return int(self.x.shape[1 if self.layout == "batch-first" else 0])

    def rows(self, count: int) -> Call:
        """Return the call on the first samples alone."""
        x = self.x[:, :count] if self.layout == "time-first" else self.x[:count]
        return Call(self.layer, x, self.layout)


def calls_of(subject: Subject, count: int) -> dict[str, Call]:
    """Return what each spiking layer is given for the first samples; one evaluation each."""
    found: dict[str, Call] = {}

    def hook(name: str) -> Any:
        def before(layer: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
            assert isinstance(layer, FeedbackSpiking)
            x = arguments[0] if arguments else named["x"]
            found.setdefault(name, Call(layer, x.detach(), named.get("layout", "constant")))

        return before

    layers = spiking_layers(subject.model)
    handles = [layer.register_forward_pre_hook(hook(name), with_kwargs=True) for name, layer in layers.items()]
    try:
        with evaluating(subject.model), torch.no_grad():
            subject.model(subject.inputs[:count].to(subject.device))
    finally:
        for handle in handles:
            handle.remove()
    return found


def times_of(calls: Mapping[str, Call]) -> list[int]:
    """Return the numbers of steps that are tried: events have no more than they have."""
    own = max(call.steps for call in calls.values())
    most = 4 if all(call.layout == "constant" for call in calls.values()) else 1
    return sorted({max(1, round(own * share)) for share in SHARES if share <= most})


@contextmanager
def stopped(layers: Sequence[FeedbackSpiking], steps: int) -> Iterator[None]:
    """Let layers simulate so many steps inside the block."""
    before = [layer.time_steps for layer in layers]
    try:
        for layer in layers:
            layer.time_steps = steps
        yield
    finally:
        for layer, kept in zip(layers, before, strict=True):
            layer.time_steps = kept


def passes(subject: Subject, times: Sequence[int], own: int, *, batch: int, work: Work) -> dict[int, dict[str, Tensor]]:
    """Return logits and residuals `(N,)` by number of steps; with the model's own number also what fired.

    There `silent` and `saturated` are shares of the neurons per sample, `histogram` `(N, 10)` counts of rates, and
    `fired` `(N, n)` which neurons fired at all.
    """
    layers = list(spiking_layers(subject.model).values())
    found: dict[int, dict[str, Tensor]] = {}
    total = sum(times)
    done = 0
    for steps in times:

        def compute(rows: Tensor, on_step: Any, steps: int = steps) -> dict[str, Tensor]:
            part = subject.take(rows)
            with stopped(layers, steps):
                out = {"logits": part.logits(batch_size=len(rows))}
            infos = [layer.last_info for layer in layers]
            out["residual"] = torch.stack([info.residual.cpu() for info in infos if info is not None]).amax(0)
            if steps == own:
                rates = torch.cat([r.flatten(1).cpu() for info in infos if info is not None for r in info.rates], dim=1)
                place = (rates * BINS).long().clamp(max=BINS - 1)
                counts = torch.zeros(len(rows), BINS).scatter_add_(
                    1, place, torch.ones_like(rates, dtype=torch.float32)
                )
                out |= {
                    "silent": (rates == 0).double().mean(1),
                    "saturated": (rates > 1 - 1e-6).double().mean(1),
                    "mean": rates.double().mean(1),
                    "histogram": counts,
                    "fired": rates > 0,
                }
            return out

        part = work.part(done / total, (done + steps) / total)
        found[steps] = part.map("spiking", subject.ids, compute, chunk=batch, key=f"{steps}")
        done += steps
    return found


@dataclass(frozen=True)
class Operations:
    """What one pass of a sample costs, in its spiking layers.

    Args:
        once: multiply-adds of input maps whose input is no spikes; they are computed once.
        spikes: additions caused by spikes, over all steps.
        dense: multiply-adds of all maps once, as in a network of the same maps without spikes.
    """

    once: float
    spikes: float
    dense: float


def operations(calls: Mapping[str, Call]) -> Operations:
    """Count the work of spiking layers on a few samples; spikes are counted one by one, each with its mean fan-out."""
    once = spikes = dense = 0.0
    for call in calls.values():
        few = call.rows(COUNTED)
        layer = call.layer
        with evaluating(layer), torch.no_grad():
            run = layer.simulate(few.x, layout=few.layout)
        # Spikes per neuron and sample, summed over the steps.
        fired = [float(each.double().flatten(2).mean((1, 2)).sum()) for each in run.spikes]
        shapes = [tuple(each.shape[2:]) for each in run.spikes]
        frame = few.x[:1] if few.layout == "constant" else few.x.flatten(0, 1)[:1]
        entering = multiply_adds(layer.input_map, frame if frame.is_floating_point() else frame.float())
        dense += entering
        if call.layout == "constant":
            once += entering
        else:
            spikes += entering * call.steps * float((few.x != 0).double().mean())
        maps = [(layer.feedback_map, layer.feedback_from), *((map, k) for k, map in enumerate(layer.layers))]
        for map, source in maps:
            here = multiply_adds(map, few.x.new_zeros((1, *shapes[source]), dtype=run.rates[0].dtype))
            dense += here
            spikes += here * fired[source]
    return Operations(once, spikes, dense)


def multiply_adds(map: nn.Module, x: Tensor) -> float:
    """Return the multiply-adds of the linear layers and convolutions in a map, for one sample."""
    total = 0.0

    def count(module: nn.Module, arguments: tuple[Tensor, ...], out: Tensor) -> None:
        nonlocal total
        inner = module.map if isinstance(module, SpectralBound) else module
        if isinstance(inner, nn.Linear):
            total += out.numel() * inner.in_features
        elif isinstance(inner, nn.Conv2d):
            total += out.numel() * inner.weight[0].numel()
        elif isinstance(inner, nn.ConvTranspose2d):
            total += arguments[0].numel() * inner.weight[0].numel()

    kinds = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, SpectralBound)
    handles = [each.register_forward_hook(count) for each in map.modules() if isinstance(each, kinds)]
    try:
        with evaluating(map), torch.no_grad():
            map(x)
    finally:
        for handle in handles:
            handle.remove()
    return total


def kept_for_backward(calls: Mapping[str, Call], times: Sequence[int]) -> dict[str, list[int]]:
    """Return the bytes per sample that layers keep for the backward pass, by number of steps and way of training.

    Two samples less one: what is kept once for a batch, such as weights, does not count.
    """
    found: dict[str, list[int]] = {"at the equilibrium": [], "through time": []}
    for steps in times:
        sums = dict.fromkeys(found, 0)
        for call in calls.values():
            layer = copy.deepcopy(call.layer).requires_grad_().eval()
            layer.time_steps = steps
            for way in found:
                if (way == "through time") != isinstance(layer.backward, Surrogate):
                    layer.backward = Surrogate() if way == "through time" else FeedbackSpiking.usual_backward()
                sums[way] += _kept(layer, call.rows(2)) - _kept(layer, call.rows(1))
        for way, each in sums.items():
            found[way].append(each)
    return found


def _kept(layer: FeedbackSpiking, call: Call) -> int:
    own = {p.untyped_storage().data_ptr() for p in (*layer.parameters(), *layer.buffers())}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = layer(call.x, layout=call.layout)
        total = sum(kept.values())
    del out
    return total


def gains(calls: Mapping[str, Call], *, rng: Stream) -> tuple[float, float]:
    """Return the bound of the gain of the equilibrium's map, and the largest one measured at a few samples' rates."""
    bounds, measured = [], []
    for call in calls.values():
        few, layer = call.rows(MEASURED), call.layer
        with evaluating(layer), torch.no_grad():
            layer(few.x, layout=few.layout)
            assert layer.last_info is not None  # of this pass
            rates = layer.last_info.rates[layer.feedback_from]
            current = layer.mean_current(few.x, layout=few.layout)
            bounds.append(layer.gain_bound(tuple(rates.shape[1:])))

        def step(a: Tensor, layer: FeedbackSpiking = layer, current: Tensor = current) -> Tensor:
            return layer.equilibrium(current, a)

        with evaluating(layer):
            norms = jacobian_norm(step, rates, steps=8, rng=rng.at(torch.arange(len(rates))))
        measured.append(float(norms.max()))
    return max(bounds), max(measured)
