"""The same numbers as shapiq's exact computer, on twenty random games."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from pellucid.core import Stream
from pellucid.games import harsanyi, pair_interactions, shapley

pytestmark = pytest.mark.peers


@pytest.mark.parametrize("seed", range(20))
def test_equals_shapiq(seed):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exact = pytest.importorskip("shapiq.game_theory.exact", reason="needs the peers extra")
    n = 3 + seed % 5
    v = Stream(seed).child("peer").normal((1 << n, 1), dtype=torch.float64)[:, 0]
    weights = 1 << np.arange(n)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        computer = exact.ExactComputer(lambda keep: v.numpy()[keep.astype(np.int64) @ weights], n)
        dividends = computer("Moebius", order=n)
        values = computer("SV", order=1)
        pairs = computer("SII", order=2)
    ours = harsanyi(v).values
    for players in dividends.interaction_lookup:
        if players:
            row = sum(1 << p for p in players)
            assert float(ours[row]) == pytest.approx(float(dividends[players]), abs=1e-9)
    found = shapley(v).values
    for p in range(n):
        assert float(found[p]) == pytest.approx(float(values[(p,)]), abs=1e-9)
    orders = pair_interactions(v)
    for k, (i, j) in enumerate(orders.pairs.tolist()):
        assert float(orders.values[k].mean()) == pytest.approx(float(pairs[(i, j)]), abs=1e-9)
