import pytest
import torch

from pellucid.core import Stream
from pellucid.data import Augment

X = torch.rand(64, 3, 8, 6, generator=torch.Generator().manual_seed(0))
IDS = torch.arange(64) * 7


def windows(x, crop, flip):
    """All images that one image may become."""
    padded = torch.nn.functional.pad(x, [crop] * 4)
    found = [padded[:, a : a + 8, b : b + 6] for a in range(2 * crop + 1) for b in range(2 * crop + 1)]
    return torch.stack(found + ([image.flip(2) for image in found] if flip else []))


def test_shares_of_mixes_follow_the_beta_distribution_and_the_ids():
    ids, rng = torch.arange(4000), Stream(1)
    for alpha in (0.2, 1.0, 3.0):
        shares = Augment(mixup=alpha).shares(4000, rng=rng.at(ids))
        assert shares.mean().item() == pytest.approx(0.5, abs=0.02)
        assert shares.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), abs=0.01)
        assert torch.equal(Augment(mixup=alpha).shares(3, rng=rng.at(ids[5:8])), shares[5:8])


@pytest.mark.parametrize(("flip", "crop"), [(True, 0), (False, 2), (True, 2)])
def test_each_image_becomes_one_of_its_windows_and_mirrors(rng, flip, crop):
    changed = Augment(flip=flip, crop=crop)(X, rng=rng.at(IDS))
    assert changed.shape == X.shape
    for before, after in zip(X, changed, strict=True):
        assert (windows(before, crop, flip) == after).flatten(1).all(1).any()


def test_all_shifts_and_both_sides_are_equally_likely():
    x = torch.zeros(20_000, 1, 3, 3)
    x[:, :, 1, 1] = 1  # where the middle goes says which shift it was
    x[:, :, 1, 2] = 2
    changed = Augment(flip=True, crop=1)(x, rng=Stream(1).at(torch.arange(20_000)))
    place = (changed.flatten(1) == 1).nonzero()[:, 1]
    counts = place.bincount(minlength=9)
    assert (counts - 20_000 / 9).abs().max() < 4 * (20_000 / 9) ** 0.5


def test_a_sample_is_changed_alike_in_any_batch(rng):
    augment = Augment(flip=True, crop=4)
    whole = augment(X, rng=rng.at(IDS))
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    assert torch.equal(augment(X[order], rng=rng.at(IDS[order])), whole[order])
    assert torch.equal(augment(X[5:9], rng=rng.at(IDS[5:9])), whole[5:9])
    assert not torch.equal(augment(X, rng=rng.child("other").at(IDS)), whole)


def test_nothing_asked_is_nothing_changed(rng):
    assert not Augment()
    assert torch.equal(Augment()(X, rng=rng.at(IDS)), X)
