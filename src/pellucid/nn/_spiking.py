"""Feedback spiking networks trained at their equilibrium (arXiv:2109.14247).

Letters: u membrane before firing, m after the reset, s spikes, a rates, x input, W feedback map, V threshold, T steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Literal, final, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from ._backwards import Backward, Implicit
from ._fixed_point import attach_gradient
from ._neurons import LIF, Fired, Neuron, Surrogate, clipped
from ._solvers import Picard
from ._spectral_bound import SpectralBound, operator_norm

Layout = Literal["constant", "time-first", "batch-first"]
"""Where the time steps of an input are: there are none, `(T, B, ...)`, or `(B, T, ...)`."""


@dataclass(frozen=True)
class SpikingInfo:
    """What the last pass of a `FeedbackSpiking` layer did.

    Args:
        rates: `(B, ...)` of each population.
        residual: per sample, how far the rates of the population that feeds back are from the equilibrium's equation,
            at most over its neurons: `max |a - f(a)|`.
        steps: time steps simulated.
    """

    rates: tuple[Tensor, ...]
    residual: Float[Tensor, " b"]
    steps: int


@dataclass(frozen=True)
class Simulation:
    """Spikes of a pass, step by step.

    Args:
        rates: `(T, B, ...)` of each population, the rate of the steps so far.
        spikes: `(T, B, ...)` of each population, bool.
        membrane: `(B, ...)` of each population after the last step.
    """

    rates: tuple[Tensor, ...]
    spikes: tuple[Tensor, ...]
    membrane: tuple[Tensor, ...]


@final
class FeedbackSpiking(nn.Module):
    """How can a recurrent spiking network be trained for any number of time steps in the same memory?

    Populations 1 to L fire as `neuron` says. The first one receives the input and, through `feedback_map`, the spikes
    of the step before of population `feedback_from`; each other one the spikes of the one below, of the same step:

        u[t] = leak m[t-1] + W s[t-1] + F x[t],   s[t] = (u[t] >= V),   m[t] = u[t] - V s[t]

    The layer's output is the rate of the last population, the mean of its spikes, weighted by leak^(T-t). With many
    steps rates settle at the equilibrium `a = clip((W a + F x) / V, 0, 1)`. So the backward pass needs no time steps:
    it is that of the equilibrium's equation at the rates that were simulated, by the implicit function theorem. No
    spike is ever differentiated, and what is kept for the backward pass does not depend on T.

    Gradients are given in eval mode too. The membrane is kept in float32 under autocast. Normalization layers in
    `input_map` take their statistics from the mean input and apply them at every step; those in `layers` use their
    running statistics while spikes are simulated.

    Args:
        input_map: from an input (one time step of it) to the current of population 1; affine where inputs have steps.
        feedback_map: from the spikes of `feedback_from` to the current of population 1. Bound its gain with
            `SpectralBound`: rates settle surely where the gain is below the threshold.
        layers: maps from each population to the current of the next one; none for one population.
        neuron: `IF()` or `LIF()`.
        time_steps: steps of the simulation; inputs that have steps are used up to that one; None for all of theirs.
        backward: how gradients pass the equilibrium, exactly by default; `Surrogate()` backpropagates through all time
            steps instead.
        dropout: share of spikes between populations that are left out in training: the same in every step of a pass.
        feedback_from: which population feeds back, the last one by default.

    Raises:
        ValueError: no time steps, a dropout that is no share, or no such population.

    Example:
        >>> layer = FeedbackSpiking(nn.Linear(6, 4), SpectralBound(nn.Linear(4, 4, bias=False)), time_steps=50)
        >>> rates = layer(torch.rand(3, 6))
        >>> tuple(rates.shape), tuple(layer.spikes(torch.rand(3, 6)).shape)
        ((3, 4), (50, 3, 4))
    """

    def __init__(
        self,
        input_map: nn.Module,
        feedback_map: nn.Module,
        *,
        layers: Sequence[nn.Module] = (),
        neuron: Neuron = LIF(),  # noqa: B008  # frozen
        time_steps: int | None = 30,
        backward: Backward | Surrogate | None = None,
        dropout: float = 0.0,
        feedback_from: int = -1,
    ) -> None:
        super().__init__()
        if time_steps is not None and time_steps < 1:
            raise ValueError(f"time_steps must be at least 1, got {time_steps}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {dropout}")
        if not -len(layers) - 1 <= feedback_from <= len(layers):
            raise ValueError(f"feedback_from must name one of {len(layers) + 1} populations, got {feedback_from}")
        self.input_map, self.feedback_map = input_map, feedback_map
        self.layers = nn.ModuleList(layers)
        self.neuron, self.time_steps, self.dropout = neuron, time_steps, dropout
        self.backward: Backward | Surrogate = self.usual_backward() if backward is None else backward
        self.feedback_from = feedback_from % (len(layers) + 1)
        self.last_info: SpikingInfo | None = None

    def forward(self, x: Tensor, *, layout: Layout = "constant") -> Float[Tensor, "b ..."]:
        """Return the rates of the last population.

        Args:
            x: `(B, ...)` for an input that stays, or one with time steps as `layout` says.
            layout: "constant", "time-first" `(T, B, ...)` or "batch-first" `(B, T, ...)`.

        Raises:
            ValueError: NaN or infinite inputs, or fewer frames than `time_steps`.
        """
        drive = _Drive(self, x, layout)
        with self._bounded():
            current = drive.mean_current()
            if isinstance(self.backward, Surrogate):
                return self._through_time(drive, current, self.backward.width)
            masks = self._masks(current)
            with torch.no_grad():
                rates = self._simulated(drive, masks)
            return self._at_equilibrium(current, rates, masks, drive.steps)

    @staticmethod
    def usual_backward() -> Implicit:
        """Return the default of `backward`: the exact gradient, by plain iteration."""
        return Implicit(Picard(max_iter=30, tol=1e-6))

    def mean_current(self, x: Tensor, *, layout: Layout = "constant") -> Float[Tensor, "b ..."]:
        """Return the current that the mean input sends into population 1, for `equilibrium`."""
        return _Drive(self, x, layout).mean_current()

    @torch.no_grad()
    def spikes(self, x: Tensor, *, layout: Layout = "constant") -> Tensor:
        """Return the spikes of the last population, bool `(T, B, ...)`."""
        return self.simulate(x, layout=layout).spikes[-1]

    @torch.no_grad()
    def simulate(self, x: Tensor, *, layout: Layout = "constant") -> Simulation:
        """Return the spikes and rates of all populations at every time step, without dropout."""
        drive = _Drive(self, x, layout)
        rates: list[list[Tensor]] = [[] for _ in range(len(self.layers) + 1)]
        spikes: list[list[Tensor]] = [[] for _ in rates]
        with self._bounded(), _eval(self):
            drive.mean_current()
            run = _Run(self, drive, self._masks(None))
            for step in range(1, drive.steps + 1):
                run.step()
                for k, (fired, total) in enumerate(zip(run.fired, run.total, strict=True)):
                    spikes[k].append(fired > 0)
                    rates[k].append(total / self.neuron.total(step))
        stacked = tuple(torch.stack(each) for each in rates), tuple(torch.stack(each) for each in spikes)
        return Simulation(*stacked, tuple(run.membrane))

    def equilibrium(self, current: Float[Tensor, "b ..."], rates: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        """Return one evaluation of the equilibrium's equation: the rates of the population that feeds back.

        Args:
            current: `F x`, of the mean input.
            rates: those of the population that feeds back.
        """
        with self._bounded():
            return self._below(current, rates, [None] * (len(self.layers) + 1))

    def gain_bound(self, shape: tuple[int, ...]) -> float:
        """Return a bound of the gain of the equilibrium's map: below 1, rates settle from anywhere.

        The product of the gains of the feedback map and of all maps on the way, each over the threshold; normalization
        counts with its running statistics. The gain itself is often far lower: neurons that never or always fire pass
        nothing on.

        Args:
            shape: of one sample's rates in the population that feeds back.
        """
        device = next((p.device for p in self.parameters()), torch.device("cpu"))
        dtype = next((p.dtype for p in self.parameters()), torch.get_default_dtype())
        with torch.no_grad(), _eval(self):
            product = operator_norm(self.feedback_map, shape) / self.neuron.threshold
            here = self.feedback_map(torch.zeros((1, *shape), device=device, dtype=dtype))
            for layer in self.layers[: self.feedback_from]:
                product *= operator_norm(layer, tuple(here.shape[1:])) / self.neuron.threshold
                here = layer(here)
        return product

    def extra_repr(self) -> str:
        """What torch prints beside the maps."""
        return f"neuron={self.neuron}, time_steps={self.time_steps}, backward={self.backward}, dropout={self.dropout:g}"

    @contextmanager
    def _bounded(self) -> Iterator[None]:
        """Compute bounded weights once for all steps."""
        with ExitStack() as stack:
            for module in self.modules():
                if isinstance(module, SpectralBound):
                    stack.enter_context(module.held())
            yield

    def _masks(self, current: Tensor | None) -> list[Tensor | None]:
        """Return what is kept of each population's spikes: drawn once per sample and pass, scaled to the same mean."""
        count = len(self.layers) + 1
        if not (self.training and self.dropout and current is not None):
            return [None] * count
        keep = 1 - self.dropout
        shapes = self._shapes(current)
        return [
            # The spikes of a last population that does not feed back go nowhere inside the layer.
            current.new_empty((len(current), *shape)).bernoulli_(keep).div_(keep)
            if k < count - 1 or k == self.feedback_from
            else None
            for k, shape in enumerate(shapes)
        ]

    @torch.no_grad()
    def _shapes(self, current: Tensor) -> list[tuple[int, ...]]:
        """Return the shape of one sample of each population."""
        here, shapes = current[:1], [tuple(current.shape[1:])]
        with _eval(self):
            for layer in self.layers:
                here = layer(here)
                shapes.append(tuple(here.shape[1:]))
        return shapes

    def _below(self, current: Tensor, rates: Tensor, masks: Sequence[Tensor | None]) -> Tensor:
        """Return the rates of the population that feeds back, from its rates a step before."""
        here = clipped(current + self.feedback_map(_kept(rates, masks[self.feedback_from])), self.neuron)
        return self._onwards(here, masks, range(self.feedback_from))

    def _onwards(self, rates: Tensor, masks: Sequence[Tensor | None], which: range) -> Tensor:
        for k in which:
            rates = clipped(self.layers[k](_kept(rates, masks[k])), self.neuron)
        return rates

    def _simulated(self, drive: _Drive, masks: Sequence[Tensor | None]) -> list[Tensor]:
        with _eval(self):
            run = _Run(self, drive, masks)
            for _ in range(drive.steps):
                run.step()
        return run.rates()

    def _at_equilibrium(
        self, current: Tensor, rates: list[Tensor], masks: Sequence[Tensor | None], steps: int
    ) -> Tensor:
        """Return the simulated rates with the gradient of the equilibrium."""
        back = self.feedback_from
        seen: list[Tensor] = []

        def once(a: Tensor) -> Tensor:
            found = self._below(current, a, masks)
            if not seen:
                seen.append(found.detach())
            return found

        assert not isinstance(self.backward, Surrogate)  # `forward` sees to it
        graph = attach_gradient(once, rates[back], self.backward)
        assert isinstance(graph, Tensor)
        self._note(rates, seen[0], steps)
        value = exchanged(graph, rates[back])
        return value if back == len(self.layers) else self._rest(value, rates[-1], masks)

    def _rest(self, value: Tensor, rates: Tensor, masks: Sequence[Tensor | None]) -> Tensor:
        """Go on from the population that feeds back to the last one."""
        return exchanged(self._onwards(value, masks, range(self.feedback_from, len(self.layers))), rates)

    def _through_time(self, drive: _Drive, current: Tensor, width: float) -> Tensor:
        """Return the rates with the graph of every step; normalization in `layers` keeps to its running statistics."""
        masks = self._masks(current)
        with _eval(self):
            run = _Run(self, drive, masks, width=width)
            for _ in range(drive.steps):
                run.step()
        rates = run.rates()
        with torch.no_grad():  # in training mode this one pass moves the running statistics
            found = self._below(current, rates[self.feedback_from], masks)
            self._rest(rates[self.feedback_from], rates[-1], masks)
        self._note(rates, found, drive.steps)
        return rates[-1]

    def _note(self, rates: Sequence[Tensor], found: Tensor, steps: int) -> None:
        with torch.no_grad():
            residual = (rates[self.feedback_from] - found).abs().flatten(1).amax(1)
            self.last_info = SpikingInfo(tuple(each.detach() for each in rates), residual, steps)


class _Drive:
    """What the input sends into population 1 at each step, and on average."""

    def __init__(self, layer: FeedbackSpiking, x: Tensor, layout: Layout) -> None:
        if layout not in get_args(Layout):
            raise ValueError(f"layout must be one of {', '.join(get_args(Layout))}, got {layout!r}")
        if x.is_floating_point() and not bool(x.detach().isfinite().all()):
            raise ValueError("x holds NaN or infinity; remove or repair the sample")
        self.layer, self.constant = layer, layout == "constant"
        self.frames = x.movedim(1, 0) if layout == "batch-first" else x
        if self.constant:
            if layer.time_steps is None:
                raise ValueError("time_steps is needed for inputs without time steps; set it to a number")
            self.steps = layer.time_steps
        else:
            if x.ndim < 3:
                raise ValueError(f"inputs with time steps are (T, B, ...) or (B, T, ...), got {tuple(x.shape)}")
            self.steps = len(self.frames) if layer.time_steps is None else layer.time_steps
            if self.steps > len(self.frames):
                raise ValueError(
                    f"time_steps is {self.steps} but x has {len(self.frames)} frames as {layout}; check the layout"
                )
        self.batch = x.shape[0] if self.constant else self.frames.shape[1]
        self._statistics: dict[str, Tensor] = {}
        self._current: Tensor | None = None

    def mean_current(self) -> Tensor:
        """Return the current of the mean input, with its graph; in training mode statistics move once."""
        maps = self.layer.input_map
        if self.constant:
            self._current = _wide(maps(self.frames))
            return self._current
        with _observed(maps, self._statistics):
            return _wide(maps(self._mean()))

    def at(self, step: int) -> Tensor:
        """Return the current of one step, from 0."""
        if self._current is not None:
            return self._current
        frame = _floats(self.frames[step])
        if not self._statistics:
            return _wide(self.layer.input_map(frame))
        return _wide(functional_call(self.layer.input_map, self._statistics, (frame,)))

    def _mean(self) -> Tensor:
        """Return the mean input, weighted as spikes are; never in place: the frames are the caller's."""
        leak, frames = self.layer.neuron.leak, self.frames[: self.steps]
        if not (frames.requires_grad and torch.is_grad_enabled()):
            total = _floats(frames[0]).clone()
            for frame in frames[1:]:
                total.mul_(leak).add_(frame)
        else:
            weights = leak ** torch.arange(self.steps - 1, -1, -1, device=frames.device, dtype=frames.dtype)
            total = torch.einsum("t,t...->...", weights, frames)
        return total / self.layer.neuron.total(self.steps)


class _Run:
    """The state of all populations, step by step; with a `width` every step keeps its graph."""

    def __init__(
        self, layer: FeedbackSpiking, drive: _Drive, masks: Sequence[Tensor | None], *, width: float | None = None
    ) -> None:
        self.layer, self.drive, self.masks, self.width, self.done = layer, drive, masks, width, 0
        first = drive.at(0)
        zeros = [first.new_zeros((drive.batch, *shape)) for shape in layer._shapes(first)]
        self.membrane, self.total = zeros, [zero.clone() for zero in zeros]
        self.fired = [zero.clone() for zero in zeros]

    def step(self) -> None:
        """Let every population take its current and fire."""
        layer, back = self.layer, self.layer.feedback_from
        current = self.drive.at(self.done) + layer.feedback_map(_kept(self.fired[back], self.masks[back]))
        self._fire(0, _wide(current))
        for k, map in enumerate(layer.layers):
            self._fire(k + 1, _wide(map(_kept(self.fired[k], self.masks[k]))))
        self.done += 1

    def rates(self) -> list[Tensor]:
        """Return the rates so far; NaN where the membrane is no number: comparisons would hide it."""
        total = self.layer.neuron.total(self.done)
        return [each / total + 0 * membrane for each, membrane in zip(self.total, self.membrane, strict=True)]

    def _fire(self, k: int, current: Tensor) -> None:
        leak, threshold = self.layer.neuron.leak, self.layer.neuron.threshold
        if self.width is None:
            membrane = self.membrane[k].mul_(leak).add_(current)
            self.fired[k] = (membrane >= threshold).to(membrane.dtype)
            membrane.sub_(self.fired[k], alpha=threshold)
            self.total[k].mul_(leak).add_(self.fired[k])
        else:
            membrane = leak * self.membrane[k] + current
            self.fired[k] = Fired.apply(membrane, threshold, self.width)  # type: ignore[no-untyped-call]
            self.membrane[k] = membrane - threshold * self.fired[k]
            self.total[k] = leak * self.total[k] + self.fired[k]


class _Exchanged(torch.autograd.Function):
    """The second tensor's value with the first one's gradient."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, graph: Tensor, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def exchanged(graph: Tensor, value: Tensor) -> Tensor:
    """Return `value` with the gradient of `graph`."""
    return _Exchanged.apply(graph, value.detach())  # type: ignore[no-untyped-call, no-any-return]


def _kept(spikes: Tensor, mask: Tensor | None) -> Tensor:
    return spikes if mask is None else spikes * mask


def _wide(current: Tensor) -> Tensor:
    """Return a current in float32 at least: in half precision the membrane would drift with T."""
    return current.float() if current.dtype in (torch.float16, torch.bfloat16) else current


def _floats(frame: Tensor) -> Tensor:
    return frame if frame.is_floating_point() else frame.float()


@contextmanager
def _eval(module: nn.Module) -> Iterator[None]:
    """Put a module in eval mode inside the block."""
    flags = [(each, each.training) for each in module.modules()]
    try:
        for each, _ in flags:
            each.training = False
        yield
    finally:
        for each, flag in flags:
            each.training = flag


@contextmanager
def _observed(module: nn.Module, statistics: dict[str, Tensor]) -> Iterator[None]:
    """Write into `statistics` by which means and variances normalization layers in training mode normalize a pass."""
    handles = []

    def watch(name: str, norm: nn.modules.batchnorm._BatchNorm) -> None:
        def before(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            axes = [axis for axis in range(arguments[0].ndim) if axis != 1]
            variance, mean = torch.var_mean(arguments[0].detach(), axes, correction=0)
            prefix = f"{name}." if name else ""
            statistics.update({f"{prefix}running_mean": mean, f"{prefix}running_var": variance})

        handles.append(norm.register_forward_pre_hook(before))

    for name, each in module.named_modules():
        if isinstance(each, nn.modules.batchnorm._BatchNorm) and each.training:
            watch(name, each)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
