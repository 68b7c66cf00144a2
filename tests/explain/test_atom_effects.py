"""Atoms left out: what is taken away is that atom's part, and answers that rest on it change."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pellucid.core import DataError, ModelError
from pellucid.explain import atom_effects, concept_maps, cost_atom_effects
from pellucid.explain._atom_effects import _part
from pellucid.nn import Hamburger, MatrixDecomposition


@pytest.mark.parametrize("shape", [(3, 4, 5, 6), (3, 30, 4), (2, 4, 2, 3, 5)])
@pytest.mark.parametrize("settings", [{"heads": 2}, {"kind": "cd"}, {"axis": "channel", "heads": 2, "rank": 2}])
def test_the_parts_of_all_atoms_sum_to_the_answer(rng, shape, settings):
    layer = MatrixDecomposition(4, **{"rank": 2, **settings}).eval()
    x = rng.uniform(shape)
    factors, answer = layer.decompose(x), layer(x)
    parts = [_part(layer, factors, atom, answer) for atom in range(layer.heads * layer.rank)]
    torch.testing.assert_close(sum(parts), answer, atol=1e-5, rtol=1e-4)


def planted():
    """Pixels of three colors, an atom per color, and the color as the answer; the first class wins without one."""
    layer = MatrixDecomposition(3, rank=3, init="learned")
    read = nn.Conv2d(3, 3, 1)
    with torch.no_grad():
        layer.start.copy_(torch.eye(3)[None])
        read.weight.copy_(torch.eye(3)[:, :, None, None])
        read.bias.copy_(torch.tensor([0.1, 0.0, 0.0]))
    return nn.Sequential(layer, read)


def test_answers_that_rest_on_an_atom_change_without_it(rng):
    masks = rng.integers(3, (6, 8, 8))
    x = F.one_hot(masks, 3).permute(0, 3, 1, 2).float()
    found = atom_effects(planted(), x, layer="0", batch_size=4)
    expected = torch.tensor([[0.0, 0, 0], [0, 1, 0], [0, 0, 1]])  # without the first atom its class still wins
    torch.testing.assert_close(found.by_class, expected)
    share = torch.stack([(masks == k).float().mean() for k in range(3)])
    torch.testing.assert_close(found.changed, expected @ share)
    assert found.evaluations == cost_atom_effects(6, 3) == 30
    assert found.without_any == pytest.approx(float(share[1:].sum()))
    some = atom_effects(planted(), x, layer="0", atoms=[2])
    assert some.atoms.tolist() == [2]
    torch.testing.assert_close(some.by_class[0], expected[2])


def test_a_classifier_and_classes_that_are_never_answered(rng):
    model = nn.Sequential(planted()[0], nn.AdaptiveAvgPool2d(1), nn.Flatten())
    x = F.one_hot(torch.zeros(4, 6, 6, dtype=torch.int64), 3).permute(0, 3, 1, 2).float()
    found = atom_effects(model, x + 0.1 * rng.uniform(x.shape), layer="0")
    assert found.by_class[:, 1:].isnan().all()
    assert found.by_class[:, 0].tolist() == [1, 0, 0]


def test_hooks_are_gone_and_the_layer_answers_as_before(rng):
    model = nn.Sequential(Hamburger(3, MatrixDecomposition(3, rank=2, relu=True), norm="none"), nn.Flatten())
    x = rng.uniform((2, 3, 4, 4))
    before = concept_maps(model, x)[0].maps
    atom_effects(model, x, layer="0.ham")
    assert torch.equal(before, concept_maps(model, x)[0].maps)
    assert not any(module._forward_hooks for module in model.modules())
    assert model.training


def test_what_does_not_fit_is_said(rng):
    model, x = planted(), rng.uniform((2, 3, 4, 4))
    with pytest.raises(ValueError, match="no matrix-decomposition layer 'ham'; there are 0"):
        atom_effects(model, x, layer="ham")
    with pytest.raises(ValueError, match="it holds none"):
        atom_effects(nn.Linear(2, 2), x, layer="ham")
    with pytest.raises(ValueError, match="numbers from 0 to 2"):
        atom_effects(model, x, layer="0", atoms=[3])
    with pytest.raises(DataError, match="at least one input"):
        atom_effects(model, x[:0], layer="0")

    class Forgets(nn.Module):
        def __init__(self):
            super().__init__()
            self.ham = MatrixDecomposition(3, rank=2)

        def forward(self, x):
            return x

    with pytest.raises(ModelError, match="does not call"):
        atom_effects(Forgets(), x, layer="ham")
