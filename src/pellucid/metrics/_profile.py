"""How does a model break under attacks of several kinds: which one fools it, which sample, and what survives all?"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pellucid.core import (
    Attack,
    DataError,
    Interval,
    Model,
    OnStep,
    Perturbed,
    Space,
    Stream,
    device_of,
    silent,
    wilson,
)

from ._logits import answers
from ._robustness import shrunk
from ._trust import attacked


@dataclass(frozen=True)
class RobustnessProfile:
    """Accuracy under each of several attacks on the same samples, and under the worst of them per sample.

    Args:
        names: of the attacks.
        correct: right on the clean input `(N,)`.
        clean: accuracy without attack, with Wilson's 95 % interval.
        fooled: `(A, N)`, the model is wrong under the attack; clean errors count for every attack.
        accuracy: share of samples that each attack leaves right, with Wilson's interval; each `(A,)`.
        worst: share of samples that no attack fools, with Wilson's interval.
        alone: `(A,)`, samples that this attack alone fools: what would be missed without it.
        smallest: `(A, N)`, size of the smallest distortion that was seen to fool the model, in the unit of the attack's
            space: 0 for a clean error, infinity for none, NaN where the attack searches no space.
        evaluations: model evaluations spent, a gradient counted as two.
    """

    names: tuple[str, ...]
    correct: Bool[Tensor, " N"]
    clean: Interval[float]
    fooled: Bool[Tensor, "A N"]
    accuracy: Interval[Tensor]
    worst: Interval[float]
    alone: Tensor
    smallest: Float[Tensor, "A N"]
    evaluations: int

    @classmethod
    def of(
        cls, correct: Bool[Tensor, " N"], smallest: Mapping[str, Float[Tensor, " N"]], *, evaluations: int = 0
    ) -> RobustnessProfile:
        """Make the profile of attacks that were run elsewhere on the same samples, from the sizes that fooled each.

        Args:
            correct: right on the clean input.
            smallest: by attack, the smallest size that fooled each sample, infinity for none.
            evaluations: model evaluations spent.

        Example:
            >>> one, two = torch.tensor([0.1, torch.inf, torch.inf]), torch.tensor([0.5, 0.2, torch.inf])
            >>> profile = RobustnessProfile.of(torch.tensor([True] * 3), {"linf": one, "rt": two})
            >>> profile.accuracy.value, profile.alone
            (tensor([0.6667, 0.3333], dtype=torch.float64), tensor([0, 1]))
        """
        sizes = torch.stack([size.double() for size in smallest.values()])
        return cls._of(tuple(smallest), correct, sizes.isfinite(), sizes, evaluations)

    @classmethod
    def _of(
        cls, names: tuple[str, ...], correct: Tensor, fooled: Tensor, smallest: Tensor, evaluations: int
    ) -> RobustnessProfile:
        n = len(correct)
        fooled = fooled | ~correct
        return cls(
            names=names,
            correct=correct,
            clean=wilson(int(correct.sum()), n),
            fooled=fooled,
            accuracy=wilson((~fooled).sum(1), n),
            worst=wilson(int((~fooled).all(0).sum()), n),
            alone=(fooled & (fooled.sum(0) == 1)).sum(1),
            smallest=smallest,
            evaluations=evaluations,
        )

    def order(self) -> tuple[str, ...]:
        """Return the attacks' names, the one that leaves the least accuracy first."""
        places = self.accuracy.value.argsort(stable=True).tolist()
        return tuple(self.names[place] for place in places)


def robustness_profile(
    model: Model,
    x: Tensor,
    y: Tensor,
    attacks: Mapping[str, Attack],
    *,
    rng: Stream,
    bisections: int = 6,
    batch_size: int = 256,
    on_step: OnStep = silent,
) -> RobustnessProfile:
    """How does the model break under attacks of several kinds?

    All attacks get the same samples, those that are right without attack. An attack that takes `starts`, such as the
    integrated spatial one, runs last and begins at the winners of those that search a part of its space: so it is never
    weaker than they are, and the profile falls from the parts to the whole. Along the direction that fooled a sample,
    bisection then finds how far one can go back.

    Args:
        model: maps `(b, ...)` to logits `(b, K)`; its own device is used.
        x: inputs `(N, ...)`.
        y: true labels `(N,)`.
        attacks: by name, such as `{"linf": PGD(Linf(8 / 255)), "rt": GridSearch(RotateTranslate())}`.
        rng: source of random starts; bind it to sample ids with `rng.at(ids)`.
        bisections: halvings of each fooling direction; 0 keeps the attack's own distortion.
        batch_size: samples per forward.
        on_step: progress in attacks.

    Raises:
        ValueError: no attacks, or a setting is out of range.
        ModelError: the model gives NaN or wrong shapes.
        DataError: no samples, or inputs outside the space's bounds.

    Example:
        >>> from pellucid.attacks import PGD, L2, Linf
        >>> model = lambda x: torch.cat([x.mean(1, keepdim=True) - 0.5, 0.5 - x.mean(1, keepdim=True)], dim=1)
        >>> x, y = torch.tensor([[0.6, 0.6], [0.9, 0.9]]), torch.tensor([0, 0])
        >>> attacks = {"linf": PGD(Linf(0.2)), "l2": PGD(L2(0.1))}
        >>> robustness_profile(model, x, y, attacks, rng=Stream(0)).accuracy.value
        tensor([0.5000, 1.0000], dtype=torch.float64)
    """
    if not attacks:
        raise ValueError("attacks must name at least one attack")
    if bisections < 0 or batch_size < 1:
        raise ValueError(f"bisections must be >= 0 and batch_size >= 1, got {bisections} and {batch_size}")
    if x.ndim < 2 or len(x) == 0:
        raise DataError(f"x must hold at least one sample, got shape {tuple(x.shape)}")
    if y.shape != (len(x),) or y.dtype != torch.int64:
        raise DataError(f"y must be int64 of shape ({len(x)},), got {y.dtype} of shape {tuple(y.shape)}")
    ids = torch.arange(len(x)) if rng.ids is None else rng.ids.cpu()
    device = device_of(model)
    evaluations = len(x)
    correct = torch.cat(
        [
            (answers(model, x[rows].to(device), ids[rows]) == y[rows].to(device)).cpu()
            for rows in torch.split(torch.arange(len(x)), batch_size)
        ]
    )
    fooled = dict.fromkeys(attacks, ~correct)
    smallest = {name: torch.where(correct, torch.inf, 0.0).double() for name in attacks}
    winners: list[tuple[Space, Tensor]] = []
    left = correct.nonzero()[:, 0]
    for number, name in enumerate(sorted(attacks, key=lambda name: _takes_starts(attacks[name]))):
        if len(left):
            attack = _Started.of(attacks[name], winners, ids[left])
            found = attacked(model, x[left], y[left], attack, rng=rng.at(ids[left]).child(name), batch_size=batch_size)
            evaluations += found.evaluations
            fooled[name] = fooled[name].clone()
            fooled[name][left[found.success]] = True
            hit = found.success.nonzero()[:, 0]
            if found.space is None:
                smallest[name] = torch.where(correct, torch.nan, 0.0).double()
            else:
                winners.append((found.space, found.params))
                for rows in torch.split(hit, batch_size):
                    at = left[rows]
                    size, _, spent = shrunk(
                        model,
                        found.space,
                        x[at].to(device),
                        y[at].to(device),
                        found.params[rows].to(device),
                        ids[at],
                        bisections=bisections,
                    )
                    smallest[name][at] = size.cpu()
                    evaluations += spent
        on_step(number + 1, len(attacks))
    return RobustnessProfile._of(
        tuple(attacks),
        correct,
        torch.stack([fooled[name] for name in attacks]),
        torch.stack([smallest[name] for name in attacks]),
        evaluations,
    )


def _takes_starts(attack: Attack) -> bool:
    return "starts" in inspect.signature(attack.__call__).parameters


@dataclass(frozen=True)
class _Started:
    """An attack that begins at what others found for the same samples."""

    attack: Attack
    starts: tuple[Tensor, ...]
    ids: Tensor

    @classmethod
    def of(cls, attack: Attack, winners: list[tuple[Space, Tensor]], ids: Tensor) -> Attack:
        """Return the attack with the winners in the parts of its space as starts; itself where there are none."""
        parts = {type(part) for part in getattr(attack, "parts", ())}
        fitting = tuple(params for space, params in winners if type(space) in parts)
        return cls(attack, fitting, ids) if _takes_starts(attack) and fitting else attack

    def __call__(
        self,
        model: Model,
        x: Tensor,
        y: Tensor,
        *,
        rng: Stream,
        start: Tensor | None = None,
        target: Tensor | None = None,
    ) -> Perturbed:
        assert rng.ids is not None
        place = {int(name): row for row, name in enumerate(self.ids.tolist())}
        rows = torch.tensor([place[int(name)] for name in rng.ids.tolist()])
        starts = tuple(params[rows].to(x.device) for params in self.starts)
        return self.attack(model, x, y, rng=rng, start=start, starts=starts, target=target)  # type: ignore[call-arg]
