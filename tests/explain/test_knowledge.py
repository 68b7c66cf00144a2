"""Knowledge points: what must hold for any network, planted answers, and what is refused."""

from __future__ import annotations

import math

import jaxtyping
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pellucid.attacks import Linf
from pellucid.core import DataError, ModelError, Stream
from pellucid.explain import (
    KnowledgeSettings,
    RegionEmbedding,
    RegionImportance,
    SampleEmbedding,
    knowledge_apart,
    knowledge_points,
    knowledge_threshold,
    knowledge_under_attack,
    region_layers,
    vmf_kappa,
    vmf_posterior,
)
from pellucid.explain._knowledge import as_map
from pellucid.explain._knowledge_regions import log_target
from pellucid.explain._knowledge_samples import certainty, principal, soft_labels, turn_to

QUICK = KnowledgeSettings(samples=SampleEmbedding(steps=25), regions=RegionEmbedding(epochs=3))


@pytest.fixture
def clusters(rng: Stream) -> tuple[torch.Tensor, torch.Tensor]:
    """Features around four centers, and logits that are surer the nearer a sample lies to its own."""
    labels = torch.arange(120) % 4
    centers = 3 * rng.child("centers").normal((4, 10))
    features = centers[labels] * rng.child("sure").uniform((120, 1)) + 0.3 * rng.child("noise").normal((120, 10))
    return features, 0.4 * features @ centers.T


def test_samples_point_to_their_class_and_length_is_certainty(clusters, rng):
    f, z = clusters
    fitted = SampleEmbedding(steps=150).fit(f, z, rng=rng)
    p = soft_labels(z)
    assert float(fitted.losses_[-1]) < 0.3 * float(fitted.losses_[0])
    q = fitted.posterior(fitted.embedding_)
    assert float((q.argmax(1) == z.argmax(1)).float().mean()) > 0.9
    assert certainty(fitted.embedding_, p) < -0.8
    torch.testing.assert_close(fitted.transform(f), fitted.embedding_, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fitted.class_directions_.norm(dim=1), torch.ones(4))


def test_a_planted_fixed_point_is_recovered(rng):
    """Perfectly explainable data: p = q(.|g), with directions that are those of p, and f = Q g."""
    g = 2 * rng.normal((300, 3), dtype=torch.float64)
    mu = F.normalize(torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]).double(), dim=1)
    prior = torch.full((4,), 0.25, dtype=torch.float64)
    for _ in range(100):  # to a fixed point of directions and prior: a random plant is none
        p = vmf_posterior(g, mu, prior)
        pull = vmf_kappa(g.norm(dim=1)) / g.norm(dim=1)
        mu, prior = F.normalize(p.T @ (g * pull[:, None]), dim=1), p.mean(0)
    basis, _ = torch.linalg.qr(rng.child("basis").normal((10, 3), dtype=torch.float64))
    f = (g @ basis.T).float()
    fitted = SampleEmbedding(steps=700, lr=3e-3, temperature=1.0).fit(f, p.log().float(), rng=rng)
    assert float(fitted.losses_[-1]) < 1e-3


def test_adding_a_constant_to_the_logits_changes_nothing(clusters, rng):
    f, z = clusters
    a = SampleEmbedding(steps=50).fit(f, z, rng=rng)
    b = SampleEmbedding(steps=50).fit(f, z + 7, rng=rng)
    torch.testing.assert_close(a.embedding_, b.embedding_, rtol=1e-3, atol=1e-4)


def test_the_scale_of_the_features_changes_nothing(clusters, rng):
    f, z = clusters
    a, b = (SampleEmbedding(steps=50).fit(scale * f, z, rng=rng) for scale in (1, 1000))
    torch.testing.assert_close(a.embedding_, b.embedding_, rtol=1e-3, atol=1e-4)


def test_the_default_gradient_is_the_official_one(rng):
    """(k_i / l_i) sum_c (q_ic - p_ic) mu_c to g_i, where mu is held fixed."""
    g = rng.normal((8, 3), dtype=torch.float64).requires_grad_()
    p = rng.child("p").normal((8, 5), dtype=torch.float64).softmax(1)
    fitted = SampleEmbedding()
    fitted.prior_ = p.mean(0)
    length = g.detach().norm(dim=1)
    k = vmf_kappa(length)
    mu = F.normalize(p.T @ (g.detach() * (k / length)[:, None]), dim=1)
    scores = (k / length)[:, None] * (g @ mu.T) + fitted.prior_.log()
    loss = -(p * scores.log_softmax(1)).sum()
    (slope,) = torch.autograd.grad(loss, g)
    q = vmf_posterior(g.detach(), mu, fitted.prior_)
    torch.testing.assert_close(slope, (k / length)[:, None] * ((q - p) @ mu))
    # The whole loss has the same value; its gradient also runs through mu.
    torch.testing.assert_close(-(p * fitted._log_q(g, p)).sum(), loss)


def test_the_exact_gradient_is_that_of_the_loss(rng):
    p = rng.child("p").normal((6, 4), dtype=torch.float64).softmax(1)
    fitted = SampleEmbedding(exact=True)
    fitted.prior_ = p.mean(0)
    g = rng.normal((6, 3), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: -(p * fitted._log_q(x, p)).sum(), (g,))


def test_a_planted_turn_is_found_and_a_mirror_image_is_not_taken(clusters, rng):
    f, z = clusters
    old, new = (SampleEmbedding(steps=80).fit(f, z, rng=rng) for _ in range(2))
    turn, _ = torch.linalg.qr(rng.child("turn").normal((3, 3), dtype=torch.float64))
    turn = turn * torch.linalg.det(turn).sign()
    points, directions = old.embedding_.clone(), old.class_directions_.clone()
    new.projection_ = (turn @ new.projection_.double()).float()
    new.class_directions_ = (new.class_directions_.double() @ turn.T).float()
    new.embedding_ = (new.embedding_.double() @ turn.T).float()
    new.align_to(old, f)
    torch.testing.assert_close(new.transform(f), points, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(new.class_directions_, directions, atol=1e-5, rtol=1e-4)
    once = new.projection_.clone()
    torch.testing.assert_close(new.align_to(old, f).projection_, once, atol=1e-6, rtol=1e-5)

    mirror = torch.diag(torch.tensor([-1.0, 1.0, 1.0]))
    new.projection_ = mirror @ new.projection_
    turn_to(new, new.transform(f), points)
    assert float((new.transform(f) - points).abs().max()) > 0.1
    new.align_to(old, f, allow_reflection=True)
    torch.testing.assert_close(new.transform(f), points, atol=1e-5, rtol=1e-4)


def test_thresholds_are_the_same_odds():
    for classes in (2, 3, 10, 1000):
        tau = knowledge_threshold(classes)
        assert tau / (1 - tau) * (classes - 1) == pytest.approx(6)


# -- regions ------------------------------------------------------------------------------------------------------


@pytest.fixture
def planted(rng: Stream) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Maps whose upper left region alone carries the class; the others are the same everywhere or noise."""
    labels = torch.arange(40) % 4
    maps = 0.3 * rng.child("noise").uniform((40, 6, 2, 2))
    maps[:, :, 1, 1] = torch.tensor([0.0, 0, 0, 0, 1, 1])
    maps[:, :4, 0, 0] += F.one_hot(labels, 4) * 2.0
    return maps, 8.0 * F.one_hot(labels, 4), labels


def test_weights_stay_on_the_simplex_and_find_the_region_that_carries_the_class(planted, rng):
    maps, z, _ = planted
    fitted = RegionImportance(kappa_m=30.0).fit(maps, z, rng=rng)
    w, v = fitted.region_weights_, fitted.channel_weights_
    for weights in (w.flatten(1), v):
        assert bool((weights >= 0).all())
        torch.testing.assert_close(weights.sum(1), torch.ones(40))
    assert float(fitted.losses_[-1]) < 0.7 * float(fitted.losses_[0])
    assert float((w[:, 0, 0] > w[:, 1, 1]).float().mean()) > 0.9


def test_regions_that_change_places_take_their_weights_along(planted, rng):
    maps, z, _ = planted
    moved = maps.clone()
    moved[3] = maps[3].flip(1, 2)
    moved[3] = maps[3].flatten(1)[:, [2, 0, 3, 1]].reshape(6, 2, 2)
    a, b = (RegionImportance(kappa_m=30.0).fit(m, z, rng=rng).region_weights_[3].flatten() for m in (maps, moved))
    torch.testing.assert_close(b, a[[2, 0, 3, 1]], atol=1e-4, rtol=1e-3)


def test_a_sample_is_no_neighbor_of_itself(rng):
    p = rng.normal((5, 3)).softmax(1)
    log_p = log_target(p, torch.arange(5), 5.0)
    assert bool((log_p.diagonal() == -math.inf).all())
    torch.testing.assert_close(log_p.exp().sum(1), torch.ones(5))


def test_counts_at_the_ends_of_the_threshold_and_regions_without_features(planted, rng):
    maps, z, labels = planted
    maps = maps.clone()
    maps[:, :, 0, 1] = 0  # dead
    samples = SampleEmbedding(steps=200).fit(maps.mean((2, 3)), z, rng=rng)
    weights = RegionImportance(steps=5, kappa_m=30.0).fit(maps, z, rng=rng)
    regions = RegionEmbedding().fit(maps, z, samples, weights, rng=rng)
    assert regions.points(maps, labels, tau=1.0).count == 0
    none = regions.points(maps, labels, tau=0.0)
    assert none.count == 3  # all but the dead one
    assert not bool(none.mask[:, 0, 1].any())
    usual = regions.points(maps, labels, tau=0.3)
    assert bool((usual.reliable_counts <= usual.counts).all())
    assert bool((usual.counts <= 4).all())
    # Mean length one, so that thresholds mean the same at every layer.
    assert float(regions.transform(maps).norm(dim=-1).mean()) == pytest.approx(1, abs=1e-4)
    carrying, same = usual.strength[:, 0, 0].mean(), usual.strength[:, 1, 1].mean()
    assert float(carrying) > float(same)


# -- whole networks -----------------------------------------------------------------------------------------------


class Tokens(nn.Module):
    """A tiny transformer on images: a class token before 4 x 4 patches."""

    def __init__(self) -> None:
        super().__init__()
        self.cut = nn.Conv2d(1, 8, 2, stride=2)
        self.first = nn.Parameter(torch.zeros(1, 1, 8))
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.cut(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.first.expand(len(x), 1, 8), tokens], 1)
        return self.head(self.norm(self.block(tokens))[:, 0])


@pytest.fixture
def small(rng: Stream) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    with rng.child("network").forked():
        net = nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(),
            nn.Flatten(), nn.Linear(128, 3),
        )  # fmt: skip
    return net, rng.child("x").uniform((24, 1, 8, 8)), torch.arange(24) % 3


def test_one_call_looks_at_the_last_layer_of_each_size(small, rng):
    net, x, y = small
    assert region_layers(net, x) == ("1", "4")
    found = knowledge_points(net, x, y, settings=QUICK, rng=rng)
    assert [layer.grid for layer in found.layers] == [(8, 8), (4, 4)]
    assert found.samples.embedding_.shape == (24, 3)
    assert found.at("4").points.vectors.shape == (24, 4, 4, 3)
    assert "Knowledge points" in str(found)
    assert "<table" in found._repr_html_()


def test_equal_streams_give_equal_results(small, rng):
    net, x, y = small
    a, b = (knowledge_points(net, x, y, settings=QUICK, batch_size=size, rng=Stream(5)) for size in (7, 24))
    torch.testing.assert_close(a.samples.embedding_, b.samples.embedding_, rtol=1e-3, atol=1e-4)


def test_tokens_of_a_transformer_are_regions_without_the_class_token(rng):
    with rng.forked():
        net = Tokens().eval()
    x, y = rng.uniform((20, 1, 8, 8)), torch.arange(20) % 3
    found = knowledge_points(net, x, y, layers=["block"], settings=QUICK, rng=rng)
    assert found.layers[0].grid == (4, 4)
    seen = torch.arange(34.0).reshape(1, 17, 2)
    torch.testing.assert_close(as_map(seen, 8)[0, 0].flatten(), 2.0 + 2 * torch.arange(16.0))


def test_another_checkpoint_is_turned_to_look_alike(small, rng):
    net, x, y = small
    first = knowledge_points(net, x, y, settings=QUICK, rng=rng)
    second = knowledge_points(net, x, y, settings=QUICK, beside=first, rng=rng.child("other"))
    alone = knowledge_points(net, x, y, settings=QUICK, rng=rng.child("other"))
    far = [float((found.samples.embedding_ - first.samples.embedding_).norm()) for found in (second, alone)]
    assert far[0] < far[1]
    itself, other = knowledge_apart(first, first), knowledge_apart(second, first)
    assert [layer.names for layer in other] == [("1", "1"), ("4", "4")]
    for layer, same in zip(other, itself, strict=True):
        assert float(same.turned.abs().max()) < 1e-5 < float(layer.turned.abs().max())
        assert float(same.lengthened.abs().max()) == 0
        assert math.isnan(same.kept) or same.kept == 1


def test_only_networks_asked_alike_are_laid_beside_each_other(small, rng):
    net, x, y = small
    both, last = (knowledge_points(net, x, y, layers=names, settings=QUICK, rng=rng) for names in (("1", "4"), ("4",)))
    with pytest.raises(DataError, match="equal grids"):
        knowledge_apart(both, last)
    fewer = knowledge_points(net, x[:20], y[:20], layers=["4"], settings=QUICK, rng=rng)
    with pytest.raises(DataError, match="same ones"):
        knowledge_apart(fewer, last)


def test_an_attack_of_no_size_moves_nothing_and_a_real_one_does(small, rng):
    net, x, y = small
    found = knowledge_points(net, x, y, settings=QUICK, rng=rng)
    still = knowledge_under_attack(net, x, y, found, Linf(0.0), steps=2)
    assert all(layer.strength < 1e-5 for layer in still.layers)
    moved = knowledge_under_attack(net, x, y, found, Linf(0.2), steps=3)
    for calm, layer in zip(still.layers, moved.layers, strict=True):
        assert layer.strength > 1e-4
        assert layer.orientation > calm.orientation
    torch.testing.assert_close(moved.layers[0].vectors[0], found.layers[0].points.vectors, atol=1e-4, rtol=1e-3)
    assert moved.samples.shape == (4, 24, 3)
    assert moved.evaluations == 24 * 10 + 10


def test_the_principal_picture_is_that_of_a_singular_value_decomposition(rng):
    f = rng.normal((30, 6))
    seen = principal(f)
    centered = f.double() - f.double().mean(0)
    top = torch.linalg.svdvals(centered)[:3]
    torch.testing.assert_close(seen.norm(dim=0), top)


# -- bad input ----------------------------------------------------------------------------------------------------


def test_what_is_no_input_is_refused(clusters, planted, small, rng):
    f, z = clusters
    maps, y_maps, labels = planted
    quick = SampleEmbedding(steps=2)
    with pytest.raises(DataError, match="probabilities"):
        quick.fit(f, z.softmax(1), rng=rng)
    with pytest.raises(DataError, match="two classes"):
        quick.fit(f, z[:, :1], rng=rng)
    with pytest.raises((DataError, jaxtyping.TypeCheckError)):
        quick.fit(f[:5], z, rng=rng)
    with pytest.raises(ModelError, match="NaN"):
        quick.fit(f * math.nan, z, rng=rng)
    with pytest.raises(ModelError, match="all features are zero"):
        quick.fit(0 * f, z, rng=rng)
    lost = z.clone()
    lost[:, 2] = -1e9
    with pytest.raises(DataError, match="no sample has any part in class 2"):
        quick.fit(f, lost, rng=rng)
    with pytest.raises(ModelError, match="all feature maps are zero"):
        RegionImportance().fit(0 * maps, y_maps, rng=rng)
    with pytest.raises((DataError, jaxtyping.TypeCheckError)):
        RegionImportance().fit(maps[:3], y_maps, rng=rng)
    samples = quick.fit(maps.mean((2, 3)), y_maps, rng=rng)
    weights = RegionImportance(steps=1).fit(maps, y_maps, rng=rng)
    regions = RegionEmbedding(epochs=1).fit(maps, y_maps, samples, weights, rng=rng)
    with pytest.raises(DataError, match="same samples"):
        RegionEmbedding().fit(maps[..., :1], y_maps, samples, weights, rng=rng)
    with pytest.raises(ValueError, match="tau must be from 0 to 1"):
        regions.points(maps, labels, tau=1.5)
    with pytest.raises(DataError, match="labels must be from 0 to 3"):
        regions.points(maps, labels + 1)
    with pytest.raises(DataError, match="6, H, W"):
        regions.points(maps[:, :2], labels)
    net, x, y = small
    with pytest.raises(DataError, match="two samples"):
        knowledge_points(net, x[:1], y[:1], rng=rng)
    with pytest.raises(ModelError, match="no layer has feature maps"):
        region_layers(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), x)
    with pytest.raises(ValueError, match="no layer"):
        knowledge_points(net, x, y, layers=["conv9"], rng=rng)


def test_many_classes_in_three_dimensions_are_told(rng):
    z = 9 * torch.eye(25).repeat(2, 1)
    fitted = SampleEmbedding(steps=2).fit(z, z, rng=rng)
    assert "take dim = 8" in fitted.note_
    few = SampleEmbedding(steps=2).fit(z[:4], z[:4, :5], rng=rng)
    assert "fewer than two samples" in few.note_
