"""An attack as a recipe writes it down."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from pellucid.attacks import (
    L2,
    LOSSES,
    PGD,
    Flow,
    GridSearch,
    IntegratedSpatial,
    Linf,
    RandomSearch,
    RotateTranslate,
    standard_ensemble,
)
from pellucid.core import Attack, Space

Positive = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=1)]

_BALLS = ("linf", "l2")
# Which settings a space or a search reads; any other one that is given is refused, since it would do nothing.
_BY_SPACE = {
    "linf": ("eps",),
    "l2": ("eps",),
    "flow": ("max_px", "padding"),
    "rotate-translate": ("max_deg", "max_px", "padding"),
    "spatial": ("flow_px", "max_deg", "max_px", "padding"),
}
_BY_SEARCH = {
    "gradient": ("steps", "step_size", "restarts", "start", "loss"),
    "random": ("draws", "loss"),
    "grid": ("grid", "loss"),
    "ensemble": ("steps", "queries"),
}
ENSEMBLE_QUERIES = 5000


class AttackSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where an attack searches, and how.

    | space | settings |
    |---|---|
    | linf, l2 | `eps` |
    | flow | `max_px` = 0.3 |
    | rotate-translate | `max_deg` = 30, `max_px` = 3 |
    | spatial | both in one: `flow_px` = 0.3, `max_deg` = 30, `max_px` = 3 |

    | search | settings |
    |---|---|
    | gradient | `steps`, `step_size`, `restarts`, `start`; for spatial `steps` and `draws`, the random starts |
    | random | `draws` = 10 |
    | grid | `grid` = [31, 5, 5], angles and shifts; rotate-translate only |
    | ensemble | `steps`, `queries` = 5000; linf and l2 only, for the final test |

    "ensemble" is `attacks.standard_ensemble`, which counts a sample as robust only if five different attacks fail. With
    100 steps it is AutoAttack's recipe.

    Args:
        space: what may be changed.
        eps: radius of the ball, in the unit of the inputs.
        max_px, max_deg, flow_px: the greatest displacement or shift in pixels, turn in degrees, and displacement beyond
            turn and shift.
        padding: what lies outside a picture that is moved: "zeros", "border" or "reflect".
        search: how the worst case is looked for; "random" for rotate-translate and "gradient" for the others if not
            given.
        steps: gradient steps; of an ensemble, those of each ascent.
        step_size: length of a step as a share of the budget; `2.5 / steps` if not given.
        loss: what the attack raises.
        restarts: how often it starts anew; the worst result counts.
        start: from a random point of the space or from the sample itself.
        draws: random points per sample.
        grid: points per angle, shift down and shift right.
        queries: of the ensemble's search without gradients.
        bounds: least and greatest legal input value; leave out for [0, 1].
    """

    space: Literal["linf", "l2", "flow", "rotate-translate", "spatial"] = "linf"
    eps: Positive | None = None
    max_px: Positive | None = None
    max_deg: Positive | None = None
    flow_px: Positive | None = None
    padding: Literal["zeros", "border", "reflect"] | None = None
    search: Literal["gradient", "random", "grid", "ensemble"] | None = None
    steps: Count = 20
    step_size: Annotated[float, Meta(gt=0, le=2)] | None = None
    loss: Literal["cross_entropy", "margin"] = "cross_entropy"
    restarts: Count = 1
    start: Literal["random", "zero"] = "random"
    draws: Count | None = None
    grid: tuple[int, int, int] | None = None  # bounds on both branches of the union crash msgspec 0.22
    queries: Count | None = None
    bounds: tuple[float, float] | None = (0.0, 1.0)

    def __post_init__(self) -> None:
        if self.space in _BALLS and self.eps is None:
            raise ValueError(f"an attack in the space {self.space} needs eps, the radius")
        if self.how == "grid" and self.space != "rotate-translate":
            raise ValueError(f'search = "grid" is for rotate-translate; use gradient or random in {self.space}')
        if self.how == "ensemble" and self.space not in _BALLS:
            raise ValueError(f'search = "ensemble" is for linf and l2; use gradient or random in {self.space}')
        if self.space == "spatial" and self.how != "gradient":
            raise ValueError('spatial is searched by "gradient", from the best of `draws` random starts')
        if self.grid is not None and min(self.grid) < 1:
            raise ValueError(f"grid must be three counts of at least 1, got {list(self.grid)}")
        for name in dict.fromkeys(key for keys in (*_BY_SPACE.values(), *_BY_SEARCH.values()) for key in keys):
            if name not in self._used and getattr(self, name) != _DEFAULTS[name]:
                raise ValueError(
                    f"{name} does nothing for an attack in {self.space} by {self.how} search, which reads "
                    f"{', '.join(self._used)}"
                )

    @property
    def how(self) -> str:
        """How the worst case is looked for."""
        return self.search or ("random" if self.space == "rotate-translate" else "gradient")

    @property
    def _used(self) -> tuple[str, ...]:
        if self.space == "spatial":
            return (*_BY_SPACE["spatial"], "steps", "draws", "loss")
        return (*_BY_SPACE[self.space], *_BY_SEARCH[self.how])

    def build(self, *, early_stop: bool = False, classes: int | None = None) -> Attack:
        """Return the attack.

        Args:
            early_stop: leave a sample alone once it is fooled, where only that matters; an ensemble always does.
            classes: of the model; an ensemble needs it.

        Raises:
            ValueError: an ensemble without `classes`.
        """
        loss = LOSSES[self.loss]
        if self.space == "spatial":
            return IntegratedSpatial(
                flow_px=self.flow_px or 0.3,
                max_deg=self.max_deg or 30.0,
                max_px=self.max_px or 3.0,
                padding=self.padding or "zeros",
                steps=self.steps,
                starts=self.draws or 10,
                loss=loss,
                early_stop=early_stop,
            )
        space = self._space()
        if self.how == "ensemble":
            if classes is None:
                raise ValueError('search = "ensemble" needs to know how many classes the model has')
            assert isinstance(space, Linf | L2)  # checked at the beginning
            return standard_ensemble(space, classes, steps=self.steps, queries=self.queries or ENSEMBLE_QUERIES)
        if isinstance(space, RotateTranslate) and self.how == "grid":
            return GridSearch(space, grid=self.grid or (31, 5, 5), loss=loss, early_stop=early_stop)
        if self.how == "random":
            return RandomSearch(space, draws=self.draws or 10, loss=loss, early_stop=early_stop)
        return PGD(
            space,
            steps=self.steps,
            step_size=self.step_size,
            loss=loss,
            restarts=self.restarts,
            start=self.start,
            early_stop=early_stop,
        )

    def _space(self) -> Space:
        if self.space == "flow":
            return Flow(self.max_px or 0.3, padding=self.padding or "zeros")
        if self.space == "rotate-translate":
            return RotateTranslate(self.max_deg or 30.0, self.max_px or 3.0, padding=self.padding or "zeros")
        assert self.eps is not None  # checked at the beginning
        return (Linf if self.space == "linf" else L2)(self.eps, bounds=self.bounds)

    @property
    def budget(self) -> str:
        """The space and its size in short, such as "linf,0.1" or "rotate-translate,30deg,3px"."""
        if self.space in _BALLS:
            return f"{self.space},{self.eps:g}"
        if self.space == "flow":
            return f"flow,{self.max_px or 0.3:g}px"
        rigid = f"{self.max_deg or 30:g}deg,{self.max_px or 3:g}px"
        return f"{self.space},{rigid}" if self.space != "spatial" else f"spatial,{self.flow_px or 0.3:g}px,{rigid}"

    def __str__(self) -> str:
        space, _, sizes = self.budget.partition(",")
        where = f"{space} {'eps ' if space in _BALLS else ''}{sizes.replace(',', ' ')}"
        if self.how == "gradient":
            more = f", {self.restarts} restarts" if self.restarts > 1 else ""
            return f"PGD-{self.steps}, {where}{more}" if space != "spatial" else f"{where}, {self.steps} steps"
        if self.how == "ensemble":
            return (
                f"the ensemble of four attacks, {where}, {self.steps} steps, {self.queries or ENSEMBLE_QUERIES} queries"
            )
        if self.how == "random":
            return f"{where}, worst of {self.draws or 10} at random"
        return f"{where}, grid {' x '.join(map(str, self.grid or (31, 5, 5)))}"


_DEFAULTS = dict(zip(AttackSettings.__struct_fields__, AttackSettings.__struct_defaults__, strict=True))


def trainable(attack: AttackSettings) -> AttackSettings:
    """Return the settings of an attack that is run on every batch, or say why it cannot be.

    Raises:
        ValueError: an ensemble.
    """
    if attack.how == "ensemble":
        raise ValueError('search = "ensemble" is for the final test, under [test]; train with gradient or random')
    return attack
