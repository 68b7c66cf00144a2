"""The nouns of the house: what each part must offer so that the others can use it. Read this file first.

A class is either a Protocol (here) or final (elsewhere); we wrap and compose, we do not subclass our own classes.

Axes: `c` coalitions, `n` players, `b` samples of a batch, `k` classes, `*b` trailing axes of a game's value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ._errors import DataError

if TYPE_CHECKING:
    from ._finding import Finding
    from ._streams import Stream
    from ._subject import Subject
    from ._work import Work

Modality = Literal["image", "tabular", "text", "graph"]
Effort = Literal["quick", "full"]

Model = Callable[[Tensor], Tensor]
"""Maps a batch of inputs `(b, ...)` to logits `(b, k)`. Every `nn.Module` classifier is one."""

IGNORED = -100
"""The label of a pixel whose class nobody knows: it neither trains nor counts."""

OnStep = Callable[[int, int], None]
"""Progress of long work: `on_step(done, total)`, both in the work's own unit."""


def silent(done: int, total: int) -> None:
    """The `on_step` of a caller who does not watch."""


# -- games --------------------------------------------------------------------------------------------------------


@runtime_checkable
class Game(Protocol):
    """A set function: the worth of each coalition of players."""

    @property
    def n_players(self) -> int: ...

    def __call__(self, keep: Bool[Tensor, "c n"]) -> Float[Tensor, "c *b"]:
        """Return the value of each row of `keep`; True means that the player is present."""
        ...


@dataclass(frozen=True)
class Players:
    """One input cut into players, and what takes an absent player's place.

    Args:
        owner: player that owns each element of one input, broadcastable to the input's shape (channels share);
            -1 is always present, -2 always absent.
        baseline: what an absent element is replaced by, broadcastable to one input; with `backgrounds` it has a leading
            axis of that many baselines.
        count: number of players n; every id in `range(n)` owns at least one element.
        grid: `(rows, columns)` when the players are the cells of an image grid, player id = row * columns + column.
        names: one name per player, for tables and reports.
        backgrounds: number of baselines over which a coalition's worth is averaged; 0 for a single baseline.
    """

    owner: Int[Tensor, "..."]
    baseline: Tensor
    count: int
    grid: tuple[int, int] | None = None
    names: tuple[str, ...] = ()
    backgrounds: int = 0


@runtime_checkable
class Masker(Protocol):
    """Says who the players of an input are and what absence means."""

    def __call__(self, x: Tensor) -> Players:
        """Cut one input `x` (no batch axis) into players."""
        ...


Value = Callable[[Float[Tensor, "c k"]], Float[Tensor, "c *b"]]
"""Turns logits into the worth of a coalition."""


# -- attacks ------------------------------------------------------------------------------------------------------


@runtime_checkable
class Space(Protocol):
    """A way to distort inputs within a budget; `params` is one tensor, batch first."""

    @property
    def budget(self) -> float:
        """The largest `size` allowed."""
        ...

    def zeros(self, x: Tensor) -> Tensor:
        """The parameters that leave `x` unchanged."""
        ...

    def sample(self, x: Tensor, rng: Stream) -> Tensor:
        """A random start inside the budget, one per sample; `rng` is bound to the samples' ids."""
        ...

    def render(self, x: Tensor, params: Tensor) -> Tensor:
        """The distorted inputs, inside bounds; differentiable in `params`."""
        ...

    def ascent(self, x: Tensor, grad: Tensor, size: float) -> Tensor:
        """The steepest step along `grad`, its length `size` times the budget."""
        ...

    def project(self, x: Tensor, params: Tensor) -> Tensor:
        """The nearest parameters within budget and bounds; projecting twice changes nothing more."""
        ...

    def scaled(self, factor: float) -> Space:
        """The same space with `factor` times the budget."""
        ...

    def size(self, x: Tensor, params: Tensor) -> Float[Tensor, " b"]:
        """How large each sample's distortion is, in the space's own unit (a radius); scaling does not change it."""
        ...


@dataclass(frozen=True)
class Perturbed:
    """What an attack found.

    Args:
        inputs: distorted inputs `(b, ...)`.
        params: the space's parameters that render them.
        success: `(b,)` bool, the model is wrong on the distorted input; of a targeted attack, it answers the target.
        loss: `(b,)` the attack's loss at the distorted input; of a targeted attack, minus the loss to the target.
        evaluations: model evaluations spent, a gradient counted as two.
        zero_gradients: `(b,)` int, steps at which a sample's gradient was exactly zero.
        space: the space that `params` belong to; None where the attack has none.
        trace: `(t, b)` losses of the first ascent, iterate by iterate, NaN once a sample was dropped; None without an
            ascent. Losses that fall along the steps are a sign of masked gradients.
        found_by: `(b,)` int, which attack of an ensemble fooled the model first; -1 where none did or where the
            undistorted input already does; None for a single attack.
    """

    inputs: Tensor
    params: Tensor
    success: Bool[Tensor, " b"]
    loss: Float[Tensor, " b"]
    evaluations: int
    zero_gradients: Int[Tensor, " b"]
    space: Space | None = None
    trace: Float[Tensor, "t b"] | None = None
    found_by: Int[Tensor, " b"] | None = None

    def replay(self, x: Tensor) -> Tensor:
        """Return the same distortions of `x`: of the attacked inputs, or of others of the same shape, row by row.

        Raises:
            DataError: the attack has no space, or `x` has another number of rows.
        """
        if self.space is None:
            raise DataError("this result cannot be replayed: its attack searched no space; use its inputs")
        if len(x) != len(self.params):
            raise DataError(f"x has {len(x)} rows but {len(self.params)} samples were attacked")
        with torch.no_grad():
            return self.space.render(x, self.params.to(x.device))


@runtime_checkable
class Attack(Protocol):
    """Searches for inputs that the model gets wrong, or for which it answers the target."""

    def __call__(
        self,
        model: Model,
        x: Tensor,
        y: Tensor,
        *,
        rng: Stream,
        start: Tensor | None = None,
        target: Tensor | None = None,
    ) -> Perturbed: ...


# -- training -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """Samples on their way through training: inputs `(b, ...)`, labels `(b,)` int64, ids `(b,)` int64.

    Labels of every pixel are `(b, h, w)`, `IGNORED` where there is none.

    Where each input is a mix of two samples, `others` `(b,)` holds the labels of the second ones and `shares` `(b,)`
    how much of the mix is the first; otherwise both are None.
    """

    inputs: Tensor
    labels: Tensor
    ids: Tensor
    others: Tensor | None = None
    shares: Tensor | None = None


@runtime_checkable
class Objective(Protocol):
    """What training lowers, as named scalar terms; a weighting makes one number of them."""

    def __call__(self, model: nn.Module, batch: Batch, *, rng: Stream) -> Mapping[str, Tensor]: ...


@runtime_checkable
class Weighting(Protocol):
    """Makes one scalar of an objective's terms; terms it does not use are only logged."""

    def __call__(self, terms: Mapping[str, Tensor], *, parameters: Sequence[Tensor]) -> Tensor: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


# -- data ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Dataset:
    """Labelled samples in memory.

    Args:
        inputs: `(N, ...)`, float in `bounds` or uint8 (scaled to [0, 1] when batched).
        labels: `(N,)` int64; of images with a class for every pixel `(N, H, W)`, `IGNORED` where a pixel has none.
        class_names: one per class, text as the source gives it.
        name: what the data set is called.
        modality: what one input is.
        ids: `(N,)` int64, stable names of the samples; row numbers of the source's split.
        bounds: least and greatest legal input value, None for unbounded features.
        note: anything the user must be told, such as "shipped sample of 500, the full set is absent".
        feature_names: names of tabular columns.
        background: `(M, ...)` inputs of the training split, what is usual for a feature; None where unknown.
        groups: columns that belong together and play as one player, by the group's name; columns in no group play
            alone.
        texts: one per sample, for texts; `inputs` then are token ids `(N, L)`, or `(N, 0)` before there is a tokenizer.
        labelled: whether the labels say something; without labels they are all 0.
    """

    inputs: Tensor
    labels: Int[Tensor, " N"] | Int[Tensor, "N H W"]
    class_names: tuple[str, ...]
    name: str
    modality: Modality
    ids: Int[Tensor, " N"]
    bounds: tuple[float, float] | None = (0.0, 1.0)
    note: str = ""
    feature_names: tuple[str, ...] = ()
    background: Tensor | None = None
    groups: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    texts: tuple[str, ...] = ()
    labelled: bool = True

    def __post_init__(self) -> None:
        if self.texts and len(self.texts) != len(self.labels):
            raise DataError(f"{self.name} has {len(self.labels)} samples but {len(self.texts)} texts")
        if self.dense and (self.inputs.ndim != 4 or self.inputs.shape[2:] != self.labels.shape[1:]):
            raise DataError(
                f"{self.name} has masks of {_size(self.labels)} pixels for inputs of shape "
                f"{tuple(self.inputs.shape[1:])}; bring both to one height and width"
            )
        for what, names in (("class", self.class_names), ("feature", (*self.feature_names, *self.groups))):
            for name in names:
                if not _is_text(name):
                    raise DataError(f"the {what} name {name!r} of {self.name} is no Unicode text; rename it")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def dense(self) -> bool:
        """Whether every pixel has a label of its own."""
        return self.labels.ndim == 3


def _size(masks: Tensor) -> str:
    return f"{masks.shape[1]} x {masks.shape[2]}"


def _is_text(name: str) -> bool:
    """Whether UTF-8 can write it: a folder's name may be any bytes, and an array of text any numbers."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


@runtime_checkable
class Source(Protocol):
    """Where a data set comes from; loading checks digests and never downloads unasked."""

    def load(self, split: str) -> Dataset:
        """Return the split, or raise `DataMissing` with the command that obtains it."""
        ...


# -- audits -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Need:
    """What a probe would spend on a subject.

    Args:
        least: model evaluations below which the probe cannot answer at all.
        wanted: evaluations it would use if it could; more brings nothing.
        memory: bytes beyond the model.
        skip: why this probe does not apply to this subject; empty when it does.
        remark: what the probe does differently when it gets less than `wanted`.
    """

    least: int
    wanted: int
    memory: int = 0
    skip: str = ""
    remark: str = ""


@runtime_checkable
class Probe(Protocol):
    """Asks one question of a subject."""

    @property
    def name(self) -> str: ...

    @property
    def question(self) -> str: ...

    def need(self, subject: Subject, *, effort: Effort) -> Need: ...

    def __call__(self, subject: Subject, budget: int, rng: Stream, *, work: Work = ...) -> list[Finding]:
        """Answer within `budget` evaluations; raises a `PellucidError` when it cannot.

        What is done sample by sample goes through `work.map`, so that it is kept and shared out over processes.
        """
        ...


@runtime_checkable
class Suited(Protocol):
    """A probe that knows the subjects it is made for, and joins their audits by itself."""

    def suits(self, subject: Subject) -> bool:
        """Whether an audit of this subject should ask without being told to; cheap, and nothing is run."""
        ...
