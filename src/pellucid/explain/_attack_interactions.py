"""Do the pixels of a perturbation work together? The interaction of a set of players as one (arXiv:2108.06895).

A perturbation d is cut into blocks, the players; the worth of a coalition S is a score of x + d_S, the image with the
perturbation on S alone. The interaction of a set A is the Shapley value of A as one player minus those of its members.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.core import Estimate, Game, OnStep, Stream, Value, silent
from pellucid.games import ModelGame, Patches, coalitions, table

Definition = Literal["shapley", "merged"]

_ROWS_PER_STEP = 4096


@dataclass(frozen=True)
class LogitGap:
    """The worth z_target - z_y of logits: what an attack towards `target` gains.

    Args:
        target: the class the attack pushes up.
        y: the class it pushes down.
    """

    target: int
    y: int

    def __call__(self, z: Float[Tensor, "c k"]) -> Float[Tensor, " c"]:
        return z[:, self.target] - z[:, self.y]


def perturbation_game(
    model: object, x: Tensor, delta: Tensor, value: Value, *, grid: int | tuple[int, int] = 8
) -> ModelGame:
    """Return the game whose players are the cells of a grid on a perturbation: absent cells are not perturbed.

    Any estimator reads it: `games.shapley(perturbation_game(...), permutations=32, rng=rng)` says how much of the score
    each region of the perturbation destroys.

    Args:
        model: maps a batch of images to logits.
        x: one image `(C, H, W)`.
        delta: the perturbation `(C, H, W)`.
        value: turns logits into worth, such as `games.log_odds(y)`, which falls when the attack succeeds.
        grid: cells per side, or (rows, columns); uneven sizes where they do not divide the image.

    Raises:
        ValueError: image and perturbation differ in shape, or the grid is larger than the image.

    Example:
        >>> from pellucid import games
        >>> model = lambda x: torch.stack([x.sum((1, 2, 3)), 0 * x[:, 0, 0, 0]], dim=1)
        >>> x, delta = torch.ones(1, 2, 2), torch.tensor([[[-1.0, 0.0], [-0.5, 0.0]]])
        >>> games.shapley(perturbation_game(model, x, delta, games.logit(0), grid=2)).values.tolist()
        [-1.0, 0.0, -0.5, 0.0]
    """
    if x.ndim != 3 or delta.shape != x.shape:
        raise ValueError(
            f"x and delta must be one image (C, H, W) and its change, got {tuple(x.shape)} and {tuple(delta.shape)}"
        )
    return ModelGame(model, (x + delta).detach(), Patches(grid, fill=x.detach()), value)  # type: ignore[arg-type]


def coalition_interactions(
    game: Game | Tensor,
    sets: Sequence[Sequence[int]],
    *,
    definition: Definition = "shapley",
    contexts: int | None = None,
    rng: Stream | None = None,
    on_step: OnStep = silent,
) -> Estimate:
    """How much more is a set of players worth together than its members one by one?

    I(A) = phi([A]) - sum over i in A of phi(i), with phi([A]) the Shapley value of A as one player. "shapley" takes
    phi(i) in the game without the other members of A; for pairs that is the Shapley interaction index. In dividends h,
    I(A) = sum over S with at least two members of A of h(S) / (|S - A| + 1). "merged" takes phi(i) in the whole game,
    as the authors' code does: the interaction of a pair of exactly two then cancels (v = s1 s2 gives 0).

    Args:
        game: a game, or its table `(2**n,)`.
        sets: the sets A, each of at least two different players.
        definition: how members are valued, see above.
        contexts: None for exact values, from the table of all coalitions; else an even number of random contexts S per
            set, in antithetic pairs (S and the other players without S). The draw is the same for every set.
        rng: where the contexts come from; needed with `contexts`.
        on_step: progress in evaluations.

    Returns:
        Values `(len(sets),)`; "shapley" costs contexts * (|A| + 2) evaluations a set, "merged" contexts * (2 |A| + 2).

    Raises:
        ValueError: a set of fewer than two players, an unknown player, or an unknown definition.

    Example:
        >>> product = torch.tensor([0.0, 0.0, 0.0, 1.0])  # v = s1 s2
        >>> coalition_interactions(product, [(0, 1)]).values.tolist()
        [1.0]
        >>> coalition_interactions(product, [(0, 1)], definition="merged").values.tolist()
        [0.0]
    """
    if definition not in ("shapley", "merged"):
        raise ValueError(f"definition must be 'shapley' or 'merged', got {definition!r}")
    n = len(game).bit_length() - 1 if isinstance(game, Tensor) else game.n_players
    _check_sets(sets, n)
    if contexts is None:
        worth = game.double() if isinstance(game, Tensor) else table(game, on_step=on_step)
        values = [_exact(worth, list(group), n, definition) for group in sets]
        exact = torch.stack(values) if values else torch.zeros(0, dtype=torch.float64)
        return Estimate(exact, torch.zeros_like(exact), 0 if isinstance(game, Tensor) else len(worth))
    if isinstance(game, Tensor):
        raise ValueError("a table gives exact values; leave contexts out")
    if rng is None or contexts < 4 or contexts % 2:
        raise ValueError(f"sampling needs rng= and an even number of at least 4 contexts, got {contexts}")
    rng = (rng if rng.ids is not None else rng.at([0])).child("coalition-interactions")
    return _sampled(game, sets, n, definition, contexts // 2, rng, on_step)


def _check_sets(sets: Sequence[Sequence[int]], n: int) -> None:
    for group in sets:
        if len(group) < 2 or len(set(group)) < len(group):
            raise ValueError(f"a set needs at least two different players, got {list(group)}")
        if not all(0 <= p < n for p in group):
            raise ValueError(f"players are 0 to {n - 1}, got {list(group)}")


# -- exact --------------------------------------------------------------------------------------------------------


def _exact(worth: Tensor, group: list[int], n: int, definition: Definition) -> Tensor:
    together = _as_one(worth, group, [], n)
    members = [_as_one(worth, [p], [q for q in group if q != p] if definition == "shapley" else [], n) for p in group]
    return together - torch.stack(members).sum(0)


def _as_one(worth: Tensor, group: list[int], absent: list[int], n: int) -> Tensor:
    """Return the Shapley value of `group` as one player among the players outside `group` and `absent`."""
    free = [p for p in range(n) if p not in group and p not in absent]
    m = len(free)
    contexts = coalitions(m)
    rows = (contexts.long() << torch.tensor(free, dtype=torch.int64)).sum(1) if m else torch.zeros(1, dtype=torch.int64)
    size = contexts.sum(1).double() if m else torch.zeros(1, dtype=torch.float64)
    # s! (m - s)! / (m + 1)!
    weight = ((size + 1).lgamma() + (m - size + 1).lgamma() - torch.tensor(m + 2.0).double().lgamma()).exp()
    gain = worth[rows + sum(1 << p for p in group)] - worth[rows]
    return (weight.to(worth.device) * gain).sum()


# -- sampled ------------------------------------------------------------------------------------------------------


def _sampled(
    game: Game,
    sets: Sequence[Sequence[int]],
    n: int,
    definition: Definition,
    pairs: int,
    rng: Stream,
    on_step: OnStep,
) -> Estimate:
    ranks = rng.child("order").bits((1, pairs, n))[0].argsort(1).argsort(1)
    # Systematic draws: the sizes of the contexts are spread evenly, each context's size is uniform.
    place = (torch.arange(pairs) + rng.child("size").uniform((1, 1), dtype=torch.float64)[0]) / pairs
    total = sum(2 * pairs * ((2 if definition == "merged" else 1) * len(group) + 2) for group in sets)
    values, errors, spent = [], [], 0
    for size in sorted({len(group) for group in sets}):
        where = [k for k, group in enumerate(sets) if len(group) == size]
        each = 2 * pairs * ((2 if definition == "merged" else 1) * size + 2)
        for part in torch.split(torch.tensor(where), max(1, _ROWS_PER_STEP // each)):
            groups = torch.tensor([list(sets[k]) for k in part.tolist()])
            draws = _draws(game, groups, ranks, place, definition)  # (q, pairs): means of antithetic pairs
            spent += each * len(part)
            on_step(spent, total)
            values.append((part, draws.mean(1)))
            errors.append(draws.std(1) / pairs**0.5)
    mean, stderr = torch.zeros(len(sets), dtype=torch.float64), torch.zeros(len(sets), dtype=torch.float64)
    for (part, value), error in zip(values, errors, strict=True):
        mean[part], stderr[part] = value, error
    return Estimate(mean, stderr, spent)


def _draws(game: Game, groups: Tensor, ranks: Tensor, place: Tensor, definition: Definition) -> Tensor:
    members = groups.T  # (g, q)
    if definition == "shapley":
        start = _contexts(groups, ranks, place)
        corners = [_with(start, groups), *(_with(start, member[:, None]) for member in members)]
        base, together, *single = _worths(game, [start, *corners])
        gains = [(together - base), *(base - one for one in single)]
    else:
        starts = [_contexts(groups, ranks, place), *(_contexts(member[:, None], ranks, place) for member in members)]
        added = [groups, *(member[:, None] for member in members)]
        worths = _worths(game, [*starts, *(_with(start, more) for start, more in zip(starts, added, strict=True))])
        half = len(starts)
        signs = [1.0] + [-1.0] * (half - 1)
        gains = [sign * (worths[half + k] - worths[k]) for k, sign in enumerate(signs)]
    return torch.stack(gains).sum(0).unflatten(1, (-1, 2)).mean(2)  # type: ignore[no-untyped-call, no-any-return]


def _contexts(groups: Tensor, ranks: Tensor, place: Tensor) -> Tensor:
    """Return contexts of the other players, bool `(q, 2 * pairs, n)`: a context beside its complement."""
    (q, g), n = groups.shape, ranks.shape[1]
    member = torch.zeros(q, 1, n, dtype=torch.bool).scatter(2, groups[:, None, :], torch.ones(q, 1, g).bool())
    # Members go to the end; the order of the others stays.
    order = (ranks[None] + n * member).argsort(2).argsort(2)
    size = (place * (n - g + 1)).long().clamp(max=n - g)[None, :, None]
    first = order < size
    both = torch.stack([first, ~first & ~member], dim=2)
    return both.flatten(1, 2)


def _with(start: Tensor, more: Tensor) -> Tensor:
    index = more[:, None, :].expand(-1, start.shape[1], -1)
    return start.scatter(2, index, torch.ones_like(index, dtype=torch.bool))


def _worths(game: Game, keeps: list[Tensor]) -> list[Tensor]:
    """Ask the game for all coalitions together, so that its batches are full."""
    rows = torch.cat([keep.flatten(0, 1) for keep in keeps])
    worth = torch.cat([game(part) for part in torch.split(rows, _ROWS_PER_STEP)]).cpu()
    return [part.view(keeps[0].shape[:2]) for part in worth.chunk(len(keeps))]
