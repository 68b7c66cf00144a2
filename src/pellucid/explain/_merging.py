"""Which parts do several patterns share? Named coalitions that make a list of patterns shortest to describe.

A pattern is a set of words. Words are the players at first; a coalition that is adopted becomes a word in the place of
its words, in every pattern that has them all. count(m) is the sum of |effect| over the patterns that use word m, and
p(m) its share of all counts. The description length in the authors' code is, with natural logarithms,

    L = sum of count(m) (-log p(m)) + 10 sum of p(m) (-log p(m)).

Five times at most the coalition with the greatest shortening per player is adopted, if it shortens at all
(arXiv:2111.06206). Only coalitions that two patterns share can shorten, so only subsets of what two patterns have in
common are tried. Sets of words are bit masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

ROUNDS = 5
_PRICE = 10.0
"""Weight of the vocabulary's entropy in the length."""


@dataclass(frozen=True)
class Merged:
    """Patterns over players and coalitions.

    Args:
        coalitions: players of each adopted coalition, in the order of adoption.
        used: for each pattern the numbers of the coalitions that it has as words.
        lengths: description length at first and after each adoption.
    """

    coalitions: tuple[tuple[int, ...], ...]
    used: tuple[tuple[int, ...], ...]
    lengths: tuple[float, ...]


def merged(patterns: Sequence[Sequence[int]], weights: Sequence[float], n_players: int) -> Merged:
    """Return the coalitions that patterns share.

    Args:
        patterns: the players of each pattern.
        weights: |effect| of each.
        n_players: number of players.
    """
    masks = np.array([sum(1 << p for p in pattern) for pattern in patterns], dtype=np.int64)
    weight = np.asarray(weights, dtype=np.float64)
    players = [1 << p for p in range(n_players)]  # the players of each word
    lengths = [float(_length(_counts(masks, weight, len(players))[None])[0])]
    while len(players) < n_players + ROUNDS:
        candidates = _candidates(masks, len(players))
        if not len(candidates):
            break
        after = _length(_counts_after(masks, weight, candidates, len(players)))
        own = np.array([_union(int(mask), players) for mask in candidates])
        gain = lengths[-1] - after
        best = _best(gain, own)
        if not gain[best] > 1e-12 * lengths[-1]:
            break
        mask = candidates[best]
        has = (masks & mask) == mask
        masks = np.where(has, (masks & ~mask) | (1 << len(players)), masks)
        players.append(int(own[best]))
        lengths.append(float(after[best]))
    adopted = players[n_players:]
    found = [tuple(k for k in range(len(adopted)) if mask >> (n_players + k) & 1) for mask in masks.tolist()]
    return Merged(tuple(_listed(mask) for mask in adopted), tuple(found), tuple(lengths))


def _listed(mask: int) -> tuple[int, ...]:
    return tuple(p for p in range(mask.bit_length()) if mask >> p & 1)


def _sizes(masks: np.ndarray) -> np.ndarray:
    return np.array([mask.bit_count() for mask in masks.tolist()], dtype=np.int64)


def _union(words: int, players: list[int]) -> int:
    union = 0
    for word in _listed(words):
        union |= players[word]
    return union


def _candidates(masks: np.ndarray, n_words: int) -> np.ndarray:
    """Return the sets of two words or more that at least two patterns have."""
    first, second = np.triu_indices(len(masks), 1)
    shared = np.zeros(1 << n_words, dtype=bool)
    shared[masks[first] & masks[second]] = True
    for word in range(n_words):  # what holds for a set holds for its subsets
        halves = shared.reshape(-1, 2, 1 << word)
        halves[:, 0] |= halves[:, 1]
    found = np.flatnonzero(shared)
    return found[_sizes(found) >= 2]


def _counts(masks: np.ndarray, weight: np.ndarray, n_words: int) -> np.ndarray:
    bits = (masks[:, None] >> np.arange(n_words)) & 1
    counts: np.ndarray = weight @ bits
    return counts


def _counts_after(masks: np.ndarray, weight: np.ndarray, candidates: np.ndarray, n_words: int) -> np.ndarray:
    """Return the counts of all words and the new one, after adopting each candidate."""
    moved = ((masks[None, :] & candidates[:, None]) == candidates[:, None]) @ weight
    bits = (candidates[:, None] >> np.arange(n_words)) & 1
    counts = _counts(masks, weight, n_words)[None, :] - moved[:, None] * bits
    return np.concatenate([np.maximum(counts, 0.0), moved[:, None]], axis=1)


def _length(counts: np.ndarray) -> np.ndarray:
    total = counts.sum(1, keepdims=True)
    share = np.divide(counts, total, out=np.zeros_like(counts), where=total > 0)
    surprise = -np.log(share, out=np.zeros_like(share), where=share > 0)
    length: np.ndarray = ((counts + _PRICE * share) * surprise).sum(1)
    return length


def _best(gain: np.ndarray, players: np.ndarray) -> int:
    """Return the candidate that shortens most per player; of equals the one that shortens most, then by players."""
    per_player = gain / _sizes(players)
    near = np.flatnonzero(per_player >= per_player.max() - 1e-9 * np.abs(per_player).max())
    near = near[gain[near] >= gain[near].max() - 1e-9 * np.abs(gain[near]).max()]
    return int(min(near.tolist(), key=lambda k: _listed(int(players[k]))))
