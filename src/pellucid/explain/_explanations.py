"""Why this score on this input? One game per sample: shares of single players, interactions of several, and the curve.

Exact from the whole table where that is affordable, else Shapley values and the size curve from random orders.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import comb

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.core import ALONE, BudgetError, Masker, Model, OnStep, Players, Stream, Work
from pellucid.games import (
    Interactions,
    ModelGame,
    ValueOf,
    by_size,
    cost_size_curve,
    find_index,
    harsanyi,
    index,
    log_odds,
    noise_floor,
    noise_limits,
    shapley,
    size_curve,
    table,
)

from ._samples import check_samples

_PROBES = 64
_CURVE_SIZES, _CURVE_PERMUTATIONS = 9, 20
_MOST_NUMBERS = 1 << 16
"""Most interactions of one sample that are kept."""


@dataclass(frozen=True)
class ExplanationSettings:
    """What an explanation measures.

    Args:
        index: one of `games.INDICES`, such as "SII" (singles are then the Shapley values) or "Moebius" (Harsanyi).
        order: most players of an interaction; 1 for the values SV and BV.
        permutations: random orders for Shapley values of more than `max_exact` players; an even number.
        max_exact: most players for which all 2**n coalitions are evaluated.
    """

    index: str = "SII"
    order: int = 2
    permutations: int = 100
    max_exact: int = 20

    def exact(self, n_players: int) -> bool:
        """Whether a game of so many players is evaluated wholly."""
        return n_players <= self.max_exact


@dataclass(frozen=True, eq=False)
class Explanation:
    """How the parts of one input made its score.

    Args:
        interactions: the index's numbers, of at most `order` players each; the empty coalition has v(empty).
        stderr: standard error of each, in the same order; zero where exact.
        shapley: `(n,)`, each player's share of v(N) - v(empty).
        shapley_stderr: `(n,)`, zero where exact.
        sizes: int64 `(M,)`, numbers of players of the size curve.
        curve: `(M,)`, mean worth of the coalitions of each size.
        curve_stderr: `(M,)`, zero where exact.
        variance: `(n + 1,)`, the part of the worth's variance over all coalitions that interactions of s players make
            (squared Walsh coefficients); None where the game was sampled. It sums to the variance.
        floor: deviation of one evaluation; see `games.noise_floor`.
        grid: rows and columns of the players, None without a grid.
        owner: the player of each element, as in `core.Players`.
        evaluations: model evaluations spent.
    """

    interactions: Interactions
    stderr: Float[Tensor, " rows"]
    shapley: Float[Tensor, " n"]
    shapley_stderr: Float[Tensor, " n"]
    sizes: Int[Tensor, " sizes"]
    curve: Float[Tensor, " sizes"]
    curve_stderr: Float[Tensor, " sizes"]
    variance: Float[Tensor, " orders"] | None
    floor: float
    grid: tuple[int, int] | None
    owner: Int[Tensor, "..."]
    evaluations: int

    @property
    def n_players(self) -> int:
        """Number of players."""
        return len(self.shapley)

    @property
    def exact(self) -> bool:
        """Whether every coalition was evaluated."""
        return self.variance is not None

    @property
    def order(self) -> int:
        """Most players of an interaction."""
        return max(len(players) for players in self.interactions.players)

    @property
    def score(self) -> float:
        """The worth of all players together: the score of the unmasked input."""
        return float(self.curve[-1])

    @property
    def empty(self) -> float:
        """The worth of nobody: the score when all players are absent."""
        return float(self.curve[0])

    def noise(self) -> Float[Tensor, " rows"]:
        """Return the size below which each interaction cannot be told from noise: rounding, and sampling if any."""
        limits = noise_limits(self.interactions.index, self.n_players, self.order, self.floor)
        rounding = torch.tensor([limits[len(players)] for players in self.interactions.players], dtype=torch.float64)
        return torch.maximum(rounding, 2 * self.stderr)

    def shares(self) -> Float[Tensor, " orders"] | None:
        """Return the share of the variance that interactions of each size make; None if sampled or nothing varies."""
        if self.variance is None:
            return None
        total = float(self.variance.sum())
        return self.variance / total if total > len(self.variance) * self.floor**2 else None


def check_explanation(n_players: int, settings: ExplanationSettings) -> None:
    """Check that these settings explain a game of so many players.

    Raises:
        ValueError: an unknown index, or an order it does not have.
        BudgetError: the game has too many players for the index; the text gives what it would take and a way out.
    """
    chosen, n = find_index(settings.index), n_players
    if not 1 <= settings.order <= n or (chosen.value and settings.order != 1):
        most = 1 if chosen.value else n
        raise ValueError(f"the order of {chosen.name} must be from 1 to {most} for {n} players, got {settings.order}")
    if not settings.exact(n) and chosen.name != "SV":
        raise BudgetError(
            f"{chosen.name} of {n} players takes 2**{n} evaluations per sample; choose at most {settings.max_exact} "
            "players, or the index SV, which is sampled"
        )
    if settings.max_exact > 24:
        raise ValueError(f"max_exact must be at most 24, got {settings.max_exact}; a table doubles with each player")
    if settings.permutations < 4 or settings.permutations % 2:
        raise ValueError(f"permutations must be an even number of at least 4, got {settings.permutations}")
    if (numbers := _rows(n, settings.order)) > _MOST_NUMBERS:
        raise BudgetError(
            f"{n} players have {numbers:,} interactions up to order {settings.order}, more than the {_MOST_NUMBERS:,} "
            "that are kept; choose a lower order"
        )


def cost_explanation(n_players: int, settings: ExplanationSettings) -> int:
    """Return the exact number of evaluations that explain one sample of so many players."""
    if settings.exact(n_players):
        return (1 << n_players) + 2 * _PROBES
    sizes = _curve_sizes(n_players)
    curve = cost_size_curve(n_players, sizes=sizes, permutations=_CURVE_PERMUTATIONS)
    return settings.permutations * (n_players - 1) + 2 + curve + 2 * _PROBES


def explanations(
    model: Model,
    x: Float[Tensor, "samples *input"] | Int[Tensor, "samples *input"],
    y: Int[Tensor, " samples"],
    masker: Masker | Sequence[Masker],
    *,
    settings: ExplanationSettings = ExplanationSettings(),
    value: ValueOf = log_odds,
    rng: Stream,
    work: Work = ALONE,
) -> tuple[Explanation, ...]:
    """Which parts of each input made its score, alone and together?

    A sample's numbers depend on its id, not on its company, and are the same in one process and in many.

    Args:
        model: maps a batch to logits.
        x: inputs.
        y: the class whose score is explained, per input.
        masker: cuts an input into players; one for all inputs, or one for each.
        settings: the index, and how exactly it is measured.
        value: makes the value function of a class.
        rng: bound to the samples' ids, else row numbers are the ids.
        work: how the computation is watched, kept and shared out.

    Raises:
        ValueError: settings or samples that do not fit.
        BudgetError: more players than the index can be computed for.

    Example:
        >>> import torch
        >>> from pellucid.games import Features
        >>> model = lambda x: torch.stack([x[:, 0] * x[:, 1], -x[:, 0]], dim=1)
        >>> x, rng = torch.tensor([[1.0, 2.0]]), Stream(0)
        >>> (found,) = explanations(model, x, torch.tensor([0]), Features(fill="zero"), rng=rng)
        >>> found.interactions[0, 1].item(), found.shapley.tolist()
        (2.0, [2.0, 1.0])
    """
    ids = check_samples(x, y, rng)
    maskers = [masker] * len(x) if isinstance(masker, Masker) else list(masker)
    if len(maskers) != len(x):
        raise ValueError(f"one masker per input is needed, got {len(maskers)} for {len(x)} inputs")
    players = [make(one) for make, one in zip(maskers, x, strict=True)]
    most = max(cut.count for cut in players)
    check_explanation(most, settings)
    rows = _rows(most, settings.order)

    def compute(chosen: Tensor, on_step: OnStep) -> dict[str, Tensor]:
        found = []
        for place, k in enumerate(chosen.tolist()):
            game = ModelGame(model, x[k], maskers[k], value(int(y[k])))
            bound = rng.at(ids[k : k + 1]).child("explanation")

            def step(done: int, total: int, place: int = place) -> None:
                on_step(place * total + done, len(chosen) * total)

            own = _for(game.n_players, settings)
            measure = _measured if own.exact(game.n_players) else _sampled
            found.append(_padded(measure(game, own, bound, step), rows, most))
        return {key: torch.stack([one[key] for one in found]) for key in found[0]}

    counts = ",".join(str(cut.count) for cut in players)
    computed = work.map("explanations", ids, compute, chunk=max(1, len(x) // 256), key=f"{settings}|{counts}")
    return tuple(
        _explanation({key: tensor[k] for key, tensor in computed.items()}, _for(cut.count, settings), cut)
        for k, cut in enumerate(players)
    )


def _for(n: int, settings: ExplanationSettings) -> ExplanationSettings:
    """Return the settings for a sample with fewer players than others have."""
    return replace(settings, order=min(settings.order, n))


def _rows(n: int, order: int) -> int:
    """Return how many coalitions have at most `order` of n players."""
    return sum(comb(n, s) for s in range(order + 1))


def _curve_sizes(n: int) -> list[int]:
    return sorted({round(n * k / (_CURVE_SIZES - 1)) for k in range(_CURVE_SIZES)} | {0, 1, n})


def _measured(game: ModelGame, settings: ExplanationSettings, rng: Stream, on_step: OnStep) -> dict[str, Tensor]:
    """Everything from the whole table."""
    total = cost_explanation(game.n_players, settings)
    worth = table(game, max_exact=settings.max_exact, on_step=lambda done, _: on_step(done, total)).cpu()
    floor = noise_floor(game, rng=rng, probes=_PROBES)
    on_step(total, total)
    dividends = harsanyi(worth)
    numbers = index(dividends, settings.index, order=settings.order).values
    shares = index(dividends, "SV").values[1:]
    curve = by_size(worth)
    return {
        "values": numbers,
        "stderr": torch.zeros_like(numbers),
        "shapley": shares,
        "shapley_stderr": torch.zeros_like(shares),
        "curve": curve,
        "curve_stderr": torch.zeros_like(curve),
        "variance": _variance(worth),
        "floor": torch.tensor(floor, dtype=torch.float64),
    }


def _sampled(game: ModelGame, settings: ExplanationSettings, rng: Stream, on_step: OnStep) -> dict[str, Tensor]:
    """Shapley values and the size curve from random orders."""
    total = cost_explanation(game.n_players, settings)

    def step(done: int, _: int) -> None:
        on_step(done, total)

    found = shapley(game, permutations=settings.permutations, rng=rng, on_step=step)
    sizes = _curve_sizes(game.n_players)
    curve = size_curve(game, sizes=sizes, permutations=_CURVE_PERMUTATIONS, rng=rng)
    floor = noise_floor(game, rng=rng, probes=_PROBES)
    on_step(total, total)
    constant = curve.f[:1]
    return {
        "values": torch.cat([constant, found.values]).cpu(),
        "stderr": torch.cat([torch.zeros_like(constant), found.stderr]).cpu(),
        "shapley": found.values.cpu(),
        "shapley_stderr": found.stderr.cpu(),
        "curve": curve.f.cpu(),
        "curve_stderr": curve.stderr.cpu(),
        "variance": torch.full((game.n_players + 1,), torch.nan, dtype=torch.float64),
        "floor": torch.tensor(floor, dtype=torch.float64),
    }


def _variance(worth: Tensor) -> Tensor:
    """Return the variance of the worth over all coalitions by the size of the interactions that make it.

    The Walsh coefficients of a game are orthogonal, so their squares add up to the variance.
    """
    n = len(worth).bit_length() - 1
    for p in range(n):
        pair = worth.reshape(-1, 2, 1 << p)
        worth = torch.stack([(pair[:, 0] + pair[:, 1]) / 2, (pair[:, 1] - pair[:, 0]) / 2], dim=1).reshape(-1)
    squares = worth.square()
    squares[0] = 0
    return by_size(squares) * torch.tensor([comb(n, s) for s in range(n + 1)], dtype=torch.float64)


def _padded(found: dict[str, Tensor], rows: int, most: int) -> dict[str, Tensor]:
    """Give all samples tensors of one shape, although superpixels may be fewer in some; NaN fills up."""
    widths = {"values": rows, "stderr": rows, "shapley": most, "shapley_stderr": most, "floor": 0}
    return {
        key: tensor
        if not tensor.ndim
        else torch.nn.functional.pad(tensor, (0, widths.get(key, most + 1) - len(tensor)), value=torch.nan)
        for key, tensor in found.items()
    }


def _explanation(found: dict[str, Tensor], settings: ExplanationSettings, players: Players) -> Explanation:
    n, exact = players.count, settings.exact(players.count)
    cost, floor = cost_explanation(n, settings), float(found["floor"])
    rows = _rows(n, settings.order)
    sizes = torch.arange(n + 1) if exact else torch.tensor(_curve_sizes(n))
    numbers = Interactions(
        found["values"][:rows],
        cost,
        players.names,
        index=find_index(settings.index).name,
        n_players=n,
        max_order=settings.order if exact else None,
        # Of many players the coalitions cannot be counted up; the singles are all there are.
        sets=None if exact else ((), *((p,) for p in range(n))),
        floor=floor,
    )
    return Explanation(
        interactions=numbers,
        stderr=found["stderr"][:rows],
        shapley=found["shapley"][:n],
        shapley_stderr=found["shapley_stderr"][:n],
        sizes=sizes,
        curve=found["curve"][: len(sizes)],
        curve_stderr=found["curve_stderr"][: len(sizes)],
        variance=found["variance"][: n + 1] if exact else None,
        floor=floor,
        grid=players.grid,
        owner=players.owner,
        evaluations=cost,
    )
