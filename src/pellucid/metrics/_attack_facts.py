"""Facts about an attack's number that tell whether it can be believed; what they mean is judged elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pellucid.core import Attack, Interval, Model, Perturbed, Stream, device_of, evaluating, wilson

from ._trust import attacked


@dataclass(frozen=True)
class Repeats:
    """What the model answers when asked the same twice.

    Args:
        changed: the answer was another class the second time `(N,)`.
        spread: largest difference between the two logits, over the largest logit `(N,)`; 0 for a model that always
            answers the same.
    """

    changed: Bool[Tensor, " N"]
    spread: Float[Tensor, " N"]


@dataclass(frozen=True)
class Slopes:
    """What an attack's gradients were worth.

    Args:
        zero: share of all steps at which a sample's gradient was exactly zero.
        silent: `(N,)` the gradient was zero at every step.
        falling: `(N,)` the loss after the last step lay below that at the start of the first ascent; None where the
            attack keeps no trace. Honest gradients with fitting steps raise it for nearly every sample.
        setback: mean of how far the last loss lay below the best of the ascent; None where there is no trace. Large
            values mean steps too long or gradients that mislead.
    """

    zero: float
    silent: Bool[Tensor, " N"]
    falling: Bool[Tensor, " N"] | None
    setback: float | None


@dataclass(frozen=True)
class Trust:
    """The facts behind "can this robust accuracy be believed?".

    Args:
        accuracy: share of samples that the attack left standing, with Wilson's 95 % interval.
        lowest: the same for the attack and all beside it, the worst per sample: no attack of these leaves more.
        beside: accuracy that each other attack left, by its name.
        beaten: `(N,)` by name: the other attack fooled the model where the attack did not.
        repeats: what the model answers when asked twice.
        slopes: what the attack's gradients were worth.
        evaluations: model evaluations spent.
    """

    accuracy: Interval[float]
    lowest: Interval[float]
    beside: Mapping[str, Interval[float]]
    beaten: Mapping[str, Bool[Tensor, " N"]]
    repeats: Repeats
    slopes: Slopes
    evaluations: int

    @property
    def gap(self) -> float:
        """How far the attack's accuracy lies above the lowest: what resting on it alone would hide."""
        return self.accuracy.value - self.lowest.value


def trust(
    model: Model,
    x: Tensor,
    y: Tensor,
    attack: Attack,
    beside: Mapping[str, Attack],
    *,
    rng: Stream,
    steps: int | None = None,
    batch_size: int = 256,
) -> Trust:
    """Can the accuracy that an attack leaves be believed? Others beside it, the model asked twice, its gradients.

    Args:
        model: maps `(b, ...)` to logits `(b, K)`.
        x: inputs `(N, ...)`.
        y: true labels `(N,)`.
        attack: the attack whose number is in question, such as `PGD(space)`.
        beside: others in the same space, by name: `RandomSearch`, `standard_ensemble`, the attack with more steps.
        rng: bind it to sample ids with `rng.at(ids)`.
        steps: gradient steps that the attack makes per sample; taken from its `steps` and `restarts` if not given.
        batch_size: samples per forward.
    """
    first = attacked(model, x, y, attack, rng=rng, batch_size=batch_size)
    others = {name: attacked(model, x, y, other, rng=rng, batch_size=batch_size) for name, other in beside.items()}
    any_success = torch.stack([first.success, *(other.success for other in others.values())]).any(0)
    n = len(x)
    return Trust(
        accuracy=wilson(int((~first.success).sum()), n),
        lowest=wilson(int((~any_success).sum()), n),
        beside={name: wilson(int((~other.success).sum()), n) for name, other in others.items()},
        beaten={name: other.success & ~first.success for name, other in others.items()},
        repeats=repeats(model, x, batch_size=batch_size),
        slopes=slopes(first, steps=_steps(attack) if steps is None else steps),
        evaluations=first.evaluations + sum(other.evaluations for other in others.values()) + 2 * n,
    )


def repeats(model: Model, x: Tensor, *, batch_size: int = 256) -> Repeats:
    """Does the model answer the same when asked the same twice? Two evaluations per sample, in eval mode.

    A model that answers at random needs attacks that average over its answers; a single attack's number is no bound.

    Args:
        model: maps `(b, ...)` to logits `(b, K)`.
        x: inputs `(N, ...)`.
        batch_size: samples per forward.
    """
    device = device_of(model)
    changed, spread = [], []
    with evaluating(model), torch.no_grad():
        for rows in torch.split(torch.arange(len(x)), batch_size):
            one, two = (model(x[rows].to(device)).double() for _ in range(2))
            changed.append((one.argmax(1) != two.argmax(1)).cpu())
            largest = one.abs().amax(1).clamp(min=torch.finfo(one.dtype).tiny)
            spread.append(((one - two).abs().amax(1) / largest).cpu())
    return Repeats(torch.cat(changed), torch.cat(spread))


def slopes(found: Perturbed, *, steps: int) -> Slopes:
    """What were an attack's gradients worth? Read off its result, without asking the model again.

    Args:
        found: what the attack returned.
        steps: gradient steps that it made per sample, all restarts together.
    """
    falling, setback = None, None
    if found.trace is not None and len(found.trace) > 1:
        trace = found.trace.double()
        best = trace.nan_to_num(-torch.inf).amax(0)
        # Of a sample that was dropped once fooled, the last loss is the one before.
        seen = (~trace.isnan()).sum(0).clamp(min=1)
        last = trace.gather(0, (seen - 1)[None])[0]
        falling = last < trace[0]
        setback = float((best - last).mean())
    zero = found.zero_gradients
    return Slopes(float(zero.double().mean()) / max(1, steps), (zero >= steps) & (steps > 0), falling, setback)


def _steps(attack: Attack) -> int:
    return int(getattr(attack, "steps", 0)) * int(getattr(attack, "restarts", 1))
