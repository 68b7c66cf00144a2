"""Maps of a matrix decomposition: read as the layer computes them, and the model left as it was."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pellucid.core import DataError, ModelError, Stream
from pellucid.explain import ConceptMaps, concept_maps, decomposition_layers
from pellucid.nn import Hamburger, LightHamHead, MatrixDecomposition


def net(rng, **changes):
    with rng.child("net").forked():
        ham = MatrixDecomposition(8, **{"rank": 3, "relu": True, **changes})
        return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), Hamburger(8, ham), nn.Flatten(), nn.Linear(8 * 48, 4))


def colors(rng, n=6, size=(8, 6), kinds=3):
    """Images whose pixels are pure red, green or blue, and which of them each pixel is."""
    masks = rng.child("masks").integers(kinds, (n, *size))
    return F.one_hot(masks, 3).permute(0, 3, 1, 2).float(), masks


def planted(**changes):
    """A layer that begins with one atom per color: there is nothing left to learn."""
    layer = MatrixDecomposition(3, rank=3, init="learned", **changes)
    with torch.no_grad():
        layer.start.copy_(torch.eye(3)[None])
    return layer


@pytest.mark.parametrize("kind", ["nmf", "vq", "cd"])
def test_atoms_that_are_colors_are_found_where_their_colors_are(rng, kind):
    x, masks = colors(rng)
    (found,) = concept_maps(nn.Sequential(planted(kind=kind)), x)
    assert found.layer == "0"
    assert found.maps.shape == (6, 3, 8, 6)
    assert torch.equal(found.maps.argmax(1), masks)
    share = torch.stack([(masks == k).flatten(1).float().mean(1) for k in range(3)], 1)
    torch.testing.assert_close(found.usage, share, atol=0.05, rtol=0)
    torch.testing.assert_close(found.directions, torch.eye(3).expand(6, 3, 3), atol=0.05, rtol=0)
    assert found.steadiness.tolist() == [1, 1, 1]
    assert not found.unused.any()
    assert found.needed.tolist() == [3] * 6
    if kind != "vq":
        assert float(found.residual[:, :, -1].max()) < 0.1


def test_an_atom_of_a_color_that_is_nowhere_is_unused(rng):
    x, _ = colors(rng, kinds=2)
    (found,) = concept_maps(nn.Sequential(planted()), x)
    assert found.unused.tolist() == [False, False, True]
    assert found.needed.tolist() == [2] * 6
    assert float(found.effective_rank.max()) < 2.1


def test_maps_are_the_codes_of_the_layer_times_the_lengths_of_its_atoms(rng):
    model, x = net(rng), rng.uniform((5, 3, 8, 6))
    (found,) = concept_maps(model, x, batch_size=2)
    features = model[1].ham
    inner = model[1].lower(model[0](x).flatten(2)).unflatten(2, (8, 6))
    factors = features.decompose(inner)
    lengths = factors.atoms.norm(dim=2)[0, 0]
    torch.testing.assert_close(found.maps[0], factors.maps[0, 0] * lengths[:, None, None])
    torch.testing.assert_close(found.residual, factors.residual)
    assert found.steps == 6
    assert found.residual.shape == (5, 1, 7)
    # The maps and the directions together are the layer's answer.
    answer = torch.einsum("nahw,nad->ndhw", found.maps, found.directions)
    torch.testing.assert_close(answer, features.eval()(inner), atol=1e-5, rtol=1e-4)


def test_heads_are_numbered_through(rng):
    (found,) = concept_maps(net(rng, heads=2, rank=2), rng.uniform((4, 3, 8, 6)))
    assert (found.heads, found.rank, found.atoms) == (2, 2, 4)
    assert found.maps.shape == (4, 4, 8, 6)
    torch.testing.assert_close(found.usage.sum(1), torch.ones(4))
    assert found.steadiness.shape == (4,)


def test_channel_mode_has_maps_too(rng):
    (found,) = concept_maps(net(rng, axis="channel"), rng.uniform((4, 3, 8, 6)))
    assert found.maps.shape == (4, 3, 8, 6)
    assert found.directions.shape == (4, 3, 8)


class Tokens(nn.Module):
    def __init__(self, extra=0):
        super().__init__()
        self.extra, self.ham = extra, MatrixDecomposition(4, rank=2, relu=True)

    def forward(self, x):
        tokens = x.flatten(2).mT if x.ndim == 4 else x
        return self.ham(torch.cat([tokens[:, : self.extra], tokens], 1))


@pytest.mark.parametrize(
    ("shape", "extra", "places"),
    [
        ((4, 8, 6), 0, (8, 6)),
        ((4, 8, 8), 1, (8, 8)),  # a class token before 64 patches
        ((4, 8, 6), 2, (1, 50)),  # no grid of the image's proportions
        ((10, 4), 0, (1, 10)),
    ],
)
def test_tokens_of_images_lie_in_a_grid(rng, shape, extra, places):
    x = rng.uniform((3, *shape))
    (found,) = concept_maps(Tokens(extra), x)
    assert found.maps.shape == (3, 2, *places)
    assert found.left_out == (extra if places[0] > 1 else 0)


def test_a_layer_called_twice_has_two_entries_and_layers_are_chosen_by_name(rng):
    shared = Hamburger(3, MatrixDecomposition(3, rank=2, relu=True))
    model = nn.Sequential(shared, nn.Sigmoid(), shared, Hamburger(3, MatrixDecomposition(3, rank=1, relu=True)))
    x = rng.uniform((2, 3, 8, 6))
    assert [part.layer for part in concept_maps(model, x)] == ["0.ham", "0.ham (call 2)", "3.ham"]
    assert [part.layer for part in concept_maps(model, x, layers="3.ham")] == ["3.ham"]
    assert list(decomposition_layers(model)) == ["0.ham", "3.ham"]
    with pytest.raises(ValueError, match=r"no matrix-decomposition layer '0\.hum'; did you mean"):
        concept_maps(model, x, layers="0.hum")


def test_random_starts_are_flagged(rng):
    x = rng.uniform((3, 3, 8, 6))
    torch.manual_seed(0)
    assert not concept_maps(net(rng, init="random"), x)[0].steady
    assert concept_maps(net(rng), x)[0].steady


def test_atoms_that_change_places_from_input_to_input_are_not_steady(rng):
    order = torch.stack([torch.randperm(8, generator=torch.Generator().manual_seed(k)) for k in range(40)])
    found = ConceptMaps(
        layer="", kind="nmf", heads=1, rank=8, steps=1, steady=True, maps=torch.rand(40, 8, 2, 2),
        directions=torch.eye(8)[order], residual=torch.rand(40, 1, 2), effective_rank=torch.ones(40, 1),
        usage=torch.full((40, 8), 1 / 8),
    )  # fmt: skip
    assert float(found.steadiness.mean()) < 0.35
    assert found.needed.tolist() == [8] * 40


def test_hooks_are_gone_also_after_an_exception(rng):
    class Breaks(nn.Module):
        def forward(self, x):
            raise RuntimeError("broken")

    model = nn.Sequential(Hamburger(3, MatrixDecomposition(3, rank=2, relu=True)), Breaks())
    model[0].ham.train(False)
    with pytest.raises(RuntimeError, match="broken"):
        concept_maps(model, rng.uniform((2, 3, 4, 4)))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert [module.training for module in model.modules()][:2] == [True, True]
    assert not model[0].ham.training


def test_the_light_decoder_is_read(rng):
    head = LightHamHead([4, 8], 32, num_classes=3)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.head = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 8, 3, 2, 1), head

        def forward(self, x):
            x = self.first(x)
            return self.head([x, self.second(x)])

    (found,) = concept_maps(Net(), rng.uniform((2, 3, 16, 24)))
    assert found.maps.shape == (2, head.context.ham.rank, 8, 12)


def test_what_cannot_be_read_is_said(rng):
    with pytest.raises(ModelError, match="holds no matrix-decomposition layer"):
        concept_maps(nn.Linear(2, 2), torch.zeros(1, 2))
    with pytest.raises(DataError, match="at least one input"):
        concept_maps(net(rng), torch.zeros(0, 3, 8, 6))

    class Forgets(nn.Module):
        def __init__(self):
            super().__init__()
            self.ham = MatrixDecomposition(3, rank=2)

        def forward(self, x):
            return x

    with pytest.raises(ModelError, match="calls none of the layers ham"):
        concept_maps(Forgets(), torch.zeros(1, 3, 4, 4))


def test_results_do_not_depend_on_the_batch(rng):
    model, x = net(rng), Stream(3).uniform((5, 3, 8, 6))
    one, all_ = concept_maps(model, x, batch_size=1)[0], concept_maps(model, x)[0]
    torch.testing.assert_close(one.maps, all_.maps, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(one.usage, all_.usage, atol=1e-5, rtol=1e-4)
