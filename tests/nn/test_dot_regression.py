import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from pellucid.nn import ETFHead, class_weights, dot_regression_loss, simplex_etf


@pytest.fixture
def m(rng):
    return simplex_etf(4, 6, rng=rng, dtype=torch.float64)


def test_the_loss_and_its_gradient_at_an_angle(m, rng):
    for t in (0.0, 0.3, 1.5, 3.0, torch.pi):
        angle = torch.tensor(t, dtype=torch.float64)
        side = rng.child("side").normal((6, 1), dtype=torch.float64)[:, 0]
        side = F.normalize(side - (side @ m[:, 2]) * m[:, 2], dim=0)
        h = (angle.cos() * m[:, 2] + angle.sin() * side)[None].requires_grad_()
        loss = dot_regression_loss(h, torch.tensor([2]), m)
        (grad,) = torch.autograd.grad(loss, h)
        assert_close(loss, (1 - angle.cos()) ** 2 / 2, atol=1e-12, rtol=0)
        assert_close(grad[0], -(1 - angle.cos()) * m[:, 2], atol=1e-12, rtol=0)


def test_the_gradient_is_right_for_other_lengths_and_weights(m, rng):
    h = rng.normal((5, 6), dtype=torch.float64).requires_grad_()
    y, w = torch.tensor([0, 1, 2, 3, 1]), torch.tensor([1.0, 2.0, 0.5, 3.0, 1.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda v: dot_regression_loss(v, y, m, feature_norm=2.0, weights=w), h)
    at_home = 2 * m.T[y]
    assert dot_regression_loss(at_home, y, m, feature_norm=2.0).abs() < 1e-12


def test_it_follows_from_the_logits_alone(rng):
    """Section 9 of the method: with unit features it is (z_c / tau - 1)^2 / 2."""
    head = ETFHead(6, 4, batch_norm=False, rng=rng)
    x, y = rng.child("x").normal((5, 6)), torch.tensor([0, 1, 2, 3, 1])
    z = head(x).gather(1, y[:, None])[:, 0]
    each = dot_regression_loss(head.features(x), y, head.prototypes, reduction="none")
    assert_close(each, (z / head.temperature - 1) ** 2 / 2)


def test_half_precision_is_computed_in_full(m, rng):
    h, y = F.normalize(rng.normal((5, 6)), dim=1), torch.tensor([0, 1, 2, 3, 1])
    with torch.autocast("cpu", torch.bfloat16):
        loss = dot_regression_loss(h, y, m.float())
        assert dot_regression_loss(h.bfloat16(), y, m.float()).dtype == torch.float32
    assert torch.equal(loss, dot_regression_loss(h, y, m.float()))


def test_batch_balance_is_the_mean_of_the_classes_means(m, rng):
    h, y = F.normalize(rng.normal((6, 6), dtype=torch.float64), dim=1), torch.tensor([0, 0, 0, 1, 1, 3])

    def balanced(h, y):
        weights = class_weights(y, "batch", n_classes=4)[y]
        return dot_regression_loss(h, y, m, weights=weights).float()

    each = dot_regression_loss(h, y, m, reduction="none")
    assert_close(balanced(h, y), torch.stack([each[y == k].mean() for k in (0, 1, 3)]).mean().float())
    twice = torch.tensor([0, 1, 2, 0, 1, 2, 3, 4, 5])
    assert_close(balanced(h[twice], y[twice]), balanced(h, y))  # a class that comes twice counts no more


def test_class_weights_by_global_counts():
    y = torch.tensor([0, 1, 1])
    counts = torch.tensor([90, 9, 1])
    weights = class_weights(y, "counts", n_classes=3, counts=counts)
    assert_close(weights, 100 / (3 * counts).float())
    assert (weights * counts).sum() == pytest.approx(100)
    assert class_weights(y, "counts", n_classes=3, counts=torch.tensor([4, 4, 0])).tolist() == [1, 1, 1]
    assert class_weights(y, "none", n_classes=3).tolist() == [1, 1, 1]


def test_what_does_not_fit_is_refused(m):
    h, y = torch.zeros(2, 6, dtype=torch.float64), torch.tensor([0, 4])
    with pytest.raises(ValueError, match="labels must lie in 0 to 3, got 4"):
        dot_regression_loss(h, y, m)
    with pytest.raises(ValueError, match="labels must lie in 0 to 3, got -1"):
        class_weights(y - 1, "batch", n_classes=4)
    with pytest.raises(ValueError, match="features have 5 columns but prototypes 6 rows"):
        dot_regression_loss(h[:, :5], y * 0, m)
    with pytest.raises(ValueError, match="feature_norm must be a positive number, got 0"):
        dot_regression_loss(h, y * 0, m, feature_norm=0)
    with pytest.raises(ValueError, match='"counts" needs the training samples of 4 classes, got none'):
        class_weights(y * 0, "counts", n_classes=4)


@pytest.mark.parametrize("loss", ["dot regression", "cross entropy"])
def test_free_features_end_on_fixed_prototypes_whatever_the_counts(m, rng, loss):
    y = torch.repeat_interleave(torch.arange(4), torch.tensor([40, 10, 3, 1]))
    h = F.normalize(rng.normal((len(y), 6), dtype=torch.float64), dim=1).requires_grad_()
    for _ in range(300):
        value = dot_regression_loss(h, y, m) if loss == "dot regression" else F.cross_entropy(5 * h @ m, y)
        (grad,) = torch.autograd.grad(value, h)
        with torch.no_grad():
            h.copy_(F.normalize(h - 2 * len(y) * grad, dim=1))
    assert (h * m.T[y]).sum(1).min() > 0.999


def test_learned_vectors_of_rare_classes_fall_together(rng):
    """Minority collapse: the failure that fixed prototypes cannot have."""
    y, many = torch.arange(4), torch.tensor([100.0, 100.0, 1.0, 1.0])

    def rare_cosine(counts):
        w, h = (rng.child(name).normal((4, 6)).requires_grad_() for name in ("w", "h"))
        for _ in range(300):
            loss = (counts * F.cross_entropy(h @ w.T, y, reduction="none")).sum() / counts.sum()
            for part, grad in zip((w, h), torch.autograd.grad(loss, (w, h)), strict=True):
                with torch.no_grad():
                    part.sub_(3 * grad)
                    part.div_(part.square().sum(1).mean().sqrt().clamp_min(1))
        return F.cosine_similarity(w[2], w[3], dim=0).item()

    assert rare_cosine(torch.ones(4)) == pytest.approx(-1 / 3, abs=0.05)
    assert rare_cosine(many) > 0.2
