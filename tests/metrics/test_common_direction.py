import math

import pytest
import torch
from torch import nn

from pellucid.core import DataError, ModelError, Stream
from pellucid.metrics import common_direction
from pellucid.metrics._common_direction import _directions, _top, per_sample_gradients, quick_direction


@pytest.fixture
def net(rng: Stream) -> nn.Sequential:
    with rng.child("weights").forked():
        return nn.Sequential(
            nn.Linear(7, 6), nn.ReLU(inplace=True), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3)
        ).double()


@pytest.fixture
def probe(rng: Stream) -> tuple[torch.Tensor, torch.Tensor]:
    return rng.child("x").normal((30, 7), dtype=torch.float64), rng.child("y").integers(3, (30,))


def updates(net: nn.Module, probe: tuple, name: str) -> torch.Tensor:
    """Each sample's own update of a layer, formed one by one: (N, out, in)."""
    rows = []
    weight = net.get_submodule(name).weight
    for x, y in zip(*probe, strict=True):
        loss = nn.functional.cross_entropy(net(x[None]), y[None])
        rows.append(-torch.autograd.grad(loss, weight)[0])
    return torch.stack(rows)


@pytest.mark.parametrize("layer", ["0", "2", "4"])
def test_it_is_the_top_right_singular_vector_of_the_stacked_updates(net, probe, layer):
    found = common_direction(net, *probe, layer)
    formed = updates(net, probe, layer)
    singular = torch.linalg.svd(formed.flatten(0, 1))[2][:3]
    assert (found.directions * singular).sum(1).abs().tolist() == pytest.approx([1, 1, 1], abs=1e-7)
    strength = torch.linalg.vector_norm(formed @ found.directions.T, dim=1).mean(0)
    assert torch.allclose(found.strength, strength, atol=1e-9)
    assert found.dominance == pytest.approx(float(strength[0] / strength[1]), rel=1e-7)
    weight = net.get_submodule(layer).weight.detach()
    common, rest = found.split(weight)
    assert float((rest @ found.directions[0]).abs().max()) < 1e-12
    change = formed.sum(0) @ found.directions[0]
    wanted = float(torch.cosine_similarity(common, change, dim=0))
    assert found.self_enhancement == pytest.approx(wanted, abs=1e-9)
    peaks = found.directions.gather(1, found.directions.abs().argmax(1, keepdim=True))
    assert bool((peaks > 0).all())


def test_few_samples_and_wide_layers_give_the_same_by_the_other_gram_matrix(rng):
    h, g = rng.child("h").normal((8, 40), dtype=torch.float64), rng.child("g").normal((8, 5), dtype=torch.float64)
    few, strength = _directions(h, g, 3)
    rows = h * g.norm(dim=1, keepdim=True)
    wide = torch.linalg.eigh(rows.T @ rows)[1].flip(1).T[:3]
    assert (few * wide).sum(1).abs().tolist() == pytest.approx([1, 1, 1], abs=1e-9)
    assert strength.tolist() == sorted(strength.tolist(), reverse=True)


def test_large_matrices_need_no_full_decomposition(rng, monkeypatch):
    rows = rng.normal((60, 50), dtype=torch.float64) * torch.linspace(1, 3, 50, dtype=torch.float64)
    whole = _top(rows.T @ rows, 3)
    monkeypatch.setattr("pellucid.metrics._common_direction._DENSE", 10)
    assert (_top(rows.T @ rows, 3) * whole).sum(0).abs().tolist() == pytest.approx([1, 1, 1], abs=1e-5)


def test_one_shared_direction_dominates_without_end(rng):
    c = rng.child("c").normal((6,), dtype=torch.float64)
    h = rng.child("a").normal((20, 1), dtype=torch.float64) * c
    directions, strength = _directions(h, rng.child("g").normal((20, 4), dtype=torch.float64), 3)
    assert float((directions[0] @ c).abs() / c.norm()) == pytest.approx(1)
    assert strength[1:].tolist() == [0, 0]
    assert torch.allclose(directions @ directions.T, torch.eye(3, dtype=torch.float64), atol=1e-9)


def test_one_direction_makes_the_dominance_infinite(rng):
    with rng.forked():
        net = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 2))
    x = torch.outer(torch.linspace(1, 2, 12), torch.ones(5))
    assert math.isinf(common_direction(net, x, torch.arange(12) % 2, "0").dominance)


def test_no_direction_stands_out_where_inputs_have_none(rng):
    h, g = rng.child("h").normal((4000, 6)), rng.child("g").normal((4000, 3))
    _, strength = _directions(h, g, 3)
    assert float(strength[0] / strength[1]) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e15])
def test_the_quick_way_agrees_whatever_the_size(rng, scale):
    h = rng.child("h").normal((50, 12)) + 1
    g, weight = rng.child("g").normal((50, 4)) * scale, rng.child("w").normal((4, 12))
    strength, dominance, enhancement = quick_direction(weight, h, g).tolist()
    directions, exact = _directions(h, g, 2)
    assert strength == pytest.approx(float(exact[0]), rel=1e-3)
    assert dominance == pytest.approx(float(exact[0] / exact[1]), rel=0.02)
    common, change = weight @ directions[0], -(g / scale).T @ (h @ directions[0])
    assert enhancement == pytest.approx(float(torch.cosine_similarity(common, change, dim=0)), abs=1e-3)


def test_the_quick_way_passes_over_first_samples_without_gradients_and_weights_that_are_nan(rng):
    h, g, weight = rng.child("h").normal((50, 12)) + 1, rng.child("g").normal((50, 4)), rng.child("w").normal((4, 12))
    g[:10] = 0
    _, exact = _directions(h, g, 2)
    assert quick_direction(weight, h, g)[:2].tolist() == pytest.approx(
        [float(exact[0]), float(exact[0] / exact[1])], rel=0.02
    )
    assert bool(quick_direction(weight, h, g * math.nan).isnan().all())
    assert bool(quick_direction(weight, h * math.inf, g).isnan().all())


def test_gradients_of_all_samples_come_from_one_pass(net, probe):
    calls = per_sample_gradients(net, *probe, ("0", "2", "4"))
    assert [call.name for call in calls] == ["0", "2", "4"]
    for call in calls:
        formed = -updates(net, probe, call.name)
        assert torch.allclose(torch.einsum("no,nd->nod", call.gradients, call.inputs), formed, atol=1e-12)


def test_shared_layers_have_one_entry_per_call_and_nothing_is_left(rng):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x):
            return self.fc(self.fc(x).relu_())

    with rng.child("w").forked():
        net = Twice().train()
    x, y = rng.child("x").normal((6, 4)), torch.arange(6) % 4
    assert [call.name for call in per_sample_gradients(net, x, y, ("fc",))] == ["fc", "fc (call 2)"]
    assert net.training
    assert net.fc.weight.grad is None
    assert net.fc.weight.requires_grad
    assert not net.fc._forward_hooks
    with pytest.raises(ModelError, match="calls layer fc 2 times"):
        common_direction(net, x, y, "fc")


def test_bad_input(net, probe):
    x, y = probe
    with pytest.raises(ValueError, match=r"the model has no layer '9'; see core\.layers"):
        common_direction(net, x, y, "9")
    with pytest.raises(ValueError, match=r"layer 1 is a ReLU; a common direction is that of an nn\.Linear"):
        common_direction(net, x, y, "1")
    with pytest.raises(ValueError, match="k must be between 1 and the layer's 7 features, got 8"):
        common_direction(net, x, y, "0", k=8)
    with pytest.raises(DataError, match="one label per sample, got 30 samples and 3 labels"):
        common_direction(net, x, y[:3], "0")
    tokens = nn.Sequential(nn.Linear(7, 7), nn.Flatten(), nn.Linear(14, 3)).double()
    with pytest.raises(ModelError, match="called with places"):
        common_direction(tokens, x[:, None].expand(-1, 2, -1), y, "0")
