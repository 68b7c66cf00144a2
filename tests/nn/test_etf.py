import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from pellucid.core import Stream
from pellucid.nn import ETFHead, etf_head, simplex_etf, with_etf_head

SIZES = [(10, 64), (10, 10), (10, 9), (3, 2), (2, 1), (2, 5)]


@pytest.mark.parametrize(("k", "d"), SIZES)
def test_columns_are_the_corners_of_a_simplex(k, d, rng):
    m = simplex_etf(k, d, rng=rng, dtype=torch.float64)
    assert m.shape == (d, k)
    eye = torch.eye(k, dtype=torch.float64)
    assert_close(m.T @ m, (k * eye - 1) / (k - 1), atol=1e-12, rtol=0)
    assert_close(m.sum(1), torch.zeros(d, dtype=torch.float64), atol=1e-12, rtol=0)
    assert torch.linalg.matrix_rank(m) == k - 1


def test_the_pose_is_a_function_of_the_stream_and_uniform():
    assert torch.equal(simplex_etf(4, 6, rng=Stream(1)), simplex_etf(4, 6, rng=Stream(1)))
    assert not torch.equal(simplex_etf(4, 6, rng=Stream(1)), simplex_etf(4, 6, rng=Stream(2)))
    # One coordinate of a direction that is uniform in 3 dimensions is uniform in [-1, 1].
    first = torch.stack([simplex_etf(3, 3, rng=Stream(seed), dtype=torch.float64)[0, 0] for seed in range(200)])
    assert abs(first.mean()) < 0.12
    assert first.var().item() == pytest.approx(1 / 3, abs=0.08)


def test_sizes_without_a_simplex_are_refused(rng):
    with pytest.raises(ValueError, match=r"10 classes cannot be equally far apart in 8 dimensions, 9 are needed; make"):
        simplex_etf(10, 8, rng=rng)
    with pytest.raises(ValueError, match=r"or put nn.Linear\(8, 9\) before the head"):
        ETFHead(8, 10)
    with pytest.raises(ValueError, match="a simplex needs at least 2 classes, got 1"):
        simplex_etf(1, 8, rng=rng)


def test_prototypes_are_kept_and_never_trained(rng):
    head = ETFHead(6, 4, rng=rng).eval()
    x = rng.normal((5, 6))
    assert {name for name, _ in head.named_parameters()} == {"norm.weight", "norm.bias"}
    F.cross_entropy(head(x), torch.arange(5) % 4).backward()
    assert head.prototypes.grad is None
    assert head.temperature.grad is None
    other = ETFHead(6, 4, rng=Stream(99)).eval()
    assert not torch.equal(other(x), head(x))
    other.load_state_dict(head.state_dict())
    assert torch.equal(other(x), head(x))


def test_logits_are_cosines_times_the_temperature(rng):
    head = ETFHead(6, 4, feature_norm=2.0, temperature=3.0, batch_norm=False, rng=rng)
    x = rng.child("x").normal((5, 6))
    assert_close(head.features(x).norm(dim=1), torch.full((5,), 2.0))
    cosines = F.cosine_similarity(x[:, None], head.prototypes.T[None], dim=2)
    assert_close(head(x), 6 * cosines)
    with head.exposed():
        assert torch.equal(head(x), head.features(x))
    assert head(x).shape == (5, 4)


def test_at_the_prototypes_cross_entropy_has_its_known_value(rng):
    for length, value in ((1.0, 1.3769349204501935), (5.0, 0.03420167851319599)):
        head = ETFHead(16, 10, temperature=length, batch_norm=False, rng=rng).double()
        head.prototypes = simplex_etf(10, 16, rng=rng, dtype=torch.float64)
        loss = F.cross_entropy(head(head.prototypes.T), torch.arange(10))
        assert loss.item() == pytest.approx(value, abs=1e-12)


def test_lengths_and_products_stay_in_float32(rng):
    head = ETFHead(64, 10, rng=rng).eval()
    x = rng.child("x").normal((8, 64)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        logits = head(x)
    assert logits.dtype == torch.float32
    assert torch.equal(logits, head(x.float()))
    assert head.double()(x.double()).dtype == torch.float64
    half = ETFHead(64, 10, rng=rng).bfloat16().eval()
    assert_close(half(x), ETFHead(64, 10, rng=rng).eval()(x), atol=0.2, rtol=0)


def test_features_without_length_have_a_gradient(rng):
    head = ETFHead(4, 3, batch_norm=False, rng=rng)
    x = torch.zeros(2, 4)
    x[0, 0], x[1, 1] = -1e-30, 0
    x.requires_grad_()
    head(x).sum().backward()
    assert x.grad.isfinite().all()


def test_features_of_one_sign_are_warned_about_once(rng):
    head = ETFHead(4, 3, batch_norm=False, rng=rng)
    with pytest.warns(UserWarning, match="the features are all >= 0, as after a ReLU"):
        head(torch.rand(3, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        head(torch.rand(3, 4))
        ETFHead(4, 3, rng=rng)(torch.rand(3, 4))
        ETFHead(4, 3, batch_norm=False, rng=rng)(torch.rand(3, 4) - 0.5)


def test_wrong_arguments_are_named(rng):
    with pytest.raises(ValueError, match=r"the head takes features \(B, 4\), got \(2, 5\); pool or flatten them first"):
        ETFHead(4, 3)(torch.rand(2, 5))
    with pytest.raises(ValueError, match="temperature must be a positive number, got 0"):
        ETFHead(4, 3, temperature=0)
    with pytest.raises(ValueError, match="feature_norm must be a positive number, got inf"):
        ETFHead(4, 3, feature_norm=float("inf"))


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.Tanh())
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        return self.fc(self.body(x))


def test_any_network_gets_the_head_and_the_original_stays(rng):
    net = Backbone()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    changed = with_etf_head(net, rng=rng)
    assert etf_head(net) is None
    assert isinstance(net.fc, nn.Linear)
    assert etf_head(changed) is changed.fc
    assert changed(torch.rand(4, 3, 4)).shape == (4, 3)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(changed.body[1].weight, net.body[1].weight)
    assert changed.body[1].weight is not net.body[1].weight
    assert isinstance(with_etf_head(net, layer="body.1", rng=rng).body[1], ETFHead)
    assert with_etf_head(net.double(), rng=rng).fc.prototypes.dtype == torch.float64


def test_a_network_that_cannot_get_the_head_is_refused(rng):
    with pytest.raises(ValueError, match=r"the model has no nn.Linear to replace"):
        with_etf_head(nn.Conv2d(1, 1, 1), rng=rng)
    with pytest.raises(ValueError, match="the model has no linear layer 'fcc'; did you mean fc"):
        with_etf_head(Backbone(), layer="fcc", rng=rng)
