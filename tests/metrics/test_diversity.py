"""Feature diversity: exact values, the pair formula, and hooks that leave no trace (arXiv:2112.00980)."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from pellucid.core import DataError, ModelError, Stream, Subject
from pellucid.metrics import feature_diversity, initial_similarity, similarity
from pellucid.metrics._diversity import _Tally

# J applied 1 to 8 times from 0, to five digits
DEPTH = [0.31831, 0.49373, 0.60483, 0.68095, 0.73595, 0.77723, 0.80915, 0.83442]


def by_pairs(h: Tensor, keep: Tensor) -> float:
    """The O(N^2) definition: mean cosine over the ordered pairs that `keep` selects."""
    n = h / h.norm(dim=1, keepdim=True)
    return float((n @ n.T)[keep].mean())


# -- the number ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("h", "expected"),
    [
        (torch.eye(5), 0.0),
        (torch.ones(4, 3) * torch.tensor([[1.0], [2.0], [0.1], [7.0]]), 1.0),
        (torch.tensor([[1.0, -2.0], [-1.0, 2.0]]), -1.0),
        (torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), 0.471405),
    ],
)
def test_known_values(h: Tensor, expected: float) -> None:
    assert similarity(h).all == pytest.approx(expected, abs=1e-6)


@given(seed=st.integers(0, 10_000), n=st.integers(2, 12), shift=st.floats(-1, 2))
@settings(max_examples=40, deadline=None)
def test_equals_the_mean_over_pairs_and_mixes_exactly(seed: int, n: int, shift: float) -> None:
    rng = Stream(seed)
    h = rng.child("h").normal((n, 6), dtype=torch.float64) + shift
    labels = rng.child("y").integers(3, (n,))
    result = similarity(h, labels)
    other, same = ~torch.eye(n, dtype=torch.bool), labels[:, None] == labels[None, :]
    assert result.all == pytest.approx(by_pairs(h, other), abs=1e-9)
    assert -1 / (n - 1) - 1e-9 <= result.all <= 1
    within, across = int((same & other).sum()), int((~same).sum())
    assert math.isnan(result.intra) == (within == 0)
    assert math.isnan(result.inter) == (across == 0)
    if within:
        assert result.intra == pytest.approx(by_pairs(h, same & other), abs=1e-9)
    if across:
        assert result.inter == pytest.approx(by_pairs(h, ~same), abs=1e-9)
    mixed = sum(share * value for share, value in ((within, result.intra), (across, result.inter)) if share)
    assert mixed / (within + across) == pytest.approx(result.all, abs=1e-9)


def test_scaling_rotation_and_order_do_not_matter(rng: Stream) -> None:
    h, labels = rng.child("h").normal((30, 8), dtype=torch.float64) + 0.5, rng.child("y").integers(4, (30,))
    rotation, _ = torch.linalg.qr(rng.child("q").normal((8, 8), dtype=torch.float64))
    scale = rng.child("s").uniform((30, 1), low=1e-12, high=1e12, dtype=torch.float64)
    order = rng.child("o").permutations(30, 1)[0]
    expected = similarity(h, labels)
    for changed, names in ((h * scale, labels), (h @ rotation, labels), (h[order], labels[order])):
        result = similarity(changed, names)
        for field in ("all", "intra", "inter"):
            assert getattr(result, field) == pytest.approx(getattr(expected, field), abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("scale", [1e-7, 1.0, 1e4])
def test_small_features_in_low_precision_do_not_vanish(dtype: torch.dtype, scale: float, rng: Stream) -> None:
    h = (rng.normal((20, 16)).abs() * scale).to(dtype)
    assert similarity(h).all == pytest.approx(by_pairs(h.double(), ~torch.eye(20, dtype=torch.bool)), abs=1e-6)


def test_features_too_small_to_square() -> None:
    assert similarity(torch.tensor([[1e-30, 0.0], [1e-30, 1e-30]])).all == pytest.approx(0.5**0.5, abs=1e-6)


def test_dead_samples_are_left_out_and_counted() -> None:
    h = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    result = similarity(h, torch.tensor([0, 0, 0, 1]))
    assert result.all == result.intra == pytest.approx(0.5**0.5)
    assert result.dead_fraction == 0.5
    assert math.isnan(result.inter)


def test_a_dead_layer_has_no_similarity() -> None:
    result = similarity(torch.zeros(5, 3), torch.tensor([0, 0, 1, 1, 2]))
    assert result.dead_fraction == 1
    assert all(math.isnan(value) for value in (result.all, result.intra, result.inter, result.stderr))


def test_standard_error_has_the_right_size(rng: Stream) -> None:
    """Against the spread over 200 fresh samples of 100."""
    values, errors = [], []
    for trial in range(200):
        result = similarity(rng.child(trial).normal((100, 5)) + torch.tensor([1.0, 0, 0, 0, 0]))
        values.append(result.all)
        errors.append(result.stderr)
    spread = float(torch.tensor(values).std())
    assert sum(errors) / 200 == pytest.approx(spread, rel=0.2)


def test_batches_give_the_same_number(rng: Stream) -> None:
    h = rng.child("h").normal((50, 9)) + 0.3
    labels = rng.child("y").integers(4, (50,)).sort().values
    whole = similarity(h, labels)
    tally = _Tally("features")
    for rows in torch.split(torch.arange(50), 7):
        tally.add(h[rows], labels[rows], rows)
    parts = tally.result(labelled=True)
    for field in ("all", "intra", "inter", "dead_fraction", "stderr"):
        assert getattr(parts, field) == pytest.approx(getattr(whole, field), abs=1e-9)


def test_wide_features_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch, rng: Stream) -> None:
    h, labels = rng.child("h").normal((23, 40)), rng.child("y").integers(3, (23,))
    whole = similarity(h, labels)
    monkeypatch.setattr("pellucid.metrics._diversity._CHUNK", 100)
    assert similarity(h, labels).intra == pytest.approx(whole.intra, abs=1e-9)


# -- the reference ------------------------------------------------------------------------------------------------


def test_reference_curve() -> None:
    assert initial_similarity(8) == pytest.approx(DEPTH, abs=1e-5)
    assert initial_similarity(0) == ()
    assert initial_similarity(3, start=1.0) == (1.0, 1.0, 1.0)
    assert initial_similarity(1, start=-1.0) == pytest.approx((0.0,), abs=1e-12)


def random_network(widths: list[int]) -> nn.Module:
    """Fully connected ReLU layers without biases, Gaussian weights."""
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        linear = nn.Linear(a, b, bias=False)
        nn.init.normal_(linear.weight, std=b**-0.5)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers)


def test_wide_random_networks_follow_the_reference(rng: Stream) -> None:
    """One network of width 4096 scatters by 0.006 (measured) around the infinite one; the mean of six by 0.0025."""
    found = []
    for trial in range(6):
        with rng.child(trial).forked():
            model = random_network([16, 4096, 4096])
        result = feature_diversity(model, torch.eye(16))
        assert result.inputs.all == pytest.approx(0, abs=1e-12)
        assert result.reference == pytest.approx(DEPTH[:2], abs=1e-5)
        found.append([layer.all for layer in result.similarity])
    assert torch.tensor(found).mean(0).tolist() == pytest.approx(DEPTH[:2], abs=0.01)


# -- layers of a network --------------------------------------------------------------------------------------------


class Net(nn.Module):
    """An activation used twice, an in-place one, and a frozen batch normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.gelu = nn.GELU()
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.relu(self.norm(self.conv(x)))
        h = h.add_(1.0)  # overwrites what the hook saw
        h = self.gelu(h)
        h = self.relu(h - 0.5)
        return self.fc(self.drop(h).flatten(1))  # type: ignore[no-any-return]


@pytest.fixture
def net(rng: Stream) -> Net:
    with rng.child("weights").forked():
        return Net()


@pytest.fixture
def x(rng: Stream) -> Tensor:
    return rng.child("x").uniform((40, 1, 4, 4))


def test_layers_in_the_order_of_the_forward_pass(net: Net, x: Tensor, rng: Stream) -> None:
    labels = rng.child("y").integers(3, (40,))
    result = feature_diversity(net, x, labels)
    assert result.layers == ("relu", "gelu", "relu (call 2)")
    assert result.kinds == ("ReLU", "GELU", "ReLU")
    assert result.evaluations == 40
    assert result.note == ""
    assert not math.isnan(result.reference[0])
    assert all(map(math.isnan, result.reference[1:]))
    with torch.no_grad():
        net.eval()
        first = net.norm(net.conv(x)).relu()
        second = F.gelu(first + 1)
        expected = [similarity(h, labels) for h in (first, second, (second - 0.5).relu())]
    for measured, wanted in zip(result.similarity, expected, strict=True):
        for field in ("all", "intra", "inter", "dead_fraction"):
            assert getattr(measured, field) == pytest.approx(getattr(wanted, field), abs=1e-6)
    assert result.inputs.all == pytest.approx(similarity(x).all, abs=1e-9)


@pytest.mark.parametrize("size", [1, 7])
def test_batch_size_does_not_matter(net: Net, x: Tensor, size: int, rng: Stream) -> None:
    labels = rng.child("y").integers(3, (40,))
    whole, parts = feature_diversity(net, x, labels), feature_diversity(net, x, labels, batch_size=size)
    for a, b in zip(whole.similarity, parts.similarity, strict=True):
        for field in ("all", "intra", "inter", "stderr"):
            assert getattr(a, field) == pytest.approx(getattr(b, field), abs=1e-6)


def test_means_over_space(net: Net, x: Tensor) -> None:
    with torch.no_grad():
        pooled = net.eval().norm(net.conv(x)).relu().mean((2, 3))
    result = feature_diversity(net, x, layers=["relu"], reduce="gap")
    assert result.similarity[0].all == pytest.approx(similarity(pooled).all, abs=1e-6)


def test_without_labels_there_is_no_within_and_between(net: Net, x: Tensor) -> None:
    result = feature_diversity(net, x).similarity[0]
    assert math.isnan(result.intra)
    assert math.isnan(result.inter)


def test_named_layers(net: Net, x: Tensor) -> None:
    result = feature_diversity(net, x, layers=["fc", "conv"])
    assert result.layers == ("conv", "fc")
    with torch.no_grad():
        assert result.similarity[1].all == pytest.approx(similarity(net.eval()(x)).all, abs=1e-6)


def test_networks_without_activation_modules_fall_back_and_say_so(x: Tensor, rng: Stream) -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.last = nn.Linear(16, 8), nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(F.relu(self.second(F.relu(self.first(x.flatten(1))))))  # type: ignore[no-any-return]

    with rng.forked():
        model = Plain()
    result = feature_diversity(model, x)
    assert result.layers == ("first", "second")  # the last one gives the logits
    assert "no activation modules" in result.note


def test_progress_reaches_the_end(net: Net, x: Tensor) -> None:
    seen: list[tuple[int, int]] = []
    feature_diversity(net, x, batch_size=16, on_step=lambda *at: seen.append(at))
    assert seen == [(16, 40), (32, 40), (40, 40)]


# -- a borrowed model -----------------------------------------------------------------------------------------------


def hooks(model: nn.Module) -> list[int]:
    return [len(module._forward_hooks) for module in model.modules()]


def test_nothing_is_left_behind(net: Net, x: Tensor) -> None:
    net.train()
    net.gelu.eval()
    kept = net.conv.register_forward_hook(lambda *arguments: None)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    flags, numbers, state = [m.training for m in net.modules()], hooks(net), torch.get_rng_state()
    feature_diversity(net, x)
    assert [m.training for m in net.modules()] == flags
    assert hooks(net) == numbers
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    kept.remove()


def test_hooks_are_gone_after_an_error(net: Net, x: Tensor) -> None:
    numbers = hooks(net)
    with pytest.raises(RuntimeError):
        feature_diversity(net, x.repeat(1, 2, 1, 1))
    assert hooks(net) == numbers
    assert net.training


# -- bad input ------------------------------------------------------------------------------------------------------


def test_unknown_layers_name_the_nearest(net: Net, x: Tensor) -> None:
    with pytest.raises(ValueError, match="the model has no layer 'rel'; did you mean relu"):
        feature_diversity(net, x, layers=["rel"])
    with pytest.raises(ValueError, match=r"the model has no layer 'zzz'; see model.named_modules\(\)"):
        feature_diversity(net, x, layers=["zzz"])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: similarity(torch.zeros(3)), DataError, r"features must have shape \(N, \.\.\.\)"),
        (lambda: similarity(torch.zeros(0, 3)), DataError, "at least one sample"),
        (lambda: similarity(torch.ones(3, 2), torch.zeros(2)), DataError, r"labels must have shape \(3,\)"),
        (lambda: similarity(torch.tensor([[1.0], [torch.nan]])), ModelError, "features hold NaN or infinity"),
        (lambda: feature_diversity(nn.ReLU(), torch.ones(1, 2)), DataError, "at least two samples, got 1"),
        (lambda: feature_diversity(nn.Identity(), torch.ones(2, 2)), ModelError, "no activation, linear or convol"),
        (lambda: initial_similarity(-1), ValueError, "depth must be >= 0"),
        (lambda: initial_similarity(1, start=1.5), ValueError, r"start in \[-1, 1\]"),
    ],
)
def test_bad_input(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_layers_that_cannot_be_read_are_named(x: Tensor) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.idle, self.relu = nn.Tanh(), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.relu(x.flatten(1)[:3])  # type: ignore[no-any-return]

    with pytest.raises(ModelError, match="layer relu gives no tensor with one row per sample"):
        feature_diversity(Odd(), x)
    with pytest.raises(ModelError, match="the forward pass calls none of the layers idle"):
        feature_diversity(Odd(), x, layers=["idle"])
    broken = nn.Sequential(nn.Flatten(), nn.ReLU())
    with pytest.raises(ModelError, match="inputs hold NaN or infinity"):
        feature_diversity(broken, x * torch.inf)


@pytest.mark.parametrize("bias", [-5.0, 0.5])
@pytest.mark.parametrize("logits", [1, 3])
def test_a_linear_classifier_has_no_features_between(logits: int, bias: float) -> None:
    def small(*layers: nn.Linear) -> nn.Module:
        for layer in layers:
            nn.init.uniform_(layer.weight, -0.01, 0.01)
            nn.init.constant_(layer.bias, bias)
        return Subject(nn.Sequential(*layers), x, modality="tabular").model

    # One number is read as two logits, and one that is always within [0, 1] as a probability.
    x = Stream(0).uniform((6, 4))
    with Stream(0).forked(), pytest.raises(ModelError, match="no features between"):
        feature_diversity(small(nn.Linear(4, logits)), x)
    with Stream(0).forked():
        deeper = small(nn.Linear(4, 5), nn.Linear(5, logits))
    assert len(feature_diversity(deeper, x).layers) == 1
