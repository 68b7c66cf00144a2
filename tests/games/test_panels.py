"""Results of games show themselves."""

from __future__ import annotations

import torch

from pellucid.games import Interactions, TableGame, harsanyi, pair_orders, prune, size_curve


def game(n=4):
    return TableGame(torch.arange(2**n, dtype=torch.float64).sqrt())


def test_interactions_show_the_strongest_coalitions_by_name():
    named = Interactions(torch.tensor([0.0, 1.0, 2.0, -3.5]).double(), 4, ("<hat>", "شيرت"))
    assert "players: 2" in str(named)
    assert str(named).splitlines()[-3].split() == ["<hat>", "+", "شيرت", "-3.5"]
    assert "&lt;hat&gt; + شيرت" in named._repr_html_()
    assert repr(named) == str(named)


def test_interactions_of_several_numbers_say_how_many():
    many = harsanyi(torch.rand(8, 2, 3).double())
    assert "shape of each: 2 x 3" in str(many)
    assert len(many._repr_html_()) < 2_000


def test_large_results_stay_small(rng):
    assert len(harsanyi(game(12))._repr_html_()) < 20_000
    curve = size_curve(game(12), rng=rng)
    assert "Mean worth by coalition size" in str(curve)
    assert "<svg" in curve._repr_html_()


def test_pairs_and_paths_show_themselves(rng):
    pairs = pair_orders(game(), torch.tensor([[0, 1]]), (0, 1, 2), contexts=4, rng=rng)
    assert [line.split()[0] for line in str(pairs).splitlines()[-3:]] == ["0", "1", "2"]
    values = torch.arange(16, dtype=torch.float64).sqrt()
    path = prune(harsanyi(values).values, values)
    assert "patterns: 15" in str(path)
    assert "<svg" in path._repr_html_()
