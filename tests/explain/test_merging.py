"""Merging: the worked example of the method, and what is adopted when."""

from __future__ import annotations

import math

import pytest

from pellucid.explain._merging import _candidates, merged


def length(counts: list[float]) -> float:
    """The description length as the method states it."""
    total = sum(counts)
    shares = [count / total for count in counts if count]
    return sum(-math.log(count / total) * count for count in counts if count) - 10 * sum(
        p * math.log(p) for p in shares
    )


def test_the_worked_example():
    found = merged([(0, 1, 2), (0, 1, 3), (4,)], [1, 1, 1], 5)
    assert found.coalitions == ((0, 1),)
    assert found.used == ((0,), (0,), ())
    assert found.lengths[0] == pytest.approx(26.3470, abs=5e-5) == pytest.approx(length([2, 2, 1, 1, 1]), abs=5e-5)
    assert found.lengths[1] == pytest.approx(19.9827, abs=5e-5) == pytest.approx(length([2, 1, 1, 1]), abs=5e-5)
    assert found.lengths[0] - found.lengths[1] == pytest.approx(6.3644, abs=5e-5)


def test_the_unshared_whole_would_gain_less():
    whole = merged([(0, 1, 2), (0, 1, 3), (4,)], [1, 1, 1], 5).lengths[0] - length([1, 1, 1, 1, 1])
    assert whole == pytest.approx(2.2052, abs=5e-4)


def test_only_what_two_patterns_share_is_a_candidate():
    import numpy as np

    masks = np.array([0b00111, 0b01011, 0b10000], dtype=np.int64)
    assert _candidates(masks, 5).tolist() == [0b00011]
    assert _candidates(np.array([0b1111, 0b1111]), 4).tolist() == [3, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15]


@pytest.mark.parametrize("patterns", [[], [(0,)], [(0,), (1,), (2,)], [(0, 1), (2, 3)]])
def test_nothing_is_merged_where_nothing_is_shared(patterns):
    found = merged(patterns, [1.0] * len(patterns), 4)
    assert found.coalitions == ()
    assert found.used == tuple(() for _ in patterns)


def test_coalitions_grow_out_of_coalitions():
    found = merged([(0, 1, 2, 3), (0, 1, 2), (0, 1, 4), (0, 1, 2, 4), (3, 4)], [5, 4, 3, 2, 1], 5)
    assert found.coalitions == ((0, 1), (0, 1, 2))
    assert found.used == ((1,), (1,), (0,), (1,), ())
    assert list(found.lengths) == sorted(found.lengths, reverse=True)


def test_words_of_a_pattern_share_no_player_and_five_rounds_are_the_most():
    import itertools

    patterns = [pattern for size in (2, 3, 4) for pattern in itertools.combinations(range(8), size)]
    found = merged(patterns, [1.0 + len(pattern) for pattern in patterns], 8)
    assert len(found.coalitions) <= 5
    for pattern, used in zip(patterns, found.used, strict=True):
        members = [p for c in used for p in found.coalitions[c]]
        assert len(members) == len(set(members))
        assert set(members) <= set(pattern)


def test_equal_gains_go_by_the_players_names():
    found = merged([(0, 1, 4), (0, 1, 5), (2, 3, 4), (2, 3, 5)], [1, 1, 1, 1], 6)
    assert found.coalitions[0] == (0, 1)
