"""Explanations show themselves."""

from __future__ import annotations

import torch
from torch import nn

from pellucid.explain import (
    SpectrumSettings,
    and_or_graph,
    bottleneck,
    concept_maps,
    match_concepts,
    signed_order_curve,
)
from pellucid.games import Patches
from pellucid.nn import MatrixDecomposition


def test_explanations_show_their_numbers(rng):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 5), nn.Tanh(), nn.Linear(5, 2))
    x, y = torch.rand(3, 1, 6, 6), torch.tensor([0, 1, 0])
    masker, ids = Patches(3, fill="zero"), torch.arange(3)
    settings = SpectrumSettings(3, 1, 2, ratios=(0.0, 0.5, 1.0))
    spectrum = bottleneck(model, x, y, masker, settings=settings, rng=rng.child("s").at(ids))
    assert "players: 9" in str(spectrum)
    curve = signed_order_curve(model, x, y, masker, permutations=4, bins=3, rng=rng.child("c").at(ids))
    assert "What each range of orders adds to the score" in str(curve)
    found = and_or_graph(model, x[0], masker, target=0, rng=rng.child("p").at(ids[:1]))
    assert "of 511" in str(found)
    assert found.names[found.patterns[0].players[0]] in str(found)
    for result in (spectrum, curve):
        assert "<svg" in result._repr_html_()
        assert len(result._repr_html_()) < 20_000
        assert repr(result) == str(result)


def test_concept_maps_show_their_atoms(rng):
    x, masks = rng.uniform((6, 3, 8, 8)), rng.integers(2, (6, 8, 8))
    (found,) = concept_maps(nn.Sequential(MatrixDecomposition(3, rank=2)), x)
    assert "atoms: 2" in str(found)
    assert "places: 8 x 8" in str(found)
    assert "<svg" in found._repr_html_()
    matches = match_concepts(found.maps, masks, 2, rng=rng)
    assert "IoU is that of the 3 others" in str(matches)
    assert repr(matches) == str(matches)
