"""Neural collapse: exact on a simplex, invariant where it must be, the same in one pass, in two and in parts."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from pellucid.core import DataError, ModelError, Stream
from pellucid.metrics import NeuralCollapse, collapse, neural_collapse, simplex_geometry

K, D = 10, 16


def simplex(k: int = K, d: int = D) -> Tensor:
    """Corners of a simplex ETF as rows `(k, d)`, in a random pose."""
    pose, _ = torch.linalg.qr(Stream(1).normal((d, k), dtype=torch.float64))
    return math.sqrt(k / (k - 1)) * (pose @ (torch.eye(k, dtype=torch.float64) - 1 / k)).T


def cloud(rng: Stream, counts: list[int], d: int = D) -> tuple[Tensor, Tensor]:
    """Features around random class means, in another order than the classes'."""
    y = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    y = y[rng.bits((len(y),)).argsort()]
    means = rng.child("means").normal((len(counts), d), dtype=torch.float64)
    return means[y] + 0.7 * rng.child("noise").normal((len(y), d), dtype=torch.float64) + 5, y


def dense(h: Tensor, y: Tensor, k: int, weighting: str) -> float:
    """NC1 as it is written: scatter matrices of d x d and a pseudo-inverse, class by class."""
    counts = torch.bincount(y, minlength=k).double()
    share = torch.full((k,), 1 / k, dtype=torch.float64) if weighting == "class" else counts / counts.sum()
    means = torch.stack([h[y == c].mean(0) for c in range(k)])
    center = share @ means
    within = sum(share[c] * (h[y == c] - means[c]).T @ (h[y == c] - means[c]) / counts[c] for c in range(k))
    between = (means - center).T @ (share[:, None] * (means - center))
    return float(torch.trace(within @ torch.linalg.pinv(between, rtol=1e-10))) / k


def streamed(h: Tensor, y: Tensor, size: int, logits: Tensor | None = None, **settings: object) -> NeuralCollapse:
    found = NeuralCollapse(int(y.max()) + 1, h.shape[1], **settings)
    for at in range(0, len(h), size):
        found.update(h[at : at + size], y[at : at + size])
    for at in range(0, len(h), size):
        part = slice(at, at + size)
        found.second(h[part], y[part], None if logits is None else logits[part])
    return found


def assert_alike(a: dict[str, float], b: dict[str, float]) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert b[name] == pytest.approx(value, abs=1e-10, nan_ok=True), name


def test_everything_is_ideal_on_a_simplex() -> None:
    corners, y = simplex(), torch.arange(K).repeat_interleave(5)
    found = collapse(corners[y], y, weight=3 * corners, logits=corners[y] @ corners.T)
    zeros = (found.nc1, found.cdnv, found.nc3, found.nc4.value, found.means.equinorm, found.means.equiangle)
    assert_close(torch.tensor(zeros, dtype=torch.float64), torch.zeros(6, dtype=torch.float64), atol=1e-10, rtol=0)
    for geometry in (found.means, found.weights):
        assert geometry is not None
        assert geometry.max_angle == pytest.approx(0, abs=1e-10)
        assert geometry.gram == pytest.approx(0, abs=1e-10)
        off = geometry.cosines[~torch.eye(K, dtype=torch.bool)]
        assert_close(off, torch.full_like(off, -1 / (K - 1)))
    assert found.alignment == pytest.approx(1)


def test_a_classifier_that_points_away_has_the_largest_duality() -> None:
    corners, y = simplex(), torch.arange(K).repeat_interleave(2)
    found = collapse(corners[y], y, weight=-2 * corners, logits=-corners[y] @ corners.T)
    assert found.nc3 == pytest.approx(4)
    assert found.alignment == pytest.approx(-1)
    assert found.nc4.value == 1


@pytest.mark.parametrize("weighting", ["class", "sample"])
def test_two_passes_one_pass_and_the_dense_formula_agree(rng: Stream, weighting: str) -> None:
    h, y = cloud(rng, [40, 5, 17, 2, 60, 9])
    expected = dense(h, y, 6, weighting)
    two = streamed(h, y, 13, weighting=weighting)
    one = NeuralCollapse(6, D, weighting=weighting, counts=torch.bincount(y))
    for at in range(0, len(h), 10):
        one.update(h[at : at + 10], y[at : at + 10])
    assert two.compute().nc1 == pytest.approx(expected, rel=1e-10)
    assert one.compute().nc1 == pytest.approx(expected, rel=1e-10)
    assert collapse(h, y, weighting=weighting).nc1 == pytest.approx(expected, rel=1e-10)


def test_hundreds_of_classes_take_another_way_to_the_same_number(rng: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    h, y = cloud(rng, [4] * 40, d=24)
    wide, narrow = collapse(h, y).nc1, collapse(h[:, :24], y % 12).nc1
    monkeypatch.setattr("pellucid.metrics._collapse_sums._FEW", 2)
    assert collapse(h, y).nc1 == pytest.approx(wide, rel=1e-9)
    assert collapse(h[:, :24], y % 12).nc1 == pytest.approx(narrow, rel=1e-9)
    assert wide == pytest.approx(dense(h, y, 40, "class"), rel=1e-9)


def test_variability_by_pairs_is_what_the_formula_says(rng: Stream) -> None:
    h, y = cloud(rng, [8, 30, 5])
    means = torch.stack([h[y == c].mean(0) for c in range(3)])
    v = torch.stack([(h[y == c] - means[c]).square().sum(1).mean() for c in range(3)])
    pairs = [(v[i] + v[j]) / (2 * (means[i] - means[j]).square().sum()) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert collapse(h, y).cdnv == pytest.approx(float(sum(pairs)) / 3, rel=1e-10)


def test_rotation_scale_and_shift_change_nothing(rng: Stream) -> None:
    h, y = cloud(rng, [12, 9, 30, 7])
    w = rng.child("w").normal((4, D), dtype=torch.float64)
    turn, _ = torch.linalg.qr(rng.child("turn").normal((D, D), dtype=torch.float64))
    plain = collapse(h, y, weight=w, logits=h @ w.T)
    turned = collapse(h @ turn, y, weight=w @ turn, logits=h @ w.T)
    moved = collapse(1e3 * h - 7e4, y, weight=w, logits=h @ w.T)
    assert_alike(plain.numbers(), turned.numbers())
    for name, value in plain.numbers().items():
        assert moved.numbers()[name] == pytest.approx(value, rel=1e-8, nan_ok=True), name
    assert moved.nc4 == plain.nc4


def test_batches_and_parts_give_what_the_whole_gives(rng: Stream) -> None:
    h, y = cloud(rng, [20, 3, 44, 11])
    w = rng.child("w").normal((4, D), dtype=torch.float64)
    logits, counts = h @ w.T, torch.bincount(y)
    whole = streamed(h, y, len(h), logits, counts=counts)
    expected = whole.compute(w)
    a, b = (NeuralCollapse(4, D, counts=counts) for _ in range(2))
    a.update(h[:30], y[:30])
    b.update(h[30:], y[30:])
    a.merge(NeuralCollapse(4, D, counts=counts))
    a.merge(b)
    assert a.compute().nc1 == pytest.approx(expected.nc1, rel=1e-10)
    c = NeuralCollapse(4, D, counts=counts)
    c.merge(a)
    a.second(h[:50], y[:50], logits[:50])
    c.second(h[50:], y[50:], logits[50:])
    a.merge(c)
    found = a.compute(w)
    assert_alike(expected.numbers(), found.numbers())
    assert found.nc4 == expected.nc4
    assert_close(found.class_means, expected.class_means)


def test_the_nearest_mean_may_come_from_the_training_data() -> None:
    h, y = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]]), torch.tensor([0, 0, 1, 1])
    logits = torch.cat([h, -h], 1)
    assert collapse(h, y, logits=logits).nc4.value == 0
    swapped = torch.tensor([[-1.0], [1.0]])
    assert collapse(h, y, logits=logits, means=swapped).nc4.value == 1
    half = torch.tensor([[9.0], [math.nan]])  # a class without a mean is nobody's nearest
    assert collapse(h, y, logits=logits, means=half).nc4.value == 0.5


def test_the_rarest_third_shows_minority_collapse() -> None:
    corners, y = simplex(9), torch.arange(9).repeat_interleave(torch.tensor([90, 80, 70, 60, 50, 40, 2, 2, 2]))
    weight = corners.clone()
    assert collapse(corners[y], y, weight=weight).minority == pytest.approx(-1 / 8)
    weight[6:] = corners[6]
    found = collapse(corners[y], y, weight=weight)
    assert found.minority == pytest.approx(1)
    assert found.minority_means == pytest.approx(-1 / 8)
    equal = collapse(corners, torch.arange(9), weight=weight)
    assert math.isnan(equal.minority)
    assert collapse(corners, torch.arange(9), weight=weight, frequencies=found.counts).minority == pytest.approx(1)


def test_standard_errors_are_those_of_repeated_samples(rng: Stream) -> None:
    values, errors = [], []
    for k in range(40):
        h, y = cloud(rng.child(str(k)), [60, 60, 60], d=4)
        means = rng.normal((3, 4), dtype=torch.float64)
        found = collapse(h - cloud_means(rng.child(str(k)), 3, 4)[y] + means[y], y)
        values.append(found.means.equiangle)
        errors.append(found.stderr["means.equiangle"])
    spread = float(torch.tensor(values).std())
    assert 0.6 < float(torch.tensor(errors).mean()) / spread < 1.6


def cloud_means(rng: Stream, k: int, d: int) -> Tensor:
    return rng.child("means").normal((k, d), dtype=torch.float64)


def test_classes_without_samples_are_left_out_and_said(rng: Stream) -> None:
    h, y = cloud(rng, [30, 30, 30])
    w = rng.child("w").normal((3, D), dtype=torch.float64)
    places = torch.tensor([0, 2, 4])
    wide = torch.zeros(6, D, dtype=torch.float64)
    wide[places] = w
    plain, gaps = collapse(h, y, weight=w - w.mean(0)), collapse(h, places[y], weight=wide)
    for name, value in plain.numbers().items():
        assert gaps.numbers()[name] == pytest.approx(value, nan_ok=True), name
    assert bool(gaps.class_means[1].isnan().all())
    assert bool(gaps.means.norms[[1, 3, 5]].isnan().all())
    assert "3 of 6 classes have no samples and are left out." in gaps.notes


def test_few_samples_and_too_many_classes_are_said(rng: Stream) -> None:
    found = collapse(rng.normal((6, 2)), torch.tensor([0, 1, 2, 3, 4, 4]))
    assert found.stderr == {}
    assert found.notes == (
        "4 classes have one sample, which shows no scatter within them.",
        "5 classes have no simplex ETF in 2 dimensions, so NC2 cannot reach 0.",
        "There are too few samples for standard errors.",
    )


def test_one_place_for_all_classes_is_no_collapse_to_a_simplex() -> None:
    h, y = torch.ones(4, 3), torch.tensor([0, 0, 1, 1])
    found = collapse(h, y)
    assert found.nc1 == math.inf
    assert found.cdnv == math.inf


def test_float32_features_far_from_the_origin_lose_nothing(rng: Stream) -> None:
    h, y = cloud(rng, [50, 50])
    near = (h.float() - 5).float()
    far = near.double() + 1e6  # exact in float64, not in float32
    assert collapse(far, y).cdnv == pytest.approx(collapse(near, y).cdnv, rel=1e-9)


@pytest.mark.peers
def test_another_library_finds_the_same(rng: Stream) -> None:
    pytest.importorskip("einops", reason="needs the peers extra")
    peer = pytest.importorskip("kowalski.neural_collapse", reason="needs the peers extra")
    h, y = cloud(rng, [9, 30, 14, 5])
    w = rng.child("w").normal((4, D), dtype=torch.float64)
    parts = [h[y == c] for c in range(4)]
    assert collapse(h, y).cdnv == pytest.approx(float(peer.class_distance_normalized_variance(parts)), rel=1e-9)
    ideal = float(peer.classifier_etf_convergence(w))  # its simplex is in float32
    assert simplex_geometry(w).gram == pytest.approx(ideal, rel=1e-6)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act, self.answer = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.answer(self.act(self.conv(x)).mean((2, 3)))


def test_a_network_is_measured_at_its_classifier_and_at_any_layer(rng: Stream) -> None:
    model, x = Net(), rng.normal((30, 1, 6, 6))
    y = torch.arange(30) % 3
    found = neural_collapse(model, x, y, batch_size=7)
    with torch.no_grad():
        h, logits = model.act(model.conv(x)).mean((2, 3)), model(x)
    expected = collapse(h, y, weight=model.answer.weight, logits=logits)
    for name, value in expected.numbers().items():
        assert found.numbers()[name] == pytest.approx(value, rel=1e-4, nan_ok=True), name
    assert (found.layer, found.evaluations) == ("input of answer", 30)
    inner = neural_collapse(model, x, y, layer="act")
    assert inner.weights is None
    assert inner.nc1 == pytest.approx(found.nc1, rel=1e-4)


def test_bad_input_is_named(rng: Stream) -> None:
    h, y = cloud(rng, [5, 5])
    found = NeuralCollapse(2, D)
    with pytest.raises(ValueError, match="classes must be at least 2 and dim at least 1, got 1 and 16"):
        NeuralCollapse(1, D)
    with pytest.raises(DataError, match="labels must lie in 0 to 1, got -1 to 0"):
        found.update(h[:2], torch.tensor([-1, 0]))
    with pytest.raises(DataError, match=r"labels must have shape \(2,\)"):
        found.update(h[:2], y)
    with pytest.raises(DataError, match=r"features must be floating point of shape \(b, 16\)"):
        found.update(h[:, :3], y)
    with pytest.raises(DataError, match="0 of 2 have samples"):
        found.compute()
    with pytest.raises(ValueError, match="call update on all features before"):
        found.second(h, y)
    with pytest.raises(ModelError, match="the features of 2 of 10 samples hold NaN or infinity"):
        found.update(torch.where(torch.arange(10)[:, None] < 2, math.nan, h), y)
    found.update(h[y == 0], y[y == 0])
    with pytest.raises(ValueError, match="saw fewer than two classes"):
        found.second(h, y)
    with pytest.raises(DataError, match="1 of 2 have samples"):
        found.compute()
    found.update(h[y == 1], y[y == 1])
    assert "NC1 and NC4 need a second pass over the features." in found.compute().notes
    with pytest.raises(ValueError, match=r"weight must have shape \(2, 16\)"):
        found.compute(h)
    with pytest.raises(ValueError, match=r"frequencies must have shape \(2,\)"):
        found.compute(frequencies=y)
    found.second(h[:3], y[:3])
    with pytest.raises(ValueError, match="the second pass saw 3 samples and the first 10"):
        found.compute()
    with pytest.raises(ValueError, match="the second pass has begun"):
        found.update(h, y)
    with pytest.raises(DataError, match=r"logits must have shape \(10, 2\)"):
        found.second(h, y, h)
    with pytest.raises(ValueError, match="one measurement has begun"):
        found.merge(NeuralCollapse(2, D))
    with pytest.raises(ValueError, match="only measurements of the same classes"):
        found.merge(NeuralCollapse(3, D))
    other = NeuralCollapse(2, D)
    other.update(h + 1, y)
    other.second(h + 1, y)
    with pytest.raises(ValueError, match="began from different class means"):
        found.merge(other)
    wrong = NeuralCollapse(2, D, counts=torch.tensor([5, 4]))
    wrong.update(h, y)
    with pytest.raises(ValueError, match="not those that `counts` promised"):
        wrong.compute()
    with pytest.raises(ValueError, match=r"counts must have shape \(2,\)"):
        NeuralCollapse(2, D, counts=y)
    with pytest.raises(ValueError, match=r"means must have shape \(2, 16\)"):
        NeuralCollapse(2, D, means=h)
    with pytest.raises(ValueError, match="at least two vectors, got 1"):
        simplex_geometry(h[:1])
    with pytest.raises(ValueError, match=r"vectors must have shape \(K, d\)"):
        simplex_geometry(h[0])
    with pytest.raises(DataError, match=r"features and labels must be \(N, d\) and \(N,\)"):
        collapse(h, y[:3])
    with pytest.raises(DataError, match=r"labels must have shape \(4,\), one per sample"):
        neural_collapse(Net(), torch.zeros(4, 1, 6, 6), y)
