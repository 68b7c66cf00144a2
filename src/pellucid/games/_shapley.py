"""Shapley values: each player's fair share of the worth of all players together."""

from __future__ import annotations

import torch
from torch import Tensor

from pellucid.core import Estimate, Game, OnStep, Stream, silent

from ._games import MAX_EXACT, cost_of, mean_size, table_of
from ._orders import exact, shapley_table
from ._size_curve import one_sample

_ROWS_PER_STEP = 4096


def shapley(
    game: Game | Tensor,
    *,
    permutations: int | None = None,
    rng: Stream | None = None,
    max_exact: int = MAX_EXACT,
    on_step: OnStep = silent,
) -> Estimate:
    """How much does each player contribute? The mean of v(S+i) - v(S) over all orders in which players can arrive.

    Exact from the whole table (2**n evaluations), or from permutations in antithetic pairs, a permutation and its
    reverse, with R (n-1) + 2 evaluations. Both sum to v(N) - v(empty) exactly (Shapley 1953).

    Args:
        game: a game, or its table `(2**n, *b)`.
        permutations: None for exact values, else an even number R of permutations.
        rng: where the permutations come from; needed with `permutations`.
        max_exact: most players for which the whole table is evaluated.
        on_step: progress in evaluations.

    Returns:
        Values `(n, *b)`; the standard error is zero if exact, else that of the mean over the antithetic pairs, and the
        floor is what |value| would be on average if the player contributed nothing.

    Example:
        >>> import torch
        >>> shapley(torch.tensor([0.0, 1.0, 1.0, 4.0])).values.tolist()
        [2.0, 2.0]
    """
    if permutations is None:
        values, evaluations = table_of(game, max_exact=max_exact, on_step=on_step)
        if len(values) < 2:
            raise ValueError("a game of 0 players has no Shapley values; give it at least one player")
        return exact(shapley_table(values), evaluations)
    if isinstance(game, Tensor):
        raise ValueError("a table gives exact values; leave permutations out")
    if rng is None or permutations < 4 or permutations % 2:
        raise ValueError(f"sampling needs rng= and an even number of at least 4 permutations, got {permutations}")
    return _sampled(game, permutations, one_sample(rng).child("shapley"), on_step)


def _sampled(game: Game, permutations: int, rng: Stream, on_step: OnStep) -> Estimate:
    n, pairs = game.n_players, permutations // 2
    forward = rng.bits((1, pairs, n))[0].argsort(dim=1, stable=True)
    ends = game(torch.tensor([[False], [True]]).expand(2, n))
    total = torch.zeros(n, *ends.shape[1:], dtype=torch.float64, device=ends.device)
    square, center = torch.zeros_like(total), torch.zeros_like(total)
    b, done = ends.shape[1:], 2
    for some in torch.split(forward, max(1, _ROWS_PER_STEP // (2 * n))):
        both = torch.stack([some, some.flip(1)], dim=1).flatten(0, 1)
        ranks = both.argsort(1)
        keep = (ranks[:, None, :] < torch.arange(1, n)[None, :, None]).flatten(0, 1)
        inner = game(keep).view(len(both), n - 1, *b) if n > 1 else ends[None, :0].expand(len(both), -1, *b)
        first, last = (end.expand(len(both), 1, *b) for end in (ends[:1], ends[1:]))
        gains = torch.cat([first, inner, last], dim=1).diff(dim=1)
        place = ranks.to(gains.device).view(*ranks.shape, *[1] * len(b)).expand_as(gains)
        means = gains.gather(1, place).unflatten(0, (-1, 2)).mean(1)  # type: ignore[no-untyped-call]
        # Deviations from the first pair: the square of a mean far from zero would lose them.
        center = means[0] if done == 2 else center
        total += (means - center).sum(0)
        square += (means - center).square().sum(0)
        done += len(keep)
        on_step(done, 2 + permutations * (n - 1))
    mean = total / pairs
    variance = (square / pairs - mean.square()).clamp_min(0) * pairs / (pairs - 1)
    stderr = (variance / pairs).sqrt()
    evaluations = (2 + permutations * (n - 1)) * cost_of(game)
    return Estimate(center + mean, stderr, evaluations, mean_size(stderr, torch.full_like(stderr, pairs - 1)))
