"""Which interaction complexities has a network learned? The order spectrum of arXiv:2111.06236.

The strength of order m is S^m = mean over samples and pairs of |I^m(i,j)|, with I^m(i,j) the mean of
v(S+i+j) - v(S+i) - v(S+j) + v(S) over the contexts S of m other players. J^m is S^m divided by its mean over orders.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from math import floor, pi, sqrt

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.core import ALONE, Masker, Model, OnStep, Players, Stream, Work, silent
from pellucid.games import (
    ModelGame,
    Sharing,
    ValueOf,
    cost_pair_orders,
    log_odds,
    neighbor_blocks,
    neighbor_pairs,
    pair_interactions,
    pair_orders,
    table,
)

from ._samples import check_samples, predicted
from ._spectrum import BottleneckSpectrum, Measured, Normalize, spectrum_of

DEFAULT_RATIOS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
"""The paper's orders as shares of n - 2: denser at the ends."""


@dataclass(frozen=True)
class SpectrumSettings:
    """How much of a spectrum to sample, and how.

    Args:
        samples: inputs.
        blocks: groups of 3 x 3 neighboring cells per input; each has 36 pairs that share their contexts.
        contexts: contexts per pair and order.
        pairs: instead of blocks, so many pairs of cells at most two apart per input, each with contexts of its own.
        ratios: orders as shares of n - 2.
        only_correct: leave out the samples that the model classifies wrongly.
        normalize: what J^m divides by: "measured", the plain mean over the measured orders, or "uniform", the mean over
            the range of orders by the trapezoid rule.
        grid: cells per side that the settings are meant for; None: the masker decides.
    """

    samples: int
    blocks: int
    contexts: int
    _: KW_ONLY
    pairs: int | None = None
    ratios: Sequence[float] = DEFAULT_RATIOS
    only_correct: bool = False
    normalize: Normalize = "measured"
    grid: int | None = None


QUICK = SpectrumSettings(16, 1, 20)
FULL = SpectrumSettings(32, 2, 24)
OFFICIAL = SpectrumSettings(50, 0, 100, pairs=200, only_correct=True, grid=16)
"""The settings of the authors' code for CIFAR-10: 200 pairs with 100 contexts each, on a grid of 16 x 16 cells.

Their end orders repeat one context 100 times and their pairs at the border are drawn more often; here an end order is
computed once, and all pairs are drawn alike, without replacement.
"""
_LADDER = (
    QUICK,
    SpectrumSettings(20, 1, 20),
    SpectrumSettings(24, 1, 20),
    SpectrumSettings(32, 1, 20),
    SpectrumSettings(32, 1, 24),
    SpectrumSettings(24, 2, 20),
    SpectrumSettings(32, 2, 20),
    FULL,
)


def orders_of(n_players: int, ratios: Sequence[float] = DEFAULT_RATIOS) -> tuple[int, ...]:
    """Return the orders m = floor((n-2) r), each once.

    Raises:
        ValueError: fewer than two players, or a ratio outside [0, 1].
    """
    if n_players < 2:
        raise ValueError(f"a game of {n_players} players has no pairs; use a finer grid or more features")
    if not ratios or min(ratios) < 0 or max(ratios) > 1:
        raise ValueError(f"ratios must lie between 0 and 1, got {list(ratios)}")
    return tuple(sorted({floor((n_players - 2) * r + 1e-9) for r in ratios}))


def _groups(players: Players, settings: SpectrumSettings, rng: Stream) -> Int[Tensor, "groups g"]:
    if settings.pairs is not None:
        return neighbor_pairs(players, settings.pairs, rng=rng)
    return neighbor_blocks(players, blocks=settings.blocks, rng=rng)


def _sharing(settings: SpectrumSettings) -> Sharing:
    return "shared" if settings.pairs is None else "independent"


def cost_bottleneck(players: Players, settings: SpectrumSettings = FULL) -> int:
    """Return the exact number of evaluations that `bottleneck` spends with these settings; nothing is evaluated.

    With `only_correct` it is the most it can spend: samples that are left out save theirs.

    Args:
        players: what the masker makes of one input.
        settings: samples, pairs, contexts and orders.
    """
    orders = orders_of(players.count, settings.ratios)
    sizes = [len(group) for group in _groups(players, settings, Stream(0))]
    sharing = _sharing(settings)
    one = cost_pair_orders(players.count, sizes, orders, contexts=settings.contexts, sharing=sharing)
    return settings.samples * (one + settings.only_correct)


def fit_bottleneck(
    players: Players,
    budget: int,
    *,
    samples: int | None = None,
    most: SpectrumSettings = FULL,
) -> SpectrumSettings | None:
    """Return the richest settings that the budget pays, or None if it does not pay the quick ones.

    Args:
        players: what the masker makes of one input.
        budget: most evaluations to spend.
        samples: how many inputs there are; no settings ask for more.
        most: settings beyond which more is not wanted, such as `QUICK`; all but samples, blocks and contexts is kept.
    """
    best, best_cost = None, -1
    for rung in _LADDER:
        settings = replace(
            most,
            samples=min(rung.samples, most.samples, samples or rung.samples),
            blocks=min(rung.blocks, most.blocks),
            contexts=min(rung.contexts, most.contexts),
        )
        cost = cost_bottleneck(players, settings)
        if best_cost < cost <= budget:
            best, best_cost = settings, cost
    return best


def bottleneck(
    model: Model,
    x: Float[Tensor, "samples *input"],
    y: Int[Tensor, " samples"],
    masker: Masker,
    *,
    settings: SpectrumSettings = FULL,
    value: ValueOf = log_odds,
    rng: Stream,
    on_step: OnStep = silent,
    work: Work = ALONE,
) -> BottleneckSpectrum:
    """How strongly does the model use interactions of each order?

    S^m is the mean over samples and neighboring pairs of |I^m(i,j)|, the interaction of two input parts in contexts of
    m others. Many networks are strong at few and at nearly all players and weak between: the bottleneck of
    arXiv:2111.06236. A sample's numbers depend on its id, not on its company or the batch size.

    Args:
        model: maps a batch to logits.
        x: inputs; all of them are measured, `settings.samples` is not looked at.
        y: the class whose score is explained, per input; usually the label.
        masker: cuts an input into players, such as `Patches(8, background=x)`.
        settings: pairs, contexts and orders: `QUICK`, `FULL`, `OFFICIAL` or your own.
        value: makes the value function of a class.
        rng: bound to the samples' ids, else row numbers are the ids.
        on_step: progress in evaluations.
        work: keeps and shares out samples over processes.

    Returns:
        The spectrum; `cost_bottleneck` gives its price beforehand.

    Raises:
        ValueError: fewer than two players, ratios outside [0, 1], or no sample is classified correctly where that is
            asked for.
    """
    samples = _Samples.checked(model, x, y, masker, value, rng, only_correct=settings.only_correct)
    first, asked = masker(x[0]), len(x) if settings.only_correct else 0
    orders = orders_of(first.count, settings.ratios)
    one = cost_bottleneck(first, replace(settings, samples=1, only_correct=False))

    def measure(game: ModelGame, bound: Stream, step: OnStep) -> dict[str, Tensor]:
        groups = _groups(game.players, settings, bound)
        contexts, sharing = settings.contexts, _sharing(settings)
        found = pair_orders(game, groups, orders, contexts=contexts, sharing=sharing, rng=bound, on_step=step)
        return {"interactions": found.values, "floors": found.floor.mean(0), "pairs": found.pairs}

    found = samples.map(measure, one, on_step=on_step, work=work, key=f"{settings}|{first.count}")
    measured = Measured(**found, orders=orders, evaluations=asked + one * samples.count, dropped=samples.dropped)
    return spectrum_of(measured, first, normalize=settings.normalize, rng=rng)


def exact_bottleneck(
    model: Model,
    x: Float[Tensor, "samples *input"],
    y: Int[Tensor, " samples"],
    masker: Masker,
    *,
    normalize: Normalize = "measured",
    only_correct: bool = False,
    value: ValueOf = log_odds,
    rng: Stream,
    on_step: OnStep = silent,
    work: Work = ALONE,
) -> BottleneckSpectrum:
    """How strongly does the model use interactions of each order, with all pairs in all contexts of few players?

    Every order from 0 to n-2 of every pair, from the whole table of each sample's game: 2**n evaluations per sample,
    for up to 20 players. What is left as noise floor is rounding in the model's own precision.

    Args:
        model, x, y, masker, value, on_step, work: see `bottleneck`.
        normalize: see `SpectrumSettings`.
        only_correct: leave out the samples that the model classifies wrongly.
        rng: names the samples and draws the bootstrap.

    Raises:
        ValueError: fewer than two or more than 20 players, or no sample is classified correctly where that is asked
            for.
    """
    samples = _Samples.checked(model, x, y, masker, value, rng, only_correct=only_correct)
    first, asked = masker(x[0]), len(x) if only_correct else 0
    one = 1 << first.count

    def measure(game: ModelGame, bound: Stream, step: OnStep) -> dict[str, Tensor]:
        worth = table(game, on_step=step)
        found = pair_interactions(worth)
        # One evaluation is half a unit in the last place off; a difference of four then shows twice that.
        rounding = sqrt(2 / pi) * torch.finfo(game.dtype).eps * float(worth.abs().max())
        floors = torch.full((game.n_players - 1,), rounding, dtype=torch.float64)
        return {"interactions": found.values, "floors": floors, "pairs": found.pairs}

    found = samples.map(measure, one, on_step=on_step, work=work, key=f"exact|{first.count}")
    measured = Measured(
        **found, orders=range(first.count - 1), evaluations=asked + one * samples.count, dropped=samples.dropped
    )
    return spectrum_of(measured, first, normalize=normalize, rng=rng)


@dataclass(frozen=True, eq=False)
class _Samples:
    """The samples that are measured, and the game of each."""

    model: Model
    x: Tensor
    y: Tensor
    masker: Masker
    value: ValueOf
    rng: Stream
    ids: Tensor
    dropped: int

    @classmethod
    def checked(
        cls, model: Model, x: Tensor, y: Tensor, masker: Masker, value: ValueOf, rng: Stream, *, only_correct: bool
    ) -> _Samples:
        ids = check_samples(x, y, rng)
        if not only_correct:
            return cls(model, x, y, masker, value, rng, ids, 0)
        kept = (predicted(model, x) == y.cpu()).nonzero()[:, 0]
        if not len(kept):
            raise ValueError(f"the model classifies none of the {len(x)} samples correctly; allow wrong ones too")
        return cls(model, x[kept], y[kept], masker, value, rng, ids[kept], len(x) - len(kept))

    @property
    def count(self) -> int:
        return len(self.ids)

    def map(
        self,
        measure: Callable[[ModelGame, Stream, OnStep], dict[str, Tensor]],
        cost: int,
        *,
        on_step: OnStep,
        work: Work,
        key: str,
    ) -> dict[str, Tensor]:
        """Return what is measured of each game, which costs `cost` evaluations, with the samples in front."""

        def compute(rows: Tensor, tell: OnStep) -> dict[str, Tensor]:
            k = int(rows)  # one sample is one chunk

            def step(done: int, total: int) -> None:
                on_step(k * cost + done, self.count * cost)
                tell(done, total)

            game = ModelGame(self.model, self.x[k], self.masker, self.value(int(self.y[k])))
            found = measure(game, self.rng.at(self.ids[k : k + 1]).child("bottleneck"), step)
            return {name: tensor[None] for name, tensor in found.items()}

        return work.map("bottleneck", self.ids, compute, chunk=1, key=f"{key}|{self.rng.seed}")
