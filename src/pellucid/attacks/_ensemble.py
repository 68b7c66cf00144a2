"""The worst of several attacks, sample by sample, so that a robust accuracy never rests on one of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.core import Attack, Model, Perturbed, Space, Stream

from ._apgd import APGD
from ._balls import L2, Linf
from ._candidates import Candidates, attackable, borrowed
from ._fab import FAB
from ._losses import margin_loss
from ._minimum_norm import MinimumNormWithin
from ._square import Square


@final
@dataclass(frozen=True)
class Ensemble:
    """Which samples survive several attacks? Each attack gets the samples that all before it left standing.

    A sample's outcome is the first distortion that fools the model, else the one of the largest margin loss; an
    attack alone never fools a sample that the ensemble leaves standing. Inputs that the model gets wrong as they are
    are attacked by none.

    Args:
        attacks: in the order in which they run; put the cheap ones first.
        names: what each is called, one per attack; taken from the attacks if not given.

    Raises:
        ValueError: no attacks, or another number of names.

    Example:
        >>> from pellucid.attacks import APGD, Ensemble, Linf, Square
        >>> space = Linf(0.2)
        >>> both = Ensemble([APGD(space, steps=10), Square(space, queries=50)])
        >>> both.names
        ('apgd-cross_entropy', 'square')
        >>> found = both(lambda x: x, torch.tensor([[0.6, 0.4], [0.4, 0.6]]), torch.tensor([0, 0]), rng=Stream(0))
        >>> found.success, found.found_by
        (tensor([True, True]), tensor([ 0, -1]))
    """

    attacks: Sequence[Attack]
    names: Sequence[str] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "attacks", tuple(self.attacks))
        if not self.attacks:
            raise ValueError("attacks must name at least one attack")
        if self.names and len(self.names) != len(self.attacks):
            raise ValueError(f"names must give one name per attack: {len(self.attacks)}, got {len(self.names)}")
        names = tuple(self.names) or tuple(_name(attack) for attack in self.attacks)
        twice = {name for name in names if names.count(name) > 1}
        numbered = (f"{name}-{names[:i].count(name) + 1}" if name in twice else name for i, name in enumerate(names))
        object.__setattr__(self, "names", tuple(numbered))

    @property
    def space(self) -> Space | None:
        """The space of all attacks; None where they differ or have none."""
        spaces: list[Space | None] = [getattr(attack, "space", None) for attack in self.attacks]
        return spaces[0] if all(space == spaces[0] for space in spaces) else None

    @property
    def cost(self) -> int:
        """Most evaluations per sample: those of a sample that no attack fools, a gradient counted as two.

        Raises:
            AttributeError: an attack does not know its cost.
        """
        return 2 + sum(attack.cost + 1 for attack in self.attacks)  # type: ignore[attr-defined] # said above

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
        """Attack a batch; arguments and errors as for `PGD`. Every attack draws from the same stream as if alone.

        Returns:
            The worst per sample. `found_by` numbers the attacks; -1 where none fooled, or none was needed. `loss` is
            the margin. Where the attacks do not share one space, `params` are the distorted inputs themselves.

        Raises:
            ValueError: a `start` for attacks in different spaces, whose parameters differ.
        """
        if start is not None and self.space is None:
            raise ValueError("start needs attacks that share one space; these do not")
        with borrowed(model):
            x, y = attackable(x, y)
            space = self.space or _Inputs()
            found = Candidates(model, space, margin_loss, x, y, rng, target=target, early_stop=True)
            by = torch.full_like(y, -1)
            left = torch.arange(len(x), device=x.device)
            found.offer(space.zeros(x))
            (left,) = found.drop(left)
            ids = torch.arange(len(x)) if rng.ids is None else rng.ids.cpu()
            for number, attack in enumerate(self.attacks):
                if not len(found):
                    break
                aim = {"target": found.target, "start": None if start is None else start[left]}
                given = {name: value for name, value in aim.items() if value is not None}
                result = attack(model, found.x, found.y, rng=rng.at(ids[left.cpu()]), **given)
                found.evaluations += result.evaluations
                found.zero_gradients[left] += result.zero_gradients
                found.offer(result.inputs if self.space is None else result.params)
                before = left
                (left,) = found.drop(left)
                by[before] = number
                by[left] = -1
            result = found.result()
        return replace(result, space=self.space, found_by=by)


@final
class _Inputs:
    """What holds the results of attacks of any kind: the parameters are the distorted inputs themselves."""

    budget = 0.0

    def zeros(self, x: Tensor) -> Tensor:
        return x.clone()

    def sample(self, x: Tensor, rng: Stream) -> Tensor:
        return x.clone()

    def render(self, x: Tensor, params: Tensor) -> Tensor:
        return params

    def ascent(self, x: Tensor, grad: Tensor, size: float) -> Tensor:
        return torch.zeros_like(grad)

    def project(self, x: Tensor, params: Tensor) -> Tensor:
        return params

    def scaled(self, factor: float) -> _Inputs:
        return self

    def size(self, x: Tensor, params: Tensor) -> Float[Tensor, " b"]:
        return (params - x).flatten(1).abs().amax(1)


def standard_ensemble(space: Linf | L2, n_classes: int, *, steps: int = 100, queries: int = 5000) -> Ensemble:
    """How robust is the model at this radius, as five different attacks see it? AutoAttack's recipe, written by us.

    In turn: APGD on the cross-entropy; APGD on the targeted DLR loss to the nine nearest classes; the smallest
    distortion by `MinimumNorm`; FAB to the same classes; Square, which needs no gradients. All but the third are those
    of Croce and Hein (2020, arXiv:2003.01690). A model of three classes has no targeted DLR loss and gets the DLR loss;
    one of two classes has none and gets the margin. The ensemble's `names` say which.

    A sample that no attack fools costs `.cost` evaluations: at the defaults and ten classes about 10,000, of which
    1,800 for APGD's nine targets, 2,800 for FAB's and 5,000 for Square. Fooled samples cost little: most fall to
    the first attack.

    Args:
        space: a `Linf` or `L2` ball, also with a scale.
        n_classes: columns of the model's logits.
        steps: gradient steps of each ascent, of the search for the smallest distortion and of each walk of FAB.
        queries: of Square.

    Raises:
        ValueError: fewer than two classes.
    """
    if n_classes < 2:
        raise ValueError(f"n_classes must be at least 2, got {n_classes}")
    loss = "dlr-targeted" if n_classes > 3 else "dlr" if n_classes == 3 else "margin"
    return Ensemble(
        [
            APGD(space, steps=steps, early_stop=True),
            APGD(space, loss, steps=steps, targets=min(9, n_classes - 1), early_stop=True),
            MinimumNormWithin(space, steps=steps),
            FAB(space, steps=steps, targets=min(9, n_classes - 1)),
            Square(space, queries=queries),
        ]
    )


_NAMES = {"MinimumNormWithin": "minimum-norm", "RandomSearch": "random-search", "GridSearch": "grid-search"}


def _name(attack: Attack) -> str:
    kind = getattr(attack, "__name__", type(attack).__name__)
    name = _NAMES.get(kind, kind.lower())
    loss = getattr(attack, "loss", None)
    return f"{name}-{loss}" if isinstance(loss, str) else name
