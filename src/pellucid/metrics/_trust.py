"""Can the number of a gradient attack be believed? Checks that fail where gradients mislead it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pellucid.core import Attack, DataError, Interval, Model, Perturbed, Stream, device_of, wilson

from ._logits import answers


@dataclass(frozen=True)
class SearchCheck:
    """What random search found beside an attack within the same budget.

    Args:
        beaten: the model was fooled by random search but not by the attack `(N,)`; any such sample shows that the
            attack overestimates robustness.
        attack, search: share of samples each one fooled, with Wilson's 95 % interval.
        evaluations: model evaluations spent.
    """

    beaten: Bool[Tensor, " N"]
    attack: Interval[float]
    search: Interval[float]
    evaluations: int


@dataclass(frozen=True)
class StepsCheck:
    """An attack at growing effort.

    Args:
        steps: `(S,)` gradient steps.
        accuracy: share of samples not fooled, with Wilson's 95 % interval; each `(S,)`.
        loss: mean loss that the attack reached `(S,)`.
        worse: samples that fewer steps fooled but more steps did not, between neighbors `(S - 1,)`.
        zero_gradients: steps with an exactly zero gradient, per effort and sample `(S, N)`.
        evaluations: model evaluations spent.
    """

    steps: Int[Tensor, " S"]
    accuracy: Interval[Tensor]
    loss: Float[Tensor, " S"]
    worse: Int[Tensor, " T"]
    zero_gradients: Int[Tensor, "S N"]
    evaluations: int


def random_search_beats(
    model: Model, x: Tensor, y: Tensor, attack: Attack, search: Attack, *, rng: Stream, batch_size: int = 256
) -> SearchCheck:
    """Does random search fool the model where the gradient attack does not?

    It should not: both search the same budget, and the attack has gradients to help it. If it does, the gradients are
    masked (by saturation, quantization, randomness) and the attack's robust accuracy is too high.

    Args:
        model: maps `(b, ...)` to logits `(b, K)`.
        x: inputs `(N, ...)`.
        y: true labels `(N,)`.
        attack: the gradient attack, such as `PGD(space)`.
        search: the random search in the same space, such as `RandomSearch(space)`.
        rng: bind it to sample ids with `rng.at(ids)`.
        batch_size: samples per forward.
    """
    first = attacked(model, x, y, attack, rng=rng.child("attack"), batch_size=batch_size)
    second = attacked(model, x, y, search, rng=rng.child("search"), batch_size=batch_size)
    return SearchCheck(
        beaten=second.success & ~first.success,
        attack=wilson(int(first.success.sum()), len(x)),
        search=wilson(int(second.success.sum()), len(x)),
        evaluations=first.evaluations + second.evaluations,
    )


def more_steps(
    model: Model,
    x: Tensor,
    y: Tensor,
    attack_with: Callable[[int], Attack],
    steps: Sequence[int],
    *,
    rng: Stream,
    batch_size: int = 256,
) -> StepsCheck:
    """Does the attack grow stronger with more steps, and has it converged?

    Accuracy must not rise and the mean loss must not fall when the attack works harder; where they still change much
    between the last two efforts, more steps would fool more samples.

    Args:
        model: maps `(b, ...)` to logits `(b, K)`.
        x: inputs `(N, ...)`.
        y: true labels `(N,)`.
        attack_with: the attack for a number of steps, such as `lambda steps: PGD(space, steps=steps)`.
        steps: ascending numbers of steps.
        rng: bind it to sample ids with `rng.at(ids)`.
        batch_size: samples per forward.

    Raises:
        ValueError: `steps` is empty or not ascending.
    """
    if not steps or sorted(set(steps)) != list(steps):
        raise ValueError(f"steps must be ascending numbers of steps, got {list(steps)}")
    runs = [attacked(model, x, y, attack_with(count), rng=rng, batch_size=batch_size) for count in steps]
    success = torch.stack([run.success for run in runs])
    return StepsCheck(
        steps=torch.tensor(list(steps)),
        accuracy=wilson((~success).sum(1), len(x)),
        loss=torch.stack([run.loss.double().mean() for run in runs]),
        worse=(success[:-1] & ~success[1:]).sum(1),
        zero_gradients=torch.stack([run.zero_gradients for run in runs]),
        evaluations=sum(run.evaluations for run in runs),
    )


def transfer_accuracy(
    model: Model, adversarial: Tensor, y: Tensor, *, ids: Tensor | None = None, batch_size: int = 256
) -> Interval[float]:
    """How often is the model right on inputs that were crafted against another model?

    Inputs from a model with honest gradients need none of this model's: if they fool it more often than an attack on
    itself does, its own gradients are masked.

    Args:
        model: maps `(b, ...)` to logits `(b, K)`; costs one evaluation per sample.
        adversarial: distorted inputs `(N, ...)`.
        y: true labels `(N,)`.
        ids: sample ids `(N,)` by which an error names a sample; row numbers if not given.
        batch_size: samples per forward.

    Returns:
        The share of correct answers with Wilson's 95 % interval.

    Raises:
        ModelError: the model returns no `(b, K)` logits, or NaN.
    """
    _check_pairs(adversarial, y)
    device = device_of(model)
    names = torch.arange(len(y)) if ids is None else ids.cpu()
    right = 0
    for rows in torch.split(torch.arange(len(y)), batch_size):
        right += int((answers(model, adversarial[rows].to(device), names[rows]) == y[rows].to(device)).sum())
    return wilson(right, len(y))


def attacked(model: Model, x: Tensor, y: Tensor, attack: Attack, *, rng: Stream, batch_size: int = 256) -> Perturbed:
    """Attack any number of samples batch by batch; the result lies on the CPU and does not depend on the batch size.

    Args:
        model: maps `(b, ...)` to logits `(b, K)`; its own device is used.
        x: inputs `(N, ...)`.
        y: true labels `(N,)`.
        attack: any attack.
        rng: bind it to sample ids with `rng.at(ids)`.
        batch_size: samples per forward.
    """
    _check_pairs(x, y)
    device = device_of(model)
    ids = torch.arange(len(x)) if rng.ids is None else rng.ids.cpu()
    if len(ids) != len(x):
        raise ValueError(f"rng is bound to {len(ids)} samples but x holds {len(x)}")
    parts = [
        attack(model, x[rows].to(device), y[rows].to(device), rng=rng.at(ids[rows]))
        for rows in torch.split(torch.arange(len(x)), batch_size)
    ]
    first = parts[0]

    def joined(name: str) -> Tensor:
        return torch.cat([getattr(part, name).cpu() for part in parts])

    return Perturbed(
        inputs=joined("inputs"),
        params=joined("params"),
        success=joined("success"),
        loss=joined("loss"),
        evaluations=sum(part.evaluations for part in parts),
        zero_gradients=joined("zero_gradients"),
        space=first.space,
        trace=None if first.trace is None else _traces([part.trace for part in parts if part.trace is not None]),
        found_by=None if first.found_by is None else joined("found_by"),
    )


def _traces(parts: Sequence[Tensor]) -> Tensor:
    """Return the losses of all batches, NaN where a batch stopped sooner."""
    steps = max(len(part) for part in parts)
    return torch.cat(
        [torch.cat([part.cpu(), part.new_full((steps - len(part), part.shape[1]), torch.nan).cpu()]) for part in parts],
        dim=1,
    )


def _check_pairs(x: Tensor, y: Tensor) -> None:
    if x.ndim < 2 or len(x) == 0:
        raise DataError(f"inputs must hold at least one sample, got shape {tuple(x.shape)}")
    if y.shape != (len(x),) or y.dtype != torch.int64:
        raise DataError(f"y must be int64 of shape ({len(x)},), got {y.dtype} of shape {tuple(y.shape)}")
