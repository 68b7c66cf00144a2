"""What an implicit layer does on a model's inputs: does it settle, and does its gradient point where it should?"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, is_dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from pellucid.core import ModelError, OnStep, Stream, device_of, evaluating, silent
from pellucid.nn import (
    Anderson,
    AscentCertificate,
    Backward,
    ConvergenceWarning,
    Equilibrium,
    Implicit,
    Neumann,
    OneStep,
    Phantom,
    Picard,
    Solution,
    ascent_certificate,
    jacobian_norm,
    spectral_radius,
)

Clock = Callable[[str], AbstractContextManager[None]]
"""Takes the time of a block under a name; no result depends on it."""

LONGER = 4
"""How many times as many steps show whether an answer was settled."""

CLOSE = 20
"""Evaluations that a look from close by counts: what its products with the cell's Jacobian take, in forwards."""

CERTIFIED = 256
"""Numbers of a state up to which the ascent certificate is computed: its Jacobians are written out."""

_EXACT = "exact"


@dataclass(frozen=True)
class GradientMode:
    """One way to pass a gradient through the equilibrium, beside the exact one.

    Args:
        name: such as "unrolled, 5 steps, damping 0.5".
        own: whether the layer is set to it.
        cosine: to the exact gradient of the cell's parameters, per sample; NaN where one of the two is zero.
        ratio: lengths, this one's over the exact one's, per sample.
        together: cosine of the sums over the samples, as a batch would have them.
        evaluations: of the cell per sample in training, with the product with its Jacobian as two; the solver's are not
            among them.
        kept: bytes that are kept for the backward pass per sample, mean.
    """

    name: str
    own: bool
    cosine: Float[Tensor, " m"]
    ratio: Float[Tensor, " m"]
    together: float
    evaluations: float
    kept: float


@dataclass(frozen=True)
class EquilibriumView:
    """One implicit layer on the inputs of a model.

    Args:
        layer: its name in the model.
        solver: in words.
        tol: residual at which a sample is done.
        max_iter: steps at most.
        size: numbers in the state of one sample.
        steps, residual, converged: of each sample.
        history: residual after each step, the first row at the start.
        needed: steps after which the residual was below `tol`, with up to `LONGER` times `max_iter` steps; -1 if never.
        changed: whether the answer is another class with so many steps and a tenth of the tolerance; None where the
            solver is of a kind that cannot be changed.
        few: which rows the rest is about.
        radius: largest |eigenvalue| of the cell's Jacobian at the equilibrium.
        norm: its largest singular value; None where an operation of the cell has no forward derivative.
        modes: the layer's own way and the usual ones; empty where the cell has no parameters or nothing reaches it.
        exact_missed: of how many of these samples the exact gradient was not reached.
        certificate: whether the layer's own gradient provably goes uphill; None where the state is too large.
        evaluations: of the model, those of the first look at all layers with the first one's; a look from close by
            counts as many as its products with the Jacobian take.
        cell_evaluations: of the cell per sample in one forward pass, mean.
    """

    layer: str
    solver: str
    tol: float
    max_iter: int
    size: int
    steps: Int[Tensor, " n"]
    residual: Float[Tensor, " n"]
    converged: Bool[Tensor, " n"]
    history: Float[Tensor, "t n"]
    needed: Int[Tensor, " n"]
    changed: Bool[Tensor, " n"] | None
    few: Int[Tensor, " m"]
    radius: Float[Tensor, " m"]
    norm: Float[Tensor, " m"] | None
    modes: tuple[GradientMode, ...]
    exact_missed: int
    certificate: AscentCertificate | None
    evaluations: int
    cell_evaluations: float

    @property
    def own(self) -> GradientMode | None:
        """The way the layer is set to."""
        return next((mode for mode in self.modes if mode.own), None)


def implicit_layers(model: nn.Module) -> dict[str, Equilibrium]:
    """Return the implicit layers of a model by name.

    Example:
        >>> from pellucid.nn.models import ImplicitConv
        >>> list(implicit_layers(ImplicitConv()))
        ['equilibrium']
    """
    return {name: part for name, part in model.named_modules() if isinstance(part, Equilibrium)}


def cost_equilibria(layers: int, samples: int, few: int) -> int:
    """Return the model evaluations of `equilibria`: one look, and per layer a longer one and a few from close by."""
    return samples + layers * (samples + CLOSE * few)


def equilibria(
    model: nn.Module,
    x: Tensor,
    y: Tensor | None = None,
    *,
    ids: Tensor | None = None,
    few: int = 8,
    rng: Stream,
    batch_size: int = 64,
    on_step: OnStep = silent,
    clock: Clock = nullcontext,  # type: ignore[assignment]  # a context of its own for every name
) -> tuple[EquilibriumView, ...]:
    """Do the implicit layers of a model settle, and is their gradient near the exact one?

    Every layer is watched on all samples: steps, residuals, and whether the answer is another one when the solver may
    go on. On a few of them, spread over the rows, its Jacobian is measured at the equilibrium, and the gradient of the
    cell's parameters by each way of passing it is set beside the exact one, for the same equilibrium and the same
    gradient from the layers behind.

    Args:
        model: holds at least one `nn.Equilibrium`.
        x: inputs `(n, ...)`.
        y: labels for the cross entropy whose gradient is taken; the model's own answers if not given.
        ids: sample ids that fix the start vectors; row numbers if not given.
        few: samples for the Jacobian and the gradients.
        rng: stream of the start vectors.
        batch_size: samples at once.
        on_step: told about work that is done.
        clock: takes the time of each way of passing the gradient.

    Raises:
        ModelError: no implicit layer, or one that the model does not call.

    Example:
        >>> from pellucid.nn.models import ImplicitConv
        >>> (view,) = equilibria(ImplicitConv(), torch.rand(4, 1, 28, 28), few=2, rng=Stream(0))
        >>> view.layer, view.own.name
        ('equilibrium', 'unrolled, 5 steps, damping 0.5')
    """
    layers = implicit_layers(model)
    if not layers:
        raise ModelError("the model holds no implicit layer (nn.Equilibrium)")
    ids = torch.arange(len(x)) if ids is None else ids.cpu()
    chosen = torch.linspace(0, len(x) - 1, min(few, len(x))).round().long()
    total = (1 + len(layers)) * len(x) + len(layers) * len(chosen)
    done = 0

    def step(more: int) -> None:
        nonlocal done
        done += more
        on_step(min(done, total), total)

    with evaluating(model), _as_they_were(layers.values()), warnings.catch_warnings():
        # What a warning would say of single samples is what is measured here.
        warnings.simplefilter("ignore", ConvergenceWarning)
        seen, logits = _watch(model, layers, x, batch_size, step)
        y = logits.argmax(1) if y is None else y.cpu()
        views: list[EquilibriumView] = []
        for name, layer in layers.items():
            needed, changed = _longer(model, layer, seen[name], x, logits, batch_size, step)
            close = _close(model, layer, x, y, ids, chosen, rng.child("equilibria", name), step, clock, name)
            own = seen[name]
            views.append(
                EquilibriumView(
                    layer=name,
                    solver=_words(layer.solver),
                    tol=float(getattr(layer.solver, "tol", torch.nan)),
                    max_iter=layer.solver.max_iter,
                    size=close.size,
                    steps=own.steps,
                    residual=own.residual,
                    converged=own.converged,
                    history=own.history,
                    needed=needed,
                    changed=changed,
                    few=chosen,
                    radius=close.radius,
                    norm=close.norm,
                    modes=close.modes,
                    exact_missed=close.missed,
                    certificate=close.certificate,
                    evaluations=len(x) * ((not views) + (changed is not None)) + CLOSE * len(chosen),
                    cell_evaluations=own.evaluations / len(x),
                )
            )
    return tuple(views)


@dataclass(frozen=True)
class _Seen:
    """What a layer's solver did on all samples."""

    steps: Tensor
    residual: Tensor
    converged: Tensor
    history: Tensor
    evaluations: int

    @staticmethod
    def joined(solutions: Sequence[Solution]) -> _Seen:
        most = max(len(one.history) for one in solutions)
        histories = []
        for one in solutions:
            end = one.history[-1:].expand(most - len(one.history), -1)
            histories.append(torch.cat([one.history, end]).cpu())
        return _Seen(
            torch.cat([one.steps.cpu() for one in solutions]),
            torch.cat([one.residual.cpu() for one in solutions]),
            torch.cat([one.converged.cpu() for one in solutions]),
            torch.cat(histories, dim=1),
            sum(one.evaluations for one in solutions),
        )


def _watch(
    model: nn.Module, layers: dict[str, Equilibrium], x: Tensor, batch_size: int, step: Callable[[int], None]
) -> tuple[dict[str, _Seen], Tensor]:
    """Return what each layer did on all samples, and the logits."""
    solutions: dict[str, list[Solution]] = {name: [] for name in layers}
    logits = []
    with torch.no_grad():
        for part in torch.split(x, batch_size):
            for layer in layers.values():
                layer.last = None
            logits.append(_asked(model, part).cpu())
            for name, layer in layers.items():
                if layer.last is None or len(layer.last.steps) != len(part):
                    raise ModelError(f"the implicit layer {name} is not called once with one state per sample")
                solutions[name].append(layer.last)
            step(len(part))
    return {name: _Seen.joined(found) for name, found in solutions.items()}, torch.cat(logits)


def _asked(model: nn.Module, x: Tensor) -> Tensor:
    logits: Tensor = model(x.to(device_of(model)))
    if not bool(logits.isfinite().all()):
        raise ModelError("the model returns NaN or infinity; repair the weights or the input scaling")
    return logits


def _longer(
    model: nn.Module,
    layer: Equilibrium,
    seen: _Seen,
    x: Tensor,
    logits: Tensor,
    batch_size: int,
    step: Callable[[int], None],
) -> tuple[Tensor, Tensor | None]:
    """Return the steps each sample needs, and whether its answer is another one when the solver goes on."""
    tol = getattr(layer.solver, "tol", None)
    before: Any = layer.solver
    needed = torch.where(seen.converged, seen.steps, -1)
    if tol is None or not _is_changeable(before):
        step(len(x))
        return needed, None
    again, solutions = [], []
    layer.solver = replace(before, max_iter=LONGER * before.max_iter, tol=tol / 10)
    try:
        with torch.no_grad():
            for part in torch.split(x, batch_size):
                again.append(_asked(model, part).cpu())
                assert layer.last is not None
                solutions.append(layer.last)
                step(len(part))
    finally:
        layer.solver = before
    below = _Seen.joined(solutions).history < tol
    later = torch.where(below.any(0), below.int().argmax(0), -1)
    return torch.where(seen.converged, seen.steps, later), torch.cat(again).argmax(1) != logits.argmax(1)


def _is_changeable(solver: object) -> bool:
    return is_dataclass(solver)


# -- a few samples from close by ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Close:
    size: int
    radius: Tensor
    norm: Tensor | None
    modes: tuple[GradientMode, ...]
    missed: int
    certificate: AscentCertificate | None


@dataclass
class _Sums:
    """One way of passing the gradient, sample by sample."""

    backward: Backward
    own: bool
    gradients: list[Tensor]
    evaluations: int = 0
    kept: int = 0


def _close(
    model: nn.Module,
    layer: Equilibrium,
    x: Tensor,
    y: Tensor,
    ids: Tensor,
    rows: Tensor,
    rng: Stream,
    step: Callable[[int], None],
    clock: Clock,
    name: str,
) -> _Close:
    ways = {words: _Sums(way, own, []) for words, way, own in _ways(layer.backward)}
    radius, norm, certificates, missed, size = [], [], [], 0, 0
    forward = True
    learned = list(layer.cell.parameters())
    for row in rows.tolist():
        z, inputs, v = _point(model, layer, x[row : row + 1], y[row : row + 1])
        size = sum(part.numel() for part in _parts(z))
        bound = rng.at(ids[row : row + 1])
        radius.append(spectral_radius(layer.cell, z, inputs=inputs, rng=bound).cpu())
        if forward:
            try:
                norm.append(jacobian_norm(layer.cell, z, inputs=inputs, rng=bound).cpu())
            except (RuntimeError, NotImplementedError):  # an operation without forward derivative
                forward = False
        if learned and size <= CERTIFIED:
            certificates.append(_certified(layer, z, inputs))
        if learned and v is not None:
            with _trained(learned):
                for words, sums in ways.items():
                    with clock(f"{name}, {words}"):
                        short = _pass(layer, sums, z, inputs, v, learned)
                    missed += short and words == _EXACT
        step(1)
    reached = bool(ways[_EXACT].gradients)
    return _Close(
        size,
        torch.cat(radius),
        torch.cat(norm) if forward and norm else None,
        tuple(_mode(words, sums, ways[_EXACT]) for words, sums in ways.items()) if reached else (),
        missed,
        _joined([one for one in certificates if one is not None]),
    )


def _ways(own: Backward) -> list[tuple[str, Backward, bool]]:
    """Return the ways to pass a gradient, in words, and which of them is the layer's own; the exact one is last."""
    steps, damping = (own.steps, own.damping) if isinstance(own, Phantom | Neumann) else (5, 0.5)
    usual: list[Backward] = [Phantom(steps=steps, damping=damping), Neumann(steps=steps, damping=damping), OneStep()]
    found = [(_words(way), way, way == own) for way in usual]
    if own not in usual and not isinstance(own, Implicit):
        found.insert(0, (_words(own), own, True))
    return [*found, (_EXACT, Implicit(Anderson(max_iter=200, tol=1e-6)), isinstance(own, Implicit))]


def _words(part: object) -> str:
    """Return a solver or a way of passing the gradient in words."""
    if isinstance(part, Phantom):
        return f"unrolled, {part.steps} steps, damping {part.damping:g}"
    if isinstance(part, Neumann):
        return f"Neumann series, {part.steps} steps, damping {part.damping:g}"
    if isinstance(part, OneStep):
        return "one step"
    if isinstance(part, Implicit):
        return _EXACT
    return {"Picard": "plain iteration", "NewtonKrylov": "Newton-Krylov"}.get(type(part).__name__, type(part).__name__)


def _point(
    model: nn.Module, layer: Equilibrium, x: Tensor, y: Tensor
) -> tuple[Any, tuple[Any, ...], tuple[Tensor, ...] | None]:
    """Return the equilibrium of one sample, what the cell gets beside it, and the gradient that arrives there."""
    held: list[tuple[Any, tuple[Any, ...]]] = []

    def replace_by_leaf(_: nn.Module, arguments: tuple[Any, ...], output: Any) -> Any:
        leaf = _map(lambda part: part.detach().requires_grad_(), output)
        held.append((leaf, _map(lambda part: part.detach(), arguments[1:])))
        return leaf

    before = layer.backward
    handle = layer.register_forward_hook(replace_by_leaf)
    try:
        layer.backward = OneStep()
        with torch.enable_grad():
            loss = F.cross_entropy(_asked(model, x).float(), y.to(device_of(model)))
            z, inputs = held[-1]
            found = torch.autograd.grad(loss, _parts(z), allow_unused=True) if loss.requires_grad else (None,)
    finally:
        handle.remove()
        layer.backward = before
    if all(part is None for part in found):
        return _map(lambda part: part.detach(), z), inputs, None
    v = tuple(torch.zeros_like(p) if g is None else g for p, g in zip(_parts(z), found, strict=True))
    return _map(lambda part: part.detach(), z), inputs, v


def _pass(
    layer: Equilibrium, sums: _Sums, z: Any, inputs: tuple[Any, ...], v: tuple[Tensor, ...], learned: list[nn.Parameter]
) -> bool:
    """Pass a gradient through one sample's equilibrium and add what it took; return whether it stopped short."""
    before = layer.solver, layer.backward, layer.last
    try:
        # Any residual will do: the equilibrium is known, and only the way back is looked at.
        layer.solver, layer.backward = Picard(max_iter=1, tol=1e30), sums.backward
        with torch.enable_grad(), _counted(layer.cell) as counts, _keeping(learned) as kept:
            value = layer(z, *inputs)
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                found = torch.autograd.grad(_parts(value), learned, v, allow_unused=True)
        for other in told:
            if not issubclass(other.category, ConvergenceWarning):
                warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)
    finally:
        layer.solver, layer.backward, layer.last = before
    gradients = [torch.zeros_like(p) if g is None else g for p, g in zip(learned, found, strict=True)]
    sums.gradients.append(torch.cat([g.flatten() for g in gradients]).double().cpu())
    sums.evaluations += counts[0] - 1 + 2 * counts[1]  # one was the solver's look at the start
    sums.kept += sum(kept.values())
    return any(issubclass(other.category, ConvergenceWarning) for other in told)


def _mode(words: str, sums: _Sums, exact: _Sums) -> GradientMode:
    ours, true = torch.stack(sums.gradients), torch.stack(exact.gradients)
    lengths, size = true.norm(dim=1), ours.norm(dim=1)
    whole = ours.sum(0), true.sum(0)
    scale = float(whole[0].norm() * whole[1].norm())
    return GradientMode(
        words,
        sums.own,
        torch.where(lengths * size > 0, (ours * true).sum(1) / (lengths * size), torch.nan),
        torch.where(lengths > 0, size / lengths, torch.nan),
        float(whole[0] @ whole[1]) / scale if scale else float("nan"),
        sums.evaluations / len(ours),
        sums.kept / len(ours),
    )


def _certified(layer: Equilibrium, z: Any, inputs: tuple[Any, ...]) -> AscentCertificate | None:
    if not isinstance(layer.backward, Phantom | Neumann | OneStep | Implicit):
        return None
    return ascent_certificate(layer.cell, z, layer.backward, inputs=inputs)


def _joined(certificates: list[AscentCertificate]) -> AscentCertificate | None:
    if not certificates:
        return None
    names = ("certified", "error", "allowed", "condition", "norm", "vacuous")
    return AscentCertificate(*(torch.cat([getattr(one, name).cpu() for one in certificates]) for name in names))


# -- watching without a trace -------------------------------------------------------------------------------------


def _parts(state: Any) -> tuple[Tensor, ...]:
    return (state,) if isinstance(state, Tensor) else tuple(state)


def _map(change: Callable[[Tensor], Tensor], values: Any) -> Any:
    """Return the same structure with every tensor changed."""
    if isinstance(values, Tensor):
        return change(values)
    if isinstance(values, tuple | list):
        return type(values)(_map(change, value) for value in values)
    if isinstance(values, dict):
        return {key: _map(change, value) for key, value in values.items()}
    return values


@contextmanager
def _as_they_were(layers: Any) -> Iterator[None]:
    before = [(layer, layer.solver, layer.backward, layer.last) for layer in layers]
    try:
        yield
    finally:
        for layer, solver, backward, last in before:
            layer.solver, layer.backward, layer.last = solver, backward, last


@contextmanager
def _trained(parameters: list[nn.Parameter]) -> Iterator[None]:
    flags = [parameter.requires_grad for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.requires_grad_()
        yield
    finally:
        for parameter, flag in zip(parameters, flags, strict=True):
            parameter.requires_grad_(flag)


@contextmanager
def _counted(cell: nn.Module) -> Iterator[list[int]]:
    """Count the calls of a cell and the products with its Jacobian."""
    counts = [0, 0]

    class Counted(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, value: Tensor) -> Tensor:
            return value.view_as(value)

        @staticmethod
        def backward(ctx: Any, v: Tensor) -> Tensor:
            counts[1] += 1
            return v

    def called(_: nn.Module, arguments: Any, output: Any) -> Any:
        counts[0] += 1
        if isinstance(output, Tensor):
            return Counted.apply(output)  # type: ignore[no-untyped-call]
        return (Counted.apply(output[0]), *output[1:])  # type: ignore[no-untyped-call]

    handle = cell.register_forward_hook(called)
    try:
        yield counts
    finally:
        handle.remove()


@contextmanager
def _keeping(parameters: list[nn.Parameter]) -> Iterator[dict[int, int]]:
    """Count the bytes that autograd keeps for the backward pass, parameters aside."""
    own = {parameter.untyped_storage().data_ptr() for parameter in parameters}
    kept: dict[int, int] = {}
    alive = []  # an address may not be given to another tensor while they are counted

    def pack(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(storage)
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        yield kept
